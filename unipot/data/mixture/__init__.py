"""Which structures a step of training sees: splits, the plan, budgets, and the loaders."""

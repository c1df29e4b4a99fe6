"""What a model predicts for datasets, and how wrong it is."""

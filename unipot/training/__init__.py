"""Training: losses, metrics, optimisation, run state."""

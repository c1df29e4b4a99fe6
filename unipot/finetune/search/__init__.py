"""Search of settings on few frames: halving rounds and held-out folds."""

"""Small-data mode: what is searched, the trials, the models of the folds."""

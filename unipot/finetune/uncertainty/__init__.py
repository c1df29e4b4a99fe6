"""Error bars of a fine-tuned head: posterior, ensembles, calibration."""

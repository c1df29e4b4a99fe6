"""One run: its folder, the training loop, the export, the tables."""

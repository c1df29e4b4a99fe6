"""What a command reads: datasets, the user's frames, evaluation sets, structure files."""

"""What pretraining knew: replay of its data, and of pseudo-labels."""

"""Which head of a pretrained model is the parent, and how its copy is aligned to the user's energies."""

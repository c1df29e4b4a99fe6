"""Distillation of a cheap teacher: its labels, plain or corrected by the user's frames."""

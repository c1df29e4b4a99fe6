"""Heads of properties beside energies: their start and their intervals."""

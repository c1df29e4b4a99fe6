"""Damaging files on purpose, and what the readers of the project make of it; used by `scripts/fuzz.py`."""

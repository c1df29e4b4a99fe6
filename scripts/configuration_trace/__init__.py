"""Following one object through a package by reading its source; used by `scripts/trace_configuration.py`."""

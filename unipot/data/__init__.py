"""Data layer: readers, the LMDB store, splits, statistics, the mixture plan and the Lightning data module."""

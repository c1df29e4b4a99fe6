"""Is it good data? Measurements, census, consistency of labels, quarantine, duplicates."""

"""The backbone that ships with unipot."""

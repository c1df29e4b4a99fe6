"""Recipes of public datasets: their cards, and their raw files fetched and verified."""

"""Lessons from a cheap teacher before the user's labels, as it is or corrected by them."""

"""Workflows: each function reads like a table of contents of what its command does."""

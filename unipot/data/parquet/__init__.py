"""Stores as Hugging Face datasets: tables, files and the dataset card."""

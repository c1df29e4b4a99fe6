"""Fine-tuning: choose a parent head, align a copy of it with the user's frames, and adapt it."""

"""Parts of fine-tuning: alignment, strategies, replay, the search of settings, error bars."""

"""What stores hold, in numbers to look at: distributions, distances, coverage."""

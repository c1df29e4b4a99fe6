"""Linear regression on last-layer features: rows, sums and the evidence for them."""

"""A model and what belongs to it: references, charge states, core repulsion."""

"""circuits: how units inside a live network act on each other."""

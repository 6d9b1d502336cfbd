"""activity: how active units are, how sparse, how alike; one pass over the data."""

"""layers: one population against every layer of another, with ceilings and a picture."""

"""coupling: which units act on which, from their activity in time."""

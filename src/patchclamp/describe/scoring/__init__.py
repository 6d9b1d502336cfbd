"""Scores of descriptions on examples that did not make them."""

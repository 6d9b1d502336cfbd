"""Sparse autoencoders: one trainer, one file an architecture."""

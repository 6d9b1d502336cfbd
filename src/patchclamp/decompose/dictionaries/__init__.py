"""dictionaries: what a fitted decomposition is: encode, decode, save."""

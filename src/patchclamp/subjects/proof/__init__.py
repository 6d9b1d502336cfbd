"""proof: evidence, on the user's own model, that every address is the tensor it claims to be."""

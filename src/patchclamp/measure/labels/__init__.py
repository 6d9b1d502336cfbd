"""labels: which units are selective for a label of the samples."""

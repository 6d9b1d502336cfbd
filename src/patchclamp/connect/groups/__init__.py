"""groups: which units belong together: communities, bi-clusters, motifs in time."""

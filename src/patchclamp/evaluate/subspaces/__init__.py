"""subspaces: does a direction carry the variable, or does patching it wake a dormant path?"""

"""clamp: the instrument itself: hooks, edits, trials, matched controls, relevance rules, features as units."""

"""nouns: units, recordings, tasks, interventions, scores, dictionaries and graphs: what the verbs speak of."""

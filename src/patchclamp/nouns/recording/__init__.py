"""recording: activity, samples x units, labelled on both axes, in memory or in a store on disk."""

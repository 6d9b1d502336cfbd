"""patchclamp: record any unit of a network, say what it encodes, prove what it causes, change it."""

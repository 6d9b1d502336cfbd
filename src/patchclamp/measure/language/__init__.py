"""language: measures that need a language model's own terms: loss, attention sinks, contribution to the stream."""

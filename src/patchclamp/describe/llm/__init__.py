"""Explanations and judgements by a language model behind an endpoint."""

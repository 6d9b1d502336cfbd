"""A language model as a describer of black-box functions: it sees pairs and answers in data, never in code."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.describe.functions import Answer, Query, sentences
from patchclamp.describe.llm.client import ChatClient
from patchclamp.describe.llm.prompts import marked
from patchclamp.describe.numeric import FORMS, formula_from_json
from patchclamp.describe.predicates import PATTERNS, predicate_from_json

__all__ = ["LLMDescriber"]

_NUMERIC = """A function of one number is shown by pairs of input and output. Say what it computes. Answer with one JSON \
object and nothing else: {"form": name, "values": [numbers]}. Forms and the order of their values 0, 1, 2, ...: """
_TOKENS = """In the following texts some tokens stand between << and >>. Say by which rule they are chosen. Answer with \
one JSON object and nothing else. Rules: {"kind": "token", "tokens": [...]}, {"kind": "affix", "letters": "...", "end": \
true}, {"kind": "regex", "pattern": "..."}, {"kind": "after", "part": RULE}, {"kind": "and", "parts": [RULE, RULE]}, \
{"kind": "or", "parts": [RULE, RULE]}, {"kind": "not", "part": RULE}, {"kind": "pattern", "name": one of """


class LLMDescriber:
    """Describe a function from pairs of inputs and outputs that a language model is shown.

    The model answers in the language of `Formula` and `Predicate`, which is data: nothing that it writes is ever
    executed. An answer that cannot be read gives an `Answer` that does not run, and counts as failed.

    Parameters
    ----------
    client
        Where to ask.
    n_points, n_texts, seed
        What is shown: numbers spread evenly over -128..128; texts of the small grammar.
    """

    def __init__(self, client: ChatClient, n_points: int = 33, n_texts: int = 30, seed: int = 0) -> None:
        self.client, self.n_points, self.n_texts, self.seed = client, n_points, n_texts, seed

    def __call__(self, query: Query) -> Answer:
        """Ask the function, show the model what it said, and read its description."""
        system, user = self._numbers(query) if query.domain == "numeric" else self._tokens(query)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        text = self.client.ask(messages).text
        found = re.search(r"\{.*\}", text, re.DOTALL)
        runs: Any = None
        try:
            if found is not None:
                read = formula_from_json if query.domain == "numeric" else predicate_from_json
                runs = read(found.group())
        except PatchclampError:
            runs = None  # counted as failed by score_describer
        return Answer(text if runs is None else str(runs), runs)

    def _numbers(self, query: Query) -> tuple[str, str]:
        points = np.linspace(-128, 128, self.n_points)
        values = query.numbers(points.tolist())
        forms = "; ".join(f"{name}: {form.english}" for name, form in FORMS.items() if form.searched)
        return _NUMERIC + forms, "\n".join(f"{x:g} -> {y:.5g}" for x, y in zip(points, values, strict=True))

    def _tokens(self, query: Query) -> tuple[str, str]:
        texts = sentences(self.n_texts, seed=self.seed)
        held = query.tokens(texts)
        lines = [marked(text, marks.tolist()) for text, marks in zip(texts, held, strict=True)]
        return _TOKENS + json.dumps(list(PATTERNS)) + "}", "\n".join(lines)

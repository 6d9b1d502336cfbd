"""Explanations of units by a language model, and the same model (or another) as a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.describe.description import Description
from patchclamp.describe.llm.client import ChatClient, Cost
from patchclamp.describe.llm.prompts import (
    PROMPTS,
    detect_messages,
    explain_messages,
    fuzz_messages,
    read_explanation,
    read_list,
    simulate_messages,
)
from patchclamp.describe.windows import Examples

__all__ = ["LLMJudge", "explain"]

Array = NDArray[np.float64]
Pieces = Sequence[tuple[str, ...]]


def explain(
    client: ChatClient,
    examples: Sequence[Examples],
    *,
    contrast: int = 0,
    before: Callable[[Cost], None] | None = None,
    progress: Progress | None = None,
) -> list[Description]:
    """Ask a language model what each unit encodes.

    Parameters
    ----------
    client
        Where to ask.
    examples
        For each unit the windows that make the description (`windows_of`, the first of its two).
    contrast
        Silent windows shown as counter-examples.
    before
        Told the estimated cost before the first request; an error it raises stops all.
    progress
        Told after each unit what was spent, the units done and the units in all.

    Returns
    -------
    list of Description
        Their `facts` hold the model, the version of the prompt, and tokens in and out. A reply without an explanation
        gives the text "" and ``facts["failed"]``: it is never replaced by anything else.
    """
    if not examples:
        raise PatchclampError("explain: no examples; give those of at least one unit (windows_of)")
    requests = [explain_messages(own, contrast) for own in examples]
    if before is not None:
        before(client.estimate(requests))
    replies = client.ask_all(requests, progress=progress)
    out = []
    for own, reply in zip(examples, replies, strict=True):
        text = read_explanation(reply.text)
        facts = {
            "model": client.model,
            "prompts": PROMPTS,
            "temperature": client.temperature,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
            "failed": text is None,
        }
        shown = {w.doc for w in (own.all if contrast else own.active)}
        out.append(Description(own.unit, text or "", "explain", None, frozenset(shown), facts))
    return out


@dataclass(frozen=True)
class LLMJudge:
    """A language model that reads descriptions and judges windows by them; see `Judge`.

    Parameters
    ----------
    client
        Where to ask; its temperature should be 0.
    at_once
        Windows in one request. More than one lets the model see base rates: 1 for figures that are reported.
    """

    client: ChatClient
    at_once: int = 1

    @property
    def name(self) -> str:
        """The model, the prompts' version and windows at once."""
        return f"{self.client.model} (prompts {PROMPTS}, {self.at_once} at once)"

    def estimate(self, description: Description, windows: Pieces) -> Cost:
        """What a detection will cost at most."""
        return self.client.estimate(
            [detect_messages(description.text, part) for part in _parts(windows, self.at_once)],
            8 * self.at_once + 16,
        )

    def detect(self, description: Description, windows: Pieces) -> Array:
        """(windows,) answers, NaN for a reply that cannot be read."""
        out = [
            read_list(self._ask(detect_messages(_said(description), part), 8 * self.at_once + 16), len(part))
            for part in _parts(windows, self.at_once)
        ]
        return np.concatenate(out)

    def fuzz(self, description: Description, windows: Pieces, marks: Sequence[Sequence[bool]]) -> Array:
        """(windows,) answers, NaN for a reply that cannot be read."""
        out = []
        for first in range(0, len(windows), self.at_once):
            part = slice(first, first + self.at_once)
            messages = fuzz_messages(_said(description), windows[part], marks[part])
            out.append(read_list(self._ask(messages, 8 * self.at_once + 16), len(windows[part])))
        return np.concatenate(out)

    def simulate(self, description: Description, windows: Pieces) -> list[Array]:
        """For each window one number a token, 0 to 10; NaN in all of a window whose reply cannot be read."""
        return [
            read_list(self._ask(simulate_messages(_said(description), w), 6 * len(w) + 16), len(w), 10.0)
            for w in windows
        ]

    def _ask(self, messages: list[dict[str, str]], max_tokens: int) -> str:
        return self.client.ask(messages, max_tokens=max_tokens).text


def _said(description: Description) -> str:
    if not description.text:
        raise PatchclampError(
            f"{description.unit}: its description is empty (no explanation came back); leave it out"
        )
    return description.text


def _parts(windows: Pieces, size: int) -> list[Pieces]:
    return [windows[i : i + size] for i in range(0, len(windows), size)]

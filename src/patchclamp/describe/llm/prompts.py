"""What a language model is asked, and how its answers are read. A change here is a new `PROMPTS` version."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchclamp.describe.windows import Examples

__all__ = [
    "PROMPTS",
    "detect_messages",
    "explain_messages",
    "fuzz_messages",
    "marked",
    "read_explanation",
    "read_list",
    "simulate_messages",
]

PROMPTS = "1"
Messages = list[dict[str, str]]
LEFT, RIGHT = "<<", ">>"

_EXPLAIN = """You are told where one unit of a neural network is active in texts. Tokens on which it is active stand \
between << and >>, with the strength of the activity, 1 to 10, listed below each text. Say in one short sentence what \
these tokens, or what stands before them, have in common. Do not list the texts and do not mention the marks. The last \
line of your answer must read: Explanation: <your sentence>"""
_DETECT = """A unit of a neural network is described. For each of the numbered texts say whether the unit is active \
somewhere in it: 1 for yes, 0 for no. Answer with nothing but a list of numbers in the order of the texts, such as \
[0, 1]."""
_FUZZ = """A unit of a neural network is described. In each of the numbered texts some tokens stand between << and >>. \
For each text say whether these are tokens on which the unit is active: 1 for yes, 0 for no. Answer with nothing but a \
list of numbers in the order of the texts, such as [0, 1]."""
_SIMULATE = """A unit of a neural network is described. A text follows, one token a line. Say how active the unit is on \
each token, from 0 (not at all) to 10. Answer with nothing but a list of numbers, one a token, such as [0, 10, 3]."""


def marked(tokens: Sequence[str], marks: Sequence[bool]) -> str:
    """A text with runs of marked tokens between << and >>; such signs in the text itself are pulled apart.

    Examples
    --------
    >>> marked([" a", " b", " <<", " c"], [False, True, False, True])
    ' a<< b>> < <<< c>>'
    """
    out, open_ = [], False
    for token, mark in zip(tokens, marks, strict=True):
        if mark != open_:
            out.append(LEFT if mark else RIGHT)
            open_ = mark
        out.append(re.sub(r"<(?=<)|>(?=>)", r"\g<0> ", token))
    return "".join(out) + (RIGHT if open_ else "")


def explain_messages(examples: Examples, contrast: int = 0) -> Messages:
    """Ask for an explanation from active windows, and `contrast` silent ones as counter-examples."""
    parts = []
    for number, window in enumerate(examples.active, 1):
        marks = [value > examples.threshold for value in window.activity]
        listed = [
            f"{json.dumps(token.strip(), ensure_ascii=False)}: {math.ceil(10 * value / examples.largest)}"
            for token, value, mark in zip(window.tokens, window.activity, marks, strict=True)
            if mark
        ]
        parts.append(f"Text {number}: {marked(window.tokens, marks).strip()}\nActivity: {', '.join(listed)}")
    if contrast:
        parts.append("The unit is silent on all of the following texts.")
        parts += [
            f"Silent: {marked(w.tokens, [False] * len(w.tokens)).strip()}" for w in examples.silent[:contrast]
        ]
    return _messages(_EXPLAIN, "\n\n".join(parts))


def detect_messages(text: str, windows: Sequence[Sequence[str]]) -> Messages:
    """Ask which windows a description fits."""
    return _messages(_DETECT, _listed(text, ["".join(w).strip() for w in windows]))


def fuzz_messages(text: str, windows: Sequence[Sequence[str]], marks: Sequence[Sequence[bool]]) -> Messages:
    """Ask in which windows the marks fit a description."""
    return _messages(
        _FUZZ, _listed(text, [marked(w, m).strip() for w, m in zip(windows, marks, strict=True)])
    )


def simulate_messages(text: str, window: Sequence[str]) -> Messages:
    """Ask for the activity on each token of a window."""
    return _messages(_SIMULATE, f"Description: {text}\n\n" + "\n".join(json.dumps(t) for t in window))


def read_explanation(reply: str) -> str | None:
    """What stands behind the last "Explanation:", on that line; None where there is none."""
    found = re.findall(r"explanation\s*:\s*(.+)", reply, re.IGNORECASE)
    text = found[-1].strip().strip("*").strip() if found else ""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text.count(text[0]) == 2:
        text = text[1:-1].strip()
    return text or None


def read_list(reply: str, n: int, largest: float = 1.0) -> NDArray[np.float64]:
    """The first list of n numbers between 0 and `largest` in a reply; n times NaN where there is none.

    Examples
    --------
    >>> read_list("Here: [1, 0]", 2).tolist(), read_list("[1]", 2).tolist()
    ([1.0, 0.0], [nan, nan])
    """
    for found in re.findall(r"\[([^\[\]]*)\]", reply):
        try:
            values = np.array([float(part) for part in found.split(",")], dtype=np.float64)
        except ValueError:
            continue
        if len(values) == n and (values >= 0).all() and (values <= largest).all():
            return values
    return np.full(n, np.nan)


def _messages(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _listed(text: str, texts: Sequence[str]) -> str:
    lines = [f"Text {i}: {json.dumps(own, ensure_ascii=False)}" for i, own in enumerate(texts, 1)]
    return f"Description: {text}\n\n" + "\n".join(lines)

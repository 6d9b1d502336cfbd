"""Windows of text with one unit's activity: what explainers read and judges are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.seeds import numpy_rng
from patchclamp.describe.search.splitting import Split
from patchclamp.describe.search.targets import TokenActivity
from patchclamp.describe.tokens import Tokens
from patchclamp.draw.cards import shown

__all__ = ["Examples", "TokenWindow", "windows_of"]


@dataclass(frozen=True)
class TokenWindow:
    """A run of tokens of one document, with the activity of one unit on each.

    Parameters
    ----------
    tokens
        Pieces of text, blanks included.
    activity
        One value a token.
    doc
        Fingerprint of the document.
    group
        The unit of dependence.
    start
        Place of the first token in its document.
    """

    tokens: tuple[str, ...]
    activity: tuple[float, ...]
    doc: str
    group: str
    start: int = 0

    @property
    def peak(self) -> float:
        """The largest activity."""
        return max(self.activity)

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.tokens)


@shown
@dataclass(frozen=True)
class Examples:
    """Windows on which a unit is active, and windows on which it is not.

    `active` is ordered from the largest peak down; `largest` is the largest activity of the unit in all windows of its
    side of the split, `threshold` the activity above which a token counts.
    """

    unit: str
    active: tuple[TokenWindow, ...]
    silent: tuple[TokenWindow, ...]
    largest: float
    threshold: float = 0.0

    @property
    def all(self) -> tuple[TokenWindow, ...]:
        """Active ones, then silent ones."""
        return self.active + self.silent


def windows_of(
    activity: Any,
    tokens: Tokens,
    split: Split,
    unit: int,
    *,
    name: str | None = None,
    width: int = 32,
    threshold: float = 0.0,
    n_making: int = 40,
    n_scoring: int = 50,
    sampling: str = "quantiles",
    seed: int = 0,
) -> tuple[Examples, Examples]:
    """Cut texts into windows and draw those that make a description and those that score it.

    Documents are split first, windows are drawn afterwards, on each side from its own documents: no window, and no
    document, is on both sides. Windows never cross documents.

    Parameters
    ----------
    activity, tokens, split
        As in `search_description`.
    unit, name
        Column of the activity, and its address.
    width
        Tokens a window; the last one of a document may be shorter.
    threshold
        A window is active where one of its tokens is above it, silent where none is.
    n_making, n_scoring
        Active windows on each side, and as many silent ones; fewer where there are fewer.
    sampling
        ``"quantiles"``: evenly over ten quantiles of the peak; ``"top"``; ``"random"``.

    Returns
    -------
    making, scoring
        Two `Examples`.

    Raises
    ------
    PatchclampError
        For a side without an active or without a silent window.
    """
    check_choice("sampling", sampling, ("quantiles", "top", "random"))
    source = TokenActivity.on(activity, tokens)
    values = source.columns([unit])[:, 0]
    named = name or f"unit[{unit}]"
    rng = numpy_rng([seed, unit])
    out = []
    for side, documents, n in (
        ("making", split.made(tokens), n_making),
        ("scoring", split.held(tokens), n_scoring),
    ):
        windows = [w for d in documents for w in _cut(tokens, values, d, width)]
        active = sorted((w for w in windows if w.peak > threshold), key=lambda w: (-w.peak, w.doc, w.start))
        silent = [w for w in windows if w.peak <= threshold]
        if not active or not silent:
            raise PatchclampError(
                f"{named}: {len(active)} active and {len(silent)} silent windows on the {side} side; wanted at least "
                "one of each: give more text or another threshold"
            )
        picked = [silent[i] for i in np.sort(rng.permutation(len(silent))[:n])]
        chosen = _drawn(active, n, sampling, rng)
        out.append(Examples(named, tuple(chosen), tuple(picked), active[0].peak, threshold))
    return out[0], out[1]


def _cut(tokens: Tokens, values: NDArray[np.float32], document: int, width: int) -> list[TokenWindow]:
    start, stop = int(tokens.starts[document]), int(tokens.stops[document])
    doc, group = tokens.fingerprints[document], tokens.groups[document]
    return [
        TokenWindow(
            tuple(tokens.pieces[a : min(a + width, stop)]),
            tuple(float(v) for v in values[a : min(a + width, stop)]),
            doc,
            group,
            a - start,
        )
        for a in range(start, stop, width)
    ]


def _drawn(
    active: Sequence[TokenWindow], n: int, sampling: str, rng: np.random.Generator
) -> list[TokenWindow]:
    """Up to n of windows ordered by peak, in that order."""
    if sampling == "top" or n >= len(active):
        return list(active[:n])
    if sampling == "random":
        return [active[i] for i in np.sort(rng.permutation(len(active))[:n])]
    parts = np.array_split(np.arange(len(active)), min(10, n))
    share = [len(part) for part in np.array_split(np.arange(n), len(parts))]
    places = [rng.permutation(part)[:k] for part, k in zip(parts, share, strict=True)]
    return [active[int(i)] for i in np.sort(np.concatenate(places))]

"""Texts that begin alike: their common beginning goes through a causal model once.

Keys and values of the beginning are kept as transformers' own cache and handed to the model with the rest of each
text. The result is that of the whole texts up to the rounding of floating point, not to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects.language import LanguageModel

LEAST = 16
AGREEMENT = 1e-3


def shared_groups(tokens: dict[int, list[int]], least: int) -> list[tuple[int, list[int]]]:
    """Group texts by their beginnings.

    Parameters
    ----------
    tokens
        Token ids of each text.
    least
        Shortest beginning worth sharing.

    Returns
    -------
    list of (length, texts)
        Texts, shortest first, and how many tokens all of them begin with (at least `least`, and less than the
        shortest text); length 0 for the texts that share nothing, which are one group.

    Examples
    --------
    >>> shared_groups({0: [1, 2, 3, 4], 1: [9, 9], 2: [1, 2, 3, 5, 6]}, 2)
    [(0, [1]), (3, [0, 2])]
    """
    order = sorted(tokens, key=lambda piece: (tokens[piece], piece))
    runs: list[tuple[list[int], list[int]]] = []
    for piece in order:
        if runs:
            begin = list(commonprefix([runs[-1][0], tokens[piece][:-1]]))
            # A long beginning is not given up for one more text that shares little of it.
            if len(begin) >= least and 2 * len(begin) >= len(runs[-1][0]):
                runs[-1] = (begin, [*runs[-1][1], piece])
                continue
        runs.append((tokens[piece][:-1], [piece]))
    alone = [run[0] for _, run in runs if len(run) == 1]
    groups = [(len(begin), run) for begin, run in runs if len(run) > 1]
    groups = [(0, alone), *groups] if alone else groups
    return [(length, sorted(run, key=lambda p: (len(tokens[p]), p))) for length, run in groups]


@dataclass(frozen=True)
class Beginning:
    """A beginning that went through the model: its tokens, its activity (1, pos, ...), its keys and values."""

    tokens: list[int]
    activity: dict[Site, Tensor]
    cache: Any

    @classmethod
    def run(cls, subject: LanguageModel, tokens: list[int], sites: Sequence[Site]) -> Beginning:
        """Run a beginning and keep what later texts need of it."""
        from transformers import DynamicCache

        cache = DynamicCache()
        with _handing(subject.model, cache, 0):
            activity = subject.run(subject.batch([tokens]), read=sites).activity
        return cls(tokens, activity, cache)

    def spread(self, rows: int) -> Any:
        """A cache for `rows` texts; the one kept is not changed by what is added to it."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            if layer.keys is not None:
                keys, values = (part.expand(rows, *part.shape[1:]) for part in (layer.keys, layer.values))
                cache.update(keys, values, number)
        return cache

    def run_rest(self, subject: LanguageModel, rests: list[list[int]], read: dict[Site, Any]) -> None:
        """Run the rest of texts that begin so; each read function sees the activity of the whole texts."""

        def whole(site: Site) -> Any:
            begin = self.activity[site]
            return lambda rest: read[site](
                torch.cat([begin.expand(len(rest), *begin.shape[1:]), rest.detach()], 1)
            )

        with _handing(subject.model, self.spread(len(rests)), len(self.tokens)):
            subject.run(subject.batch(rests), read={site: whole(site) for site in read})


@contextmanager
def _handing(model: torch.nn.Module, cache: Any, past: int) -> Iterator[None]:
    """Hand a cache to the model, and positions that go on after the beginning."""

    def hook(module: torch.nn.Module, args: Any, inputs: dict[str, Any]) -> Any:
        inputs = {**inputs, "past_key_values": cache, "use_cache": True}
        if "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"] + past
        return args, inputs

    with model.register_forward_pre_hook(hook, with_kwargs=True):
        yield


def check_sharing(subject: LanguageModel, tokens: list[int], length: int, sites: Sequence[Site]) -> None:
    """Compare one text with a shared beginning to the same text run whole.

    Raises
    ------
    PatchclampError
        When the model is not causal, or the two differ by more than rounding (1e-3 of the largest value; 5e-2 in
        half precision), as where a family's cache works differently.
    """
    if not getattr(subject, "causal", False):
        raise PatchclampError(
            f"{subject.name}: each position sees those after it, so beginnings cannot be shared; "
            "pass share_prefixes=False"
        )
    plain = subject.run(subject.batch([tokens]), read=sites).activity
    seen: dict[Site, Tensor] = {}
    beginning = Beginning.run(subject, tokens[:length], sites)
    beginning.run_rest(subject, [tokens[length:]], {site: _keeper(seen, site) for site in sites})
    bound = AGREEMENT if subject.dtype in (torch.float32, torch.float64) else 5e-2
    for site in sites:
        error = float((plain[site] - seen[site]).abs().max() / plain[site].abs().max().clamp(min=1e-30))
        if not error <= bound:
            raise PatchclampError(
                f"{site}: a shared beginning changes the activity of {subject.name} by {error:.1e} of its largest "
                f"value, more than rounding ({bound:.0e}); pass share_prefixes=False"
            )


def _keeper(seen: dict[Site, Tensor], site: Site) -> Any:
    def keep(activity: Tensor) -> None:
        seen[site] = activity.clone()

    return keep

"""Do scores depend on what the model has learnt? The same scores after its weights are randomised, module by module.

The model is the user's own, so it is put back bit by bit afterwards, also after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.base.statistics import draws_interval, n_groups, pearson, resamples, spearman, weighted_means
from patchclamp.draw.cards import shown
from patchclamp.evaluate.scores.masked import flat_scores
from patchclamp.nouns.scores import Scores
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.weights import random_like, restored

Array = NDArray[np.float64]
WAYS = ("gaussian", "shuffle", "reset")
ORDERS = ("top_down", "bottom_up", "single")
SENSITIVE = 0.5


@shown
@dataclass(frozen=True)
class Randomisation:
    """How alike scores are before and after weights are randomised.

    Attributes
    ----------
    table : DataFrame
        One row a stage: stage, module (the last one randomised), parameters (share of all that are random), spearman
        (signed scores), spearman_low, spearman_high, spearman_abs (sizes), its low and high, pearson, scale = sum |after| /
        sum |before|. Over means of items; intervals resample items. Stage 0 is the model as it is, scored again: anything
        short of 1 there is the noise of the method itself.
    insensitive : bool
        Whether with everything random the sizes still correlate by more than 0.5 (lower end of the interval).
        Always False for ``"single"``, where everything is never random.
    noise : float
        Half width in which 95 % of correlations of unrelated scores lie, 1.96 / sqrt(n - 1) for n units.
    order, how : str
    units : int
    """

    table: pd.DataFrame
    insensitive: bool
    noise: float
    order: str
    how: str
    units: int


def randomisation(
    subject: Subject,
    score: Callable[[Subject], Scores],
    *,
    order: Literal["top_down", "bottom_up", "single"] = "top_down",
    how: Literal["gaussian", "shuffle", "reset"] = "gaussian",
    modules: Sequence[str] | None = None,
    max_stages: int = 10,
    n_boot: int = 200,
    seed: int = 0,
) -> Randomisation:
    """Randomise weights in a cascade and correlate scores with those of the trained model (MPRT).

    Scores that explain the model must change; scores that do not look at what was learnt (edges of an image, size of the
    input) stay as they are. That they change is no proof of being right.

    Parameters
    ----------
    subject
        A live model; its weights are changed in place and restored bit by bit, also after an exception.
    score
        Subject -> `Scores`; called once a stage, with the same sites and items each time.
    order
        ``"top_down"`` randomises from the output on and leaves random what is so already, ``"bottom_up"`` from the
        input; ``"single"`` one stage at a time, all others as trained.
    how
        ``"gaussian"``: normal with each tensor's own mean and deviation, so that sizes stay; ``"shuffle"``: its entries
        permuted; ``"reset"``: the module's `reset_parameters`, where it has one, else gaussian. Constant tensors, such as
        the gains of an untrained norm, stay.
    modules
        Dotted paths in order of the pass, each with all that is in it; by default all modules that hold weights of
        their own, in the order in which they are registered.
    max_stages
        Modules are joined into at most so many stages.
    n_boot, seed
        Of the intervals, and of the weights.

    Raises
    ------
    PatchclampError
        For modules that do not exist, or scores whose sites change between calls.

    Notes
    -----
    Adebayo et al. 2018. Signed and absolute scores can answer differently (Binder et al. 2023), so both are given;
    rank correlation over means of items. Weights held outside memory cannot be randomised.
    """
    for what, value, options in (("order", order, ORDERS), ("how", how, WAYS)):
        check_choice(what, value, options)
    stages = _stages(subject.model, modules, max_stages)
    before = score(subject).summed()
    parts = [("", 0.0, score(subject))]
    total = sum(p.numel() for p in subject.model.parameters())
    line = stages if order != "top_down" else stages[::-1]
    with restored(subject):
        done: set[int] = set()
        for number, names in enumerate(line):
            if order == "single":
                with restored(subject):
                    share = _randomise(subject.model, names, how, seed + number, set())
                    parts.append((names[0], share / total, score(subject)))
            else:
                _randomise(subject.model, names, how, seed + number, done)
                subject._fingerprint = ""  # each stage is another model
                share = sum(p.numel() for p in subject.model.parameters() if id(p) in done)
                parts.append((names[0] if order == "top_down" else names[-1], share / total, score(subject)))
    return _result(before, parts, order, how, n_boot, seed)


def _stages(model: nn.Module, modules: Sequence[str] | None, max_stages: int) -> list[list[str]]:
    """Names of modules in order of the pass, joined into stages."""
    known = dict(model.named_modules())
    if modules is None:
        names = [n for n, m in known.items() if any(True for _ in m.parameters(recurse=False))]
    else:
        names = list(modules)
        for name in names:
            if name not in known:
                raise PatchclampError(f"{name}: this model has no such module")
            if not any(True for _ in known[name].parameters()):
                raise PatchclampError(f"{name}: has no weights to randomise")
    if not names:
        raise PatchclampError("the model has no weights to randomise")
    if max_stages < 1:
        raise PatchclampError(f"max_stages={max_stages}: at least one stage is needed")
    cuts = np.array_split(np.arange(len(names)), min(max_stages, len(names)))
    return [[names[i] for i in part] for part in cuts]


def _randomise(model: nn.Module, names: Sequence[str], how: str, seed: int, done: set[int]) -> int:
    """Randomise the weights of some modules; returns their number. A weight that is shared is done once."""
    known = dict(model.named_modules())
    count = 0
    for name in names:
        inner = list(known[name].modules())
        for module in inner:
            own = [p for p in module.parameters(recurse=False) if id(p) not in done]
            if not own:
                continue
            done.update(map(id, own))
            count += sum(p.numel() for p in own)
            reset: Any = getattr(module, "reset_parameters", None)
            whole = len(own) == len(list(module.parameters(recurse=False)))
            if how == "reset" and callable(reset) and whole:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(check_seed(seed) * 1009 + len(done))
                    reset()
                continue
            generator = torch_rng(check_seed(seed) * 1009 + len(done))
            with torch.no_grad():
                for parameter in own:
                    parameter.copy_(random_like(parameter, how, generator))
    return count


def _result(
    before: Scores, parts: Sequence[tuple[str, float, Scores]], order: str, how: str, n_boot: int, seed: int
) -> Randomisation:
    first = flat_scores(before)
    weights = np.concatenate(
        [np.ones((1, before.n)), resamples(before.n, before.groups or None, max(1, n_boot), seed)]
    )
    means, count = weighted_means(weights, first), n_groups(before.groups or None, before.n)
    rows = []
    for stage, (module, share, after) in enumerate(parts):
        if after.sites != before.sites or after.n != before.n:
            raise PatchclampError(
                f"{after.method}: scored other sites or items than at first; score the same at each stage"
            )
        now = weighted_means(weights, flat_scores(after.summed()))
        signed = np.array([_spearman(a, b) for a, b in zip(means, now, strict=True)])
        sizes = np.array([_spearman(np.abs(a), np.abs(b)) for a, b in zip(means, now, strict=True)])
        ends = [draws_interval(values[1:], count, values[0]) for values in (signed, sizes)]
        size = float(np.nansum(np.abs(means[0])))
        rows.append(
            (stage, module, share, signed[0], *ends[0], sizes[0], *ends[1], float(pearson(means[0], now[0])),
             float(np.nansum(np.abs(now[0]))) / size if size else np.nan)
        )  # fmt: skip
    columns = [
        "stage", "module", "parameters", "spearman", "spearman_low", "spearman_high", "spearman_abs",
        "spearman_abs_low", "spearman_abs_high", "pearson", "scale",
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    units = means.shape[1]
    last = table.iloc[-1]
    insensitive = order != "single" and bool(last["spearman_abs_low"] > SENSITIVE)
    return Randomisation(table, insensitive, 1.96 / np.sqrt(max(units - 1, 1)), order, how, units)


def _spearman(a: Array, b: Array) -> float:
    there = np.isfinite(a) & np.isfinite(b)
    return spearman(a[there], b[there])

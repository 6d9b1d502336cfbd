"""Checks and defaults for recordings made from arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp._samples import Samples
from patchclamp.errors import PatchclampError
from patchclamp.units import Site, parse_site


def named(site: Site | str) -> Site:
    """A site by its address, or any name as a site of its own."""
    return site if isinstance(site, Site) else (parsed(site) or Site(site))


def parsed(text: str) -> Site | None:
    try:
        return parse_site(text)
    except PatchclampError:
        return None


def default_samples(values: Tensor) -> Samples:
    if values.ndim == 3:
        trials, time = values.shape[:2]
        return Samples.of(torch.arange(trials).repeat_interleave(time), torch.arange(time).repeat(trials))
    return Samples.of(torch.arange(len(values)), torch.zeros(len(values), dtype=torch.int64))


def check_trials(arrays: Mapping[Site, Tensor]) -> None:
    """Refuse (2, 3, units) beside (3, 2, units), whose samples would be paired one by one."""
    shapes = {site: tuple(values.shape[:2]) for site, values in arrays.items() if values.ndim == 3}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{site} has {trials} x {time}" for site, (trials, time) in shapes.items())
        raise PatchclampError(f"trials x time differ: {found}; sites of one recording share their samples")


def unit_columns(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: np.asarray(column).tolist() for name, column in columns.items()}


def check_array(site: Site, values: Tensor, n_samples: int, marks: Mapping[str, Sequence[Any]]) -> None:
    if values.ndim != 2 or not values.is_floating_point():
        raise PatchclampError(
            f"{site}: activity is {tuple(values.shape)} of {values.dtype}; "
            "wanted floating samples x units or trials x time x units"
        )
    if len(values) != n_samples:
        raise PatchclampError(f"{site}: {len(values)} samples, but there are labels for {n_samples}")
    for name, column in marks.items():
        if len(column) != values.shape[1]:
            raise PatchclampError(f"{site}: {len(column)} entries of {name} for {values.shape[1]} units")
    present = torch.tensor(marks.get("present", [True] * values.shape[1]), dtype=torch.bool)
    bad = (~torch.isfinite(values) & present).nonzero()
    if len(bad):
        row, unit = (int(i) for i in bad[0])
        raise PatchclampError(
            f"{site}[{unit}]: {float(values[row, unit])} at sample {row}; mark missing units with the label "
            "`present`, and fix or leave out the sample otherwise"
        )

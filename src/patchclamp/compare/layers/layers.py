"""Which layer of this network predicts which region?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import draws_interval
from patchclamp.compare.inputs import READING, Matrix, matrix, read
from patchclamp.compare.layers.activity import Pool, activities, default_sites, in_order, untrained_twin
from patchclamp.compare.layers.profile import LayerProfile
from patchclamp.compare.layers.regions import Region, RegionsLike, regions_of
from patchclamp.compare.layers.scores import CKAScorer, Draws, EncodingScorer, RSAScorer, Scorer
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.units import Site, SitesLike
from patchclamp.subjects.base import Subject

Method = Literal["rsa", "encoding", "cka"]
_METHODS = ("rsa", "encoding", "cka")
_SKETCH = 4096


def layers(
    subject: Subject | Recording,
    recording: RegionsLike,
    stimuli: Any = None,
    *,
    sites: SitesLike | None = None,
    method: Method | None = None,
    controls: Sequence[str] | None = None,
    untrained: Subject | Recording | None = None,
    stimulus: Any = None,
    pool: Pool | None = None,
    project: int | None = None,
    kind: str = "correlation",
    comparator: str = "spearman",
    cv: Any = 5,
    groups: Any = None,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int = 16,
    memory: float = 1e9,
    **reading: Unpack[Reading],
) -> LayerProfile:
    """Score every layer of a network on every region of a recording, with ceilings, intervals and controls.

    * ``"rsa"``: `comparator` of the dissimilarities (`kind`) of layer and region; mean over subjects. Interval:
      bootstrap over stimuli and, where there are several, subjects; pairs of a stimulus with itself are left
      out.
    * ``"encoding"``: ridge from the layer's features to each unit of the region, penalty by inner folds;
      correlation over stimuli of held-out predictions, mean over units. Interval: bootstrap over stimuli of the
      held-out predictions. Where there is nothing to predict it lies a little below 0 (-.1 at 60 stimuli), as
      every cross-validated correlation does.
    * ``"cka"``: debiased alignment. Interval: linearised bootstrap over stimuli.

    Parameters
    ----------
    subject
        A live network, which is run on the stimuli (one pass a `memory` bytes of activity, nothing else is
        kept), or a recording of one on the same stimuli, one sample each.
    recording
        A `Recording`: its sites, or the values of the unit column ``region``, are the regions; or a mapping
        from region to activity (stimulus, unit) or (stimulus, repeat, unit), or to dissimilarities (pair,),
        (subject, pair) or (stimulus, stimulus).
    stimuli
        Tensor (stimulus, ...) as the subject takes it, or texts. May be left out where `subject` is a
        recording.
    sites
        Addresses; by default the stream after each block, or the outermost numbered modules.
    method
        Default: ``"rsa"`` if a region comes as dissimilarities, else ``"encoding"``.
    controls
        ``"pixels"``: the stimuli themselves, flattened, as if they were a layer. ``"untrained"``: the same
        sites of a copy whose parameters are drawn anew. Default: both where they can be had; texts have no
        pixels.
    untrained
        The untrained network, or a recording of it, in place of the copy.
    stimulus
        Column of the samples or array (sample,) that says which stimulus a sample shows; default: samples in
        the order of the stimuli, or, if their number differs, the column ``doc``. Repeats are averaged and give
        the ceiling.
    pool
        How positions become features: ``"flatten"`` (default for tensors), ``"mean"`` over content positions
        (default for texts), ``"last"``.
    project
        Features kept by random projection. Default: all; 4096 for encoding.
    kind, comparator
        As in `dissimilarities` and `rsa`.
    cv, groups
        Folds for encoding. A number: stimuli in random order, or whole `groups`. For a time series pass
        `encoding.Blocked(5, gap=...)`: random folds there measure the autocorrelation.
    n_boot, level, seed
        Draws of stimuli, shared by all layers, regions and controls, so that `contrast` is paired.
    batch_size, memory
        Stimuli a pass; bytes of activity held at once.
    reading
        How recordings are read, of the brain and of the network, as in `cka`.

    Returns
    -------
    LayerProfile
        `table`, `ceilings`, `best()`, `contrast(a, b)`, `figure()`.

    Raises
    ------
    PatchclampError
        For stimuli and samples that do not fit, sites that do not exist, a region without activity for a method
        that needs it, or a network that cannot be drawn anew.

    Notes
    -----
    A layer that predicts a region says that the region's (linear) geometry can be read from it, not that the
    two compute the same thing: compare with the pixels and the untrained network, and the best layer with its
    ties. Ceilings: of several subjects as in `rsa`; of repeats the split-half correlation and the root of the
    corrected one. Where the lower ceiling's interval over stimuli (`floors`) includes 0 the region does not agree with itself,
    and the profile says that nothing can be concluded.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from patchclamp.subjects import TorchModule
    >>> _ = torch.manual_seed(0)
    >>> net, images = nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 12)), torch.randn(30, 9)
    >>> brain = {"area": net[:2](images).detach().numpy()}
    >>> found = layers(TorchModule(net, images[:1]), brain, images, method="rsa", n_boot=50)
    >>> found.best().loc["area", "layer"]
    '1.out'
    """
    n = _count(subject, stimuli, reading)
    regions = regions_of(recording, n, stimulus, **reading)
    chosen = method or ("rsa" if any(region.activity is None for region in regions) else "encoding")
    scorer = _scorer(chosen, regions, Draws(n, n_boot, seed), kind, comparator, cv, groups)
    project = project or (_SKETCH if chosen == "encoding" else None)
    how = {"project": project, "batch_size": batch_size, "memory": memory, "seed": seed}
    rows: list[dict[str, Any]] = []
    for name, control, features in _all(subject, stimuli, sites, controls, untrained, pool, how, reading):
        scorer.add(features)
        rows.append({"layer": name, "control": control, "features": features.shape[1]})
    values, draws = scorer.finish()
    table, flat = _table(rows, regions, values, draws, level, n)
    meta: dict[str, Any] = {"pool": pool, "kind": kind, "comparator": comparator, "n_boot": n_boot, **how}
    meta["reading"] = {**READING, **reading}
    ceilings = {region.name: scorer.ceiling(region) for region in regions}
    floors = {region.name: _band(scorer.floor(region), level) for region in regions}
    return LayerProfile(table, ceilings, chosen, scorer.scale, n, flat, level, meta, floors)


def _band(draws: Matrix, level: float) -> tuple[float, float] | None:
    if not np.isfinite(draws).any():
        return None
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _count(subject: Subject | Recording, stimuli: Any, reading: Reading) -> int:
    if not isinstance(subject, Recording):
        if stimuli is None:
            raise PatchclampError("stimuli: a live network needs the stimuli to run on")
        return len(stimuli)
    samples = read(subject.select({subject.sites[0]: None}), **reading).n
    if stimuli is not None and samples != len(stimuli):
        raise PatchclampError(
            f"the network's recording has {samples} samples and there are {len(stimuli)} stimuli; record one "
            "sample a stimulus"
        )
    return samples


def _scorer(
    method: str, regions: Sequence[Region], draws: Draws, kind: str, comparator: str, cv: Any, groups: Any
) -> Scorer:
    if method == "rsa":
        return RSAScorer(regions, draws, kind, comparator)
    if method == "encoding":
        return EncodingScorer(regions, draws, cv, groups)
    if method == "cka":
        return CKAScorer(regions, draws)
    raise PatchclampError(f"method={method!r}: give one of {', '.join(_METHODS)}")


def _all(
    subject: Subject | Recording,
    stimuli: Any,
    sites: SitesLike | None,
    controls: Any,
    untrained: Any,
    pool: Pool | None,
    how: dict[str, Any],
    reading: Reading,
) -> Iterator[tuple[str, str, Any]]:
    """(name, control, features) of all layers, then of the controls."""
    known = _controls(subject, stimuli, controls, untrained)
    for name, features in _features(subject, stimuli, sites, pool, how, reading):
        yield name, "", features
    if "pixels" in known:
        yield "pixels", "pixels", matrix(stimuli.flatten(1), "stimuli")
    if "untrained" in known:
        twin = untrained
        if twin is None and isinstance(subject, Subject):
            twin = untrained_twin(subject, how["seed"])
        for name, features in _features(twin, stimuli, sites, pool, how, reading):
            yield f"untrained {name}", "untrained", features


def _controls(subject: Subject | Recording, stimuli: Any, controls: Any, untrained: Any) -> set[str]:
    if controls is None:
        found = {"pixels"} if isinstance(stimuli, Tensor) else set()
        return found | ({"untrained"} if isinstance(subject, Subject) or untrained is not None else set())
    unknown = set(controls) - {"pixels", "untrained"}
    if unknown:
        raise PatchclampError(f"controls: {min(unknown)!r}; give 'pixels', 'untrained' or ()")
    if "pixels" in controls and not isinstance(stimuli, Tensor):
        raise PatchclampError("controls='pixels': needs stimuli that are a tensor; leave it out for texts")
    if "untrained" in controls and untrained is None and not isinstance(subject, Subject):
        raise PatchclampError("controls='untrained': a recording has no untrained twin; pass untrained=")
    return set(controls)


def _features(
    subject: Subject | Recording,
    stimuli: Any,
    sites: SitesLike | None,
    pool: Pool | None,
    how: dict[str, Any],
    reading: Reading,
) -> Iterator[tuple[str, Any]]:
    if isinstance(subject, Recording):
        chosen = [subject.site(site) for site in (_listed(sites) or subject.sites)]
        for site in chosen:
            yield str(site), matrix(subject.select({site: None}), str(site), **reading)
        return
    wanted = default_sites(subject) if sites is None else in_order(subject, subject.resolve(sites))
    pooled = pool or ("flatten" if isinstance(stimuli, Tensor) else "mean")
    for site, features in activities(subject, stimuli, wanted, pool=pooled, **how):
        yield str(site), features


def _listed(sites: SitesLike | None) -> list[Site | str]:
    return [] if sites is None else [sites] if isinstance(sites, (str, Site)) else list(sites)


def _table(
    rows: list[dict[str, Any]], regions: Sequence[Region], values: Matrix, draws: Matrix, level: float, n: int
) -> tuple[pd.DataFrame, Matrix]:
    """Rows of (region, layer), and the draws in the same order."""
    parts, flat = [], []
    for r, region in enumerate(regions):
        part = pd.DataFrame(rows)
        part.insert(1, "region", region.name)
        part["value"] = values[:, r]
        if len(draws):
            part["low"], part["high"] = draws_interval(draws[:, :, r], n, values[:, r], level=level)
        else:
            part["low"] = part["high"] = np.nan
        parts.append(part)
        flat.append(draws[:, :, r])
    columns = ["layer", "region", "value", "low", "high", "control", "features"]
    return pd.concat(parts, ignore_index=True)[columns], np.concatenate(flat, axis=1)

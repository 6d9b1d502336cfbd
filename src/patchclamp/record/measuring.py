"""Measures inside the pass: one set a site, updated in the hook, saved and restored exactly."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.recording.store import write_atomically
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject


class Measure(Protocol):
    """What `record` asks of a measure."""

    def update(self, activity: Tensor, samples: Samples) -> None:
        """Take in (samples, units) of activity."""

    def state(self) -> dict[str, Any]:
        """Everything seen so far, as tensors and plain data."""

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Undo `state`."""

    def result(self) -> Any:
        """The measure as an `xarray.Dataset` over units."""


Spec = Measure | type[Measure] | Callable[[], Measure] | tuple[type[Measure], Mapping[str, Any]]
Measures = Mapping[str, Spec] | Sequence[Spec]


def fresh_measures(
    measures: Measures, sites: Sequence[Site], subject: Subject | None = None
) -> dict[Site, dict[str, Measure]]:
    """A set of new measures for each site.

    Parameters
    ----------
    measures
        By name, or a list. Each is an instance, of which an empty copy is made; a class, or a pair of a class and its
        options, which is asked for one that fits the site (`for_site`); or a function that returns one.
    sites
        The sites.
    subject
        The model, for measures that need its weights.

    Raises
    ------
    PatchclampError
        For two measures of one name, or one that needs the weights of a model that was not given.
    """
    named = dict(measures) if isinstance(measures, Mapping) else _by_name(measures)
    return {site: {name: _new(spec, site, subject) for name, spec in named.items()} for site in sites}


def _by_name(measures: Sequence[Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for spec in measures:
        kind = spec[0] if isinstance(spec, tuple) else spec
        kind = kind if isinstance(kind, type) or not hasattr(kind, "update") else type(kind)
        name = str(getattr(kind, "name", None) or getattr(kind, "__name__", kind)).lower()
        if name in named:
            raise PatchclampError(f"two measures are called {name!r}; pass a mapping from names to measures")
        named[name] = spec
    return named


def _new(spec: Any, site: Site, subject: Subject | None) -> Measure:
    kind, options = spec if isinstance(spec, tuple) else (spec, {})
    lacking = [name for name in getattr(kind, "needs", ()) if name not in options]
    if isinstance(kind, type) and subject is None and lacking:
        raise PatchclampError(
            f"{kind.__name__} at {site}: needs {', '.join(lacking)} from the model; pass subject=, or "
            f"({kind.__name__}, {{{lacking[0]!r}: ...}}) among the measures"
        )
    if isinstance(kind, type) and subject is not None and hasattr(kind, "for_site"):
        return kind.for_site(subject, site, **options)
    if hasattr(kind, "update") and not isinstance(kind, type):
        made = kind.fresh() if hasattr(kind, "fresh") else copy.deepcopy(kind)
    else:
        made = kind(**options)
    if hasattr(made, "site"):
        made.site = str(site)
    return made


class Recorded(Mapping[Site, dict[str, Measure]]):
    """Measures of every site, and the recording where one was made.

    ``recorded["mlp_act.3"]["moments"]`` is the measure itself, which can be merged with that of another shard;
    `table` labels and joins the results.
    """

    def __init__(self, measures: Mapping[Site, dict[str, Measure]], recording: Recording | None) -> None:
        self.measures = dict(measures)
        self.recording = recording

    def __getitem__(self, site: Site | str) -> dict[str, Measure]:
        for known, measures in self.measures.items():
            if str(known) == str(site):
                return measures
        raise PatchclampError(f"{site}: not measured; there are {', '.join(map(str, self.measures))}")

    def __contains__(self, site: object) -> bool:
        return str(site) in map(str, self.measures)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.measures)

    def __len__(self) -> int:
        return len(self.measures)

    def _unit_index(self, site: Site, part: Any) -> Any:
        """Index in its site of each unit of a result, which may be of chosen units of a selection."""
        places = part["unit"].to_numpy() if "unit" in part.coords else np.arange(part.sizes.get("unit", 0))
        return places if self.recording is None else self.recording.unit_index(site)[places]

    def table(self, name: str) -> Any:
        """Results of one measure as a `Dataset` whose `unit` axis runs over all sites, labelled with addresses."""
        import xarray as xr

        parts = []
        for site, measures in self.measures.items():
            if name not in measures:
                raise PatchclampError(f"{name}: no such measure was taken; there are {', '.join(measures)}")
            part = measures[name].result()
            index = self._unit_index(site, part)
            n, layer = len(index), -1 if site.layer is None else site.layer
            labels = {"unit": [f"{site}[{i}]" for i in index], "site": ("unit", [str(site)] * n)}
            parts.append(part.assign_coords(**labels, layer=("unit", [layer] * n), index=("unit", index)))
        return (
            parts[0]
            if len(parts) == 1
            else xr.concat(parts, "unit", data_vars="different", coords="different", compat="equals")
        )


def measure_recording(recording: Recording, measures: Measures, subject: Subject | None = None) -> Recorded:
    """Run measures over a recording, chunk by chunk, without running a model.

    Values are those stored: with dtype float16 they are rounded, unlike those of a measure in the pass.
    Recorded heads, whose values are vectors, are measured by their norm.

    Parameters
    ----------
    recording
        A recording, or a selection of one.
    measures
        See `record`.
    subject
        The model that was recorded, for measures that need its weights (`Importance`, `CETT`).

    Raises
    ------
    PatchclampError
        When a measure needs a model and none is given, or the model is not the one that was recorded.
    """
    theirs = recording.manifest.get("model_fingerprint")
    if subject is not None and theirs not in (None, subject.fingerprint):
        raise PatchclampError(
            f"{subject.name}: its fingerprint is {subject.fingerprint}, and this recording was made from "
            f"{recording.manifest.get('model')} with {theirs}; pass the model that was recorded"
        )
    found = fresh_measures(measures, recording.sites, subject)
    for samples, arrays in recording.chunks():
        for site, values in arrays.items():
            for measure in found[site].values():
                measure.update(scalars(values), samples)
    return Recorded(found, recording)


def scalars(values: Tensor) -> Tensor:
    """(samples, units) in at least float32: of vectors, as of heads, their norms."""
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    return values.norm(dim=-1) if values.ndim == 3 else values


def save_measures(folder: Path, stem: str, measures: Mapping[Site, Mapping[str, Measure]]) -> None:
    """Write the states of all measures: tensors as safetensors, the rest as JSON. Never pickle."""
    tensors: dict[str, Tensor] = {}
    plain = {
        str(site): {
            name: _split(measure.state(), f"{site}/{name}", tensors) for name, measure in some.items()
        }
        for site, some in measures.items()
    }
    save_file(tensors or {"empty": torch.zeros(1)}, folder / f"{stem}.safetensors")
    write_atomically(folder / f"{stem}.json", json.dumps(plain))


def load_measures(
    folder: Path, stem: str, measures: Mapping[Site, Mapping[str, Measure]]
) -> dict[Site, dict[str, Measure]] | None:
    """Read what `save_measures` wrote; None where the files are missing, or hold other measures or settings."""
    file = folder / f"{stem}.json"
    if not file.is_file():
        return None
    plain, tensors = json.loads(file.read_text()), load_file(folder / f"{stem}.safetensors")
    if {site: set(some) for site, some in plain.items()} != {str(s): set(m) for s, m in measures.items()}:
        return None
    found: dict[Site, dict[str, Measure]] = {}
    for site, some in measures.items():
        for name, measure in some.items():
            state = _join(plain[str(site)][name], tensors)
            if not _same_settings(state, measure.state()):
                return None
            found.setdefault(site, {})[name] = type(measure).from_state(state)
    return found


def _same_settings(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two states are of one kind of measure with one set of options."""

    def settings(state: Mapping[str, Any]) -> dict[str, Any]:
        return {key: v for key, v in state.items() if key == "measure" or key.startswith("config.")}

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.equal(a.cpu(), b.cpu())
        return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)

    ours, theirs = settings(wanted), settings(stored)
    return set(ours) == set(theirs) and all(same(theirs[key], ours[key]) for key in ours)


def _split(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Put every tensor of nested plain data aside, under its path."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach().cpu().clone().contiguous()
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"map": [[k, _split(v, f"{key}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_split(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]}
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "map":
        return {k: _join(v, tensors) for k, v in inner}
    parts = [_join(v, tensors) for v in inner]
    return parts if kind == "list" else tuple(parts)

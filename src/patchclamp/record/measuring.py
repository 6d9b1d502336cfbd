"""Measures inside the pass: one set a site, updated in the hook, saved and restored exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.matrix import Heads, Missing, as_units, present_units
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject


class StreamingMeasure(Protocol):
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


Spec = (
    StreamingMeasure
    | type[StreamingMeasure]
    | Callable[[], StreamingMeasure]
    | tuple[type[StreamingMeasure], Mapping[str, Any]]
)
Measures = Mapping[str, Spec] | Sequence[Spec]


def fresh_measures(
    measures: Measures, sites: Sequence[Site], subject: Subject | None = None
) -> dict[Site, dict[str, StreamingMeasure]]:
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
    made = {site: {name: _new(spec, site, subject) for name, spec in named.items()} for site in sites}
    for site, ones in made.items():
        for name, one in ones.items():
            if getattr(one, "windows", False) != (site.point == "attn_probs"):
                wanted = (
                    "attn_probs, whole windows of them"
                    if site.point != "attn_probs"
                    else "one value a unit and token"
                )
                raise PatchclampError(
                    f"{site}: the measure {name} takes {wanted}; measure them in a call of their own"
                )
    return made


def _by_name(measures: Sequence[Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for spec in measures:
        if isinstance(spec, str):
            raise PatchclampError(
                f"measures={measures!r}: give measures, not their names, such as [Moments] or {{'moments': Moments}}; "
                "patchclamp.measure.METHODS[name] is the measure of a name"
            )
        kind = spec[0] if isinstance(spec, tuple) else spec
        kind = kind if isinstance(kind, type) or not hasattr(kind, "update") else type(kind)
        name = str(getattr(kind, "name", None) or getattr(kind, "__name__", kind)).lower()
        if name in named:
            raise PatchclampError(f"two measures are called {name!r}; pass a mapping from names to measures")
        named[name] = spec
    return named


def _new(spec: Any, site: Site, subject: Subject | None) -> StreamingMeasure:
    kind, options = spec if isinstance(spec, tuple) else (spec, {})
    lacking = [name for name in getattr(kind, "needs", ()) if name not in options]
    if isinstance(kind, type) and subject is None and lacking:
        raise PatchclampError(
            f"{kind.__name__} at {site}: needs {', '.join(lacking)} from the model; pass subject=, or "
            f"({kind.__name__}, {{{lacking[0]!r}: ...}}) among the measures"
        )
    if isinstance(kind, type) and subject is not None and hasattr(kind, "for_site"):
        offered: StreamingMeasure = kind.for_site(subject, site, **options)
        return offered
    made: StreamingMeasure
    if hasattr(kind, "update") and not isinstance(kind, type):
        made = kind.fresh() if hasattr(kind, "fresh") else copy.deepcopy(kind)
    else:
        made = kind(**options)
    if hasattr(made, "site"):
        made.site = str(site)
    return made


class Recorded(Mapping[Site, dict[str, StreamingMeasure]]):
    """Measures of every site, and the recording where one was made.

    ``recorded["mlp_act.3"]["moments"]`` is the measure itself, which can be merged with that of another shard;
    `table` labels and joins the results. ``meta["reading"]`` says how activity was read: heads,
    content, missing (see `matrix`).
    """

    def __init__(
        self,
        measures: Mapping[Site, dict[str, StreamingMeasure]],
        recording: Recording | None,
        *,
        heads: Heads = "norm",
        content: bool = True,
        missing: Missing = "refuse",
        shapes: Mapping[Site, tuple[int, ...]] | None = None,
    ) -> None:
        self.measures = dict(measures)
        self.recording = recording
        self.meta: dict[str, Any] = {"reading": {"heads": heads, "content": content, "missing": missing}}
        self._shapes = dict(shapes or {})
        for name in dict.fromkeys(name for named in self.measures.values() for name in named):
            self._agree(name)

    def _agree(self, name: str) -> None:
        """Let the measures of all sites settle what they must share, such as a scale."""
        same = [measures[name] for measures in self.measures.values() if name in measures]
        if same and hasattr(same[0], "together"):
            same[0].together(same)

    def __getitem__(self, site: Site | str) -> dict[str, StreamingMeasure]:
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

    def _labels(self, site: Site, part: Any) -> tuple[list[str], Any]:
        """Name, and index in its site, of each unit of a result, which may be of chosen units of a selection."""
        places = part["unit"].to_numpy() if "unit" in part.coords else np.arange(part.sizes.get("unit", 0))
        shape = self._shapes.get(site, ())
        joined = len(shape) == 2 and self.meta["reading"]["heads"] == "join"
        place = places // shape[1] if joined else places
        index = place if self.recording is None else self.recording.unit_index(site)[place]
        if not joined:
            return [f"{site}[{i}]" for i in index], index
        return [f"{site}[{i}].{p}" for i, p in zip(index, places % shape[1], strict=True)], index

    def table(self, name: str) -> Any:
        """Results of one measure as a `Dataset` whose `unit` axis runs over all sites, labelled with addresses."""
        import xarray as xr

        self._agree(name)
        parts = []
        for site, measures in self.measures.items():
            if name not in measures:
                raise PatchclampError(f"{name}: no such measure was taken; there are {', '.join(measures)}")
            part = measures[name].result()
            names, index = self._labels(site, part)
            n, layer = len(index), -1 if site.layer is None else site.layer
            labels = {"unit": names, "site": ("unit", [str(site)] * n)}
            labelled = part.assign_coords(**labels, layer=("unit", [layer] * n), index=("unit", index))
            parts.append(labelled.assign_attrs(self.meta["reading"]))
        return (
            parts[0]
            if len(parts) == 1
            else xr.concat(parts, "unit", data_vars="different", coords="different", compat="equals")
        )


def measure_recording(
    recording: Recording,
    measures: Measures,
    subject: Subject | None = None,
    *,
    heads: Heads = "norm",
    content: bool = True,
    missing: Missing = "refuse",
) -> Recorded:
    """Run measures over a recording, chunk by chunk, without running a model.

    Values are those stored: with dtype float16 they are rounded, unlike those of a measure in the pass.

    Parameters
    ----------
    recording
        A recording, or a selection of one.
    measures
        See `record`.
    subject
        The model that was recorded, for measures that need its weights (`Importance`, `CETT`).
    heads, content, missing
        As in `matrix`: recorded heads are measured by their norm (``"join"``: part by part), samples that are not
        content do not count, units that are not present are refused. `Recorded.meta` and the tables say so.

    Raises
    ------
    PatchclampError
        When a measure needs a model and none is given, or the model is not the one that was recorded.
    """
    theirs = recording.manifest.get("model_fingerprint")
    if subject is not None and theirs is not None and not subject.is_model(theirs):
        raise PatchclampError(
            f"{subject.name}: its fingerprint is {subject.fingerprint}, and this recording was made from "
            f"{recording.manifest.get('model')} with {theirs}; pass the model that was recorded"
        )
    recording = present_units(recording, missing)
    found = fresh_measures(measures, recording.sites, subject)
    for samples, arrays in recording.chunks():
        whole = not content or bool(samples.content.all())
        seen = samples if whole else samples[samples.content]
        for site, values in arrays.items():
            units = measured_units(values if whole else values[samples.content], heads)
            for measure in found[site].values():
                measure.update(units, seen)
    shapes = {site: recording[site].shape[1:] for site in recording.sites}
    return Recorded(found, recording, heads=heads, content=content, missing=missing, shapes=shapes)


def measured_units(values: Tensor, heads: Heads) -> Tensor:
    """(samples, units) in at least float32."""
    exact = values.dtype in (torch.float32, torch.float64)
    return as_units(values, heads, None if exact else torch.float32)


def save_measures(
    checkpoint: Checkpoint, measures: Mapping[Site, Mapping[str, StreamingMeasure]], windows: int
) -> None:
    """Keep the states of all measures after so many windows."""
    tensors: dict[str, Tensor] = {}
    plain = {
        str(site): {
            name: _split(measure.state(), f"{site}/{name}", tensors) for name, measure in some.items()
        }
        for site, some in measures.items()
    }
    checkpoint.save(tensors, {"windows": windows, "measures": plain})


def load_measures(
    checkpoint: Checkpoint, measures: Mapping[Site, Mapping[str, StreamingMeasure]]
) -> tuple[dict[Site, dict[str, StreamingMeasure]], int] | None:
    """What `save_measures` kept, and the windows; None where there is nothing, or other measures or settings."""
    kept = checkpoint.load()
    if kept is None:
        return None
    tensors, plain = kept[0], kept[1]["measures"]
    if {site: set(some) for site, some in plain.items()} != {str(s): set(m) for s, m in measures.items()}:
        return None
    found: dict[Site, dict[str, StreamingMeasure]] = {}
    for site, some in measures.items():
        for name, measure in some.items():
            state = _join(plain[str(site)][name], tensors)
            if not _same_settings(state, measure.state()):
                return None
            found.setdefault(site, {})[name] = type(measure).from_state(state)
    return found, kept[1]["windows"]


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
        tensors[key] = value
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

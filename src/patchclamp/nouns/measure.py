"""What every measure has in common: updates, merging, state and the search for NaN and Inf."""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

State = dict[str, Any]
BLOCK_ROWS = 64  # float32 sums run over at most this many rows before they go into float64


class HasOutputs(Protocol):
    """A subject of which a measure asks what units write."""

    @property
    def row(self) -> Any:
        """The family's anatomy."""

    def output_norms(self, site: Any) -> Tensor:
        """(unit,) the norm of what each unit writes."""

    def output_matrix(self, site: Any) -> Tensor:
        """(unit, d_model) what each unit writes at activity 1."""


class Measure(ABC):
    """A statistic of the units of one site, computed in one pass over the data and in constant memory.

    `update` takes a batch of activity, `merge` joins the measures of two parts of the data, `result` gives an
    `xarray.Dataset` with the dimension ``unit``. The result does not depend on how the data were cut into
    batches or shards, nor on their order: counts and selected samples are exact, sums agree to 1e-6 relative.

    A subclass keeps its constructor's arguments under their names (`config`) and names what it accumulates in `fields`
    (those of `lows` and `highs` are extremes, the others sums); adding a part, merging, state, restoring and fresh copies
    follow from these. A field that has no value before the first batch is annotated only.
    """

    name: ClassVar[str] = ""  # in `patchclamp.measure.METHODS`
    config: ClassVar[tuple[str, ...]] = ()
    fields: ClassVar[tuple[str, ...]] = ()
    lows: ClassVar[tuple[str, ...]] = ()
    highs: ClassVar[tuple[str, ...]] = ()
    checks_itself: ClassVar[bool] = False  # the measure looks for NaN and Inf in its own sums
    needs: ClassVar[tuple[str, ...]] = ()  # settings without which `for_site` has to read the model's weights

    site: str = ""
    n_units: int | None = None
    n_samples: int = 0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.config = tuple(inspect.signature(cls).parameters)

    def update(self, activity: Float[Tensor, "n units"], samples: Samples) -> None:
        """Add a batch.

        Parameters
        ----------
        activity
            One row a sample, one column a unit; padding (and, unless wanted, BOS and sinks) already left out.
        samples
            Labels of the rows.

        Raises
        ------
        PatchclampError
            If shapes do not fit, or for NaN or Inf, with the unit, document and position. Nothing of the
            batch has been added then.
        """
        values = self._checked(activity, samples)
        if len(values):
            if not self.checks_itself and not bool(values.sum().isfinite()):
                self._raise_nonfinite(values, samples)
            self._update(values, samples)
            self.n_samples += len(values)

    @abstractmethod
    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        """Add a batch that was checked: at least one row, float32 or float64."""

    def merge(self, other: Self) -> Self:
        """Add what `other` (the same settings) has seen to this measure, and return this measure."""
        self._check_like(other)
        if other.n_samples:
            if not self.n_samples:
                self._load(other.state())
            else:
                self._merge(other)
                self.n_samples += other.n_samples
        return self

    def _merge(self, other: Self) -> None:
        """Add the accumulated fields of `other`; both have seen data."""
        self._add(**{name: getattr(other, name) for name in self.fields})

    def _add(self, **part: Any) -> None:
        """Add the sums and extremes of a part of the data to the fields of these names."""
        for name, value in part.items():
            known = getattr(self, name, None)
            if known is None:
                joined = value
            elif name in self.lows:
                joined = torch.minimum(known, value) if isinstance(value, Tensor) else min(known, value)
            elif name in self.highs:
                joined = torch.maximum(known, value) if isinstance(value, Tensor) else max(known, value)
            else:
                joined = known + value
            setattr(self, name, joined)

    def _behind(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        """Columns of a part of the data behind those of the same names that were kept so far."""
        known = {name: getattr(self, name, None) for name in part}
        return {n: new if (old := known[n]) is None else torch.cat([old, new]) for n, new in part.items()}

    @abstractmethod
    def result(self) -> xr.Dataset:
        """The statistics so far."""

    def state(self) -> State:
        """Settings and sums as a flat dict of tensors, numbers and strings (copies), for `from_state`."""
        out: State = {"measure": type(self).__name__, "site": self.site, "n_samples": self.n_samples}
        if self.n_units is not None:
            out["n_units"] = self.n_units
        for name in self.config:
            value = getattr(self, name)
            if value is not None:
                out[f"config.{name}"] = _copied(value)
        for name in self.fields:
            value = getattr(self, name, None)
            if value is not None:
                out[name] = _copied(value)
        return out

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restore a measure from `state()`; it goes on where that one was, to the bit."""
        if state.get("measure") != cls.__name__:
            raise PatchclampError(f"state of a {state.get('measure')} cannot become a {cls.__name__}")
        config = {key.removeprefix("config."): v for key, v in state.items() if key.startswith("config.")}
        measure = cls(**config)
        measure._load(state)
        return measure

    def _load(self, state: Mapping[str, Any]) -> None:
        self.site, self.n_samples, self.n_units = state["site"], state["n_samples"], state.get("n_units")
        for name in self.fields:
            if name in state:
                setattr(self, name, _copied(state[name]))

    def fresh(self) -> Self:
        """A measure with the same settings that has seen nothing."""
        empty = type(self)(**{name: _copied(getattr(self, name)) for name in self.config})
        empty.site = self.site
        return empty

    @classmethod
    def for_site(cls, subject: HasOutputs, site: Any, **options: Any) -> Self:
        """The measure for a site of a subject, with what it needs to know of it (output weights, norms)."""
        measure = cls(**{**cls._needs(subject, site), **options})
        measure.site = str(site)
        return measure

    @classmethod
    def _needs(cls, subject: HasOutputs, site: Any) -> dict[str, Any]:
        return {}

    def _checked(self, activity: Tensor, samples: Samples) -> Tensor:
        if activity.ndim != 2:
            raise PatchclampError(
                f"{self._who}: activity of shape {tuple(activity.shape)}; wanted (samples, units)"
                + ("; flatten heads with activity.flatten(1)" if activity.ndim == 3 else "")
            )
        if len(activity) != len(samples):
            raise PatchclampError(f"{self._who}: {len(activity)} rows of activity but {len(samples)} samples")
        self._check_units(activity.shape[1])
        activity = activity.detach()
        return activity if activity.dtype in (torch.float32, torch.float64) else activity.float()

    def _check_units(self, n_units: int) -> None:
        if self.n_units is None:
            self.n_units = n_units
        if self.n_units != n_units:
            raise PatchclampError(f"{self._who}: this batch has {n_units} units, earlier ones {self.n_units}")

    @property
    def _who(self) -> str:
        """Beginning of a message: the measure, and the site where it is known."""
        return type(self).__name__ + (f" at {self.site}" if self.site else "")

    def _raise_nonfinite(self, values: Tensor, samples: Samples) -> None:
        """Name the first NaN or Inf; return if there is none (a sum of finite values may overflow)."""
        bad = ~values.isfinite()
        count = int(bad.sum())
        if not count:
            return
        row, unit = (int(i) for i in bad.nonzero()[0])
        value = float(values[row, unit])
        kind = "NaN" if math.isnan(value) else ("Inf" if value > 0 else "-Inf")
        raise PatchclampError(
            f"{self.site or 'unit '}[{unit}]: {kind} in activity at doc {int(samples.doc[row])}, position "
            f"{int(samples.position[row])}, token {int(samples.token[row])} ({count} such in this batch); "
            "leave that document out, or run the model in float32 if the values overflow"
        )

    def _check_like(self, other: Measure) -> None:
        if type(other) is not type(self):
            raise PatchclampError(f"a {type(other).__name__} cannot be merged into a {type(self).__name__}")
        for name in self.config:
            mine, theirs = getattr(self, name), getattr(other, name)
            if not _same(mine, theirs):
                raise PatchclampError(
                    f"{type(self).__name__}: the parts were measured with different {name}"
                    + ("" if isinstance(mine, Tensor) else f": {mine!r} and {theirs!r}")
                )
        if self.site != other.site and self.site and other.site:
            raise PatchclampError(
                f"{type(self).__name__}: parts of different sites: {self.site}, {other.site}"
            )
        if None not in (self.n_units, other.n_units) and self.n_units != other.n_units:
            raise PatchclampError(
                f"{self._who}: parts with {self.n_units} and {other.n_units} units do not belong together"
            )

    def _need_data(self) -> int:
        """Number of units, or an error when nothing was measured."""
        if self.n_units is None or not self.n_samples:
            raise PatchclampError(f"{self._who}: no sample was measured; call update first")
        return self.n_units

    def _dataset(
        self,
        variables: Mapping[str, tuple[tuple[str, ...], Any]],
        coords: Mapping[str, Any] | None = None,
        **attrs: Any,
    ) -> xr.Dataset:
        """A Dataset from name -> (dims, tensor), with the coordinate of units and the number of samples."""
        dims = {dim for axes, _ in variables.values() for dim in axes}
        labels = {"unit": np.arange(self.n_units or 0)} if "unit" in dims else {}
        arrays = {name: (axes, to_numpy(value)) for name, (axes, value) in variables.items()}
        about = {"measure": type(self).__name__, "site": self.site, "n_samples": self.n_samples}
        return xr.Dataset(arrays, {**labels, **(coords or {})}, {**about, **attrs})


def to_numpy(value: Any) -> Any:
    """A tensor as a NumPy array, anything else as it is."""
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def row_blocks(values: Tensor, rows: int = BLOCK_ROWS) -> Iterator[Tensor]:
    """Cut a batch into blocks of rows that fit in cache."""
    yield from values.split(rows)


def require(condition: bool, message: str) -> None:
    """Raise a PatchclampError with `message` unless the condition holds."""
    if not condition:
        raise PatchclampError(message)


def host(value: Tensor) -> Tensor:
    """A partial sum as float64 on the CPU, where accumulators live."""
    return value.cpu().double()


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return bool(a == b)

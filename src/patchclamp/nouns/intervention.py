"""`Intervention`: a change to units, described as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.draw.cards import shown
from patchclamp.nouns.units import Units

KINDS: dict[str, str] = {
    "zero": "set to zero",
    "mean": "replaced by the mean over reference items",
    "resample": "replaced by the value on another, random reference item",
    "clamp": "set to `value`",
    "scale": "multiplied by `value`",
    "patch": "replaced by the value on `source`, the item's corrupted (or clean) input",
    "add": "`value` times `vector` is added",
    "project_out": "the span of the rows of `vector` is removed",
    "splice": "replaced by what the dictionary decodes, its error left out",
}
MEANS: dict[str, str] = {
    "template": "over reference items of the same template, position by position",
    "position": "over reference items, position by position, counted from the end of the text",
    "data": "over all positions of all reference items",
}
_NEEDS_VALUE = ("clamp", "scale")
_NEEDS_VECTOR = ("add", "project_out")

Vector = tuple[float, ...] | tuple[tuple[float, ...], ...]


@shown
@dataclass(frozen=True)
class Intervention:
    """A change of the activity of units while a network runs.

    Parameters
    ----------
    units
        What is changed: `Units`, or anything that `Units.parse` reads.
    kind
        One of ``zero``, ``mean``, ``resample``, ``clamp``, ``scale``, ``patch``, ``add``, ``project_out``, ``splice``.
        On features all but ``splice`` keep the dictionary's error term; ``splice`` takes a whole site of features and
        leaves it out, alone or beside changes of features.
    positions
        ``"all"``, a role of the task such as ``"end"``, a position (negative ones count from the end of the
        text), or a list of those. Padding is never touched.
    value
        The value of ``clamp``, the factor of ``scale``, the coefficient of ``add`` (1 if not given).
    vector
        For ``add`` the direction, one number a unit of the site (for a head, d_model numbers, added to what the
        attention writes), or None: `value` is added to each of the units; for ``project_out`` one row or several that span the subspace. With ``patch``, only
        the component in the span of the rows is replaced.
    by
        How the mean of ``mean`` is taken: by ``template`` and position, by ``position``, or over all ``data``.
    source
        Inputs that values are taken from, ``corrupted`` or ``clean``: for ``patch`` the item's own (by default
        corrupted), for ``mean`` and ``resample`` those of the reference items (by default clean). Means by template over
        clean inputs keep what all items of a template share, and so spare the units that carry it; over corrupted
        inputs they keep it only where the corruption does.
    seed
        Of the random choice of ``resample``.

    Examples
    --------
    >>> change = Intervention("head.23[3]", "mean")
    >>> Intervention.from_json(change.to_json()) == change
    True
    >>> print(change)
    head.23[3] replaced by the mean over reference items, by template, at all positions
    """

    units: Units
    kind: str = "mean"
    positions: str | int | tuple[str | int, ...] = "all"
    value: float | None = None
    vector: Vector | None = None
    by: str = "template"
    source: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.units, Units):
            object.__setattr__(self, "units", Units.parse(self.units))
        if isinstance(self.positions, list):
            object.__setattr__(self, "positions", tuple(self.positions))
        if self.vector is not None:
            object.__setattr__(self, "vector", _freeze(self.vector))
        _choose("kind", self.kind, KINDS)
        _choose("by", self.by, MEANS)
        object.__setattr__(self, "source", self.source or self._usual_source)
        _choose("source", self.source, {"corrupted": "", "clean": ""})
        if self.kind in _NEEDS_VALUE and self.value is None:
            raise PatchclampError(f"{self.kind} {self.units}: needs value=, a number")
        if self.kind == "splice":
            self._check_splice()
        if self.kind == "add" and self.vector is None and self.value is not None:
            if any(site.point == "head" for site in self.units):
                raise PatchclampError(
                    f"add {self.units}: a head's value is a vector; give vector=, or units of z"
                )
        elif self.kind in _NEEDS_VECTOR and self.vector is None:
            raise PatchclampError(
                f"{self.kind} {self.units}: needs vector=, a direction with one number a unit"
                + (", or value=, which is added to each unit" if self.kind == "add" else "")
            )
        self._check_vector()
        if self.positions in ((), ""):
            raise PatchclampError(
                f"{self.kind} {self.units}: positions select nothing; give 'all', a role or indices"
            )

    def _check_splice(self) -> None:
        for site, indices in self.units.items():
            if site.dictionary is None:
                raise PatchclampError(
                    f"splice {site}: is no site of features; give one such as {site}/my-sae"
                )
            if indices is not None:
                raise PatchclampError(
                    f"splice {site}{list(indices)}: a whole dictionary is spliced; leave out the indices, and change "
                    "features by interventions of their own"
                )

    def _check_vector(self) -> None:
        if self.vector is None:
            return
        if self.kind not in (*_NEEDS_VECTOR, "patch"):
            raise PatchclampError(f"{self.kind} {self.units}: takes no vector; leave it out")
        for site, indices in self.units.items():
            one_head = self.kind == "add" and site.point == "head" and len(indices or ()) == 1
            if indices is not None and not one_head:
                raise PatchclampError(
                    f"{self.kind} {site}{list(indices)}: a vector acts on a whole site; leave out the indices"
                )

    @property
    def _usual_source(self) -> str:
        return "corrupted" if self.kind == "patch" else "clean"

    @property
    def places(self) -> tuple[str | int, ...]:
        """The positions as a tuple; ``("all",)`` for all."""
        return self.positions if isinstance(self.positions, tuple) else (self.positions,)

    def on(self, units: Units) -> Intervention:
        """The same change of other units."""
        return replace(self, units=units)

    def along(self, vector: Any) -> Intervention:
        """The same change along another direction or subspace."""
        return replace(self, vector=_freeze(vector))

    def to_json(self) -> dict[str, Any]:
        """A JSON object; what is at its default is left out."""
        return {"units": self.units.to_json(), "kind": self.kind, **self._unusual()}

    def _unusual(self) -> dict[str, Any]:
        """What is not at its default, beside units and kind."""
        usual = {spec.name: spec.default for spec in fields(self)} | {"source": self._usual_source}
        found = {name: getattr(self, name) for name in usual if name not in ("units", "kind")}
        return {name: _thaw(value) for name, value in found.items() if value != usual[name]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Intervention:
        """Read what `to_json` wrote; unknown keys are refused."""
        unknown = set(data) - set(cls.__dataclass_fields__)
        if unknown:
            name = min(unknown)
            raise PatchclampError(
                f"intervention: unknown key {name!r}{did_you_mean(name, cls.__dataclass_fields__)}"
            )
        if "units" not in data:
            raise PatchclampError("intervention: the key 'units' is missing")
        return cls(**{**data, "units": Units.parse(data["units"])})

    def __str__(self) -> str:
        text = KINDS[self.kind].replace("`value`", f"{self.value if self.value is not None else 1:g}")
        text = text.replace(" times `vector`", "") if self.vector is None else text
        text = text.replace("`source`", self.source)
        text += " in the span of `vector`" if self.kind == "patch" and self.vector is not None else ""
        if self.source != self._usual_source and self.kind in ("mean", "resample"):
            text = text.replace("reference item", f"{self.source} reference item")
        text += f", by {self.by}" if self.kind == "mean" else ""
        where = "all positions" if self.positions == "all" else ", ".join(map(str, self.places))
        return f"{self.units} {text}, at {where}"


def _choose(what: str, value: str, options: Mapping[str, str]) -> None:
    if value not in options:
        hint = did_you_mean(str(value), options) or f"; choose from {', '.join(options)}"
        raise PatchclampError(f"{what}={value!r}: no such {what} of intervention{hint}")


def _freeze(vector: Any) -> Vector:
    rows = vector.tolist() if hasattr(vector, "tolist") else list(vector)
    if rows and isinstance(rows[0], (list, tuple)):
        return tuple(tuple(float(x) for x in row) for row in rows)
    return tuple(float(x) for x in rows)


def _thaw(value: Any) -> Any:
    return [_thaw(v) for v in value] if isinstance(value, tuple) else value

"""Claims: findings as data, each with its size, its control, and all that is needed to measure it again.

The published schema is ``claim.schema.json`` beside this module (`schema` returns it). A claim *holds* when the
estimate, measured again, meets its `criterion`; see `verify`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null
from patchclamp.base.files import plain, read_json, write_json
from patchclamp.draw.cards import shown
from patchclamp.draw.text import percent
from patchclamp.nouns.scores import flat

__all__ = ["SCHEMA", "Claim", "read_claims", "schema", "validate", "write_claims"]

SCHEMA = "patchclamp/claims/1"


@shown
@dataclass(frozen=True)
class Claim:
    """One finding. Fractions are of the unchanged metric, 1 the whole behaviour; those of circuits of what all of the kind do.

    Parameters
    ----------
    id
        Name within its file.
    kind
        ``"necessity"`` (changing the units takes `estimate` of the metric away), ``"sufficiency"`` (changing all
        units of `among` but them leaves `estimate` of it) or ``"redundancy"`` (the effects of the units alone add
        up to `estimate` times their joint effect), ``"circuit"`` (with all of `among` but the units changed, `estimate`
        of what changing all of `among` takes is kept), ``"circuit removed"`` (changing the units takes `estimate` of
        that), or ``"selectivity"`` (changing the units costs texts of their own label
        `estimate` nats a token more than texts of the others).
    statement
        In words.
    units, among
        Addresses.
    task
        name, n, seed, corruption, split, items, reference_split, reference_items, fingerprint, ranked_by, min_accuracy.
    intervention
        As `Intervention.to_json` writes it; units are filled in from `units`.
    baseline, changed
        The metric with nothing changed, and under the intervention.
    estimate
        The figure with its interval, and in its null the random sets, where there are any.
    criterion
        at_least, at_most, beats_control: what must be true again.
    negative
        Whether the finding is that there is (nearly) nothing.
    """

    id: str
    kind: str
    statement: str
    units: tuple[str, ...]
    task: Mapping[str, Any]
    intervention: Mapping[str, Any]
    metric: str
    baseline: float
    changed: float
    estimate: Estimate
    criterion: Mapping[str, Any]
    seed: int
    ablation: str
    model: Mapping[str, Any]
    version: str
    negative: bool = False
    among: tuple[str, ...] = field(default=())
    quantity: str = "fraction of the metric"

    def _card(self) -> dict[str, Any]:
        return {
            "statement": self.statement, "kind": self.kind, "estimate": str(self.estimate), "units": ", ".join(self.units),
            "task": self.task.get("name", ""), "model": self.model.get("name", ""), "id": self.id,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the claim as plain data, as the schema describes it."""
        facts = flat(self.estimate)
        facts["interval"] = (facts.pop("low"), facts.pop("high"))
        return dict(plain({f.name: getattr(self, f.name) for f in fields(self)} | facts))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Claim:
        """Read back what `to_json` wrote."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in data.items() if key in known
        }
        null = None
        if data["control"] is not None:
            c = data["control"]
            ends = (c["mean"], c["low"], c["high"])
            null = Null(*ends, c["n_sets"], c["matched_by"], data["p"], data.get("p_adjusted"))
        low, high = data["interval"]
        values["estimate"] = Estimate(data["estimate"], low, high, data["n"], null, data.get("groups", 0))
        return cls(**{"baseline": float("nan"), "changed": float("nan")} | values)

    def meets(self, measured: Estimate) -> bool:
        """Return whether an estimate, measured again, meets the criterion."""
        return not self.unmet(measured)

    def unmet(self, measured: Estimate) -> str:
        """Return in words which part of the criterion an estimate does not meet; nothing where it meets all."""
        low, high = self.criterion.get("at_least"), self.criterion.get("at_most")
        if low is not None and not measured.value >= low:
            return f"claimed at least {percent(low)}"
        if high is not None and not measured.value <= high:
            return f"claimed at most {percent(high)}"
        if self.criterion.get("beats_control"):
            top = None if measured.null is None else measured.null.high
            if top is None or not measured.value > top:
                return f"random sets reach {percent(top)}"
        return ""


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """Return the JSON schema of a claims file."""
    path = resources.files("patchclamp.study") / "claim.schema.json"
    return dict(read_json(str(path)))


def validate(data: Any, source: str = "claims") -> None:
    """Check the content of a claims file against the schema.

    Raises
    ------
    PatchclampError
        For a file of another schema, or one that breaks this one, naming the place.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    found = data.get("schema") if isinstance(data, Mapping) else None
    if found != SCHEMA:
        raise PatchclampError(
            f"{source}: this is not a claims file of schema {SCHEMA!r} (its schema is {found!r}); "
            "give the claims.json that `patchclamp study` writes"
        )
    error = best_match(Draft202012Validator(schema()).iter_errors(data))
    if error is not None:
        raise PatchclampError(f"{source}: {error.json_path}: {error.message}")


def write_claims(path: str | Path, claims: Sequence[Claim], version: str) -> None:
    """Write a claims file; it is validated first."""
    data = {
        "schema": SCHEMA,
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "claims": [claim.to_json() for claim in claims],
    }
    validate(data, str(path))
    write_json(Path(path), data)


def read_claims(path: str | Path) -> list[Claim]:
    """Read and validate a claims file."""
    data = read_json(path)
    validate(data, str(path))
    return [Claim.from_json(entry) for entry in data["claims"]]

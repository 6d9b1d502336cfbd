"""Claims: findings as data, each with its size, its control, and all that is needed to measure it again.

The published schema is ``claim.schema.json`` beside this module (`schema` returns it). A claim *holds* when the
estimate, measured again, meets its `criterion`; see `verify`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import plain, read_json, write_json

__all__ = ["SCHEMA", "Claim", "read_claims", "schema", "validate", "write_claims"]

SCHEMA = "patchclamp/claims/1"


@dataclass(frozen=True)
class Claim:
    """One finding. All fractions are of the unchanged metric: 1 is the whole behaviour.

    Parameters
    ----------
    id
        Name within its file.
    kind
        ``"necessity"`` (changing the units takes `estimate` of the metric away), ``"sufficiency"`` (changing all
        units of `among` but them leaves `estimate` of it) or ``"redundancy"`` (the effects of the units alone add
        up to `estimate` times their joint effect), or ``"selectivity"`` (changing the units costs texts of their own label
        `estimate` nats a token more than texts of the others).
    statement
        In words.
    units, among
        Addresses.
    task
        name, n, seed, corruption, split, items, reference_split, reference_items, fingerprint, min_accuracy.
    intervention
        As `Intervention.to_json` writes it; units are filled in from `units`.
    estimate, interval, control, p, p_adjusted, n
        The figures. `control` is None where no random set exists.
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
    estimate: float
    interval: tuple[float, float]
    control: Mapping[str, Any] | None
    criterion: Mapping[str, Any]
    p: float | None
    n: int
    seed: int
    ablation: str
    model: Mapping[str, Any]
    version: str
    p_adjusted: float | None = None
    negative: bool = False
    among: tuple[str, ...] = field(default=())
    quantity: str = "fraction of the metric"

    def to_json(self) -> dict[str, Any]:
        """Return the claim as plain data, as the schema describes it."""
        return dict(plain(asdict(self)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Claim:
        """Read back what `to_json` wrote."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in data.items() if key in known
        }
        defaults: dict[str, Any] = {"baseline": float("nan"), "changed": float("nan")}
        return cls(**{**defaults, **values})

    def meets(self, estimate: float, control: Mapping[str, Any] | None) -> bool:
        """Return whether an estimate and its control, measured again, meet the criterion."""
        low, high = self.criterion.get("at_least"), self.criterion.get("at_most")
        if low is not None and not estimate >= low:
            return False
        if high is not None and not estimate <= high:
            return False
        if self.criterion.get("beats_control"):
            return control is not None and estimate > control["high"]
        return True


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

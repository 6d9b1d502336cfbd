"""`Board`: the rows of a run, as a table, a summary per method, JSON; and two runs held against each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import plain, read_json, write_json
from patchclamp.draw.cards import shown
from patchclamp.study.leaderboard.base import Outcome, Row

SCHEMA = "patchclamp/leaderboard/1"
SLACK = 0.002
"""How far a figure may lie outside of the other run's interval: intervals of one run's draws are rough at the edge."""


@shown
@dataclass(frozen=True)
class Board:
    """What a run of the leaderboard found.

    Parameters
    ----------
    rows
        One for each verb, method, truth and variant.
    about
        Version, seed, machine, and what the column of memory covers.
    """

    rows: tuple[Row, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """All rows with all columns."""
        return pd.DataFrame([_flat(row) for row in self.rows])

    def of(self, verb: str) -> Board:
        """The rows of one verb."""
        return Board(tuple(row for row in self.rows if row.verb == verb), self.about)

    @property
    def verbs(self) -> tuple[str, ...]:
        """Verbs that have rows, in order."""
        return tuple(dict.fromkeys(row.verb for row in self.rows))

    def summary(self) -> pd.DataFrame:
        """One row a verb and method.

        Returns
        -------
        DataFrame
            verb, method; found: truths with a recovery that is better than chance, of so many; median (of the
            recoveries); weakest (truth, variant, recovery); exact: closed forms met, of so many that it claims; clean:
            negative controls in which nothing was found, of so many; refused, failed: rows; seconds (sum); memory
            (largest).
        """
        return pd.DataFrame(self.summaries())

    def summaries(self) -> list[dict[str, Any]]:
        """The rows of `summary`, with None where there is nothing."""
        keys = list(dict.fromkeys((row.verb, row.method) for row in self.rows))
        return [summarised(verb, method, self.rows) for verb, method in keys]

    def to_json(self) -> dict[str, Any]:
        """Plain data, as `Board.from_json` and the documentation read it."""
        return {
            "schema": SCHEMA,
            "about": plain(self.about),
            "rows": [plain(_flat(row)) for row in self.rows],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Board:
        """Read what `to_json` wrote.

        Raises
        ------
        PatchclampError
            For data of another schema.
        """
        if data.get("schema") != SCHEMA:
            raise PatchclampError(
                f"leaderboard of schema {data.get('schema')!r}; this version reads {SCHEMA}"
            )
        return cls(tuple(_row(entry) for entry in data["rows"]), data["about"])

    def save(self, path: str | Path) -> None:
        """Write the JSON file."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Board:
        """Read a JSON file that `save` wrote."""
        return cls.from_json(read_json(path))

    def failures(self) -> list[tuple[str, str, int, list[str]]]:
        """Refusals and failures: (verdict, "method: what it said", how often, on which truths)."""
        grouped: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row.outcome.verdict in ("refused", "failed"):
                note = re.sub(rf"(truth:)?(?<![\w-]){re.escape(row.truth)}(?![\w-])", "it", row.outcome.note)
                said = f"{row.verb} {row.method}: {note}"
                grouped.setdefault((row.outcome.verdict, said), []).append(row.truth)
        return [(verdict, said, len(on), list(dict.fromkeys(on))) for (verdict, said), on in grouped.items()]

    def __str__(self) -> str:
        counts = Counter(row.outcome.verdict for row in self.rows)
        parts = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        return f"{len(self.rows)} rows: {parts}"


def summarised(verb: str, method: str, rows: tuple[Row, ...]) -> dict[str, Any]:
    """One method's rows in figures; see `Board.summary`."""
    mine = [row for row in rows if (row.verb, row.method) == (verb, method)]
    real = [row for row in mine if not row.control and row.outcome.recovery is not None]
    claims = [row for row in mine if not row.control and row.outcome.tolerance is not None]
    controls = [row for row in mine if row.control and row.outcome.verdict in ("clean", "false positive")]
    values = [row.outcome.recovery for row in real if row.outcome.recovery is not None]
    weak = min(real, key=lambda row: row.outcome.recovery or 0.0, default=None)
    return {
        "verb": verb,
        "method": method,
        "found": sum(above_chance(row.outcome) for row in real),
        "found_of": len(real),
        "median": float(np.median(values)) if values else None,
        "weakest": None if weak is None else f"{weak.truth} {weak.variant}".strip(),
        "weakest_recovery": None if weak is None else weak.outcome.recovery,
        "exact": sum(_met(row.outcome) for row in claims),
        "exact_of": len(claims),
        "clean": sum(row.outcome.verdict == "clean" for row in controls),
        "clean_of": len(controls),
        "refused": sum(row.outcome.verdict == "refused" for row in mine),
        "failed": sum(row.outcome.verdict == "failed" for row in mine),
        "seconds": float(sum(row.seconds or 0.0 for row in mine)),
        "memory": max((row.memory for row in mine if row.memory is not None), default=None),
    }


def above_chance(outcome: Outcome) -> bool:
    """Whether the recovery's interval lies above chance, whatever the closed forms say."""
    if outcome.verdict in ("recovered", "missed"):
        return outcome.verdict == "recovered"
    return outcome.low is not None and outcome.chance is not None and outcome.low > outcome.chance


def _met(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.tolerance is not None and outcome.error <= outcome.tolerance


def compare(stored: Board, fresh: Board) -> list[str]:
    """What two runs disagree about, beyond their intervals; an empty list where they agree.

    Rows must be the same; so must verdicts of refusals and failures, and whether closed forms and controls are met. A
    recovery of one run must lie within the other's interval (by `SLACK`). Seconds and memory are not compared.
    """
    old, new = ({row.key: row for row in board.rows} for board in (stored, fresh))
    said = [f"{_name(key)}: is stored, and no longer there" for key in old if key not in new]
    said += [f"{_name(key)}: is new, and not stored" for key in new if key not in old]
    for key in [key for key in old if key in new]:
        a, b = old[key].outcome, new[key].outcome
        if _kind(old[key]) != _kind(new[key]):
            said.append(
                f"{_name(key)}: {a.verdict} was stored, {b.verdict} now{f' ({b.note})' if b.note else ''}"
            )
        elif not (_within(a, b) and _within(b, a)):
            said.append(f"{_name(key)}: {_figure(a)} was stored, {_figure(b)} now")
    return said


def _kind(row: Row) -> tuple[str, bool]:
    """What must be equal. Recovered and missed may change places where the interval touches chance."""
    outcome = row.outcome
    loose = outcome.verdict in ("recovered", "missed") or (row.control and outcome.recovery is not None)
    return ("measured" if loose else outcome.verdict), _met(outcome)


def _within(a: Outcome, b: Outcome) -> bool:
    """Whether the figure of `a` lies in the interval of `b`."""
    if a.recovery is None or b.recovery is None:
        return a.recovery is None and b.recovery is None
    low = b.recovery if b.low is None else b.low
    high = b.recovery if b.high is None else b.high
    return low - SLACK <= a.recovery <= high + SLACK


def _figure(outcome: Outcome) -> str:
    if outcome.recovery is None:
        return f"{outcome.verdict}, no recovery"
    ends = "" if outcome.low is None else f" [{outcome.low:.3f}, {outcome.high:.3f}]"
    return f"{outcome.measure} {outcome.recovery:.3f}{ends}"


def _name(key: tuple[str, str, str, str]) -> str:
    verb, method, truth, variant = key
    return f"{verb} {method} on {truth}{f' ({variant})' if variant else ''}"


def _flat(row: Row) -> dict[str, Any]:
    data = asdict(row)
    outcome = data.pop("outcome")
    return {**{k: data[k] for k in ("verb", "method", "truth", "variant", "kind", "control")}, **outcome,
            "seconds": row.seconds, "memory": row.memory}  # fmt: skip


def _row(entry: Mapping[str, Any]) -> Row:
    outcome = {name: entry[name] for name in Outcome.__dataclass_fields__ if name in entry}
    own = ("verb", "method", "truth", "variant", "kind", "control", "seconds", "memory")
    return Row(**{name: entry[name] for name in own}, outcome=Outcome(**outcome))

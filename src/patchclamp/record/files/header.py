"""The first row of a text table: the names of its columns, or its first sample."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from patchclamp.base.errors import PatchclampError

FIXED = ("time", "run", "group", "label", "trial", "repeat")
_LOOK = 50  # rows below the first one that are looked at
_NOTHING = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none"}


@dataclass(frozen=True)
class FirstRow:
    """What the first row of a text table is, and why in words where text above numbers does not already say it."""

    header: bool
    why: str | None


def first_row(path: Path, separator: str, header: bool | None = None) -> FirstRow:
    """Whether the first row names the columns; `header` decides where it is given, else these rules in their order.

    1. A word of the schema (time, label, unit ...), or text above a number: names.
    2. All cells in quotes, and no other cell: names, be they numbers.
    3. Three or more whole numbers that count from 0 or 1, above a fraction: names.
    4. Other whole numbers that count from 0 or 1, or whole numbers without a repeat above nothing but fractions: refused,
       since units 12, 17, 33 and a first sample 12, 17, 33 look alike.
    5. Numbers: the first sample. No number at all: names.

    Cells that are empty or missing, and text above text, say nothing.

    Raises
    ------
    PatchclampError
        See rule 4.
    """
    if header is not None:
        return FirstRow(header, ("names" if header else "a sample") + ", as was said")
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [
            line for line, _ in zip((line for line in file if line.strip()), range(_LOOK + 1), strict=False)
        ]
    rows = list(csv.reader(lines, delimiter=separator)) or [[]]
    cells = [cell.strip() for cell in rows[0]]
    columns = [[row[i].strip() for row in rows[1:] if i < len(row)] for i in range(len(cells))]
    told = [i for i, cell in enumerate(cells) if _number(cell)]
    named = any(cell in (*FIXED, "unit") for cell in cells)
    if named or not told or any(_names(c, below) for c, below in zip(cells, columns, strict=True)):
        return FirstRow(True, None)
    shown = ", ".join(cells[i] for i in told[:3]) + (", ..." if len(told) > 3 else "")
    if _quoted(lines[0], separator) and len(lines) > 1 and '"' not in "".join(lines[1:]):
        return FirstRow(True, f"names ({shown}), since it alone is in quotes")
    if not all(cells[i].isdecimal() for i in told) or len({cells[i] for i in told}) < len(told):
        return _sample(shown)
    counts = [int(cells[i]) for i in told] in (list(range(len(told))), list(range(1, len(told) + 1)))
    fractions = [
        any(_number(cell) and not cell.lstrip("+-").isdecimal() for cell in columns[i]) for i in told
    ]
    if counts and len(told) > 2 and any(fractions):
        return FirstRow(True, f"names ({shown}), since it counts the columns")
    if counts or all(fractions):
        raise PatchclampError(
            f"{path}: its first row ({shown}) may be the names of columns or the first sample; say which with header=True "
            "or header=False (--header or --no-header)"
        )
    return _sample(shown)


def _sample(shown: str) -> FirstRow:
    return FirstRow(False, f"a sample ({shown}), since it holds numbers; columns are named 0, 1, 2 ...")


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.lower() not in _NOTHING


def _names(cell: str, below: list[str]) -> bool:
    """Whether this is text above a number."""
    return not _number(cell) and cell.lower() not in _NOTHING and any(map(_number, below))


def _quoted(line: str, separator: str) -> bool:
    cell = r'\s*"(?:[^"]|"")*"\s*'
    return re.fullmatch(f"{cell}(?:{re.escape(separator)}{cell})*", line) is not None

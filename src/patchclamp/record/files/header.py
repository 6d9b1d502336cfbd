"""A text table and its first row: the names of its columns, or its first sample."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from patchclamp.base.errors import PatchclampError

FIXED = ("time", "run", "group", "label", "trial", "repeat")
_LOOK = 50  # rows below the first one that are looked at
_NOTHING = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none"}


@dataclass(frozen=True)
class FirstRow:
    """What the first row of a text table is, and why in words where text above numbers does not already say it."""

    header: bool
    why: str | None


def text_table(
    path: Path, separator: str, header: bool | None = None, skip: Iterable[str] = ()
) -> tuple[pd.DataFrame, dict[str, str]]:
    """A text table as a whole, and what is not plain of its names: whether the first row is one, a column left out.

    Rows may be one cell longer than the names where the first cell is the name of the row, as R writes it: text, or the
    row's number.

    Raises
    ------
    PatchclampError
        For columns of equal names (of which pandas makes others) but for those of `skip`, and for rows longer than the
        first one, of which pandas takes the first cell for the name of the row and moves the others by one.
    """
    first = first_row(path, separator, header)
    rows = _cells(path, separator)[:2]
    if first.header:
        refuse_equal([name for name in rows[0] if name and name not in set(skip)], path)
    # A list of whole numbers is a RangeIndex as well, be it the default or not.
    longer = first.header and len(rows) > 1 and len(rows[1]) > len(rows[0])
    frame = pd.read_csv(path, sep=separator, header=0 if first.header else None)
    facts = {"first_row": first.why} if first.why else {}
    if isinstance(frame.index, pd.MultiIndex):
        raise PatchclampError(
            f"{path}: its rows have {frame.index.nlevels} cells more than its first row has names"
        )
    if longer or not isinstance(frame.index, pd.RangeIndex):
        names = all(isinstance(name, str) for name in frame.index)
        if not names and not (len(frame) > 1 and _counts(frame.index)):
            raise PatchclampError(
                f"{path}: its rows have one cell more than its first row has names, and the first cell ({frame.index[0]} in "
                "the first) neither names nor counts the rows; give each column a name, and take separators off the ends of "
                "lines"
            )
        facts["left_out"] = "the first column: it has no name (names of rows)"
    elif first.header and str(frame.columns[0]) == "Unnamed: 0" and _counts(frame.iloc[:, 0]):
        frame = frame.iloc[:, 1:]
        facts["left_out"] = "the first column: it has no name and counts the rows"
    return frame.set_axis([str(name) for name in frame.columns], axis=1), facts


def refuse_equal(names: Iterable[str], path: Path) -> None:
    """Refuse columns of equal names."""
    names = list(names)
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise PatchclampError(
            f"{path}: {names.count(twice[0])} columns are called {twice[0][:60]!r}; give each a name of its own"
        )


def _counts(column: Any) -> bool:
    """Whether it is the number of the row, from 0 or 1."""
    values = column.to_numpy()
    return bool(
        values.dtype.kind in "iu" and any((values == range(i, len(values) + i)).all() for i in (0, 1))
    )


def _cells(path: Path, separator: str) -> list[list[str]]:
    """The first rows."""
    rows = list(csv.reader(_lines(path), delimiter=separator)) or [[]]
    return [[cell.strip() for cell in row] for row in rows]


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [
            line for line, _ in zip((line for line in file if line.strip()), range(_LOOK + 1), strict=False)
        ]


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
    lines, rows = _lines(path), _cells(path, separator)
    cells = rows[0]
    columns = [[row[i] for row in rows[1:] if i < len(row)] for i in range(len(cells))]
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

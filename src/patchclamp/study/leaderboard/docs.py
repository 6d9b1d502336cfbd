"""Put the stored leaderboard into the pages of the documentation; a test fails when a page is stale.

``python -m patchclamp.study.leaderboard.docs`` fills, in all pages of ``docs/``::

    <!-- leaderboard: METHOD -->           what the method recovers
    <!-- leaderboard table: VERB -->       a row for each method of a verb
    <!-- leaderboard rows: VERB TRUTH, TRUTH -->   methods by truths, recovery with its interval

each up to the next ``<!-- /leaderboard -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.study.leaderboard.base import Row
from patchclamp.study.leaderboard.board import Board
from patchclamp.study.leaderboard.page import figure, of_so_many

MARK = re.compile(
    r"(<!-- leaderboard(?P<what>| table| rows): (?P<name>[^>]+?) -->\n).*?(<!-- /leaderboard -->)", re.DOTALL
)
STORED = "leaderboard.json"


def filled(text: str, board: Board) -> str:
    """Return a page with every block made anew from a board.

    Raises
    ------
    PatchclampError
        For a block that names a verb, method or truth that the board does not have.
    """
    make: Mapping[str, Callable[[str, Board], str]] = {
        "": method_block,
        " table": verb_table,
        " rows": truth_table,
    }
    return MARK.sub(lambda found: found[1] + make[found["what"]](found["name"], board) + found[4], text)


def method_block(name: str, board: Board) -> str:
    """One method's figures in a sentence or two."""
    found = [m for m in board.summaries() if m["method"] == name]
    if not found:
        raise _unknown("method", name, [row.method for row in board.rows])
    parts = []
    for m in found:
        if m["found_of"]:
            parts.append(
                f"better than chance in {of_so_many(m, 'found')} runs (median {figure(m['median'])}; weakest "
                f"{figure(m['weakest_recovery'])} on `{m['weakest']}`)"
            )
        if m["exact_of"]:
            parts.append(f"{of_so_many(m, 'exact')} closed forms met")
        if m["clean_of"]:
            parts.append(f"{of_so_many(m, 'clean')} negative controls clean")
        parts += [f"{what} {m[what]} times" for what in ("refused", "failed") if m[what]]
    return f"*[Leaderboard](leaderboard.md)*: {'; '.join(parts)}.\n"


def verb_table(verb: str, board: Board) -> str:
    """A row for each method of a verb."""
    part = board.of(verb)
    if not part.rows:
        raise _unknown("verb", verb, list(board.verbs))
    lines = [
        "| method | better than chance | median | weakest | closed forms met | controls clean | refused | failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for m in part.summaries():
        weakest = f"{figure(m['weakest_recovery'])} `{m['weakest']}`" if m["weakest"] else "–"
        lines.append(
            f"| `{m['method']}` | {of_so_many(m, 'found')} | {figure(m['median'])} | {weakest} | "
            f"{of_so_many(m, 'exact')} | {of_so_many(m, 'clean')} | {m['refused']} | {m['failed']} |"
        )
    return "\n".join(lines) + "\n"


def truth_table(names: str, board: Board) -> str:
    """Methods by some truths: recovery with its interval."""
    verb, _, listed = names.partition(" ")
    truths = [name.strip() for name in listed.split(",")]
    part = board.of(verb)
    lost = [truth for truth in truths if truth not in {row.truth for row in part.rows}]
    if lost:
        raise _unknown("truth", lost[0], [row.truth for row in part.rows])
    rows: dict[str, dict[str, Row]] = {}
    for row in part.rows:
        if row.truth in truths and row.outcome.recovery is not None:
            rows.setdefault(f"`{row.method}` {row.variant}".strip(), {})[row.truth] = row
    lines = [f"| | {' | '.join(truths)} |", "| --- |" + " --- |" * len(truths)]
    lines += [
        f"| {name} | {' | '.join(_cell(found.get(t)) for t in truths)} |" for name, found in rows.items()
    ]
    return "\n".join(lines) + "\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    o = row.outcome
    return figure(o.recovery) + (f" [{figure(o.low)}, {figure(o.high)}]" if o.low is not None else "")


def _unknown(kind: str, name: str, known: list[str]) -> PatchclampError:
    return PatchclampError(
        f"{kind} {name!r}: it is not in the stored leaderboard{did_you_mean(name, set(known))}"
    )


def main(folder: Path = Path("docs")) -> None:
    """Rewrite the pages of a folder from the table stored there."""
    board = Board.load(folder / STORED)
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = filled(text, board)
        if new != text:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))

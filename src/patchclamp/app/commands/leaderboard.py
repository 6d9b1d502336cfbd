"""``patchclamp leaderboard [VERB]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchclamp.app.commands import common
from patchclamp.base.progress import shown

if TYPE_CHECKING:
    from rich.table import Table

    from patchclamp.study.leaderboard import Board, Row


ROWS = ("method", "truth", "verdict", "recovery", "error", "s", "MB")
SUMMARY = ("method", "found", "median", "weakest", "exact", "clean", "refused, failed", "s")


def leaderboard(
    verb: Annotated[
        str | None, typer.Argument(help="measure, decompose, describe, attribute or connect; all by default.")
    ] = None,
    truths: Annotated[
        list[str] | None, typer.Option("--truth", help="A truth by name, fast or slow; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--method", help="A method by name; may be repeated.")
    ] = None,
    slow: Annotated[bool, typer.Option("--all", help="Slow truths and methods too.")] = False,
    seed: common.SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="HTML page to write.")] = None,
    as_json: common.JsonOption = False,
) -> int:
    """Run all of measure, decompose, describe, attribute, connect on every truth that fits: recovery, time, memory, failures."""
    from patchclamp.base.files import way_out, write_text
    from patchclamp.study.leaderboard import leaderboard as run
    from patchclamp.study.leaderboard import render

    for path in (out, page):
        if path is not None:
            way_out(path, "file")
    with shown(not as_json) as tell:
        board = run(verb, only=only or None, truths=truths or None, slow=slow, seed=seed, progress=tell)
    if out is not None:
        board.save(out)
    if page is not None:
        write_text(page, render(board))
    if as_json:
        common.emit_json(board.to_json())
    else:
        _show(board)
    return 1 if any(row.outcome.verdict == "failed" for row in board.rows) else 0


def _show(board: Board) -> None:
    console = common.console()
    for verb in board.verbs:
        part = board.of(verb)
        every = [_cells(row) for row in part.rows]
        console.print(_whole(common.table(ROWS, every, verb, right=(4, 5, 6))))
        short = [_summary(m) for m in part.summaries()]
        console.print(_whole(common.table(SUMMARY, short, f"{verb}, by method", right=(1, 2, 4, 5, 6, 7))))
    for verdict, said, n, on in board.failures():
        times = "once" if n == 1 else f"{n} times"
        console.print(f"{verdict} {times} ({', '.join(on)}): {said}", markup=False)
    console.print(
        "recovery: figure [95 % interval] and, where it is not one half, that of chance; error: largest distance from a "
        "closed form; found: better than chance; exact: closed forms met; clean: controls in which nothing was found"
    )
    console.print(f"{board}; memory: {board.about['memory']}", markup=False, style="dim")


def _whole(table: Table) -> Table:
    """Fold names where the terminal is narrow: one cut short names nothing."""
    for column in table.columns:
        column.overflow = "fold"
    return table


def _summary(m: dict[str, Any]) -> tuple[Any, ...]:
    from patchclamp.study.leaderboard.page import figure, of_so_many

    return (
        m["method"],
        of_so_many(m, "found"),
        figure(m["median"]),
        f"{m['weakest']} ({figure(m['weakest_recovery'])})" if m["weakest"] else "–",
        of_so_many(m, "exact"),
        of_so_many(m, "clean"),
        f"{m['refused']}, {m['failed']}",
        figure(m["seconds"]),
    )


def _cells(row: Row) -> tuple[Any, ...]:
    from rich.text import Text

    from patchclamp.study.leaderboard.base import BAD, GOOD
    from patchclamp.study.leaderboard.page import figure, scientific

    o = row.outcome
    recovery = "" if o.recovery is None else figure(o.recovery)
    if o.low is not None:
        recovery += f" [{figure(o.low)}, {figure(o.high)}]"
    if o.recovery is not None and o.chance != 0.5:
        recovery += f" ({figure(o.chance)})"
    style = "green" if o.verdict in GOOD else "red" if o.verdict in BAD else "dim"
    return (
        row.method,
        f"{row.truth} {row.variant}{' (control)' if row.control else ''}",
        Text(o.verdict, style=style),
        recovery,
        "" if o.error is None else scientific(o.error),
        figure(row.seconds, 2),
        figure(row.memory, 0),
    )

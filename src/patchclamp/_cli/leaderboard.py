"""``patchclamp leaderboard [VERB]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchclamp._cli import common

if TYPE_CHECKING:
    from patchclamp.study.leaderboard import Board, Row


def leaderboard(
    verb: Annotated[str | None, typer.Argument(help="attribute, decompose, ...; all by default.")] = None,
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
    """Run every method on every truth that fits: recovery, time, memory, failures by name."""
    from patchclamp.study.jsonfile import write_text
    from patchclamp.study.leaderboard import leaderboard as run
    from patchclamp.study.leaderboard import render

    with common.progress(quiet=as_json) as step:
        board = run(verb, only=only or None, truths=truths or None, slow=slow, seed=seed, progress=step)
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
    from patchclamp.study.leaderboard.page import figure

    console = common.console()
    columns = ("method", "truth", "variant", "recovery [95%]", "chance", "error", "s", "MB", "verdict")
    for verb in board.verbs:
        part = board.of(verb)
        rows = [_cells(row) for row in part.rows]
        console.print(common.table(columns, rows, verb, right=(3, 4, 5, 6, 7)))
        short = [
            (
                m["method"], f"{m['found']} of {m['found_of']}", figure(m["median"]),
                f"{m['weakest']} ({figure(m['weakest_recovery'])})" if m["weakest"] else "–",
                f"{m['exact']} of {m['exact_of']}", f"{m['clean']} of {m['clean_of']}",
                m["refused"], m["failed"], figure(m["seconds"]),
            )
            for m in part.summary().to_dict("records")
        ]  # fmt: skip
        heads = ("method", "better than chance", "median", "weakest", "closed forms", "controls clean", "refused", "failed", "s")  # fmt: skip
        console.print(common.table(heads, short, f"{verb}, by method", right=(1, 2, 4, 5, 6, 7, 8)))
    for verdict, said, n, on in board.failures():
        times = "once" if n == 1 else f"{n} times"
        console.print(f"{verdict} {times} ({', '.join(on)}): {said}", markup=False)
    console.print(f"{board}; memory: {board.about['memory']}", markup=False, style="dim")


def _cells(row: Row) -> tuple[Any, ...]:
    from rich.text import Text

    from patchclamp.study.leaderboard.base import BAD, GOOD
    from patchclamp.study.leaderboard.page import figure, scientific

    o = row.outcome
    interval = "" if o.low is None else f" [{figure(o.low)}, {figure(o.high)}]"
    style = "green" if o.verdict in GOOD else "red" if o.verdict in BAD else "dim"
    return (
        row.method,
        f"{row.truth}{' (control)' if row.control else ''}",
        row.variant,
        figure(o.recovery) + interval,
        figure(o.chance),
        scientific(o.error),
        figure(row.seconds, 3),
        figure(row.memory, 1),
        Text(o.verdict, style=style),
    )

"""How far a long call is: one kind of function that all of them tell, and the line on the terminal."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float, "float | None"], None]
"""Told what is being done, how much of it is done, and of how much (None where that is not known)."""


def silent(text: str, done: float = 0, total: float | None = None) -> None:
    """Tell nobody."""


@contextmanager
def shown(progress: bool | Progress | None, summary: str = "", unit: str = "") -> Iterator[Progress]:
    """Give the function to tell: a caller's own, a line on the terminal, or `silent`.

    Parameters
    ----------
    progress
        True: a bar on standard error, if that is a terminal; a function: itself; False or None: silence.
    summary
        Printed before the bar.
    unit
        What is counted, such as ``"tokens"``; the bar then says how many, how fast, and the time left.

    Examples
    --------
    >>> with shown(lambda text, done, total: print(f"{text}: {done} of {total}")) as tell:
    ...     tell("reading", 1, 2)
    reading: 1 of 2
    """
    if callable(progress):
        yield progress
        return
    if not progress:
        yield silent
        return
    state = random.getstate()  # of which `rich` draws when it is imported
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    random.setstate(state)
    console = Console(stderr=True)
    if not console.is_terminal:
        yield silent
        return
    if summary:
        console.print(summary, highlight=False)
    left = TimeRemainingColumn() if unit else TimeElapsedColumn()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[pace]}"),
        left,
    )
    with Bar(*columns, console=console, transient=not unit) as bar:
        task = bar.add_task("", total=None, pace="")

        def tell(text: str, done: float = 0, total: float | None = None) -> None:
            speed = bar.tasks[0].speed or 0.0
            pace = f"{done:,.0f}/{total or 0:,.0f} {unit}, {speed:,.0f}/s, left" if unit else ""
            bar.update(task, description=text, completed=done, total=total, pace=pace)

        yield tell

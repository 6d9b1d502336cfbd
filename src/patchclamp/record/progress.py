"""A line on the terminal: how far, how fast, how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]


@contextmanager
def reporting(
    progress: bool | Report, total: int, title: str, summary: str
) -> Iterator[Callable[[int], None]]:
    """Give a function that is told the tokens done so far.

    Parameters
    ----------
    progress
        True: a bar on standard error, if that is a terminal, after the plan; a function of (done, total): that is
        called instead; False: silence.
    total
        Tokens that the model will compute.
    title, summary
        What is recorded; the plan, printed first.
    """
    if callable(progress):
        yield lambda done: progress(done, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not progress or not console.is_terminal:
        yield lambda done: None
        return
    console.print(summary, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens, {task.fields[rate]:,.0f}/s, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, rate=0.0)

        def report(done: int) -> None:
            bar.update(task, completed=done, rate=bar.tasks[0].speed or 0.0)

        yield report

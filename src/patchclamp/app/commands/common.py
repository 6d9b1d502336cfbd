"""What the commands share: options, opening a model with a word of progress, and printing as a table or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from patchclamp.subjects.language import LanguageModel

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help='"smollm2", a Hugging Face id, a folder or a GGUF file.')
]
ModelArgument = Annotated[str, typer.Argument(help='"smollm2", a Hugging Face id, a folder or a GGUF file.')]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")
]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seed of items, bootstrap and random sets.")
]
HeaderOption = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="CSV, TSV: the first row names the columns, or is a sample; default: as it looks.",
        show_default=False,
    ),
]
AxesOption = Annotated[
    str | None, typer.Option("--axes", help='Arrays: the order of their axes, such as "unit sample".')
]
TaskArgument = Annotated[
    str, typer.Argument(help="A built-in task (see `patchclamp tasks`) or a JSONL file.")
]
ItemsOption = Annotated[int, typer.Option("--items", "-n", min=2, help="Items of the task to use.")]
CorruptionOption = Annotated[
    str | None, typer.Option(help="How corrupted inputs are made; default: the task's own.")
]


def console(stderr: bool = False) -> Console:
    """Return a console; progress and words go to stderr, results to stdout."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def open_model(model: str, device: str, dtype: str) -> Any:
    """Open a subject, with a spinner on stderr while it loads."""
    from patchclamp.subjects import open_subject

    with console(stderr=True).status(f"opening {model}"):
        return open_subject(model, device=device, dtype=dtype)


def said(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def notes(about: Mapping[str, Any], screen: Console) -> None:
    """Print what was found out of a file that its content does not say itself."""
    for name in ("first_row", "left_out", "axes"):
        if name in about:
            screen.print(f"{name.replace('_', ' ')}: {about[name]}", markup=False)


def load(task: str, subject: LanguageModel, items: int, seed: int, corruption: str | None) -> Any:
    """Load a task for a subject's tokenizer."""
    from patchclamp.nouns.tasks.builtin import load_task

    return load_task(task, subject.tokenizer, n=items, seed=seed, corruption=corruption)


def emit_json(data: Any) -> None:
    """Print `data` as JSON on stdout; numbers that are not finite become null."""
    from patchclamp.base.files import plain

    typer.echo(json.dumps(plain(data), indent=1, ensure_ascii=False))


def interval(low: float, high: float) -> str:
    """An interval in a table; none where it is NaN (fewer than 8 groups of items)."""
    return "none" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", right: Sequence[int] = ()
) -> Table:
    """Return a quiet table: no box but one rule; columns in `right` are aligned right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from patchclamp.base.errors import printable

    found = Table(
        title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for number, column in enumerate(columns):
        # A number is folded where the terminal is narrow, never cut: half a number is a wrong one.
        kind: dict[str, Any] = {"justify": "right", "overflow": "fold"} if number in right else {}
        found.add_column(column, header_style="dim", **kind)
    rows = list(rows)
    if rows and rows[0] and columns[0] == "unit":  # an address cut short names nothing
        found.columns[0].min_width = max(len(str(row[0])) for row in rows)
    for row in rows:
        found.add_row(*[cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in row])
    return found

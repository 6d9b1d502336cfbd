"""Timing side by side: every figure is a ratio against a named baseline measured in the same run."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(candidates: Mapping[str, Callable[[], Any]], repeats: int = 3) -> dict[str, float]:
    """Median seconds of each candidate, run in turn so that a slow spell of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, call in candidates.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def save(name: str, rows: list[dict[str, Any]], notes: str = "") -> None:
    """Write the rows of a benchmark with the machine they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    about = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "notes": notes,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()])
    Console(width=110).print(table)

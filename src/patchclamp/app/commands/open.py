"""``patchclamp open FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchclamp.app.commands import common


def open_file(
    file: Annotated[
        Path,
        typer.Argument(
            help="NWB, FIF, EDF, BDF, .vhdr, .set, NIfTI, .mat, .npz, .npy, CSV, Parquet, or a store."
        ),
    ],
    what: Annotated[
        str | None, typer.Option("--what", "-w", help="One thing of a file: show its units too.")
    ] = None,
    format: Annotated[str | None, typer.Option("--format", help="Where the suffix misleads.")] = None,
    header: common.HeaderOption = None,
    axes: common.AxesOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Say what a file of recorded activity holds, without reading its data."""
    from patchclamp.record import file_contents, open_recording

    options = common.said(header=header, axes=axes)
    found = file_contents(file, format=format, **options)
    units = None
    if what is not None:
        opened = open_recording(file, what, format=format, **options)
        units = opened.units()
    if as_json:
        items = [
            {"name": i.name, "kind": i.kind, "shape": list(i.shape), "about": i.about} for i in found.items
        ]
        facts = {"path": found.path, "format": found.format, "items": items, "about": dict(found.about)}
        facts |= {"tables": dict(found.tables)}
        facts |= {"behaviour": {name: list(shape) for name, shape in found.behaviour.items()}}
        if units is not None:
            facts["units"] = units.to_dict("records")
        common.emit_json(facts)
        return
    rows: list[tuple[object, ...]] = [
        (i.name, i.kind, " x ".join(map(str, i.shape)), i.about) for i in found.items
    ]
    rows += [(name, "table", f"{n} rows", "") for name, n in found.tables.items()]
    rows += [(name, "behaviour", " x ".join(map(str, shape)), "") for name, shape in found.behaviour.items()]
    screen = common.console()
    screen.print(common.table(("name", "kind", "shape", "about"), rows, f"{found.path}: {found.format}"))
    for key, value in found.about.items():
        screen.print(f"{key}: {value}", markup=False)
    if units is not None:
        shown = units.head(20)
        cells = [tuple(str(cell) for cell in row) for row in shown.itertuples(index=False)]
        screen.print(common.table(tuple(map(str, shown.columns)), cells, f"{len(units)} units"))

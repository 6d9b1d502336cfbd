"""``patchclamp measure SITES``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from patchclamp.app.commands import common
from patchclamp.app.commands.record import (
    BatchOption,
    BosOption,
    ContextOption,
    EmptyOption,
    FieldOption,
    LabelOption,
    LongOption,
    TextOption,
    reading,
)


def measure(
    sites: Annotated[str, typer.Argument(help="Addresses, or the folder or file of a recording.")],
    measures: Annotated[
        str, typer.Option("--measures", help="Names, comma-separated; a wrong one lists them.")
    ] = ("moments"),
    text: TextOption = "sample",
    model: common.ModelOption = "smollm2",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Parquet file for the table.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Units to print.")] = 10,
    sort: Annotated[str, typer.Option(help="Column to sort by; default: the first.")] = "",
    long: LongOption = "split",
    context: ContextOption = None,
    field: FieldOption = "text",
    label: LabelOption = "label",
    keep_sinks: BosOption = False,
    skip_empty: EmptyOption = False,
    batch_tokens: BatchOption = None,
    header: common.HeaderOption = None,
    axes: common.AxesOption = None,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Reduce activity to statistics in one pass over text, or over a recording."""
    from patchclamp.base.errors import PatchclampError, check_choice
    from patchclamp.base.files import way_out
    from patchclamp.measure import METHODS
    from patchclamp.nouns.recording.recording import Recording
    from patchclamp.record import measure_recording, record
    from patchclamp.record.files import open_recording

    names = [name for part in measures.split(",") if (name := part.strip())]
    if not names:
        raise PatchclampError(f"--measures {measures!r}: none is named; there are {', '.join(METHODS)}")
    for name in names:
        check_choice("measure", name, METHODS)
    chosen: dict[str, Any] = {name: METHODS[name] for name in names}
    if out is not None:
        way_out(out, "file")
    layout = common.said(header=header, axes=axes)
    if Path(sites).is_dir() or _is_file(sites):
        recording = open_recording(sites, **layout)
        if not isinstance(recording, Recording):
            raise PatchclampError(f"{sites}: spike trains; bin them first: open_recording(...).bin(width)")
        weights = any(method.needs for method in chosen.values())
        found = measure_recording(
            recording,
            chosen,
            common.open_model(model, device, dtype) if weights else None,
            content=not keep_sinks,
        )
        common.notes(recording.manifest, common.console(stderr=True))
    else:
        if layout:
            raise PatchclampError(
                f"--{min(layout)}: {sites} is no file; a model's activity has its axes from the model"
            )
        subject = common.open_model(model, device, dtype)
        options = reading(long, context, field, label, keep_sinks, skip_empty, batch_tokens)
        found = record(subject, text, sites, measures=chosen, progress=not as_json, **options)
    table = _table(found, list(chosen))
    if out is not None:
        from patchclamp.base.tables import write_frame

        write_frame(out, table)
    shown = _sorted(table, sort).head(top)
    if as_json:
        common.emit_json({"units": len(table), "table": shown.reset_index().to_dict("records")})
        return
    columns = ["unit", *shown.columns]
    rows = [
        (unit, *(f"{value:.4g}" for value in row))
        for unit, row in zip(shown.index, shown.to_numpy(), strict=True)
    ]
    title = f"{len(table):,} units, {', '.join(chosen)}"
    common.console().print(common.table(columns, rows, title, right=tuple(range(1, len(columns)))))


def _is_file(sites: str) -> bool:
    """Whether this is a file, or meant to be one: no address ends like a name of a format."""
    from patchclamp.base.errors import PatchclampError
    from patchclamp.record.files import FORMATS

    if Path(sites).is_file():
        return True
    if any(sites.lower().endswith(suffixes) for _, suffixes in FORMATS.values()):
        raise PatchclampError(f"{sites}: no such file")
    return False


def _table(recorded: Any, names: list[str]) -> Any:
    """Join the one-dimensional numeric results of all measures, a row a unit."""
    import numpy as np
    import pandas as pd

    columns: dict[str, Any] = {}
    index: Any = None
    for name in names:
        data = recorded.table(name)
        index = data["unit"].to_numpy()
        for variable, values in data.data_vars.items():
            if values.dims == ("unit",) and np.issubdtype(values.dtype, np.number):
                columns[variable if variable not in columns else f"{name}.{variable}"] = values.to_numpy()
    return pd.DataFrame(columns, index=pd.Index(index, name="unit"))


def _sorted(table: Any, column: str) -> Any:
    from patchclamp.base.errors import PatchclampError, check_choice

    if table.empty or not len(table.columns):
        raise PatchclampError("these measures give no number per unit to print; use them from Python")
    column = column or str(table.columns[0])
    check_choice("--sort", column, table.columns)
    return table.reindex(table[column].sort_values(ascending=False, kind="stable").index)

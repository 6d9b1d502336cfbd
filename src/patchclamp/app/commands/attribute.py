"""``patchclamp attribute TASK``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from patchclamp.app.commands import common


def attribute(
    task: common.TaskArgument,
    model: common.ModelOption = "smollm2",
    sites: Annotated[str, typer.Option(help="Addresses, such as head.*,mlp_act.20:30")] = "head.*",
    method: Annotated[
        str, typer.Option(help="Name of a method; a wrong one lists them.")
    ] = "integrated_gradients",
    positions: Annotated[str, typer.Option(help="sum, roles or each.")] = "sum",
    items: common.ItemsOption = 32,
    top: Annotated[int, typer.Option(min=1, help="Units to print.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Parquet file for the scores; facts go into FILE.json beside it.")
    ] = None,
    seed: common.SeedOption = 0,
    corruption: common.CorruptionOption = None,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Score units for a behaviour: positive raises the metric."""
    from patchclamp.attribute import METHODS
    from patchclamp.base.errors import check_choice
    from patchclamp.base.files import way_out
    from patchclamp.nouns.tasks.protocol import size_of
    from patchclamp.subjects.clamp.bench import as_units

    methods: dict[str, Callable[..., Any]] = dict(METHODS)
    check_choice("method", method, methods)
    if out is not None:
        way_out(out, "file")
        way_out(out.with_name(out.name + ".json"), "file")
    subject = common.open_model(model, device, dtype)
    found = as_units(subject, sites)
    loaded = common.load(task, subject, max(4 * items, 64), seed, corruption).split("train").take(items)
    with common.console(stderr=True).status(f"{method} over {len(found)} sites, {len(loaded)} items"):
        scores = methods[method](
            subject, loaded, found, **({} if positions == "sum" else {"positions": positions})
        )
    if out is not None:
        scores.save(out)
    table = scores.table(seed=seed)
    table = table.reindex(table.score.abs().sort_values(ascending=False, kind="stable").index).head(top)
    if as_json:
        facts = {
            "task": loaded.name,
            "method": scores.method,
            "metric": str(scores.metric),
            "items": len(loaded),
        }
        common.emit_json({**facts, "meta": scores.meta, "units": table.to_dict("records")})
        return
    where = "position" in table and positions != "sum"
    columns = ("unit", *(("position",) if where else ()), "score", "95% interval")
    rows = [
        (r.unit, *((r.position,) if where else ()), f"{r.score:+.3f}", common.interval(r.low, r.high))
        for r in table.itertuples()
    ]
    common.console().print(
        common.table(columns, rows, f"{loaded.name}, {method}, {size_of(loaded)}", right=(len(columns) - 2,))
    )

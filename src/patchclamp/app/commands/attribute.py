"""``patchclamp attribute TASK``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from patchclamp.app.commands import common
from patchclamp.base.estimators import DEFAULT


def attribute(
    task: common.TaskArgument,
    model: common.ModelOption = "smollm2",
    sites: Annotated[str, typer.Option(help="Addresses, such as head.*,mlp_act.20:30")] = "head.*",
    method: Annotated[
        str, typer.Option(help="Name of the method to begin with; a wrong one lists them.")
    ] = DEFAULT,
    direction: Annotated[
        str, typer.Option(help="denoising (is the unit enough?) or noising (is it needed?).")
    ] = "denoising",
    positions: Annotated[str, typer.Option(help="sum, roles or each.")] = "sum",
    check: Annotated[
        int,
        typer.Option(
            min=0,
            help="Units of each point to patch exactly: where the method does not agree, a better one takes its "
            "place. 0: none, and the method is used as it is.",
        ),
    ] = 12,
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
    from patchclamp.base.errors import PatchclampError, check_choice
    from patchclamp.base.files import way_out
    from patchclamp.nouns.tasks.protocol import size_of
    from patchclamp.study.checked import checked_scores
    from patchclamp.subjects.clamp.bench import as_units

    check_choice("method", method, METHODS)
    check_choice("direction", direction, ("denoising", "noising"))
    check_choice("positions", positions, ("sum", "roles", "each"))
    if direction == "noising" and method == "direct_logit_attribution":
        raise PatchclampError(f"{method} compares no two runs and has no direction; leave out --direction")
    if check == 1:
        raise PatchclampError("--check 1: no agreement can be told from one unit; give 2 or more, or 0")
    if out is not None:
        way_out(out, "file")
        way_out(out.with_name(out.name + ".json"), "file")
    subject = common.open_model(model, device, dtype)
    found = as_units(subject, sites)
    loaded = common.load(task, subject, max(4 * items, 64), seed, corruption).split("train").take(items)
    where = cast("Literal['sum', 'roles', 'each']", positions)
    with common.console(stderr=True).status(f"{method} over {len(found)} sites, {len(loaded)} items"):
        checked = checked_scores(
            subject,
            loaded,
            found,
            method,
            direction=cast("Literal['denoising', 'noising']", direction),
            positions=where,
            n=check,
            items=16 if where == "sum" else 4,  # every position is a run of its own
            exact_positions=where,
            seed=seed,
        )
    scores = checked.scores
    if out is not None:
        scores.save(out)
    table = scores.table(seed=seed)
    table = table.reindex(table.score.abs().sort_values(ascending=False, kind="stable").index).head(top)
    if as_json:
        facts = {
            "task": loaded.name,
            "method": scores.method,
            "direction": scores.direction,
            "metric": str(scores.metric),
            "items": len(loaded),
        }
        facts |= {"order": "by size", "check": checked.to_json()}
        common.emit_json({**facts, "meta": scores.meta, "units": table.to_dict("records")})
        return
    columns = ("unit", *(("position",) if positions != "sum" else ()), "score", "95% interval")
    rows = [
        (
            r.unit,
            *((r.position,) if positions != "sum" else ()),
            f"{r.score:+.3f}",
            common.interval(r.low, r.high),
        )
        for r in table.itertuples()
    ]
    kind = "" if scores.direction == "none" else f" ({scores.direction})"
    title = f"{loaded.name}, {scores.method}{kind}, {size_of(loaded)}"
    screen = common.console()
    screen.print(common.table(columns, rows, title, right=(len(columns) - 2,)))
    screen.print("- Largest first by size; + raises the metric, - lowers it.")
    for sentence in checked.sentences():
        screen.print(f"- {sentence}")

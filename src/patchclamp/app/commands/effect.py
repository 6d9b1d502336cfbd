"""``patchclamp effect TASK UNITS``."""

from __future__ import annotations

from typing import Annotated

import typer

from patchclamp.app.commands import common


def effect(
    task: common.TaskArgument,
    units: Annotated[str, typer.Argument(help="Addresses, such as 'head.23[3], mlp_act.12[1,5]'.")],
    model: common.ModelOption = "smollm2",
    kind: Annotated[str, typer.Option(help="zero, mean, resample, scale, clamp, patch.")] = "mean",
    value: Annotated[float | None, typer.Option(help="For scale and clamp.")] = None,
    positions: Annotated[str, typer.Option(help='"all" or a role such as end.')] = "all",
    by: Annotated[str, typer.Option(help="Means by template, position or data.")] = "template",
    source: Annotated[
        str,
        typer.Option(
            help="Means and resampled activity of clean or corrupted items; corrupted where there are."
        ),
    ] = "",
    control: Annotated[str, typer.Option(help='"matched" or "none".')] = "matched",
    n_control: Annotated[int, typer.Option(min=1, max=10_000, help="Random sets.")] = 20,
    items: common.ItemsOption = 64,
    seed: common.SeedOption = 0,
    corruption: common.CorruptionOption = None,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Change units on test items and measure what becomes of the behaviour, beside matched random units."""
    from rich.text import Text

    from patchclamp.base.errors import PatchclampError
    from patchclamp.intervene import effect as measure_effect
    from patchclamp.nouns.intervention import Intervention

    if control not in ("matched", "none"):
        raise PatchclampError(f'--control {control}: give "matched" or "none"')
    subject = common.open_model(model, device, dtype)
    chosen = subject.units(units)
    loaded = common.load(task, subject, max(4 * items, 64), seed, corruption)
    if not source and all(item.corrupted for item in loaded.items):
        source = "corrupted"
    change = Intervention(
        units=chosen, kind=kind, positions=positions, value=value, seed=seed, by=by, source=source
    )
    with common.console(stderr=True).status(f"{kind} {chosen} on {items} items, {n_control} random sets"):
        found = measure_effect(
            subject,
            loaded.split("test").take(items),
            [change],
            control="matched" if control == "matched" else None,
            n_control=n_control,
            seed=seed,
            reference=loaded.split("train").take(items),
        )
    if as_json:
        common.emit_json(found.to_json())
        return
    screen = common.console()
    screen.print(Text(str(change), style="bold"))
    e = found.estimate
    columns = (found.metric, "as it is", "changed", "effect", "95% interval", "share")
    row = ("units", f"{found.baseline:+.3f}", f"{found.changed:+.3f}", f"{e.value:+.3f}")
    whole = found.stated_share
    rows = [(*row, e.span("+.3f"), "none" if whole is None else f"{whole:.0%}")]
    if e.null is not None:
        c = e.null
        rows.append(
            (
                f"{c.n} random sets",
                "",
                "",
                f"{c.mean:+.3f}",
                f"{c.low:+.3f} to {c.high:+.3f}",
                "none" if whole is None else f"{c.mean / found.baseline:.0%}",
            )
        )
    screen.print(common.table(columns, rows, f"{loaded.name}, test items: {e.size}", right=(1, 2, 3, 5)))
    if e.null is not None and e.null.p is not None:
        screen.print(Text(f"p = {e.null.p:.3g} against the random sets, drawn by {e.null.kind}", style="dim"))

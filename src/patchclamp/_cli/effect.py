"""``patchclamp effect TASK UNITS``."""

from __future__ import annotations

from typing import Annotated

import typer

from patchclamp._cli import common


def effect(
    task: common.TaskArgument,
    units: Annotated[str, typer.Argument(help="Addresses, such as 'head.23[3], mlp_act.12[1,5]'.")],
    model: common.ModelOption = "smollm2",
    kind: Annotated[str, typer.Option(help="zero, mean, resample, scale, clamp, patch.")] = "mean",
    value: Annotated[float | None, typer.Option(help="For scale and clamp.")] = None,
    positions: Annotated[str, typer.Option(help='"all" or a role such as end.')] = "all",
    control: Annotated[str, typer.Option(help='"matched" or "none".')] = "matched",
    n_control: Annotated[int, typer.Option(min=1, help="Random sets.")] = 20,
    items: common.ItemsOption = 64,
    seed: common.SeedOption = 0,
    corruption: common.CorruptionOption = None,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Change units on test items and measure what becomes of the behaviour, beside matched random units."""
    from patchclamp.intervene import effect as measure_effect
    from patchclamp.intervention import Intervention

    subject = common.open_model(model, device, dtype)
    chosen = subject.units(units)
    loaded = common.load(task, subject, max(4 * items, 64), seed, corruption)
    change = Intervention(units=chosen, kind=kind, positions=positions, value=value, seed=seed)
    with common.console(stderr=True).status(f"{kind} {chosen} on {items} items, {n_control} random sets"):
        found = measure_effect(
            subject,
            loaded.split("test").take(items),
            [change],
            control=None if control == "none" else control,
            n_control=n_control,
            seed=seed,
            reference=loaded.split("train").take(items),
        )
    if as_json:
        common.emit_json(found.to_json())
        return
    print_effect(found)


def print_effect(found: object) -> None:
    """Print an effect in three lines."""
    e: object = found
    share = e.estimate / e.baseline  # type: ignore[attr-defined]
    screen = common.console()
    screen.print(f"{e.units}", style="bold", markup=False)  # type: ignore[attr-defined]
    screen.print(
        f"{e.metric}: {e.baseline:.3f} -> {e.changed:.3f}  (effect {e.estimate:+.3f}, {e.low:+.3f} to {e.high:+.3f}; {share:.0%})"
    )  # type: ignore[attr-defined]

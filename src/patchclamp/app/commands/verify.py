"""``patchclamp verify claims.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchclamp.app.commands import common
from patchclamp.base.progress import shown

COLOURS = {"holds": "green", "fails": "bold red", "cannot run": "yellow", "not comparable": "yellow"}


def verify(
    claims: Annotated[Path, typer.Argument(help="A claims.json that `patchclamp study` wrote.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Measure on this model instead of the one in the claims."),
    ] = None,
    match: Annotated[
        Path | None,
        typer.Option(help="JSON object: a unit of the claims' model -> the unit of MODEL matched to it."),
    ] = None,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Measure every claim again: holds, fails, cannot run or (on another model) not comparable.

    Exit status 1 if any fails, 2 if none could be measured.
    """
    from rich.text import Text

    from patchclamp.base.errors import PatchclampError
    from patchclamp.base.files import read_json
    from patchclamp.study.claims import read_claims
    from patchclamp.study.verify import verify_claims

    found = read_claims(claims)
    matched = None if match is None else read_json(match)
    if matched is not None and not isinstance(matched, dict):
        raise PatchclampError(f'{match}: give a JSON object such as {{"mlp_act.3[5]": "mlp_act.4[17]"}}')
    with shown(not as_json) as tell:
        verdicts = verify_claims(
            found,
            model=model,
            device=device,
            dtype=dtype,
            dictionaries=claims.parent / "dictionaries",
            matched=matched,
            progress=tell,
        )
    if as_json:
        common.emit_json([verdict.to_json() for verdict in verdicts])
    else:
        rows = [
            (
                Text(v.outcome, style=COLOURS[v.outcome]),
                v.claim.id,
                f"{v.claim.estimate.value:.0%}",
                v.measured_text,
                v.reason,
            )
            for v in verdicts
        ]
        screen = common.console()
        screen.print(common.table(("", "claim", "claimed", "measured", "why"), rows, right=(2, 3)))
        counts = {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in COLOURS}
        screen.print(", ".join(f"{n} {outcome}" for outcome, n in counts.items() if n))
    outcomes = {v.outcome for v in verdicts}
    raise typer.Exit(1 if "fails" in outcomes else 0 if "holds" in outcomes else 2)

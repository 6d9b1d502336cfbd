"""``patchclamp verify claims.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchclamp.app.commands import common
from patchclamp.base.progress import shown

COLOURS = {"holds": "green", "fails": "bold red", "cannot run": "yellow"}


def verify(
    claims: Annotated[Path, typer.Argument(help="A claims.json that `patchclamp study` wrote.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Measure on this model instead of the one in the claims."),
    ] = None,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Measure every claim again: holds, fails or cannot run; exit status 1 if any fails."""
    from rich.text import Text

    from patchclamp.study.claims import read_claims
    from patchclamp.study.verify import verify_claims

    found = read_claims(claims)
    with shown(not as_json) as tell:
        verdicts = verify_claims(
            found,
            model=model,
            device=device,
            dtype=dtype,
            dictionaries=claims.parent / "dictionaries",
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
    raise typer.Exit(1 if any(v.outcome == "fails" for v in verdicts) else 0)

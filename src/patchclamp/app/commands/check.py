"""``patchclamp check MODEL``."""

from __future__ import annotations

import typer

from patchclamp.app.commands import common


def check(
    model: common.ModelArgument = "smollm2",
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Prove on your model that each address reads the right tensor; exit status 1 if a proof fails."""
    from patchclamp.subjects.proof.check import check_subject

    subject = common.open_model(model, device, dtype)
    with common.console(stderr=True).status("checking"):
        card = check_subject(subject)
    if as_json:
        common.emit_json(card.to_json())
    else:
        common.console().print(str(card))
    raise typer.Exit(0 if card.passed else 1)

"""``patchclamp check MODEL`` and ``patchclamp check STORE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchclamp.app.commands import common


def check(
    model: Annotated[
        str,
        typer.Argument(help='"smollm2", a Hugging Face id, a folder or a GGUF file; or a store of activity.'),
    ] = "smollm2",
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Prove on your model that each address reads the right tensor, or that a store is whole; exit status 1 if not."""
    if (Path(model) / "zarr.json").is_file():
        _store(model, as_json)
    from patchclamp.subjects.proof.check import check_subject

    subject = common.open_model(model, device, dtype)
    with common.console(stderr=True).status("checking"):
        card = check_subject(subject)
    if as_json:
        common.emit_json(card.to_json())
    else:
        common.console().print(str(card))
    raise typer.Exit(0 if card.passed else 1)


def _store(path: str, as_json: bool) -> None:
    from patchclamp.record import check_store

    with common.console(stderr=True).status("reading"):
        found = check_store(path)
    if as_json:
        common.emit_json(found.to_json())
    else:
        common.console().print(str(found), markup=False, soft_wrap=True)
    raise typer.Exit(0 if found.passed else 1)

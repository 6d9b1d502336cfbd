"""``patchclamp sites MODEL``."""

from __future__ import annotations

from typing import Annotated

import typer

from patchclamp.app.commands import common


def sites(
    model: common.ModelArgument = "smollm2",
    pattern: Annotated[str, typer.Argument(help="Show these only, such as mlp_act.* or head.3.")] = "",
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """List the addresses of a model: how many units each has and which tensor it is."""
    subject = common.open_model(model, device, dtype)
    wanted = set(subject.resolve(pattern)) if pattern else None
    rows = [row for row in subject.sites() if wanted is None or row.site in wanted]
    if as_json:
        fields = ("width", "unit_dim", "module", "description")
        common.emit_json([{"site": str(row.site), **{f: getattr(row, f) for f in fields}} for row in rows])
        return
    cells = [(row.site, f"{row.width:,}", row.unit_dim, row.module, row.description) for row in rows]
    common.console().print(
        common.table(("site", "units", "size", "tensor", "what it is"), cells, right=(1, 2))
    )

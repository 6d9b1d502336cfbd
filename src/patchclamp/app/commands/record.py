"""``patchclamp record SITES``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from patchclamp.app.commands import common

TextOption = Annotated[
    str, typer.Option("--text", "-t", help='A .txt, .jsonl or .parquet file, or "sample".')
]
LongOption = Annotated[str, typer.Option(help="Texts longer than the context: refuse, split or truncate.")]
ContextOption = Annotated[
    int | None, typer.Option(min=2, help="Most tokens of a text; default: the model's.")
]
FieldOption = Annotated[str, typer.Option("--field", help="Field that holds the text.")]
LabelOption = Annotated[str, typer.Option("--label", help="Field that holds the label, where there is one.")]
BosOption = Annotated[bool, typer.Option("--keep-sinks", help="Keep BOS, special tokens and position 0.")]
EmptyOption = Annotated[bool, typer.Option("--skip-empty", help="Leave out empty texts; else refused.")]
BatchOption = Annotated[int | None, typer.Option(min=1, help="Most tokens in a pass.")]


def reading(
    long: str,
    context: int | None,
    field: str,
    label: str,
    keep_sinks: bool,
    skip_empty: bool,
    batch_tokens: int | None,
) -> dict[str, Any]:
    """The options above as those of `patchclamp.record.record`."""
    from patchclamp.base.errors import check_choice

    check_choice("--long", long, ("refuse", "split", "truncate"))
    return {
        "long": long,
        "context": context,
        "text": field,
        "label": label,
        "content_only": not keep_sinks,
        "empty": "skip" if skip_empty else "refuse",
        "batch_tokens": batch_tokens,
    }


def record(
    sites: Annotated[str, typer.Argument(help="Addresses, such as mlp_act.15 or 'resid_post.*'.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the Zarr store; not needed with --plan.")
    ] = None,
    text: TextOption = "sample",
    model: common.ModelOption = "smollm2",
    store_dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    long: LongOption = "split",
    context: ContextOption = None,
    field: FieldOption = "text",
    label: LabelOption = "label",
    keep_sinks: BosOption = False,
    skip_empty: EmptyOption = False,
    batch_tokens: BatchOption = None,
    dry_run: Annotated[
        bool, typer.Option("--plan", help="Say what it would cost and record nothing.")
    ] = False,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Stream a model over text and keep the activity of some sites; run it again to resume it."""
    from patchclamp.base.errors import PatchclampError
    from patchclamp.base.files import bytes_in
    from patchclamp.record import plan as make_plan
    from patchclamp.record import record as run

    options = reading(long, context, field, label, keep_sinks, skip_empty, batch_tokens)
    options["dtype"] = store_dtype
    if out is None and not dry_run:
        raise PatchclampError("--out is missing: a folder for the store (or --plan, to record nothing)")
    subject = common.open_model(model, device, dtype)
    if out is None or dry_run:
        found = make_plan(subject, text, sites, **options)
        if as_json:
            common.emit_json(found.to_json())
        else:
            common.console().print(str(found), markup=False)
        return
    recording = run(subject, text, sites, store=out, progress=not as_json, **options)
    size = bytes_in(out)
    if as_json:
        names = [str(site) for site in recording.sites]
        common.emit_json({"store": str(out), "samples": recording.n_samples, "sites": names, "bytes": size})
        return
    line = f"{out}: {recording.n_samples:,} samples of {', '.join(map(str, recording.sites))}, {size / 1e6:,.1f} MB"
    common.console().print(line, markup=False)

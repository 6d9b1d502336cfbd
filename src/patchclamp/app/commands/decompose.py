"""``patchclamp decompose SITE``."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchclamp.app.commands import common
from patchclamp.app.commands.record import FieldOption, TextOption

if TYPE_CHECKING:
    from patchclamp.nouns.dictionary import Dictionary
    from patchclamp.nouns.recording.recording import Recording
    from patchclamp.nouns.units import Site


UNFINISHED = ".unfinished"
"""Folder in that of the dictionary with the activity and the state of a fit that is under way."""


def decompose(
    site: Annotated[str, typer.Argument(help="Address of one site, such as mlp_act.15.")],
    method: Annotated[str, typer.Option(help="snmf, nmf, pca, ica, topk, batch_topk, jumprelu ...")] = "snmf",
    features: Annotated[int, typer.Option("--features", "-k", min=1, help="Number of features.")] = 100,
    text: TextOption = "sample",
    most: Annotated[int, typer.Option("--most", min=2, max=10**7, help="At most so many texts.")] = 300,
    model: common.ModelOption = "smollm2",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the dictionary.")] = None,
    field: FieldOption = "text",
    seed: common.SeedOption = 0,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Find features of a site; with --out, run it again to resume it.

    Features are directions that explain the activity of the site with few of them active at a time.
    """
    from patchclamp.base.errors import PatchclampError, check_choice
    from patchclamp.base.files import way_out
    from patchclamp.decompose import METHODS
    from patchclamp.record import record

    check_choice("decompose", method, METHODS)
    if out is not None:
        way_out(out, "folder", UNFINISHED)
    subject = common.open_model(model, device, dtype)
    sites = subject.resolve(site)
    if len(sites) > 1:
        raise PatchclampError(
            f"{site}: names {len(sites)} sites, {sites[0]} to {sites[-1]}, and a dictionary is fitted on one; call it once for each"
        )
    base = sites[0]
    work = None if out is None else out / UNFINISHED
    texts = first_texts(text, field, most + max(10, most // 5))
    recording = record(
        subject,
        texts[:most],
        [base],
        store=None if work is None else work / "activity",
        progress=not as_json,
        long="split",
    )
    held = record(subject, texts[most:], [base], progress=False, long="split") if texts[most:] else None
    with common.console(stderr=True).status(
        f"{method}, {features} features of {recording.n_samples:,} samples"
    ):
        estimator = METHODS[method](features, seed=seed)
        resume = work / "fit" if work is not None and estimator.resumes(subject.width(base)) else None
        found = estimator.fit(recording, site=base, resume=resume)
    facts = _facts(found, recording, base, held)
    if out is not None and work is not None:
        found.save(out)
        rmtree(work)
        facts["folder"] = str(out)
    warning = _warning(facts)
    if as_json:
        common.emit_json(facts | {"warning": warning or None})
        return
    rows = [
        (name.replace("_", " "), f"{v:,.4g}" if isinstance(v, float) else str(v)) for name, v in facts.items()
    ]
    common.console().print(common.table(("", ""), rows, f"{method} of {base}"))
    if warning:
        common.console(stderr=True).print(f"warning: {warning}", style="yellow", markup=False)


def first_texts(source: str, field: str, most: int) -> list[str]:
    """The first texts of a source."""
    from itertools import islice

    from patchclamp.record import documents

    return [d.text for d in islice(documents(source, text=field), most) if d.text.strip()]


def _warning(facts: dict[str, Any]) -> str:
    """What to say of a dictionary that explains nothing on text that it was not fitted on."""
    left = facts["unexplained_on_held_out_texts"]
    if left is None or left < 1:
        return ""
    return (
        f"what was found explains nothing on held-out texts ({left:.3f} of their variance is left, the mean alone leaves 1); "
        "give more texts, fewer features or another method"
    )


def _facts(found: Dictionary, recording: Recording, base: Site, held: Recording | None) -> dict[str, Any]:
    """What a person asks first of a dictionary, on the samples that it was fitted on unless said otherwise."""
    from patchclamp.decompose.base import unexplained_variance

    activity = recording.to_torch()[base].float()
    codes = found.encode(activity).detach()
    rest = float(((activity - found.decode(codes)) ** 2).sum() / ((activity - activity.mean(0)) ** 2).sum())
    used = (codes != 0).float()
    return {
        "site": str(base),
        "features": int(codes.shape[1]),
        "samples": recording.n_samples,
        "active_at_a_time": float(used.sum(1).mean()),
        "never_active": int((used.sum(0) == 0).sum()),
        "unexplained_variance": rest,
        "unexplained_on_held_out_texts": None if held is None else unexplained_variance(found, held, base),
    }

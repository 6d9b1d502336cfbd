"""``patchclamp describe UNIT...``."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchclamp.app.commands import common
from patchclamp.app.commands.decompose import first_texts
from patchclamp.app.commands.record import FieldOption, TextOption

if TYPE_CHECKING:
    from patchclamp.subjects.language import LanguageModel


def describe(
    units: Annotated[
        list[str], typer.Argument(help="Addresses, such as mlp_act.15[3] or mlp_act.15/mine[7].")
    ],
    dictionary: Annotated[
        list[str] | None,
        typer.Option("--dictionary", "-d", help="NAME=FOLDER of a dictionary whose features are asked for."),
    ] = None,
    text: TextOption = "sample",
    most: Annotated[int, typer.Option("--most", min=10, max=10**7, help="At most so many texts.")] = 300,
    model: common.ModelOption = "smollm2",
    field: FieldOption = "text",
    seed: common.SeedOption = 0,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Say when units are active, by a description that can be run and is scored on held-out text, and what they write."""
    from rich.text import Text

    subject = common.open_model(model, device, dtype)
    for entry in dictionary or []:
        _attach(subject, entry)
    chosen = subject.units(list(units))
    rows = _rows(subject, chosen, first_texts(text, field, most), seed, not as_json)
    if as_json:
        common.emit_json(rows)
        return
    screen = common.console()
    for row in rows:
        screen.print(Text(row["unit"], style="bold"))
        screen.print(Text.assemble("  active on  ", (row["description"], "cyan")))
        if row["score"] is not None:
            tried = f"best tried: {row['tried']}; " if row["tried"] else ""
            score = f"{tried}balanced accuracy on held-out text {row['score']:.2f} ({row['low']:.2f} to {row['high']:.2f}"
            others = "" if row["shuffled"] is None else f"; {row['shuffled']:.2f} for descriptions of others"
            screen.print(Text(f"             {score}{others})", style="dim"))
        screen.print(
            Text.assemble("  writes     ", (row["writes"], "cyan") if row["writes"] else ("-", "dim"))
        )


def _attach(subject: LanguageModel, entry: str) -> None:
    from patchclamp.base.errors import PatchclampError
    from patchclamp.decompose.formats import load_dictionary

    name, sign, folder = entry.partition("=")
    if not sign or not folder:
        raise PatchclampError(f"--dictionary {entry!r}: give NAME=FOLDER, such as mine=dictionaries/mlp15")
    subject.attach(name, load_dictionary(Path(folder)))


def _rows(
    subject: LanguageModel, chosen: Any, texts: list[str], seed: int, progress: bool
) -> list[dict[str, Any]]:
    from patchclamp.base.errors import PatchclampError
    from patchclamp.describe import Split, Tokens, search_description
    from patchclamp.nouns.units import Unit
    from patchclamp.record import record

    sites = list(chosen.sites)
    whole = [str(site) for site, indices in chosen.items() if indices is None]
    if whole:
        raise PatchclampError(
            f"{whole[0]}: name units, such as {whole[0]}[0]; `patchclamp measure` looks at all of a site"
        )
    recording = record(subject, texts, sites, progress=progress, long="split")
    tokens = Tokens.from_samples(recording.samples, subject.tokenizer)
    split = Split.of(tokens, seed=seed)
    rows = []
    for site, indices in chosen.items():
        activity = recording.select(units=str(site)).to_torch()[site].float()
        activity = activity.norm(dim=-1) if activity.ndim == 3 else activity
        names = [str(Unit(site, i)) for i in indices]
        found = search_description(activity, tokens, split, units=list(indices), names=names, seed=seed)
        writes = _writes(subject, site, indices, names, seed)
        for name, one, row in zip(names, found.descriptions, found.table.itertuples(), strict=True):
            figures = {key: float(getattr(row, key)) for key in ("score", "low", "high", "shuffled")}
            scores = {key: value if isfinite(value) else None for key, value in figures.items()}
            said = {"unit": name, "description": one.text, "tried": one.facts.get("tried", "")}
            rows.append({**said, **scores, "writes": writes.get(name, "")})
    return rows


def _writes(subject: LanguageModel, site: Any, indices: Any, names: list[str], seed: int) -> dict[str, str]:
    """Tokens that each unit promotes beyond random directions; nothing for units that write no fixed direction."""
    from patchclamp.describe import decode_in
    from patchclamp.nouns.units import Site

    if site.point == "mlp_act":
        directions = subject.output_matrix(Site("mlp_act", site.layer)).float()
    elif site.point in ("resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out"):
        import torch

        directions = torch.eye(subject.d_model)
    else:
        return {}
    if site.dictionary is not None:
        directions = subject.dictionary(site).directions.float() @ directions.cpu()
    table = decode_in(subject, directions[list(indices)], names, top=6, seed=seed)
    good = table[(table.way == "promotes") & (table.p <= 0.05)]
    return {name: ", ".join(f"“{t.strip() or t}”" for t in good[good.unit == name].token) for name in names}

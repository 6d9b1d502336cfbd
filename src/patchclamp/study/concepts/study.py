"""The concept study: which units are selective for the labels of texts, and do they matter for those texts?

The chain: check the tensors; pool every unit over each train text; rank units for every label by average precision
beside a null of the maximum; describe the first; ablate each label's units on all held-out texts beside matched units;
write claims and a report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.text import number
from patchclamp.nouns.units import Unit
from patchclamp.study.concepts.activity import pooled_activity
from patchclamp.study.concepts.context import ConceptOptions, Concepts
from patchclamp.study.concepts.damage import corrected, cumulative, damage, selective
from patchclamp.study.concepts.selective import find_experts
from patchclamp.study.concepts.texts import LabelledTexts, load_labelled
from patchclamp.study.concepts.words import claims_of, findings, headline, share_text
from patchclamp.study.describing import describe_neurons
from patchclamp.study.share import forest_row
from patchclamp.study.stages import Column, Figure, Section, Stage, Study, Table, run_and_write
from patchclamp.study.tensors import check_tensors
from patchclamp.subjects import LanguageModel

__all__ = ["STAGES", "run_concept_study"]


def run_concept_study(
    subject: LanguageModel,
    texts: Any,
    out: str | Path | None = None,
    *,
    options: ConceptOptions | None = None,
    write: bool = True,
    progress: Callable[..., None] | None = None,
) -> Study[Concepts]:
    """Find the units that are selective for the labels of texts, and measure whether the model needs them there.

    Parameters
    ----------
    subject
        A language model.
    texts
        As `load_labelled` reads them, or `LabelledTexts`.
    out
        Folder, new or empty; default ``studies/concepts-<name>-<model>-seed<seed>``, or the next with a number behind
        it. A run that was killed goes on from its finished stages when the same call is made again.
    options
        Sizes.
    write
        Whether to write files.
    progress
        Called with (text, done, total).

    Returns
    -------
    Study

    Raises
    ------
    PatchclampError
        For texts that cannot be split, a failed check of the tensors, unknown sites.

    Notes
    -----
    Train texts choose, test texts verify; no group is on both sides. Units that go *down* on a label are not looked
    for. Ablation is to zero, as in the study of relation-specific neurons (Liu et al. 2025), from which the questions
    come: do effects grow with the number of units, are units shared among labels, does losing one label's units spare
    or help others.

    Examples
    --------
    >>> from patchclamp import open_subject  # doctest: +SKIP
    >>> print(run_concept_study(open_subject("smollm2"), "labelled.jsonl"))     # doctest: +SKIP
    """
    options = options or ConceptOptions()
    if not isinstance(texts, LabelledTexts):
        texts = load_labelled(
            texts, per_label=options.per_label, max_tokens=options.max_tokens, seed=options.seed
        )
    context = Concepts(subject, progress, texts, options)
    return run_and_write(STAGES, context, context.folder(), out, write)


def pool(context: Concepts) -> Section:
    """One value for every train text and unit."""
    context.values, context.units = pooled_activity(
        context.subject,
        context.texts.train,
        context.sites,
        context.options.pool,
        context.say,
    )
    what = f"units of {context.options.sites} ranked for each label"
    return Section(tiles=[(number(len(context.units)), what)], facts={"n_candidates": len(context.units)})


def rank(context: Concepts) -> Section:
    """The units that are selective for each label."""
    data, options = context.texts, context.options
    context.say(f"{len(context.units):,} units for {len(data.labels)} labels")
    context.experts = find_experts(
        context.values,
        context.units,
        data.train.labels,
        data.train.groups,
        n_permutations=options.n_permutations,
        seed=options.seed,
    )
    context.chosen = {e.label: e.units(options.n_units) for e in context.experts if e.n_significant}
    if not context.chosen:
        raise PatchclampError(
            f"{data.name}: no unit of {options.sites} is selective for any label beyond what shuffled labels give; "
            "give more texts, or other sites"
        )
    sets = [set(units.each()) for units in context.chosen.values()]
    return Section(
        tiles=[
            (
                number(e.n_significant),
                f"selective for {e.label} beyond the largest that shuffled labels give",
            )
            for e in context.experts
        ],
        facts={"shared": np.array([[len(a & b) for b in sets] for a in sets]).tolist()},
    )


def ablate(context: Concepts) -> Section:
    """What ablating each label's units does to every label's held-out texts."""
    data, options = context.texts, context.options
    context.say("measuring activity, by which random sets are matched")
    context.reference.activity(context.sites)  # of all sites in one pass; else each set would ask for its own
    context.damage = found = damage(
        context.subject,
        data.test,
        context.reference,
        context.chosen,
        data.labels,
        n_control=options.n_control,
        seed=options.seed,
        say=context.say,
    )
    groups = {label: data.test.where(label).groups for label in data.labels}
    context.shares = corrected(
        {label: selective(found, label, groups, seed=options.seed) for label in context.chosen}
    )
    baseline = {t: next(iter(found.effects[t].values())).baseline for t in found.labels}
    nats = [[found.effects[t][u].estimate.value for t in found.labels] for u in context.chosen]
    forest = {
        "rows": [
            forest_row(label, measured.share.scaled(1 / abs(baseline[label])))
            for label, measured in context.shares.items()
        ],
        "x_label": "of the loss a token",
        "label": "How much more a label's own texts suffer than the others'",
    }
    heat_map = {
        "values": nats,
        "columns": found.labels,
        "rows": list(context.chosen),
        "x_label": "held-out texts of",
        "y_label": "units of",
        "label": "Loss added to each label's texts by ablating each label's units",
        "names": [[f"units of {u}, texts of {t}" for t in found.labels] for u in context.chosen],
        "unit": " nats a token",
    }
    return Section(
        claims=claims_of(context),
        figures=[
            Figure(
                "forest",
                [forest],
                "Own texts against the others'",
                key=[
                    ("dot", "pos", "difference with its interval"),
                    ("band", "control", "95 % of matched random sets"),
                ],
            ),
            Figure(
                "heat_map",
                [heat_map],
                "Whose units, whose texts",
                "Nats added to the loss a token. Off the diagonal: positive cells are texts that need another label's units "
                "too, negative ones are texts that are predicted better without them (interference).",
            ),
        ],
        heading="Do they matter for their own label?",
        text=(
            f"The first {options.n_units} units of each label were set to zero; what counts is how much more the loss rises "
            f"on the label's own held-out texts than on the others', beside {options.n_control} random sets matched to them."
        ),
        headline=headline(context),
        facts={
            "damage": {"labels": list(found.labels), "units_of": list(context.chosen), "nats": nats},
            "baseline": baseline,
        },
    )


def grow(context: Concepts) -> Section:
    """Loss added to a label's own texts by the first k of its units."""
    context.growth = {}
    for expert in [e for e in context.experts if e.label in context.chosen]:
        sizes = [k for k in context.options.sizes if k <= len(expert.table)]
        effects = cumulative(
            context.subject,
            context.texts.test.where(expert.label),
            context.reference,
            [expert.units(k) for k in sizes],
            seed=context.options.seed,
        )
        context.growth[expert.label] = [
            {"size": k, "estimate": e.estimate.value, "low": e.estimate.low, "high": e.estimate.high}
            for k, e in zip(sizes, effects, strict=True)
        ]
    sizes = [row["size"] for row in next(iter(context.growth.values()))]
    columns = [
        Column(f"{k} units", f"{k}", "signed", interval=(f"{k} low", f"{k} high"), ends="signed")
        for k in sizes
    ]
    rows = [
        {"label": label}
        | {
            f"{r['size']}{end}": r[name]
            for r in some
            for end, name in (("", "estimate"), (" low", "low"), (" high", "high"))
        }
        for label, some in context.growth.items()
    ]
    caption = "Nats a token added to the label's own held-out texts."
    return Section(
        tables=[
            Table(
                pd.DataFrame(rows),
                columns=[Column("Label", "label"), *columns],
                title="More units",
                captions=[caption],
                sortable=False,
            )
        ],
        findings=findings(context),
        facts={"growth": context.growth},
    )


def describe(context: Concepts) -> Section:
    """Tokens that the first units of each label write, and the train texts' tokens at which they are most active."""
    options = context.options
    first = {e.label: e.units(options.n_described) for e in context.experts if e.label in context.chosen}
    neurons = dict.fromkeys(
        Unit(site, i)
        for units in first.values()
        for site, indices in units.items()
        for i in indices or ()
        if site.point == "mlp_act" and site.dictionary is None
    )
    said = describe_neurons(
        context.subject,
        list(neurons),
        dict.fromkeys(neurons, ""),
        list(context.texts.train.texts),
        seed=options.seed,
    )
    described = {str(unit): asdict(text) for unit, text in said.items()}
    best = {
        e.label: [
            {**row, **described.get(str(row["unit"]), {})}
            for row in e.table.head(options.n_described).to_dict("records")
        ]
        for e in context.experts
    }
    labels, tables = [], []
    for e in context.experts:
        measured = context.shares.get(e.label)
        chip = "no unit beyond the null" if measured is None else share_text(measured.share)
        tables.append(
            Table(
                pd.DataFrame(best[e.label]),
                columns=_COLUMNS,
                title=e.label,
                chip=chip,
                good=measured is not None and measured.share.interval[0] > 0,
                sortable=False,
            )
        )
        labels.append(
            {
                "label": e.label,
                "n_significant": e.n_significant,
                "threshold": e.threshold,
                "prevalence": float(e.table["prevalence"].iloc[0]),
                "best": best[e.label],
                "units": context.chosen[e.label].to_json() if e.label in context.chosen else [],
                "selective": None if measured is None else measured.to_json(),
                "text": chip,
            }
        )
    names = ("unit", "average_precision", "p", "prevalence")
    flat = [{"label": label} | {n: row[n] for n in names} for label, some in best.items() for row in some]
    return Section(
        heading="The units",
        text=(
            "Average precision ranks the train texts by a unit's activity; a random unit has that of the label's share of "
            "the texts. p is over all units: how often the best unit of all reaches as much when labels are shuffled."
        ),
        tables=[*tables, Table(pd.DataFrame(flat), "units")],
        facts={"labels": labels},
    )


_COLUMNS = (
    Column("Unit", "unit", "unit"),
    Column("Average precision", "average_precision", "number", note=("prevalence", "by chance")),
    Column("p", "p", "number", digits=3),
    Column("What it writes and where it is active", "promotes", "written"),
)

STAGES: tuple[Stage[Concepts], ...] = (
    Stage("checking the tensors", check_tensors),
    Stage("recording the train texts", pool),
    Stage("ranking the units", rank),
    Stage("ablating each label's units", ablate),
    Stage("growing sets of units", grow),
    Stage("describing the units", describe),
)
"""The stages of a concept study."""

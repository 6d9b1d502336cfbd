"""Features beside neurons: were they better units for this behaviour?

A dictionary is fitted on the activity of the MLP layers that matter most, its features are scored, chosen and ablated
as neurons are, and the first k of them are held against the first k neurons of the same layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.decompose import METHODS as DECOMPOSITIONS
from patchclamp.decompose.formats import load_dictionary
from patchclamp.describe import Split, Tokens, lm_head, search_description
from patchclamp.draw.text import number, percent
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Site, Unit, Units
from patchclamp.record import documents, record
from patchclamp.study.behaviour import Behaviour
from patchclamp.study.describing import decoded_tokens
from patchclamp.study.experiments import Experiments
from patchclamp.study.options import StudyOptions
from patchclamp.study.proof import EFFECT_COLUMNS, P_COLUMN, effect_row
from patchclamp.study.report import findings
from patchclamp.study.select import Selection, ranked, select_units
from patchclamp.study.share import corrected
from patchclamp.study.stages import Column, Figure, Section, Table
from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.features import provenance

__all__ = ["attach_saved", "features"]


DICTIONARIES = "dictionaries"
"""Folder, beside the claims, in which a study leaves the dictionaries of its features."""

_COLUMNS = (
    Column("Feature", "unit", "unit"),
    *EFFECT_COLUMNS,
    P_COLUMN,
    Column("When it is active, and what it writes", "description", "said", note=("aside", "")),
)


def attach_saved(subject: LanguageModel, folder: Path) -> None:
    """Attach the dictionaries that `a study` wrote, where the folder exists; other models' are refused there."""
    if not folder.is_dir():
        return
    attached = {str(site) for site in subject.known_sites() if site.dictionary is not None}
    for part in sorted(folder.iterdir()):
        name, _, base = part.name.partition("@")
        if base and f"{base}/{name}" not in attached:
            subject.attach(name, load_dictionary(part))


def features(context: Behaviour) -> Section:
    """Fit, attach, score, choose, ablate and describe; the dictionaries stay attached to the subject."""
    subject, options, bench, say = context.subject, context.options, context.bench, context.say
    name = options.decompose
    bases = strongest_layers(context.scores, options.feature_layers)
    say(f"recording {', '.join(map(str, bases))}")
    recording, tokens = _activity(subject, context.splits["train"], bases, options)
    dictionaries: dict[Site, Dictionary] = {}
    for base in bases:
        say(f"{name} of {base}")
        dictionary = DECOMPOSITIONS[name](options.n_features, seed=options.seed).fit(recording, site=base)
        dictionaries[subject.attach(name, dictionary).site] = dictionary
    say("scoring features")
    attribute: Callable[..., Scores] = METHODS[context.scores.method]
    scores = attribute(
        subject,
        context.splits["train"],
        list(dictionaries),
        direction=options.direction,
        batch_size=options.batch_size,
    )
    bench.prepare([*dictionaries, *bases])
    trial = bench.on(context.splits["validation"])
    chosen = select_units(
        scores, "features", "mlp_act", options.feature_sizes, options.neuron_target, trial.shares, 0
    )
    say(f"{chosen.k} features together, {options.n_control} random sets")
    joint = corrected({"features": bench.lost(chosen.units, options.n_control)})["features"]
    neurons = [unit for unit in ranked(context.scores, "mlp_act")[0] if unit.site in bases]
    curve = _against_neurons(bench, chosen, neurons, options)
    first = list(chosen.order[: min(chosen.k, options.n_singles)])
    say(f"{len(first)} features alone")
    each = bench.each([Units.parse(u) for u in first], options.n_control_single)
    alone = corrected(dict(zip(first, each, strict=True)))
    say("describing features")
    said = _describe(subject, first, dictionaries, recording, tokens, options)
    rows = [
        {**effect_row(scores, unit, alone[unit].share, options.seed), **told}
        for unit, told in zip(first, said, strict=True)
    ]
    basis = replace(context.basis, model={**context.basis.model, **provenance(subject, dictionaries)})
    whole = len(chosen.order)
    claim = findings.claim(basis, "features-together", "necessity", chosen.units, joint, whole=whole)
    answer = _answer(name, list(dictionaries), chosen, joint.share, curve)
    facts = {
        "method": name,
        "sites": [str(site) for site in dictionaries],
        "dictionaries": {str(site): dict(d.meta) for site, d in dictionaries.items()},
        "selection": chosen.to_json(),
        "joint": joint.to_json(),
        "curve": curve,
        "rows": rows,
        "answer": answer,
    }
    size = next(iter(dictionaries.values())).meta.get("k", "")
    return Section(
        claims=[claim] if claim else [],
        figures=[_figure(curve)],
        tables=[Table(pd.DataFrame(rows), columns=_COLUMNS)],
        heading="Features beside neurons",
        text=(
            f"{answer} A dictionary of {size} features was fitted ({name}) on the activity of "
            f"{', '.join(map(str, dictionaries))} over running text and train items; its features were scored, chosen and ablated "
            "as neurons are."
        ),
        findings=[answer],
        facts={"features": facts},
        save=lambda folder: _save(dictionaries, folder / DICTIONARIES),
    )


def _figure(curve: Sequence[Mapping[str, Any]]) -> Figure:
    series = [
        {
            "name": name,
            "x": [row["size"] for row in curve],
            "y": [row[name] for row in curve],
            "low": [row[f"{name}_low"] for row in curve],
            "high": [row[f"{name}_high"] for row in curve],
            "css": css,
        }
        for name, css in (("neurons", "s2"), ("features", "s1"))
    ]
    label = "Metric lost against number of features, and of neurons"
    return Figure(
        "curves",
        [{"series": series, "x_label": "units ablated", "y_label": "metric lost", "label": label}],
        "Lost, ablating the first k",
        key=[("line", "pos", "features"), ("line", "second", "neurons of the same layers")],
        half=True,
    )


def _answer(
    name: str, sites: Sequence[Site], chosen: Selection, joint: Estimate, curve: Sequence[Mapping[str, Any]]
) -> str:
    """Whether features were better units than neurons here, in a sentence."""
    layers = ", ".join(str(site.layer) for site in sites)
    control = "" if joint.null is None else f" (random features {percent(joint.null.mean)})"
    text = f"{chosen.k} {name.upper()} features of layers {layers} take {percent(joint.value)}{control}"
    row = next((r for r in curve if r["size"] == chosen.k), curve[-1])
    text += f"; the first {row['size']} neurons of the same layers take {percent(row['neurons'])}"
    return f"{text}. Unit for unit, {who_takes_more(curve)}."


def _save(dictionaries: Mapping[Site, Dictionary], folder: Path) -> None:
    """Write the dictionaries; `patchclamp verify` attaches what it finds beside the claims."""
    for site, dictionary in dictionaries.items():
        writable: Any = dictionary
        writable.save(folder / f"{site.dictionary}@{site.point}.{site.layer}")


def strongest_layers(scores: Scores, n: int) -> list[Site]:
    """The MLP layers whose neurons have the largest sum of positive scores."""
    sites = [s for s in scores.sites if s.point == "mlp_act" and s.dictionary is None]
    if not sites:
        raise PatchclampError(
            "no neuron was scored, so there is no layer to decompose; this model has no mlp_act"
        )
    summed = scores.summed()
    weight = {s: float(np.clip(np.asarray(summed.mean(s)), 0, None).sum()) for s in sites}
    return sorted(sorted(sites, key=lambda s: -weight[s])[:n])


def _activity(
    subject: LanguageModel, train: Task, bases: Sequence[Site], options: StudyOptions
) -> tuple[Recording, Tokens]:
    """Activity on running text and on both inputs of the train items."""
    texts = [d.text for d, _ in zip(documents("sample"), range(options.feature_texts), strict=False)]
    texts += [t for item in train.items for t in (item.clean, item.corrupted) if t]
    recording = record(subject, list(dict.fromkeys(texts)), list(bases), progress=False, long="split")
    return recording, Tokens.from_samples(recording.samples, subject.tokenizer)


def who_takes_more(curve: Sequence[Mapping[str, Any]]) -> str:
    """Who takes more at which sizes, where the interval of the difference excludes zero."""
    ahead = {
        "features": [row["size"] for row in curve if row["low"] is not None and row["low"] > 0],
        "neurons": [row["size"] for row in curve if row["high"] is not None and row["high"] < 0],
    }
    if all(row["low"] is None for row in curve):
        return (
            "nothing can be said of who carries more, for there are too few groups of items for an interval"
        )
    parts = []
    for name, sizes in sorted(ahead.items(), key=lambda pair: pair[1][:1]):
        if len(sizes) == len(curve):
            return f"{name} carry more of this behaviour at every size tried"
        if sizes:
            listed = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
            parts.append(f"{name} carry more among the first {listed}")
    return ", ".join(parts) or "there is no difference beyond the interval"


def _against_neurons(
    bench: Experiments, selection: Selection, neurons: Sequence[Unit], options: StudyOptions
) -> list[dict[str, Any]]:
    """The first k features and the first k neurons of the same layers, ablated on the same test items."""
    sizes = sorted({k for k in options.feature_sizes if k <= len(selection.order) // 3} | {selection.k})
    features = bench.each([selection.first(k) for k in sizes])
    others = bench.each([Units.parse(list(neurons[:k])) for k in sizes])
    rows = []
    for k, ours, theirs in zip(sizes, features, others, strict=True):
        apart = np.subtract(ours.effect.per_item, theirs.effect.per_item)
        difference = Estimate.of_ratio(
            apart, ours.effect.baseline_per_item, ours.effect.groups, seed=bench.seed
        )
        rows.append(
            {
                "size": k,
                "features": ours.share.value,
                "features_low": ours.share.low,
                "features_high": ours.share.high,
                "neurons": theirs.share.value,
                "neurons_low": theirs.share.low,
                "neurons_high": theirs.share.high,
                "difference": difference.value,
                "low": difference.low,
                "high": difference.high,
            }
        )
    return rows


def _describe(
    subject: LanguageModel,
    first: Sequence[Unit],
    dictionaries: Mapping[Site, Dictionary],
    recording: Recording,
    tokens: Tokens,
    options: StudyOptions,
) -> list[dict[str, Any]]:
    """The predicate that best says where each feature is active, and what it writes."""
    said: dict[Unit, dict[str, Any]] = {}
    split = Split.of(tokens, seed=options.seed)
    for site, dictionary in dictionaries.items():
        own = [u for u in first if u.site == site]
        if not own:
            continue
        base = Site(site.point, site.layer)
        codes = dictionary.encode(recording.select(units=str(base)).to_torch()[base].float()).detach()
        found = search_description(
            codes, tokens, split, units=[u.index for u in own], names=[str(u) for u in own]
        )
        for unit, one, row in zip(own, found.descriptions, found.table.itertuples(), strict=True):
            said[unit] = {
                "description": one.text,
                "accuracy": float(row.score),
                "accuracy_low": float(row.low),
                "accuracy_high": float(row.high),
                "accuracy_shuffled": float(row.shuffled),
                "aside": f"(balanced accuracy {number(row.score)}, {number(row.low)} to {number(row.high)}, on held-out "
                f"text; {number(row.shuffled)} for descriptions of other units)",
            }
    table = lm_head(subject, Units.parse(list(first)), top=6, seed=options.seed)
    return [{**said[unit], "promotes": decoded_tokens(table, unit, "promotes")} for unit in first]

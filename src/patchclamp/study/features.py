"""Features beside neurons: were they better units for this behaviour?

A dictionary is fitted on the activity of the MLP layers that matter most, its features are scored, chosen and ablated
as neurons are, and the first k of them are held against the first k neurons of the same layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.decompose import METHODS as DECOMPOSITIONS
from patchclamp.decompose.formats import load_dictionary
from patchclamp.describe import Split, Tokens, decode_in, search_description
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.scores import Scores, flat
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Site, Unit, Units
from patchclamp.record import documents, record
from patchclamp.study.claims import Claim
from patchclamp.study.experiments import Bench
from patchclamp.study.options import StudyOptions
from patchclamp.study.report.findings import Context, necessity
from patchclamp.study.report.tables import score_interval, strongest_role
from patchclamp.study.report.text import percent
from patchclamp.study.select import Selection, ranked, select_units
from patchclamp.study.share import Measured, corrected
from patchclamp.subjects.clamp.features import provenance

__all__ = ["Features", "attach_saved", "find_features", "refuse_decomposition"]


@dataclass
class Features:
    """What the stage found.

    Parameters
    ----------
    method
        Name in `patchclamp.decompose.METHODS`.
    dictionaries
        Site of the features -> the dictionary, for the folder of the study.
    selection
        The features in order, and how many were chosen.
    joint, alone
        Share of the metric lost on test items with the chosen ones ablated, and with the first of them alone.
    curve
        Rows size, features, neurons, difference, low, high, low and high of both.
    rows
        Described features.
    claims
        What can be measured again.
    """

    method: str
    dictionaries: dict[Site, Dictionary]
    selection: Selection
    joint: Measured
    alone: dict[Unit, Measured]
    curve: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    claims: list[Claim] = field(default_factory=list)

    @property
    def answer(self) -> str:
        """Whether features were better units than neurons here, in a sentence."""
        s, joint = self.selection, self.joint.share
        layers = ", ".join(str(site.layer) for site in self.dictionaries)
        control = "" if joint.null is None else f" (random features {percent(joint.null.mean)})"
        text = f"{s.k} {self.method.upper()} features of layers {layers} take {percent(joint.value)}{control}"
        row = next((r for r in self.curve if r["size"] == s.k), self.curve[-1])
        text += f"; the first {row['size']} neurons of the same layers take {percent(row['neurons'])}"
        return f"{text}. Unit for unit, {_verdict(self.curve)}."

    def to_json(self) -> dict[str, Any]:
        """What ``study.json`` holds of it."""
        return {
            "method": self.method,
            "sites": [str(site) for site in self.dictionaries],
            "dictionaries": {str(site): dict(d.meta) for site, d in self.dictionaries.items()},
            "selection": self.selection.to_json(),
            "joint": self.joint.to_json(),
            "curve": self.curve,
            "rows": self.rows,
            "answer": self.answer,
        }

    def save(self, folder: Path) -> None:
        """Write the dictionaries; `patchclamp verify` attaches what it finds beside the claims."""
        for site, dictionary in self.dictionaries.items():
            writable: Any = dictionary
            writable.save(folder / f"{site.dictionary}@{site.point}.{site.layer}")


def attach_saved(subject: Any, folder: Path) -> None:
    """Attach the dictionaries that `Features.save` wrote, where the folder exists; other models' are refused there."""
    if not folder.is_dir():
        return
    attached = {str(site) for site in subject.known_sites() if site.dictionary is not None}
    for part in sorted(folder.iterdir()):
        name, _, base = part.name.partition("@")
        if base and f"{base}/{name}" not in attached:
            subject.attach(name, load_dictionary(part))


def refuse_decomposition(name: str) -> None:
    """Refuse the name of no decomposition, or of one that needs more than one site's activity."""
    if name not in DECOMPOSITIONS:
        hint = did_you_mean(name, DECOMPOSITIONS) or f"; give {', '.join(DECOMPOSITIONS)}"
        raise PatchclampError(
            f"decompose {name!r}: no decomposition of a site's activity has this name{hint}"
        )


def find_features(
    subject: Any,
    task: Task,
    splits: Mapping[str, Task],
    scores: Scores,
    bench: Bench,
    context: Context,
    options: StudyOptions,
    say: Callable[..., None],
) -> Features:
    """Fit, attach, score, choose, ablate and describe; the dictionaries stay attached to the subject."""
    name = options.decompose
    bases = strongest_layers(scores, options.feature_layers)
    say(f"recording {', '.join(map(str, bases))}")
    recording, tokens = _activity(subject, splits["train"], bases, options)
    dictionaries: dict[Site, Dictionary] = {}
    for base in bases:
        say(f"{name} of {base}")
        dictionary = _fit(name, recording, base, options)
        dictionaries[subject.attach(name, dictionary).site] = dictionary
    say("scoring features")
    attribute: Any = METHODS[options.method]
    found: Scores = attribute(
        subject,
        splits["train"],
        list(dictionaries),
        direction=options.direction,
        batch_size=options.batch_size,
    )
    _prepare(bench, [*dictionaries, *bases])
    trial = Bench(subject, splits["validation"], bench.reference, bench.intervention, bench.seed)
    selection = select_units(
        found, "features", "mlp_act", options.feature_sizes, options.neuron_target, trial.shares, 0
    )
    say(f"{selection.k} features together, {options.n_control} random sets")
    joint = corrected({"features": bench.lost(selection.units, options.n_control)})["features"]
    curve = _against_neurons(bench, selection, _neurons(scores, bases), options)
    first = list(selection.order[: min(selection.k, options.n_singles)])
    say(f"{len(first)} features alone")
    singles = bench.each([Units.parse(u) for u in first], options.n_control_single)
    alone = corrected(dict(zip(first, singles, strict=True)))
    say("describing features")
    rows = _describe(subject, first, found, alone, dictionaries, recording, tokens, options)
    what = f"{selection.k} of {len(selection.order):,} {name} features"
    context = replace(context, model={**context.model, **provenance(subject, dictionaries)})
    claim = necessity(context, "features-together", what, selection.units, joint)
    return Features(name, dictionaries, selection, joint, alone, curve, rows, [claim] if claim else [])


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
    subject: Any, train: Task, bases: Sequence[Site], options: StudyOptions
) -> tuple[Recording, Tokens]:
    """Activity on running text and on both inputs of the train items."""
    texts = [d.text for d, _ in zip(documents("sample"), range(options.feature_texts), strict=False)]
    texts += [t for item in train.items for t in (item.clean, item.corrupted) if t]
    recording = record(subject, list(dict.fromkeys(texts)), list(bases), progress=False, long="split")
    return recording, Tokens.from_samples(recording.samples, subject.tokenizer)


def _fit(name: str, recording: Recording, base: Site, options: StudyOptions) -> Dictionary:
    return DECOMPOSITIONS[name](options.n_features, seed=options.seed).fit(recording, site=base)


def _verdict(curve: Sequence[Mapping[str, Any]]) -> str:
    """Who takes more at which sizes, where the interval of the difference excludes zero."""
    ahead = {
        "features": [row["size"] for row in curve if row["low"] > 0],
        "neurons": [row["size"] for row in curve if row["high"] < 0],
    }
    parts = []
    for name, sizes in sorted(ahead.items(), key=lambda pair: pair[1][:1]):
        if len(sizes) == len(curve):
            return f"{name} carry more of this behaviour at every size tried"
        if sizes:
            listed = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
            parts.append(f"{name} carry more among the first {listed}")
    return ", ".join(parts) or "there is no difference beyond the interval"


def _prepare(bench: Bench, sites: Sequence[Site]) -> None:
    """Take means and typical activity at all sites in one pass."""
    bench.reference.activity(sites)
    if bench.intervention["kind"] == "mean":
        bench.reference.means(sites, bench.intervention["by"], bench.intervention.get("source", "clean"))


def _neurons(scores: Scores, bases: Sequence[Site]) -> list[Unit]:
    order, _ = ranked(scores, "mlp_act")
    wanted = set(bases)
    return [unit for unit in order if unit.site in wanted]


def _against_neurons(
    bench: Bench, selection: Selection, neurons: Sequence[Unit], options: StudyOptions
) -> list[dict[str, Any]]:
    """The first k features and the first k neurons of the same layers, ablated on the same test items."""
    sizes = sorted({k for k in options.feature_sizes if k <= len(selection.order) // 3} | {selection.k})
    features = bench.each([selection.first(k) for k in sizes])
    others = bench.each([Units.parse(list(neurons[:k])) for k in sizes])
    groups = [item.group for item in bench.items.items]
    rows = []
    for k, ours, theirs in zip(sizes, features, others, strict=True):
        difference = ours.per_item - theirs.per_item
        low, high = bootstrap_interval(difference, groups, seed=bench.seed)
        rows.append(
            {
                "size": k,
                "features": ours.share.value,
                "features_low": ours.share.low,
                "features_high": ours.share.high,
                "neurons": theirs.share.value,
                "neurons_low": theirs.share.low,
                "neurons_high": theirs.share.high,
                "difference": float(difference.mean()),
                "low": float(low),
                "high": float(high),
            }
        )
    return rows


def _describe(
    subject: Any,
    first: Sequence[Unit],
    scores: Scores,
    alone: Mapping[Unit, Measured],
    dictionaries: Mapping[Site, Dictionary],
    recording: Recording,
    tokens: Tokens,
    options: StudyOptions,
) -> list[dict[str, Any]]:
    """What each feature writes, the predicate that best says where it is active, and what ablating it does."""
    import torch

    directions: list[Any] = []
    said: dict[Unit, tuple[Any, ...]] = {}
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
        said |= {
            u: (d.text, row.score, row.low, row.high, row.shuffled)
            for u, d, row in zip(own, found.descriptions, found.table.itertuples(), strict=True)
        }
    for unit in first:
        written = subject.output_matrix(Site(unit.site.point, unit.site.layer)).float()
        directions.append(dictionaries[unit.site].directions[unit.index].float().to(written.device) @ written)
    table = decode_in(subject, torch.stack(directions), [str(u) for u in first], top=6, seed=options.seed)
    rows = []
    for unit in first:
        share, (score, low, high) = flat(alone[unit].share), score_interval(scores, unit, options.seed)
        promoted = table[(table.unit == str(unit)) & (table.way == "promotes")]
        text, accuracy, a_low, a_high, shuffled = said[unit]
        rows.append(
            {
                "unit": str(unit),
                "role": strongest_role(scores, unit),
                "score": score,
                "score_low": low,
                "score_high": high,
                "effect": share["estimate"],
                **{name: share[name] for name in ("low", "high", "p", "p_adjusted")},
                "description": text,
                "accuracy": float(accuracy),
                "accuracy_low": float(a_low),
                "accuracy_high": float(a_high),
                "accuracy_shuffled": float(shuffled),
                "promotes": [
                    {"token": r.token, "z": float(r.z), "p": float(r.p)} for r in promoted.itertuples()
                ],
            }
        )
    return rows

"""The middle of a study: choosing units, ablating them on test items, and what follows from it in words and claims."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd

from patchclamp.base.estimate import Estimate
from patchclamp.draw.text import number
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Unit, Units
from patchclamp.record import documents
from patchclamp.study.behaviour import KINDS, Behaviour, Proved
from patchclamp.study.claims import Claim
from patchclamp.study.describing import describe_heads, describe_neurons
from patchclamp.study.report import findings, summary
from patchclamp.study.report.tables import score_interval, strongest_role
from patchclamp.study.select import Selection, select_units
from patchclamp.study.share import corrected
from patchclamp.study.stages import Column, Figure, Section, Table

__all__ = ["EFFECT_COLUMNS", "P_COLUMN", "ablate", "describe", "effect_row", "select"]

EFFECT_COLUMNS = (
    Column("Score", "score", "signed", interval=("score_low", "score_high")),
    Column("Lost when ablated alone", "effect", "percent", interval=("low", "high"), ends="percent"),
)
"""Columns of every table of units that were ablated alone; see `effect_row`."""

P_COLUMN = Column("p", "p", "number", digits=3, note=("p_adjusted", "corrected"))


def select(context: Behaviour) -> list[Selection]:
    """Choose heads and neurons: those kinds that were scored, by ablation on the validation items."""
    options, bench, scores = context.options, context.bench, context.scores
    trial = bench.on(context.splits["validation"])
    plans = {
        "heads": (options.head_sizes, options.head_target, options.refine_heads),
        "neurons": (options.neuron_sizes, options.neuron_target, options.refine_neurons),
    }
    scored = {site.point for site in scores.sites}
    points = [point for point, _ in KINDS.values() if point in scored]
    bench.prepare([site for site in context.subject.known_sites() if site.point in points])
    found = []
    for kind, (point, _) in KINDS.items():
        if point in scored:
            sizes, target, refine = plans[kind]
            found.append(select_units(scores, kind, point, sizes, target, trial.shares, refine))
    return found


def ablate(context: Behaviour) -> Section:
    """Ablate the chosen sets and their first units alone on test items, and state what follows as claims."""
    options, bench, say = context.options, context.bench, context.say
    context.proved = proved = Proved()
    bench.prepare_otherwise(sorted({site for s in context.selections for site in s.units.sites}))
    for s in context.selections:
        say(f"{s.k} {s.kind} together, {options.n_control} random sets")
        proved.joint[s.kind] = bench.lost(s.units, options.n_control)
        first = [Units.parse(u) for u in s.order[: min(s.k, options.n_singles)]]
        say(f"{len(first)} {s.kind} alone, {options.n_control_single} random ones")
        alone = bench.each(first, options.n_control_single)
        proved.alone |= dict(zip(s.order, alone, strict=False))
        if len(first) > 1:
            together = proved.joint[s.kind] if len(first) == s.k else bench.lost(s.first(len(first)))
            if together.share.clear:  # a ratio to nothing says nothing
                proved.ratio[s.kind] = bench.ratio(s.first(len(first)), alone, together)
        say(f"{s.k} {s.kind} under other ablations")
        proved.otherwise[s.kind] = bench.otherwise(s.units)
        if s.kind == "heads":
            proved.kept[s.kind] = bench.recovered(s.units, _among(s.kind))
    _correct(proved)
    ablations = proved.ablations(context.selections)
    figures = [
        Figure(
            "forest",
            [
                {
                    "rows": proved.forest(context.selections),
                    "x_label": "metric lost when ablated",
                    "label": "Effects of ablating units, with intervals and controls",
                }
            ],
            "Together and alone",
            key=[
                ("dot", "pos", "effect with its interval"),
                ("band", "control", "95 % of matched random sets, their mean marked"),
            ],
        ),
        Figure(
            "forest",
            [
                {
                    "rows": ablations,
                    "x_label": "metric lost",
                    "label": "The chosen sets under other kinds of ablation",
                }
            ],
            "The same sets under other ablations",
            "What stands in place of the units decides what is lost. A mean by template over clean items keeps what all "
            "items of a template share; a mean by position mixes templates of unequal length; a unit’s own value on the "
            "corrupted input changes only what the corruption changes.",
        ),
    ]
    return Section(
        claims=_claims(context),
        figures=figures if ablations else figures[:1],
        heading="The proof: what happens when they are changed",
        text=(
            f"Selected units were ablated ({context.basis.ablation}) on the test items, beside {options.n_control} random "
            f"sets of units of the same kind, drawn one to one by {proved.matched_by}. 0 % leaves the behaviour as it "
            f"was, 100 % removes the whole {context.metric_words}; above that the model prefers the wrong answer."
        ),
        headline=summary.headline(context),
        tiles=summary.tiles(context),
        findings=summary.sentences(context),
        facts={
            "effects": proved.to_json(),
            "ablation": context.basis.ablation,
            "matched_by": proved.matched_by,
        },
    )


def _among(kind: str) -> tuple[str, ...]:
    """Addresses of all units of a kind."""
    return (f"{KINDS[kind][0]}.*",)


def _correct(proved: Proved) -> None:
    """Correct p-values within each family: the chosen set of a kind is one test, its units alone are another."""
    proved.joint = {kind: corrected({kind: found})[kind] for kind, found in proved.joint.items()}
    for point in dict.fromkeys(unit.site.point for unit in proved.alone):
        proved.alone |= corrected({u: found for u, found in proved.alone.items() if u.site.point == point})


def _claims(context: Behaviour) -> list[Claim]:
    proved = context.proved
    found: list[Claim | None] = []
    for s in context.selections:
        claim = partial(findings.claim, context.basis, whole=len(s.order))
        found.append(claim(f"{s.kind}-together", "necessity", s.units, proved.joint[s.kind]))
        alone = [u for u in s.order if u in proved.alone]
        for unit in alone if s.k > 1 else []:
            found.append(claim(f"alone-{unit}", "necessity", Units.parse(unit), proved.alone[unit]))
        if s.kind in proved.ratio and findings.matters(proved.joint[s.kind].share):
            units, ratio = s.first(len(alone)), proved.ratio[s.kind]
            found.append(claim(f"{s.kind}-redundancy", "redundancy", units, ratio))
        if s.kind in proved.kept:
            kept, among = proved.kept[s.kind], _among(s.kind)
            found.append(claim(f"{s.kind}-kept", "sufficiency", s.units, kept, among=among))
    return [claim for claim in found if claim is not None]


_ENDS = (("", "mean"), ("_low", "low"), ("_high", "high"))


def effect_row(scores: Scores, unit: Unit, share: Estimate, seed: int) -> dict[str, Any]:
    """Score, effect alone and control of a unit, as a row of a table."""
    score, low, high = score_interval(scores, unit, seed)
    null = share.null
    return {
        "unit": str(unit),
        "role": strongest_role(scores, unit),
        "score": score,
        "score_low": low,
        "score_high": high,
        "effect": share.value,
        "low": share.low,
        "high": share.high,
        **{f"control{end}": getattr(null, name, None) for end, name in _ENDS},
        **{name: getattr(null, name, None) for name in ("p", "p_adjusted")},
    }


def describe(context: Behaviour) -> Section:
    """A row for each unit that was ablated alone: score, effect, control, and what it encodes."""
    subject, scores, proved, options = context.subject, context.scores, context.proved, context.options
    shown = [u for s in context.selections for u in s.order if u in proved.alone]
    roles = {u: strongest_role(scores, u) for u in shown}
    heads, neurons = ([u for u in shown if u.site.point == point] for point, _ in KINDS.values())
    texts = [d.text for d, _ in zip(documents("sample"), range(options.n_texts), strict=False)]
    described = {
        **describe_heads(subject, context.splits["test"], heads, roles, seed=options.seed),
        **describe_neurons(subject, neurons, roles, texts, seed=options.seed),
    }
    rows = [
        {**effect_row(scores, unit, proved.alone[unit].share, options.seed), **asdict(described[unit])}
        for unit in shown
    ]
    n = options.n_control_single
    random = Column(
        "Random unit", "control", "percent", interval=("control_low", "control_high"), ends="percent"
    )
    said = Column("What it writes and where it is active", "summary", "said")
    return Section(
        heading="The units",
        text=(
            "What each selected unit does and encodes. Tokens are what its output promotes directly through the LM head; "
            f"pale ones do not beat the best token of random directions. With {n} random units p cannot fall below "
            f"{number(1 / (n + 1), 3)}; the correction is Holm’s over the units of a kind."
        ),
        tables=[
            Table(
                pd.DataFrame(rows),
                "units",
                (Column("Unit", "unit", "unit"), *EFFECT_COLUMNS, random, P_COLUMN, said),
            )
        ],
    )

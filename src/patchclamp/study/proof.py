"""The middle of a study: choosing units, ablating them on test items, and what follows from it in words and claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Unit, Units
from patchclamp.study.ability import items_fingerprint, metric_text
from patchclamp.study.claims import Claim
from patchclamp.study.describing import describe_heads, describe_neurons
from patchclamp.study.experiments import Bench
from patchclamp.study.options import StudyOptions
from patchclamp.study.report import findings
from patchclamp.study.report.findings import Context
from patchclamp.study.report.tables import score_interval, strongest_role
from patchclamp.study.select import Selection, select_units
from patchclamp.study.share import Measured, corrected, forest_row

__all__ = ["KINDS", "Proved", "context_of", "prove", "select_all", "unit_rows"]

KINDS: Mapping[str, tuple[str, str]] = {
    "heads": ("head", "attention head"),
    "neurons": ("mlp_act", "MLP neuron"),
}
"""Kind of unit -> (point, name of one in words)."""

Say = Callable[..., None]


@dataclass
class Proved:
    """What the interventions on test items found.

    Parameters
    ----------
    joint, alone
        Kind -> share lost with the chosen set ablated; unit -> share lost with it alone.
    kept
        Kind -> share recovered with all units of the kind ablated but the chosen.
    ratio
        Kind -> sum of single effects over the joint effect of the same units.
    otherwise
        Kind -> ablation in words -> share lost by the chosen set under it.
    claims
        What can be measured again.
    """

    joint: dict[str, Measured] = field(default_factory=dict)
    alone: dict[Unit, Measured] = field(default_factory=dict)
    kept: dict[str, Measured] = field(default_factory=dict)
    ratio: dict[str, Measured] = field(default_factory=dict)
    otherwise: dict[str, dict[str, Measured]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)

    @property
    def matched_by(self) -> str:
        """How the random sets were drawn, in words."""
        return next((m.share.null.kind for m in self.joint.values() if m.share.null is not None), "none")

    def forest(self, selections: Sequence[Selection]) -> list[dict[str, Any]]:
        """All effects as rows of the forest figure: each chosen set, then its units alone."""
        rows = []
        for s in selections:
            name = f"{s.k:,} {s.kind}" if s.k > 1 else str(s.order[0])
            rows.append(forest_row(name, self.joint[s.kind].share))
            rows += [forest_row(str(u), self.alone[u].share) for u in s.order if u in self.alone and s.k > 1]
        return rows

    def ablations(self, selections: Sequence[Selection]) -> list[dict[str, Any]]:
        """The chosen sets under every kind of ablation, as rows of a forest figure."""
        return [
            forest_row(f"{s.k:,} {s.kind}, {name}", found.share)
            for s in selections
            for name, found in self.otherwise[s.kind].items()
        ]

    def to_json(self) -> list[dict[str, Any]]:
        """Every share by name."""
        named: dict[str, Measured] = {
            **{f"joint {k}": v for k, v in self.joint.items()},
            **{f"alone {u}": v for u, v in self.alone.items()},
            **{f"kept {k}": v for k, v in self.kept.items()},
            **{f"ratio {k}": v for k, v in self.ratio.items()},
            **{f"joint {k}: {name}": v for k, some in self.otherwise.items() for name, v in some.items()},
        }
        return [{"name": name, **found.to_json()} for name, found in named.items()]


def context_of(
    subject: Any, task: Task, splits: Mapping[str, Task], bench: Bench, source: str, options: StudyOptions
) -> Context:
    """Collect what all claims of a study share."""
    change, n = bench.intervention, len(task.split("train"))
    words = {
        "mean": f"replaced by their mean over {n} {change.get('source')} train items, by {change.get('by')}",
        "zero": "set to zero",
        "resample": f"replaced by their activity on a random one of {n} train items",
    }
    return Context(
        task={
            "name": source,
            "n": len(task),
            "seed": options.seed,
            "corruption": task.corruption or None,
            "split": "test",
            "items": len(splits["test"]),
            "reference_split": "train",
            "reference_items": n,
            "fingerprint": items_fingerprint(splits["test"]),
            "min_accuracy": task.min_accuracy,
        },
        model={
            "name": subject.name,
            "fingerprint": subject.fingerprint,
            "dtype": str(subject.dtype).removeprefix("torch."),
        },
        title=task.name.replace("_", " "),
        metric=str(task.score),
        metric_text=metric_text(task),
        ablation=words[options.kind],
        intervention=bench.intervention,
        seed=options.seed,
    )


def select_all(bench: Bench, validation: Task, scores: Any, options: StudyOptions) -> list[Selection]:
    """Choose heads and neurons: those kinds that were scored, by ablation on the validation items."""
    trial = replace(bench, items=validation)
    plans = {
        "heads": (options.head_sizes, options.head_target, options.refine_heads),
        "neurons": (options.neuron_sizes, options.neuron_target, options.refine_neurons),
    }
    scored = {site.point for site in scores.sites}
    bench.prepare([point for point, _ in KINDS.values() if point in scored])
    found = []
    for kind, (point, _) in KINDS.items():
        if point in scored:
            sizes, target, refine = plans[kind]
            found.append(select_units(scores, kind, point, sizes, target, trial.shares, refine))
    return found


def prove(
    bench: Bench, selections: Sequence[Selection], context: Context, options: StudyOptions, say: Say
) -> Proved:
    """Ablate the chosen sets and their first units alone on test items, and state what follows as claims."""
    proved = Proved()
    bench.prepare_otherwise(sorted({site for s in selections for site in s.units.sites}))
    for s in selections:
        say(f"{s.k} {s.kind} together, {options.n_control} random sets")
        proved.joint[s.kind] = bench.lost(s.units, options.n_control)
        first = [Units.parse(u) for u in s.order[: min(s.k, options.n_singles)]]
        say(f"{len(first)} {s.kind} alone, {options.n_control_single} random ones")
        alone = bench.each(first, options.n_control_single)
        proved.alone |= dict(zip(s.order, alone, strict=False))
        if len(first) > 1:
            together = proved.joint[s.kind] if len(first) == s.k else None
            proved.ratio[s.kind] = bench.ratio(s.first(len(first)), alone, together)
        say(f"{s.k} {s.kind} under other ablations")
        proved.otherwise[s.kind] = bench.otherwise(s.units)
        if s.kind == "heads":
            proved.kept[s.kind] = bench.recovered(s.units, among(s.kind))
    _correct(proved)
    proved.claims = _claims(proved, selections, context)
    return proved


def among(kind: str) -> tuple[str, ...]:
    """Addresses of all units of a kind."""
    return (f"{KINDS[kind][0]}.*",)


def _correct(proved: Proved) -> None:
    """Correct p-values within each family: the chosen set of a kind is one test, its units alone are another."""
    proved.joint = {kind: corrected({kind: found})[kind] for kind, found in proved.joint.items()}
    for point in dict.fromkeys(unit.site.point for unit in proved.alone):
        proved.alone |= corrected({u: found for u, found in proved.alone.items() if u.site.point == point})


def _claims(proved: Proved, selections: Sequence[Selection], context: Context) -> list[Claim]:
    found: list[Claim | None] = []
    for s in selections:
        name = KINDS[s.kind][1]
        what = f"{s.k:,} of {len(s.order):,} {name}s" if s.k > 1 else f"one of {len(s.order):,} {name}s"
        found.append(findings.necessity(context, f"{s.kind}-together", what, s.units, proved.joint[s.kind]))
        for unit in [u for u in s.order if u in proved.alone and s.k > 1]:
            found.append(
                findings.necessity(
                    context, f"alone-{unit}", f"one {name}", Units.parse(unit), proved.alone[unit]
                )
            )
        if s.kind in proved.ratio and findings.matters(proved.joint[s.kind].share):
            n = sum(u in proved.alone for u in s.order)
            found.append(
                findings.redundancy(
                    context,
                    f"{s.kind}-redundancy",
                    f"the first {n} {name}s",
                    s.first(n),
                    proved.ratio[s.kind],
                )
            )
        if s.kind in proved.kept:
            found.append(
                findings.sufficiency(
                    context, f"{s.kind}-kept", what, s.units, among(s.kind), proved.kept[s.kind]
                )
            )
    return [claim for claim in found if claim is not None]


def unit_rows(
    subject: Any,
    test: Task,
    scores: Any,
    selections: Sequence[Selection],
    proved: Proved,
    options: StudyOptions,
) -> list[dict[str, Any]]:
    """Return a row for each unit that was ablated alone: score, effect, control, and what it encodes."""
    from patchclamp.record import documents

    shown = [u for s in selections for u in s.order if u in proved.alone]
    roles = {u: strongest_role(scores, u) for u in shown}
    texts = [d.text for d, _ in zip(documents("sample"), range(options.n_texts), strict=False)]
    described = {
        **describe_heads(
            subject, test, [u for u in shown if u.site.point == "head"], roles, seed=options.seed
        ),
        **describe_neurons(
            subject, [u for u in shown if u.site.point == "mlp_act"], roles, texts, seed=options.seed
        ),
    }
    rows = []
    for unit in shown:
        share = proved.alone[unit].share
        null = share.null
        score, low, high = score_interval(scores, unit, options.seed)
        rows.append(
            {
                "unit": str(unit),
                "role": roles[unit],
                "score": score,
                "score_low": low,
                "score_high": high,
                "effect": share.value,
                "low": share.low,
                "high": share.high,
                "control": None if null is None else null.mean,
                "control_low": None if null is None else null.low,
                "control_high": None if null is None else null.high,
                "p": None if null is None else null.p,
                "p_adjusted": None if null is None else null.p_adjusted,
                **asdict(described[unit]),
            }
        )
    return rows

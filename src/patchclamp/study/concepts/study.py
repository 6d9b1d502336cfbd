"""The concept study: which units are selective for the labels of texts, and do they matter for those texts?

The chain: check the tensors; pool every unit over each train text; rank units for every label by average precision
beside a null of the maximum; describe the first; ablate each label's units on all held-out texts beside matched units;
write claims and a report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.version import __version__
from patchclamp.nouns.units import Units
from patchclamp.study.claims import Claim
from patchclamp.study.concepts.activity import pooled_activity
from patchclamp.study.concepts.damage import Damage, ablation, cumulative, damage, selective
from patchclamp.study.concepts.selective import Experts, find_experts
from patchclamp.study.concepts.texts import LabelledTexts, load_labelled
from patchclamp.study.report.text import signed
from patchclamp.study.share import Measured, corrected
from patchclamp.study.tensors import check_tensors
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["ConceptOptions", "ConceptStudy", "run_concept_study"]


@dataclass(frozen=True)
class ConceptOptions:
    """Sizes of a concept study.

    Parameters
    ----------
    seed
        Of the split, permutations, random sets and bootstrap.
    sites
        Addresses of the candidates.
    per_label, max_tokens
        Texts of each label, and where they are cut.
    pool
        ``"mean"`` or ``"max"`` over a text's tokens.
    n_units
        Units of each label that are ablated together.
    n_permutations
        Shuffles of labels for the null of the maximum.
    n_control
        Random sets, at least 20.
    sizes
        Sizes of the growing sets.
    n_described
        Units of each label that are described.
    """

    seed: int = 0
    sites: str = "mlp_act.*"
    per_label: int = 60
    max_tokens: int = 64
    pool: Literal["mean", "max"] = "mean"
    n_units: int = 50
    n_permutations: int = 100
    n_control: int = 20
    sizes: tuple[int, ...] = (5, 20, 50, 200)
    n_described: int = 5


@dataclass(frozen=True)
class ConceptStudy:
    """What a concept study found: the content of ``study.json`` and its claims."""

    data: dict[str, Any]
    claims: tuple[Claim, ...]
    folder: Path | None = None

    def __str__(self) -> str:
        return "\n".join([self.data["headline"], *(f"- {finding}" for finding in self.data["findings"])])


def run_concept_study(
    subject: Any,
    texts: Any,
    out: str | Path | None = None,
    *,
    options: ConceptOptions | None = None,
    write: bool = True,
    progress: Callable[..., None] | None = None,
) -> ConceptStudy:
    """Find the units that are selective for the labels of texts, and measure whether the model needs them there.

    Parameters
    ----------
    subject
        A language model.
    texts
        As `load_labelled` reads them, or `LabelledTexts`.
    out
        Folder; default ``studies/concepts-<name>-<model>-seed<seed>``.
    options
        Sizes.
    write
        Whether to write files.
    progress
        Called with (text, done, total).

    Returns
    -------
    ConceptStudy

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
    say = progress or (lambda *args: None)
    data = texts if isinstance(texts, LabelledTexts) else _load(texts, options)
    say("checking the tensors")
    checks = check_tensors(subject)
    sites = subject.resolve(options.sites)
    say("recording the train texts")
    values, units = pooled_activity(
        subject,
        data.train,
        sites,
        options.pool,
        say,
    )
    say(f"ranking {len(units):,} units for {len(data.labels)} labels")
    experts = find_experts(
        values,
        units,
        data.train.labels,
        data.train.groups,
        n_permutations=options.n_permutations,
        seed=options.seed,
    )
    chosen = {e.label: e.units(options.n_units) for e in experts if e.n_significant}
    if not chosen:
        raise PatchclampError(
            f"{data.name}: no unit of {options.sites} is selective for any label beyond what shuffled labels give; "
            "give more texts, or other sites"
        )
    reference = Reference(subject, data.train, 32)
    say("measuring activity, by which random sets are matched")
    reference.activity(sites)  # of all sites in one pass; else each set would ask for its own
    found = damage(
        subject,
        data.test,
        reference,
        chosen,
        data.labels,
        n_control=options.n_control,
        seed=options.seed,
        say=say,
    )
    groups = {label: data.test.where(label).groups for label in data.labels}
    shares = corrected({label: selective(found, label, groups, seed=options.seed) for label in chosen})
    say("growing sets of units")
    growth = _growth(subject, data, reference, experts, chosen, options)
    say("describing the units")
    described = _describe(subject, data, experts, chosen, options)
    study = _study(subject, data, options, checks, experts, chosen, found, shares, growth, described)
    if not write:
        return study
    from patchclamp.study.concepts.report import write_concepts

    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{data.name}-{Path(subject.name).name}")
    folder = Path(out) if out is not None else Path("studies") / f"concepts-{name}-seed{options.seed}"
    return write_concepts(study, folder)


def _load(texts: Any, options: ConceptOptions) -> LabelledTexts:
    return load_labelled(texts, per_label=options.per_label, max_tokens=options.max_tokens, seed=options.seed)


def _growth(
    subject: Any,
    data: LabelledTexts,
    reference: Reference,
    experts: list[Experts],
    chosen: dict[str, Units],
    options: ConceptOptions,
) -> dict[str, list[dict[str, Any]]]:
    """Loss added to a label's own texts by the first k of its units."""
    found = {}
    for expert in experts:
        if expert.label in chosen:
            sizes = [k for k in options.sizes if k <= len(expert.table)]
            effects = cumulative(
                subject,
                data.test.where(expert.label),
                reference,
                [expert.units(k) for k in sizes],
                seed=options.seed,
            )
            found[expert.label] = [
                {"size": k, "estimate": e.estimate.value, "low": e.estimate.low, "high": e.estimate.high}
                for k, e in zip(sizes, effects, strict=True)
            ]
    return found


def _describe(
    subject: Any,
    data: LabelledTexts,
    experts: list[Experts],
    chosen: dict[str, Units],
    options: ConceptOptions,
) -> dict[str, dict[str, Any]]:
    """Tokens that the first units write, and the train texts' tokens at which they are most active."""
    from patchclamp.nouns.units import Unit
    from patchclamp.study.describing import describe_neurons

    neurons: list[Unit] = []
    for expert in experts:
        if expert.label in chosen:
            first = Units.parse(expert.table["unit"].tolist()[: options.n_described])
            neurons += [
                Unit(site, i)
                for site, indices in first.items()
                for i in indices or ()
                if site.point == "mlp_act" and site.dictionary is None
            ]
    neurons = list(dict.fromkeys(neurons))
    if not neurons:
        return {}
    roles = dict.fromkeys(neurons, "")
    return {
        str(unit): asdict(text)
        for unit, text in describe_neurons(
            subject, neurons, roles, list(data.train.texts), seed=options.seed
        ).items()
    }


def _study(
    subject: Any,
    data: LabelledTexts,
    options: ConceptOptions,
    checks: Any,
    experts: list[Experts],
    chosen: dict[str, Units],
    found: Damage,
    shares: dict[str, Measured],
    growth: dict[str, list[dict[str, Any]]],
    described: dict[str, dict[str, Any]],
) -> ConceptStudy:
    from patchclamp.study.concepts.words import claims_of, findings, headline

    claims = claims_of(subject, data, options, chosen, shares, ablation(next(iter(chosen.values()))))
    rows = [_row(e, chosen, shares, described, options) for e in experts]
    content = {
        "schema": "patchclamp/concepts/1",
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {"name": subject.name, "fingerprint": subject.fingerprint},
        "options": asdict(options),
        "data": {
            "name": data.name,
            "source": data.source,
            "counts": data.counts(),
            "fingerprint": data.fingerprint,
        },
        "checks": checks,
        "n_candidates": sum(subject.width(site) for site in subject.resolve(options.sites)),
        "labels": rows,
        "damage": {
            "labels": list(found.labels),
            "units_of": list(chosen),
            "nats": [[found.effects[t][u].estimate.value for t in found.labels] for u in chosen],
        },
        "baseline": {t: next(iter(found.effects[t].values())).baseline for t in found.labels},
        "growth": growth,
        "shared": _shared(chosen),
        "headline": headline(data, experts, shares),
        "findings": findings(experts, chosen, shares, found, growth),
    }
    return ConceptStudy(content, tuple(claims))


def _row(
    expert: Experts,
    chosen: dict[str, Units],
    shares: dict[str, Measured],
    described: dict[str, dict[str, Any]],
    options: ConceptOptions,
) -> dict[str, Any]:
    measured = shares.get(expert.label)
    best = expert.table.head(options.n_described).to_dict("records")
    return {
        "label": expert.label,
        "n_significant": expert.n_significant,
        "threshold": expert.threshold,
        "prevalence": float(expert.table["prevalence"].iloc[0]),
        "best": [{**row, **described.get(str(row["unit"]), {})} for row in best],
        "units": chosen[expert.label].to_json() if expert.label in chosen else [],
        "selective": None if measured is None else measured.to_json(),
        "text": "no unit beyond the null"
        if measured is None
        else "{} nats ({} to {})".format(*map(signed, (measured.share.value, *measured.share.interval))),
    }


def _shared(chosen: dict[str, Units]) -> list[list[int]]:
    """How many units two labels' sets have in common (versatility)."""
    sets = [set(units.each()) for units in chosen.values()]
    return np.array([[len(a & b) for b in sets] for a in sets]).tolist()

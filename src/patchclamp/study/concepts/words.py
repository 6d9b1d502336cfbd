"""Sentences and claims of a concept study, built from its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patchclamp.base.estimate import Estimate
from patchclamp.nouns.units import Units
from patchclamp.study.claims import Claim
from patchclamp.study.concepts.damage import Damage, ablation
from patchclamp.study.concepts.selective import Experts
from patchclamp.study.concepts.texts import LabelledTexts
from patchclamp.study.report.findings import Basis, claim
from patchclamp.study.report.text import signed
from patchclamp.study.share import Measured
from patchclamp.subjects import LanguageModel

__all__ = ["LIMITS", "claims_of", "findings", "headline", "share_text"]

LIMITS: tuple[str, ...] = (
    (
        "That a selective unit is about the label and nothing else: whatever goes along with the label in these texts, such "
        "as length, format or a few words, selects units too. Give texts that differ in the label alone."
    ),
    "That units which are not selective do not matter for a label's texts. Most of what predicts a text is shared.",
    "That these units would do the same in texts of another source.",
    "That units which are less active on a label's texts play no part: they were not looked for.",
)


def matters(share: Estimate) -> bool:
    """Whether own texts suffer more than the others', and more than with matched units."""
    return share.interval[0] > 0 and share.beats_null


def headline(data: LabelledTexts, experts: Sequence[Experts], shares: Mapping[str, Measured]) -> str:
    """The first sentence of the report."""
    some = [e.label for e in experts if e.n_significant]
    real = [label for label, found in shares.items() if matters(found.share)]
    text = f"{len(some)} of {len(experts)} labels of {data.name} have units that are selective beyond chance"
    if not real:
        return text + "; ablating them does not hurt a label's own held-out texts more than the others."
    which = ", ".join(real)
    return (
        text
        + f"; for {len(real)} ({which}) ablating them raises the loss on the label's own held-out texts more."
    )


def findings(
    experts: Sequence[Experts],
    chosen: Mapping[str, Units],
    shares: Mapping[str, Measured],
    found: Damage,
    growth: Mapping[str, list[dict[str, Any]]],
) -> list[str]:
    """One sentence for every label, and one on units shared among labels."""
    said = []
    for e in experts:
        if e.label not in chosen:
            said.append(f"{e.label}: no unit is selective beyond what shuffled labels give.")
            continue
        best, share, own = e.table.iloc[0], shares[e.label].share, found.effects[e.label][e.label]
        low, high = share.interval
        top = float("nan") if share.null is None else share.null.high
        text = (
            f"{e.label}: {e.n_significant:,} selective units (average precision above {e.threshold:.2f}; the best, "
            f"{best['unit']}, {best['average_precision']:.2f}). Ablating the first {chosen[e.label].count} adds "
            f"{signed(own.estimate.value)} nats a token to its held-out texts, {signed(share.value)} more than to the "
            f"others' ({signed(low)} to {signed(high)}; matched units reach {signed(top)})"
        )
        rows = growth.get(e.label, [])
        if len(rows) > 1 and rows[-1]["estimate"] > rows[0]["estimate"]:
            text += f"; {rows[-1]['size']} units add {signed(rows[-1]['estimate'])}"
        said.append(text + ".")
    names = list(chosen)
    pairs = [
        (len(set(chosen[a].each()) & set(chosen[b].each())), a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    if pairs and max(pairs)[0]:
        n, a, b = max(pairs)
        said.append(f"{n} units are among the first for both {a} and {b}.")
    return said


def share_text(share: Estimate) -> str:
    """The difference with its interval."""
    low, high = share.interval
    return f"{signed(share.value)} nats ({signed(low)} to {signed(high)})"


def claims_of(
    subject: LanguageModel,
    data: LabelledTexts,
    options: Any,
    chosen: Mapping[str, Units],
    shares: Mapping[str, Measured],
) -> list[Claim]:
    """A claim for every label whose units matter."""
    found = []
    for label, measured in shares.items():
        share, units = measured.share, chosen[label]
        if not matters(share) or share.null is None:
            continue
        low, high = share.interval
        statement = (
            f"Ablating {units.count} units selective for {label} adds {signed(share.value)} nats a token "
            f"({signed(low)} to {signed(high)}) more to held-out texts of {label} than to those of the other "
            f"labels of {data.name}; matched units at most {signed(share.null.high)}."
        )
        basis = Basis(
            task={
                "name": f"texts:{data.source or data.name}",
                "n": options.per_label,
                "seed": options.seed,
                "corruption": None,
                "split": "test",
                "items": len(data.test),
                "reference_split": "train",
                "reference_items": len(data.train),
                "fingerprint": data.fingerprint,
            },
            model=Basis.model_of(subject),
            title=data.name,
            metric="log_probability",
            metric_text="log-probability a token",
            ablation="set to zero",
            intervention={**ablation(units).to_json(), "label": label, "max_tokens": options.max_tokens},
            seed=options.seed,
            quantity="nats a token",
        )
        criterion = {"at_least": 0.0, "beats_control": True}
        found.append(claim(basis, f"concept-{label}", "selectivity", statement, units, measured, criterion))
    return found

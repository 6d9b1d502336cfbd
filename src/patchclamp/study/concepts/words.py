"""Sentences and claims of a concept study, built from its figures."""

from __future__ import annotations

from patchclamp.base.estimate import Estimate
from patchclamp.draw.text import signed
from patchclamp.study.claims import Claim
from patchclamp.study.concepts.context import Concepts
from patchclamp.study.concepts.damage import ablation
from patchclamp.study.report.findings import Basis, claim, criterion

__all__ = ["claims_of", "findings", "headline", "share_text"]


def matters(share: Estimate) -> bool:
    """Whether own texts suffer more than the others', and more than with matched units."""
    return criterion("selectivity", share) is not None


def headline(context: Concepts) -> str:
    """The first sentence of the report."""
    experts = context.experts
    some = [e.label for e in experts if e.n_significant]
    real = [label for label, found in context.shares.items() if matters(found.share)]
    text = f"{len(some)} of {len(experts)} labels of {context.texts.name} have units that are selective beyond chance"
    if not real:
        return text + "; ablating them does not hurt a label's own held-out texts more than the others."
    which = ", ".join(real)
    return (
        text
        + f"; for {len(real)} ({which}) ablating them raises the loss on the label's own held-out texts more."
    )


def findings(context: Concepts) -> list[str]:
    """One sentence for every label, and one on units shared among labels."""
    chosen, shares, effects = context.chosen, context.shares, context.damage.effects
    said = []
    for e in context.experts:
        if e.label not in chosen:
            said.append(f"{e.label}: no unit is selective beyond what shuffled labels give.")
            continue
        best, share, own = e.table.iloc[0], shares[e.label].share, effects[e.label][e.label]
        low, high = share.interval
        top = float("nan") if share.null is None else share.null.high
        text = (
            f"{e.label}: {e.n_significant:,} selective units (average precision above {e.threshold:.2f}; the best, "
            f"{best['unit']}, {best['average_precision']:.2f}). Ablating the first {chosen[e.label].count} adds "
            f"{signed(own.estimate.value)} nats a token to its held-out texts, {signed(share.value)} more than to the "
            f"others' ({signed(low)} to {signed(high)}; matched units reach {signed(top)})"
        )
        rows = context.growth.get(e.label, [])
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


def claims_of(context: Concepts) -> list[Claim]:
    """A claim for every label whose units matter."""
    data, options = context.texts, context.options
    found = []
    for label, measured in context.shares.items():
        units = context.chosen[label]
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
            model=Basis.model_of(context.subject),
            title=data.name,
            metric="log_probability",
            metric_text="log-probability a token",
            ablation="set to zero",
            intervention={**ablation(units).to_json(), "label": label, "max_tokens": options.max_tokens},
            seed=options.seed,
            quantity="nats a token",
        )
        found.append(claim(basis, f"concept-{label}", "selectivity", units, measured))
    return [one for one in found if one is not None]

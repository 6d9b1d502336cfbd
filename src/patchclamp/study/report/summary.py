"""What a study says first: the headline, the large figures, the findings beside them. All built from measured numbers."""

from __future__ import annotations

from patchclamp.base.estimate import Estimate
from patchclamp.base.statistics import FEWEST_GROUPS
from patchclamp.draw.text import between, percent, signed
from patchclamp.study.behaviour import KINDS, Behaviour, Proved
from patchclamp.study.report.findings import matters, suffices
from patchclamp.study.select import Selection

__all__ = ["headline", "sentences", "tiles"]


def headline(context: Behaviour) -> str:
    """Return the study's answer in one or two sentences."""
    s = context.selections[0]
    share, one = context.proved.joint[s.kind].share, s.k == 1
    who = f"{s.k:,} of {len(s.order):,} {KINDS[s.kind][1]}s"
    effect = f"{percent(share.value)} of the {context.metric_words} ({between(share.low, share.high)})"
    random = ""
    if share.null is not None:
        random = f"; random {s.kind}, the nearest in layer and activity, take {percent(share.null.mean)}"
    ablated = "ablated, it takes" if one else "ablated together, they take"
    if not share.bounded:
        return (
            f"Nothing can be concluded: the {share.n} test items are in {share.groups} independent groups, and an interval "
            f"needs at least {FEWEST_GROUPS}. On them, of {who}, {ablated} {percent(share.value)} of the "
            f"{context.metric_words}{random}."
        )
    if share.interval[0] >= 0.5 and share.beats_null:
        carry = "carries" if one else "carry"
        return f"{who} {carry} it: {ablated} {effect}, on items that had no part in choosing them{random}."
    if matters(share):
        return f"No small set of {s.kind} carries it alone: of {who}, {ablated} {effect}{random}."
    return f"No {s.kind} were found that matter more than random ones: of {who}, {ablated} {effect}{random}."


def tiles(context: Behaviour) -> list[tuple[str, str]]:
    """Return the large figures at the top of the report."""
    found = []
    for s in context.selections:
        share = context.proved.joint[s.kind].share
        what = f"of the {context.metric_words} lost with {s.k:,} of {len(s.order):,} {s.kind} ablated"
        found.append((percent(share.value), what))
        if share.null is not None:
            found.append((percent(share.null.mean), f"with {s.k:,} random {s.kind}, matched"))
    return found


def sentences(context: Behaviour) -> list[str]:
    """Return the findings beside the headline, each with its figure."""
    selections, proved = context.selections, context.proved
    first, *others = selections
    found = [_joint(s, proved.joint[s.kind].share) for s in others]
    for s in selections:
        if s.k > 1:
            found.append(_alone(s, proved))
    if first.kind in proved.kept and proved.kept[first.kind].share.bounded:
        kept = proved.kept[first.kind].share
        verdict = "nearly enough" if suffices(kept) else "far from enough"
        if kept.interval[0] >= 0.5 and not suffices(kept):
            verdict = "not what does it, for as much is left without any"
        found.append(
            f"With every other one of the {len(first.order):,} {first.kind} ablated, the chosen recover "
            f"{percent(kept.value)} ({percent(kept.low)} to {percent(kept.high)}): among {first.kind} they are {verdict}."
        )
    if first.kind in proved.otherwise:
        shares = {name: found.share.value for name, found in proved.otherwise[first.kind].items()}
        low, high = (f(shares, key=lambda name: shares[name]) for f in (min, max))
        found.append(
            f"How they are ablated matters: the same {first.kind} take from {percent(shares[low])} ({low}) "
            f"to {percent(shares[high])} ({high})."
        )
    if first.scores[-1] < 0:
        score = f"score {signed(first.scores[-1])}, an estimate"
        found.append(f"{first.order[-1]} works against it most ({score}).")
    return found


def _joint(s: Selection, share: Estimate) -> str:
    name = KINDS[s.kind][1] + "s"
    text = f"{s.k:,} of {len(s.order):,} {name}: {percent(share.value)} ({between(share.low, share.high)})"
    if share.null is not None:
        text += f", random ones {percent(share.null.mean)}"
    return text + (". They matter." if matters(share) else ". No evidence that they matter.")


def _alone(s: Selection, proved: Proved) -> str:
    alone = {u: proved.alone[u].share for u in s.order if u in proved.alone}
    best = max(alone, key=lambda u: alone[u].value)
    share = alone[best]
    text = f"Ablated alone, the strongest of these {s.kind}, {best}, takes {percent(share.value)}"
    text += f" ({between(share.low, share.high)})"
    if s.kind in proved.ratio and matters(proved.joint[s.kind].share):
        text += f"; the first {len(alone)}, one at a time, add up to {percent(proved.ratio[s.kind].share.value)} of what "
        text += "they take together"
    return text + "."

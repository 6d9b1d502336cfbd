"""What an item must be before any tokenizer sees it."""

from __future__ import annotations

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.metrics import Metric


def check_item(item: Item, metric: Metric, where: str) -> None:
    """Refuse an item that no tokenizer could mend; `where` begins the message."""
    if not item.clean.strip() or (item.corrupted is not None and not item.corrupted.strip()):
        raise PatchclampError(f"{where}: empty text")
    if not item.answers:
        raise PatchclampError(f"{where}: no answer; give at least one token")
    if metric.needs_foils and not item.foils:
        raise PatchclampError(
            f"{where}: no foils, and the metric {metric} compares answers with foils; give foils, or use "
            "metric='prob' or 'loss'"
        )
    if not all((*item.answers, *item.foils)):
        raise PatchclampError(f"{where}: an answer or a foil is empty")
    if item.corrupted == item.clean:
        raise PatchclampError(f"{where}: corrupted text equals the clean one {item.clean!r}")
    _check_spans(item, where)


def _check_spans(item: Item, where: str) -> None:
    for text, spans in ((item.clean, item.spans), (item.corrupted or "", item.corrupted_spans)):
        for role, (first, end) in spans.items():
            if not 0 <= first < end <= len(text):
                raise PatchclampError(
                    f"{where}: role {role} has the span {(first, end)}, and the text has {len(text)} characters"
                )
    if "end" in item.spans:
        raise PatchclampError(f"{where}: the role 'end' is the last token always; name yours otherwise")
    missing = set(item.corrupted_spans) - set(item.spans)
    if missing:
        raise PatchclampError(f"{where}: role {min(missing)} is in corrupted_spans and not in spans")

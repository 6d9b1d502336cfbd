"""Tasks as JSONL files; docs/tasks.md documents the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from patchclamp.base.errors import PatchclampError, did_you_mean, refuse_surrogates
from patchclamp.base.files import write_text
from patchclamp.base.folds import SPLITS
from patchclamp.nouns.tasks.checks import check_item
from patchclamp.nouns.tasks.item import Item
from patchclamp.nouns.tasks.metrics import METRICS, as_metric

HEADER = ("name", "metric", "corruption", "min_accuracy", "description")
_ITEM = (*(f.name for f in fields(Item)), "split")
_TEXT = ("clean", "corrupted", "template", "group", "split")


def read_items(path: Path) -> tuple[dict[str, Any], list[Item], dict[str, list[int]]]:
    """Header, items and splits of a task; the first line may be a header ``{"task": {...}}``."""
    header: dict[str, Any] = {"name": path.stem}
    items: list[Item] = []
    splits: dict[str, list[int]] = {}
    unsplit = 0
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: U+2028 may stand in a text
    except (OSError, UnicodeDecodeError) as error:
        raise PatchclampError(f"{path}: cannot be read as a task ({error})") from error
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        record = _object(line, where)
        if "task" in record:
            if items:
                raise PatchclampError(f"{where}: the header must be the first line")
            header |= _header(record, where)
            _known_metric(header, where)
            continue
        unsplit += "split" not in record  # null means: in none, on purpose
        split = record.pop("split", None)
        items.append(_item(record, where))
        check_item(items[-1], as_metric(header.get("metric", "logit_diff")), where)
        if split is not None:
            splits.setdefault(_text(split, "split", where), []).append(len(items) - 1)
    if splits and unsplit:
        raise PatchclampError(f"{path}: {unsplit} of {len(items)} items have no split; give all one, or none")
    if splits and set(splits) <= set(SPLITS):
        splits = {name: splits.get(name, []) for name in SPLITS}
    return header, items, splits


def write_items(
    path: Path, header: Mapping[str, Any], items: Sequence[Item], splits: Mapping[str, Sequence[int]]
) -> None:
    """Write a header and items; a metric that is not in `METRICS` cannot be written."""
    metric = as_metric(header["metric"])
    if METRICS.get(metric.name) is not metric:
        raise PatchclampError(
            f"task {header['name']}: its metric {metric.name} is a function and cannot be written to {path}; use one of "
            f"{', '.join(METRICS)}"
        )
    where = {place: name for name, places in splits.items() for place in places}
    lines = [json.dumps({"task": {**header, "metric": metric.name}}, ensure_ascii=False)]
    for place, item in enumerate(items):
        record = {f.name: getattr(item, f.name) for f in fields(Item)}
        record = {key: value for key, value in record.items() if value or key == "clean"}
        record["split"] = where.get(place)
        lines.append(json.dumps(record, ensure_ascii=False, default=_plain))
    write_text(path, "\n".join(lines) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise PatchclampError(f"{value!r} in an item's meta is not a JSON value")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise PatchclampError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise PatchclampError(f"{where}: no JSON that can be read ({str(error)[:60]} ...)") from error
    if not isinstance(record, dict):
        raise PatchclampError(f"{where}: a line must be an object, and this is a {type(record).__name__}")
    return record


def _known(record: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in record:
        if key not in names:
            raise PatchclampError(
                f"{where}: no field {key!r}{did_you_mean(key, names)}; fields are {', '.join(names)}"
            )


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise PatchclampError(f"{where}: {key} must be text, and is {value!r:.80}")
    refuse_surrogates(value, f"{where}, {key}")
    return value


def _header(record: dict[str, Any], where: str) -> dict[str, Any]:
    header = record["task"]
    if not isinstance(header, dict) or len(record) > 1:
        raise PatchclampError(f'{where}: a header is {{"task": {{...}}}} and nothing else')
    _known(header, HEADER, where)
    for key, value in header.items():
        if key == "min_accuracy":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise PatchclampError(f"{where}: min_accuracy must be a number, and is {value!r}")
        else:
            _text(value, key, where)
    return header


def _known_metric(header: Mapping[str, Any], where: str) -> None:
    try:
        as_metric(header.get("metric", "logit_diff"))
    except PatchclampError as error:
        raise PatchclampError(f"{where}: {error}") from error


def _item(record: dict[str, Any], where: str) -> Item:
    _known(record, _ITEM, where)
    record = {key: value for key, value in record.items() if value is not None}
    for key in ("clean", "answers"):
        if key not in record:
            raise PatchclampError(f"{where}: the field {key!r} is missing")
    for key in _TEXT:
        if key in record:
            _text(record[key], key, where)
    for key in ("answers", "foils"):
        if key in record:
            record[key] = _words(record[key], key, where)
    for key in ("spans", "corrupted_spans"):
        if key in record:
            record[key] = _spans(record[key], key, where)
    if not isinstance(record.get("meta", {}), dict):
        raise PatchclampError(f"{where}: meta must be an object, and is {record['meta']!r}")
    return Item(**record)


def _words(value: Any, key: str, where: str) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
        raise PatchclampError(f"{where}: {key} must be text or a list of texts, and is {value!r:.80}")
    for word in words:
        refuse_surrogates(word, f"{where}, {key}")
    return tuple(words)


def _spans(value: Any, key: str, where: str) -> dict[str, tuple[int, int]]:
    def good(span: Any) -> bool:
        return isinstance(span, list) and len(span) == 2 and all(type(i) is int for i in span)

    if not isinstance(value, dict) or not all(good(span) for span in value.values()):
        raise PatchclampError(f"{where}: {key} must be {{role: [first, end]}}, and is {value!r}")
    return {role: (span[0], span[1]) for role, span in value.items()}

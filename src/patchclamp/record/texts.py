"""Text from anywhere, as a stream of documents: files, tables, data sets, plain lists, the bundled sample."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from patchclamp.base.errors import PatchclampError, did_you_mean, refuse_surrogates

SUFFIXES = (".txt", ".jsonl", ".parquet")
SAMPLE = "sample"


@dataclass(frozen=True)
class Document:
    """A text with its label and its group (the unit of dependence), both None where there are none."""

    text: str
    label: str | int | None = None
    group: str | int | None = None


def documents(
    source: Any, *, text: str = "text", label: str = "label", group: str = "group", paragraphs: bool = False
) -> Iterator[Document]:
    """Stream the documents of a source, one at a time.

    Parameters
    ----------
    source
        - ``"sample"``: the bundled text;
        - path of a ``.txt`` file: each line that is not blank is a document (`paragraphs` = True: each block
          between blank lines); of a ``.jsonl`` file: an object a line; of a ``.parquet`` file: a row each;
        - a Hugging Face data set, a pandas table, or any iterable of mappings;
        - an iterable of strings.
    text, label, group
        Names of the fields. `text` must exist, the other two are used where they do; another name than ``"label"`` or
        ``"group"`` that no entry has is refused, once the source is read.

    Raises
    ------
    PatchclampError
        For a missing file or field, an unknown kind of file, or an entry that is not text; names the entry.

    Examples
    --------
    >>> [d.text for d in documents(["One.", {"text": "Two.", "label": "b"}])]
    ['One.', 'Two.']
    """
    fields = (text, label, group)
    found = (
        _file(str(source), fields, paragraphs)
        if isinstance(source, (str, Path))
        else _entries(source, fields)
    )
    asked = {"label": label, "group": group}
    missing = {name for name, field in asked.items() if field != name}
    for document in found:
        missing = {name for name in missing if getattr(document, name) is None}
        yield document
    if missing:
        name = min(missing)
        raise PatchclampError(
            f"{source if isinstance(source, (str, Path)) else type(source).__name__}: no entry has a field "
            f"{asked[name]!r} to take the {name} from; give another name, or leave it out"
        )


def _entries(source: Any, fields: tuple[str, str, str]) -> Iterator[Document]:
    where = type(source).__name__
    if isinstance(source, Mapping):
        raise PatchclampError(
            f"{where} with {', '.join(map(str, list(source)[:6]))}: this is a mapping, not a list of texts; "
            "choose one of its entries (a split of a data set)"
        )
    if hasattr(source, "itertuples"):
        source = _table(source)
    elif not isinstance(source, Iterable):
        raise PatchclampError(f"{where}: not a source of text; give a list of strings, a path or a data set")
    names = _class_names(source, fields[1])
    for number, entry in enumerate(source):
        yield _document(entry, number, where, fields, names)


def _table(table: Any) -> Iterator[dict[str, Any]]:
    """Rows of a pandas table; missing entries are None."""
    names = list(table.columns)
    for row in table.itertuples(index=False):
        yield {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in zip(names, row, strict=True)
        }


def _class_names(source: Any, label: str) -> list[str] | None:
    """Names of the labels of a Hugging Face data set, which stores them as integers."""
    features = getattr(source, "features", None)
    names = (
        getattr(features[label], "names", None)
        if isinstance(features, Mapping) and label in features
        else None
    )
    return list(names) if names else None


def _file(source: str, fields: tuple[str, str, str], paragraphs: bool) -> Iterator[Document]:
    if source == SAMPLE:
        yield from _jsonl(Path(str(files("patchclamp.record").joinpath("data/sample.jsonl"))), fields)
        return
    path = Path(source)
    if path.suffix not in SUFFIXES:
        raise PatchclampError(
            f"{source!r}: not a text file of a known kind ({', '.join(SUFFIXES)}); for texts themselves give a list, "
            f"[{source[:20]!r}, ...], for the bundled text 'sample'"
        )
    if not path.is_file():
        raise PatchclampError(f"{source}: no such file")
    if path.suffix == ".parquet":
        yield from _parquet(path, fields)
        return
    try:
        yield from _txt(path, paragraphs) if path.suffix == ".txt" else _jsonl(path, fields)
    except UnicodeDecodeError as error:
        raise PatchclampError(
            f"{path}: not UTF-8 text (byte {error.object[error.start]:#x}); save it as UTF-8"
        ) from error


def _txt(path: Path, paragraphs: bool) -> Iterator[Document]:
    block: list[str] = []
    with path.open(encoding="utf-8-sig") as handle:
        for line in handle:
            line = line.strip()
            if line and paragraphs:
                block.append(line)
            elif line:
                yield Document(line)
            elif block:
                yield Document("\n".join(block))
                block = []
    if block:
        yield Document("\n".join(block))


def _jsonl(path: Path, fields: tuple[str, str, str]) -> Iterator[Document]:
    with path.open(encoding="utf-8-sig") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise PatchclampError(
                    f"{path}, line {number}: not JSON ({error.msg}): {line[:60]!r}"
                ) from error
            except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
                raise PatchclampError(
                    f"{path}, line {number}: no JSON that can be read ({str(error)[:60]} ...): {line[:60]!r}"
                ) from error
            yield _document(entry, number, f"{path}, line", fields, None)


def _parquet(path: Path, fields: tuple[str, str, str]) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise PatchclampError(f"{path}: not a Parquet file ({str(error)[:120]})") from error
    names = table.schema_arrow.names
    if fields[0] not in names:
        raise PatchclampError(
            f"{path}: no column {fields[0]!r}; there are {', '.join(names)}{did_you_mean(fields[0], names)}"
        )
    number = 0
    for part in table.iter_batches(batch_size=1024, columns=[name for name in fields if name in names]):
        for entry in part.to_pylist():
            yield _document(entry, number, f"{path}, row", fields, None)
            number += 1


def _document(
    entry: Any, number: int, where: str, fields: tuple[str, str, str], names: list[str] | None
) -> Document:
    if isinstance(entry, str):
        refuse_surrogates(entry, f"{where} {number}")
        return Document(entry)
    if not isinstance(entry, Mapping):
        raise PatchclampError(
            f"{where} {number}: {entry!r:.60} is a {type(entry).__name__}; wanted a string, or a mapping with "
            f"{fields[0]!r}"
        )
    if not isinstance(entry.get(fields[0]), str):
        raise PatchclampError(
            f"{where} {number}: field {fields[0]!r} is {entry.get(fields[0])!r:.40}, not text; the fields are "
            f"{', '.join(map(str, entry))}{did_you_mean(fields[0], map(str, entry))}"
        )
    refuse_surrogates(entry[fields[0]], f"{where} {number}")
    label = _key(entry.get(fields[1]), f"{where} {number}, {fields[1]}")
    if names is not None and isinstance(label, int) and 0 <= label < len(names):
        label = names[label]
    return Document(entry[fields[0]], label, _key(entry.get(fields[2]), f"{where} {number}, {fields[2]}"))


def _key(value: Any, where: str) -> str | int | None:
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, str):
        refuse_surrogates(plain, where)
    if isinstance(plain, int) and not -(1 << 63) <= plain < 1 << 63:
        raise PatchclampError(f"{where}: {str(plain)[:30]} is beyond 64 bits; write it as text")
    if plain is None or isinstance(plain, (int, str)):
        return plain
    raise PatchclampError(f"{where}: {value!r:.40} is a {type(value).__name__}; wanted text or an integer")


class Names:
    """Turns labels or groups into integers: integers stay, names are numbered as they first appear."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.names: dict[str, int] = {}
        self._integers = False

    def code(self, value: str | int | None, default: int) -> int:
        """The integer of a value; `default` for None."""
        if value is None:
            return default
        if isinstance(value, str):
            number = self.names.setdefault(value, len(self.names))
        else:
            number, self._integers = int(value), True
        if self.names and self._integers:
            raise PatchclampError(f"{self.what} {value!r}: some are names and some integers; use one kind")
        return number

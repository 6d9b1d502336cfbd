"""The sample axis: which document, position and token each row of activity belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean

COLUMNS: tuple[str, ...] = ("doc", "position", "token", "content", "label", "group")


@dataclass(frozen=True)
class Samples:
    """Labels of `n` samples (rows of activity), one 1-D tensor of length `n` a column.

    Parameters
    ----------
    doc
        int64, index of the text (document, session, image) in the source.
    position
        int64, index of the token (or time bin) within its text.
    token
        int64, token id; -1 where there are no tokens.
    content
        bool, False for BOS, other special tokens and position 0 (the attention sink).
    label
        int64, the text's label; -1 = none.
    group
        int64, the unit of dependence, which splits never cut; the document itself where none is given.

    Examples
    --------
    >>> s = Samples.of(doc=torch.tensor([0, 0, 1]), position=torch.tensor([0, 1, 0]))
    >>> len(s), s[s.doc == 0].position.tolist(), s.group.tolist()
    (3, [0, 1], [0, 0, 1])
    """

    doc: Tensor
    position: Tensor
    token: Tensor
    content: Tensor
    label: Tensor
    group: Tensor

    def __post_init__(self) -> None:
        for name in COLUMNS:
            column, wanted = getattr(self, name), torch.bool if name == "content" else torch.int64
            if column.ndim != 1 or len(column) != len(self.doc) or column.dtype != wanted:
                raise PatchclampError(
                    f"samples.{name}: shape {tuple(column.shape)} of {column.dtype}; "
                    f"wanted ({len(self.doc)},) of {wanted}"
                )

    @classmethod
    def of(
        cls,
        doc: Tensor,
        position: Tensor,
        token: Tensor | None = None,
        content: Tensor | None = None,
        label: Tensor | None = None,
        group: Tensor | None = None,
    ) -> Samples:
        """Build samples with defaults: token -1, content True, label -1, group = doc."""
        none = torch.full_like(doc, -1)
        return cls(
            doc=doc.long(),
            position=position.long(),
            token=none.long() if token is None else token.long(),
            content=torch.ones_like(doc, dtype=torch.bool) if content is None else content.bool(),
            label=none.long() if label is None else label.long(),
            group=doc.long() if group is None else group.long(),
        )

    @classmethod
    def blank(cls, n: int) -> Samples:
        """Columns to be filled in."""
        kinds = {name: torch.bool if name == "content" else torch.int64 for name in COLUMNS}
        return cls(**{name: torch.zeros(n, dtype=kind) for name, kind in kinds.items()})

    @classmethod
    def concat(cls, parts: Iterable[Samples]) -> Samples:
        """Put samples one after another."""
        pieces = list(parts)
        if not pieces:
            return cls.blank(0)
        return cls(**{name: torch.cat([getattr(piece, name) for piece in pieces]) for name in COLUMNS})

    @classmethod
    def from_numpy(cls, columns: Mapping[str, np.ndarray]) -> Samples:
        """Build samples from a mapping with every column."""
        return cls(**{name: torch.from_numpy(np.ascontiguousarray(columns[name])) for name in COLUMNS})

    def columns(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor), one a column."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)

    def to(self, device: torch.device | str) -> Samples:
        """Return the samples with every column on `device`."""
        return Samples(**{name: column.to(device) for name, column in self.columns()})

    def numpy(self) -> dict[str, np.ndarray]:
        """Return the columns as NumPy arrays."""
        return {name: column.cpu().numpy() for name, column in self.columns()}

    def __getitem__(self, index: Tensor | slice) -> Samples:
        """Select rows by a boolean mask, a long tensor or a slice."""
        return Samples(**{name: column[index] for name, column in self.columns()})

    def __len__(self) -> int:
        return len(self.doc)


def named_column(name: str, codes: np.ndarray, manifest: Mapping[str, Any]) -> np.ndarray:
    """Labels or groups by their names: text ("" for none), or numbers (NaN for none) where all names are whole ones."""
    names = _names(name, manifest)
    if not names:
        return codes
    if len(codes) and codes.max() >= len(names):
        raise PatchclampError(
            f"column {name!r}: code {codes.max()} of {len(names)} names; {name}_names is damaged"
        )
    if not _whole(names):
        return np.asarray(np.array([*names, ""])[codes])
    none = bool((codes < 0).any())
    return np.asarray(np.array([*map(int, names), *([np.nan] if none else [])])[codes])


def _names(name: str, manifest: Mapping[str, Any]) -> list[str]:
    """Names of the codes of a label or group; a document is its index, whatever it is called."""
    return list(manifest.get(f"{name}_names") or []) if name in ("label", "group") else []


def _whole(names: list[str]) -> bool:
    return bool(names) and all(text.lstrip("-").isdecimal() and str(int(text)) == text for text in names)


Where = Callable[[Samples], Tensor] | Mapping[str, Any]
STEP = 65536


def matching(
    where: Where, read: Callable[[slice], Samples], n_samples: int, manifest: Mapping[str, Any]
) -> np.ndarray:
    """Indices of the samples for which `where` holds, looked at in pieces.

    Raises
    ------
    PatchclampError
        When none matches, a column or name does not exist, or a function does not return a mask.
    """
    test = where if callable(where) else _condition(where, manifest)
    found = []
    for start in range(0, n_samples, STEP):
        part = read(slice(start, start + STEP))
        mask = torch.as_tensor(test(part))
        if mask.shape != (len(part),) or mask.dtype != torch.bool:
            raise PatchclampError(
                f"where: the function returned {tuple(mask.shape)} of {mask.dtype}; "
                f"it must return one bool a sample, ({len(part)},)"
            )
        found.append(mask.nonzero()[:, 0].numpy() + start)
    chosen = np.concatenate(found) if found else np.zeros(0, np.int64)
    if not len(chosen):
        raise PatchclampError(f"where={where!r} matches none of the {n_samples} samples")
    return chosen


def _condition(where: Mapping[str, Any], manifest: Mapping[str, Any]) -> Callable[[Samples], Tensor]:
    for name in where:
        if name not in COLUMNS:
            raise PatchclampError(
                f"where: no column {name!r}; the columns are {', '.join(COLUMNS)}{did_you_mean(name, COLUMNS)}"
            )
    tests = {name: _codes(name, value, manifest) for name, value in where.items()}

    def test(samples: Samples) -> Tensor:
        mask = torch.ones(len(samples), dtype=torch.bool)
        for name, value in tests.items():
            mask &= _holds(getattr(samples, name), value)
        return mask

    return test


def _holds(column: Tensor, value: Any) -> Tensor:
    if isinstance(value, slice):
        top = torch.iinfo(torch.int64).max if value.stop is None else value.stop
        return (column >= (value.start or 0)) & (column < top)
    return torch.isin(column.long(), torch.tensor(value, dtype=torch.int64))


def _codes(name: str, value: Any, manifest: Mapping[str, Any]) -> Any:
    """Values of a column as integers; names of labels and groups are looked up in the manifest."""
    if isinstance(value, slice):
        if value.step is not None or any(isinstance(end, str) for end in (value.start, value.stop)):
            raise PatchclampError(f"where: {name}={value!r}; a slice is (from, up to) in whole numbers")
        if not _whole(_names(name, manifest)):
            return value
        low, high = (
            (value.start if value.start is not None else -np.inf),
            (value.stop if value.stop is not None else np.inf),
        )
        return [code for code, text in enumerate(manifest[f"{name}_names"]) if low <= int(text) < high]
    if not isinstance(value, (str, int, np.integer, Iterable)):
        raise PatchclampError(f"where: {name}={value!r}; give a value, a list of values or a slice")
    values = [value] if isinstance(value, (str, int, np.integer)) else list(value)
    names = list(manifest.get(f"{name}_names") or [])
    if _whole(_names(name, manifest)):  # 2 is what the file calls 2, not the second of its names
        values = [v if isinstance(v, str) or v == -1 and "-1" not in names else str(int(v)) for v in values]
    lost = [v for v in values if isinstance(v, str) and v not in names]
    if lost:
        raise PatchclampError(
            f"where: no {name} {lost[0]!r}; there are {names[:20]}{did_you_mean(lost[0], names)}"
        )
    return [names.index(v) if isinstance(v, str) else int(v) for v in values]

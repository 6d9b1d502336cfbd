"""Values of a file's JSON object, each asked for by kind: one of another kind, or out of its range, is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from patchclamp.base.errors import PatchclampError, check_choice


class Fields:
    """A JSON object of a file that somebody else wrote. Null counts as left out.

    Parameters
    ----------
    data
        The object.
    source
        The file, which begins every refusal.
    inside
        Where in the file the object stands.

    Raises
    ------
    PatchclampError
        Here for what is no object, in every method for a value of another kind, with the value.

    Examples
    --------
    >>> cfg = Fields({"k": 32, "d_in": -1, "trainer": {"layer": "8"}}, "cfg.json")
    >>> cfg.whole("k", low=1), cfg.text("hook_name"), cfg.flag("transcode")
    (32, None, False)
    >>> cfg.whole("d_in", low=1)
    Traceback (most recent call last):
    ...
    patchclamp.base.errors.PatchclampError: cfg.json: d_in is -1, and must be a whole number of at least 1
    >>> cfg.part("trainer").whole("layer")
    Traceback (most recent call last):
    ...
    patchclamp.base.errors.PatchclampError: cfg.json: trainer.layer is '8', and must be a whole number
    """

    def __init__(self, data: Any, source: object, inside: str = "") -> None:
        self.source, self.inside = str(source), inside
        if not isinstance(data, Mapping):
            what = f"{inside} is" if inside else "holds"
            raise PatchclampError(f"{source}: {what} {_short(data)}, and must be an object")
        self.data: dict[str, Any] = dict(data)

    def name(self, key: str) -> str:
        """The place of a value, as errors say it."""
        return f"{self.inside}.{key}" if self.inside else key

    def refuse(self, key: str, must: str) -> PatchclampError:
        """The error for a value."""
        value = _short(self.data.get(key))
        return PatchclampError(f"{self.source}: {self.name(key)} is {value}, and must be {must}")

    def need(self, key: str) -> Any:
        """A value of any kind that must be there."""
        if self.data.get(key) is None:
            raise PatchclampError(f"{self.source}: {self.name(key)} is missing")
        return self.data[key]

    def text(self, key: str, default: str | None = None, choices: Iterable[str] | None = None) -> str | None:
        """A text, one of `choices` where these are given."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.refuse(key, "a text")
        if choices is not None:
            check_choice(f"{self.source}: {self.name(key)}", value, choices)
        return value

    def need_text(self, key: str) -> str:
        """A text that must be there."""
        self.need(key)
        return str(self.text(key))

    def words(self, key: str) -> tuple[str, ...] | None:
        """A list of texts."""
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.refuse(key, "a list of texts")
        return tuple(value)

    def wholes(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers, 0 or more, at least one."""
        value = self.data.get(key)
        if (
            not isinstance(value, list)
            or not value
            or not all(type(n) is int and 0 <= n < 1 << 63 for n in value)
        ):
            raise self.refuse(key, "a list of whole numbers")
        return tuple(value)

    def whole(self, key: str, default: int | None = None, low: int | None = None) -> int | None:
        """A whole number of at least `low`."""
        value = self.data.get(key)
        if value is None:
            return default
        least = "" if low is None else f" of at least {low}"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
            raise self.refuse(key, f"a whole number{least}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def part(self, key: str) -> Fields:
        """An object inside; an empty one where there is none."""
        value = self.data.get(key)
        return Fields({} if value is None else value, self.source, self.name(key))

    def agrees(self, key: str, found: Any, with_what: str) -> None:
        """Refuse a value that says otherwise than what was found in another place of the files."""
        value = self.data.get(key)
        if value is not None and (value != found or isinstance(value, bool) != isinstance(found, bool)):
            raise PatchclampError(
                f"{self.source}: {self.name(key)} is {_short(value)}, but {with_what} {found!r}: the files do not belong "
                "together, or one was changed"
            )


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."

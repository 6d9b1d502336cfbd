"""The one exception a user of patchclamp has to know, and the helpers that write its suggestions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PatchclampError(ValueError):
    """Bad input: the message names the thing, the value and the way out.

    Raised before work begins wherever that is possible. The command line prints it as one line and exits with 2.
    """


def near(name: str, options: Iterable[str], n: int = 3) -> list[str]:
    """Return up to `n` of `options` that look like `name`, best first.

    Examples
    --------
    >>> near("mlp_akt", ["mlp_act", "resid_pre"])
    ['mlp_act']
    """
    return difflib.get_close_matches(name, list(options), n=n, cutoff=0.6)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean a, b?"``, or an empty string where nothing is near.

    Examples
    --------
    >>> did_you_mean("mlp_akt", ["mlp_act", "resid_pre"])
    '; did you mean mlp_act?'
    """
    found = near(name, options)
    return f"; did you mean {', '.join(found)}?" if found else ""


def printable(text: str) -> str:
    """A text of a file or a name as a terminal may show it: what would steer it is written out.

    Examples
    --------
    >>> printable(chr(27) + "[31mred").startswith(chr(92) + "x1b")
    True
    """
    return "".join(
        c if c.isprintable() or c in "\n\t " else c.encode("unicode_escape").decode() for c in text
    )


def refuse_surrogates(text: str, where: str) -> None:
    """Refuse half a character, which JSON can hold and no tokenizer and no file takes.

    Raises
    ------
    PatchclampError
        With its place in the text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PatchclampError(
            f"{where}: holds half a character (\\u{ord(text[error.start]):x}, a lone surrogate, at {error.start}); leave it out"
        ) from None


def check_choice(what: str, value: object, options: Iterable[str]) -> None:
    """Refuse a value that is none of the options, with their names and those that are near.

    Raises
    ------
    PatchclampError
        Naming what was chosen, the value and the options.

    Examples
    --------
    >>> check_choice("level", "unit", ("auto", "unit", "site"))
    >>> check_choice("level", "sites", ("auto", "unit", "site"))
    Traceback (most recent call last):
    ...
    patchclamp.base.errors.PatchclampError: level 'sites': give auto, unit or site; did you mean site?
    """
    names = list(map(str, options))
    if value not in names:
        listed = " or ".join([", ".join(names[:-1]), *names[-1:]]) if len(names) > 1 else ", ".join(names)
        raise PatchclampError(f"{what} {value!r}: give {listed or 'none'}{did_you_mean(str(value), names)}")

"""Numbers as a reader sees them: few digits, a real minus sign, a dash for what is missing."""

from __future__ import annotations

import math

__all__ = ["between", "number", "percent", "signed", "visible"]


def number(value: float | None, digits: int = 2) -> str:
    """Format a number for a reader: few digits, a real minus sign, an em dash for a missing value.

    Examples
    --------
    >>> number(-0.12345), number(float("nan")), number(46080)
    ('−0.12', '—', '46,080')
    """
    if value is None or not math.isfinite(value):
        return "—"
    if value == int(value) and abs(value) >= 10:
        return f"{int(value):,}".replace("-", "−")
    if value != 0 and abs(value) < 10**-digits:
        return f"{value:.1g}".replace("-", "−")
    return f"{value:.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Format a fraction in percent; one decimal below 10 %.

    Examples
    --------
    >>> percent(1.141), percent(0.032)
    ('114%', '3.2%')
    """
    text = number(
        float("nan") if value is None else 100 * value, 0 if value is None or abs(value) >= 0.0995 else 1
    )
    return text if text == "—" else f"{text}%"


def between(low: float | None, high: float | None) -> str:
    """Format an interval of fractions; "no interval" where there is none.

    Examples
    --------
    >>> between(0.25, 0.5), between(None, None)
    ('25% to 50%', 'no interval')
    """
    return "no interval" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def signed(value: float | None) -> str:
    """Format a number with its sign; an em dash for a missing one.

    Examples
    --------
    >>> signed(0.5), signed(None)
    ('+0.50', '—')
    """
    text = number(value)
    return f"+{text}" if value is not None and value > 0 else text


def visible(token: str) -> str:
    """Show the white space of a token.

    Examples
    --------
    >>> visible(" cat"), visible(chr(10))
    ('·cat', '⏎')
    """
    return token.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")

"""Packages of the extra `brain`, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from patchclamp.base.errors import PatchclampError


def optional(module: str, needs: str) -> Any:
    """Import a module, or refuse with the way to get it.

    Parameters
    ----------
    module
        Its dotted name.
    needs
        Start of a sentence that ends in "it": ``"pictures need"``.

    Raises
    ------
    PatchclampError
        When it is not installed.

    Examples
    --------
    >>> optional("json", "files need").loads("1")
    1
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise PatchclampError(
            f"{module.split('.', maxsplit=1)[0]} is not installed; {needs} it: pip install patchclamp[brain]"
        ) from error


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of its own, in inches: no window opens and no global state changes."""
    figure = optional("matplotlib.figure", "pictures need").Figure
    return figure(figsize=(width, height), layout="constrained")

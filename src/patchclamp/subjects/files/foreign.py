"""What other people's code raises over a file that is not what it seems, as one line that names the file."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from patchclamp.base.errors import PatchclampError

FAILURES: tuple[type[Exception], ...] = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
    *(RuntimeError, ImportError, MemoryError, EOFError, SafetensorError, StrictDataclassError),
    pickle.UnpicklingError,
)
"""What transformers and tokenizers raise on configs and weights that do not fit: they check little and name nothing."""


@contextmanager
def foreign(source: object, what: str = "cannot be loaded") -> Iterator[None]:
    """Refuse, in the name of `source`, where the code inside cannot make anything of it. Ours is not called inside.

    Examples
    --------
    >>> with foreign("model/config.json"):
    ...     int("many heads")
    Traceback (most recent call last):
    ...
    patchclamp.base.errors.PatchclampError: model/config.json: cannot be loaded: invalid literal for int() with base 10: 'many heads'
    """
    try:
        yield
    except PatchclampError:
        raise
    except FAILURES as error:
        raise PatchclampError(f"{source}: {what}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What an exception says, for a person."""
    text = str(error).strip()
    if "trust_remote_code" in text:
        return "it brings code of its own; read it, and if you trust it, pass trust_remote_code=True"
    if isinstance(error, pickle.UnpicklingError):
        return "its weights are a pickle that holds more than tensors; use a safetensors copy of the model"
    if isinstance(error, SafetensorError):
        return f"its weights are not a whole safetensors file ({text}); was the download interrupted? fetch it again"
    if isinstance(
        error, StrictDataclassError
    ):  # "Validation error for field 'x':\n    TypeError: Field 'x' expected bool"
        return text.splitlines()[-1].strip().partition(": ")[2] or text
    if isinstance(error, LookupError | AssertionError) or not text:
        return f"its config asks for what there is not ({type(error).__name__} {text})"
    return text.splitlines()[0]

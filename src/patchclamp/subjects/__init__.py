"""Subjects: what can be recorded and, when it is live, perturbed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.subjects.base import SiteInfo, Subject
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair, Run
from patchclamp.subjects.clamp.modes import Training
from patchclamp.subjects.inputs import Inputs
from patchclamp.subjects.language import LanguageModel
from patchclamp.subjects.module import TorchModule
from patchclamp.subjects.tensors import TensorTask
from patchclamp.subjects.vision import VisionModel


def open_subject(
    source: str | nn.Module,
    *,
    device: str = "auto",
    dtype: str = "auto",
    tokenizer: Any = None,
    bos: bool | None = None,
    example: Inputs | None = None,
    time_axis: int | Mapping[str, int] | None = None,
    trust_remote_code: bool = False,
    training: Training = "refuse",
) -> Subject:
    """Put a network under the instrument.

    Parameters
    ----------
    source
        ``"smollm2"`` (the embedded model), a Hugging Face id, a folder, a GGUF file, or a module object, which is
        used as it is and never changed. ``"SCHEME:NAME"`` asks a package that offers this scheme under the entry points
        `patchclamp.subjects`; ``"truth:induction-20"`` is a system whose answer is known.
    device, dtype
        Where and in what precision to run; ``"auto"`` takes a GPU where there is one, and the precision of the
        weights. A module object stays where and what it is; asking for something else is refused.
    tokenizer
        For a language model given as an object.
    bos
        Whether texts begin with a BOS token; None follows the tokenizer.
    example
        For a module without a known anatomy: one input (or a tuple or dict of several), from which its sites are learnt.
    time_axis
        For such a module: its axis of time, see `TorchModule`.
    trust_remote_code
        Run code that a hub repository brings; off unless asked for.
    training
        For a module object whose dropout or batch norm is in training mode: ``"refuse"`` its passes, or measure it ``"as
        it is"``; results then say so. What is opened by name is put into evaluation mode.

    Examples
    --------
    >>> subject = open_subject(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), example=__import__("torch").zeros(1, 4))
    >>> [str(site) for site in subject.known_sites()]
    ['0.out', '1.out']
    """
    if example is not None and isinstance(source, nn.Module):
        return TorchModule(source, example, type(source).__name__, training=training, time_axis=time_axis)
    if time_axis is not None:
        raise PatchclampError("time_axis is for a module that is opened with example=<one input>")
    if isinstance(source, nn.Module) and not hasattr(source, "config"):
        raise PatchclampError(
            f"{type(source).__name__} is not a transformers model; pass example=<one input> to open it as a plain module"
        )
    if isinstance(source, str) and ":" in source:
        opened = _by_scheme(source, device, dtype)
        if opened is not None:
            return opened
    from patchclamp.subjects.files.loading import load_model

    loaded = load_model(
        source, device=device, dtype=dtype, trust_remote_code=trust_remote_code, tokenizer=tokenizer
    )
    if getattr(loaded.model, "main_input_name", "input_ids") == "pixel_values":
        return VisionModel(loaded.model, loaded.name, training=training)
    return LanguageModel(loaded.model, loaded.tokenizer, loaded.name, bos=bos, training=training)


def _by_scheme(source: str, device: str, dtype: str) -> Subject | None:
    """What the package behind ``scheme:`` opens; None where no package offers the scheme (a path with a colon, say)."""
    scheme, _, name = source.partition(":")
    offered = {entry.name: entry for entry in entry_points(group="patchclamp.subjects")}
    if scheme in offered:
        opened: Subject = offered[scheme].load()(name, device=device, dtype=dtype)
        return opened
    hint = did_you_mean(scheme, offered)
    if hint:
        raise PatchclampError(f"{source}: no installed package offers the scheme {scheme!r}{hint}")
    return None


__all__ = [
    "Batch",
    "Edit",
    "LanguageModel",
    "Pair",
    "Run",
    "SiteInfo",
    "Subject",
    "TensorTask",
    "TorchModule",
    "VisionModel",
    "open_subject",
]

"""Modes around a pass: which modules compute otherwise in training, evaluation mode for a while, autocast kept out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from patchclamp.base.errors import PatchclampError, check_choice

Training = Literal["refuse", "as it is"]
_RATES = ("drop", "jitter")
# Their own code asks for `training` also where nothing comes of it (caches, losses, checkpointing).
_LIBRARIES = ("torch", "transformers", "accelerate", "peft")


def in_training(model: nn.Module) -> list[str]:
    """Paths of the modules that are in training mode and compute otherwise than in evaluation mode.

    Dropout with p > 0 (also that which attention or a recurrent layer does itself), norms that keep running
    statistics, randomised slopes, routers with jitter, and modules of the user's own whose `forward` looks at
    `self.training`.

    Examples
    --------
    >>> in_training(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.0)))
    ['1']
    >>> in_training(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)).eval())
    []
    """
    return [name for name, module in model.named_modules() if module.training and _differs(module)]


def _differs(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, _NormBase):
        return module.running_mean is not None
    if isinstance(module, nn.RReLU):
        return module.lower != module.upper
    rates = [
        value
        for name, value in vars(module).items()
        if isinstance(value, float) and any(word in name.lower() for word in _RATES)
    ]
    if rates:
        return any(rate > 0 for rate in rates)
    if type(module).__module__.partition(".")[0] in _LIBRARIES:
        return False
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names


def training_note(model: nn.Module) -> str:
    """What a result says of passes in training mode, such as ``"training mode: 2 modules, first drop (Dropout)"``; else empty."""
    names = in_training(model)
    if not names:
        return ""
    return f"training mode: {len(names)} module{'s' * (len(names) > 1)}, first {_called(model, names[0])}"


def refuse_training(model: nn.Module, name: str) -> None:
    """Refuse a pass through a model of which a part is in training mode and computes otherwise there.

    Raises
    ------
    PatchclampError
        Naming the first such module and the ways out.
    """
    names = in_training(model)
    if names:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise PatchclampError(
            f"{name}: {_called(model, names[0])}{more} is in training mode, so that passes are random or change the model; "
            "call model.eval(), or run `with subject.evaluating():` in a training loop, or open the model with "
            "training='as it is' to measure it in this mode"
        )


def check_training(training: str) -> None:
    """Refuse another word than those of `Training`."""
    check_choice("training", training, ("refuse", "as it is"))


def _called(model: nn.Module, path: str) -> str:
    module = model.get_submodule(path)
    kind = type(module).__name__
    return f"{path} ({kind})" if path else kind


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each module's own mode is put back afterwards, also after an exception."""
    before = [module for module in model.modules() if module.training]
    for module in before:
        module.training = False
    try:
        yield
    finally:
        for module in before:
            module.training = True


def own_precision(device: torch.device) -> AbstractContextManager[object]:
    """The model's own types inside, whatever autocast region the caller is in: it would move values by about a percent."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def with_recurrent_gradients(model: nn.Module, device: torch.device) -> AbstractContextManager[object]:
    """Kernels that give gradients in evaluation mode: those of cuDNN for recurrent layers do so in training mode alone."""
    if device.type != "cuda" or not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=False)


__all__ = [
    "Training",
    "check_training",
    "evaluating",
    "in_training",
    "own_precision",
    "refuse_training",
    "training_note",
    "with_recurrent_gradients",
]

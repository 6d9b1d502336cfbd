"""What stands on a model's modules: the one place that reads torch's own registers of hooks."""

from __future__ import annotations

from torch import nn


def hook_counts(model: nn.Module) -> list[int]:
    """Forward hooks and pre-hooks of each module, in the order of `modules()`."""
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def no_hooks(model: nn.Module) -> bool:
    """Whether no module has a hook or a forward of its own."""
    return not any(hook_counts(model)) and all("forward" not in m.__dict__ for m in model.modules())

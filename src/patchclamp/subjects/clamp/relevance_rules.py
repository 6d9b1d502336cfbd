"""The rules of relevance patching: backward passes that follow layer-wise relevance propagation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.draw.cards import shown
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.freeze import Patterns
from patchclamp.subjects.clamp.hooks import in_turn
from patchclamp.subjects.clamp.relevance_formulas import (
    NormFormula,
    ratio,
    recognise_activation,
    recognise_norm,
)
from patchclamp.subjects.transformer import Transformer

RULES: dict[str, str] = {
    "LN": "the scale of every norm is held fixed; centring keeps its gradient",
    "Stream": "as LN, for norms that read the stream only: not those of queries and keys, nor those behind a block's parts",
    "Identity": "the gradient of an activation is act(z) / z",
    "Half": "the gradient through a gated product act(g) * u is halved",
    "AH": "attention patterns are held fixed where attention makes them: queries and keys carry no gradient",
}
DEFAULT_RULES = ("LN", "Identity", "Half")

# Linear maps, and operations that hand values on: their gradient is already the 0-rule's.
_PLAIN = (
    nn.Linear, nn.Bilinear, nn.Embedding, nn.Identity, nn.Flatten, nn.Unflatten,
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.ReLU, nn.LeakyReLU,
)  # fmt: skip
# Plain at evaluation time only.
_EVALUATED = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)
_PLAIN_NAMES = frozenset({"Conv1D", "LinearActivation", "StochasticDepth", "DropPath"})


@shown
@dataclass
class AppliedRules:
    """Which rule acts on which modules, and which of them have run."""

    modules: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ran: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def report(self) -> dict[str, list[str]]:
        """Rule -> the modules on which it acted in the passes since; empty for a rule that found nothing to do."""
        return {rule: [m for m in found if m in self.ran[rule]] for rule, found in self.modules.items()}


Hook = Callable[..., Any]


class RulePlan:
    """Hooks that carry out a set of rules on one model, found and verified once, put on and taken off at will.

    Parameters
    ----------
    subject
        Its modules are looked through; nothing is changed.
    rules
        Names in `RULES`.
    strict
        Refuse every operation whose propagation is unknown, rather than only unknown norms.
    """

    def __init__(self, subject: Subject, rules: Sequence[str] = DEFAULT_RULES, strict: bool = True) -> None:
        for rule in rules:
            check_choice("rule", rule, RULES)
        self.applied = AppliedRules()
        self.model = subject.model
        self._hooks: list[tuple[nn.Module, str, Hook]] = []
        for rule in rules:
            self.applied.modules[rule] = []
        self._inner = _inner_norms(subject) if "Stream" in rules else frozenset()
        self._leaves(subject, rules, strict)
        if "Half" in rules:
            self._products(subject)
        self._patterns = self._fix_patterns(subject) if "AH" in rules else None

    def _leaves(self, subject: Subject, rules: Sequence[str], strict: bool) -> None:
        for name, module in subject.model.named_modules():
            if (
                next(module.children(), None) is not None
                or isinstance(module, nn.ModuleList)
                or _plain(module)
            ):
                continue
            norm = None if _activation_like(module) else recognise_norm(module)
            activation = recognise_activation(module) if norm is None else None
            if norm is not None:
                which = "LN" if "LN" in rules or name in self._inner else "Stream"
                self._add(which, rules, name, module, "out", _fixed_scale(norm))
            elif activation is not None:
                self._add("Identity", rules, name, module, "out", _fixed_ratio(activation))
            elif strict or ({"LN", "Stream"} & set(rules) and "norm" in type(module).__name__.lower()):
                raise PatchclampError(
                    f"{name}: no rule is known for {type(module).__name__}, so relevance cannot be propagated "
                    "through it; use attribution_patching, or integrated_gradients(ln_rule=False)"
                )

    def _add(self, rule: str, rules: Sequence[str], name: str, module: nn.Module, io: str, act: Hook) -> None:
        if rule not in rules:
            return
        self.applied.modules[rule].append(name)

        def on_output(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            self.applied.ran[rule].add(name)
            return act(_first(args, kwargs), output)

        def on_input(module: nn.Module, args: Any) -> Any:
            self.applied.ran[rule].add(name)
            return (act(args[0]), *args[1:])

        self._hooks.append((module, io, on_output if io == "out" else on_input))

    def _products(self, subject: Subject) -> None:
        if not isinstance(subject, Transformer):
            return
        for layer in range(subject.n_layers):
            row = subject.row_at(layer)
            if row.gated and row.mlp_proj is not None:
                name = f"{subject.row.layers}.{layer}.{row.mlp_proj}"
                self._add("Half", ("Half",), name, subject.layer_module(layer, row.mlp_proj), "in", _halved)

    def _fix_patterns(self, subject: Subject) -> Patterns:
        if not isinstance(subject, Transformer):
            raise PatchclampError(f"{subject.name}: rule AH needs attention that has a name; leave AH out")
        patterns = Patterns(subject)
        patterns.ran = self.applied.ran["AH"]
        self.applied.modules["AH"] = patterns.names
        return patterns

    @contextmanager
    def active(self) -> Iterator[AppliedRules]:
        """Put the hooks on; they come off whatever happens. Other threads wait until then."""
        with ExitStack() as hooks:
            hooks.enter_context(in_turn(self.model))
            for module, io, hook in self._hooks:
                if io == "out":
                    hooks.enter_context(module.register_forward_hook(hook, with_kwargs=True))
                else:
                    hooks.enter_context(module.register_forward_pre_hook(hook))
            if self._patterns is not None:
                hooks.enter_context(self._patterns.active())
            yield self.applied


@contextmanager
def relevance_rules(
    subject: Subject, rules: Sequence[str] = DEFAULT_RULES, strict: bool = True
) -> Iterator[AppliedRules]:
    """Inside, gradients follow the rules and values stay as they are, bit for bit.

    Parameters
    ----------
    subject
        A live model.
    rules
        Names in `RULES`: LN, Identity, Half, AH.
    strict
        Refuse operations for which no rule is known.

    Yields
    ------
    AppliedRules
        Which modules each rule acts on, and `report()`, which of them have run.

    Raises
    ------
    PatchclampError
        For an unknown rule, and for a module whose operation is unknown, naming it.

    Notes
    -----
    Every norm and activation is compared with its formula on numbers before the rule is trusted. Operations that
    are written as functions inside a forward method (softmax, a functional GELU) have no module and cannot be seen.

    Examples
    --------
    >>> import torch
    >>> from patchclamp.subjects import TorchModule
    >>> net = TorchModule(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU()), torch.zeros(1, 3))
    >>> with relevance_rules(net) as applied:
    ...     _ = net.model(torch.ones(1, 3))
    >>> applied.report()
    {'LN': [], 'Identity': ['1'], 'Half': []}
    """
    with RulePlan(subject, rules, strict).active() as applied:
        yield applied


def _plain(module: nn.Module) -> bool:
    if isinstance(module, _EVALUATED):
        if module.training:
            raise PatchclampError(f"{type(module).__name__} is in training mode; call model.eval() first")
        return True
    name = type(module).__name__
    return isinstance(module, _PLAIN) or name in _PLAIN_NAMES or "Rotary" in name or "Embedding" in name


def _inner_norms(subject: Subject) -> frozenset[str]:
    """Paths of the norms inside attention and MLP, and of those behind them, whose output is added to the stream.

    Their scale is that of the unit at hand, or of a few: a patch changes it, and only the gradient through it says by how
    much. The scale of the stream is that of all that was written before, and hardly moved by one unit.
    """
    if not isinstance(subject, Transformer):
        return frozenset()
    found: set[str] = set()
    for layer in range(subject.n_layers):
        row = subject.row_at(layer)
        parts = {row.attention, row.taps["mlp_out"].module}
        behind = {row.taps[point].module for point in ("attn_out_post", "mlp_out_post")} - parts
        names = [name for name, _ in subject.layers[layer].named_modules()]
        inside = [name for name in names if any(name.startswith(f"{part}.") for part in parts)]
        found |= {f"{subject.row.layers}.{layer}.{name}" for name in (*inside, *behind)}
    return frozenset(found)


def _activation_like(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is None and not hasattr(module, "normalized_shape")


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))


def _with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value` to the bit, with the gradient of `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach()).to(value.dtype)


def _fixed_scale(norm: NormFormula) -> Hook:
    return lambda x, y: _with_gradient_of(y, norm.linear(x))


def _fixed_ratio(activation: str) -> Hook:
    return lambda z, y: y.detach() + (z - z.detach()) * ratio(activation, z.detach())


def _halved(product: Tensor) -> Tensor:
    return product.detach() + (product - product.detach()) / 2

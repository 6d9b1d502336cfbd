"""What stays as it was in a pass: attention patterns and the scales of norms, in every family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Edit
from patchclamp.subjects.clamp.hooks import in_turn
from patchclamp.subjects.clamp.relevance_formulas import NormFormula, recognise_norm
from patchclamp.subjects.transformer import Transformer

_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)


class Patterns(TorchFunctionMode):
    """Attention patterns without a gradient, or given ones in their place, while it is active.

    The pattern is taken where the attention function makes it (softmax, or the fused kernel), so that it does not
    matter which modules make queries and keys, or whether one makes them all.

    Parameters
    ----------
    subject
        A transformer; its attention modules are told apart by hooks, so a router's softmax is left alone.
    given
        Layer -> pattern (batch, head, query, key) to use instead of the pass's own; needs eager attention.
    """

    def __init__(self, subject: Transformer, given: Mapping[int, Tensor] | None = None) -> None:
        super().__init__()
        self.given = given or {}
        self.names = [
            f"{subject.row.layers}.{layer}.{subject.row_at(layer).attention}"
            for layer in range(subject.n_layers)
        ]
        self.ran: set[str] = set()
        self._inside: list[int] = []
        self._modules = [
            subject.layer_module(layer, subject.row_at(layer).attention) for layer in range(subject.n_layers)
        ]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take softmax and the fused kernel inside of an attention module; pass on all else."""
        kwargs = kwargs or {}
        if not self._inside:
            return func(*args, **kwargs)
        layer = self._inside[-1]
        if func in _SOFTMAX:
            self.ran.add(self.names[layer])
            own = func(*args, **kwargs).detach()
            return self.given[layer].to(own) if layer in self.given else own
        if func is functional.scaled_dot_product_attention:
            if layer in self.given:
                raise PatchclampError(f"layer {layer}: a pattern can be given to eager attention only")
            self.ran.add(self.names[layer])
            query, key, *rest = args
            return func(query.detach(), key.detach(), *rest, **kwargs)
        return func(*args, **kwargs)

    @contextmanager
    def active(self) -> Iterator[Patterns]:
        """Put it on, and refuse an attention module in which neither was seen."""
        with ExitStack() as stack:
            for layer, module in enumerate(self._modules):
                stack.enter_context(
                    module.register_forward_pre_hook(lambda *_, layer=layer: self._inside.append(layer))
                )
                stack.enter_context(module.register_forward_hook(lambda *_, layer=layer: self._leave(layer)))
            stack.enter_context(self)
            try:
                yield self
            finally:
                self._inside.clear()

    def _leave(self, layer: int) -> None:
        self._inside.pop()
        if self.names[layer] not in self.ran:
            raise PatchclampError(
                f"{self.names[layer]}: no softmax and no scaled_dot_product_attention was seen in its attention, so its "
                "pattern cannot be held fixed; load the model with attn_implementation='eager'"
            )


class BeforeSoftmax(Patterns):
    """What attention hands to its softmax, layer -> (batch, head, query, key), in eager attention."""

    def __init__(self, subject: Transformer) -> None:
        super().__init__(subject)
        self.seen: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the argument of a softmax inside of an attention module."""
        if self._inside and func in _SOFTMAX:
            self.ran.add(self.names[self._inside[-1]])
            self.seen[self._inside[-1]] = args[0]
        return func(*args, **(kwargs or {}))


class Unseen(Patterns):
    """Attention that some queries cannot pay to some keys, in some layers, in eager attention.

    Parameters
    ----------
    subject
        A transformer.
    where
        (batch, query, key), True where nothing is seen: the score is minus infinity before the softmax, and what is
        left adds to 1. A query that would see nothing keeps what it saw.
    layers
        In which layers.
    """

    def __init__(self, subject: Transformer, where: Tensor, layers: Iterable[int]) -> None:
        super().__init__(subject)
        self.where, self.layers = where, frozenset(layers)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Leave keys out of a softmax inside of an attention module."""
        if self._inside and func in _SOFTMAX:
            self.ran.add(self.names[self._inside[-1]])
            if self._inside[-1] in self.layers:
                least = torch.finfo(args[0].dtype).min
                cut = args[0].masked_fill(self.where[:, None].to(args[0].device), -torch.inf)
                seen = (cut > least / 2).any(-1, keepdim=True)
                args = (torch.where(seen, cut, args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def norms_of(model: nn.Module) -> list[tuple[str, nn.Module, NormFormula]]:
    """The norms of a model whose formula holds on numbers, with their names."""
    found = []
    for name, module in model.named_modules():
        bare = next(module.parameters(recurse=False), None) is None and not hasattr(
            module, "normalized_shape"
        )
        if next(module.children(), None) is None and not bare:
            formula = recognise_norm(module)
            if formula is not None:
                found.append((name, module, formula))
    return found


@dataclass
class State:
    """What one pass had, to be held in later ones: patterns by layer, scales of norms by name, activity by site."""

    batch: Batch
    patterns: dict[int, Float[Tensor, "batch head query key"]] = field(default_factory=dict)
    scales: dict[str, Float[Tensor, "batch pos 1"]] = field(default_factory=dict)
    activity: dict[Site, Tensor] = field(default_factory=dict)


def state_of(subject: Transformer, batch: Batch, sites: Sequence[Site] = ()) -> State:
    """Patterns, scales of norms and the activity of `sites` in an unchanged pass.

    Examples
    --------
    >>> state = state_of(subject, batch)                                    # doctest: +SKIP
    >>> with held(subject, state):
    ...     run = subject.run(batch, read="resid_post.3", write=edits)
    """
    batch = batch.to(subject.device)
    found = State(batch)
    probs = [Site("attn_probs", layer) for layer in range(subject.n_layers)]
    with ExitStack() as hooks:
        hooks.enter_context(in_turn(subject.model))
        for name, module, formula in norms_of(subject.model):
            hooks.enter_context(
                module.register_forward_hook(
                    lambda module, args, out, name=name, formula=formula: found.scales.__setitem__(
                        name, formula.scale(args[0])
                    )
                )
            )
        run = subject.run(batch, read=list(dict.fromkeys([*probs, *sites])), stop=False)
    found.patterns = {site.layer or 0: run.activity[site] for site in probs}
    found.activity = {site: run.activity[site] for site in sites}
    return found


@contextmanager
def held(
    subject: Transformer, state: State, *, patterns: bool = True, norms: bool = True
) -> Iterator[list[Site]]:
    """Passes inside use the patterns and scales of a state.

    Yields
    ------
    list of Site
        To be read in these passes, so that attention runs in the form that takes patterns.
    """
    with ExitStack() as hooks:
        hooks.enter_context(in_turn(subject.model))
        if norms:
            for name, module, formula in norms_of(subject.model):
                if name in state.scales:
                    hook = _at_scale(module, formula, state.scales[name])
                    hooks.enter_context(module.register_forward_hook(hook))
        if patterns:
            hooks.enter_context(Patterns(subject, state.patterns).active())
        yield [Site("attn_probs", layer) for layer in state.patterns] if patterns else []


def _at_scale(module: nn.Module, formula: NormFormula, scale: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        new = formula.scaled(args[0], scale)
        bias = getattr(module, "bias", None)
        return (new + bias if isinstance(bias, Tensor) else new).to(out.dtype)

    return hook


def as_they_were(state: State, sites: Sequence[Site]) -> list[Edit]:
    """Edits that put a state's activity back at sites."""
    return [Edit(site, lambda activity, batch, site=site: state.activity[site]) for site in sites]  # type: ignore[misc]

"""Any PyTorch module as a subject; its sites are the dotted paths of its modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.scores import metric_name
from patchclamp.nouns.tasks.protocol import Origin, TaskLike, origin_of, other_items, split_places
from patchclamp.nouns.tasks.task import split_groups
from patchclamp.nouns.units import Site, SiteLike, as_site
from patchclamp.subjects.base import Subject, refuse_site
from patchclamp.subjects.clamp.batch import Batch, Pair, one_each
from patchclamp.subjects.clamp.features import output_rows
from patchclamp.subjects.clamp.hooks import Place, in_turn
from patchclamp.subjects.clamp.modes import Training


@dataclass(frozen=True)
class TensorTask:
    """A behaviour of a network that takes tensors: clean inputs, their contrast, a metric.

    Parameters
    ----------
    name
        Printed in tables and claims.
    clean, corrupted
        (item, ...) inputs of equal shape.
    metric
        Function of the network's output (item, ...) to one number an item; with `targets`, of the output and the same
        items' targets.
    groups
        The unit of dependence of each item; intervals resample these.
    targets
        (item, ...) what the metric needs to know of each item, such as its right answer.
    origin
        Set by `select` and `split`: the whole task, and the places of these items in it.

    Examples
    --------
    >>> TensorTask("or", torch.ones(1, 2), torch.zeros(1, 2), lambda out: out[:, 0]).n
    1
    >>> right = torch.tensor([1, 0])
    >>> task = TensorTask("class", torch.eye(2), None, lambda out, y: out.gather(1, y[:, None])[:, 0], targets=right)
    """

    name: str
    clean: Float[Tensor, "item ..."]
    corrupted: Float[Tensor, "item ..."] | None
    metric: Callable[..., Float[Tensor, " item"]]
    groups: tuple[str, ...] = field(default=())
    targets: Tensor | None = None
    origin: Origin | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.corrupted is not None and self.corrupted.shape != self.clean.shape:
            raise PatchclampError(
                f"{self.name}: clean inputs have shape {tuple(self.clean.shape)} and corrupted "
                f"{tuple(self.corrupted.shape)}; they must be equal"
            )
        if len(self.groups) not in (0, len(self.clean)):
            raise PatchclampError(f"{self.name}: {len(self.groups)} groups for {len(self.clean)} items")
        if self.targets is not None and len(self.targets) != len(self.clean):
            raise PatchclampError(f"{self.name}: {len(self.targets)} targets for {len(self.clean)} items")

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.clean)

    def __len__(self) -> int:
        return self.n

    @property
    def metric_name(self) -> str:
        """The metric in a word."""
        return metric_name(self.metric)

    def split(self, *names: str) -> TensorTask:
        """The items of one split, or of several together; whole groups are dealt to train, validation and test."""
        return self.select(split_places(self, split_groups(self.groups or [""] * self.n), names))

    def select(self, places: Iterable[int]) -> TensorTask:
        """The items at these places."""
        rows = list(places)
        corrupted, targets = (None if one is None else one[rows] for one in (self.corrupted, self.targets))
        groups = tuple(self.groups[i] for i in rows) if self.groups else ()
        return replace(
            self, clean=self.clean[rows], corrupted=corrupted, groups=groups, targets=targets,
            origin=origin_of(self, rows),
        )  # fmt: skip

    def others(self) -> TensorTask | None:
        """The items of the whole task, of which these were selected, that share no group with them; None without any."""
        return other_items(self, self.origin)


def tensor_pairs(
    subject: Subject, task: TaskLike, batch_size: int, wrap: Callable[[Tensor, Tensor], Batch]
) -> Iterator[Pair]:
    """Cut a `TensorTask` into pairs of batches; a task of another kind is refused."""
    if not isinstance(task, TensorTask):
        raise PatchclampError(f"{subject.name}: this subject takes a TensorTask, not a {type(task).__name__}")
    device = subject.device
    for first in range(0, task.n, batch_size):
        rows = torch.arange(first, min(first + batch_size, task.n))
        clean = wrap(task.clean[rows], rows).to(device)
        corrupted = None if task.corrupted is None else wrap(task.corrupted[rows], rows).to(device)
        end = torch.zeros(len(rows), dtype=torch.int64, device=device)
        groups = tuple(task.groups[int(r)] for r in rows) if task.groups else ()
        known = () if task.targets is None else (task.targets[rows].to(device),)
        yield Pair(
            clean, corrupted, _metric(task.metric, known), end, {"end": end}, ("",) * len(rows), groups
        )


def _metric(metric: Callable[..., Tensor], known: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    return lambda logits, reference=None: one_each(metric(logits, *known), len(logits))


class TorchModule(Subject):
    """Any `torch.nn.Module` that takes one tensor.

    A site is a module's dotted path with ``.in`` or ``.out``. Activity is (batch, pos, units): a (batch, units)
    tensor has one position, an image (batch, channel, height, width) has a position for each pixel and a unit for
    each channel. Of an output with several named parts, as transformers' models give, a task's metric gets the logits, or
    the first part.

    Parameters
    ----------
    model
        Used as it is.
    example
        An input of one item, from which widths are learnt.
    name, fingerprint, training
        See `Subject`.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> subject = TorchModule(net, torch.zeros(1, 4))
    >>> [str(s) for s in subject.known_sites()]
    ['0.out', '1.out', '2.out']
    >>> subject.width(subject.resolve("1.out")[0])
    3
    """

    tokenizer = None

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        name: str = "module",
        fingerprint: str = "",
        *,
        training: Training = "refuse",
    ) -> None:
        super().__init__(model, name, fingerprint, training=training)
        self.example = example[:1]

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    @cached_property
    def _calls(self) -> Counter[str]:
        """How often each module runs in a pass, in the order in which they finish."""
        self.check_mode()
        calls: Counter[str] = Counter()
        with in_turn(self.model), torch.no_grad(), ExitStack() as hooks:
            for name, module in self._modules.items():
                hooks.enter_context(
                    module.register_forward_hook(
                        lambda m, a, out, name=name: calls.update([name]) if isinstance(out, Tensor) else None
                    )
                )
            self.model(self.example.to(self.device))
        return calls

    @cached_property
    def _known(self) -> list[Site]:
        return [Site(name, io="out") for name, count in self._calls.items() if count == 1 and name]

    def known_sites(self) -> list[Site]:
        """Outputs of all modules that run once in a pass, in the order in which they finish."""
        return self._known

    def place(self, site: SiteLike) -> Place:
        """The module's input or output, viewed as (batch, pos, units)."""
        site = self._base(site)
        if not site.is_module:
            options = ", ".join(str(s) for s in self._known[:8])
            raise refuse_site(
                site, f"this model has no named points; its sites are module paths: {options} ..."
            )
        if site.point not in self._modules:
            raise refuse_site(site, "this model has no such module", (str(s) for s in self._known))
        if self._calls[site.point] > 1:
            raise refuse_site(
                site, f"its module runs {self._calls[site.point]} times in a pass, so it is ambiguous"
            )
        return Place(self._modules[site.point], "in" if site.io == "in" else "out", 0, _to_units, _from_units)

    def batch(self, inputs: Tensor, rows: Tensor | None = None) -> Batch:
        """Wrap inputs (item, ...) in a batch."""
        index = torch.arange(len(inputs)) if rows is None else rows
        return Batch(None, torch.ones(len(inputs), 1, dtype=torch.bool), index, {"input": inputs})

    def content_mask(self, batch: Batch) -> Bool[Tensor, "batch pos"]:
        """Everything counts."""
        return batch.mask

    def dummy(self) -> Batch:
        """The example given."""
        return self.batch(self.example)

    def _forward(self, batch: Batch, logits: Any, whole: bool) -> Tensor | None:
        out = self.model(batch.tensors["input"])
        return None if logits is None else _main_output(out)

    def _root(self) -> tuple[Place, ...]:
        return (Place(self.model, "in"),)

    def pairs(self, task: TaskLike, batch_size: int = 32) -> Iterator[Pair]:
        """Batches of a `TensorTask`."""
        return tensor_pairs(self, task, batch_size, self.batch)

    def output_norms(self, site: SiteLike) -> Float[Tensor, " units"]:
        """Ones: nothing is known of what a unit writes; for features the norm of their direction."""
        site = as_site(site)
        if site.dictionary is None:
            return torch.ones(self.width(site))
        norms: Tensor = output_rows(self, site).norm(dim=1)
        return norms


def _main_output(out: Any) -> Any:
    """What a metric is given: of an output with several named parts (transformers' `ModelOutput`) the logits, or the first."""
    if not isinstance(out, Mapping):
        return out
    return out["logits"] if "logits" in out else next(iter(out.values()))


def _to_units(tensor: Tensor) -> Tensor:
    if tensor.ndim == 2:
        return tensor[:, None, :]
    if tensor.ndim == 4:
        return tensor.flatten(2).transpose(1, 2)
    return tensor if tensor.ndim == 3 else tensor.reshape(len(tensor), 1, -1)


def _from_units(units: Tensor, like: Tensor) -> Tensor:
    if like.ndim == 4:
        return units.transpose(1, 2).reshape(like.shape)
    return units.reshape(like.shape)


__all__: Sequence[str] = ["TensorTask", "TorchModule", "tensor_pairs"]

"""`TensorTask`: a behaviour of a network that takes tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.cards import shown
from patchclamp.nouns.scores import metric_name
from patchclamp.nouns.tasks.protocol import Origin, TaskLike, origin_of, other_items, split_places
from patchclamp.nouns.tasks.task import split_groups
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Pair, one_each
from patchclamp.subjects.inputs import Inputs, as_inputs, n_items, shapes_of, take_items


@shown
@dataclass(frozen=True)
class TensorTask:
    """A behaviour of a network that takes tensors: clean inputs, their contrast, a metric.

    Parameters
    ----------
    name
        Printed in tables and claims.
    clean, corrupted
        (item, ...) inputs of equal shape: a tensor, a tuple of tensors, or a dict of tensors by argument name. Items are
        the first axis, also for a module that wants time first.
    metric
        Function of the network's output (item, ...) to one number an item; with `targets`, of the output and the same
        items' targets.
    groups
        The unit of dependence of each item; intervals resample these.
    targets
        (item, ...) what the metric needs to know of each item, such as its right answer.
    origin
        Set by `select` and `split`: the whole task, and the places of these items in it.
    roles
        Names of positions, for networks with time: a step (negative ones count from the last), or one an item. ``"end"``
        is the last one without being named.

    Examples
    --------
    >>> TensorTask("or", torch.ones(1, 2), torch.zeros(1, 2), lambda out: out[:, 0]).n
    1
    >>> right = torch.tensor([1, 0])
    >>> task = TensorTask("class", torch.eye(2), None, lambda out, y: out.gather(1, y[:, None])[:, 0], targets=right)
    """

    name: str
    clean: Inputs
    corrupted: Inputs | None
    metric: Callable[..., Float[Tensor, " item"]]
    groups: tuple[str, ...] = field(default=())
    targets: Tensor | None = None
    origin: Origin | None = field(default=None, compare=False, repr=False)
    roles: Mapping[str, int | Sequence[int] | Int[Tensor, " item"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "clean", as_inputs(self.clean, self.name))
        if self.corrupted is not None:
            object.__setattr__(self, "corrupted", as_inputs(self.corrupted, self.name))
            shapes = [shapes_of(one) for one in (self.clean, self.corrupted)]
            sizes = [{name: (n_items(one), *shape) for name, shape in found.items()}
                     for one, found in zip((self.clean, self.corrupted), shapes, strict=True)]  # fmt: skip
            if sizes[0] != sizes[1]:
                raise PatchclampError(
                    f"{self.name}: clean inputs have shape {_said(sizes[0])} and corrupted {_said(sizes[1])}; they must be equal"
                )
        if len(self.groups) not in (0, self.n):
            raise PatchclampError(f"{self.name}: {len(self.groups)} groups for {self.n} items")
        if self.targets is not None and len(self.targets) != self.n:
            raise PatchclampError(f"{self.name}: {len(self.targets)} targets for {self.n} items")
        for role, at in self.roles.items():
            if not isinstance(at, int) and len(at) != self.n:
                raise PatchclampError(
                    f"{self.name}: role {role!r} has {len(at)} positions for {self.n} items"
                )

    @property
    def n(self) -> int:
        """Number of items."""
        return n_items(self.clean)

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
        corrupted = None if self.corrupted is None else take_items(self.corrupted, rows)
        targets = None if self.targets is None else self.targets[rows]
        groups = tuple(self.groups[i] for i in rows) if self.groups else ()
        roles = {
            name: at if isinstance(at, int) else [int(at[i]) for i in rows] for name, at in self.roles.items()
        }
        return replace(
            self, clean=take_items(self.clean, rows), corrupted=corrupted, groups=groups, targets=targets,
            origin=origin_of(self, rows), roles=roles,
        )  # fmt: skip

    def others(self) -> TensorTask | None:
        """The items of the whole task, of which these were selected, that share no group with them; None without any."""
        return other_items(self, self.origin)

    def places(self, rows: Tensor, length: int) -> dict[str, Int[Tensor, " batch"]]:
        """Where each role is for some items of so many positions, counted from the first.

        Raises
        ------
        PatchclampError
            For a position that such inputs do not have.
        """
        found = {}
        for name, at in {"end": -1, **self.roles}.items():
            here = torch.tensor([at] * len(rows) if isinstance(at, int) else [int(at[int(r)]) for r in rows])
            wrong = here[(here < -length) | (here >= length)]
            if len(wrong):
                raise PatchclampError(
                    f"{self.name}: role {name!r} is at position {int(wrong[0])}, and the inputs have {length}; give another "
                    "position, or say which axis is time: TorchModule(..., time_axis=1)"
                )
            found[name] = torch.where(here < 0, here + length, here)
        return found


def _said(sizes: Mapping[str, tuple[int, ...]]) -> str:
    return str(next(iter(sizes.values()))) if len(sizes) == 1 else str(sizes)


def tensor_pairs(
    subject: Subject,
    task: TaskLike,
    batch_size: int,
    wrap: Callable[[Inputs, Tensor], Batch],
    end: int | None = None,
) -> Iterator[Pair]:
    """Cut a `TensorTask` into pairs of batches; a task of another kind is refused.

    `end` is the position of the answer, where that is not the last one.
    """
    if not isinstance(task, TensorTask):
        raise PatchclampError(f"{subject.name}: this subject takes a TensorTask, not a {type(task).__name__}")
    device = subject.device
    for first in range(0, task.n, batch_size):
        rows = torch.arange(first, min(first + batch_size, task.n))
        clean = wrap(take_items(task.clean, rows), rows).to(device)
        corrupted = (
            None if task.corrupted is None else wrap(take_items(task.corrupted, rows), rows).to(device)
        )
        roles = {name: at.to(device) for name, at in task.places(rows, clean.mask.shape[1]).items()}
        if end is not None:
            roles["end"] = torch.full((len(rows),), end, device=device)
        groups = tuple(task.groups[int(r)] for r in rows) if task.groups else ()
        known = () if task.targets is None else (task.targets[rows].to(device),)
        yield Pair(
            clean, corrupted, _metric(task.metric, known), roles["end"], roles, ("",) * len(rows), groups
        )


def _metric(metric: Callable[..., Tensor], known: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    return lambda logits, reference=None: one_each(metric(logits, *known), len(logits))


__all__ = ["TensorTask", "tensor_pairs"]

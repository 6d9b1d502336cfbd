"""A batch of inputs as subjects take it, and what one pass over it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.cards import shown
from patchclamp.draw.charts import heat_map
from patchclamp.draw.svg import Svg
from patchclamp.nouns.tasks.encode import padded
from patchclamp.nouns.units import BySite, Site, as_site

# The group of all tokens that have no role.
OTHER = "other"


@shown
@dataclass(frozen=True)
class Batch:
    """Inputs of one pass.

    Parameters
    ----------
    tokens
        (batch, position) token ids; None for subjects that take no tokens.
    mask
        (batch, position), True at real tokens (or patches), False at padding.
    rows
        (batch,) index of each row in the caller's data.
    tensors
        Further inputs by argument name: `pixel_values` for vision models, the module's own for `TorchModule`.
    """

    tokens: Int[Tensor, "batch pos"] | None
    mask: Bool[Tensor, "batch pos"]
    rows: Int[Tensor, " batch"]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @cached_property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Number of real tokens in each row."""
        return self.mask.sum(1)

    @cached_property
    def last(self) -> Int[Tensor, " batch"]:
        """Index of the last real token of each row."""
        steps = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (self.mask * steps).amax(1)

    @cached_property
    def right_padded(self) -> bool:
        """Whether every row is real tokens first, padding after."""
        return bool((self.mask[:, 1:] <= self.mask[:, :-1]).all())

    @cached_property
    def unpadded(self) -> bool:
        """Whether there is no padding at all."""
        return bool(self.mask.all())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            None if self.tokens is None else self.tokens.to(device),
            self.mask.to(device),
            self.rows.to(device),
            {name: value.to(device) for name, value in self.tensors.items()},
        )

    def take(self, rows: Int[Tensor, " n"]) -> Batch:
        """The rows with these places in the batch (repeats allowed)."""
        return Batch(
            None if self.tokens is None else self.tokens[rows],
            self.mask[rows],
            self.rows[rows],
            {name: value[rows] for name, value in self.tensors.items()},
        )


def right_pad(sequences: list[list[int]], rows: list[int] | None = None, pad: int = 0) -> Batch:
    """Pad token lists on the right to a `Batch`.

    Examples
    --------
    >>> right_pad([[5, 6, 7], [8]]).mask.tolist()
    [[True, True, True], [True, False, False]]
    """
    if not sequences:
        raise PatchclampError("a batch needs at least one sequence; got none")
    lengths = [len(s) for s in sequences]
    if min(lengths) == 0:
        raise PatchclampError(
            f"sequence {lengths.index(0)} is empty: it has no token to run on; leave it out"
        )
    tokens = padded(sequences, pad)
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    index = torch.arange(len(sequences)) if rows is None else torch.tensor(rows, dtype=torch.int64)
    return Batch(tokens, mask, index)


def one_each(values: Tensor, n: int) -> Tensor:
    """A metric's values, refused where they are not one number an item: a mean would pass for every item's own."""
    if values.shape != (n,):
        raise PatchclampError(
            f"the metric gave a tensor of shape {tuple(values.shape)} for {n} items; it must give one number an item"
        )
    return values


@dataclass(frozen=True)
class Edit:
    """A change of the activity at a site while the pass runs.

    `fn(activity, batch)` receives the live tensor, (batch, pos, units), for `head` sites
    (batch, pos, head, d_head) in the space before the output projection, and returns the new one
    (same shape; never changed in place). At a site of features, `fn` receives the codes (batch, pos, feature), and the
    activity is moved by what the changed codes decode to.

    `without_error(codes, batch)`, for features only, gives (batch, pos): True where the activity becomes just what the
    dictionary decodes, its error left out.
    """

    site: Site
    fn: Callable[[Tensor, Batch], Tensor]
    without_error: Callable[[Tensor, Batch], Tensor] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", as_site(self.site))


@shown
@dataclass(frozen=True)
class Run:
    """What a pass gave: activity by site or address (or what the read functions returned), and logits where asked."""

    activity: BySite[Any]
    logits: Float[Tensor, "batch ..."] | None = None

    def _card(self) -> dict[str, Any]:
        sites = list(self.activity)
        found: dict[str, Any] = {str(site): self.activity[site] for site in sites[:8]}
        if len(sites) > 8:
            found["and"] = f"{len(sites) - 8} sites more"
        return found | ({} if self.logits is None else {"logits": self.logits})

    def _picture(self) -> Svg | None:
        """Attention of the first item at the first site that has patterns, its heads' mean."""
        patterns = [site for site in self.activity if site.point == "attn_probs"]
        if not patterns or self.activity[patterns[0]].ndim != 4 or self.activity[patterns[0]].shape[-1] > 64:
            return None
        mean = self.activity[patterns[0]][0].float().mean(0)
        places = [str(i) for i in range(mean.shape[-1])]
        label = f"{patterns[0]}: attention of the first item, mean over heads"
        return heat_map(mean.tolist(), places, places[: len(mean)], "attends to", "position", label)


@shown
@dataclass(frozen=True)
class Pair:
    """A batch of task items: clean and corrupted inputs of equal shape, and the metric per item.

    `metric(logits)` takes (batch, vocabulary) at the answer's position and gives (batch,); metrics that compare
    with the clean run (KL) also need `reference`, the clean logits. `answer_position` is ``"all"`` for metrics of whole
    texts, which take (batch, pos, vocabulary).
    """

    clean: Batch
    corrupted: Batch | None
    metric: Callable[..., Float[Tensor, " batch"]]
    answer_position: Int[Tensor, " batch"] | str
    roles: Mapping[str, Int[Tensor, " batch"]] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def rows(self) -> Int[Tensor, " batch"]:
        """Index of each item in the task."""
        return self.clean.rows

    def by_role(self, mask: Bool[Tensor, "batch pos"] | None = None) -> Bool[Tensor, "batch pos role"]:
        """Which tokens have each role, and last those that have none (`OTHER`); `mask` in place of the clean one.

        A token that has several roles is counted at the first of them, so that groups add up to all tokens.
        """
        free = self.clean.mask if mask is None else mask
        steps = torch.arange(free.shape[1], device=free.device)
        groups = []
        for at in self.roles.values():
            here = (steps == at[:, None]) & free
            free = free & ~here
            groups.append(here)
        return torch.stack([*groups, free], 2)

"""From interventions, which are data, to edits, which act in a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.tasks.encode import UNNAMED
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair
from patchclamp.subjects.clamp.reference import Reference, Sums, from_end
from patchclamp.subjects.clamp.replay import REPLAYED, Replays

Value = Callable[[Tensor, Batch], Tensor]


def compile_interventions(
    interventions: Sequence[Intervention],
    subject: Subject,
    pair: Pair,
    reference: Reference | None = None,
    replays: Replays | None = None,
    watch: Watch | None = None,
) -> list[Edit]:
    """Edits that carry out interventions on the clean inputs of one batch of items.

    Parameters
    ----------
    interventions
        In the order in which they act at the same site.
    pair
        The batch; its roles say where positions such as ``"end"`` are, its corrupted inputs feed ``patch``.
    reference
        Needed by ``mean`` and ``resample``.
    replays
        Shares passes over other inputs between sets of interventions of one batch.
    watch
        Told what the edits do while they act.

    Returns
    -------
    list of Edit
        For ``subject.run(pair.clean, write=...)``. Units replaced by the value that they have anyway keep every bit.

    Raises
    ------
    PatchclampError
        For units that the model does not have, missing reference items or roles.
    """
    replays = replays or Replays(subject, pair, reference, interventions)
    edits: list[Edit] = []
    for change in interventions:
        subject.check_units(change.units)
        values = _values(change, subject, pair, reference, replays)
        for site, indices in change.units.items():
            at, chosen = _target(change, site, indices)
            if change.kind == "splice":
                edits.append(Edit(site, lambda a, b: a, without_error=_touched(change, pair)))
                if watch is not None:  # what it does to the activity is seen by the dictionary alone
                    watch.moved[:] = watch.alive[:] = True
                continue
            edits.append(Edit(at, _edit(change, pair, chosen, values[site], watch)))
    return edits


class Watch:
    """What edits did to the items of a batch: where a value moved, and where one was not 0, both beyond rounding.

    Rounding is 64 times the type's step (twice in half precision) of the root mean square of the site's units at a
    position: by so much do values differ that are the same in another batch.
    """

    def __init__(self, items: int, device: torch.device) -> None:
        self.moved = torch.zeros(items, dtype=torch.bool, device=device)
        self.alive = torch.zeros(items, dtype=torch.bool, device=device)

    @torch.no_grad()
    def see(self, where: Tensor, before: Tensor, after: Tensor) -> None:
        """Take down one edit, (batch, pos, units...), at the entries `where`."""
        kind = before.dtype if before.is_floating_point() else torch.float32
        steps = 2 if kind in (torch.float16, torch.bfloat16) else 64
        size = before.float().flatten(2).square().mean(2).sqrt()
        room = (size * (steps * torch.finfo(kind).eps)).reshape(*size.shape, *[1] * (before.ndim - 2))
        self.moved |= (((after - before).abs() > room) & where).flatten(1).any(1).to(self.moved.device)
        there = (before.abs() > room) | (after.abs() > room)
        self.alive |= (there & where).flatten(1).any(1).to(self.alive.device)


def _target(
    change: Intervention, site: Site, indices: tuple[int, ...] | None
) -> tuple[Site, tuple[int, ...] | None]:
    """Where an edit acts: a direction is added to a head's contribution in the attention's output."""
    if change.kind == "add" and site.point == "head" and change.vector is not None:
        return Site("attn_out", site.layer), None
    return site, indices


def _edit(
    change: Intervention, pair: Pair, indices: tuple[int, ...] | None, value: Value, watch: Watch | None
) -> Callable[[Tensor, Batch], Tensor]:
    def act(activity: Tensor, batch: Batch) -> Tensor:
        where = positions(change, pair, activity)[:, :, None]
        if indices is not None:
            chosen = torch.zeros(activity.shape[2], dtype=torch.bool, device=activity.device)
            chosen[list(indices)] = True
            where = where & chosen
        if activity.ndim == 4:
            where = where[..., None]
        changed = torch.where(where, value(activity, batch).to(activity.dtype), activity)
        if watch is not None:
            watch.see(where, activity, changed)
        return changed

    return act


def put(values: Tensor, units: Sequence[int] | Tensor | None) -> Value:
    """What sets some units of a site to given values at all positions; None: all of them."""

    def act(activity: Tensor, batch: Batch) -> Tensor:
        if units is None:
            return values
        changed = activity.clone()
        index = units if isinstance(units, Tensor) else list(units)
        # modules of an MLP that runs on (batch * pos, units) have one axis less (OPT)
        at = (*(slice(None),) * min(2, changed.ndim - 1), index)
        changed[at] = values[at]
        return changed

    return act


def _touched(change: Intervention, pair: Pair) -> Callable[[Tensor, Batch], Tensor]:
    return lambda activity, batch: positions(change, pair, activity)


def positions(change: Intervention, pair: Pair, activity: Tensor) -> Bool[Tensor, "batch pos"]:
    """Which positions of an activity an intervention touches; padding never."""
    place = from_end(activity, pair.clean)
    real = place >= 0
    if change.positions == "all":
        return real
    length = place.amax(1, keepdim=True) + 1
    index = length - 1 - place
    found = torch.zeros_like(real)
    for where in change.places:
        if isinstance(where, str):
            if where not in pair.roles:
                hint = did_you_mean(where, pair.roles) or f"; the roles are {', '.join(pair.roles)}"
                raise PatchclampError(f"position {where!r}: the items have no such role{hint}")
            at = _place_of(where, pair, int(activity.shape[1])).to(activity.device)[:, None]
            found |= (index == at) & (at >= 0)
        else:
            found |= index == (where if where >= 0 else length + where)
    return found & real


def _place_of(role: str, pair: Pair, n: int) -> Int[Tensor, " batch"]:
    """Where a role is at a site of n positions; of other positions than the inputs', only the first and last are known."""
    at, there = pair.roles[role], pair.clean.mask.shape[1]
    if n == there:
        return at
    last = at == pair.clean.last
    if not bool((last | (at <= 0)).all()):
        raise PatchclampError(
            f"position {role!r}: is one of the inputs' {there} positions, and the site has {n}, of its own; give positions of "
            "the site as numbers"
        )
    return torch.where(last, n - 1, at)


def _values(
    change: Intervention, subject: Subject, pair: Pair, reference: Reference | None, replays: Replays
) -> Mapping[Site, Value]:
    sites = change.units.sites
    if change.kind in ("mean", "resample") and reference is None:
        raise PatchclampError(f"{change.kind} {change.units}: needs reference items; pass reference=")
    if change.kind == "mean":
        assert reference is not None
        sums = reference.sums(sites, change.by, change.source)
        times = replays.times(change)
        own = replays.own(change) if any(times) else {}
        return {site: _mean(sums[site], change, pair, times, own.get(site)) for site in sites}
    if change.kind in REPLAYED:
        seen = replays.values(change)
        if change.vector is None:
            return {site: _constant(seen[site]) for site in sites}
        return {site: _part(_basis(change, site, subject), seen[site]) for site in sites}
    return {} if change.kind == "splice" else {site: _formula(change, site, subject) for site in sites}


def _constant(source: Tensor) -> Value:
    return lambda a, b: source


def _part(basis: Tensor, source: Tensor) -> Value:
    """The activity with its component in a subspace taken from another input."""
    return lambda a, b: a + ((source - a).double() @ basis.T.to(a.device) @ basis.to(a.device)).to(a.dtype)


def _mean(
    sums: Mapping[str, Sums], change: Intervention, pair: Pair, times: Sequence[int], own: Tensor | None
) -> Value:
    """Means over reference items, for each item over others than itself; its own input is there `times` times."""
    names = pair.templates if change.by == "template" else ("",) * len(pair.clean)
    lost = [name for name in names if name not in sums]
    if lost and lost[0].startswith(UNNAMED):
        raise PatchclampError(
            f"mean by template: the items name no template, so means are over items of one length, and no reference item has "
            f"{lost[0].removeprefix(UNNAMED)} tokens; name templates, give more reference items, or by='data' or 'position'"
        )
    if lost:
        raise PatchclampError(
            f"mean by template: no reference item has template {lost[0]!r}; give more reference items, or by='position'"
        )

    def value(activity: Tensor, batch: Batch) -> Tensor:
        place = from_end(activity, pair.clean)
        place = torch.where(place >= 0, 0, -1) if change.by == "data" else place
        out = torch.empty_like(activity)
        for name in dict.fromkeys(names):
            rows = torch.tensor([n == name for n in names], device=activity.device)
            table = sums[name].mean.to(activity.device, activity.dtype)
            if int(place[rows].max()) >= len(table):
                raise PatchclampError(
                    f"mean by {change.by}: an item is longer than all reference items"
                    + (f" of template {name!r}" if name else "")
                    + "; give more reference items"
                )
            out[rows] = table[place[rows].clamp(min=0)]
        touched = positions(change, pair, activity)
        for i, name in enumerate(names):
            if own is not None and times[i]:
                rest = sums[name].without(own[i], place[i], times[i])
                at = place[i].clamp(min=0)
                alone = rest.count.flatten()[at.to(rest.count.device)] < 0.5
                if bool((alone.to(touched.device) & touched[i]).any()):
                    raise PatchclampError(_vacuous(change, int(pair.rows[i]), name))
                out[i] = rest.mean.to(activity.device, activity.dtype)[at]
        return out

    return value


def _vacuous(change: Intervention, row: int, name: str) -> str:
    """Why a mean would be the value that it replaces."""
    alike = (
        f" of template {name!r}" if name else " that reaches as far back" if change.by == "position" else ""
    )
    return (
        f"mean by {change.by}: no reference item{alike} differs from item {row} itself, so its mean would be its own "
        "value and the change would change nothing; give other reference items (reference=, such as the training "
        "split)" + (", or by='position'" if change.by == "template" and name else "")
    )


def _formula(change: Intervention, site: Site, subject: Subject) -> Value:
    amount = 1.0 if change.value is None else change.value
    if change.kind == "zero":
        return lambda a, b: torch.zeros_like(a)
    if change.kind == "clamp":
        if subject.unit_dim(site) > 1:
            raise PatchclampError(
                f"clamp {site}: a head's value is a vector; clamp units of z.{site.layer} instead"
            )
        return lambda a, b: torch.full_like(a, amount)
    if change.kind == "scale":
        return lambda a, b: a * amount
    if change.kind == "add" and change.vector is None:
        return lambda a, b: a + amount
    if change.kind == "add":
        vector = _vector(change, site, subject)
        if vector.ndim != 1:
            raise PatchclampError(f"add {site}: one direction is wanted, got {len(vector)} rows")
        return lambda a, b: a + amount * vector.to(a.device, a.dtype)
    basis = _basis(change, site, subject)
    return lambda a, b: a - (a.double() @ basis.T.to(a.device) @ basis.to(a.device)).to(a.dtype)


def _vector(change: Intervention, site: Site, subject: Subject) -> Tensor:
    """The intervention's vector in float64, checked against the site."""
    vector = torch.tensor(change.vector, dtype=torch.float64)
    if change.kind == "add" and site.point == "head":
        width = subject.width(Site("attn_out", site.layer))
    elif subject.unit_dim(site) > 1:
        raise PatchclampError(
            f"{change.kind} {site}: a subspace of heads is one of z.{site.layer} (before the output projection) or "
            f"of attn_out.{site.layer} (after it); give one of those"
        )
    else:
        width = subject.width(site)
    if vector.shape[-1] != width:
        raise PatchclampError(
            f"{change.kind} {site}: the vector has {vector.shape[-1]} numbers where {width} are wanted"
        )
    return vector


def _basis(change: Intervention, site: Site, subject: Subject) -> Tensor:
    return _orthonormal(torch.atleast_2d(_vector(change, site, subject)), site)


def _orthonormal(rows: Tensor, site: Site) -> Tensor:
    """Orthonormal rows with the same span; linearly dependent ones (to float32's precision) are dropped."""
    right: Tensor
    _, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    kept = sizes > 1e-6 * sizes.max()
    if float(sizes.max()) == 0:
        raise PatchclampError(f"{site}: the vector is zero, so it spans nothing")
    return right[kept]

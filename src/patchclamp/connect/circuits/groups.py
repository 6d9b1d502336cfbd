"""Groups of nodes of a circuit that read the same roles and say the same to the output, and whether they act as one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.seeds import numpy_rng
from patchclamp.draw.cards import shown
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.trial import run_trial

Array = NDArray[np.float64]
LEVEL = 0.05


@shown
@dataclass(frozen=True, eq=False)
class NodeGroups:
    """Which nodes belong together.

    Parameters
    ----------
    graph
        The graph with a column ``group`` in `node_data`: the label of each node's group, ``""`` where it has none.
    table
        A row a group: group, members, source (the role that says most to it) and its share of what all roles say.
    silhouette
        Of the groups that were chosen: 1 where they are far apart, 0 where they are none.
    chance
        The 95th percentile of the silhouette, at as many groups, of profiles whose columns were permuted.
    p
        The share of permuted profiles (and the real ones) that stand as far out at the number of groups where each does most.
    """

    graph: CircuitGraph
    table: pd.DataFrame
    silhouette: float
    chance: float
    p: float

    @property
    def found(self) -> bool:
        """Whether there is more structure than chance gives."""
        return len(self.table) > 0


def group_nodes(graph: CircuitGraph, *, most: int = 8, n_shuffles: int = 200, seed: int = 0) -> NodeGroups:
    """Put nodes together that hear the same roles and say the same to the logits.

    A node's profile is its direct effect from each role's tokens, scaled to length 1, and its direct effect on the logits
    as a share of the largest; both are means over items. Average linkage on cosine distance, cut at 2 to `most` groups, where the silhouette
    is furthest above the mean of profiles made of raw effects whose columns were permuted over the nodes before they were
    scaled. Each permuted one may choose its own number of groups in the same way: the null of the maximum.

    Parameters
    ----------
    graph
        As `neuron_graph` gives it.
    most
        The largest number of groups.
    n_shuffles, seed
        Of the null. Where p is above .05 no groups are given.

    Returns
    -------
    NodeGroups

    Raises
    ------
    PatchclampError
        For a graph without tokens by role and logits, one of fewer than 6 nodes with a profile, and bad counts.

    Notes
    -----
    After ADAG (arXiv 2604.07615), whose profiles are made of single tokens and of many logits; roles make them comparable
    over the items of a task. Nodes that no token reaches directly have no input, and are left out. That the
    members act alike is not known from profiles: `group_effects` measures it.

    Examples
    --------
    >>> groups = group_nodes(neuron_graph(subject, task))                        # doctest: +SKIP
    >>> groups.table
    """
    if most < 2 or n_shuffles < 19:
        raise PatchclampError(
            f"most={most}, n_shuffles={n_shuffles}: at least 2 groups, and 19 shuffles for a level of .05"
        )
    roles, members, heard, output = _profiles(graph)
    if len(members) < 6:
        raise PatchclampError(
            f"group_nodes: {len(members)} nodes hear tokens directly; groups need at least 6"
        )
    most = min(most, len(members) - 1)
    cuts, real = _cuts(_scaled(heard, output), most)
    draw = numpy_rng(seed)
    # Raw columns: a row that was scaled first is of length 1, a permuted one is not, and would look less like a group.
    raw = np.hstack([heard, output])
    shuffled = (_permuted(raw, draw) for _ in range(n_shuffles))
    null = np.array([_cuts(_scaled(some[:, :-1], some[:, -1:]), most)[1] for some in shuffled])
    # Columns of few values fall into tight corners when permuted, but into more of them: by number of groups. The real
    # one among them, so that all stand in one row and p is exact.
    usual = np.vstack([null, real]).mean(0)
    place = int((real - usual).argmax())
    labels, best, chance = cuts[place], float(real[place]), float(np.quantile(null[:, place], 0.95))
    p = float((1 + ((null - usual).max(1) >= (real - usual).max() - 1e-12).sum()) / (1 + n_shuffles))
    column = np.full(graph.n, "", dtype=object)
    rows: list[tuple[str, tuple[str, ...], str, float]] = []
    if p <= LEVEL:
        for number in range(1, labels.max() + 1):
            here = [members[i] for i in np.flatnonzero(labels == number)]
            said = np.abs(_weights(graph, here, roles)).sum(0)
            top = int(said.argmax())
            source = graph.nodes[roles[top]]
            # a number before the role: two groups may hear the same one
            name = f"{len(rows) + 1} {source.removeprefix('tokens:')}"
            column[here] = name
            rows.append((name, tuple(graph.nodes[i] for i in here), source, float(said[top] / said.sum())))
    assert graph.node_data is not None
    return NodeGroups(
        replace(graph, node_data=graph.node_data.assign(group=column)),
        pd.DataFrame(rows, columns=["group", "members", "source", "share"]), best, chance, p,
    )  # fmt: skip


def group_effects(
    subject: Subject, task: TaskLike, groups: NodeGroups, *, batch_size: int = 64
) -> pd.DataFrame:
    """Measure whether the members of each group act alike, and whether together they do what they do one by one.

    Each unit, and each group at once, is patched from the corrupted into the clean run; an effect is what the metric
    loses, so positive means that the unit raises it. A neuron is patched whole, whatever sign its node has.

    Returns
    -------
    DataFrame
        group, units, joint (effect of all at once), total (sum of single effects), alike (share of the summed sizes of
        single effects that has the sign of the total: 1 where all pull the same way, .5 where they cancel), beyond (joint -
        total: 0 where the members add up), beyond_low, beyond_high (95 % interval over items, or groups of items; NaN
        below 8).

    Raises
    ------
    PatchclampError
        Where no groups were found, and for a task without corrupted inputs.

    Notes
    -----
    On the items that made the groups these figures are no proof of them: give others.
    """
    if not groups.found:
        raise PatchclampError("group_effects: no groups were found, so there is nothing to measure")
    units = [list(dict.fromkeys(name.rstrip("+-") for name in row)) for row in groups.table.members]
    single = list(dict.fromkeys(unit for row in units for unit in row))
    sets = [[Intervention(what, "patch")] for what in (*single, *map(subject.units, units))]
    trial = run_trial(subject, task, sets, batch_size=batch_size)
    effect = trial.baseline - trial.changed  # (unit or group, item)
    alone = dict(zip(single, effect, strict=False))
    rows = []
    for name, row, joint in zip(groups.table.group, units, effect[len(single) :], strict=True):
        each = np.array([alone[unit] for unit in row])
        values, beyond = each.mean(1), Estimate.of_mean(joint - each.sum(0), trial.groups or None)
        size, total = np.abs(values).sum(), values.sum()
        same = np.abs(values[np.sign(values) == np.sign(total)]).sum()
        alike = float(same / size) if size else np.nan
        rows.append(
            (name, len(row), float(joint.mean()), float(total), alike, beyond.value, *beyond.interval)
        )
    columns = ["group", "units", "joint", "total", "alike", "beyond", "beyond_low", "beyond_high"]
    return pd.DataFrame(rows, columns=columns)


def _weights(graph: CircuitGraph, targets: list[int], sources: list[int]) -> Array:
    found: Array = np.nan_to_num(graph.weights[np.ix_(targets, sources)])
    return found


def _profiles(graph: CircuitGraph) -> tuple[list[int], list[int], Array, Array]:
    """Roles, nodes that hear one, what each hears (node, role), and what it says as a share of the largest (node, 1)."""
    roles = [i for i, name in enumerate(graph.nodes) if name.startswith("tokens:")]
    if graph.node_data is None or not roles or "logits" not in graph.nodes:
        raise PatchclampError(
            f"group_nodes: a graph by {graph.method} has no tokens by role; give one that neuron_graph made"
        )
    end = graph.nodes.index("logits")
    inner = [i for i in range(graph.n) if i not in roles and i != end]
    heard = _weights(graph, inner, roles)
    kept = (heard != 0).any(1)
    members = [node for node, one in zip(inner, kept, strict=True) if one]
    said = np.nan_to_num(graph.weights[end, members])[:, None]
    largest = np.abs(said).max(initial=0)
    output = said / largest if largest else said
    return roles, members, heard[kept], output


def _scaled(heard: Array, output: Array) -> Array:
    """Profiles: what is heard, at length 1, and what is said."""
    size = np.linalg.norm(heard, axis=1, keepdims=True)
    return np.hstack([heard / np.where(size > 0, size, 1), output])


def _permuted(profiles: Array, draw: np.random.Generator) -> Array:
    return np.stack([draw.permutation(column) for column in profiles.T], 1)


def _cuts(profiles: Array, most: int) -> tuple[list[NDArray[np.int64]], Array]:
    """Labels at 2 to `most` groups, and the silhouette of each."""
    length = np.linalg.norm(profiles, axis=1, keepdims=True)
    unit = profiles / np.where(length > 0, length, 1)
    distance = np.clip(1 - unit @ unit.T, 0, None)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average")
    cuts = [fcluster(tree, number, "maxclust").astype(np.int64) for number in range(2, most + 1)]
    return cuts, np.array([_silhouette(distance, labels) for labels in cuts])


def _silhouette(distance: Array, labels: NDArray[np.int64]) -> float:
    """Mean over nodes of (nearest other group - own group) / the larger; 0 for a node alone in its group."""
    names, member = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        return -1.0
    one = np.eye(len(names))[member]
    count = one.sum(0)
    to = distance @ one
    own = to[np.arange(len(labels)), member] / np.maximum(count[member] - 1, 1)
    other = np.where(one > 0, np.inf, to / count).min(1)
    largest = np.maximum(own, other)
    value = np.where(largest > 0, (other - own) / np.where(largest > 0, largest, 1), 0)
    return float(np.where(count[member] > 1, value, 0).mean())

"""Find a partition with much evidence: spectral and other starts, moves of all nodes, of single nodes, merges, splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.cluster.vq import kmeans2

from patchclamp.base.seeds import numpy_rng
from patchclamp.connect.groups.block_description import Array, BlockModel, BlockSums, Labels, log_factorial

LEAST = 1e-9  # nats that a change must bring
COUNTS = (2, 3, 4, 6, 8, 12, 17, 24, 34, 48, 68)


def beginnings(weights: Array, seen: Array, number: int, most: int, seed: int) -> list[Labels]:
    """Partitions to begin with: spectral ones, cuts of a clustering, strong nodes against weak ones, random ones."""
    n = len(weights)
    out: list[Labels] = []
    counts = [c for c in COUNTS if c <= min(most, n // 2)]
    edges = (weights > 0).astype(np.float64)
    complete = bool((edges == seen).all())
    tables = [weights] if complete else [edges] if np.ptp(weights[weights > 0]) == 0 else [edges, weights]
    for t, table in enumerate(tables):
        vectors, values = spectrum(table, max([*counts, 2]))
        for c in counts:
            rng = numpy_rng([seed, 6203, t, c])
            out.extend(_means(vectors[:, :c] * np.abs(values[:c]), c, rng, unit) for unit in (False, True))
    if complete or n <= 200:
        tree = linkage(weights + np.eye(n) * weights.max(1), "ward")
        out.extend(
            fcluster(tree, c, "maxclust").astype(np.int64) - 1 for c in counts if c in (2, 3, 4, 6, 12)
        )
    strong = np.argsort(np.argsort(-weights.sum(1), kind="stable"), kind="stable")
    out.extend((strong >= max(2, n // part)).astype(np.int64) for part in (5, 3, 2))
    rng = numpy_rng([seed, 6202])
    out.extend(rng.integers(0, rng.integers(2, min(most, n) + 1), n) for _ in range(number))
    return [compact(labels) for labels in out]


def spectrum(table: Array, number: int) -> tuple[Array, Array]:
    """Leading eigenvectors by |eigenvalue| of the table divided by the roots of regularised degrees, and the values."""
    degree = table.sum(1)
    scale = 1 / np.sqrt(degree + degree.mean())
    values, vectors = np.linalg.eigh(table * np.outer(scale, scale))
    order = np.argsort(-np.abs(values))[:number]
    return vectors[:, order], values[order]


def _means(x: Array, count: int, rng: np.random.Generator, unit: bool) -> Labels:
    if unit:
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    best, fewest = np.zeros(len(x), np.int64), np.inf
    for _ in range(2):
        centres, labels = kmeans2(x, count, minit="++", rng=rng)
        error = float(((x - centres[labels]) ** 2).sum())
        if error < fewest:
            best, fewest = labels.astype(np.int64), error
    return best


def compact(labels: Labels) -> Labels:
    """The same without gaps in the numbers."""
    return np.asarray(np.unique(labels, return_inverse=True)[1].astype(np.int64))


def search(
    models: Sequence[BlockModel], begin: Sequence[Labels], most: int, seed: int
) -> tuple[float, Labels, BlockModel]:
    """The best partition that is found from these, and the model under which it is."""
    one = np.zeros(models[0].n, np.int64)
    best = max(((model.evidence(one), one, model) for model in models), key=lambda found: found[0])
    alone = best[0]
    if most < 2:
        return best
    ranked = []
    for model in models:
        rng = numpy_rng([seed, 6201])
        quick = [(model.quick(labels), labels) for labels in begin if 1 < labels.max() + 1 <= most]
        quick = sorted(quick, key=lambda pair: -pair[0])[: 16 if model.n <= 100 else None]
        moved = [shift_all(model, labels, rng) for _, labels in quick]
        quick += [(model.quick(labels), labels) for labels in moved if labels.max() > 0]
        # small graphs come in hundreds (every draw of a null), so few of their starts are looked at closely
        tried = {
            labels.tobytes(): labels
            for _, labels in sorted(quick, key=lambda pair: -pair[0])[: 10 if model.n <= 100 else None]
        }
        order = [(model.evidence(labels), labels) for labels in tried.values()]
        ranked.append((model, sorted(order, key=lambda pair: -pair[0])))
    ranked = [pair for pair in ranked if pair[1]]
    for model, order in sorted(ranked, key=lambda pair: -pair[1][0][0]):
        if order[0][0] < best[0] - 20 - 0.05 * (best[0] - alone):
            continue  # refinement brings less than that
        rng = numpy_rng([seed, 6201])
        many = [pair for pair in order[2:] if pair[1].max() >= 7][:1]
        found = max(
            [improve(model, labels, most, rng, False) for _, labels in order[:2] + many],
            key=lambda one: one[0],
        )
        if found[0] > best[0] - 10:
            found = improve(model, found[1], most, rng)
        if found[0] > best[0] + LEAST:
            best = *found, model
    return best


def improve(
    model: BlockModel, labels: Labels, most: int, rng: np.random.Generator, splits: bool = True
) -> tuple[float, Labels]:
    """Moves and merges until none helps, then splits, and again."""
    best = model.evidence(labels), labels
    for _ in range(4):
        before = best[0]
        for step in (sweep, merged, sweep, split) if splits else (sweep, merged, sweep):
            trial = step(model, best[1], most, rng)
            value = model.evidence(trial)
            if value > best[0] + LEAST:
                best = value, trial
            elif step is split:
                return best
        if best[0] <= before + 1e-6:
            break
    return best


# ---- all nodes at once


def shift_all(model: BlockModel, labels: Labels, rng: np.random.Generator, steps: int = 10) -> Labels:
    """Each node to the block under whose rates its edges and weights are most likely, all nodes at once."""
    for _ in range(steps):
        if labels.max() < 1:
            break
        s = BlockSums.of(model, labels)
        m: NDArray[Any]
        x: NDArray[Any]
        pairs: NDArray[Any]
        m, x, pairs = (
            s.m + np.diag(np.diag(s.m)),
            s.x + np.diag(np.diag(s.x)),
            s.pairs + np.diag(np.diag(s.pairs)),
        )
        score: NDArray[Any]
        if model.degrees:
            score = s.near @ np.log((m + 0.5) / np.outer(s.degree + 1, s.degree + 1))
        else:
            chance = (m + 0.5) / (np.maximum(pairs, m) + 1)
            score = s.near @ np.log(chance / (1 - chance)) + s.c @ np.log1p(-chance)
        if model.weighted:
            mean = (x + model.beta) / (m + 1)
            score = score - (s.near @ np.log(mean) + s.weight @ (1 / mean))
        new = np.where(rng.random(model.n) < 0.8, score.argmax(1), labels)
        if (new == labels).all():
            break
        labels = compact(new)
    return labels


# ---- single nodes


def gains(model: BlockModel, labels: Labels, s: BlockSums, nodes: Labels) -> Array:
    """(node, block) exact change of the evidence when one of these nodes moves; levels above are taken as they are."""
    blocks, own, rows = len(s.size), labels[nodes], np.arange(len(nodes))
    classes = log_factorial(s.classes).sum(1)
    now = model.block(s.size, s.degree, classes)
    values = model.class_degree
    held = s.classes.T  # (degree, block): what a node of that degree brings and takes
    enter = model.block(s.size + 1, s.degree + values[:, None], classes + np.log(held + 1)) - now
    there = np.maximum(held, 1)
    leave = (
        model.block(
            np.maximum(s.size - 1, 0), np.maximum(s.degree - values[:, None], 0), classes - np.log(there)
        )
        - now
    )
    enter, leave = (np.broadcast_to(one, held.shape) for one in (enter, leave))
    own_class = model.degree_class[nodes]
    out = enter[own_class] + leave[own_class, own][:, None]
    k, x, c = (one[nodes] for one in (s.near, s.weight, s.c))
    mine = [one[rows, own] for one in (k, x, c)]
    if model.alike:
        after = [
            np.trace(t) + one - was[:, None]
            for t, one, was in zip((s.m, s.x, s.pairs), (k, x, c), mine, strict=True)
        ]
        left = blocks - (s.size[own] == 1)[:, None]
        traces = [np.asarray(np.trace(t)) for t in (s.m, s.x, s.pairs)]
        out += model.within(after[0], np.maximum(after[1], 0), after[2], left) - model.within(
            traces[0], traces[1], traces[2], blocks
        )
        out += model.partition(left) - model.partition(blocks)
        if model.spread == "uneven":
            m, degree, d = np.diag(s.m), s.degree, np.rint(model.k[nodes]).astype(np.int64)
            now = model.inside(m, degree)
            out += model.inside(m + k, np.maximum(degree + d[:, None], 2 * (m + k))) - now
            out += (model.inside(m[own] - mine[0], degree[own] - d) - now[own])[:, None]
    else:
        if model.degrees:
            out += (k - mine[0][:, None]) * np.log(2)
        pair = model.pair(s.m, s.x, s.pairs)
        lose = model.pair(s.m[own] - k, np.maximum(s.x[own] - x, 0), s.pairs[own] - c) - pair[own]
        out += lose.sum(1)[:, None] - lose
        out += _joined(model, s, pair, own, (k, x, c))
        cross = [
            t[own] - one + was[:, None]
            for t, one, was in zip((s.m, s.x, s.pairs), (k, x, c), mine, strict=True)
        ]
        cross = [np.maximum(one, 0) for one in cross]
        out += model.pair(*cross) - pair[own]
        out[s.size[own] == 1] = -np.inf
    out[rows, own] = 0
    return np.asarray(out)


def _joined(model: BlockModel, s: BlockSums, pair: Array, own: Labels, to: Sequence[NDArray[Any]]) -> Array:
    """(node, block r) sum over t other than the node's own of pair(m_rt + k_t) - pair(m_rt)."""
    k, x, c = to
    n, blocks = k.shape
    out = np.zeros((n, blocks))
    if model.degrees:  # pairs of blocks that get no edge do not change
        node, t = np.nonzero(k)
        keep = t != own[node]
        node, t = node[keep], t[keep]
        if len(node):
            change = (
                model.pair(s.m[t] + k[node, t][:, None], s.x[t] + x[node, t][:, None], s.pairs[t]) - pair[t]
            )
            first = np.flatnonzero(np.r_[True, np.diff(node) > 0])
            out[node[first]] = np.add.reduceat(change, first)
        return out
    width = max(1, 2**18 // blocks**2)
    for begin in range(0, n, width):
        part = slice(begin, begin + width)
        more = (one[part][:, None, :] for one in to)
        sums = (one + new for one, new in zip((s.m, s.x, s.pairs), more, strict=True))
        change = model.pair(*sums) - pair
        out[part] = change.sum(2) - change[np.arange(len(change)), :, own[part]]
    return out


def sweep(
    model: BlockModel,
    labels: Labels,
    most: int,
    rng: np.random.Generator,
    nodes: NDArray[np.int64] | None = None,
) -> Labels:
    """Nodes to better blocks, as many at once as raise the evidence together, until none is better elsewhere."""
    s = BlockSums.of(model, labels)
    value = model.of_sums(s, nested=False)[0]
    share = 0.5
    among = np.arange(model.n) if nodes is None else nodes
    target = labels.copy()
    for _ in range(60 if nodes is None else 8):
        change = gains(model, labels, s, among)
        best = np.zeros(model.n)
        best[among], target[among] = change.max(1), change.argmax(1)
        willing = np.flatnonzero(best > LEAST)
        if not len(willing):
            break
        while True:
            if share * len(willing) <= 1:
                chosen = willing[[best[willing].argmax()]]
            else:
                chosen = willing[rng.random(len(willing)) < share]
            trial = labels.copy()
            trial[chosen] = target[chosen]
            trial = compact(trial)
            sums = BlockSums.of(model, trial)
            reached = model.of_sums(sums, nested=False)[0]
            if reached > value + LEAST and (model.alike or len(sums.size) == len(s.size)):
                labels, s, value, share = trial, sums, reached, min(share * 1.5, 0.7)
                break
            if share * len(willing) <= 1:
                return labels
            share /= 3
    return labels


# ---- blocks


def merge_gains(model: BlockModel, s: BlockSums) -> Array:
    """(block, block) gain of joining two, below the diagonal; without the prior on the number of blocks."""
    count = len(s.size)
    i, j = np.tril_indices(count, -1)
    one = model.block(s.size, s.degree, log_factorial(s.classes).sum(1))
    terms = np.concatenate(
        [log_factorial(s.classes[i[part]] + s.classes[j[part]]).sum(1) for part in _parts(len(i), 4096)]
    )
    out = np.full((count, count), -np.inf)
    gain = model.block(s.size[i] + s.size[j], s.degree[i] + s.degree[j], terms) - one[i] - one[j]
    if model.alike:
        inside: list[Any] = [np.trace(table) + table[i, j] for table in (s.m, s.x, s.pairs)]
        if model.spread == "uneven":
            m, apart = np.diag(s.m), model.inside(np.diag(s.m), s.degree)
            both = model.inside(m[i] + m[j] + s.m[i, j], s.degree[i] + s.degree[j])
            gain = gain + both - apart[i] - apart[j]
        out[i, j] = gain + model.within(inside[0], inside[1], inside[2], count - 1)
        return out
    out[i, j] = gain + (s.m[i, j] * np.log(2) if model.degrees else 0.0)
    now = model.pair(s.m, s.x, s.pairs)
    rows = now.sum(1)
    for a in range(1, count):
        m, x, pairs = (table[a] + table[:a] for table in (s.m, s.x, s.pairs))
        both = model.pair(m, x, pairs)
        own = [table[a, a] + np.diag(table)[:a] + table[a, :a] for table in (s.m, s.x, s.pairs)]
        lost = rows[a] + rows[:a] - now[a, :a]
        column = np.arange(a)
        kept = both.sum(1) - both[:, a] - both[column, column]
        out[a, :a] += kept + model.pair(*own) - lost
    return out


def _parts(n: int, width: int) -> list[slice]:
    return [slice(k, k + width) for k in range(0, n, width)] or [slice(0)]


def merged(model: BlockModel, labels: Labels, most: int, rng: np.random.Generator) -> Labels:
    """The best partition on the way down to one block, the best pair of blocks joined at each step."""
    sums, now = BlockSums.of(model, labels), labels
    best = -np.inf, labels
    while len(sums.size) > 1:
        gains = merge_gains(model, sums)
        a, b = np.unravel_index(int(gains.argmax()), gains.shape)
        now = compact(np.where(now == a, b, now))
        sums = BlockSums.of(model, now)
        value = model.of_sums(sums)[0]
        if value > best[0]:
            best = value, now
        elif value < best[0] - 200 and len(sums.size) > 8:
            break
    return best[1]


def split(model: BlockModel, labels: Labels, most: int, rng: np.random.Generator) -> Labels:
    """Each block in two where that helps, by the leading directions of its nodes' edges to all blocks and to each other."""
    best = model.evidence(labels)
    for block in range(int(labels.max()) + 1):
        inside = np.flatnonzero(labels == block)
        count = int(labels.max()) + 1
        if len(inside) < 6 or count >= most:
            continue
        trials = []
        for half in _halves(model, labels, inside, rng):
            trial = labels.copy()
            trial[inside[half]] = count
            trials.append((model.of_sums(BlockSums.of(model, trial), nested=False)[0], trial))
        for _, trial in sorted(trials, key=lambda pair: -pair[0])[:1]:
            trial = sweep(model, trial, count + 1, rng, inside)
            value = model.evidence(trial)
            if value > best + LEAST:
                best, labels = value, trial
    return labels


def _halves(
    model: BlockModel, labels: Labels, inside: NDArray[np.int64], rng: np.random.Generator
) -> list[NDArray[np.bool_]]:
    own = model.y[inside][:, inside]
    own = own if isinstance(own, np.ndarray) else own.toarray()
    degree = own.sum(1) + 1e-12
    expected = np.outer(degree, degree) / degree.sum()
    values, vectors = np.linalg.eigh(own - expected)
    hot = np.eye(int(labels.max()) + 1)[labels]
    profile = model.y[inside] @ hot
    profile = profile / np.maximum(profile.sum(1, keepdims=True), 1e-12)
    outer = np.linalg.svd(profile - profile.mean(0), full_matrices=False)[0][:, 0]
    found = [vectors[:, -1] > 0, vectors[:, 0] > 0, outer > 0]
    if not model.degrees:
        found.append(degree > np.median(degree))
    return [half for half in found if 1 < half.sum() < len(half) - 1]

"""How well each unit tells labels apart, against the best that chance does among as many units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from patchclamp.base.areas import (
    Ranked,
    auc,
    average_precision,
    d_prime,
    mutual_information,
    normalised,
    two_sided_ap,
)
from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.base.seeds import torch_rng
from patchclamp.base.shuffles import Shuffle
from patchclamp.measure.activity.kept import Rows, check_memory, in_order
from patchclamp.nouns.measure import require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

POOLS = ("mean", "max", "sum", "last", "none")
STATISTICS = ("auc", "d_prime", "ap", "mi")


class Selectivity(Rows):
    """AUC, d', average precision and mutual information of every unit for every label (one label against the
    rest).

    An example is a document, whose samples are pooled to one value a unit, or (``pool="none"``) each sample
    by itself. The pooled values are kept (examples x units, float64), because rank statistics of them are
    then exact; this is the one measure whose memory grows with the data, and it refuses above `memory_limit`.
    Examples labelled -1 are left out.

    Each statistic is compared with the largest that any unit reaches when labels are shuffled, label by
    label: p = (1 + #{shuffles with a maximum >= the unit's}) / (1 + shuffles), so that p holds over all units
    of the site (not over labels: correct for their number). Sizes compared are |AUC - 1/2|, |d'|, the larger
    of the two normalised average precisions, and the mutual information. Best of 2,000 random units with 10
    positives in 50 examples has an average precision of about .6: without this null such figures say nothing.

    Groups (`samples.group`) are the units of dependence. Where most examples are in groups of one label,
    labels are shuffled between groups; where they differ within groups, inside them; where every example is
    its own group, freely.

    Parameters
    ----------
    labels
        Names of the labels 0, 1, ...; None = the numbers that occur.
    membership
        (documents, labels): the labels of each document, where it can have several or none; replaces
        `samples.label`.
    pool
        ``"mean"``, ``"max"``, ``"sum"`` over the samples of a document, ``"last"`` (highest position) or
        ``"none"``.
    statistics
        Which to compute, each with its null. A shuffle costs examples x units, whatever the number of labels.
    bins
        Bins of equal counts for the mutual information.
    n_permutations, seed
        Shuffles of the null.
    memory_limit
        Bytes of pooled values; more is refused.

    References
    ----------
    Suau et al. (2020), Finding experts in transformer models (average precision of units for concepts).
    Nichols, Holmes (2002), Nonparametric permutation tests (the null of the maximum).
    """

    name = "selectivity"
    fields = ("values", "size", "doc", "position", "label", "group")

    def __init__(
        self,
        *,
        labels: Sequence[str] | None = None,
        membership: Bool[Tensor, "documents labels"] | None = None,
        pool: str = "mean",
        statistics: Sequence[str] = STATISTICS,
        bins: int = 8,
        n_permutations: int = 200,
        seed: int = 0,
        memory_limit: int = 2**31,
    ) -> None:
        require(
            pool in POOLS, f"Selectivity: pool={pool!r}; one of {', '.join(POOLS)}{did_you_mean(pool, POOLS)}"
        )
        unknown = [s for s in statistics if s not in STATISTICS]
        require(
            not unknown and len(statistics) > 0,
            f"Selectivity: statistics={unknown}; some of {', '.join(STATISTICS)}"
            + (did_you_mean(unknown[0], STATISTICS) if unknown else ""),
        )
        require(
            bins > 1 and n_permutations >= 0, f"Selectivity: bins={bins}, n_permutations={n_permutations}"
        )
        self.labels = None if labels is None else tuple(str(name) for name in labels)
        self.membership = membership
        self.pool, self.statistics = pool, tuple(statistics)
        self.bins, self.n_permutations = int(bins), int(n_permutations)
        self.seed, self.memory_limit = int(seed), int(memory_limit)
        self.values: Tensor | None = None  # examples x units: sums, maxima or last values
        self.size, self.doc, self.position, self.label, self.group = torch.zeros(
            5, 0, dtype=torch.int64
        ).unbind()

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        part = self._pooled(values, samples)
        examples = len(self.doc) + sum(len(p["doc"]) for p in self._pending) + len(part["doc"])
        check_memory(self, examples * values.shape[1] * 8, f"{examples} examples of {values.shape[1]} units")
        self._pending = [*self._pending, part]
        if sum(len(p["doc"]) for p in self._pending) > max(1024, len(self.doc)):
            self._settle()

    def _pooled(self, values: Tensor, samples: Samples) -> dict[str, Tensor]:
        """One row an example, in order of (document, position)."""
        table = {name: getattr(samples, name).cpu() for name in ("doc", "position", "label", "group")}
        # What picks values needs no wider copy of the whole batch to pick from; what adds them up does.
        picks = self.pool in ("last", "max") and values.dtype in (torch.float32, torch.float64)
        table |= {"values": values.cpu() if picks else values.cpu().double()}
        joined = self._joined(in_order(table | {"size": torch.ones_like(table["doc"])}))
        return joined | {"values": joined["values"].double()}

    def _joined(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows of the same document as one; rows come in order of (document, last position)."""
        if self.pool == "none":
            return table
        docs, counts = table["doc"].unique_consecutive(return_counts=True)
        if len(docs) == len(table["doc"]):
            return table
        final = counts.cumsum(0) - 1
        place = torch.arange(len(docs)).repeat_interleave(counts)
        for name in ("label", "group"):
            odd = (table[name] != table[name][final][place]).nonzero()
            if len(odd):
                raise PatchclampError(
                    f"{self._who}: document {int(table['doc'][odd[0]])} has samples of different {name}; "
                    'use pool="none" for labels of single samples'
                )
        values = table["values"]
        if self.pool in ("mean", "sum"):
            pooled = torch.zeros(len(docs), values.shape[1], dtype=values.dtype).index_add_(0, place, values)
        elif self.pool == "max":
            pooled = _maxima(values, place, len(docs))
        else:
            pooled = values[final]
        size = torch.zeros_like(docs).index_add_(0, place, table["size"])
        kept = {name: table[name][final] for name in ("doc", "position", "label", "group")}
        return {"values": pooled, "size": size, **kept}

    def examples(
        self,
    ) -> tuple[Float[Tensor, "examples units"], Float[Tensor, "labels examples"], list[str], Tensor]:
        """Pooled values, membership of each label, names of the labels, group of each example."""
        self._need_data()
        self._settle()
        assert self.values is not None
        values = self.values / self.size[:, None] if self.pool == "mean" else self.values
        if self.membership is not None:
            return values, *self._from_membership(), self.group
        known = self.label >= 0
        numbers = self.label[known].unique()
        require(
            len(numbers) > 1,
            f"{self._who}: {len(numbers)} label among the examples; needs at least two",
        )
        if self.labels is not None and int(numbers[-1]) >= len(self.labels):
            raise PatchclampError(
                f"{self._who}: label {int(numbers[-1])}, but {len(self.labels)} names were given"
            )
        names = [str(int(i)) if self.labels is None else self.labels[int(i)] for i in numbers]
        member = (self.label[known] == numbers[:, None]).double()
        return values[known], member, names, self.group[known]

    def _from_membership(self) -> tuple[Tensor, list[str]]:
        assert self.membership is not None
        count = self.membership.shape[1]
        if int(self.doc.max()) >= len(self.membership):
            raise PatchclampError(
                f"{self._who}: document {int(self.doc.max())}, but membership has {len(self.membership)} rows"
            )
        names = [str(i) for i in range(count)] if self.labels is None else list(self.labels)
        require(
            len(names) == count,
            f"{self._who}: {len(names)} names for {count} columns of membership",
        )
        member = self.membership.cpu()[self.doc].T.double()
        mixed = (member.sum(1) > 0) & (member.sum(1) < member.shape[1])
        require(bool(mixed.any()), f"{self._who}: no label has both members and others")
        return member[mixed], [name for name, keep in zip(names, mixed.tolist(), strict=True) if keep]

    def result(self) -> xr.Dataset:
        """Dataset over (unit, label).

        auc, d_prime, ap, ap_negated (of -a), ap_normalised = (AP - prevalence) / (1 - prevalence), mi (bits);
        p_auc, p_d_prime, p_ap, p_mi against the null of the maximum; null_max_* (label, permutation);
        positives, prevalence (label).
        """
        values, member, names, groups = self.examples()
        ranked = Ranked.of(values)
        prevalence = member.mean(1)
        axes = ("unit", "label")
        out: dict[str, tuple[tuple[str, ...], Tensor]] = {
            "positives": (("label",), member.sum(1).long()),
            "prevalence": (("label",), prevalence),
        }
        sizes = self._sizes(ranked, member)
        if "auc" in self.statistics:
            out["auc"] = (axes, auc(ranked, member).T)
        if "d_prime" in self.statistics:
            out["d_prime"] = (axes, d_prime(ranked, member).T)
        if "ap" in self.statistics:
            ap = average_precision(ranked, member)
            out["ap"] = (axes, ap.T)
            out["ap_negated"] = (axes, average_precision(ranked, member, negated=True).T)
            out["ap_normalised"] = (axes, normalised(ap, prevalence[:, None]).T)
        if "mi" in self.statistics:
            out["mi"] = (axes, sizes["mi"].T)
        shuffle = Shuffle.of(member, groups) if self.n_permutations else None
        for name, null in self._null(ranked, member, shuffle).items():
            beaten = (null[:, None, :] >= sizes[name][:, :, None] - 1e-12).sum(2)
            p = (1 + beaten) / (1 + self.n_permutations)
            out[f"p_{name}"] = (axes, p.masked_fill(sizes[name].isnan(), torch.nan).T)
            out[f"null_max_{name}"] = (("label", "permutation"), null)
        return self._dataset(
            out,
            {"label": names},
            n_examples=len(values),
            pool=self.pool,
            shuffled="not" if shuffle is None else shuffle.kind,
            seed=self.seed,
        )

    def _sizes(self, ranked: Ranked, member: Tensor) -> dict[str, Tensor]:
        """What is compared with the null: larger = more selective, either way."""
        sizes = {}
        if "auc" in self.statistics:
            sizes["auc"] = (auc(ranked, member) - 0.5).abs()
        if "d_prime" in self.statistics:
            sizes["d_prime"] = d_prime(ranked, member).abs()
        if "ap" in self.statistics:
            sizes["ap"] = two_sided_ap(ranked, member)
        if "mi" in self.statistics:
            sizes["mi"] = mutual_information(ranked, member, self.bins)
        return sizes

    def _null(
        self, ranked: Ranked, member: Tensor, shuffle: Shuffle | None
    ) -> dict[str, Float[Tensor, "labels permutations"]]:
        if shuffle is None:
            return {}
        generator = torch_rng(self.seed)
        maxima: dict[str, list[Tensor]] = {}
        for _ in range(self.n_permutations):
            for name, size in self._sizes(ranked, shuffle(member, generator)).items():
                # Not nan_to_num, which makes a large number of an infinite d': it would lose to the unit's own.
                maxima.setdefault(name, []).append(size.masked_fill(size.isnan(), -torch.inf).amax(1))
        return {name: torch.stack(columns, 1) for name, columns in maxima.items()}


def _maxima(values: Float[Tensor, "n units"], place: Tensor, count: int) -> Float[Tensor, "count units"]:
    """Largest value of each unit among the rows of each place."""
    out = torch.full((count, values.shape[1]), -torch.inf, dtype=values.dtype)
    return out.scatter_reduce_(0, place[:, None].expand_as(values), values, "amax")

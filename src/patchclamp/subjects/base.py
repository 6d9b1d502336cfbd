"""`Subject`: something that can be recorded and, being live, perturbed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import (
    BySite,
    Site,
    SiteLike,
    SitesLike,
    Unit,
    Units,
    UnitsLike,
    as_site,
    parse_pattern,
    split_addresses,
)
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair, Run
from patchclamp.subjects.clamp.features import AttachedDictionaries, Attachment, FeatureHooks
from patchclamp.subjects.clamp.hooks import Place, Session, frozen, keep

Reads = SitesLike | Mapping[Site, Callable[[Tensor], Any]] | Mapping[str, Callable[[Tensor], Any]]


@dataclass(frozen=True)
class SiteInfo:
    """A row of the table of sites: address, number of units, size of one unit's value, where it is read."""

    site: Site
    width: int
    unit_dim: int
    module: str
    description: str


class Subject(ABC):
    """A live network under the instrument.

    The model object is the user's own: it is never changed, converted or copied. Passes run under plain torch
    hooks, which are taken off afterwards, also after an exception; parameters receive no gradient.

    Attributes
    ----------
    model : torch.nn.Module
    name : str
    fingerprint : str
        Hash of the weights; recordings and claims carry it.
    """

    def __init__(self, model: nn.Module, name: str, fingerprint: str) -> None:
        self.model = model
        self.name = name
        self._fingerprint = fingerprint
        self._widths: dict[Site, tuple[int, int]] = {}
        self._attached = AttachedDictionaries(self)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, computed when it is first asked for."""
        if not self._fingerprint:
            from patchclamp.subjects.files.loading import fingerprint

            self._fingerprint = fingerprint(self.model)
        return self._fingerprint

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the first floating parameter."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    # ---- addresses

    @abstractmethod
    def known_sites(self) -> list[Site]:
        """All sites of the model that have a name, in the order of the forward pass."""

    @abstractmethod
    def place(self, site: SiteLike) -> Place:
        """Where a site's tensor lives; for features, that of the activity which is encoded."""

    @abstractmethod
    def dummy(self) -> Batch:
        """The smallest input that the model takes, for learning widths."""

    def resolve(self, address: SitesLike) -> list[Site]:
        """Sites that an address names, in the order of the forward pass; ``*`` and ranges stand for layers.

        Raises
        ------
        PatchclampError
            For what the model does not have, with the near names.
        """
        if isinstance(address, Site):
            self.place(address)
            return [address]
        if not isinstance(address, str):
            found = dict.fromkeys(site for entry in address for site in self.resolve(entry))
            if not found:
                raise PatchclampError(
                    "no site was asked for; give an address such as mlp_act.* or resid_post.3"
                )
            return sorted(found)
        parts = split_addresses(address)
        if len(parts) != 1:
            return self.resolve(parts)
        if "[" in parts[0]:
            return self.units(parts[0]).sites
        point, layer, dictionary, io = parse_pattern(parts[0])
        if layer is None or layer.isdecimal():
            site = Site(point, None if layer is None else int(layer), dictionary, io)
            self.place(site)
            return [site]
        return self._layers(address, point, layer, dictionary)

    def _layers(self, address: str, point: str, layer: str, dictionary: str | None) -> list[Site]:
        low, _, high = layer.partition(":")
        sites = [s for s in self.alike(Site(point, 0, dictionary)) if s.layer is not None]
        if layer != "*":
            sites = [s for s in sites if int(low or 0) <= (s.layer or 0) < int(high or 10**9)]
        if not sites and dictionary is not None:
            raise self._attached.unknown(address, dictionary)
        if not sites:
            self.place(Site(point, 0))
            raise PatchclampError(
                f"{address}: matches no layer; this model has {point}.0 to {point}.{self.n_layers - 1}"
            )
        return sites

    @property
    def n_layers(self) -> int:
        """Number of blocks; 0 for models without named blocks."""
        return 0

    def alike(self, site: SiteLike) -> list[Site]:
        """All sites of the same point; for features, those of dictionaries of the same name."""
        site = as_site(site)
        known = self._attached.sites() if site.dictionary is not None else self.known_sites()
        return [s for s in known if s.point == site.point and s.dictionary == site.dictionary]

    # ---- dictionaries

    def attach(self, name: str, dictionary: Dictionary) -> Attachment:
        """Make a dictionary's features units of this subject, with the address ``SITE/name[77]``.

        They are then recorded, measured, scored and changed as neurons are; changing them keeps the dictionary's
        error term. One name may stand for a dictionary at each of several sites. The model itself is not changed.

        Parameters
        ----------
        name
            Part of the address.
        dictionary
            Its `site` and `target` say where it reads and writes.

        Returns
        -------
        Attachment
            With ``with``, the dictionary is taken off at the end, also after an exception; otherwise it stays on
            until `detach`.

        Raises
        ------
        PatchclampError
            For a name that no address can hold or that is taken, a site that this model does not have, another width.

        Examples
        --------
        >>> with subject.attach("mine", dictionary):                            # doctest: +SKIP
        ...     scores = attribution_patching(subject, task, "resid_post.15/mine")
        """
        return self._attached.attach(name, dictionary)

    def detach(self, name: str) -> None:
        """Take off the dictionaries of a name, or the one of an address such as ``resid_post.15/mine``."""
        self._attached.detach(name)

    def dictionary(self, site: Site | str) -> Dictionary:
        """The attached dictionary whose features are the units of a site."""
        return self._attached.get(site if isinstance(site, Site) else self.resolve(site)[0])

    def _base(self, site: SiteLike) -> Site:
        """The site itself, or the one that is encoded; refused where no such dictionary is attached."""
        site = as_site(site)
        return site if site.dictionary is None else self._attached.get(site).site

    def units(self, selection: UnitsLike) -> Units:
        """Parse a selection and check every site and index against the model."""
        units = Units.parse(selection)
        self.check_units(units)
        return units

    def check_units(self, units: Units) -> None:
        """Refuse sites that do not exist and indices past the end, naming the way out."""
        for site, indices in units.items():
            self.place(site)
            width = self.width(site)
            wrong = [i for i in indices or () if not 0 <= i < width]
            if wrong:
                raise PatchclampError(f"{Unit(site, wrong[-1])}: {site} has units 0..{width - 1}")

    def width(self, site: SiteLike) -> int:
        """Number of units at a site."""
        return self._dims(site)[0]

    def unit_dim(self, site: SiteLike) -> int:
        """Size of one unit's value: 1, or d_head for `head` sites."""
        return self._dims(site)[1]

    def _dims(self, site: SiteLike) -> tuple[int, int]:
        site = as_site(site)
        if site.dictionary is not None:
            return self._attached.get(site).n_features, 1
        if site not in self._widths:
            eager = site.point == "attn_probs"  # of another kind of pass, so not probed with the rest
            known = [s for s in self.known_sites() if (s.point == "attn_probs") == eager]
            probe = known if site in known else [site]
            run = self.run(self.dummy(), read={s: lambda t: tuple(t.shape) for s in probe}, stop=False)
            for seen, shape in run.activity.items():
                self._widths[seen] = _width(seen, shape)
        return self._widths[site]

    def sites(self) -> list[SiteInfo]:
        """The table of sites of this model."""
        from patchclamp.nouns.units import POINTS

        names = {id(module): name for name, module in self.model.named_modules()}
        table = []
        for site in self.known_sites():
            place = self.place(site)
            where = f"{names.get(id(place.module), '?')}.{place.io}"
            where += f"[{place.index}]" if place.index else ""
            text = POINTS.get(site.point, "output of the module")
            table.append(SiteInfo(site, self.width(site), self.unit_dim(site), where, text))
        for site in self._attached.sites():
            base = next((i for i, row in enumerate(table) if row.site == site.base), len(table) - 1)
            where = table[base].module if table[base].site == site.base else str(site.base)
            text = f"features: {self._attached.get(site)!r}"
            table.insert(base + 1, SiteInfo(site, self.width(site), 1, where, text))
        return table

    # ---- passes

    @abstractmethod
    def _forward(self, batch: Batch, logits: str | Tensor | None, whole: bool) -> Tensor | None:
        """Call the model; return logits as asked. `whole`: the head must see all positions, asked for or not."""

    def _of_head(self, site: Site) -> bool:
        """Whether a site lies in the head, which else runs at the positions asked for only."""
        return False

    def _prepare(
        self, batch: Batch, read: Sequence[Site], write: Sequence[Edit]
    ) -> tuple[list[tuple[Place, Callable[..., Tensor]]], Any]:
        """Turn edits into writes at places, and give a context in which to run the pass."""
        return [(self.place(edit.site), edit.fn) for edit in write], nullcontext()

    def _root(self) -> tuple[Place, ...]:
        """Places whose tensors become leaves of the graph when gradients are wanted."""
        return ()

    def run(
        self,
        batch: Batch,
        read: Reads = (),
        write: Sequence[Edit] = (),
        logits: str | Tensor | None = None,
        *,
        grad: bool = False,
        start: tuple[int, Tensor] | None = None,
        stop: bool = True,
    ) -> Run:
        """Run one pass, reading and changing activity on the way.

        Parameters
        ----------
        batch
            Inputs; moved to the subject's device.
        read
            Sites or addresses, whose activity is copied, or a mapping from site to a function of the live tensor
            (batch, pos, units) whose value is kept instead. `head` sites are (batch, pos, head, d_head), before
            the output projection; `attn_probs` is (batch, head, query, key).
        write
            Edits, carried out before reads of the same tensor.
        logits
            ``"last"`` (batch, vocabulary) at each row's last real token, a (batch,) tensor of positions,
            ``"all"`` (batch, pos, vocabulary), or None: then the pass ends after the last site read.
        grad
            Build the autograd graph (parameters never receive gradients); what enters the first block is its leaf.
        start
            (layer, stream): skip the blocks before `layer` and enter it with `stream` (batch, pos, d_model). Sites
            in skipped blocks can be neither read nor written.
        stop
            Set to False to run to the end although no logits are wanted.

        Returns
        -------
        Run
            `activity` by site or address, and `logits`.
        """
        batch = batch.to(self.device)
        reads = self._reads(read)
        hooks = FeatureHooks(self, reads, write, grad)
        write = hooks.edits
        writes, context = self._prepare(batch, list(reads), write)
        writes = writes + hooks.captures
        if start is not None and start[0] == 0:
            writes = [(place, lambda tensor, batch: start[1]) for place in self._root()] + writes
        if grad:
            writes = writes + [(place, _leaf) for place in self._root()]
        places = [(site, hooks.place(site), fn) for site, fn in reads.items()]
        session = Session(batch, places, writes, stop=stop and logits is None)
        out = None
        with (
            torch.set_grad_enabled(grad),
            frozen(self.model) if grad else nullcontext(),
            context,
            self._resumed(start, list(reads), write),
            session.attached(),
        ):
            out = self._forward(batch, logits, any(map(self._of_head, [*reads, *(e.site for e in write)])))
        lost = session.missing(list(reads))
        if lost:
            raise PatchclampError(f"{lost[0]}: the pass never reached its module, so nothing was read")
        return Run(BySite(session.seen), out)

    def _reads(self, read: Reads) -> dict[Site, Callable[[Tensor], Any]]:
        """What is done with the tensor of each site that is read."""
        if isinstance(read, Mapping):
            return {as_site(site): fn for site, fn in read.items()}
        found: list[Site] = []
        for entry in (
            split_addresses(read) if isinstance(read, str) else [read] if isinstance(read, Site) else read
        ):
            if isinstance(entry, str) and "[" in entry:
                raise PatchclampError(
                    f"{entry}: a pass reads whole sites; leave out the index, and take it of the result"
                )
            found += [entry] if isinstance(entry, Site) else self.resolve(entry)
        return dict.fromkeys(found, keep)

    def _resumed(self, start: tuple[int, Tensor] | None, read: Sequence[Site], write: Sequence[Edit]) -> Any:
        if start is not None:
            raise PatchclampError(f"{self.name}: this subject has no blocks to start from; leave out `start`")
        return nullcontext()

    # ---- tasks

    @abstractmethod
    def pairs(self, task: TaskLike, batch_size: int = 32) -> Iterator[Pair]:
        """Batches of a task's items, clean beside corrupted, with the metric per item."""


def _leaf(tensor: Tensor, batch: Batch) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_(True)


def _width(site: Site, shape: tuple[int, ...]) -> tuple[int, int]:
    if site.point == "head":
        return shape[2], shape[3]
    if site.point == "attn_probs":
        return shape[1], 1
    return shape[-1], 1


def refuse_site(site: Site, why: str, options: Iterable[str] = ()) -> PatchclampError:
    """The error for an address that a model does not have."""
    return PatchclampError(f"{site}: {why}{did_you_mean(str(site), options)}")

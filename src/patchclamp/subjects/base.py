"""`Subject`: something that can be recorded and, being live, perturbed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.draw.cards import shown
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import (
    POINTS,
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
from patchclamp.subjects.clamp.hooks import Place, Session, frozen, in_turn, keep
from patchclamp.subjects.clamp.modes import (
    Training,
    check_training,
    evaluating,
    own_precision,
    refuse_training,
    training_note,
    with_recurrent_gradients,
)
from patchclamp.subjects.clamp.steps import Calls
from patchclamp.subjects.files.identity import answer, fingerprint, is_old, same_model

Reads = SitesLike | Mapping[Site, Callable[[Tensor], Any]] | Mapping[str, Callable[[Tensor], Any]]


@dataclass(frozen=True)
class SiteInfo:
    """A row of the table of sites: address, number of units, size of one unit's value, where it is read."""

    site: Site
    width: int
    unit_dim: int
    module: str
    description: str


@shown
class Subject(ABC):
    """A live network under the instrument.

    The model object is the user's own: it is never changed, converted or copied. Passes run under plain torch
    hooks, which are taken off afterwards, also after an exception; parameters receive no gradient. A pass is refused
    while a part that computes otherwise in training (dropout, batch norm) is in training mode. Passes of several
    threads take turns. An autocast region around a pass does not reach into it: numbers are those of the model's own types.

    Attributes
    ----------
    model : torch.nn.Module
    name : str
    fingerprint : str
        Of weights and settings; recordings and claims carry it. One that is given is taken at its word, so changes of
        weights are not noticed then.
    training : {"refuse", "as it is"}
        ``"as it is"`` lets passes run in training mode; results then say so (`training_note`).
    """

    def __init__(
        self, model: nn.Module, name: str, fingerprint: str, *, training: Training = "refuse"
    ) -> None:
        check_training(training)
        self.model = model
        self.name = name
        self.training = training
        self._fingerprint = fingerprint
        self._answered = ("", "")
        self._widths: dict[Site, tuple[int, int]] = {}
        self._attached = AttachedDictionaries(self)

    @property
    def fingerprint(self) -> str:
        """What tells this model from others (`patchclamp.subjects.files.identity`), worked out anew each time it is asked for.

        So weights that were changed in place are noticed. Cost: one reading of the weights (SmolLM2: 0.1 s), and the first
        time, and after a change, a pass over a few tokens (SmolLM2: 0.05 s).
        """
        if self._fingerprint:
            return self._fingerprint
        mark = fingerprint(self.model)
        if self._answered[0] != mark:
            with self.evaluating():
                self._answered = (mark, self._answer())
        return "~".join(filter(None, self._answered))

    def is_model(self, mark: str) -> bool:
        """Whether the fingerprint that a file carries is that of this model as it is now.

        Answers are compared within rounding. Of a fingerprint by an older version, what that version counted is compared.
        """
        if is_old(mark) and not self._fingerprint:
            return mark == fingerprint(self.model, version=1)
        return same_model(mark, self.fingerprint)

    def _answer(self) -> str:
        """The output on a small fixed input, summed up; empty where there is none."""
        batch = self._probe()
        given = batch.tokens if batch.tokens is not None else next(iter(batch.tensors.values()))
        out = self._output(batch)
        return answer(given, out, self.dtype) if isinstance(out, Tensor) else ""

    def _probe(self) -> Batch:
        """The input of which a fingerprint holds the answer."""
        return self.dummy()

    def _output(self, batch: Batch) -> Tensor | None:
        """The model's output on a batch, as far as it has one."""
        return self.run(batch, logits="last").logits

    def _card(self) -> dict[str, Any]:
        counts = Counter(site.point if site.layer is not None else str(site) for site in self.known_sites())
        said = [f"{name} x {n}" if n > 1 else name for name, n in counts.items()]
        names = ("family", "n_layers", "n_heads", "d_model")
        sizes = {name: getattr(self, name) for name in names if getattr(self, name, None)}
        parameters = sum(p.numel() for p in self.model.parameters())
        dictionaries = ", ".join(map(str, self._attached.sites()))
        return {
            "name": self.name, "model": type(self.model).__name__, **sizes, "parameters": parameters,
            "dtype": str(self.dtype).removeprefix("torch."), "device": str(self.device),
            "sites": ", ".join(said[:5]) + (f" and {len(said) - 5} points more" if len(said) > 5 else ""),
            **({"attached": dictionaries} if dictionaries else {}),
        }  # fmt: skip

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the first floating parameter."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    # ---- mode

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode for the passes inside; each module's own mode is put back afterwards, also after an exception.

        Examples
        --------
        >>> from patchclamp import TorchModule
        >>> subject = TorchModule(nn.Sequential(nn.Linear(2, 3), nn.Dropout()), torch.ones(1, 2))
        >>> with subject.evaluating():
        ...     run = subject.run(subject.dummy(), read=subject.resolve("0.out"))
        >>> subject.model.training
        True
        """
        return evaluating(self.model)

    @property
    def training_note(self) -> str:
        """What results say of passes in training mode; empty in evaluation mode and where both are the same."""
        return training_note(self.model)

    def check_mode(self) -> None:
        """Refuse training mode where it makes a difference, unless the subject was opened with ``training="as it is"``."""
        if self.training == "refuse":
            refuse_training(self.model, self.name)

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
            For what the model does not have, with the near names, and for single units: a site is all of its units.
        """
        if isinstance(address, Site):
            self.place(address)
            return [address]
        if isinstance(address, Units | Unit) or (isinstance(address, str) and "[" in address):
            return self._whole(address)
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
        point, layer, dictionary, io = parse_pattern(parts[0])
        if layer is None or layer.isdecimal():
            site = Site(point, None if layer is None else int(layer), dictionary, io)
            self.place(site)
            return [site]
        return self._layers(address, point, layer, dictionary)

    def _whole(self, address: UnitsLike) -> list[Site]:
        """The sites of an address in which units may be named, refused where some are."""
        parts = split_addresses(address) if isinstance(address, str) else [address]
        found: list[Site] = []
        for part in parts:
            if isinstance(part, str) and "[" not in part:
                found += self.resolve(part)
                continue
            for site, indices in self.units(part).items():
                if indices is not None:
                    raise PatchclampError(
                        f"{site}[{','.join(map(str, indices))}]: names single units, and a whole site is wanted here; give "
                        f"{site}, and choose units from the result"
                    )
                found.append(site)
        return sorted(dict.fromkeys(found))

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
        names = {id(module): name or type(module).__name__ for name, module in self.model.named_modules()}
        table = []
        for site in self.known_sites():
            place = self.place(site)
            where = f"{names.get(id(place.module), '?')}.{place.io}"
            if place.index:
                key = place.index if isinstance(place.index, int) else ".".join(map(str, place.index))
                where += f"[{key}]"
            table.append(
                SiteInfo(site, self.width(site), self.unit_dim(site), where, self._description(site))
            )
        for site in self._attached.sites():
            base = next((i for i, row in enumerate(table) if row.site == site.base), len(table) - 1)
            where = table[base].module if table[base].site == site.base else str(site.base)
            text = f"features: {self._attached.get(site)!r}"
            table.insert(base + 1, SiteInfo(site, self.width(site), 1, where, text))
        return table

    def _description(self, site: Site) -> str:
        """A site in words."""
        return POINTS.get(site.point, "output of the module")

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

    def _calls(self, batch: Batch) -> Calls:
        """How often modules are called in a pass over a batch, where that is known."""
        return {}

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

        Raises
        ------
        PatchclampError
            While dropout, batch norm or the like is in training mode (see `evaluating`).
        """
        self.check_mode()
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
        session = Session(batch, places, writes, stop=stop and logits is None, calls=self._calls(batch))
        out = None
        with (
            in_turn(self.model),
            own_precision(self.device),
            torch.set_grad_enabled(grad),
            frozen(self.model) if grad else nullcontext(),
            with_recurrent_gradients(self.model, self.device) if grad else nullcontext(),
            context,
            self._resumed(start, list(reads), write),
        ):
            with session.attached():
                out = self._forward(
                    batch, logits, any(map(self._of_head, [*reads, *(e.site for e in write)]))
                )
            session.finish()
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
    if tensor.requires_grad or not tensor.is_floating_point():
        return tensor
    return tensor.detach().requires_grad_(True)


def _width(site: Site, shape: tuple[int, ...]) -> tuple[int, int]:
    if site.point == "head":
        return shape[2], shape[3]
    if site.point == "attn_probs":
        return shape[1], 1
    return shape[-1], 1


def refuse_site(site: Site, why: str, options: Iterable[str] = ()) -> PatchclampError:
    """The error for an address that a model does not have."""
    return PatchclampError(f"{site}: {why}{did_you_mean(str(site), options)}")

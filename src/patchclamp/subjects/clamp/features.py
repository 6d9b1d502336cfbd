"""Features of attached dictionaries as units: read by encoding, written by moving what they decode to.

With codes z = encode(x) of the activity x at the dictionary's site and the activity y at its target (x itself, but for
transcoders), a change of the codes from z to z' moves the target by what changes in the decoded activity::

    y' = y + decode(z') - decode(z)

so the error y - decode(z) stays as it is, and codes that do not change leave every bit of y. Gradients with respect to
codes come from the same line: for a linear decoder dm/dz = dm/dy @ directions.T, whatever the encoder; the gradient
that goes on to earlier layers is the model's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.units import Site, SiteLike
from patchclamp.subjects.clamp.batch import Batch, Edit
from patchclamp.subjects.clamp.hooks import Place

Write = tuple[Place, Callable[[Tensor, Batch], Tensor]]
_NAME = re.compile(r"[^\s/\[\],;*]+")


class HasSites(Protocol):
    """What features ask of the subject that they are attached to."""

    def place(self, site: SiteLike) -> Place: ...
    def width(self, site: SiteLike) -> int: ...
    def dictionary(self, site: Site | str) -> Dictionary: ...


class _HasProjections(Protocol):
    def output_matrix(self, site: Site) -> Tensor: ...
    def head_output_matrix(self, layer: int | None) -> Tensor: ...


class Attachment(AbstractContextManager[Site]):
    """A dictionary on a subject: ``with subject.attach(name, dictionary) as site``, or leave it on until `detach`."""

    def __init__(self, attached: AttachedDictionaries, site: Site) -> None:
        self._attached, self.site = attached, site

    def __enter__(self) -> Site:
        return self.site

    def __exit__(self, *exc: object) -> None:
        self._attached.by_site.pop(self.site, None)

    def __repr__(self) -> str:
        return f"<attached {self.site}: {self._attached.by_site.get(self.site, 'no more')}>"


class AttachedDictionaries:
    """The dictionaries attached to one subject, by the site whose units are their features."""

    def __init__(self, subject: HasSites) -> None:
        self.subject = subject
        self.by_site: dict[Site, Dictionary] = {}

    def attach(self, name: str, dictionary: Dictionary) -> Attachment:
        """Put a dictionary on its site under a name; see `Subject.attach`."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PatchclampError(
                f"{name!r}: a dictionary's name is part of an address, so it has no space and none of / [ ] , ; *"
            )
        if not isinstance(dictionary, Dictionary):
            raise PatchclampError(
                f"{name}: a {type(dictionary).__name__} is no Dictionary; give what decompose returns"
            )
        base = dictionary.site
        site = Site(base.point, base.layer, name, base.io)
        if base.dictionary is not None:
            raise PatchclampError(
                f"{site}: a dictionary over features of another is not attached; encode in two steps"
            )
        if self.by_site.get(site, dictionary) is not dictionary:
            raise PatchclampError(
                f"{site}: another dictionary of this name is attached; detach it, or take another name"
            )
        self._fits(site, dictionary)
        self.by_site[site] = dictionary
        return Attachment(self, site)

    def _fits(self, site: Site, dictionary: Dictionary) -> None:
        ends = (
            (dictionary.site, dictionary.input_width, "encodes"),
            (dictionary.target, int(dictionary.directions.shape[1]), "decodes to"),
        )
        for end, wanted, verb in ends:
            self.subject.place(end)
            if end.point in ("head", "attn_probs"):
                way = f"; give z.{end.layer}, all heads side by side" if end.point == "head" else ""
                raise PatchclampError(f"{site}: {end} is no vector of units a position{way}")
            width = self.subject.width(end)
            if wanted != width:
                raise PatchclampError(f"{site}: the dictionary {verb} {wanted} units, and {end} has {width}")

    def detach(self, name: str) -> None:
        """Take off every dictionary of a name, or the one with this address."""
        gone = [site for site in self.by_site if name in (site.dictionary, str(site))]
        if not gone:
            raise self.unknown(name, name)
        for site in gone:
            del self.by_site[site]

    def get(self, site: Site) -> Dictionary:
        """The dictionary whose features are a site's units."""
        if site not in self.by_site:
            raise self.unknown(str(site), site.dictionary or "")
        return self.by_site[site]

    def unknown(self, address: str, name: str) -> PatchclampError:
        """The error for a dictionary that is not there, with the near names."""
        there = {str(site) for site in self.by_site} | {site.dictionary or "" for site in self.by_site}
        known = ", ".join(str(site) for site in sorted(self.by_site))
        hint = did_you_mean(address, there) or did_you_mean(name, there)
        return PatchclampError(
            f"{address}: no dictionary named {name} is attached to this model"
            + (
                f" there (there is {known}){hint}"
                if known
                else "; subject.attach(name, dictionary) puts one on"
            )
        )

    def sites(self) -> list[Site]:
        """Sites of features, in the order of the pass."""
        return sorted(self.by_site)


# ---- one pass


class _DropZeroGradient(torch.autograd.Function):
    """Identity whose gradient, where it is zero throughout, ends here: the encoder is then not walked back through."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor) -> Tensor:
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor | None:
        return gradient if bool(gradient.any()) else None


class _KeepUnchanged(torch.autograd.Function):
    """`new` where codes changed, the very bits of `old` elsewhere; the gradient is that of `new` everywhere."""

    @staticmethod
    def forward(ctx: Any, new: Tensor, old: Tensor, moved: Tensor) -> Tensor:
        return torch.where(moved, new, old)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


_drop_zero_gradient: Callable[[Tensor], Tensor] = _DropZeroGradient.apply
_keep_unchanged: Callable[[Tensor, Tensor, Tensor], Tensor] = _KeepUnchanged.apply


class FeatureHook:
    """One dictionary during one pass: the codes read at its site, changed, and written at its target.

    Parameters
    ----------
    dictionary
        Its features.
    edits
        Changes of its codes, in order; the next one sees the codes that the one before left.
    """

    def __init__(self, dictionary: Dictionary, edits: Sequence[Edit] = ()) -> None:
        self.dictionary, self.edits = dictionary, list(edits)
        self._table = dictionary.directions
        kind = type(dictionary)
        self._linear = kind.decode is Dictionary.decode and kind.decode_at is Dictionary.decode_at
        self._input: Tensor | None = None
        self._before: Tensor | None = None
        self.codes: Tensor | None = None
        self._bare: Bool[Tensor, "batch pos 1"] | None = None

    def encode(self, activity: Float[Tensor, "batch pos unit"]) -> Float[Tensor, "batch pos feature"]:
        """Codes in the dictionary's own type, on its own device."""
        return self.dictionary.encode(activity.to(self._table.device, self._table.dtype))

    def read(self, activity: Tensor) -> Tensor:
        """Codes as the edits left them; without edits and gradients, encoded here and now."""
        return self.encode(activity).to(activity.device) if self.codes is None else self.codes

    def take(self, activity: Tensor, batch: Batch) -> Tensor:
        """At the site: encode, and carry out the edits. The activity itself is not touched."""
        same = self.dictionary.site == self.dictionary.target
        # By the time a transcoder writes, the model may have changed in place what was read.
        self._input = activity.detach() if same or self._linear else activity.detach().clone()
        codes = self.encode(activity).to(activity.device)
        if torch.is_grad_enabled():
            codes = _drop_zero_gradient(codes) if codes.requires_grad else codes.detach().requires_grad_(True)
        self._before = self.codes = codes
        for edit in self.edits:
            self.codes = edit.fn(self.codes, batch)
            if self.codes.shape != codes.shape:
                raise PatchclampError(
                    f"{edit.site}: an edit changed the shape of the codes from {tuple(codes.shape)} to "
                    f"{tuple(self.codes.shape)}"
                )
            if edit.without_error is not None:
                here = edit.without_error(self.codes, batch)[..., None]
                self._bare = here if self._bare is None else self._bare | here
        if torch.is_grad_enabled():
            # A tensor of its own, so that its gradient is that of what is decoded from it.
            self.codes = self.codes.view_as(self.codes)
        return activity

    def give(self, activity: Tensor, batch: Batch) -> Tensor:
        """At the target: move the activity by what the changed codes decode to."""
        if self.codes is None or self._before is None:
            raise PatchclampError(
                f"{self.dictionary}: the pass reaches {self.dictionary.target} before {self.dictionary.site}, so its "
                "features cannot be written or given gradients; they can be read"
            )
        new, old = self.codes, self._before
        moved = (new.detach() != old.detach()).any(-1, keepdim=True)
        if not torch.is_grad_enabled() and self._bare is None and not bool(moved.any()):
            return activity
        change = self._change(new, old).to(activity.device)
        out = (activity.to(change.dtype) + change).to(activity.dtype)
        out = _keep_unchanged(out, activity, moved.to(activity.device))
        if self._bare is None:
            return out
        decoded = self._decode(new).to(activity.device, activity.dtype)
        return torch.where(self._bare.to(activity.device), decoded, out)

    def both(self, activity: Tensor, batch: Batch) -> Tensor:
        """Where site and target are one."""
        return self.give(self.take(activity, batch), batch)

    def _change(self, new: Tensor, old: Tensor) -> Tensor:
        if self._linear:
            return (new - old).to(self._table.device) @ self._table
        return self._decode(new) - self._decode(old)

    def _decode(self, codes: Tensor) -> Tensor:
        assert self._input is not None
        device = self._table.device
        return self.dictionary.decode_at(codes.to(device), self._input.to(device, self._table.dtype))


@dataclass(frozen=True)
class FeaturePlace(Place):
    """Where features are read: the place of the site under them, through the hook."""

    base: Place | None = None
    hook: FeatureHook | None = None

    def units(self, tensor: Tensor, batch: Batch) -> Tensor:
        """The codes."""
        assert self.base is not None
        assert self.hook is not None
        return self.hook.read(self.base.units(tensor, batch))

    def positions(self, tensor: Tensor, batch: Batch) -> int:
        """Those of the activity under them; codes that an edit changed are those of all calls."""
        assert self.base is not None
        return self.base.positions(tensor, batch)

    def tensor(self, units: Tensor, like: Tensor) -> Tensor:
        """The module's tensor as it is: features are written by their hook."""
        return like


class FeatureHooks:
    """All dictionaries that a pass reads, changes or wants gradients of.

    Attributes
    ----------
    edits : list of Edit
        What the pass is asked to write: the edits of plain sites, then those that carry features, so that features
        see activity as it was changed before.
    captures : list
        Writes that change nothing, at the sites that transcoders read.
    """

    def __init__(self, subject: HasSites, read: Iterable[Site], write: Sequence[Edit], grad: bool) -> None:
        self._subject = subject
        self.edits = [edit for edit in write if edit.site.dictionary is None]
        self.captures: list[Write] = []
        changed = [edit for edit in write if edit.site.dictionary is not None]
        sites = {site for site in read if site.dictionary is not None} | {edit.site for edit in changed}
        self._hooks: dict[Site, FeatureHook] = {}
        for site in sorted(sites):
            dictionary = subject.dictionary(site)
            mine = [edit for edit in changed if edit.site == site]
            hook = self._hooks[site] = FeatureHook(dictionary, mine)
            if not mine and not grad:
                continue
            if dictionary.target == dictionary.site:
                self.edits.append(Edit(site.base, hook.both))
            else:
                self.captures.append((subject.place(site), hook.take))
                self.edits.append(Edit(dictionary.target, hook.give))

    def place(self, site: Site) -> Place:
        """Where a site is read in this pass."""
        found = self._subject.place(site)
        if site.dictionary is None:
            return found
        return FeaturePlace(
            found.module, found.io, found.index, flat=found.flat, base=found, hook=self._hooks[site]
        )


# ---- who a dictionary is


def fingerprint(dictionary: Dictionary) -> str:
    """Hash of everything that a dictionary holds: its kind, ends, arrays and settings.

    A dictionary with a string attribute `fingerprint` of its own is taken at its word.

    Examples
    --------
    >>> class Identity(Dictionary):
    ...     directions = torch.eye(2)
    ...     def encode(self, activity): return activity
    >>> fingerprint(Identity("resid_post.0")) == fingerprint(Identity("resid_post.0"))
    True
    >>> fingerprint(Identity("resid_post.0")) == fingerprint(Identity("resid_post.1"))
    False
    """
    own = getattr(dictionary, "fingerprint", None)
    if isinstance(own, str):
        return own
    found = hashlib.blake2b(digest_size=8)
    found.update(f"{type(dictionary).__qualname__}|{dictionary.site}|{dictionary.target}".encode())
    for table in (dictionary.directions, dictionary.offset):
        _hash(table, found)
    cached = {name for kind in type(dictionary).__mro__ for name, v in vars(kind).items() if _is_cache(v)}
    _hash({name: value for name, value in vars(dictionary).items() if name not in cached}, found)
    return found.hexdigest()


def _is_cache(value: object) -> bool:
    return type(value).__name__ == "cached_property"


def _hash(value: Any, into: Any) -> None:
    """Feed plain data, arrays and modules to a hash."""
    if isinstance(value, nn.Module):
        _hash(dict(value.state_dict()), into)
    elif isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        into.update(f"{array.dtype}{tuple(array.shape)}".encode())
        into.update(array.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray):
        into.update(f"{value.dtype}{value.shape}".encode())
        into.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            into.update(f"{name}:".encode())
            _hash(value[name], into)
    elif isinstance(value, (list, tuple)):
        into.update(f"{len(value)};".encode())
        for entry in value:
            _hash(entry, into)
    elif is_dataclass(value) and not isinstance(value, type):
        _hash({f.name: getattr(value, f.name) for f in fields(value)}, into)
    elif isinstance(value, (str, int, float, bool, type(None), torch.dtype, torch.device, Site)):
        into.update(f"{value!s}|".encode())
    else:  # a function or an object of another library: its kind is all that can be said
        into.update(type(value).__qualname__.encode())


def provenance(subject: HasSites, sites: Iterable[Site]) -> dict[str, Any]:
    """What a manifest says of the dictionaries behind sites: address -> fingerprint; empty where there are none."""
    found = {
        str(site): fingerprint(subject.dictionary(site)) for site in sites if site.dictionary is not None
    }
    return {"dictionaries": found} if found else {}


def output_rows(subject: HasSites, site: Site) -> Float[Tensor, "feature d_model"]:
    """What each feature writes: its direction, carried on through the output projection where its target lies before one."""
    dictionary = subject.dictionary(site)
    rows: Tensor = dictionary.directions.detach().float()
    writes = cast(_HasProjections, subject)  # the sites below are a transformer's
    if dictionary.target.point == "mlp_act":
        rows = rows @ writes.output_matrix(dictionary.target).float().to(rows.device)
    elif dictionary.target.point == "z":
        matrix = writes.head_output_matrix(dictionary.target.layer)
        rows = rows @ matrix.float().flatten(0, 1).to(rows.device)
    return rows


__all__ = [
    "AttachedDictionaries",
    "Attachment",
    "FeatureHook",
    "FeatureHooks",
    "FeaturePlace",
    "fingerprint",
    "output_rows",
    "provenance",
]

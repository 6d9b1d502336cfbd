"""Addresses: the names of sites and units, parsed from and printed as one string everywhere.

The grammar, in the field's words::

    site  :=  point                        embeddings, final_norm, logits
           |  point "." layer              mlp_act.12        ("*" for all layers, "3:7" for a range)
           |  path "." ("in" | "out")      model.layers.3.mlp.down_proj.in   (any module of the model)
    unit  :=  site ["/" dictionary] "[" indices "]"      mlp_act.12[345]   head.5[0,3]   mlp_act.2[10:20]

Parsing here is about spelling alone. Whether a model has the site is for `Subject.resolve`, which knows the
model. Names of TransformerLens and nnterp are accepted where they mean exactly one of ours; where they do not,
they are refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from patchclamp.base.errors import PatchclampError, did_you_mean

T = TypeVar("T")

LAYER_POINTS: dict[str, str] = {
    "resid_pre": "the residual stream that enters the block",
    "attn_probs": "attention probabilities, head x query x key (eager attention)",
    "z": "head outputs before the output projection, concatenated (heads x d_head units)",
    "head": "a head's contribution after the output projection; edited before it",
    "attn_out": "raw output of the attention module",
    "attn_out_post": "what attention adds to the stream (after any norm or scale)",
    "resid_mid": "the residual stream between attention and MLP",
    "mlp_pre": "input of the activation function (the gate, where there is one)",
    "mlp_act": "input of the down projection: the neurons",
    "router": "router logits, one unit an expert (mixture of experts)",
    "mlp_out": "raw output of the MLP module",
    "mlp_out_post": "what the MLP adds to the stream (after any norm or scale)",
    "resid_post": "the residual stream that leaves the block",
}
FIXED_POINTS: dict[str, str] = {
    "embeddings": "what enters the first block",
    "final_norm": "the stream after the final norm",
    "logits": "the output over the vocabulary",
}
POINTS: dict[str, str] = {**LAYER_POINTS, **FIXED_POINTS}
_ORDER = {name: rank for rank, name in enumerate(["embeddings", *LAYER_POINTS, "final_norm", "logits"])}

_ALIASES: tuple[tuple[str, str], ...] = (
    (r"hook_embed", "embeddings"),
    (r"blocks\.(\d+|\*)\.hook_resid_(pre|mid|post)", r"resid_\2.\1"),
    (r"blocks\.(\d+|\*)\.attn\.hook_z", r"z.\1"),
    (r"blocks\.(\d+|\*)\.attn\.hook_pattern", r"attn_probs.\1"),
    (r"blocks\.(\d+|\*)\.attn\.hook_result", r"head.\1"),
    (r"blocks\.(\d+|\*)\.attn\.hook_out", r"attn_out.\1"),
    (r"blocks\.(\d+|\*)\.hook_attn_out", r"attn_out_post.\1"),
    (r"blocks\.(\d+|\*)\.mlp\.hook_pre", r"mlp_pre.\1"),
    (r"blocks\.(\d+|\*)\.mlp\.hook_post", r"mlp_act.\1"),
    (r"blocks\.(\d+|\*)\.mlp\.hook_out", r"mlp_out.\1"),
    (r"blocks\.(\d+|\*)\.hook_mlp_out", r"mlp_out_post.\1"),
    (r"layers_output\[(\d+)\]", r"resid_post.\1"),
    (r"layers_input\[(\d+)\]", r"resid_pre.\1"),
    (r"mlps_output\[(\d+)\]", r"mlp_out.\1"),
    (r"attentions_output\[(\d+)\]", r"attn_out.\1"),
)
_REFUSED: tuple[tuple[str, str], ...] = (
    (
        r".*ln\w*\.hook_normalized",
        "it is the norm before its gain, which no module outputs; record resid_pre.L / resid_mid.L instead",
    ),
    (r".*hook_scale", "the norm's scale is not a unit of the model; record the norm's input and compute it"),
    (r"blocks\.\d+\.hook_mlp_in", "it is the stream before the norm, ours is resid_mid.L"),
    (
        r"blocks\.\d+\.attn\.hook_(q|k|v)",
        "use the projection's module path with .out (it is before the rotation)",
    ),
    (
        r"blocks\.\d+\.attn\.hook_attn_scores",
        "scores before the softmax are inside the attention function; use attn_probs.L",
    ),
)
_AMBIGUOUS = {
    "resid": ("resid_pre", "resid_mid", "resid_post"),
    "residual": ("resid_pre", "resid_mid", "resid_post"),
    "stream": ("resid_pre", "resid_mid", "resid_post"),
    "mlp": ("mlp_act", "mlp_out", "mlp_out_post"),
    "attn": ("attn_out", "attn_out_post", "attn_probs"),
    "attention": ("attn_out", "attn_out_post", "attn_probs"),
    "neuron": ("mlp_act",),
    "neurons": ("mlp_act",),
    "heads": ("head", "z"),
    "embed": ("embeddings",),
}

_LAYERED = re.compile(r"([A-Za-z_]\w*)\.(\d+|\*|\d*:\d*)")
_UNIT = re.compile(r"(.+?)\[([^\[\]]*)\]")
_MODULE = re.compile(r"(.+)\.((?:in|out)(?:\.\w+)*)")


@dataclass(frozen=True)
class Site:
    """A named place where a vector of units lives.

    Parameters
    ----------
    point
        ``"mlp_act"``, ``"resid_post"``, ... or, when `io` is given, the dotted path of a module.
    layer
        The block's number; None for `embeddings`, `final_norm`, `logits` and module paths.
    dictionary
        Name of a dictionary whose features are the units.
    io
        ``"in"`` or ``"out"`` for a module path, else None; behind it which element, where there are several:
        ``"out.1"``, ``"out.cell"``, ``"in.context"``. The first one needs no name.

    Examples
    --------
    >>> str(Site("mlp_act", 12))
    'mlp_act.12'
    >>> parse_site("blocks.3.hook_resid_post")
    Site('resid_post.3')
    """

    point: str
    layer: int | None = None
    dictionary: str | None = None
    io: str | None = None

    def __str__(self) -> str:
        base = self.point if self.layer is None else f"{self.point}.{self.layer}"
        base = base if self.io is None else f"{base}.{self.io}"
        return base if self.dictionary is None else f"{base}/{self.dictionary}"

    def __repr__(self) -> str:
        return f"Site({str(self)!r})"

    @property
    def is_module(self) -> bool:
        """Whether the address is a module's path rather than a named point."""
        return self.io is not None

    @property
    def base(self) -> Site:
        """The site without its dictionary."""
        return Site(self.point, self.layer, None, self.io)

    def _key(self) -> tuple[int, int, str, str, str]:
        layer = (
            10**9 if self.point in ("final_norm", "logits") else (-1 if self.layer is None else self.layer)
        )
        return (layer, _ORDER.get(self.point, 99), self.point, self.io or "", self.dictionary or "")

    def __lt__(self, other: Site) -> bool:
        return self._key() < other._key()

    def __getitem__(self, index: int) -> Unit:
        return Unit(self, index)


@dataclass(frozen=True, order=True)
class Unit:
    """One entry of a site: ``mlp_act.12[345]``."""

    site: Site
    index: int

    def __str__(self) -> str:
        return f"{self.site}[{self.index}]"

    def __repr__(self) -> str:
        return f"Unit({str(self)!r})"


class Units(Mapping[Site, "tuple[int, ...] | None"]):
    """A frozen, ordered selection of units: for each site its indices, or None for the whole site.

    Examples
    --------
    >>> u = Units.parse("head.23[3], mlp_act.12[5,1]")
    >>> str(u), len(u), u.count
    ('mlp_act.12[1,5], head.23[3]', 2, 3)
    >>> Units.parse(u.to_json()) == u
    True
    """

    def __init__(self, members: Mapping[Site, Iterable[int] | None]) -> None:
        cleaned: dict[Site, tuple[int, ...] | None] = {}
        for site in sorted(members):
            indices = members[site]
            cleaned[site] = None if indices is None else tuple(sorted({int(i) for i in indices}))
        self._members = cleaned

    @classmethod
    def parse(cls, what: UnitsLike) -> Units:
        """Read units from a string, a `Site`, a `Unit`, `Units`, a mapping from site to indices, or lists of those.

        Raises
        ------
        PatchclampError
            For text that is not an address, or a selection without any unit.
        """
        members: dict[Site, set[int] | None] = {}
        for site, indices in _walk(what):
            if indices is None or members.get(site, ()) is None:
                members[site] = None
            else:
                known = members.setdefault(site, set())
                assert known is not None
                known.update(indices)
        if not members:
            raise PatchclampError(
                f"{what!r} selects no unit; give an address such as mlp_act.12[345] or head.5[3]"
            )
        return cls(members)

    @property
    def sites(self) -> list[Site]:
        """The sites, in the order of the forward pass."""
        return list(self._members)

    @property
    def count(self) -> int:
        """Number of units; a whole site counts as one."""
        return sum(1 if i is None else len(i) for i in self._members.values())

    def each(self) -> list[Units]:
        """Split into selections of one unit (or one whole site) each."""
        out: list[Units] = []
        for site, indices in self._members.items():
            out.extend([Units({site: None})] if indices is None else [Units({site: (i,)}) for i in indices])
        return out

    def to_json(self) -> list[str]:
        """Addresses as a list of strings, one a site; `parse` reads it back."""
        return [
            str(site) if indices is None else f"{site}[{','.join(map(str, indices))}]"
            for site, indices in self._members.items()
        ]

    def __getitem__(self, site: SiteLike) -> tuple[int, ...] | None:
        return self._members[as_site(site)]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __hash__(self) -> int:
        return hash(tuple(self._members.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Units) and self._members == other._members

    def __str__(self) -> str:
        return ", ".join(self.to_json())

    def __repr__(self) -> str:
        return f"Units({str(self)!r})"


# What a person names sites or units with. A mapping from site to indices is read as such, not as its keys.
SiteLike: TypeAlias = Site | str
SitesLike: TypeAlias = Site | str | Iterable[Site | str]
UnitsLike: TypeAlias = (
    Units
    | Unit
    | SitesLike
    | Iterable[Units | Unit | Site | str]
    | Mapping[Site, Iterable[int] | None]
    | Mapping[str, Iterable[int] | None]
)


def _walk(what: object) -> Iterator[tuple[Site, tuple[int, ...] | None]]:
    if isinstance(what, Units):
        yield from what.items()
    elif isinstance(what, Unit):
        yield what.site, (what.index,)
    elif isinstance(what, Site):
        yield what, None
    elif isinstance(what, str):
        for part in split_addresses(what):
            yield _parse_part(part)
    elif isinstance(what, Mapping):
        for site, indices in what.items():
            yield (
                parse_site(site) if isinstance(site, str) else site,
                None if indices is None else tuple(indices),
            )
    elif isinstance(what, Iterable):
        for entry in what:
            yield from _walk(entry)
    else:
        raise PatchclampError(
            f"{what!r} is a {type(what).__name__}, not an address; give a string such as mlp_act.12[345]"
        )


def split_addresses(text: str) -> list[str]:
    """Split at commas and semicolons outside brackets."""
    parts = re.split(r"[;,](?![^\[]*\])", text)
    return [part.strip() for part in parts if part.strip()]


def _parse_part(text: str) -> tuple[Site, tuple[int, ...] | None]:
    match = _UNIT.fullmatch(text)
    if match is None or re.fullmatch(r"(layers|mlps|attentions)_(in|out)put\[\d+\]", text):
        return parse_site(text), None
    return parse_site(match[1]), _parse_indices(match[2], text)


_MOST, _LONGEST = 1 << 24, 40  # units of a range, and characters of one


def _parse_indices(inside: str, text: str) -> tuple[int, ...]:
    indices: list[int] = []
    for piece in inside.split(","):
        piece = piece.strip()
        span = re.fullmatch(r"(\d+):(\d+)", piece)
        if len(piece) > _LONGEST or (span and int(span[2]) - int(span[1]) > _MOST):
            raise PatchclampError(
                f"{text[:60]}: {piece[:40]!r} is more than any site has; write [345], [1,5] or [10:20]"
            )
        if span and int(span[1]) < int(span[2]):
            indices.extend(range(int(span[1]), int(span[2])))
        elif piece.isdecimal():
            indices.append(int(piece))
        else:
            raise PatchclampError(f"{text}: {piece!r} is not a unit's index; write [345], [1,5] or [10:20]")
    return tuple(indices)


def parse_unit(text: str) -> Unit:
    """Parse the address of exactly one unit.

    Examples
    --------
    >>> parse_unit("mlp_act.12[345]")
    Unit('mlp_act.12[345]')
    """
    site, indices = _parse_part(text.strip())
    if indices is None or len(indices) != 1:
        raise PatchclampError(
            f"{text}: this names {'a whole site' if indices is None else 'several units'}; one unit is written {site}[0]"
        )
    return Unit(site, indices[0])


def parse_site(text: str) -> Site:
    """Parse the address of one site (no wildcard); accepts the aliases of TransformerLens and nnterp.

    Raises
    ------
    PatchclampError
        For unknown or ambiguous names, with the near ones.
    """
    point, layer, dictionary, io = parse_pattern(text)
    if layer is not None and not layer.isdecimal():
        raise PatchclampError(f"{text}: this names several layers; one site is written {point}.0")
    return Site(point, None if layer is None else int(layer), dictionary, io)


def as_site(address: SiteLike) -> Site:
    """A site, or the one that an address names.

    Examples
    --------
    >>> as_site("mlp_act.3") == as_site(Site("mlp_act", 3))
    True
    """
    return address if isinstance(address, Site) else parse_site(address)


class BySite(dict[Site, T]):
    """What belongs to each of some sites; an address stands for its site.

    Examples
    --------
    >>> BySite({Site("mlp_act", 3): 1.0})["mlp_act.3"]
    1.0
    """

    def __missing__(self, key: object) -> T:
        site = parse_site(key) if isinstance(key, str) else key
        if site in self.keys():
            return super().__getitem__(site)
        raise PatchclampError(f"{site}: not among {', '.join(map(str, self)) or 'no site'}")

    def __contains__(self, key: object) -> bool:
        return super().__contains__(parse_site(key) if isinstance(key, str) else key)

    def get(self, key: Any, default: Any = None) -> Any:
        """What belongs to a site or address, or else the default."""
        return super().get(parse_site(key) if isinstance(key, str) else key, default)


def parse_pattern(text: str) -> tuple[str, str | None, str | None, str | None]:
    """Split an address into point, layer (digits, ``*`` or a range), dictionary and io, all as text."""
    base, _, dictionary = text.strip().partition("/")
    if "/" in text and not dictionary:
        raise PatchclampError(f"{text}: the dictionary's name is missing after the slash")
    base = _translate(base)
    if base in FIXED_POINTS:
        return base, None, dictionary or None, None
    match = _LAYERED.fullmatch(base)
    if match and match[1] in LAYER_POINTS:
        return match[1], match[2], dictionary or None, None
    module = _MODULE.fullmatch(base)
    if module:
        return module[1], None, dictionary or None, re.sub(r"^(in|out)\.0$", r"\1", module[2])
    raise PatchclampError(_unknown(text, match[1] if match else base, match[2] if match else None))


def _translate(base: str) -> str:
    for pattern, ours in _ALIASES:
        match = re.fullmatch(pattern, base)
        if match:
            return match.expand(ours)
    for pattern, reason in _REFUSED:
        if re.fullmatch(pattern, base):
            raise PatchclampError(
                f"{base}: this name of TransformerLens does not translate exactly: {reason}"
            )
    return base


def _unknown(text: str, name: str, layer: str | None) -> str:
    tail = f".{layer}" if layer is not None else ".0"
    if name in _AMBIGUOUS:
        options = ", ".join(option + ("" if option in FIXED_POINTS else tail) for option in _AMBIGUOUS[name])
        return f"{text}: ambiguous; which of {options}?"
    if name in LAYER_POINTS:
        return f"{text}: {name} needs a layer: {name}.0, or {name}.* for all layers"
    if name in FIXED_POINTS:
        return f"{text}: {name} has no layer; write {name}"
    hint = did_you_mean(name, POINTS)
    return (
        f"{text}: no such point{hint or '; the points are ' + ', '.join(POINTS)}"
        " (any other module: its dotted path with .in or .out, and .out.1 for the second of several)"
    )

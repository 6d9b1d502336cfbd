"""SAELens' layout: ``cfg.json`` + ``sae_weights.safetensors``. Read here; `StoredDictionary.save` writes it.

Its arithmetic (versions 3 to 6): x is normalised if the config says so, then b_dec subtracted if
``apply_b_dec_to_input``; W_enc is (units, features), W_dec (features, units). ``expected_average_only_in`` does
nothing at run time there (the factor is folded into the weights before they are published), nor here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.fields import Fields
from patchclamp.base.files import CFG, WEIGHTS
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.formats.common import (
    PLAIN,
    Where,
    check_sizes,
    need,
    read_config,
    read_tensors,
    weights,
)
from patchclamp.nouns.dictionary import OURS, StoredDictionary, kind
from patchclamp.nouns.units import Site, parse_site

_KINDS = {
    "standard": "relu",
    "gated": "gated",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}

_ALWAYS = ("W_enc", "W_dec", "b_dec")


def matches(path: Path) -> bool:
    """Whether a folder has the two files."""
    return (path / CFG).is_file() and (path / WEIGHTS).is_file()


def read(path: Path, where: Where) -> StoredDictionary:
    """Read a folder, SAELens' own or ours."""
    cfg = read_config(path / CFG)
    tensors = read_tensors(path / WEIGHTS)
    if OURS in cfg.data:
        return _read_ours(cfg, tensors, where)
    architecture = str(cfg.text("architecture", "standard"))
    if architecture not in _KINDS:
        raise PatchclampError(
            f"{path}: the architecture {architecture!r} is not read; {', '.join(_KINDS)} are"
        )
    about = Fields({**cfg.data, **cfg.part("metadata").data}, path / CFG)
    transcoder = "transcoder" in architecture
    hook = about.text("hook_name") or about.text("hook_point")
    site = where.read_from(hook)
    target = where.written_to(about.text("hook_name_out")) if transcoder else site
    if hook and where.site is None and site.layer is not None:
        about.agrees("hook_layer", site.layer, "hook_name names layer")
    activation, k = _activation(cfg, _KINDS[architecture], path)
    _check_what_changes_nothing(cfg)
    names = {
        name: name for name in (*PLAIN, "b_gate", "r_mag", "b_mag") if name in tensors or name in _ALWAYS
    }
    given = {"b_enc": None, **weights(tensors, path, names)}
    if cfg.flag("finetuning_scaling_factor"):
        # The factor multiplies the codes on their way to the decoder only.
        name = "finetuning_scaling_factor" if "finetuning_scaling_factor" in tensors else "scaling_factor"
        factor = need(tensors, path / WEIGHTS, name)[0]
        if factor.shape != given["W_dec"].shape[:1]:
            raise PatchclampError(
                f"{path}: {name} is {tuple(factor.shape)} and W_dec {tuple(given['W_dec'].shape)}"
            )
        given["W_dec"] = given["W_dec"] * factor[:, None]
    found = SparseDictionary(
        site,
        **given,
        activation=activation,
        k=k,
        threshold=tensors.get("threshold") if activation == "jumprelu" else None,
        apply_b_dec_to_input=not transcoder and cfg.flag("apply_b_dec_to_input", True),
        normalize=_normalisation(cfg, path),
        target=target,
        meta={"layout": "saelens", "architecture": architecture, "cfg": cfg.data},
    )
    check_sizes(cfg, found, ("d_in", "units"), ("d_sae", "features"))
    return found.unit_directions() if cfg.flag("rescale_acts_by_decoder_norm") else found


def _check_what_changes_nothing(cfg: Fields) -> None:
    """Settings that this reader does not need, but which say that a file is not what it seems."""
    cfg.text("reshape_activations", choices=("none", "hook_z"))
    kind = cfg.text("dtype")
    if kind is not None and not isinstance(getattr(torch, kind.removeprefix("torch."), None), torch.dtype):
        raise cfg.refuse("dtype", "a type of torch, such as float32")
    cfg.text("device")


def _activation(cfg: Fields, activation: str, path: Path) -> tuple[str, int | None]:
    """(activation, k); older files say topk by the name of a function."""
    function = cfg.text("activation_fn_str") or cfg.text("activation_fn") or "relu"
    arguments = cfg.part("activation_fn_kwargs")
    if activation == "topk" and cfg.data.get("k") is not None:
        return "topk", cfg.whole("k", low=1)
    if activation == "topk" or (function == "topk" and activation == "relu"):
        arguments.need("k")
        return "topk", arguments.whole("k", low=1)
    if function != "relu":
        raise PatchclampError(f"{path}: the activation function {function!r} is not read; relu and topk are")
    return activation, None


def _normalisation(cfg: Fields, path: Path) -> str:
    name = cfg.text("normalize_activations", "none")
    if name in ("none", "expected_average_only_in"):
        return "none"
    if name in ("constant_norm_rescale", "layer_norm"):
        return name
    raise PatchclampError(f"{path}: normalize_activations={name!r} is not known")


def _read_ours(cfg: Fields, tensors: dict[str, Tensor], where: Where) -> StoredDictionary:
    ours = cfg.part(OURS)
    site, target = _site(ours, "site"), _site(ours, "target")
    alone = site == target
    site = where.read_from(None) if where.site is not None else site
    target = site if alone and where.site is not None else target
    target = where.written_to(None) if where.target is not None else target
    name = ours.text("kind")
    if name == SparseDictionary.kind:
        width = need(tensors, where.path / WEIGHTS, "W_enc")[0]
        tensors = {"b_enc": width.new_zeros(width.shape[-1:]), **tensors}
        if "threshold" in tensors and ours.flag("scalar_threshold"):
            tensors["threshold"] = tensors["threshold"].flatten()[:1].squeeze()
        if "W_skip" in tensors:
            tensors["W_skip"] = tensors["W_skip"].mT if tensors["W_skip"].ndim == 2 else tensors["W_skip"]
    try:
        found = kind(str(name)).from_state(
            site, target, ours.part("meta").data, tensors, ours.part("settings").data
        )
    except PatchclampError as error:
        raise PatchclampError(f"{where.path}: {error}") from error
    wrote = found.layout()[0]
    for key in ("d_in", "d_sae", "k", *(() if where.site or where.target else ("architecture",))):
        cfg.agrees(key, wrote.get(key), "the tensors and settings beside it say")
    return found


def _site(ours: Fields, key: str) -> Site:
    """A site as `asdict` wrote it."""
    part = ours.part(key)
    part.need("point")
    layer = part.whole("layer", low=0)
    found = Site(str(part.text("point")), layer, part.text("dictionary"), part.text("io"))
    sides = str(found).split(" + ")  # a crosscoder reads several
    try:
        read = [parse_site(side) for side in sides]
    except PatchclampError:
        read = []
    if not read or (len(sides) == 1 and read != [found]):
        raise ours.refuse(key, "a site, such as {'point': 'mlp_act', 'layer': 3}")
    return found

"""SAELens' layout: ``cfg.json`` + ``sae_weights.safetensors``. Read here; `StoredDictionary.save` writes it.

Its arithmetic (versions 3 to 6): x is normalised if the config says so, then b_dec subtracted if
``apply_b_dec_to_input``; W_enc is (units, features), W_dec (features, units). ``expected_average_only_in`` does
nothing at run time there (the factor is folded into the weights before they are published), nor here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import CFG, WEIGHTS
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.formats.common import PLAIN, Where, read_json, read_tensors, weights
from patchclamp.nouns.dictionary import OURS, StoredDictionary, kind
from patchclamp.nouns.units import Site

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
    cfg = read_json(path / CFG)
    tensors = read_tensors(path / WEIGHTS)
    if OURS in cfg:
        return _read_ours(cfg, tensors, where)
    architecture = cfg.get("architecture", "standard")
    if architecture not in _KINDS:
        raise PatchclampError(
            f"{path}: the architecture {architecture!r} is not read; {', '.join(_KINDS)} are"
        )
    about = {**cfg, **(cfg.get("metadata") or {})}
    transcoder = "transcoder" in architecture
    site = where.read_from(about.get("hook_name") or about.get("hook_point"))
    target = where.written_to(about.get("hook_name_out")) if transcoder else site
    activation, k = _activation(cfg, _KINDS[architecture], path)
    names = {
        name: name for name in (*PLAIN, "b_gate", "r_mag", "b_mag") if name in tensors or name in _ALWAYS
    }
    given = {"b_enc": None, **weights(tensors, path, names)}
    if cfg.get("finetuning_scaling_factor"):
        # The factor multiplies the codes on their way to the decoder only.
        factor = tensors[
            "finetuning_scaling_factor" if "finetuning_scaling_factor" in tensors else "scaling_factor"
        ]
        given["W_dec"] = given["W_dec"] * factor[:, None]
    found = SparseDictionary(
        site,
        **given,
        activation=activation,
        k=k,
        threshold=tensors.get("threshold") if activation == "jumprelu" else None,
        apply_b_dec_to_input=not transcoder and bool(cfg.get("apply_b_dec_to_input", True)),
        normalize=_normalisation(cfg, path),
        target=target,
        meta={"layout": "saelens", "architecture": architecture, "cfg": cfg},
    )
    return found.unit_directions() if cfg.get("rescale_acts_by_decoder_norm") else found


def _activation(cfg: dict[str, Any], activation: str, path: Path) -> tuple[str, int | None]:
    """(activation, k); older files say topk by the name of a function."""
    function = cfg.get("activation_fn_str") or cfg.get("activation_fn") or "relu"
    arguments = cfg.get("activation_fn_kwargs") or {}
    if activation == "topk":
        return "topk", int(cfg.get("k") or arguments["k"])
    if function == "topk" and activation == "relu":
        return "topk", int(arguments["k"])
    if function != "relu":
        raise PatchclampError(f"{path}: the activation function {function!r} is not read; relu and topk are")
    return activation, None


def _normalisation(cfg: dict[str, Any], path: Path) -> str:
    name = cfg.get("normalize_activations") or "none"
    if name in ("none", "expected_average_only_in"):
        return "none"
    if name in ("constant_norm_rescale", "layer_norm"):
        return str(name)
    raise PatchclampError(f"{path}: normalize_activations={name!r} is not known")


def _read_ours(cfg: dict[str, Any], tensors: dict[str, Tensor], where: Where) -> StoredDictionary:
    ours = cfg[OURS]
    site = where.read_from(None) if where.site is not None else Site(**ours["site"])
    target = where.written_to(None) if where.target is not None else Site(**ours["target"])
    if where.site is not None and where.target is None and ours["site"] == ours["target"]:
        target = site
    if ours["kind"] == SparseDictionary.kind:
        tensors = {"b_enc": tensors["W_enc"].new_zeros(tensors["W_enc"].shape[1]), **tensors}
        if "threshold" in tensors and ours["scalar_threshold"]:
            tensors["threshold"] = tensors["threshold"].flatten()[0]
        if "W_skip" in tensors:
            tensors["W_skip"] = tensors["W_skip"].T
    return kind(ours["kind"]).from_state(site, target, ours["meta"], tensors, ours["settings"])

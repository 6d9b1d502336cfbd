"""dictionary_learning's layout: ``ae.pt`` (a state dict of tensors) + ``config.json``.

Its arithmetic by class. Linear layers keep (features, units) and (units, features): both are turned here. JumpReLU
and gated codes are multiplied by the norm of their decoder row and divided by it again when decoding: folded here
into weights of unit rows, the same codes and the same output.
"""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.formats.common import Where, need, read_json, wide
from patchclamp.nouns.units import Site

WEIGHTS = "ae.pt"


def matches(path: Path) -> bool:
    """Whether it is, or a folder has, ``ae.pt``."""
    return (path / WEIGHTS).is_file() or path.name == WEIGHTS


def read(path: Path, where: Where) -> SparseDictionary:
    """Read a folder, or its ``ae.pt``."""
    folder = path.parent if path.name == WEIGHTS else path
    try:
        loaded = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise PatchclampError(
            f"{folder / WEIGHTS}: holds more than tensors, which is not loaded ({error})"
        ) from error
    tensors = {name: wide(t) for name, t in loaded.items() if isinstance(t, Tensor)}
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    trainer = config.get("trainer", config)
    site = where.read_from(_site(trainer))
    weights = _weights(tensors, trainer, folder, site)
    given = {**weights, "meta": {"layout": "dictionary_learning", "config": config}}
    scaled = given.pop("scaled")
    found = SparseDictionary(site, **given)
    return found.unit_directions() if scaled else found


def _weights(tensors: dict[str, Tensor], trainer: dict[str, Any], path: Path, site: Site) -> dict[str, Any]:
    """Arguments of `SparseDictionary`, and whether codes are scaled by the decoder's norms."""
    name = trainer.get("dict_class")
    if "gate_bias" in tensors:
        w_enc, r_mag, b_gate, b_mag, w_dec, b_dec = need(
            tensors,
            path,
            "encoder.weight",
            "r_mag",
            "gate_bias",
            "mag_bias",
            "decoder.weight",
            "decoder_bias",
        )
        gate = {"r_mag": r_mag, "b_gate": b_gate, "b_mag": b_mag}
        return _arguments(w_enc.T, None, w_dec.T, b_dec, "gated", scaled=True, **gate)
    if "W_enc" in tensors:
        w_enc, b_enc, w_dec, b_dec, threshold = need(
            tensors, path, "W_enc", "b_enc", "W_dec", "b_dec", "threshold"
        )
        if "group_sizes" in tensors or name == "MatryoshkaBatchTopKSAE":
            return _arguments(
                w_enc,
                b_enc,
                w_dec,
                b_dec,
                "batchtopk",
                threshold=threshold.flatten()[0],
                k=_k(tensors, trainer),
            )
        return _arguments(
            w_enc,
            b_enc,
            w_dec,
            b_dec,
            "jumprelu",
            scaled=True,
            threshold=threshold,
            apply_b_dec_to_input=bool(trainer.get("apply_b_dec_to_input", False)),
        )
    w_enc, b_enc, w_dec = need(tensors, path, "encoder.weight", "encoder.bias", "decoder.weight")
    if "bias" in tensors:
        return _arguments(w_enc.T, b_enc, w_dec.T, tensors["bias"], "relu")
    if "decoder.bias" in tensors:
        return _arguments(
            w_enc.T, b_enc, w_dec.T, tensors["decoder.bias"], "relu", apply_b_dec_to_input=False
        )
    (b_dec,) = need(tensors, path, "b_dec")
    if name == "AutoEncoderTopK":
        return _arguments(w_enc.T, b_enc, w_dec.T, b_dec, "topk", k=_k(tensors, trainer))
    if name == "BatchTopKSAE":
        threshold = need(tensors, path, "threshold")[0]
        return _arguments(
            w_enc.T,
            b_enc,
            w_dec.T,
            b_dec,
            "batchtopk",
            threshold=threshold.flatten()[0],
            k=_k(tensors, trainer),
        )
    raise PatchclampError(
        f"{path}: dict_class is {name!r} in config.json; TopK and BatchTopK have the same tensors, so that it must "
        "say AutoEncoderTopK or BatchTopKSAE"
    )


def _arguments(
    w_enc: Tensor,
    b_enc: Tensor | None,
    w_dec: Tensor,
    b_dec: Tensor,
    activation: str,
    scaled: bool = False,
    **more: Any,
) -> dict[str, Any]:
    return {
        "W_enc": w_enc,
        "b_enc": b_enc,
        "W_dec": w_dec,
        "b_dec": b_dec,
        "activation": activation,
        "scaled": scaled,
        **more,
    }


def _k(tensors: dict[str, Tensor], trainer: dict[str, Any]) -> int | None:
    found = tensors["k"] if "k" in tensors else trainer.get("k")
    return None if found is None else int(found)


def _site(trainer: dict[str, Any]) -> str | None:
    """``resid_post_layer_8`` is resid_post.8."""
    found = re.fullmatch(
        r"(resid_pre|resid_post|mlp_out|attn_out)_layer_(\d+)", str(trainer.get("submodule_name"))
    )
    return None if found is None else f"{found[1]}.{found[2]}"

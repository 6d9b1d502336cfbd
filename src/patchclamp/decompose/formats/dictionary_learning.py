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
from patchclamp.decompose.formats.common import PLAIN, Where, read_json, weights, wide

WEIGHTS = "ae.pt"
_LINEAR = {**PLAIN, "W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_TURNED = ("W_enc", "W_dec")


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
    given, scaled = _weights(tensors, trainer, folder)
    found = SparseDictionary(site, **given, meta={"layout": "dictionary_learning", "config": config})
    return found.unit_directions() if scaled else found


def _weights(tensors: dict[str, Tensor], trainer: dict[str, Any], path: Path) -> tuple[dict[str, Any], bool]:
    """Arguments of `SparseDictionary`, and whether codes are scaled by the decoder's norms."""
    name = trainer.get("dict_class")
    if "gate_bias" in tensors:
        gated = {
            **_LINEAR,
            "b_dec": "decoder_bias",
            "r_mag": "r_mag",
            "b_gate": "gate_bias",
            "b_mag": "mag_bias",
        }
        del gated["b_enc"]
        return {"b_enc": None, **weights(tensors, path, gated, _TURNED), "activation": "gated"}, True
    if "W_enc" in tensors:
        found = weights(tensors, path, {**PLAIN, "threshold": "threshold"})
        if "group_sizes" in tensors or name == "MatryoshkaBatchTopKSAE":
            return _batch_topk(found, tensors, trainer), False
        subtract = bool(trainer.get("apply_b_dec_to_input", False))
        return {**found, "activation": "jumprelu", "apply_b_dec_to_input": subtract}, True
    for bias, subtract in (("bias", True), ("decoder.bias", False)):
        if bias in tensors:
            found = weights(tensors, path, {**_LINEAR, "b_dec": bias}, _TURNED)
            return {**found, "activation": "relu", "apply_b_dec_to_input": subtract}, False
    if name == "BatchTopKSAE":
        found = weights(tensors, path, {**_LINEAR, "threshold": "threshold"}, _TURNED)
        return _batch_topk(found, tensors, trainer), False
    found = weights(tensors, path, _LINEAR, _TURNED)
    if name == "AutoEncoderTopK":
        return {**found, "activation": "topk", "k": _k(tensors, trainer)}, False
    raise PatchclampError(
        f"{path}: dict_class is {name!r} in config.json; TopK and BatchTopK have the same tensors, so that it must "
        "say AutoEncoderTopK or BatchTopKSAE"
    )


def _batch_topk(found: dict[str, Any], tensors: dict[str, Tensor], trainer: dict[str, Any]) -> dict[str, Any]:
    threshold = found["threshold"].flatten()[0]
    return {**found, "threshold": threshold, "activation": "batchtopk", "k": _k(tensors, trainer)}


def _k(tensors: dict[str, Tensor], trainer: dict[str, Any]) -> int | None:
    found = tensors["k"] if "k" in tensors else trainer.get("k")
    return None if found is None else int(found)


def _site(trainer: dict[str, Any]) -> str | None:
    """``resid_post_layer_8`` is resid_post.8."""
    found = re.fullmatch(
        r"(resid_pre|resid_post|mlp_out|attn_out)_layer_(\d+)", str(trainer.get("submodule_name"))
    )
    return None if found is None else f"{found[1]}.{found[2]}"

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
from patchclamp.base.fields import Fields
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.formats.common import PLAIN, Where, check_sizes, read_config, weights, wide

WEIGHTS = "ae.pt"
_LINEAR = {**PLAIN, "W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_TURNED = ("W_enc", "W_dec")


def matches(path: Path) -> bool:
    """Whether it is, or a folder has, ``ae.pt``."""
    return (path / WEIGHTS).is_file() or path.name == WEIGHTS


def read(path: Path, where: Where) -> SparseDictionary:
    """Read a folder, or its ``ae.pt``."""
    folder = path.parent if path.name == WEIGHTS else path
    tensors = {name: wide(tensor) for name, tensor in _state(folder / WEIGHTS).items()}
    file = folder / "config.json"
    config = read_config(file) if file.is_file() else Fields({}, file)
    trainer = config.part("trainer") if "trainer" in config.data else config
    site = where.read_from(_site(trainer))
    given, scaled = _weights(tensors, trainer, folder)
    found = SparseDictionary(site, **given, meta={"layout": "dictionary_learning", "config": config.data})
    check_sizes(trainer, found, ("activation_dim", "units"), ("dict_size", "features"))
    if where.site is None:
        trainer.agrees("layer", site.layer, "submodule_name names layer")
    return found.unit_directions() if scaled else found


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict; nothing else in it is built."""
    if not path.is_file():
        raise PatchclampError(f"{path}: no such file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise PatchclampError(f"{path}: holds more than tensors, which is not loaded ({error})") from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise PatchclampError(
            f"{path}: not a whole file of torch ({type(error).__name__}: {error}); fetch it again"
        ) from error
    if not isinstance(loaded, dict):
        raise PatchclampError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    return {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}


def _weights(tensors: dict[str, Tensor], trainer: Fields, path: Path) -> tuple[dict[str, Any], bool]:
    """Arguments of `SparseDictionary`, and whether codes are scaled by the decoder's norms."""
    name = trainer.text("dict_class")
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
        subtract = trainer.flag("apply_b_dec_to_input")
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


def _batch_topk(found: dict[str, Any], tensors: dict[str, Tensor], trainer: Fields) -> dict[str, Any]:
    threshold = found["threshold"].flatten()[:1].squeeze()
    return {**found, "threshold": threshold, "activation": "batchtopk", "k": _k(tensors, trainer)}


def _k(tensors: dict[str, Tensor], trainer: Fields) -> int | None:
    said = trainer.whole("k", low=1)
    if "k" not in tensors:
        return said
    if tensors["k"].numel() != 1 or tensors["k"].is_floating_point():
        raise PatchclampError(
            f"{trainer.source}: the tensor k is {tensors['k']}, and must be one whole number"
        )
    trainer.agrees("k", int(tensors["k"]), "the tensor k is")
    return int(tensors["k"])


def _site(trainer: Fields) -> str | None:
    """``resid_post_layer_8`` is resid_post.8."""
    found = re.fullmatch(
        r"(resid_pre|resid_post|mlp_out|attn_out)_layer_(\d+)", trainer.text("submodule_name") or ""
    )
    return None if found is None else f"{found[1]}.{found[2]}"

"""circuit-tracer's layout: ``layer_N.safetensors`` for each layer + one ``config.yaml``; transcoders of one layer.

Its arithmetic: p = x W_enc^T + b_enc, y = f W_dec + b_dec + x W_skip^T. The activation is ReLU, TopK where the config
says so, or p where p > threshold if the file has thresholds. Two corners differ from ours and are refused or stated:
a negative threshold (negative codes there) is refused; TopK there lets a negative p through where fewer than k are
positive, which ours sets to 0.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.fields import Fields
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.formats.common import Where, need, read_tensors, weights

CONFIG = "config.yaml"


def matches(path: Path) -> bool:
    """Whether it is a layer's file beside a config, or a folder with both."""
    folder = path if path.is_dir() else path.parent
    return (folder / CONFIG).is_file() and (path.is_dir() or path.suffix == ".safetensors")


def read(path: Path, where: Where) -> SparseDictionary:
    """Read one layer's file; of a folder with one layer, that one."""
    import yaml  # type: ignore[import-untyped]

    folder = path if path.is_dir() else path.parent
    try:
        found = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise PatchclampError(f"{folder / CONFIG}: not a YAML file ({error})") from error
    config = Fields({} if found is None else found, folder / CONFIG)
    made = config.text("model_kind", "transcoder_set")
    if made != "transcoder_set":
        raise PatchclampError(f"{folder}: model_kind {made!r} is not read; transcoder_set is")
    file = path if path.is_file() else _only(path)
    layer = re.search(r"(\d+)", file.stem)
    tensors = read_tensors(file)
    threshold = tensors.get("activation_function.threshold")
    activation, k = config.text("activation"), None
    if activation == "topk":
        k = config.whole("k", low=1) if "k" in config.data else _k(*need(tensors, file, "k"))
        threshold = None
    elif activation == "relu" or threshold is None:
        activation, threshold = "relu", None
    else:
        activation = "jumprelu"
        if bool((threshold < 0).any()):
            raise PatchclampError(
                f"{file}: {int((threshold < 0).sum())} thresholds are negative; that is not read"
            )
    return SparseDictionary(
        where.read_from(_hook(config.text("feature_input_hook"), layer)),
        **weights(tensors, file, turned=("W_enc",)),
        activation=activation,
        k=k,
        threshold=threshold,
        apply_b_dec_to_input=False,
        target=where.written_to(_hook(config.text("feature_output_hook"), layer)),
        meta={"layout": "circuit_tracer", "config": config.data},
    )


def _k(tensor: Tensor) -> int:
    if tensor.numel() != 1:
        raise PatchclampError(f"the tensor k has shape {tuple(tensor.shape)}, and must be one whole number")
    return int(tensor)


def _only(folder: Path) -> Path:
    files = sorted(folder.glob("layer_*.safetensors"))
    if len(files) != 1:
        raise PatchclampError(
            f"{folder}: has {len(files)} layers; name one, such as {folder / 'layer_0.safetensors'}"
        )
    return files[0]


def _hook(hook: str | None, layer: re.Match[str] | None) -> str | None:
    return None if hook is None or layer is None else f"blocks.{int(layer[1])}.{hook}"

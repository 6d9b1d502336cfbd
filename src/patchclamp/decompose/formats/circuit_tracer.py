"""circuit-tracer's layout: ``layer_N.safetensors`` for each layer + one ``config.yaml``; transcoders of one layer.

Its arithmetic: p = x W_enc^T + b_enc, y = f W_dec + b_dec + x W_skip^T. The activation is ReLU, TopK where the config
says so, or p where p > threshold if the file has thresholds. Two corners differ from ours and are refused or stated:
a negative threshold (negative codes there) is refused; TopK there lets a negative p through where fewer than k are
positive, which ours sets to 0.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from patchclamp.base.errors import PatchclampError
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
    config: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) or {}
    if config.get("model_kind", "transcoder_set") != "transcoder_set":
        raise PatchclampError(f"{folder}: model_kind {config['model_kind']!r} is not read; transcoder_set is")
    file = path if path.is_file() else _only(path)
    layer = re.search(r"(\d+)", file.stem)
    tensors = read_tensors(file)
    threshold = tensors.get("activation_function.threshold")
    activation, k = config.get("activation"), None
    if activation == "topk":
        k = int(config["k"] if "k" in config else need(tensors, file, "k")[0])
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
        where.read_from(_hook(config.get("feature_input_hook"), layer)),
        **weights(tensors, file, turned=("W_enc",)),
        activation=activation,
        k=k,
        threshold=threshold,
        apply_b_dec_to_input=False,
        target=where.written_to(_hook(config.get("feature_output_hook"), layer)),
        meta={"layout": "circuit_tracer", "config": config},
    )


def _only(folder: Path) -> Path:
    files = sorted(folder.glob("layer_*.safetensors"))
    if len(files) != 1:
        raise PatchclampError(
            f"{folder}: has {len(files)} layers; name one, such as {folder / 'layer_0.safetensors'}"
        )
    return files[0]


def _hook(hook: str | None, layer: re.Match[str] | None) -> str | None:
    return None if hook is None or layer is None else f"blocks.{int(layer[1])}.{hook}"

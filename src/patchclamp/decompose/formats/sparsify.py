"""sparsify's layout: ``cfg.json`` + ``sae.safetensors``, TopK autoencoders and (skip) transcoders.

Its arithmetic: p = (x - b_dec) W^T + b, without b_dec for a transcoder; the k largest of max(p, 0); the skip path
takes x as it is: x W_skip^T.
"""

from __future__ import annotations

import re
from pathlib import Path

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.formats.common import PLAIN, Where, check_sizes, read_config, read_tensors, weights

WEIGHTS = "sae.safetensors"
_OTHER = ("embed_skip", "gram_lookup", "signed")


def matches(path: Path) -> bool:
    """Whether a folder has the two files."""
    return (path / "cfg.json").is_file() and (path / WEIGHTS).is_file()


def read(path: Path, where: Where) -> SparseDictionary:
    """Read the folder of one hook point."""
    cfg = read_config(path / "cfg.json")
    for key in _OTHER:
        if cfg.data.get(key):
            raise PatchclampError(f"{path}: {key} is on, whose arithmetic is not read")
    activation = cfg.text("activation", "topk")
    if activation != "topk":
        raise PatchclampError(f"{path}: the activation {activation!r} is not read; topk is")
    tensors = read_tensors(path / WEIGHTS)
    names = {**PLAIN, "W_enc": "encoder.weight", "b_enc": "encoder.bias"}
    transcoder = cfg.flag("transcode")
    # The folder is named by the module, whose output an autoencoder reads; a transcoder reads its input.
    site = where.read_from(None if transcoder else _site(path.name))
    found = SparseDictionary(
        site,
        **weights(tensors, path, names, ("W_enc",)),
        activation="topk",
        k=cfg.whole("k", 32, low=1),
        apply_b_dec_to_input=not transcoder,
        target=where.written_to(_site(path.name)) if transcoder else site,
        meta={"layout": "sparsify", "cfg": cfg.data},
    )
    check_sizes(
        cfg,
        found,
        ("d_in", "units"),
        *([("num_latents", "features")] if cfg.data.get("num_latents") != 0 else []),
    )
    return found


def _site(folder: str) -> str | None:
    found = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)(\.mlp)?", folder)
    return None if found is None else f"{'mlp_out' if found[2] else 'resid_post'}.{found[1]}"

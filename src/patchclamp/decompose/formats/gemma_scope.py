"""GemmaScope's layout: ``params.npz`` with W_enc, W_dec, b_enc, b_dec and threshold of a JumpReLU autoencoder.

Its arithmetic: p = x W_enc + b_enc (b_dec is not subtracted), f = max(p, 0) where p > threshold, x^ = f W_dec + b_dec.
"""

from __future__ import annotations

from pathlib import Path

from patchclamp.base.arrays import as_tensor
from patchclamp.base.tables import read_arrays
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.formats.common import PLAIN, Where, weights, wide

WEIGHTS = "params.npz"


def matches(path: Path) -> bool:
    """Whether it is an ``.npz``, or a folder with ``params.npz``."""
    return path.suffix == ".npz" or (path / WEIGHTS).is_file()


def read(path: Path, where: Where) -> SparseDictionary:
    """Read a file. It never names its site: give ``site=``, and for a transcoder ``target=`` too."""
    path = path if path.suffix == ".npz" else path / WEIGHTS
    tensors = {name: wide(as_tensor(array, f"{path}: {name}")) for name, array in read_arrays(path).items()}
    site = where.read_from(None)
    return SparseDictionary(
        site,
        **weights(tensors, path, {**PLAIN, "threshold": "threshold"}),
        activation="jumprelu",
        apply_b_dec_to_input=False,
        target=site if where.target is None else where.written_to(None),
        meta={"layout": "gemma_scope"},
    )

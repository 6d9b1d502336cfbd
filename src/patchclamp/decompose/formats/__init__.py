"""Dictionaries on disk: the layouts of SAELens, dictionary_learning, sparsify, circuit-tracer and GemmaScope.

Read with each origin's own arithmetic (tests re-implement it); written as SAELens does. Nothing is unpickled but
tensors (``torch.load(weights_only=True)``), and nothing is ever pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.formats import circuit_tracer, dictionary_learning, gemma_scope, saelens, sparsify
from patchclamp.decompose.formats.common import Where
from patchclamp.nouns.dictionary import StoredDictionary
from patchclamp.nouns.units import Site

_READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, Where], StoredDictionary]]] = {
    "saelens": (saelens.matches, saelens.read),
    "sparsify": (sparsify.matches, sparsify.read),
    "dictionary_learning": (dictionary_learning.matches, dictionary_learning.read),
    "gemma_scope": (gemma_scope.matches, gemma_scope.read),
    "circuit_tracer": (circuit_tracer.matches, circuit_tracer.read),
}
LAYOUTS = tuple(_READERS)


def load_dictionary(
    path: str | Path,
    site: Site | str | None = None,
    target: Site | str | None = None,
    layout: str | None = None,
) -> StoredDictionary:
    """Read a dictionary from a local file or folder, in any known layout.

    ================== ===========================================================
    layout             recognised by
    ================== ===========================================================
    saelens            ``cfg.json`` and ``sae_weights.safetensors`` (also our own)
    sparsify           ``cfg.json`` and ``sae.safetensors``
    dictionary_learning ``ae.pt`` and ``config.json``
    gemma_scope        ``params.npz``, or any ``.npz``
    circuit_tracer     ``layer_N.safetensors`` beside ``config.yaml``
    ================== ===========================================================

    Parameters
    ----------
    path
        Folder, or the weights file itself.
    site
        What the dictionary reads. Needed where the files do not say it, or say it in words that do not translate
        exactly; it overrides the files.
    target
        What a transcoder writes, likewise.
    layout
        One of the table, where the files are not to be guessed at.

    Raises
    ------
    PatchclampError
        For a path without a dictionary, an architecture whose arithmetic is not ours, or a site that is not known.
    """
    path = Path(path)
    if layout is not None and layout not in _READERS:
        raise PatchclampError(f"layout={layout!r}: one of {', '.join(LAYOUTS)}")
    if not path.exists():
        raise PatchclampError(f"{path}: no such file or folder")
    names = LAYOUTS if layout is None else (layout,)
    for name in names:
        matches, read = _READERS[name]
        if layout is not None or matches(path):
            return read(path, Where(path, site, target))
    raise PatchclampError(
        f"{path}: holds no dictionary in the layout of {', '.join(LAYOUTS)}; for a folder of many, name one of them"
    )


__all__ = ["LAYOUTS", "load_dictionary"]

"""Embedding: do windows on which the unit is active lie nearer to the description than the others?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from patchclamp.base.areas import roc_auc
from patchclamp.base.errors import PatchclampError
from patchclamp.describe.description import Description
from patchclamp.describe.scoring.base import Array, DescriptionScore, check_examples, scored
from patchclamp.describe.tokens import Embed
from patchclamp.describe.windows import Examples

__all__ = ["embedding"]


def embedding(
    description: Description,
    examples: Examples,
    embed: Embed,
    *,
    query: str = "",
    others: Sequence[Description] = (),
    n_boot: int = 1000,
    seed: int = 0,
) -> DescriptionScore:
    """Area under the ROC curve of the cosine between the embedded description and the embedded windows.

    Parameters
    ----------
    description, examples, others, n_boot, seed
        As in `detection`.
    embed
        Texts -> (texts, d).
    query
        Put before the description, for embeddings that are trained with an instruction.
    """
    windows = examples.all
    check_examples(description, windows, "embedding")
    positive = np.arange(len(windows)) < len(examples.active)
    texts = _vectors(embed, [w.text for w in windows])
    said = _vectors(embed, [query + d.text for d in (description, *others)])
    cosines = texts @ said.T
    return scored(
        "embedding",
        description,
        getattr(embed, "__name__", "embedding"),
        cosines[:, 0],
        lambda a, w: float(roc_auc(a, positive, w)),
        [w.group for w in windows],
        others=list(cosines[:, 1:].T),
        n_boot=n_boot,
        seed=seed,
        facts={"query": query},
    )


def _vectors(embed: Embed, texts: Sequence[str]) -> Array:
    vectors = np.asarray(embed(list(texts)), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise PatchclampError(f"embed: gave shape {vectors.shape} for {len(texts)} texts; wanted (texts, d)")
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))

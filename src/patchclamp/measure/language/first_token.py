"""Cosine of every token's vector with that of its document's first token: sinks in mid-sentence show as 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Recording
    from patchclamp.nouns.units import Site


def first_token_cosine(recording: Recording, site: Site | str) -> pd.DataFrame:
    """How alike each token's vector is to that of the first token of its document, where the attention sink sits.

    cos(h_t, h_0) of the same document. A token that becomes a sink of its own (a delimiter, often the second or third
    word) takes on the first token's few huge values, so that its cosine is 1.00, while others stay near 0 (up to .3 to .5
    where a stream has a mean). Early layers come before sinks are made and late ones after they are taken away: look
    at several.

    Parameters
    ----------
    recording
        One that holds the first tokens: ``record(..., content_only=False)``.
    site
        A site of vectors, such as ``resid_post.5``.

    Returns
    -------
    DataFrame
        One row a sample, in the recording's order: doc, position, token, cosine, norm (of the vector). The first tokens are in
        it, with 1.

    Raises
    ------
    PatchclampError
        For a document whose first token was not recorded, and for sites whose units are no numbers (heads).

    References
    ----------
    Sun, Chen, Kolter, Liu (2024), Massive activations in large language models; Cappellazzo et al. (2025), who find sinks
    beyond the first token by this cosine.

    Examples
    --------
    >>> from patchclamp import open_subject, record                             # doctest: +SKIP
    >>> whole = record(open_subject("smollm2"), "sample", "resid_post.5", content_only=False)   # doctest: +SKIP
    >>> found = first_token_cosine(whole, "resid_post.5")                       # doctest: +SKIP
    >>> found[(found.position > 0) & (found.cosine > 0.9)]                      # doctest: +SKIP
    """
    parts: list[pd.DataFrame] = []
    first: dict[int, Tensor] = {}
    where = recording.site(site)
    for samples, arrays in recording.select([where]).chunks():
        rows = arrays[where].double()
        if rows.ndim != 2:
            raise PatchclampError(f"{site}: samples of shape {tuple(rows.shape[1:])}; give a site of vectors")
        begins = (samples.position == 0).nonzero()[:, 0].tolist()
        first |= {int(samples.doc[i]): rows[i] for i in begins}
        docs = [int(doc) for doc in samples.doc]
        lost = next((doc for doc in docs if doc not in first), None)
        if lost is not None:
            raise PatchclampError(
                f"{site}: the first token of document {lost} was not recorded (position 0 is left out unless asked for); "
                "record with content_only=False (--keep-sinks)"
            )
        norm = rows.norm(dim=1)
        beside = torch.stack([first[doc] for doc in docs])
        cosine = (rows * beside).sum(1) / (norm * beside.norm(dim=1)).clamp_min(1e-300)
        columns = {"doc": docs, "position": samples.position, "token": samples.token}
        parts.append(pd.DataFrame({**columns, "cosine": cosine, "norm": norm}))
        first = {docs[-1]: first[docs[-1]]}  # only the last document can go on in the next chunk
    return pd.concat(parts, ignore_index=True)


__all__ = ["first_token_cosine"]

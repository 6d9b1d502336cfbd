"""The functional connectome of a model's heads over text: the same call, documents in the place of animals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.groups.connectome import DynamicConnectome
from patchclamp.connect.groups.functional_connectome import dynamic_connectome
from patchclamp.nouns.recording.matrix import matrix
from patchclamp.nouns.recording.recording import Recording

Array = NDArray[np.float64]


def head_traces(recording: Recording, length: int | None = None) -> tuple[Array, list[str], list[int]]:
    """Log norms of heads over the first `length` content tokens of every document that has as many.

    Parameters
    ----------
    recording
        One or more sites of heads over texts: (samples, heads, parts), of which the norm is taken, or (samples, heads)
        norms.
    length
        Tokens; None: what half of the documents have.

    Returns
    -------
    traces, names, documents
        (document, token, head), addresses of heads, which documents.

    Raises
    ------
    PatchclampError
        If fewer than two documents are long enough.
    """
    units = [matrix(recording, site) for site in recording.sites]
    names = [name for part in units for name in part.units["unit"]]
    values = np.concatenate([part.numpy() for part in units], 1)
    doc = recording.samples.doc.numpy()[units[0].places]
    found, counts = np.unique(doc, return_counts=True)
    wanted = int(np.median(counts)) if length is None else length
    long = [int(one) for one, count in zip(found, counts, strict=True) if count >= wanted]
    if len(long) < 2 or wanted < 4:
        raise PatchclampError(
            f"length={wanted}: {len(long)} of {len(found)} documents have as many tokens; at least 2, of 4 tokens"
        )
    if (values < 0).any():
        raise PatchclampError(
            f"{recording.sites[0]}: norms are not negative; record heads with their parts, or norms"
        )
    floor = max(values[values > 0].min() / 2, 1e-12) if (values > 0).any() else 1e-12
    traces = np.stack([np.log(np.maximum(values[doc == one][:wanted], floor)) for one in long])
    return traces, names, long


def head_connectome(recording: Recording, length: int | None = None, **options: Any) -> DynamicConnectome:
    """Which heads change together from token to token, where in a text, and in which documents?

    Parameters
    ----------
    recording, length
        As in `head_traces`.
    options
        Of `dynamic_connectome`; by default tokens are not smoothed (smooth_trace=0, smooth_affinity=0).

    Returns
    -------
    DynamicConnectome
        Documents in the place of animals, tokens in the place of time, addresses of heads as nodes.

    Notes
    -----
    ``null="neuron_shift"`` asks whether heads move together at all: they do, since all read the same stream.
    ``null="animal_shift"`` asks whether they do so at the same *position* of different texts.
    """
    traces, names, documents = head_traces(recording, length)
    settings = {"smooth_trace": 0.0, "smooth_affinity": 0.0, **options}
    return dynamic_connectome(
        traces, names=names, animals=[f"document {one}" for one in documents], **settings
    )

"""Decode directions of the residual stream through the LM head: which tokens does writing along this promote?

With the direction v (d_model,), the unembedding's rows w_t, the final norm's gain g and a mean over the kept tokens,

    e_t = g * w_t - mean_s(g * w_s)         (a constant added to all logits changes nothing, so it is removed)
    logit_t = e_t . v / |v|                  per unit length of v, before the norm's scale
    z_t = sqrt(d_model) * e_t . v / (|e_t| |v|)

For a direction drawn evenly from the sphere z_t has mean 0 and variance 1 exactly, whatever the row's norm, so z
ranks tokens across units where raw logits would rank the long rows. As the best of |V| tokens is large for *any*
direction, `p` compares z with the distribution of the largest |z| over the vocabulary of random directions.

**The norm.** Only the gain of the final norm is applied (and, for LayerNorm, the mean over the stream taken out);
its scale depends on the whole stream and is a common factor that leaves z unchanged. Norms inside later blocks and
everything later layers do with the direction are ignored: this is the *direct* path to the logits.

**Not evidence for** what makes the unit active, nor for its causal effect: a direction in an early layer is mostly
read by later layers, not by the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.describe.search.extremes import Best, VocabularyRows, extremes
from patchclamp.nouns.units import Units, UnitsLike
from patchclamp.subjects.clamp.features import output_rows
from patchclamp.subjects.language import LanguageModel

__all__ = ["decode_directions", "decode_in", "lm_head", "output_directions"]

STREAM_POINTS = frozenset(
    [
        "embeddings",
        "resid_pre",
        "resid_mid",
        "resid_post",
        "attn_out_post",
        "mlp_out_post",
    ]
)


def lm_head(
    subject: LanguageModel,
    units: UnitsLike,
    *,
    names: Sequence[str] | None = None,
    top: int = 8,
    norm: str = "gain",
    n_null: int = 200,
    seed: int = 0,
    min_norm: float = 0.5,
    chunk: int | None = None,
) -> pd.DataFrame:
    """Decode what units write into the stream, or any directions of it, in one call.

    Neurons and entries of z are decoded by their output weights, features by what their dictionary writes, stream units by their axis;
    a probe, a difference of means or any other vector as it is.

    Parameters
    ----------
    subject
        A language model.
    units
        Anything that `Units.parse` reads, on `mlp_act`, on `z`, on a site that lives in the stream, or features over one of
        these (``"mlp_act.*"``: all neurons); or a tensor of directions, (d_model,) or (n, d_model). Whole heads write no
        fixed direction; hand in their average contribution.
    names
        Of the directions, where a tensor is given.
    top, norm, n_null, seed, min_norm, chunk
        As in `decode_directions`.

    Returns
    -------
    DataFrame
        As from `decode_directions`, with the units' addresses in column `unit`.

    Raises
    ------
    PatchclampError
        For units without an output direction, and directions of another width.

    Examples
    --------
    >>> import patchclamp as pc                                     # doctest: +SKIP
    >>> lm_head(pc.open_subject("smollm2"), "mlp_act.28[7]", top=3)  # doctest: +SKIP
    """
    options: dict[str, Any] = {"top": top, "norm": norm, "n_null": n_null, "seed": seed, "min_norm": min_norm}
    if isinstance(units, Tensor):
        rows = units.detach().float().reshape(-1, units.shape[-1])
        if rows.shape[1] != subject.d_model:
            raise PatchclampError(
                f"directions of {rows.shape[1]} entries: the stream of {subject.name} has {subject.d_model}"
            )
        named = [f"direction[{i}]" for i in range(len(rows))] if names is None else list(names)
        return decode_in(subject, rows, named, chunk=chunk, **options)
    if isinstance(units, str) and "*" in units:
        units = Units(dict.fromkeys(subject.resolve(units)))
    selection = subject.units(units)
    addresses: list[str] = []
    parts: list[Tensor] = []
    for site, indices in selection.items():
        matrix = output_directions(subject, site).detach()
        chosen = range(matrix.shape[0]) if indices is None else indices
        parts.append(matrix[list(chosen)].float())
        addresses.extend(f"{site}[{i}]" for i in chosen)
    return decode_in(subject, torch.cat(parts), addresses, chunk=chunk, **options)


def decode_in(
    subject: LanguageModel, directions: Float[Tensor, "n d_model"], names: Sequence[str], **options: Any
) -> pd.DataFrame:
    """Decode directions of a subject's stream with its own unembedding, final norm and tokenizer.

    Parameters
    ----------
    subject
        A language model.
    directions, names
        (n, d_model) and their names.
    **options
        Of `decode_directions`.
    """
    weights, gain = subject.unembed()
    final = subject.model.get_submodule(subject.row.fixed["final_norm"].module)
    if isinstance(final, nn.LayerNorm):
        directions = directions - directions.mean(1, keepdim=True)
    return decode_directions(
        directions.to(weights.device), weights, gain, names=names, tokens=subject.tokenizer, **options
    )


def output_directions(subject: LanguageModel, site: Any) -> Float[Tensor, "units d_model"]:
    """Return what each unit of a site writes into the stream: output weights of neurons and of entries of z, axes of
    stream sites, and what features write there (those of an attention autoencoder through the output projection).

    Raises
    ------
    PatchclampError
        For sites whose units write no fixed direction.
    """
    if site.dictionary is not None:
        written = subject.dictionary(site).target
        if written.point in STREAM_POINTS | {"mlp_act", "z", "mlp_out", "attn_out"}:
            return output_rows(subject, site)
        raise PatchclampError(f"{site}: its dictionary writes to {written}, which does not add to the stream")
    if site.point == "mlp_act":
        return subject.output_matrix(site)
    if site.point == "z":
        return subject.head_output_matrix(site.layer or 0).flatten(0, 1)
    if site.point in STREAM_POINTS:
        return torch.eye(subject.d_model)
    raise PatchclampError(
        f"{site}: its units write no fixed direction into the stream; decode their average contribution with "
        "decode_directions, or name units of mlp_act, of z or of the stream"
    )


def decode_directions(
    directions: Float[Tensor, "n d_model"],
    unembedding: Float[Tensor, "vocab d_model"],
    gain: Float[Tensor, " d_model"] | None,
    *,
    names: Sequence[str] | None = None,
    tokens: Any = None,
    top: int = 8,
    n_null: int = 200,
    seed: int = 0,
    min_norm: float = 0.5,
    chunk: int | None = None,
    norm: str = "gain",
) -> pd.DataFrame:
    """Return the tokens that each direction promotes and suppresses most, with z-scores against random directions.

    Parameters
    ----------
    directions
        (n, d_model); their length plays no part.
    unembedding, gain
        Of the LM head, (vocabulary, d_model), and of the final norm, (d_model,) or None.
    names
        One a direction; default ``direction[i]``.
    tokens
        A tokenizer (`convert_ids_to_tokens` / `decode`) for the column `token`; default: the ids as text.
    top
        Tokens each way.
    n_null, seed
        Number of random directions behind `p`, which cannot fall below 1 / (n_null + 1).
    min_norm
        Rows shorter than this fraction of the median are left out: never-trained tokens would fill the lists.
    chunk
        Rows of the vocabulary held at a time, default: as many as fit into 256 MB. The result does not depend on it.
    norm
        ``"gain"`` or ``"ignore"``: whether `gain` is applied.

    Returns
    -------
    DataFrame
        Columns unit, way ("promotes" or "suppresses"), rank, token, token_id, logit, z, p; sorted by unit, way, rank.

    Raises
    ------
    PatchclampError
        For a direction of length zero or with values that are not finite, and unknown `norm`.

    Examples
    --------
    >>> weights = torch.eye(6)
    >>> table = decode_directions(weights[2:3], weights, None, top=1)
    >>> int(table.token_id[0]), table.way[0]
    (2, 'promotes')
    """
    if norm not in ("gain", "ignore"):
        raise PatchclampError(f'norm={norm!r}: give "gain" (apply the final norm\'s gain) or "ignore"')
    names = list(names) if names is not None else [f"direction[{i}]" for i in range(len(directions))]
    lengths = directions.double().norm(dim=1)
    for name, length in zip(names, lengths.tolist(), strict=True):
        if not (math.isfinite(length) and length > 0):
            raise PatchclampError(f"{name}: its direction has length {length}, so there is nothing to decode")
    unit = directions.float() / lengths[:, None].float()
    rows = VocabularyRows(unembedding, gain if norm == "gain" else None, min_norm, chunk)
    best = extremes(unit, rows, min(top, rows.kept))
    null = np.sort(_null_of_max(unit.shape[1], rows, n_null, seed).numpy())
    return _table(names, best, null, tokens)


def _table(names: list[str], best: dict[str, Best], null: NDArray[np.float32], tokens: Any) -> pd.DataFrame:
    """One row a unit, way and rank."""
    parts, order = [], np.arange(len(names))
    for way, found in best.items():
        z, ids = found.z.cpu().numpy(), found.ids.cpu().numpy()
        k = z.shape[1]
        reached = len(null) - np.searchsorted(null, np.abs(z), side="left")
        columns = {
            "_order": np.repeat(order, k),
            "unit": np.repeat(np.asarray(names, dtype=object), k),
            "way": way,
            "rank": np.tile(np.arange(1, k + 1), len(names)),
            "token_id": ids.ravel(),
            "logit": found.logit.double().cpu().numpy().ravel(),
            "z": z.ravel().astype(np.float64),
            "p": ((1 + reached) / (len(null) + 1)).ravel(),
        }
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts).sort_values(["_order", "way", "rank"])
    text = {int(t): _text(tokens, int(t)) for t in table["token_id"].unique()}
    table["token"] = table["token_id"].map(text)
    names_in_order = ["unit", "way", "rank", "token", "token_id", "logit", "z", "p"]
    return table[names_in_order].reset_index(drop=True)


def _null_of_max(d_model: int, rows: VocabularyRows, n_null: int, seed: int) -> Float[Tensor, " null"]:
    """Return the largest |z| over the vocabulary for each of `n_null` directions drawn evenly from the sphere."""
    # A stream of its own: weights drawn with the same small seed would otherwise be the "random" directions.
    generator = torch_rng(0x1A7E_0000 + check_seed(seed))
    random = torch.randn(n_null, d_model, generator=generator)
    random = random / random.norm(dim=1, keepdim=True)
    top = torch.zeros(n_null)
    for block in rows.blocks():
        top = torch.maximum(top, (random.to(block.rows.device) @ block.rows.T).abs().amax(1).cpu())
    return top


def _text(tokens: Any, token: int) -> str:
    if tokens is None:
        return str(token)
    text = str(tokens.decode([token]))
    # A part of a character decodes to the replacement character; its name in the vocabulary says more.
    return str(tokens.convert_ids_to_tokens(token)) if "\N{REPLACEMENT CHARACTER}" in text else text

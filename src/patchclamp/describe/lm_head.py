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
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchclamp.errors import PatchclampError

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
    subject: Any,
    units: Any,
    *,
    top: int = 8,
    norm: str = "gain",
    n_null: int = 200,
    seed: int = 0,
    min_norm: float = 0.5,
    chunk: int = 8192,
) -> pd.DataFrame:
    """Decode what units write into the stream: neurons by their output weights, stream units by their axis.

    Parameters
    ----------
    subject
        A language model.
    units
        Anything that `Units.parse` reads, on `mlp_act` or on a site that lives in the stream. Heads write no fixed
        direction; hand their average contribution to `decode_directions`.
    top, norm, n_null, seed, min_norm, chunk
        As in `decode_directions`.

    Returns
    -------
    DataFrame
        As from `decode_directions`, with the units' addresses in column `unit`.

    Raises
    ------
    PatchclampError
        For units without an output direction.

    Examples
    --------
    >>> import patchclamp as pc                                     # doctest: +SKIP
    >>> lm_head(pc.open_subject("smollm2"), "mlp_act.28[7]", top=3)  # doctest: +SKIP
    """
    selection = subject.units(units)
    names: list[str] = []
    rows: list[Tensor] = []
    for site, indices in selection.items():
        matrix = output_directions(subject, site)
        chosen = range(matrix.shape[0]) if indices is None else indices
        rows.append(matrix[list(chosen)])
        names.extend(f"{site}[{i}]" for i in chosen)
    return decode_in(
        subject,
        torch.cat(rows),
        names,
        top=top,
        norm=norm,
        n_null=n_null,
        seed=seed,
        min_norm=min_norm,
        chunk=chunk,
    )


def decode_in(
    subject: Any, directions: Float[Tensor, "n d_model"], names: Sequence[str], **options: Any
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


def output_directions(subject: Any, site: Any) -> Float[Tensor, "units d_model"]:
    """Return what each unit of a site writes into the stream: output weights of neurons, axes of stream sites.

    Raises
    ------
    PatchclampError
        For sites whose units write no fixed direction.
    """
    if site.point == "mlp_act":
        return subject.output_matrix(site)
    if site.point in STREAM_POINTS:
        return torch.eye(subject.d_model)
    raise PatchclampError(
        f"{site}: its units write no fixed direction into the stream; decode their average contribution with "
        "decode_directions, or name units of mlp_act or of the stream"
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
    chunk: int = 8192,
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
        Rows of the vocabulary held at a time; the result does not depend on it.
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
    rows = _Rows(unembedding, gain if norm == "gain" else None, min_norm, chunk)
    best = _extremes(unit, rows, min(top, rows.kept))
    null = _null_of_max(unit.shape[1], rows, n_null, seed)
    records = []
    for way, (z, logit, ids) in best.items():
        for i, name in enumerate(names):
            for rank in range(z.shape[1]):
                size = float(z[i, rank].abs())
                p = (1 + int((null >= size).sum())) / (len(null) + 1)
                token = int(ids[i, rank])
                signed = (float(logit[i, rank]), float(z[i, rank]))
                records.append((i, name, way, rank + 1, _text(tokens, token), token, *signed, p))
    columns = ["_order", "unit", "way", "rank", "token", "token_id", "logit", "z", "p"]
    table = pd.DataFrame(records, columns=columns).sort_values(["_order", "way", "rank"])
    return table.drop(columns="_order").reset_index(drop=True)


class _Rows:
    """The rows e_t, a chunk at a time: gain applied, short ones dropped, centred over those kept."""

    def __init__(self, weights: Tensor, gain: Tensor | None, min_norm: float, chunk: int) -> None:
        self._weights, self._gain, self._chunk = weights, gain, chunk
        norms = torch.cat([block.norm(dim=1) for _, block in self._raw()])
        self._keep = norms >= min_norm * norms.median()
        self.kept = int(self._keep.sum())
        total = torch.zeros(weights.shape[1], dtype=torch.float64, device=weights.device)
        for start, block in self._raw():
            total += block[self._keep[start : start + len(block)]].double().sum(0)
        self._mean = (total / max(self.kept, 1)).float()

    def _raw(self) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(self._weights), self._chunk):
            block = self._weights[start : start + self._chunk].detach().float()
            yield start, block if self._gain is None else block * self._gain.float()

    def blocks(self) -> Iterator[tuple[Int[Tensor, " rows"], Float[Tensor, "rows d_model"]]]:
        """Yield (token ids, centred rows) of the tokens kept."""
        for start, block in self._raw():
            keep = self._keep[start : start + len(block)]
            yield keep.nonzero()[:, 0] + start, block[keep] - self._mean


def _scores(unit: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and z of unit directions against a block of rows, both (n, rows)."""
    logits = unit @ block.T
    return logits, logits * math.sqrt(unit.shape[1]) / block.norm(dim=1).clamp_min(1e-12)


def _extremes(unit: Tensor, rows: _Rows, top: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return for each way (z, logit, token id), each (n, top), merged chunk by chunk; ties go to the smaller id."""
    best: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for ids, block in rows.blocks():
        logits, z = _scores(unit, block)
        for way, sign in (("promotes", 1.0), ("suppresses", -1.0)):
            found = (z, logits, ids.expand(len(unit), -1))
            if way in best:
                found = tuple(torch.cat(pair, 1) for pair in zip(best[way], found, strict=True))  # type: ignore[assignment]
            order = (sign * found[0]).argsort(dim=1, descending=True, stable=True)[:, :top]
            best[way] = tuple(part.gather(1, order) for part in found)  # type: ignore[assignment]
    return best


def _null_of_max(d_model: int, rows: _Rows, n_null: int, seed: int) -> Float[Tensor, " null"]:
    """Return the largest |z| over the vocabulary for each of `n_null` directions drawn evenly from the sphere."""
    # A stream of its own: weights drawn with the same small seed would otherwise be the "random" directions.
    generator = torch.Generator().manual_seed(0x1A7E_0000 + seed)
    random = torch.randn(n_null, d_model, generator=generator)
    random = random / random.norm(dim=1, keepdim=True)
    top = torch.zeros(n_null)
    for _, block in rows.blocks():
        top = torch.maximum(top, _scores(random.to(block.device), block)[1].abs().amax(1).cpu())
    return top


def _text(tokens: Any, token: int) -> str:
    if tokens is None:
        return str(token)
    text = str(tokens.decode([token]))
    # A part of a character decodes to the replacement character; its name in the vocabulary says more.
    return str(tokens.convert_ids_to_tokens(token)) if "\N{REPLACEMENT CHARACTER}" in text else text

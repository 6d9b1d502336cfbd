"""Autoencoders on attention's head outputs: which head, and which token looked at, makes a feature active.

z = [z_1 .. z_H], the head outputs before the output projection (site ``z.L``), z_h(t) = sum_s A_h(t, s) v_h(s). With
p_i = (z - b_dec) W_enc,i + b_enc,i the pre-activation of feature i and W_enc,i,h its encoder's part on head h::

    p_i = sum_h z_h . W_enc,i,h + constant_i,    z_h(t) . W_enc,i,h = sum_s A_h(t, s) v_h(s) . W_enc,i,h

Both are identities (to rounding) in p, not in the activity f: where f is 0, or a pattern A would change with the
input, they say what was written, not what would happen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.decompose.base import activity
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary
from patchclamp.decompose.sae.architectures import Composed
from patchclamp.decompose.sae.training import Sides, train
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.units import Site


@dataclass(frozen=True, init=False)
class AttentionSAE(Composed):
    """Sparse autoencoder on the head outputs of a layer (Kissane et al. 2024).

    Parameters
    ----------
    n_features
        Features; four times the units where None.
    heads
        Number of heads; may be left out for recordings of ``head.L``, which say it.
    architecture
        Name in `patchclamp.decompose.sae.ARCHITECTURES`, but for matching_pursuit, which has no encoder to attribute.
    settings
        Of the architecture.

    Examples
    --------
    >>> z = torch.relu(torch.randn(400, 2, 3, generator=torch.Generator().manual_seed(0)))
    >>> made = AttentionSAE(8, k=2, steps=50, batch_size=100).fit(z, "z.0")
    >>> made.meta["heads"], head_shares(made).shape
    (2, torch.Size([8, 2]))
    """

    heads: int | None

    name: ClassVar[str] = "attention_sae"
    unfit: ClassVar[str] = "has no encoder to attribute to heads"

    def __init__(
        self,
        n_features: int | None = None,
        heads: int | None = None,
        architecture: str = "topk",
        **settings: Any,
    ) -> None:
        super().__init__(n_features, architecture, settings, heads=heads)

    def fit(
        self,
        source: Recording | Tensor,
        site: Site | str | None = None,
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> Dictionary:
        """Train on head outputs: ``z.L`` (samples, units), or ``head.L`` (samples, heads, d_head).

        Parameters
        ----------
        source, site, progress, resume, reading
            As in `SparseAutoencoder.fit`. The dictionary is over ``z.L`` either way.

        Raises
        ------
        PatchclampError
            As `SparseAutoencoder.fit`; where the number of heads is unknown or does not divide the units.
        """
        auto = self.trainee()
        rows = activity(source, site, **reading)
        name, heads = rows.site, self.heads or rows.n_heads
        if heads is None or rows.width % heads or rows.n_heads not in (None, heads):
            raise PatchclampError(
                f"attention_sae over {name}: heads={heads} for activity of {tuple(rows.values.shape[1:])}; "
                "give heads=, the model's number of query heads"
            )
        flat = Site("z", name.layer) if name.point == "head" else name
        trained = train(auto, Sides([rows], [name]), progress, resume)
        factor = trained.factors[0]
        weights = auto.weights(trained.params, trained.geometry, (factor, factor))
        return auto.build(flat, flat, weights, {**trained.meta, "method": self.name, "heads": heads})


def head_shares(dictionary: SparseDictionary, heads: int | None = None) -> Float[Tensor, "feature head"]:
    """|W_dec,i,h| / sum_h |W_dec,i,h|: the part of a feature's decoder that lies on each head.

    Examples
    --------
    >>> one = SparseDictionary("z.0", torch.eye(4), None, torch.eye(4), None)
    >>> head_shares(one, heads=2).tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    norms: Tensor = dictionary.W_dec.unflatten(1, (_heads(dictionary, heads), -1)).norm(dim=2)
    return norms / norms.sum(1, keepdim=True).clamp_min(torch.finfo(norms.dtype).tiny)


def by_head(
    dictionary: SparseDictionary,
    z: Float[Tensor, "*batch unit"],
    features: list[int],
    heads: int | None = None,
) -> tuple[Float[Tensor, "*batch head chosen"], Float[Tensor, " chosen"]]:
    """What each head adds to the pre-activation of some features, and the constant.

    Returns
    -------
    (parts, constant)
        ``parts.sum(-2) + constant`` is `dictionary.pre_activations(z)[..., features]` (for ``gated``, before b_gate).

    Raises
    ------
    PatchclampError
        For a dictionary that normalises its input: its parts do not add up.

    Examples
    --------
    >>> one = SparseDictionary("z.0", torch.eye(4), torch.ones(4), torch.eye(4), None)
    >>> parts, constant = by_head(one, torch.tensor([[5.0, 6.0, 7.0, 8.0]]), [1], heads=2)
    >>> parts.tolist(), constant.tolist()
    ([[[6.0], [0.0]]], [1.0])
    """
    weight, constant = _encoder(dictionary, features, heads, z)
    return torch.einsum("...hd,hdf->...hf", z.unflatten(-1, weight.shape[:2]), weight), constant


def by_source(
    dictionary: SparseDictionary,
    pattern: Float[Tensor, "batch head query key"],
    values: Float[Tensor, "batch key kv_head d_head"],
    features: list[int],
    heads: int | None = None,
) -> Float[Tensor, "batch query head key chosen"]:
    """What each head takes from each token for the pre-activation of some features; the pattern is held fixed.

    Summed over keys it is `by_head`.

    Parameters
    ----------
    pattern
        ``attn_probs.L``.
    values
        The value vectors: output of the value projection, (batch, key, heads x d_head) unflattened. With grouped
        queries, query head h reads value head h // group.
    features
        Which; all of them would be large.

    Examples
    --------
    >>> one = SparseDictionary("z.0", torch.eye(2), None, torch.eye(2), None)
    >>> looks = torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]])
    >>> by_source(one, looks, torch.tensor([[[[4.0, 0.0]], [[8.0, 0.0]]]]), [0], heads=1)[0, 1, 0, :, 0].tolist()
    [1.0, 6.0]
    """
    weight, _ = _encoder(dictionary, features, heads, values)
    group, rest = divmod(len(weight), values.shape[2])
    if rest or pattern.shape[1] != len(weight) or values.shape[3] != weight.shape[1]:
        raise PatchclampError(
            f"{dictionary.site}: {len(weight)} heads of {weight.shape[1]} units, but the pattern has "
            f"{pattern.shape[1]} heads and the values {values.shape[2]} of {values.shape[3]}"
        )
    read = torch.einsum("bshd,hdf->bshf", values.repeat_interleave(group, 2), weight)
    return torch.einsum("bhts,bshf->bthsf", pattern, read)


def _encoder(
    dictionary: SparseDictionary, features: list[int], heads: int | None, like: Tensor
) -> tuple[Float[Tensor, "head d_head chosen"], Float[Tensor, " chosen"]]:
    if dictionary.normalize != "none":
        raise PatchclampError(
            f"{dictionary.site}: the dictionary normalises each sample ({dictionary.normalize}), so heads do not add up"
        )
    weight = dictionary.W_enc[:, features].to(like.device, like.dtype)
    empty = dictionary.W_enc.new_zeros(dictionary.input_width)
    constant = dictionary.pre_activations(empty)[features].to(like.device, like.dtype)
    return weight.unflatten(0, (_heads(dictionary, heads), -1)), constant


def _heads(dictionary: SparseDictionary, heads: int | None) -> int:
    found = heads or dictionary.meta.get("heads")
    if not isinstance(found, int) or dictionary.input_width % found:
        raise PatchclampError(
            f"{dictionary.site}: heads={found} for {dictionary.input_width} units; give the number of query heads"
        )
    return found

"""Transcoders: features that read one site and write another, such as an MLP's input and output.

f = act((u - b) W_enc + b_enc), y^ = f W_dec + b_dec [+ u W_skip]; b is taken off the input and folded into b_enc when
training is over. Any architecture of `patchclamp.decompose.sae` serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

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
class Transcoder(Composed):
    """Sparse approximation of the map from one site to another (Dunefsky et al. 2024; skip path: Paulo et al. 2025).

    loss |y - y^|^2 + the architecture's penalty. Each site is scaled by a factor of its own while training. To
    approximate an MLP, read what its weights see: the *normalised* stream that enters it (``mlp_pre``'s input, a
    module path with ``.in``), not the residual stream before the norm, and write its raw output (``mlp_out``).

    Parameters
    ----------
    n_features
        Features; four times the units read where None.
    architecture
        Name in `patchclamp.decompose.sae.ARCHITECTURES`, but for matching_pursuit.
    skip
        Add a linear path u W_skip beside the features, which starts at zero.
    settings
        Of the architecture: k, penalty, seed, steps ...

    Examples
    --------
    >>> import torch
    >>> u = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    >>> made = Transcoder(8, k=2, skip=True, steps=50, batch_size=100).fit((u, torch.relu(u[:, :3])), "a", "b")
    >>> made, made.W_skip.shape
    (<SparseDictionary 8 features over a -> b>, torch.Size([4, 3]))
    """

    skip: bool

    name: ClassVar[str] = "transcoder"

    def __init__(
        self,
        n_features: int | None = None,
        architecture: str = "topk",
        skip: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(n_features, architecture, settings, skip=skip)

    def fit(
        self,
        source: Recording | tuple[Recording | Tensor, Recording | Tensor],
        site: Site | str,
        target: Site | str,
        progress: Progress | None = None,
        resume: str | Path | None = None,
        **reading: Unpack[Reading],
    ) -> Dictionary:
        """Train on paired rows of `site` and `target`.

        Parameters
        ----------
        source
            A recording of both sites, or a pair of recordings or tensors with the same samples.
        site, target
            What is read, and what is written.
        progress, resume, reading
            As in `SparseAutoencoder.fit`.

        Returns
        -------
        SparseDictionary
            With `target`, and `W_skip` where asked for. A feature's activity is in units of the target.

        Raises
        ------
        PatchclampError
            As `SparseAutoencoder.fit`; for sides of different length.
        """
        auto = self.trainee()
        read, write = source if isinstance(source, tuple) else (source, source)
        rows, sink = activity(read, site, **reading), activity(write, target, **reading)
        site, target = rows.site, sink.site
        if site == target:
            raise PatchclampError(f"transcoder: {site} would be read and written; an autoencoder does that")
        trained = train(auto, Sides([rows], [site], [sink], [target], self.skip), progress, resume)
        weights = auto.weights(trained.params, trained.geometry, (trained.factors[0], trained.factors[1]))
        return auto.build(site, target, weights, {**trained.meta, "method": self.name})


def parts_along(
    transcoder: SparseDictionary,
    read: Float[Tensor, "sample unit"],
    written: Float[Tensor, "sample target_unit"],
    direction: Float[Tensor, " target_unit"],
) -> dict[str, Tensor]:
    """What each part of a transcoder contributes to the target along a direction (of a later feature, a probe).

    <y, e> = sum_i f_i <W_dec,i, e> + <b_dec, e> + <u W_skip, e> + <y - y^, e>: an identity.

    Returns
    -------
    dict
        ``features`` (sample, feature), ``bias`` (), ``skip`` (sample,) and ``error`` (sample,).

    Examples
    --------
    >>> import torch
    >>> one = SparseDictionary("a", torch.eye(2), None, torch.eye(2), None, target="b", apply_b_dec_to_input=False)
    >>> x = torch.tensor([[1.0, -2.0]])
    >>> parts = parts_along(one, x, x, torch.tensor([1.0, 1.0]))
    >>> parts["features"].tolist(), parts["error"].tolist()
    ([[1.0, 0.0]], [-2.0])
    """
    skip = read.new_zeros(len(read))
    if transcoder.W_skip is not None:
        skip = read @ transcoder.W_skip.to(read.device) @ direction
    codes = transcoder.encode(read)
    return {
        "features": codes * (transcoder.W_dec.to(read.device) @ direction),
        "bias": transcoder.b_dec.to(read.device) @ direction,
        "skip": skip,
        "error": (written - transcoder.reconstruct(read)) @ direction,
    }

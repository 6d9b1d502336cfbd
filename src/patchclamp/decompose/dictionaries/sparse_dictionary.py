"""`SparseDictionary`: weights of a sparse autoencoder or transcoder, trained here or read from a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.dictionary import OURS, StoredDictionary
from patchclamp.nouns.recording.sparse import SparseCodes
from patchclamp.nouns.units import Site

ACTIVATIONS = ("relu", "gated", "topk", "batchtopk", "jumprelu")
NORMALISATIONS = ("none", "constant_norm_rescale", "layer_norm")
DENSE_ENTRIES = 1 << 24  # entries of dense code held at a time by `encode_sparse`
_NEEDS: dict[str, tuple[str, ...]] = {
    "topk": ("k",),
    "batchtopk": ("threshold",),
    "jumprelu": ("threshold",),
    "gated": ("b_gate", "r_mag", "b_mag"),
}


_SAES = {
    "relu": "standard",
    "gated": "gated",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
}
_TRANSCODERS = {"relu": "transcoder", "jumprelu": "jumprelu_transcoder", "batchtopk": "jumprelu_transcoder"}


class SparseDictionary(StoredDictionary):
    """f = activation((x - b_dec) W_enc + b_enc), x^ = f W_dec + b_dec. Immutable; `replace` gives a changed copy.

    With p = (x - b_dec) W_enc + b_enc, the activation is

    - ``relu``: max(p, 0)
    - ``topk``: the `k` largest of max(p, 0) in each sample, the rest 0
    - ``batchtopk``: max(p, 0) where it exceeds `threshold`; `k` was the mean number in training. The code of a sample
      never depends on the others in its batch.
    - ``jumprelu``: max(p, 0) where p exceeds `threshold`
    - ``gated``: with q = (x - b_dec) W_enc: max(exp(r_mag) q + b_mag, 0) where q + b_gate > 0; `b_enc` is not used

    Parameters
    ----------
    site, target
        What is read, and what is written (another site for a transcoder).
    W_enc
        (units, features).
    b_enc
        (features,); zeros where None.
    W_dec
        (features, units of the target): the directions.
    b_dec
        (units of the target,); zeros where None.
    activation
        One of ``relu``, ``gated``, ``topk``, ``batchtopk``, ``jumprelu``.
    k
        Active features: exact at most for ``topk``; the mean in training for ``batchtopk``.
    threshold
        () or (features,), for ``jumprelu`` and ``batchtopk``.
    b_gate, r_mag, b_mag
        (features,), for ``gated``.
    apply_b_dec_to_input
        Whether b_dec is subtracted from the input; False for transcoders.
    W_skip
        (units, units of the target): a linear path beside the features; `reconstruct` adds x W_skip.
    normalize
        ``none``; ``constant_norm_rescale``: x is scaled to norm sqrt(units); ``layer_norm``: x is centred over its
        units and divided by their standard deviation (+ 1e-5). Both per sample, undone by `reconstruct`; `decode` is refused.
    meta
        How it was made.

    Examples
    --------
    >>> eye = torch.eye(2)
    >>> d = SparseDictionary("resid_post.0", eye, None, eye, None, activation="topk", k=1)
    >>> d.encode(torch.tensor([[3.0, 2.0], [-1.0, 0.5]])).tolist()
    [[3.0, 0.0], [0.0, 0.5]]
    >>> d.encode_sparse(torch.tensor([[3.0, 2.0], [-1.0, 0.5]])).unit.tolist()
    [0, 1]
    """

    method: ClassVar[str] = "sparse"
    kind: ClassVar[str] = "sparse"
    plain: ClassVar[tuple[str, ...]] = ("activation", "k", "normalize", "apply_b_dec_to_input")

    W_enc: Float[Tensor, "unit feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature target_unit"]
    b_dec: Float[Tensor, " target_unit"]
    threshold: Tensor | None = None
    W_skip: Float[Tensor, "unit target_unit"] | None = None

    def __init__(
        self,
        site: Site | str,
        W_enc: Tensor,
        b_enc: Tensor | None,
        W_dec: Tensor,
        b_dec: Tensor | None,
        *,
        activation: str = "relu",
        k: int | None = None,
        threshold: Tensor | float | None = None,
        b_gate: Tensor | None = None,
        r_mag: Tensor | None = None,
        b_mag: Tensor | None = None,
        apply_b_dec_to_input: bool = True,
        W_skip: Tensor | None = None,
        normalize: str = "none",
        target: Site | str | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.activation, self.k, self.normalize = activation, k, normalize
        self.apply_b_dec_to_input = apply_b_dec_to_input
        given: dict[str, Tensor | None] = {
            "W_enc": W_enc,
            "b_enc": W_enc.new_zeros(W_enc.shape[-1]) if b_enc is None else b_enc,
            "W_dec": W_dec,
            "b_dec": W_dec.new_zeros(W_dec.shape[-1]) if b_dec is None else b_dec,
            "threshold": None if threshold is None else torch.as_tensor(threshold, device=W_enc.device),
            "b_gate": b_gate,
            "r_mag": r_mag,
            "b_mag": b_mag,
            "W_skip": W_skip,
        }
        for key, tensor in given.items():
            if tensor is not None and not tensor.is_floating_point() and key != "threshold":
                raise PatchclampError(
                    f"dictionary over {site}: {key} is {tensor.dtype}, and weights are floating-point numbers"
                )
        tensors = {name: t.to(W_enc.dtype) for name, t in given.items() if t is not None}
        super().__init__(site, tensors, target, meta)
        self._check_weights()

    def _check_weights(self) -> None:
        name = f"dictionary over {self.site}"
        if self.activation not in ACTIVATIONS:
            raise PatchclampError(
                f"{name}: activation={self.activation!r} is none of {', '.join(ACTIVATIONS)}"
                f"{did_you_mean(str(self.activation), ACTIVATIONS)}"
            )
        if self.normalize not in NORMALISATIONS:
            raise PatchclampError(
                f"{name}: normalize={self.normalize!r} is none of {', '.join(NORMALISATIONS)}"
            )
        if self.W_enc.ndim != 2 or self.W_dec.ndim != 2:
            raise PatchclampError(
                f"{name}: W_enc is {tuple(self.W_enc.shape)} and W_dec {tuple(self.W_dec.shape)}; wanted 2-D both"
            )
        width, features = self.W_enc.shape
        wanted: dict[str, tuple[tuple[int, ...], ...]] = {
            "W_dec": ((features, self.W_dec.shape[1]),),
            "b_dec": ((self.W_dec.shape[1],),),
            "W_skip": ((width, self.W_dec.shape[1]),),
            "threshold": ((), (1,), (features,)),
        }
        for key, tensor in self.state().items():
            shapes = wanted.get(key, ((width, features),) if key == "W_enc" else ((features,),))
            if tuple(tensor.shape) not in shapes:
                raise PatchclampError(f"{name}: {key} is {tuple(tensor.shape)}, wanted {shapes[-1]}")
            if not bool(torch.isfinite(tensor).all()):
                raise PatchclampError(f"{name}: {key} holds NaN or Inf")
        if not isinstance(self.apply_b_dec_to_input, bool):
            raise PatchclampError(
                f"{name}: apply_b_dec_to_input is {self.apply_b_dec_to_input!r}, and must be True or False"
            )
        for key in _NEEDS.get(self.activation, ()):
            if (self.k if key == "k" else self.state().get(key)) is None:
                raise PatchclampError(f"{name}: the activation {self.activation} needs {key}")
        if self.k is not None and (type(self.k) is not int or not 1 <= self.k <= features):
            raise PatchclampError(f"{name}: k={self.k!r}, but there are {features} features")
        if self.apply_b_dec_to_input and self.W_dec.shape[1] != width:
            raise PatchclampError(
                f"{name}: b_dec has {self.W_dec.shape[1]} units and the input {width}; "
                "a dictionary between two sites takes apply_b_dec_to_input=False"
            )

    # ---- files

    def layout(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As SAELens has it where it knows the architecture; else under a name that it refuses."""
        config, tensors = super().layout()
        config |= _architecture(self)
        config[OURS]["scalar_threshold"] = self.threshold is not None and self.threshold.ndim == 0
        if self.threshold is not None:
            tensors["threshold"] = self.threshold.expand(self.n_features)
        if self.W_skip is not None:
            tensors["W_skip"] = self.W_skip.T
        if self.activation == "gated":
            tensors.pop("b_enc")  # SAELens' gated autoencoder has none, and loads strictly
        return config, tensors

    @property
    def input_width(self) -> int:
        """Number of units that are read."""
        return len(self.W_enc)

    def replace(self, **changes: Any) -> Self:
        """A copy with some of the constructor's arguments changed.

        Examples
        --------
        >>> d = SparseDictionary("mlp_out.1", torch.eye(2), None, torch.eye(2), None)
        >>> d.replace(activation="jumprelu", threshold=0.5).encode(torch.tensor([0.4, 0.6])).tolist()
        [0.0, 0.6000000238418579]
        """
        now = {"site": self.site, "target": self.target, "meta": self.meta}
        return type(self)(**{**now, **self.state(), **self.settings(), **changes})

    def unit_directions(self) -> Self:
        """A copy with rows of W_dec of norm 1 (rows of zeros stay) and the norms in the codes: the same output.

        With n the norms: W_enc, b_enc, b_gate, b_mag and thresholds are multiplied by n, W_dec divided; `r_mag`, a
        log factor, stays. ``topk`` then ranks what features write: not the same features where norms differ.
        """
        now, norm = self.state(), self.W_dec.norm(dim=1)
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))
        changed = {"W_enc": self.W_enc * norm, "W_dec": self.W_dec / norm[:, None]}
        for name in ("b_enc", "b_gate", "b_mag", "threshold"):
            if name in now:
                changed[name] = now[name] * norm
        return self.replace(**changed)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A copy on another device or in another precision."""
        return self.replace(**{name: t.to(device, dtype) for name, t in self.state().items()})

    # ---- arithmetic

    def _normed(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(x as the encoder takes it, what to multiply and what to add to undo it)."""
        if self.normalize == "constant_norm_rescale":
            scale = x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / x.shape[-1] ** 0.5
            return x / scale, scale, None
        if self.normalize == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            scale = (x - mean).std(-1, keepdim=True)
            # SAELens divides by the deviation + 1e-5 and multiplies back without it.
            return (x - mean) / (scale + 1e-5), scale, mean
        return x, None, None

    def pre_activations(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        """(x - b_dec) W_enc + b_enc (without b_enc for ``gated``), after normalisation."""
        x = self._normed(activity.to(self.W_enc.dtype))[0]
        if self.apply_b_dec_to_input:
            x = x - self._on("b_dec", x)
        out: Tensor = x @ self._on("W_enc", x)
        return out if self.activation == "gated" else out + self._on("b_enc", x)

    def _activate(self, pre: Tensor) -> Tensor:
        if self.activation == "gated":
            magnitude = torch.relu(self._on("r_mag", pre).exp() * pre + self._on("b_mag", pre))
            return magnitude * (pre + self._on("b_gate", pre) > 0)
        active = torch.relu(pre)
        if self.activation == "topk":
            assert self.k is not None
            top = active.topk(self.k, dim=-1, sorted=False)
            return torch.zeros_like(active).scatter(-1, top.indices, top.values)
        if self.activation in ("batchtopk", "jumprelu"):
            return active * (pre > self._on("threshold", pre)).to(active.dtype)
        return active

    def _encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        return self._activate(self.pre_activations(activity))

    def decode(self, codes: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch target_unit"]:
        """Codes @ W_dec + b_dec. The skip path is not in it: it needs the input, see `reconstruct`."""
        if self.normalize != "none":
            raise PatchclampError(
                f"dictionary over {self.site}: it normalises each sample ({self.normalize}), so that codes alone do "
                "not give activity; use reconstruct(activity)"
            )
        return super().decode(codes)

    def decode_at(
        self, codes: Float[Tensor, "*batch feature"], activity: Float[Tensor, "*batch unit"]
    ) -> Float[Tensor, "*batch target_unit"]:
        """Codes @ W_dec + b_dec + x W_skip, the normalisation of `activity` undone."""
        x, scale, mean = self._normed(activity.to(self.W_enc.dtype))
        out = super().decode(codes)
        if self.W_skip is not None:
            out = out + x @ self._on("W_skip", x)
        if self.target != self.site:
            return out  # a transcoder normalises what it reads; what it writes has a scale of its own
        out = out if scale is None else out * scale
        return out if mean is None else out + mean

    def reconstruct(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch target_unit"]:
        """What the dictionary makes of activity: decode(encode(x)) + x W_skip, normalisation undone."""
        return self.decode_at(self.encode(activity), activity)

    def encode_sparse(self, activity: Float[Tensor, "sample unit"]) -> SparseCodes:
        """Features as sparse codes; at most 2**24 entries of dense code exist at a time (or one sample's)."""
        self.check(activity)
        step = max(1, DENSE_ENTRIES // self.n_features)
        with torch.no_grad():
            parts = [self._sparse(part) for part in _pieces(activity, step)]
        return SparseCodes.concat(parts) if parts else SparseCodes.from_dense(self.encode(activity))

    def _sparse(self, activity: Tensor) -> SparseCodes:
        pre = self.pre_activations(activity)
        if self.activation != "topk":
            return SparseCodes.from_dense(self._activate(pre))
        assert self.k is not None
        top = torch.relu(pre).topk(self.k, dim=-1, sorted=False)
        unit, order = top.indices.sort(-1)
        value = top.values.gather(-1, order)
        keep = value > 0
        indptr = np.zeros(len(pre) + 1, np.int64)
        np.cumsum(keep.sum(-1).cpu().numpy(), out=indptr[1:])
        return SparseCodes(
            indptr, unit[keep].cpu().numpy().astype(np.uint32), value[keep].cpu(), self.n_features
        )


def _pieces(activity: Tensor, step: int) -> Iterator[Tensor]:
    for start in range(0, len(activity), step):
        yield activity[start : start + step]


def _architecture(dictionary: SparseDictionary) -> dict[str, Any]:
    """SAELens' name for it and the keys that go with it; where it has none, a name that it refuses."""
    transcoder = dictionary.target != dictionary.site
    name = (_TRANSCODERS if transcoder else _SAES).get(dictionary.activation)
    if dictionary.W_skip is not None:
        name = {"transcoder": "skip_transcoder"}.get(name or "")
    if transcoder and dictionary.normalize != "none":
        name = None
    out: dict[str, Any] = {
        "apply_b_dec_to_input": dictionary.apply_b_dec_to_input,
        "normalize_activations": dictionary.normalize,
    }
    if name is not None:
        out["architecture"] = name
    if dictionary.activation == "topk":
        out["k"] = dictionary.k
    if transcoder:
        out["d_out"] = int(dictionary.W_dec.shape[1])
    return out

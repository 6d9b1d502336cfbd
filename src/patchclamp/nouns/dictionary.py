"""`Dictionary`: features over a site. It encodes activity to features and decodes them back; features are units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import write_folder
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.recording import named
from patchclamp.nouns.recording.sparse import SparseCodes
from patchclamp.nouns.units import Site


@shown
class Dictionary(ABC):
    """Features over a site: A (samples, units) is about Z (samples, features) D (features, units).

    Once attached to a subject (``subject.attach("mine", dictionary)``) its features are units with the address
    ``SITE/mine[77]``: they record, attribute, patch and steer as neurons do.

    Attributes
    ----------
    site : Site
        What is encoded.
    target : Site
        What is decoded: `site` itself, but for a transcoder, which reads one site and writes another.
    method : str
        Name in `patchclamp.decompose.METHODS`, or of the layout that it was read from.
    meta : dict
        How it was made: settings, seed, data fingerprint, loss. Plain data.
    """

    method: ClassVar[str] = ""

    def __init__(
        self, site: Site | str, target: Site | str | None = None, meta: dict[str, Any] | None = None
    ) -> None:
        self.site = named(site)
        self.target = self.site if target is None else named(target)
        self.meta = dict(meta or {})

    @property
    @abstractmethod
    def directions(self) -> Float[Tensor, "feature unit"]:
        """What each feature writes at the target when its activity is 1 (the rows of D)."""

    @abstractmethod
    def encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        """Features of activity; differentiable where the method is."""

    def decode(self, codes: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch unit"]:
        """Activity from features: codes @ directions + `offset`."""
        return codes @ self.directions.to(codes.device, codes.dtype) + self.offset.to(
            codes.device, codes.dtype
        )

    def decode_at(
        self, codes: Float[Tensor, "*batch feature"], activity: Float[Tensor, "*batch input"]
    ) -> Float[Tensor, "*batch unit"]:
        """Decode with the input at hand: `decode`, but for dictionaries that need it (a scale of each sample, a skip path)."""
        return self.decode(codes)

    def reconstruct(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch unit"]:
        """What the dictionary makes of activity: decode(encode(activity)), and any path beside the features."""
        return self.decode(self.encode(activity))

    @property
    def offset(self) -> Float[Tensor, " unit"]:
        """What is decoded when no feature is active."""
        return torch.zeros(self.directions.shape[1])

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.directions)

    def encode_sparse(self, activity: Float[Tensor, "sample unit"]) -> SparseCodes:
        """Features as sparse codes; methods with few active features override this and never build the dense code."""
        with torch.no_grad():
            return SparseCodes.from_dense(self.encode(activity))

    def check(self, activity: Tensor) -> None:
        """Refuse activity of another width, or with NaN or Inf."""
        if not bool(torch.isfinite(activity).all()):
            raise PatchclampError(f"{self.site}: the activity to encode holds NaN or Inf")
        width = self.input_width
        if activity.shape[-1] != width:
            raise PatchclampError(
                f"{self.method} over {self.site}: encodes {width} units, the activity has {activity.shape[-1]}"
            )

    @property
    def input_width(self) -> int:
        """Number of units that are encoded; transcoders override this."""
        return int(self.directions.shape[1])

    def _card(self) -> dict[str, Any]:
        way = {} if self.target == self.site else {"written to": str(self.target)}
        return {
            "method": self.method, "features": self.n_features, "site": str(self.site), **way, "units": self.input_width
        }  # fmt: skip

    def __repr__(self) -> str:
        arrow = "" if self.target == self.site else f" -> {self.target}"
        return f"<{type(self).__name__} {self.n_features} features over {self.site}{arrow}>"


OURS = "patchclamp"
KINDS: dict[str, type[StoredDictionary]] = {}
_HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "mlp_act": "mlp.hook_post",
    "z": "attn.hook_z",
}


def aligned_copy(tensor: Tensor) -> Tensor:
    """Detached, contiguous and at an aligned address: the bits of a matrix product can depend on both.

    A file is read into memory at any address, so that without this a dictionary would encode other bits after it.
    """
    tensor = tensor.detach().contiguous()
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()


class StoredDictionary(Dictionary):
    """A dictionary that can be written to a folder and read back bit for bit.

    A subclass names itself with `kind` (what the file says) and its settings in `plain`, and its constructor takes
    weights and settings by the names that the file has for them. They become attributes of these names; state, reading
    back, `directions` and `offset` follow from them.
    """

    kind: ClassVar[str] = ""
    rows: ClassVar[str] = "W_dec"  # the weight whose rows are the directions
    bias: ClassVar[str] = (
        "b_dec"  # the weight that is decoded when no feature is active; zeros where there is none
    )
    plain: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.kind:
            KINDS[cls.kind] = cls

    def __init__(
        self,
        site: Site | str,
        weights: dict[str, Tensor],
        target: Site | str | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(site, target, meta)
        self._weights = tuple(weights)
        for name, tensor in weights.items():
            setattr(self, name, aligned_copy(tensor))

    @property
    def directions(self) -> Float[Tensor, "feature unit"]:
        """What each feature writes at the target when its activity is 1 (the rows of D)."""
        found: Tensor = getattr(self, self.rows)
        return found

    @property
    def offset(self) -> Float[Tensor, " unit"]:
        """What is decoded when no feature is active."""
        return self.state().get(self.bias, super().offset)

    def encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        """Features of activity, differentiable in the activity.

        Raises
        ------
        PatchclampError
            For another width, NaN or Inf.
        """
        self.check(activity)
        return self._encode(activity)

    @abstractmethod
    def _encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        """Features of activity that was checked."""

    def _on(self, name: str, like: Tensor) -> Tensor:
        """A weight, on the device of another tensor."""
        found: Tensor = getattr(self, name)
        return found.to(like.device)

    def state(self) -> dict[str, Tensor]:
        """The tensors, by name."""
        return {name: getattr(self, name) for name in self._weights}

    def settings(self) -> dict[str, Any]:
        """What is no tensor, as plain data."""
        return {name: getattr(self, name) for name in self.plain}

    @classmethod
    def from_state(
        cls,
        site: Site,
        target: Site,
        meta: dict[str, Any],
        state: dict[str, Tensor],
        settings: dict[str, Any],
    ) -> Self:
        """Build the dictionary from what `state` and `settings` gave.

        Raises
        ------
        PatchclampError
            For a tensor or setting that is missing, or that the kind does not have, and for weights that are not finite.
        """
        given: dict[str, Any] = {**state, **settings, "meta": meta}
        if target != site:
            given["target"] = target
        wanted = dict(list(signature(cls).parameters.items())[1:])  # without the site
        for key in given:
            if key not in wanted:
                raise PatchclampError(
                    f"a dictionary of kind {cls.kind} has no {key!r}; it has {', '.join(wanted)}"
                )
        for key, parameter in wanted.items():
            if parameter.default is Parameter.empty and key not in given:
                raise PatchclampError(f"a dictionary of kind {cls.kind} needs {key!r}, which is missing")
        for key, tensor in state.items():
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise PatchclampError(f"{key} holds NaN, infinity or whole numbers ({tensor.dtype})")
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
        unfit = f"its weights and settings do not fit together: {shapes}; {settings}"
        try:
            found = cls(site, **given)
            row = found.directions.new_zeros(
                1, found.input_width
            )  # one sample of zeros goes through all weights
            with torch.no_grad():
                codes, made = found.encode(row), found.reconstruct(row)
        except (RuntimeError, IndexError, TypeError) as error:
            raise PatchclampError(f"{unfit} ({error})") from error
        if codes.shape != (1, found.n_features) or made.shape != (1, found.directions.shape[1]):
            raise PatchclampError(unfit)
        return found

    def save(self, folder: str | Path) -> Path:
        """Write ``cfg.json`` and ``sae_weights.safetensors`` into `folder`, which must not hold a dictionary yet.

        Sparse autoencoders are written so that SAELens reads them; what SAELens has no architecture for keeps the
        same two files under an architecture that it refuses. Nothing is pickled.

        Raises
        ------
        PatchclampError
            If the folder holds a dictionary already.
        """
        return write_folder(folder, *self.layout())

    def layout(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The config and the tensors that `save` writes; the block `OURS` has what SAELens' config has no place for."""
        tensors = self.state()
        config = {
            "architecture": f"{OURS}.{self.kind}",
            "d_in": self.input_width,
            "d_sae": self.n_features,
            "dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
            "device": "cpu",
            "reshape_activations": "none",
            "normalize_activations": "none",
            "metadata": self._metadata(),
            OURS: {
                "kind": self.kind,
                "site": asdict(self.site),
                "target": asdict(self.target),
                "settings": self.settings(),
                "meta": self.meta,
            },
        }
        return config, tensors

    def _metadata(self) -> dict[str, Any]:
        """SAELens' block: where the dictionary reads and writes, and what is known of the data that it was fitted on."""
        cfg = self.meta.get("cfg") or {}
        known = {**cfg, **(cfg.get("metadata") or {}), **self.meta}
        about = {key: known[key] for key in _KEPT if known.get(key) is not None}
        written = {} if self.target == self.site else {"hook_name_out": hook_name(self.target)}
        return {"sae_lens_version": _LAYOUT, "hook_name": hook_name(self.site), **written, **about}


_LAYOUT = "6.0.0"
"""SAELens' version of this layout: without one, or with an older one, it drops what stands in the block of metadata."""
_KEPT = (
    *(
        "model_name",
        "model_class_name",
        "model_from_pretrained_kwargs",
        "prepend_bos",
        "exclude_special_tokens",
    ),
    *("neuronpedia_id", "context_size", "seqpos_slice", "dataset_path", "sae_lens_training_version"),
)
"""What SAELens knows of the data that a dictionary was fitted on."""


def kind(name: str) -> type[StoredDictionary]:
    """The class that wrote a file of this kind."""
    if name not in KINDS:
        raise PatchclampError(f"{name}: this patchclamp knows the kinds {', '.join(sorted(KINDS))}")
    return KINDS[name]


def hook_name(site: Site) -> str:
    """TransformerLens' name of a site, where the two mean the same; else the address."""
    hook = _HOOKS.get(site.point)
    return str(site) if hook is None or site.layer is None else f"blocks.{site.layer}.{hook}"

"""Vision transformers: pixels in, class logits out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Pair
from patchclamp.subjects.clamp.hooks import Place
from patchclamp.subjects.clamp.modes import Training
from patchclamp.subjects.inputs import Inputs
from patchclamp.subjects.tensors import tensor_pairs
from patchclamp.subjects.transformer import Transformer


class VisionModel(Transformer):
    """A Hugging Face image classifier (ViT); positions are patches, the class token first; logits have one position.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTForImageClassification
    >>> config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    ...                    image_size=32, patch_size=8)
    >>> subject = VisionModel(ViTForImageClassification(config).eval())
    >>> run = subject.run(subject.batch(torch.rand(2, 3, 32, 32)), read=subject.resolve("mlp_act.1"))
    >>> run.activity[subject.resolve("mlp_act.1")[0]].shape
    torch.Size([2, 17, 64])
    """

    tokenizer = None

    def __init__(
        self,
        model: nn.Module,
        name: str = "model",
        fingerprint: str = "",
        *,
        training: Training = "refuse",
    ) -> None:
        super().__init__(model, name, fingerprint, training=training)

    def batch(self, pixels: Float[Tensor, "batch channel height width"]) -> Batch:
        """Wrap images, prepared as the model wants them, in a batch."""
        if pixels.ndim != 4:
            raise PatchclampError(
                f"pixels have shape {tuple(pixels.shape)}; four dimensions are wanted: batch, channel, height, width"
            )
        return self._pixels(pixels)

    def content_mask(self, batch: Batch) -> Bool[Tensor, "batch pos"]:
        """Every position counts in a vision model."""
        return batch.mask

    def dummy(self) -> Batch:
        """One black image."""
        size = self.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return self._pixels(torch.zeros(1, self.config.num_channels, height, width))

    @cached_property
    def n_positions(self) -> int:
        """Number of positions: the patches and the class token."""
        image, patch = (
            (size, size) if isinstance(size, int) else tuple(size)
            for size in (self.config.image_size, self.config.patch_size)
        )
        return int(1 + (image[0] // patch[0]) * (image[1] // patch[1]))

    def _pixels(self, pixels: Tensor, rows: Tensor | None = None) -> Batch:
        n = len(pixels)
        mask = torch.ones(n, self.n_positions, dtype=torch.bool)
        return Batch(None, mask, torch.arange(n) if rows is None else rows, {"pixel_values": pixels})

    def _images(self, inputs: Inputs, rows: Tensor) -> Batch:
        if not isinstance(inputs, Tensor):
            raise PatchclampError(f"{self.name}: takes images as one tensor, not several inputs")
        return self._pixels(inputs, rows)

    def _find(self, site: Site) -> Place:
        place = super()._find(site)
        if site.point != "logits":
            return place
        return replace(place, to_units=lambda t: t[:, None], from_units=lambda units, like: units[:, 0])

    def _forward(self, batch: Batch, logits: str | Tensor | None, whole: bool) -> Tensor | None:
        pixels = batch.tensors["pixel_values"].to(self.dtype)
        out = self.model(pixel_values=pixels)
        if logits is None:
            return None
        if not hasattr(out, "logits"):
            raise PatchclampError(f"{self.name}: this vision model has no classifier, so it gives no logits")
        scores: Tensor = out.logits
        return scores

    def pairs(self, task: TaskLike, batch_size: int = 32) -> Iterator[Pair]:
        """Batches of a `TensorTask`."""
        return tensor_pairs(self, task, batch_size, self._images, end=0)

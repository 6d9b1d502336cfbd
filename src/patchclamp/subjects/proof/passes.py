"""What the proofs of `patchclamp check` look at: inputs, the passes that several share, and their arithmetic."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Run, right_pad
from patchclamp.subjects.clamp.hooks import in_turn
from patchclamp.subjects.families.anatomy import weight_in_out
from patchclamp.subjects.language import LanguageModel
from patchclamp.subjects.transformer import Transformer
from patchclamp.subjects.vision import VisionModel

SENTENCES = (
    "The old lighthouse keeper wrote down the weather every evening before he slept.",
    "Water boils at a lower temperature in the mountains.",
    "Why did she sell the blue bicycle?",
    "In 1987 three of the seven bridges across the river were closed.",
)
WITHIN = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
THROUGH = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}
Finding = tuple[float, float, str]


class Skip(Exception):
    """There is nothing to prove here; the message says why."""


class Passes:
    """The subject, its inputs, and the passes that several proofs look at, each run once.

    `training` says whether the model was handed over in training mode; proofs run in evaluation mode.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.training = subject.training_note
        self.batch, self.inputs = _inputs(subject)
        with subject.evaluating():
            self.sites = [s for s in subject.known_sites() if s.point != "attn_probs"]
        self.within = WITHIN.get(subject.dtype, 1e-5)
        self.through = THROUGH.get(subject.dtype, 1e-4)

    @property
    def has_output(self) -> bool:
        """Whether the model has a head."""
        return not isinstance(self.subject, Transformer) or "logits" in self.subject.row.fixed

    def need_output(self) -> None:
        """Skip what compares outputs where there are none."""
        if not self.has_output:
            raise Skip("the model has no head, so there is no output to compare")

    @property
    def padded(self) -> Batch:
        """The inputs, where they are padded."""
        if self.batch.tokens is None or self.batch.unpadded:
            raise Skip("inputs of this kind are not padded")
        return self.batch

    def run(self, batch: Batch) -> Run:
        """A whole pass that reads every site."""
        return self.subject.run(batch, read=self.sites, logits="all" if self.has_output else None, stop=False)

    @cached_property
    def recorded(self) -> Run:
        """The pass over all inputs."""
        return self.run(self.batch)

    def at(self, point: str, layer: int | None = None) -> Tensor:
        """What was recorded at a point."""
        recorded: Tensor = self.recorded.activity[Site(point, layer)]
        return recorded

    @cached_property
    def level(self) -> Batch:
        """The inputs cut to one length, so that nothing is padded."""
        if self.batch.tokens is None:
            return self.batch
        short = int(self.batch.lengths.min())
        return Batch(self.batch.tokens[:, :short], self.batch.mask[:, :short], self.batch.rows)

    @cached_property
    def bare(self) -> Tensor:
        """The output of the user's module called as it is, no hook on it, on `level`."""
        return self.call_bare()

    def call_bare(self) -> Tensor:
        """The same, called anew."""
        subject, batch = self.subject, self.level.to(self.subject.device)
        self.need_output()
        with in_turn(subject.model), torch.no_grad():
            if isinstance(subject, LanguageModel):
                # Some models (GPT-J) round otherwise when they keep a cache, and the engine keeps none.
                logits: Tensor = subject.model(input_ids=batch.tokens, use_cache=False).logits
                return logits
            out = subject.run(batch, logits="all").logits
            assert out is not None
            return out

    def blocks(self) -> list[tuple[int, nn.Module, Any]]:
        """(number, module, row of the anatomy) of each layer."""
        if not isinstance(self.subject, Transformer):
            raise Skip("a plain module has no named parts that would have to add up")
        return [(i, layer, self.subject.row_at(i)) for i, layer in enumerate(self.subject.layers)]

    def worst(self, errors: dict[str, float], tolerance: float) -> Finding:
        """The largest of some errors, and where it is."""
        if not errors:
            raise Skip("this model has no such part")
        place = max(errors, key=lambda k: (errors[k] != errors[k], errors[k]))  # a NaN is the worst
        where = f"worst at {place}" if errors[place] else "all equal"
        return errors[place], tolerance, f"{len(errors)} compared, {where}"


def _inputs(subject: Subject) -> tuple[Batch, str]:
    if isinstance(subject, LanguageModel):
        if subject.tokenizer is not None:
            ids = [row[: subject.max_length] for row in subject.encode(list(SENTENCES))]
            text = "real sentences"
        else:
            vocabulary = int(subject.config.vocab_size)
            draw = torch.Generator().manual_seed(0)
            ids = [
                torch.randint(min(9, vocabulary - 1), vocabulary, (n,), generator=draw).tolist()
                for n in (16, 11, 8)
            ]
            text = "rows of random tokens (the subject has no tokenizer)"
        batch = subject.batch(ids) if subject.tokenizer is not None else right_pad(ids)
        return batch, f"{len(ids)} {text}, {min(map(len, ids))} to {max(map(len, ids))} tokens"
    batch = subject.dummy()
    if isinstance(subject, VisionModel):
        shape = batch.tensors["pixel_values"].shape[1:]
        batch = subject.batch(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))
        return batch, f"3 random images {tuple(shape)}"
    return batch, "the example that the module was opened with"


# ---- arithmetic


def gap(got: Tensor, want: Tensor) -> float:
    """Largest absolute difference; exactly 0 only for equal bits (up to the sign of zero)."""
    if got.shape != want.shape:
        return float("inf")
    if torch.equal(got, want.to(got.device)):
        return 0.0
    gap = (got.double() - want.to(got.device).double()).abs().max().item()
    return gap if gap else float("nan")


def error(got: Tensor, want: Tensor) -> float:
    """Relative error of the worst vector along the last axes from the third on."""
    got, want = (
        t.flatten(2).double() if t.ndim > 2 else t[:, None].double() for t in (got.to(want.device), want)
    )
    scale = want.norm(dim=-1)
    gap = (got - want).norm(dim=-1)
    return torch.where(gap == 0, gap, gap / scale).max().item()


def called(module: nn.Module | None, x: Tensor) -> Tensor:
    """A module's output, without gradients."""
    assert module is not None
    with torch.no_grad():
        out: Tensor = module(x)
        return out


def matrix(module: nn.Module | None, like: Tensor) -> Tensor:
    """(in, out) float32 weight of a linear module, where `like` lies."""
    assert module is not None
    try:
        return weight_in_out(module).detach().to(like.device).float()
    except PatchclampError as why:
        raise Skip(str(why)) from why


def biased(x: Tensor, module: nn.Module | None) -> Tensor:
    """`x` with a module's bias added, where it has one."""
    bias = getattr(module, "bias", None)
    return x if bias is None else x + bias.detach().to(x.device).float()

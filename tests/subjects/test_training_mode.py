"""Passes in training mode: refused where it makes a difference, unless asked for, and then said in the result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tiny
from patchclamp import Intervention, LanguageModel, TensorTask, TorchModule, effect, open_subject
from patchclamp.attribute import attribution_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.record import record
from record_subject import Letters, texts


def net(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 40), nn.ReLU(), *between, nn.Linear(40, 1))


def task(n: int = 40) -> TensorTask:
    draw = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randn(2, n, 4, generator=draw)
    return TensorTask("sum", clean, corrupted, metric=lambda out: out[:, 0])


class Own(nn.Module):
    """Noise of its own, in training alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class Rate(nn.Module):
    """Drops by a rate of its own."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.drop_prob = rate

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.drop_prob, self.training)


@pytest.mark.parametrize(
    "part",
    [nn.Dropout(0.2), nn.BatchNorm1d(40), nn.AlphaDropout(0.2), nn.RReLU(), Own(), Rate(0.1)],
    ids=lambda part: type(part).__name__,
)
def test_every_pass_is_refused_while_a_part_is_in_training_mode(part: nn.Module) -> None:
    model = net(part)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    subject = TorchModule(model, torch.zeros(1, 4))
    change = Intervention("1.out[7]", "scale", value=1.5)
    says = rf"2 \({type(part).__name__}\) is in training mode.*model\.eval\(\).*evaluating"
    for attempt in (
        subject.known_sites,
        lambda: subject.run(subject.batch(torch.ones(2, 4)), logits="all"),
        lambda: effect(subject, task(), change, control=None),
        lambda: attribution_patching(subject, task(), "1.out"),
    ):
        with pytest.raises(PatchclampError, match=says):
            attempt()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    found = effect(subject, task(), change, control=None)
    assert found.training == ""
    assert effect(subject, task(), change, control=None).per_item == found.per_item


@pytest.mark.parametrize("part", [nn.Dropout(0.0), nn.Tanh(), Rate(0.0)], ids=lambda p: type(p).__name__)
def test_training_mode_that_makes_no_difference_is_no_matter(part: nn.Module) -> None:
    subject = TorchModule(net(part), torch.zeros(1, 4))
    assert effect(subject, task(), Intervention("1.out[7]", "zero"), control=None).training == ""


def test_a_language_model_with_dropout_is_refused_by_record_too() -> None:
    subject = LanguageModel(tiny.tiny_model("gpt2").train(), Letters())
    with pytest.raises(
        PatchclampError, match=r"transformer\.drop \(Dropout\) \(and \d+ more\) is in training"
    ):
        record(subject, texts(8), "mlp_act.1", progress=False)
    no_dropout = LanguageModel(tiny.tiny_model("llama").train(), Letters())
    assert "training" not in record(no_dropout, texts(8), "mlp_act.1", progress=False).manifest


def test_evaluating_sets_the_mode_for_a_while() -> None:
    model = net(nn.Dropout(0.5))
    model[0].eval()
    subject = TorchModule(model, torch.zeros(1, 4))
    modes = [module.training for module in model.modules()]
    with subject.evaluating():
        assert not any(module.training for module in model.modules())
        one, two = (subject.run(subject.batch(torch.ones(2, 4)), logits="all").logits for _ in range(2))
        assert torch.equal(one, two)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(RuntimeError, match="stop"), subject.evaluating():
        raise RuntimeError("stop")
    assert [module.training for module in model.modules()] == modes


def test_as_it_is_measures_in_training_mode_and_says_so() -> None:
    model = net(nn.Dropout(0.5))
    subject = open_subject(model, example=torch.zeros(1, 4), training="as it is")
    found = effect(subject, task(), Intervention("1.out[7]", "scale", value=1.5), control=None)
    one, two = (subject.run(subject.batch(torch.ones(2, 4)), logits="all").logits for _ in range(2))
    assert not torch.equal(one, two), "dropout draws anew in every pass"
    assert found.training == "training mode: 1 module, first 2 (Dropout)"
    assert found.training in str(found)
    assert found.to_json()["training"] == found.training
    scores = attribution_patching(subject, task(), "1.out")
    assert scores.meta["training"] == found.training
    lm = LanguageModel(tiny.tiny_model("gpt2").train(), Letters(), training="as it is")
    made = record(lm, texts(8), "mlp_act.1", progress=False).manifest
    assert "transformer.drop (Dropout)" in made["training"]
    with pytest.raises(PatchclampError, match="as it is"):
        open_subject(model, example=torch.zeros(1, 4), training="as is")

"""Several inputs, elements of what modules return, and models that want time first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from patchclamp import Intervention, TensorTask, TorchModule, effect, open_subject
from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError
from patchclamp.compare import layers
from timed_toys import Recurrent, TwoInputs, inputs, made

STIMULUS, CONTEXT = inputs(24), inputs(24, 1, seed=3)[:, 0, :2]


def named(seed: int = 0) -> dict[str, Tensor]:
    return {"stimulus": inputs(24, seed=seed), "context": inputs(24, 1, seed=seed + 3)[:, 0, :2]}


@pytest.mark.parametrize("kind", [dict, tuple])
def test_several_inputs_make_a_task_and_a_batch(kind: type) -> None:
    model = made(TwoInputs)
    clean, corrupted = named(), named(1)
    if kind is tuple:
        clean, corrupted = tuple(clean.values()), tuple(corrupted.values())
    subject = open_subject(model, example=clean)
    assert [str(site) for site in subject.known_sites()] == [
        "rnn.out",
        "rnn.out.hidden",
        "gate.out",
        "readout.out",
    ]
    task = TensorTask("two", clean, corrupted, metric=lambda out: out[:, 0], groups=tuple("abcdefgh" * 3))
    assert (task.n, task.select([3]).n, task.split("train", "validation", "test").groups) == (
        24,
        1,
        task.groups,
    )
    run = subject.run(subject.batch(clean), read=["gate.out", "rnn.out"], logits="all")
    with torch.no_grad():
        assert torch.equal(run.logits, model(**named()))
        assert torch.equal(run.activity["gate.out"][:, 0], model.gate(CONTEXT))
    found = {
        name: METHODS[name](subject, task, "gate.out, rnn.out")
        for name in METHODS
        if "logit" not in name and "relevance" not in name
    }
    exact, first = found["activation_patching"], found["attribution_patching"]
    for site in exact.sites:
        assert np.corrcoef(exact.values[site].ravel(), first.values[site].ravel())[0, 1] > 0.7
    changed = effect(
        subject, task.split("test"), Intervention("rnn.out[2]", "resample", positions=-1), control=None
    )
    assert abs(changed.estimate.value) > 0


def test_inputs_that_do_not_fit_are_refused_by_name() -> None:
    clean = named()
    subject = TorchModule(made(TwoInputs), clean)
    with pytest.raises(
        PatchclampError,
        match="opened with a dict of stimulus, context as an item's input, and is given a tensor",
    ):
        subject.batch(STIMULUS)
    with pytest.raises(PatchclampError, match="equally many items.* stimulus 24, context 3"):
        subject.batch({"stimulus": STIMULUS, "context": CONTEXT[:3]})
    with pytest.raises(PatchclampError, match="input 'context' is a list, and a tensor is wanted"):
        TensorTask("t", {"stimulus": STIMULUS, "context": [1, 2]}, None, lambda out: out[:, 0])
    with pytest.raises(PatchclampError, match="inputs are a ndarray"):
        TensorTask("t", STIMULUS.numpy(), None, lambda out: out[:, 0])
    with pytest.raises(PatchclampError, match="they must be equal"):
        TensorTask("t", clean, {"stimulus": STIMULUS, "context": CONTEXT[:, :1]}, lambda out: out[:, 0])
    with pytest.raises(
        PatchclampError, match="time_axis names the input 'stimuli'; there are stimulus, context"
    ):
        TorchModule(made(TwoInputs), clean, time_axis={"stimuli": 1})


def test_a_mask_beside_the_input_stays_what_it_is() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.readout = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            out = self.rnn(x)[0] * mask[..., None]
            return self.readout(out.sum(1) / mask.sum(1, keepdim=True))

    mask = torch.arange(5)[None] < torch.randint(1, 6, (12, 1), generator=torch.Generator().manual_seed(0))
    subject = TorchModule(made(Masked), (inputs(1), mask[:1]), time_axis=1)
    task = TensorTask("m", (inputs(), mask), (inputs(seed=1), mask), metric=lambda out: out[:, 0])
    for name in ("integrated_gradients", "attribution_patching", "activation_patching"):
        found = METHODS[name](subject, task, "rnn.out", positions="each")
        assert np.abs(found.values[found.sites[0]].transpose(0, 2, 1)[~mask.numpy()]).max() < 1e-6
        assert (np.abs(found.values[found.sites[0]]).max(1)[mask.numpy()] > 1e-5).all()


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_time_first_is_the_same_network_as_items_first(kind: str) -> None:
    first, last = made(Recurrent, kind, True), made(Recurrent, kind, False)
    last.load_state_dict(first.state_dict())
    x, other = inputs(), inputs(seed=1)
    subjects = TorchModule(first, x[:1], time_axis=1), TorchModule(last, x[:1], time_axis=0)
    task = TensorTask("last", x, other, metric=lambda out: out[:, -1, 0], roles={"cue": 1})
    runs = [s.run(s.batch(x), read=s.known_sites(), logits="all") for s in subjects]
    assert torch.allclose(runs[0].logits, runs[1].logits, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(runs[1].logits, last(x.transpose(0, 1)).transpose(0, 1))
    assert [str(site) for site in subjects[0].known_sites()] == [
        str(site) for site in subjects[1].known_sites()
    ]
    for site, seen in runs[0].activity.items():
        assert torch.allclose(seen, runs[1].activity[site], atol=1e-6), site
    assert runs[1].activity["rnn.out"].shape == (12, 5, 8)
    for change in (
        Intervention("rnn.out[3]", "zero", positions="end"),
        Intervention("rnn.out[3]", "mean", positions=["cue", 4], by="position"),
        Intervention("readout.out[0]", "scale", value=2.0),
    ):
        one, two = (effect(s, task, change, control=None).per_item for s in subjects)
        assert one == pytest.approx(two, abs=1e-6)
    for name in ("attribution_patching", "activation_patching"):
        one, two = (METHODS[name](s, task, "rnn.out", positions="each") for s in subjects)
        assert np.abs(one.values[one.sites[0]] - two.values[one.sites[0]]).max() < 1e-6
        assert np.abs(one.values[one.sites[0]][:, :, 4]).max() > 0


def test_time_first_of_one_input_among_several() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.gate = nn.GRU(3, 8), nn.Linear(2, 8)

        def forward(self, stimulus: Tensor, context: Tensor) -> Tensor:
            return self.rnn(stimulus)[0] * torch.sigmoid(self.gate(context))

    clean = named()
    model = made(First)
    with torch.no_grad():
        wanted = model(STIMULUS.transpose(0, 1), CONTEXT).transpose(0, 1)
    for axes in (0, {"stimulus": 0}):
        subject = TorchModule(model, clean, time_axis=axes)
        run = subject.run(subject.batch(clean), read=["gate.out", "rnn.out"], logits="all")
        assert torch.equal(run.logits, wanted)
        assert [tuple(run.activity[site].shape) for site in ("gate.out", "rnn.out")] == [
            (24, 1, 8),
            (24, 5, 8),
        ]


def test_time_first_without_saying_so_is_refused() -> None:
    x = inputs()
    model = made(Recurrent, "LSTM", False)
    with pytest.raises(PatchclampError, match=r"rnn \(LSTM\): takes axis 0 .*batch_first=False.*time_axis=0"):
        TorchModule(model, x.transpose(0, 1)[:, :1]).known_sites()
    with pytest.raises(PatchclampError, match=r"shape \(5, 1, 3\); give items first, \(1, 5, 3\)"):
        TorchModule(model, x.transpose(0, 1)[:, :1], time_axis=0)
    with pytest.raises(PatchclampError, match=r"time_axis=3 .* give 0 \(time first\), 1 or 2"):
        TorchModule(model, x[:1], time_axis=3)


def test_a_model_that_turns_the_axes_itself_needs_no_word() -> None:
    class Turns(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(0, 1)).transpose(0, 1)

    x = inputs(4)
    subject = TorchModule(made(Turns, "GRU", False), x[:1])
    seen = subject.run(subject.batch(x), read=["rnn.out", "readout.out"], logits="all")
    assert seen.activity["rnn.out"].shape == (4, 5, 8)
    assert torch.equal(seen.activity["readout.out"], seen.logits)
    same = inputs(5)  # as many items as steps: axes are told by a pass of two items, not by their size
    alone = torch.cat(
        [subject.run(subject.batch(same[i : i + 1]), read=["rnn.out"]).activity["rnn.out"] for i in range(5)]
    )
    together = subject.run(subject.batch(same), read=["rnn.out"]).activity["rnn.out"]
    assert torch.allclose(alone, together, atol=1e-6)


def test_states_of_recurrent_layers_have_names() -> None:
    x = inputs(4)
    for batch_first in (True, False):
        model = made(Recurrent, "LSTM", batch_first)
        subject = TorchModule(model, x[:1], time_axis=1 if batch_first else 0)
        names = ["rnn.out", "rnn.out.hidden", "rnn.out.cell", "readout.out"]
        assert [str(site) for site in subject.known_sites()] == names
        seen = subject.run(subject.batch(x), read=[*names, "rnn.out.1.1", "rnn.out.output"]).activity
        with torch.no_grad():
            out, (hidden, cell) = model.rnn(x if batch_first else x.transpose(0, 1))
        assert torch.equal(seen["rnn.out.hidden"], hidden.transpose(0, 1).reshape(4, 1, 16)), (
            "layers side by side"
        )
        assert torch.equal(seen["rnn.out.cell"], cell.transpose(0, 1).reshape(4, 1, 16))
        assert torch.equal(seen["rnn.out.1.1"], seen["rnn.out.cell"])
        assert torch.equal(seen["rnn.out.output"], seen["rnn.out"])
        assert torch.equal(seen["rnn.out.hidden"][:, 0, 8:], seen["rnn.out"][:, -1])
        with pytest.raises(
            PatchclampError, match=r"rnn\.out\.1: there is no such tensor .*rnn\.out\.hidden, rnn\.out\.cell"
        ):
            subject.resolve("rnn.out.1")
        assert (subject.width("rnn.out.cell"), subject.width("rnn.out.0")) == (16, 8)


class Both(NamedTuple):
    low: Tensor
    rest: tuple[Tensor, Tensor]


class Split(nn.Module):
    """Returns what it made in parts: a tuple, a named tuple or a dict."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, gain: Tensor) -> object:
        parts = x[:, :4] * gain, (x[:, 4:] * gain, x[:, :2])
        if self.kind == "dict":
            return {"low": parts[0], "rest": parts[1]}
        return Both(*parts) if self.kind == "named" else parts


class Parts(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.lin, self.split, self.out = nn.Linear(3, 8), Split(kind), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = self.split(self.lin(x), gain=x[:, :1])
        if self.kind == "named":
            return self.out(torch.cat([found.low, found.rest[0]], 1))
        low, rest = (found["low"], found["rest"]) if self.kind == "dict" else found
        return self.out(torch.cat([low, rest[0]], 1))


@pytest.mark.parametrize(
    ("kind", "second"),
    [("tuple", "split.out.1.0"), ("dict", "split.out.rest.0"), ("named", "split.out.1.0")],
)
def test_any_element_is_read_and_changed(kind: str, second: str) -> None:
    x = inputs()[:, 0]
    model = made(Parts, kind)
    subject = TorchModule(model, x[:1])
    assert second in [str(site) for site in subject.known_sites()]
    batch = subject.batch(x)
    seen = subject.run(batch, read=["split.out", second, "split.in.gain", "lin.out"], logits="all")
    with torch.no_grad():
        assert torch.equal(seen.logits, model(x))
    assert torch.equal(seen.activity[second], seen.activity["lin.out"][..., 4:] * x[:, None, :1])
    assert torch.equal(seen.activity["split.in.gain"][:, 0], x[:, :1])
    task = TensorTask("parts", x, None, metric=lambda out: out[:, 0])
    found = effect(subject, task, Intervention(f"{second}[1]", "zero"), control=None).per_item
    with torch.no_grad():
        wanted = seen.activity[second][:, 0, 1] * model.out.weight[0, 5]
    assert found == pytest.approx(wanted.tolist(), abs=1e-6)
    gained = effect(subject, task, Intervention("split.in.gain", "zero"), control=None)
    assert gained.changed == pytest.approx(model.out.bias[0].item(), abs=1e-6)


def test_attention_time_first_and_its_weights() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.out = nn.MultiheadAttention(8, 2), nn.Linear(8, 2)
            self.embed = nn.Linear(3, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            return self.out(self.attn(h, h, h)[0][-1])

    x = inputs(4)
    subject = TorchModule(made(Attends), x[:1], time_axis=0)
    seen = subject.run(subject.batch(x), read=["attn.out", "attn.out.weights", "attn.in.key"], logits="all")
    shapes = {str(site): tuple(a.shape) for site, a in seen.activity.items()}
    assert shapes == {"attn.out": (4, 5, 8), "attn.out.weights": (4, 5, 5), "attn.in.key": (4, 5, 8)}
    assert torch.allclose(seen.activity["attn.out.weights"].sum(2), torch.ones(4, 5))
    assert seen.logits.shape == (4, 2)


def test_items_and_positions_in_one_axis_are_refused() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.out = nn.Linear(3, 4), nn.Linear(20, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rows(x.reshape(-1, 3)).reshape(len(x), -1))

    subject = TorchModule(made(Flat), inputs(1))
    assert [str(site) for site in subject.known_sites()] == ["out.out"]
    with pytest.raises(PatchclampError, match=r"rows\.out: .*one axis \(5 rows an item\)"):
        subject.resolve("rows.out")


def test_a_model_that_takes_one_item_only_is_refused() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x.reshape(1, 3))

    with pytest.raises(PatchclampError, match="runs on one item, and on two of them fails"):
        TorchModule(One(), torch.zeros(1, 3)).known_sites()


def test_time_behind_units_is_read_as_positions() -> None:
    net = nn.Sequential(nn.Conv1d(3, 7, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(35, 2)).eval()
    x = inputs().transpose(1, 2)
    subject = TorchModule(net, x[:1], time_axis=2)
    seen = subject.run(subject.batch(x), read=["1.out"], logits="all")
    assert subject.batch(x).mask.shape == (12, 5)
    assert torch.equal(seen.activity["1.out"], net[:2](x).transpose(1, 2))
    task = TensorTask("conv", x, None, metric=lambda out: out[:, 0])
    found = effect(subject, task, Intervention("1.out[4]", "zero", positions=2), control=None).per_item
    with torch.no_grad():
        wanted = net[:2](x)[:, 4, 2] * net[3].weight[0, 4 * 5 + 2]
    assert found == pytest.approx(wanted.tolist(), abs=1e-6)


def test_layers_of_a_network_with_time_against_a_recording() -> None:
    x = inputs(40)
    subject = TorchModule(made(Recurrent, "GRU", True), x[:1], time_axis=1)
    brain = {"area": subject.run(subject.batch(x), read=["rnn.out"]).activity["rnn.out"][:, -1].numpy()}
    found = layers(
        subject,
        brain,
        x,
        sites=["rnn.out", "rnn.out.hidden"],
        method="rsa",
        pool="last",
        n_boot=20,
        controls=(),
    )
    assert found.best().loc["area", "layer"] == "rnn.out"

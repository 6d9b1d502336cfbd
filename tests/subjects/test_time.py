"""Networks with time: calls of a module are positions, and what is read and written there is what the network computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hooks import no_hooks
from patchclamp import Intervention, TensorTask, TorchModule, effect, open_subject
from patchclamp.attribute import attribution_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.subjects import Edit
from timed_toys import LIF, CellLoop, Halting, LinearRNN, Recurrent, Universal, inputs, made

FAMILIES = {
    "linear": (made(LinearRNN), "step.out", (12, 5, 6)),
    "lif": (made(LIF), "spike.out", (12, 5, 10)),
    "hard lif": (made(LIF, surrogate=False), "spike.out", (12, 5, 10)),
    "lstm cell": (made(CellLoop), "cell.out.cell", (12, 5, 8)),
    "gru": (made(Recurrent, "GRU", True), "rnn.out", (12, 5, 8)),
    "universal": (made(Universal), "block.out", (12, 20, 8)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_reading_and_writing_the_own_values_moves_no_bit(name: str) -> None:
    model, site, shape = FAMILIES[name]
    x = inputs()
    subject = TorchModule(model, x[:1])
    batch = subject.batch(x)
    plain = subject.run(batch, logits="all").logits
    run = subject.run(batch, read=subject.known_sites(), logits="all")
    assert torch.equal(run.logits, plain)
    assert tuple(run.activity[site].shape) == shape
    assert run.activity[site].std() > 0
    for known in subject.known_sites():
        own = run.activity[known]
        put = subject.run(batch, write=[Edit(known, lambda a, b, own=own: own.clone())], logits="all")
        assert torch.equal(put.logits, plain), known
        scaled = subject.run(batch, write=[Edit(known, lambda a, b: a * 1.0)], logits="all").logits
        assert torch.equal(scaled, plain), known
    with torch.no_grad():
        bare = model(x) if name != "universal" else plain  # the bare encoder layer takes a fused kernel
    assert torch.equal(plain, bare)
    assert no_hooks(model)


def test_the_nth_call_is_position_n() -> None:
    model, x = made(LinearRNN), inputs()
    subject = TorchModule(model, x[:1])
    seen = subject.run(subject.batch(x), read=["step.out", "step.in.h", "step.in"]).activity
    h = torch.zeros(12, 6)
    for t in range(5):
        assert torch.equal(seen["step.in.h"][:, t], h)
        assert torch.equal(seen["step.in"][:, t], x[:, t])
        h = model.step(x[:, t], h).detach()
        assert torch.equal(seen["step.out"][:, t], h)


def test_the_steps_of_a_batch_may_be_more_than_the_examples() -> None:
    subject = TorchModule(made(LinearRNN), inputs(1, 3))
    for steps in (2, 3, 9):
        batch = subject.batch(inputs(4, steps))
        assert batch.mask.shape == (4, steps)
        assert subject.run(batch, read=["step.out"]).activity["step.out"].shape == (4, steps, 6)


def expected(model: LinearRNN, x: Tensor, unit: int, steps: tuple[int, ...]) -> Tensor:
    """The output with a unit set to zero at some steps, from powers of A: what is taken away at t arrives as A^(T-1-t)."""
    A, B, W = model.step.A, model.step.B, model.readout.weight
    h, lost = torch.zeros(len(x), len(A), dtype=x.dtype), torch.zeros(len(x), len(W), dtype=x.dtype)
    for t in range(x.shape[1]):
        h = h @ A.T + x[:, t] @ B.T
        if t in steps:
            gone = torch.zeros_like(h)
            gone[:, unit] = h[:, unit]
            lost = lost + gone @ torch.linalg.matrix_power(A, x.shape[1] - 1 - t).T @ W.T
            h = h - gone
    return lost


@pytest.mark.parametrize("steps", [(0,), (2,), (4,), (1, 3), (0, 1, 2, 3, 4), "all", -2])
def test_ablation_is_the_closed_form_of_a_linear_network(steps: tuple[int, ...] | str | int) -> None:
    model, x = made(LinearRNN).double(), inputs().double()
    subject = TorchModule(model, x[:1])
    task = TensorTask("first", x, None, metric=lambda out: out[:, 0])
    found = effect(subject, task, Intervention("step.out[2]", "zero", positions=steps), control=None)
    at = tuple(range(5)) if steps == "all" else (steps % 5,) if isinstance(steps, int) else steps
    with torch.no_grad():
        wanted = expected(model, x, 2, at)[:, 0]
    assert found.per_item == pytest.approx(wanted.tolist(), abs=1e-12)
    assert wanted.abs().min() > 1e-6


@pytest.mark.parametrize(
    ("kind", "options", "value"),
    [
        ("scale", {"value": 0.5}, lambda a, c, m: 0.5 * a),
        ("clamp", {"value": 2.0}, lambda a, c, m: torch.full_like(a, 2.0)),
        ("add", {"value": 2.0}, lambda a, c, m: a + 2.0),
        ("patch", {}, lambda a, c, m: c),
        ("mean", {"by": "position"}, lambda a, c, m: m.expand_as(a)),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_every_change_acts_at_its_step_alone(kind, options, value) -> None:
    model, x, other = made(LinearRNN).double(), inputs().double(), inputs(seed=1).double()
    subject = TorchModule(model, x[:1])
    runs = [subject.run(subject.batch(one), read=["step.out"]).activity["step.out"] for one in (x, other)]
    task = TensorTask("first", x, other, metric=lambda out: out[:, 0])
    reference = TensorTask("others", other, None, metric=lambda out: out[:, 0])
    change = Intervention("step.out[1,4]", kind, positions=[1, "end"], **options)
    found = effect(subject, task, change, control=None, reference=reference)
    h, A, B = torch.zeros(12, 6).double(), model.step.A, model.step.B
    with torch.no_grad():
        for t in range(5):
            h = h @ A.T + x[:, t] @ B.T
            if t in (1, 4):
                new = value(h, runs[1][:, t], runs[1][:, t].mean(0, keepdim=True))
                h = torch.cat([h[:, :1], new[:, 1:2], h[:, 2:4], new[:, 4:5], h[:, 5:]], 1)
        wanted = model(x)[:, 0] - model.readout(h)[:, 0]
    assert found.per_item == pytest.approx(wanted.tolist(), abs=1e-12)


def test_resample_and_matched_controls_run_on_steps() -> None:
    x = inputs(16)
    subject = TorchModule(made(LIF, n=40), x[:1])
    task = TensorTask("first", x, None, metric=lambda out: out[:, 0])
    found = effect(subject, task, Intervention("spike.out[3]", "resample", positions=2))
    assert found.estimate.null is not None
    assert "same layer" in str(found.estimate.null)


def test_named_positions_of_a_task() -> None:
    x = inputs()
    subject = TorchModule(made(LinearRNN), x[:1])
    cue = torch.arange(12) % 5
    task = TensorTask("cue", x, None, metric=lambda out: out[:, 0], roles={"cue": cue, "go": -2})
    found = effect(subject, task, Intervention("step.out[0]", "zero", positions="cue"), control=None)
    each = [
        effect(subject, task, Intervention("step.out[0]", "zero", positions=t), control=None).per_item
        for t in range(5)
    ]
    assert found.per_item == pytest.approx([each[int(t)][i] for i, t in enumerate(cue)], abs=1e-6)
    go = effect(subject, task, Intervention("step.out[0]", "zero", positions="go"), control=None)
    assert go.per_item == pytest.approx(each[3], abs=1e-6)
    part = task.select([3, 4, 9])
    assert part.places(torch.arange(3), 5)["cue"].tolist() == [3, 4, 4]
    last = effect(subject, task, Intervention("readout.out[0]", "zero", positions="end"), control=None)
    assert last.changed == 0.0
    with pytest.raises(PatchclampError, match=r"'go': is one of the inputs' 5 positions, and the site has 1"):
        effect(subject, task, Intervention("readout.out[0]", "zero", positions="go"), control=None)
    with pytest.raises(PatchclampError, match=r"'cue' is at position 7, and the inputs have 5"):
        effect(
            subject, TensorTask("far", x, None, metric=lambda out: out[:, 0], roles={"cue": 7}),
            Intervention("step.out[0]", "zero", positions="cue"), control=None,
        )  # fmt: skip
    with pytest.raises(PatchclampError, match=r"select nothing"):
        effect(subject, task, Intervention("step.out[0]", "zero", positions=5), control=None)


def test_a_block_applied_again_has_positions_for_each_application() -> None:
    model, x = made(Universal), inputs()
    subject = TorchModule(model, x[:1])
    assert subject.step("block.out", 0) == (0, 1, 2, 3, 4)
    assert subject.step("block.out", -1) == (15, 16, 17, 18, 19)
    with pytest.raises(PatchclampError, match="call 4 is asked for, and its module is called 4 times"):
        subject.step("block.out", 4)
    seen = subject.run(subject.batch(x), read=["block.out", "embed.out", "readout.in"]).activity
    assert torch.allclose(seen["block.out"][:, 15:].mean(1), seen["readout.in"][:, 0])
    task = TensorTask("first", x, None, metric=lambda out: out[:, 0])
    change = Intervention("block.out", "zero", positions=subject.step("block.out", 3))
    assert effect(subject, task, change, control=None).changed == pytest.approx(
        model.readout.bias[0].item(), abs=1e-6
    )


def test_a_module_that_stands_in_two_places_is_told() -> None:
    act = nn.ReLU()
    net = TorchModule(nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act), torch.zeros(1, 3))
    with pytest.raises(PatchclampError, match="no such module"):
        net.resolve("4.out")
    with pytest.raises(PatchclampError, match=r"3\.out: is the same module as 1, so .* positions of 1\.out"):
        net.resolve("3.out")
    (row,) = [row for row in net.sites() if str(row.site) == "1.out"]
    assert row.description == "output of the module, 2 calls side by side as positions; also stands at 3"
    x = torch.randn(5, 3)
    seen = net.run(net.batch(x), read=["1.out"]).activity["1.out"]
    assert torch.equal(seen[:, 1], net.model(x))
    wide = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 3), act)
    with pytest.raises(PatchclampError, match=r"1\.out: .*4 units and with 1 of 3.*a module of its own"):
        TorchModule(wide, torch.zeros(1, 3)).resolve("1.out")


def test_early_stopping_is_refused_where_items_differ() -> None:
    subject = TorchModule(made(Halting), torch.zeros(1, 1))
    two = torch.tensor([[0.0], [1.5]])
    assert subject.run(subject.batch(two), read=["add.out"]).activity["add.out"].shape == (2, 6, 1)
    says = r"add: is called 3 times in this pass, and 6 times when .* alone, so that its calls are no steps"
    fewer = subject.batch(torch.tensor([[3.0], [4.0]]))
    for attempt in (
        lambda: subject.run(fewer, read=["add.out"]),
        lambda: subject.run(fewer, write=[Edit("add.out", lambda a, b: a * 1.0)], logits="all"),
    ):
        with pytest.raises(PatchclampError, match=says):
            attempt()
    more = subject.batch(torch.tensor([[-3.0], [0.0]]))
    with pytest.raises(PatchclampError, match=r"add: is called more than 6 times in this pass"):
        subject.run(more, read=["add.out"])
    with pytest.raises(PatchclampError, match=r"add: is called 2 times in this pass, and 6 times"):
        edit = Edit("add.out", lambda a, b: torch.where(torch.arange(6)[None, :, None] == 1, 9.0, a))
        subject.run(subject.batch(two), write=[edit], logits="all")
    assert no_hooks(subject.model)


def test_training_mode_is_refused_before_anything_runs() -> None:
    model = made(LIF)
    model.add_module("drop", nn.Dropout(0.5))
    subject = open_subject(model.train(), example=inputs(1))
    for attempt in (
        lambda: subject.run(subject.batch(inputs()), logits="all"),
        lambda: attribution_patching(
            subject, TensorTask("t", inputs(), inputs(seed=1), lambda out: out[:, 0])
        ),
    ):
        with pytest.raises(PatchclampError, match=r"drop \(Dropout\) is in training mode"):
            attempt()
    with subject.evaluating():
        assert subject.run(subject.batch(inputs()), read=["fc.out"]).activity["fc.out"].shape == (12, 5, 10)


def test_autocast_around_a_pass_of_steps_does_not_reach_into_it() -> None:
    subject = TorchModule(made(CellLoop), inputs(1))
    plain = subject.run(subject.batch(inputs()), read=["cell.out"]).activity["cell.out"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = subject.run(subject.batch(inputs()), read=["cell.out"]).activity["cell.out"]
    assert torch.equal(plain, again)

"""The engine on modules and tiny models: reads are exact, edits act, stops stop, everything is restored."""

import pytest
import torch
from torch import nn

from hooks import no_hooks
from patchclamp.base.errors import PatchclampError
from patchclamp.intervene import effect
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.units import Site, Units
from patchclamp.subjects import Edit, LanguageModel, TensorTask, TorchModule, open_subject
from patchclamp.subjects.clamp.batch import right_pad


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(1, 3, 2)
        self.last = nn.Linear(12, 2)

    def forward(self, x):
        hidden = self.act(self.first(x))
        image = self.conv(hidden.reshape(len(x), 1, 2, 3))
        return self.last(torch.cat([hidden, image.flatten(1)], 1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return TorchModule(Net().eval(), torch.zeros(1, 4))


@pytest.fixture
def tiny():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config).eval())


def test_reads_are_what_the_modules_compute(net):
    x = torch.randn(5, 4)
    run = net.run(net.batch(x), read=net.resolve(["first.out", "conv.out", "act.in"]), logits="all")
    hidden = net.model.first(x)
    assert torch.equal(run.activity[Site("first", io="out")][:, 0], hidden)
    assert torch.equal(run.activity[Site("act", io="in")][:, 0], hidden)
    image = net.model.conv(hidden.relu().reshape(5, 1, 2, 3))
    assert torch.equal(run.activity[Site("conv", io="out")], image.flatten(2).transpose(1, 2))
    assert torch.equal(run.logits, net.model(x))
    assert no_hooks(net.model)


def test_edits_act_and_an_edit_with_the_own_value_changes_no_bit(net):
    x = torch.randn(3, 4)
    site = net.resolve("first.out")[0]
    same = net.run(net.batch(x), write=[Edit(site, lambda a, b: a.clone())], logits="all")
    assert torch.equal(same.logits, net.model(x))
    zeroed = net.run(net.batch(x), write=[Edit(site, lambda a, b: torch.zeros_like(a))], logits="all").logits
    hidden = torch.zeros(3, 6)
    image = net.model.conv(hidden.reshape(3, 1, 2, 3))
    assert torch.allclose(zeroed, net.model.last(torch.cat([hidden, image.flatten(1)], 1)))
    with pytest.raises(PatchclampError, match="changed the shape"):
        net.run(net.batch(x), write=[Edit(site, lambda a, b: a[:, :, :2])], logits="all")
    assert no_hooks(net.model)


def test_gradients_reach_hooks_and_no_parameter(net):
    x = torch.randn(3, 4)
    found = {}
    site = net.resolve("first.out")[0]

    def catch(tensor):
        tensor.register_hook(lambda g: found.update(grad=g))

    run = net.run(net.batch(x), read={site: catch}, logits="all", grad=True)
    run.logits[:, 0].sum().backward()
    assert found["grad"].shape == (3, 1, 6)
    assert all(p.grad is None and p.requires_grad for p in net.model.parameters())


def test_a_pass_stops_after_the_last_site(tiny):
    calls = []
    for layer in tiny.layers:
        layer.register_forward_hook(lambda *a: calls.append(1))
    tiny.run(tiny.batch([[1, 2, 3]]), read=[Site("mlp_act", 1), Site("resid_pre", 0)])
    assert len(calls) == 1  # the block of mlp_act.1 is left before it ends


def test_autocast_around_a_pass_does_not_reach_into_it(tiny):
    """The bare model's values move by up to a percent; ours are those of the model's own types."""
    batch = right_pad([[3, 4, 5, 6]])
    plain = tiny.run(batch, read=tiny.resolve("mlp_act.*"), logits="last")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = tiny.run(batch, read=tiny.resolve("mlp_act.*"), logits="last")
        bare = tiny.model(input_ids=batch.tokens).logits[:, -1]
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(plain.logits, under.logits)
    assert all(torch.equal(values, under.activity[site]) for site, values in plain.activity.items())
    assert not torch.equal(plain.logits.flatten(), bare.float().flatten())


def test_padding_and_partners_change_nothing_at_real_tokens(tiny):
    long, short = [5, 6, 7, 8, 9, 10], [11, 12]
    together = tiny.run(tiny.batch([long, short]), read=[Site("resid_post", 2)], logits="last")
    alone = tiny.run(tiny.batch([short]), read=[Site("resid_post", 2)], logits="last")
    assert torch.allclose(
        together.activity[Site("resid_post", 2)][1, :2], alone.activity[Site("resid_post", 2)][0], atol=1e-6
    )
    assert torch.allclose(together.logits[1], alone.logits[0], atol=1e-6)


def test_left_padding_is_honoured(tiny):
    right = tiny.batch([[5, 6, 7], [8]])
    left = type(right)(
        torch.tensor([[5, 6, 7], [0, 0, 8]]), torch.tensor([[1, 1, 1], [0, 0, 1]]).bool(), right.rows
    )
    a = tiny.run(right, logits="last").logits
    b = tiny.run(left, logits="last").logits
    assert torch.allclose(a, b, atol=1e-6)


def test_starting_at_a_layer_gives_the_same_result(tiny):
    batch = tiny.batch([[5, 6, 7, 8], [3, 2, 1]])
    full = tiny.run(batch, read=[Site("resid_pre", 2)], logits="last")
    stream = full.activity[Site("resid_pre", 2)]
    # The form of a block is learnt by a pass of its own, which no edit may see: here by the first resumed one.
    fresh = LanguageModel(tiny.model)
    edit = Edit(Site("mlp_out", 2), lambda a, b: a + len(b))
    resumed = fresh.run(batch, write=[edit], logits="last", start=(2, stream))
    assert torch.equal(resumed.logits, tiny.run(batch, write=[edit], logits="last").logits)
    assert torch.equal(tiny.run(batch, logits="last", start=(2, stream)).logits, full.logits)
    with pytest.raises(PatchclampError, match="would do nothing"):
        tiny.run(batch, write=[Edit(Site("head", 0), lambda a, b: a)], logits="last", start=(2, stream))
    assert no_hooks(tiny.model)


def test_a_resumed_pass_enters_with_the_stream_given_and_refuses_what_it_skips(tiny):
    batch = tiny.batch([[5, 6, 7, 8], [3, 2, 1]])
    stream = torch.randn(2, 4, 32)
    run = tiny.run(batch, read=[Site("resid_pre", 0)], logits="last", start=(0, stream))
    assert torch.equal(run.activity[Site("resid_pre", 0)], stream)
    with pytest.raises(PatchclampError, match=r"resid_post\.0: .* not computed"):
        tiny.run(batch, read=[Site("resid_post", 0)], start=(2, stream))
    inside = Site("model.layers.0.mlp", io="out")
    with pytest.raises(PatchclampError, match="would do nothing"):
        tiny.run(batch, write=[Edit(inside, lambda a, b: a)], logits="last", start=(2, stream))
    with pytest.raises(PatchclampError, match=r"layers 0\.\.2, not 3"):
        tiny.run(batch, logits="last", start=(3, stream))


def test_a_forward_that_a_block_had_of_its_own_is_put_back(tiny):
    block = tiny.model.model.layers[0]
    own = block.forward = block.forward
    tiny.run(tiny.batch([[5, 6]]), logits="last", start=(1, torch.randn(1, 2, 32)))
    assert block.__dict__["forward"] is own


def test_addresses_with_indices_are_checked_against_the_model(tiny):
    for wrong in ("mlp_act.9[1]", "mlp_act.1[48]"):
        with pytest.raises(PatchclampError, match="layers 0|units 0"):
            tiny.units(wrong)
        with pytest.raises(PatchclampError, match="layers 0|units 0"):
            tiny.resolve(wrong)
    with pytest.raises(PatchclampError, match=r"\[-1\]: mlp_act.1 has units 0\.\.47"):
        tiny.units(Site("mlp_act", 1)[-1])


def test_units_are_no_whole_site(tiny):
    """Where sites are asked for, an address of single units would widen to all of them in silence."""
    units = Units.parse("mlp_act.1[1,5]")
    for wrong in ("mlp_act.1[1,5], resid_post.0", ["resid_post.0", "mlp_act.1[1,5]"], units, units.each()):
        with pytest.raises(PatchclampError, match=r"mlp_act.1\[\S+: names single units.*give mlp_act.1"):
            tiny.resolve(wrong)
    assert tiny.resolve(Units.parse("mlp_act.1, resid_post.0")) == [Site("resid_post", 0), Site("mlp_act", 1)]


def test_a_metric_that_is_not_one_number_an_item_is_refused(net):
    task = TensorTask("mean", torch.randn(5, 4), None, lambda out: out.mean())
    pair = next(net.pairs(task))
    with pytest.raises(PatchclampError, match="one number an item"):
        pair.metric(net.run(pair.clean, logits="all").logits)
    with pytest.raises(PatchclampError, match="2 groups for 5 items"):
        TensorTask("mean", torch.randn(5, 4), None, lambda out: out[:, 0], ("a", "b"))


def test_writing_the_middle_of_the_stream_moves_the_skip_path_too(tiny):
    batch = tiny.batch([[5, 6, 7, 8]])
    shift = torch.randn(32)
    run = tiny.run(
        batch,
        write=[Edit(Site("resid_mid", 1), lambda a, b: a + shift)],
        read=[Site("resid_mid", 1), Site("mlp_out", 1), Site("resid_post", 1)],
    )
    before = tiny.run(batch, read=[Site("resid_mid", 1)]).activity[Site("resid_mid", 1)]
    mid = run.activity[Site("resid_mid", 1)]
    assert torch.allclose(mid, before + shift, atol=1e-6)
    assert torch.allclose(
        run.activity[Site("resid_post", 1)], mid + run.activity[Site("mlp_out", 1)], atol=1e-6
    )


def test_everything_is_restored_after_an_exception(tiny):
    def fail(tensor, batch):
        raise RuntimeError("from the user's edit")

    before = tiny.model.config._attn_implementation
    wanted = [p.requires_grad for p in tiny.model.parameters()]
    with pytest.raises(RuntimeError, match="user's edit"):
        tiny.run(
            tiny.batch([[1, 2]]),
            read=[Site("attn_probs", 0)],
            write=[Edit(Site("mlp_out", 1), fail)],
            logits="last",
            grad=True,
        )
    assert no_hooks(tiny.model)
    assert tiny.model.config._attn_implementation == before
    assert [p.requires_grad for p in tiny.model.parameters()] == wanted


def test_recording_changes_no_output_bit(tiny):
    batch = tiny.batch([[5, 6, 7, 8], [3, 2, 1, 9]])
    bare = tiny.model(input_ids=batch.tokens, use_cache=False).logits
    sites = [s for s in tiny.known_sites() if s.point != "attn_probs"]
    assert torch.equal(tiny.run(batch, read=sites, logits="all").logits, bare)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mlp_act.99", r"layers 0\.\.2; did you mean mlp_act.9|layers 0\.\.2"),
        ("router.0", "router"),
        ("resid_post.1/my-sae", "no dictionary named my-sae"),
        ("model.layers.1.mpl.out", "did you mean model.layers.1.mlp"),
    ],
)
def test_addresses_the_model_does_not_have(tiny, address, says):
    with pytest.raises(PatchclampError, match=says):
        tiny.resolve(address)


def test_indices_past_the_end_are_refused(tiny):
    with pytest.raises(PatchclampError, match=r"mlp_act\.1\[48\]: mlp_act\.1 has units 0\.\.47"):
        tiny.units("mlp_act.1[48]")
    assert tiny.width(Site("head", 0)) == 4
    assert tiny.unit_dim(Site("head", 0)) == 8


def test_wildcards_and_ranges(tiny):
    assert [str(s) for s in tiny.resolve("mlp_act.*")] == ["mlp_act.0", "mlp_act.1", "mlp_act.2"]
    assert [str(s) for s in tiny.resolve("head.1:3, embeddings")] == ["embeddings", "head.1", "head.2"]


def test_empty_rows_and_wrong_objects_are_refused():
    with pytest.raises(PatchclampError, match="sequence 1 is empty"):
        right_pad([[1], []])
    with pytest.raises(PatchclampError, match="example="):
        open_subject(nn.Linear(2, 2))
    with pytest.raises(PatchclampError, match="must be equal"):
        TensorTask("t", torch.ones(2, 3), torch.ones(1, 3), lambda out: out)


def test_an_output_with_named_parts_is_measured_by_its_logits() -> None:
    """The way out for a family without a row: transformers' own model as a module."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=20, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval()
    subject = TorchModule(model, torch.zeros(1, 4, dtype=torch.int64))
    tokens = torch.randint(0, 20, (10, 4), generator=torch.Generator().manual_seed(0))
    task = TensorTask("third token", tokens, None, metric=lambda out: out[:, -1, 3])
    found = effect(subject, task, Intervention("transformer.h.1.mlp.out", "zero"), control=None)
    with torch.no_grad():
        whole = model(tokens).logits[:, -1, 3].mean()
        model.transformer.h[1].mlp.c_proj.weight.zero_()
        model.transformer.h[1].mlp.c_proj.bias.zero_()
        cut = model(tokens).logits[:, -1, 3].mean()
    assert found.baseline == pytest.approx(float(whole), abs=1e-6)
    assert found.changed == pytest.approx(float(cut), abs=1e-6)


def test_an_address_may_be_a_string_wherever_it_is_a_site(tiny) -> None:
    batch = tiny.batch([[1, 2, 3]])
    site, probabilities = tiny.resolve("mlp_act.1")[0], Site("attn_probs", 1)
    named = tiny.run(batch, read=["mlp_act.1", "resid_post.*", "attn_probs.1"])
    plain = tiny.run(batch, read=[site, probabilities])
    assert torch.equal(named.activity["mlp_act.1"], plain.activity[site])
    assert torch.equal(named.activity[probabilities], plain.activity["attn_probs.1"])
    assert "resid_post.0" in named.activity
    assert "resid_pre.0" not in named.activity
    plain = tiny.run(batch, read="mlp_act.1")
    assert torch.equal(plain.activity["mlp_act.1"], tiny.run(batch, read=[site]).activity[site])
    halved = tiny.run(
        batch, read={"mlp_act.1": lambda t: t / 2}, write=[Edit("mlp_act.1", lambda t, b: 2 * t)]
    )
    assert torch.equal(halved.activity["mlp_act.1"], plain.activity[site])
    for asked in (tiny.width, tiny.unit_dim, tiny.place, tiny.alike):
        assert asked("mlp_act.1") == asked(site)
    assert torch.equal(tiny.output_matrix("mlp_act.1"), tiny.output_matrix(site))
    assert torch.equal(tiny.output_norms("mlp_act.1"), tiny.output_norms(site))
    with pytest.raises(PatchclampError, match="resid_pre.0: not among .*mlp_act.1"):
        named.activity["resid_pre.0"]
    with pytest.raises(PatchclampError, match="whole sites"):
        tiny.run(batch, read=["mlp_act.1[3]"])
    with pytest.raises(PatchclampError, match="did you mean mlp_act"):
        tiny.run(batch, read=["mlp_akt.1"])

"""`check_subject`: right tables pass, and every kind of wrong tensor, hook or model is caught by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from patchclamp.nouns.units import Site
from patchclamp.subjects import LanguageModel, TorchModule, VisionModel
from patchclamp.subjects.families.anatomy import Tap
from patchclamp.subjects.proof.check import CheckCard, Proof, check_subject
from patchclamp.subjects.proof.proofs import PROOFS

torch.set_num_threads(1)


def opened(name: str, dtype: torch.dtype = torch.float32) -> Any:
    model = tiny.tiny_model(name, dtype=dtype)
    return VisionModel(model, name) if name in tiny.VISION else LanguageModel(model, name=name)


def failures(subject: Any, fast: bool = False) -> dict[str, Proof]:
    return {proof.name: proof for proof in check_subject(subject, fast=fast).failures}


@pytest.mark.parametrize("name", sorted(tiny.ALL))
def test_every_family_passes(name: str) -> None:
    card = check_subject(opened(name))
    assert card.passed, str(card)
    assert [proof.name for proof in card.proofs] == list(PROOFS)
    skipped = {proof.name for proof in card.proofs if proof.status == "skip"}
    if name in tiny.VISION:
        assert skipped == {"right padding", "left padding"}
    else:
        assert skipped == ({"neurons project"} if name in ("mixtral", "olmoe") else set())


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "qwen3_moe", "bert"])
def test_bfloat16_passes_under_its_own_tolerances(name: str) -> None:
    card = check_subject(opened(name, torch.bfloat16))
    assert card.passed, str(card)
    assert card.dtype == "bfloat16"


def test_fast_leaves_out_the_costly_proofs() -> None:
    card = check_subject(opened("llama"), fast=True)
    assert card.passed
    assert {p.name for p in card.proofs} == {name for name, (_, quick) in PROOFS.items() if quick}
    assert {"parity", "finite values", "stream adds up", "right padding"} <= {p.name for p in card.proofs}


def test_model_without_head_skips_what_needs_one() -> None:
    card = check_subject(LanguageModel(tiny.tiny_model("llama").model))
    assert card.passed, str(card)
    assert {p.name for p in card.proofs if p.status == "skip"} == {
        "repeatable",
        "parity",
        "unembedding",
        "own values",
        "writes arrive",
    }


class Small(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 3, 2), norm, nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).flatten(1))


def test_plain_module_is_checked_as_far_as_it_goes() -> None:
    card = check_subject(TorchModule(Small(nn.ReLU()), torch.randn(1, 1, 3, 3)))
    passed = {p.name for p in card.proofs if p.status == "pass"}
    assert card.passed, str(card)
    assert {"repeatable", "parity", "plain hooks", "own values", "writes arrive"} <= passed
    learning = TorchModule(Small(nn.BatchNorm2d(3)), torch.randn(1, 1, 3, 3))
    assert "model.eval()" in failures(learning)["repeatable"].detail


# ---- what is wrong is caught


WRONG_TAPS = [
    # the mistakes of the field: a module's output with the stream already in it, before its norm, after its norm
    ("bloom", {"attn_out_post": Tap("self_attention", "out")}, "stream adds up"),
    ("bloom", {"attn_out": Tap("self_attention", "out")}, "heads sum"),
    ("bloom", {"mlp_out": Tap("mlp", "out")}, "neurons project"),
    ("gemma2", {"attn_out_post": Tap("self_attn", "out")}, "stream adds up"),
    ("olmo2", {"mlp_out_post": Tap("mlp", "out")}, "stream adds up"),
    ("llama", {"resid_mid": Tap("post_attention_layernorm", "out")}, "stream adds up"),
    ("llama", {"resid_pre": Tap("input_layernorm", "out")}, "stream is continuous"),
    ("bert", {"resid_mid": Tap("attention.output.dense", "out")}, "stream adds up"),
    ("llama", {"mlp_act": Tap("mlp.act_fn", "out")}, "neurons project"),
    ("phi3", {"mlp_act": Tap("mlp.activation_fn", "out")}, "neurons project"),
    ("gpt2", {"z": Tap("attn.c_proj", "out"), "head": Tap("attn.c_proj", "out")}, "heads sum"),
]


@pytest.mark.parametrize(("name", "taps", "proof"), WRONG_TAPS)
def test_wrong_tensor_is_caught(name: str, taps: dict[str, Tap], proof: str) -> None:
    subject = opened(name)
    subject.row = replace(subject.row, taps={**subject.row.taps, **taps})
    found = failures(subject, fast=True)
    assert proof in found and found[proof].figure > 0.05


def test_wrong_order_of_heads_is_caught() -> None:
    subject = opened("llama")

    def interleaved(z: Tensor) -> Tensor:  # d_head and heads exchanged
        return z.unflatten(-1, (z.shape[-1] // subject.n_heads, subject.n_heads)).transpose(-1, -2)

    subject.split_heads = interleaved
    assert "heads sum" in failures(subject, fast=True)


def test_forgotten_soft_cap_is_caught() -> None:
    subject = opened("gemma2")
    subject.row = replace(subject.row, logit_softcap=None)
    assert list(failures(subject, fast=True)) == ["unembedding"]


def test_write_without_effect_is_caught() -> None:
    subject = opened("mixtral")
    taps = {**subject.row.taps, "mlp_pre": Tap("mlp.gate", "out", 0)}
    subject.row = replace(subject.row, taps=taps, flat=("router", "mlp_pre"), missing={})
    found = failures(subject)
    assert "mlp_pre.0" in found["writes arrive"].detail


def test_tensor_changed_in_place_after_reading_is_no_trap() -> None:
    """Falcon overwrites mlp_out; the copy that is kept is the value at the time."""
    subject = opened("falcon")
    run = subject.run(
        subject.dummy(), read=subject.resolve("mlp_out.0, resid_pre.0, attn_out.0, resid_post.0")
    )
    seen = {str(site): value for site, value in run.activity.items()}
    total = seen["resid_pre.0"] + seen["attn_out.0"] + seen["mlp_out.0"]
    assert torch.allclose(total, seen["resid_post.0"], atol=1e-5)


def test_training_mode_is_caught() -> None:
    subject = opened("gpt2")
    subject.model.train()
    found = failures(subject, fast=True)
    assert "model.eval()" in found["repeatable"].detail


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-3 * torch.randn_like(x)


def test_model_that_does_not_repeat_itself_is_caught() -> None:
    subject = LanguageModel(tiny.tiny_model("gpt2"))
    subject.model.transformer.ln_f = nn.Sequential(subject.model.transformer.ln_f, Noisy())
    assert "repeatable" in failures(LanguageModel(subject.model), fast=True)


class Watched(nn.Linear):
    """Behaves otherwise while someone looks: fused or compiled modules do that."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.001 if self._forward_hooks or self._forward_pre_hooks else 1.0)


def test_module_that_changes_under_hooks_is_caught() -> None:
    model = tiny.tiny_model("llama")
    model.model.layers[1].mlp.down_proj.__class__ = Watched
    found = failures(LanguageModel(model))
    assert found["parity"].figure > 0


def test_nan_is_named_where_it_first_appears() -> None:
    model = tiny.tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    card = check_subject(LanguageModel(model), fast=True)
    found = {proof.name: proof for proof in card.failures}
    assert "first at mlp_act.1" in found["finite values"].detail
    assert json.loads(json.dumps(card.to_json(), allow_nan=False))["passed"] is False


def test_leak_from_padding_is_caught() -> None:
    model = tiny.tiny_model("llama")

    def leak(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out + out.mean(dim=1, keepdim=True)

    model.model.layers[1].register_forward_hook(leak)
    found = failures(LanguageModel(model))
    assert "right padding" in found and "left padding" in found


def test_leak_between_rows_is_caught() -> None:
    model = tiny.tiny_model("llama")
    model.model.layers[1].mlp.register_forward_hook(
        lambda module, args, out: out + out.mean(dim=0, keepdim=True)
    )
    assert "batching" in failures(LanguageModel(model))


# ---- the card


def test_card_is_data() -> None:
    card = check_subject(opened("llama"), fast=True)
    assert isinstance(card, CheckCard)
    plain = json.loads(json.dumps(card.to_json(), allow_nan=False))
    assert plain["passed"] and plain["family"] == "Llama" and plain["model"] == "llama"
    row = next(r for r in plain["sites"] if r["site"] == "mlp_act.1")
    assert row["module"] == "model.layers.1.mlp.down_proj.in" and row["width"] == 56
    head = next(r for r in plain["sites"] if r["site"] == "head.1")
    assert (head["width"], head["unit_dim"]) == (4, 12)
    assert next(p for p in plain["proofs"] if p["name"] == "parity")["tolerance"] == 0.0
    assert "all proofs hold" in str(card) and "stream adds up" in str(card)


def test_failed_card_says_so() -> None:
    subject = opened("llama")
    subject.row = replace(subject.row, taps={**subject.row.taps, "resid_mid": Tap("mlp", "in")})
    card = check_subject(subject, fast=True)
    assert not card.passed and "proofs fail" in str(card)
    worst = next(p for p in card.failures if p.name == "stream adds up")
    assert "worst at resid_" in worst.detail and str(worst).startswith("fail")
    assert Site("resid_mid", 0) in subject.known_sites()

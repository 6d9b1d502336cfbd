"""Which model a file speaks of: settings, weights in place, answers, files of an older version."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny
from patchclamp import LanguageModel, Recording, TorchModule, open_subject
from patchclamp.base.errors import PatchclampError
from patchclamp.measure import Moments
from patchclamp.record import measure_recording, record
from patchclamp.subjects.files.identity import HARMLESS, fingerprint, is_old, same_model
from record_subject import Letters, texts, tiny_subject

SLIDING = tiny.DECODERS["gemma3"].values
GEMMA3 = (tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, SLIDING)
QWEN3 = (tf.Qwen3ForCausalLM, tf.Qwen3Config, SLIDING | {"use_sliding_window": True, "max_window_layers": 0})
GPT2 = (tf.GPT2LMHeadModel, tf.GPT2Config, tiny.DECODERS["gpt2"].values)
SMOLLM3 = (tf.SmolLM3ForCausalLM, tf.SmolLM3Config, tiny.DECODERS["smollm3"].values)
TOKENS = torch.arange(3, 23)[None]


def made(kind: Any, config: Any, values: dict[str, Any]) -> Any:
    """A model whose weights do not depend on its settings."""
    model = kind(config(**values)).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.ndim > 1):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize(
    ("family", "change"),
    [
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}),
        (GPT2, {"scale_attn_weights": False}),
        (GEMMA3, {"layer_types": ["full_attention"] * 3}),
        (QWEN3, {"layer_types": ["full_attention"] * 3}),
        (SMOLLM3, {"no_rope_layers": [1, 0, 1]}),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else v[0].__name__,
)
def test_a_setting_that_changes_the_logits_changes_the_fingerprint(family: Any, change: Any) -> None:
    kind, config, values = family
    one, other = made(kind, config, values), made(kind, config, values | change)
    assert (logits(one) - logits(other)).abs().max() > 0.05
    assert fingerprint(one, version=1) == fingerprint(other, version=1), "which the first version did not see"
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(made(kind, config, values))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "qwen3", "opt", "bloom", "falcon", "mixtral"])
def test_what_is_called_harmless_is_harmless(name: str) -> None:
    """Every harmless setting that a family has, changed: not a bit of the logits moves, and the fingerprint stays."""
    spec = tiny.DECODERS[name]
    model = spec.build()
    want, mark, seen = logits(model), fingerprint(model), 0
    for key, value in model.config.to_dict().items():
        if key not in HARMLESS or key in spec.values and key != "pad_token_id":
            continue
        other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 0.25}.get(type(value))
        if other is None or key.startswith("output_") or key == "return_dict":
            continue
        changed = spec.model(spec.config(**(spec.values | {key: other(value)}))).eval()
        changed.load_state_dict(model.state_dict())
        assert torch.equal(logits(changed), want), key
        assert fingerprint(changed) == mark, key
        seen += 1
    assert seen >= 3


def test_weights_that_change_in_place_are_noticed(tmp_path: Path) -> None:
    subject = tiny_subject()
    before = subject.fingerprint
    kept = record(subject, texts(8), "mlp_act.1", store=tmp_path / "store", progress=False)
    measured = record(subject, texts(8), "mlp_act.1", progress=False)
    weight = subject.model.model.layers[1].mlp.up_proj.weight
    value = float(weight.detach()[3, 5])
    weight.data[3, 5] += 0.25  # past autograd, so that no version counter moves
    assert subject.fingerprint != before
    with pytest.raises(PatchclampError, match="model_fingerprint is 'v2-"):
        record(subject, texts(8), "mlp_act.1", store=tmp_path / "store", progress=False)
    with pytest.raises(PatchclampError, match="pass the model that was recorded"):
        measure_recording(measured, [Moments], subject)
    weight.data[3, 5] = value
    again = record(subject, texts(8), "mlp_act.1", store=tmp_path / "store", progress=False)
    assert torch.equal(torch.as_tensor(again["mlp_act.1"][:]), torch.as_tensor(kept["mlp_act.1"][:]))


def test_other_code_under_the_same_weights_is_another_model() -> None:
    model = tiny.tiny_model("llama")
    subject = LanguageModel(model, Letters())
    other = copy.deepcopy(model)
    other.model.layers[1].self_attn.scaling *= 1.5
    twin = LanguageModel(other, Letters())
    assert fingerprint(other) == fingerprint(model), "no hash of weights and config sees it"
    assert not twin.is_model(subject.fingerprint)
    assert LanguageModel(copy.deepcopy(model)).is_model(subject.fingerprint)


def test_activations_count_in_a_plain_module_and_the_example_does_not() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 8), nn.Linear(8, 2)
    one, other = nn.Sequential(first, nn.ReLU(), last), nn.Sequential(first, nn.Tanh(), last)
    subject = TorchModule(one, torch.zeros(1, 4))
    assert not TorchModule(other, torch.zeros(1, 4)).is_model(subject.fingerprint)
    assert TorchModule(copy.deepcopy(one), torch.ones(1, 4)).is_model(subject.fingerprint)


def test_answers_are_compared_within_rounding() -> None:
    mark = "v2-00~ab:4.258,0.075,-0.391"
    assert same_model(mark, "v2-00~ab:4.257,0.078,-0.391")
    assert not same_model(mark, "v2-00~ab:4.257,0.175,-0.391")
    assert same_model(mark, "v2-00~cd:1.0,2.0,3.0"), "another input has another answer"
    assert same_model(mark, "v2-00")
    assert not same_model(mark, "v2-00~ab:not finite")
    assert not same_model(mark, "v2-01~ab:4.258,0.075,-0.391")
    model = tiny.tiny_model("llama")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = LanguageModel(model).fingerprint
        torch.set_num_threads(2)
        assert LanguageModel(model).is_model(alone)
    finally:
        torch.set_num_threads(threads)
    half = LanguageModel(copy.deepcopy(model).bfloat16())
    assert not half.is_model(alone), "weights of another type are other weights"
    assert half.is_model(half.fingerprint)


def test_training_mode_does_not_change_it() -> None:
    subject = LanguageModel(tiny.tiny_model("gpt2"))
    mark = subject.fingerprint
    assert LanguageModel(subject.model.train()).fingerprint == mark


def test_a_store_of_an_older_version_still_opens_and_is_gone_on_with(tmp_path: Path) -> None:
    subject = tiny_subject()
    path = tmp_path / "store"
    kept = record(subject, texts(8), "mlp_act.1", store=path, progress=False)
    old = fingerprint(subject.model, version=1)
    assert is_old(old)
    assert not is_old(subject.fingerprint)
    text = (path / "zarr.json").read_text()
    assert subject.fingerprint in text
    found = json.loads(text.replace(subject.fingerprint, old))
    del found["attributes"]["patchclamp"]["digest"]  # which that version did not write
    (path / "zarr.json").write_text(json.dumps(found))
    assert Recording.open(path).manifest["model_fingerprint"] == old
    with pytest.warns(UserWarning, match="fingerprint is of an older version"):
        again = record(subject, texts(8), "mlp_act.1", store=path, progress=False)
    assert torch.equal(torch.as_tensor(again["mlp_act.1"][:]), torch.as_tensor(kept["mlp_act.1"][:]))
    assert measure_recording(again, [Moments], subject)
    other = tiny_subject(seed=1)
    with pytest.raises(PatchclampError, match=f"model_fingerprint is '{old}' there"):
        record(other, texts(8), "mlp_act.1", store=path, progress=False)


def saved(folder: Path, name: str = "llama") -> dict[str, Tensor]:
    tiny.tiny_model(name).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_a_checkpoint_without_some_tensors_is_refused(tmp_path: Path) -> None:
    state = saved(tmp_path)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PatchclampError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight, which Llama"):
        open_subject(str(tmp_path))


def test_a_checkpoint_without_a_tied_tensor_is_whole(tmp_path: Path) -> None:
    state = saved(tmp_path, "gpt2")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.get("tie_word_embeddings", True)
    assert "lm_head.weight" not in state
    assert open_subject(str(tmp_path)).fingerprint == LanguageModel(tiny.tiny_model("gpt2")).fingerprint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_nan_is_refused(tmp_path: Path, value: float) -> None:
    state = saved(tmp_path)
    state["model.layers.2.mlp.down_proj.weight"][3, 4] = value
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    says = r"model\.layers\.2\.mlp\.down_proj\.weight holds NaN or infinity \(1 of \d+ entries\)"
    with pytest.raises(PatchclampError, match=says):
        open_subject(str(tmp_path))
    shutil.rmtree(tmp_path)

"""GGUF files written from tiny random models give these models back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

import planted
from patchclamp.base.errors import PatchclampError
from patchclamp.subjects import open_subject
from patchclamp.subjects.files.gguf import LAYOUTS, load_gguf

QUANTISED = gguf.GGMLQuantizationType.Q8_0
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXTRA: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "tie_word_embeddings": False,
    },
    "qwen2": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5},
    "gemma3": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5},
}


def tiny(arch: str, **changes: Any) -> Any:
    layout = LAYOUTS[arch]
    torch.manual_seed(0)
    config = getattr(transformers, layout.config_class)(**(SIZES | EXTRA[arch] | changes))
    model = getattr(transformers, layout.model_class)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name else 0.05))
            if arch.startswith("gemma") and "norm" in name:
                # The file's convention is 1 + w, rounded: keep values for which that is exact.
                parameter.copy_((parameter * 256).round() / 256)
    return model


def write(model: Any, arch: str, path: Path, also: dict[str, Any] | None = None, skip: str = "") -> Path:
    """Write as llama.cpp's converter does: own names, Llama's rotary rows interleaved, Gemma's gains plus one."""
    layout, config = LAYOUTS[arch], model.config
    out = gguf.GGUFWriter(path, arch)
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", None):
        out.add_key_length(config.head_dim)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    out.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(rope["factor"])
    if getattr(config, "sliding_window", None) and arch.startswith("gemma"):
        out.add_sliding_window(config.sliding_window)
    names = {new: old for old, new in layout.names.items()}
    for name, parameter in model.named_parameters():
        value = parameter.detach().numpy()
        module, kind = name.rsplit(".", 1)
        if module.startswith("model.layers."):
            _, _, layer, part = module.split(".", 3)
            target = f"blk.{layer}.{names[part]}.{kind}"
        else:
            target = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[
                module
            ]
            target += f".{kind}"
        if layout.interleaved and (".attn_q." in target or ".attn_k." in target):
            heads = config.num_attention_heads if ".attn_q." in target else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        if layout.gain_plus_one and "norm" in target:
            value = value + 1
        if target != skip:
            out.add_tensor(target, np.ascontiguousarray(value))
    for name, value in (also or {}).items():
        if not isinstance(value, np.ndarray):
            out.add_uint32(name, value)
        else:
            out.add_tensor(name, value, raw_dtype=QUANTISED if value.dtype == np.uint8 else None)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.mark.parametrize("arch", LAYOUTS)
def test_logits_come_back_bit_for_bit(arch: str, tmp_path: Path) -> None:
    model = tiny(arch)
    loaded = load_gguf(write(model, arch, tmp_path / "m.gguf"))
    tokens = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert not loaded.training
    assert type(loaded) is type(model)


def test_attention_biases_of_llama_are_permuted_too(tmp_path: Path) -> None:
    model = tiny("llama", attention_bias=True)
    loaded = load_gguf(write(model, "llama", tmp_path / "m.gguf"))
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_frequency_factors_reproduce_llama3_scaling(tmp_path: Path) -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    rope = {"rope_type": "llama3", "rope_theta": 10000.0} | scaling
    model = tiny("llama", rope_parameters=rope)
    plain = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy()
    assert factors.max() > 2
    loaded = load_gguf(write(model, "llama", tmp_path / "m.gguf", {"rope_freqs.weight": factors}))
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-5)
        factorless = load_gguf(write(model, "llama", tmp_path / "n.gguf"))(tokens).logits
    assert (factorless - model(tokens).logits).abs().max() > 1e-3


def test_quantised_weights_are_those_of_the_gguf_package(tmp_path: Path) -> None:
    model = tiny("qwen3")
    packed = gguf.quantize(model.model.layers[0].mlp.gate_proj.weight.detach().numpy(), QUANTISED)
    out = {"blk.0.ffn_gate.weight": packed}
    loaded = load_gguf(write(model, "qwen3", tmp_path / "m.gguf", out, skip="blk.0.ffn_gate.weight"))
    found = loaded.get_parameter("model.layers.0.mlp.gate_proj.weight").detach().numpy()
    assert np.array_equal(found, gguf.dequantize(packed, QUANTISED))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = write(tiny("qwen3"), "qwen3", tmp_path / "m.gguf", skip="blk.0.ffn_down.weight")
    with pytest.raises(PatchclampError, match=r"lacks model\.layers\.0\.mlp\.down_proj\.weight"):
        load_gguf(path)


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ({"blk.0.extra.weight": np.zeros((4, 4), np.float32)}, r"blk\.0\.extra\.weight has no place"),
        ({"surprise.weight": np.zeros((4, 4), np.float32)}, r"surprise\.weight has no place"),
        ({"llama.expert_count": 8}, "mixtures of experts"),
        ({"llama.rope.dimension_count": 4}, "part of a head"),
    ],
)
def test_what_is_not_understood_is_refused(also: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PatchclampError, match=message):
        load_gguf(write(tiny("llama"), "llama", tmp_path / "m.gguf", also))


def test_other_architectures_are_refused_with_the_list(tmp_path: Path) -> None:
    out = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    with pytest.raises(PatchclampError, match="'mamba' cannot be read.*llama, qwen2, qwen3, gemma2, gemma3"):
        load_gguf(tmp_path / "m.gguf")


def test_files_that_are_not_gguf_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a model" * 20)
    with pytest.raises(PatchclampError, match="not a readable GGUF"):
        load_gguf(tmp_path / "m.gguf")
    (tmp_path / "e.gguf").write_bytes(b"")
    with pytest.raises(PatchclampError, match="not a readable GGUF"):
        load_gguf(tmp_path / "e.gguf")
    with pytest.raises(PatchclampError, match="no such file"):
        load_gguf(tmp_path / "none.gguf")


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_opened_again_it_is_not_read_again(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path / "cache"))
    factors = {"rope_freqs.weight": np.array([1, 1, 2, 4], np.float32)} if arch == "llama" else {}
    file = write(tiny(arch), arch, tmp_path / "m.gguf", factors)
    tokens = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(1))
    words = planted.tokenizer()
    with torch.no_grad():
        first, fresh = open_subject(file, tokenizer=words), load_gguf(file)(tokens).logits
        assert torch.equal(first.model(tokens).logits, fresh)

        def refuse(*a: object) -> None:
            raise AssertionError("the file was read again")

        monkeypatch.setattr(gguf, "GGUFReader", refuse)
        second = open_subject(file, tokenizer=words)
        assert torch.equal(second.model(tokens).logits, fresh)
        assert type(second.model) is type(first.model)
    monkeypatch.undo()
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PatchclampError, match="tokenizer"):
        open_subject(file)
    assert first.fingerprint == second.fingerprint
    assert not second.model.training


def test_another_file_of_the_same_name_is_converted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path / "cache"))
    words, found = planted.tokenizer(), []
    for changes in ({}, {"rms_norm_eps": 1e-3}):
        file = write(tiny("qwen3", **changes), "qwen3", tmp_path / "m.gguf")
        found.append(open_subject(file, tokenizer=words))
    assert found[0].fingerprint != found[1].fingerprint
    assert len(list((tmp_path / "cache" / "gguf").iterdir())) == 2
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path / "m.gguf" / "no folder"))
    assert open_subject(file, tokenizer=words).fingerprint == found[1].fingerprint

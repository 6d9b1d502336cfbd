"""Dictionaries of other libraries, read here and compared to their own arithmetic, re-implemented small from it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear, relu

from format_toys import (
    FEATURES,
    GATE,
    OUT,
    RANDOM,
    THRESHOLD,
    UNITS,
    W,
    X,
    close,
    normal,
    saelens,
    saelens_gated,
    saelens_jumprelu,
    saelens_standard,
    saelens_topk,
    topk,
)
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import load_dictionary


@pytest.mark.parametrize("apply", [True, False])
@pytest.mark.parametrize(
    ("architecture", "extra", "more", "theirs"),
    [
        ("standard", {}, {}, saelens_standard),
        ("topk", {"k": 4}, {}, saelens_topk),
        ("standard", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}, {}, saelens_topk),
        ("jumprelu", {}, {"threshold": THRESHOLD}, saelens_jumprelu),
        ("gated", {}, GATE, saelens_gated),
    ],
)
def test_saelens_autoencoders(
    tmp_path: Path,
    architecture: str,
    extra: dict[str, Any],
    more: dict[str, Tensor],
    theirs: Callable[[Tensor, Tensor], Tensor],
    apply: bool,
) -> None:
    tensors = {**W, **more}
    if architecture == "gated":
        tensors.pop("b_enc")
    cfg = {"architecture": architecture, "apply_b_dec_to_input": apply, **extra}
    found = load_dictionary(saelens(tmp_path, cfg, tensors))
    codes = theirs(X, W["b_dec"] * apply)
    assert str(found.site) == "resid_pre.5"
    assert 0 < int((codes > 0).sum()) < codes.numel()
    assert close(found.encode(X), codes)
    assert close(found.reconstruct(X), codes @ W["W_dec"] + W["b_dec"])
    assert close(found.encode_sparse(X).to_dense(), codes)


def test_saelens_topk_of_rescaled_activity_is_folded(tmp_path: Path) -> None:
    found = load_dictionary(
        saelens(tmp_path, {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True}, W)
    )
    norm = W["W_dec"].norm(dim=-1)
    codes = topk(((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]) * norm, 4)
    plain = topk((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"], 4)
    assert not torch.equal(codes > 0, plain > 0)  # the norms change which features are chosen
    assert close(found.encode(X), codes)
    assert close(found.reconstruct(X), (codes / norm) @ W["W_dec"] + W["b_dec"])
    assert torch.allclose(found.directions.norm(dim=1), torch.ones(FEATURES), atol=1e-5)


def test_saelens_normalisations(tmp_path: Path) -> None:
    x = X * 3 + 1
    cfg = {"architecture": "standard", "normalize_activations": "constant_norm_rescale"}
    found = load_dictionary(saelens(tmp_path / "a", cfg, W))
    factor = UNITS**0.5 / x.norm(dim=-1, keepdim=True)
    codes = saelens_standard(x * factor, W["b_dec"])
    assert close(found.encode(x), codes)
    assert torch.allclose(
        found.reconstruct(x), (codes @ W["W_dec"] + W["b_dec"]) / factor, rtol=1e-4, atol=1e-4
    )
    with pytest.raises(PatchclampError, match="reconstruct"):
        found.decode(codes)

    cfg = {"architecture": "standard", "normalize_activations": "layer_norm"}
    found = load_dictionary(saelens(tmp_path / "b", cfg, W))
    mean = x.mean(-1, keepdim=True)
    deviation = (x - mean).std(-1, keepdim=True)
    codes = saelens_standard((x - mean) / (deviation + 1e-5), W["b_dec"])
    assert close(found.encode(x), codes)
    assert torch.allclose(
        found.reconstruct(x), (codes @ W["W_dec"] + W["b_dec"]) * deviation + mean, rtol=1e-4, atol=1e-4
    )


def test_saelens_finetuning_factor_multiplies_what_is_decoded_only(tmp_path: Path) -> None:
    factor = 1 + torch.rand(FEATURES, generator=RANDOM)
    cfg = {"architecture": "standard", "finetuning_scaling_factor": True}
    found = load_dictionary(saelens(tmp_path, cfg, {**W, "finetuning_scaling_factor": factor}))
    codes = saelens_standard(X, W["b_dec"])
    assert close(found.encode(X), codes)
    assert close(found.reconstruct(X), (codes * factor) @ W["W_dec"] + W["b_dec"])


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder", "jumprelu_transcoder"])
def test_saelens_transcoders_never_subtract_b_dec(tmp_path: Path, architecture: str) -> None:
    tensors = {**W, "W_dec": normal(FEATURES, OUT), "b_dec": normal(OUT)}
    if "skip" in architecture:
        tensors["W_skip"] = normal(OUT, UNITS)
    if "jumprelu" in architecture:
        tensors["threshold"] = THRESHOLD
    hooks = {"hook_name": "blocks.5.hook_resid_mid", "hook_name_out": "blocks.5.hook_resid_post"}
    found = load_dictionary(saelens(tmp_path, {"architecture": architecture, "metadata": hooks}, tensors))
    pre = X @ W["W_enc"] + W["b_enc"]
    codes = relu(pre) * (pre > THRESHOLD) if "jumprelu" in architecture else relu(pre)
    out = codes @ tensors["W_dec"] + tensors["b_dec"]
    out = out + X @ tensors["W_skip"].T if "skip" in architecture else out
    assert (str(found.site), str(found.target)) == ("resid_mid.5", "resid_post.5")
    assert close(found.encode(X), codes)
    assert close(found.reconstruct(X), out)


# ---- dictionary_learning: linear layers are stored transposed
def learned(folder: Path, tensors: dict[str, Any], **trainer: Any) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / "ae.pt")
    trainer = {"submodule_name": "resid_post_layer_8", **trainer}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    return folder


LAYERS = {"encoder.weight": W["W_enc"].T.contiguous(), "encoder.bias": W["b_enc"]}


LAYERS |= {"decoder.weight": W["W_dec"].T.contiguous()}


def test_dictionary_learning_standard(tmp_path: Path) -> None:
    found = load_dictionary(learned(tmp_path, {**LAYERS, "bias": W["b_dec"]}, dict_class="AutoEncoder"))
    codes = relu(linear(X - W["b_dec"], LAYERS["encoder.weight"], LAYERS["encoder.bias"]))
    assert str(found.site) == "resid_post.8"
    assert close(found.encode(X), codes)
    assert close(found.decode(codes), linear(codes, LAYERS["decoder.weight"]) + W["b_dec"])


def test_dictionary_learning_new_standard_does_not_centre(tmp_path: Path) -> None:
    tensors = {**LAYERS, "decoder.bias": W["b_dec"]}
    found = load_dictionary(learned(tmp_path, tensors, dict_class="AutoEncoderNew"))
    codes = relu(linear(X, LAYERS["encoder.weight"], LAYERS["encoder.bias"]))
    assert close(found.encode(X), codes)
    assert close(found.decode(codes), linear(codes, LAYERS["decoder.weight"], W["b_dec"]))


def test_dictionary_learning_topk_and_batch_topk_are_told_apart_by_their_class(tmp_path: Path) -> None:
    tensors = {**LAYERS, "b_dec": W["b_dec"], "k": torch.tensor(4), "threshold": torch.tensor(1.5)}
    pre = relu(linear(X - W["b_dec"], LAYERS["encoder.weight"], LAYERS["encoder.bias"]))
    top = load_dictionary(learned(tmp_path / "a", tensors, dict_class="AutoEncoderTopK"))
    assert close(top.encode(X), topk(pre, 4))
    batch = load_dictionary(learned(tmp_path / "b", tensors, dict_class="BatchTopKSAE"))
    assert close(batch.encode(X), pre * (pre > 1.5))
    # One sample's code does not depend on the batch it is in.
    assert close(batch.encode(X[:1]), batch.encode(X)[:1])
    with pytest.raises(PatchclampError, match="dict_class"):
        load_dictionary(learned(tmp_path / "c", tensors))


def test_dictionary_learning_matryoshka(tmp_path: Path) -> None:
    tensors = {
        **W,
        "k": torch.tensor(4),
        "threshold": torch.tensor(1.5),
        "group_sizes": torch.tensor([20, 20]),
    }
    found = load_dictionary(learned(tmp_path, tensors, dict_class="MatryoshkaBatchTopKSAE"))
    pre = relu((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"])
    assert close(found.encode(X), pre * (pre > 1.5))


def test_dictionary_learning_jumprelu_and_gated_scale_codes_by_the_decoder(tmp_path: Path) -> None:
    found = load_dictionary(
        learned(tmp_path / "a", {**W, "threshold": THRESHOLD}, dict_class="JumpReluAutoEncoder")
    )
    norm = W["W_dec"].norm(dim=1)
    pre = X @ W["W_enc"] + W["b_enc"]
    codes = relu(pre * (pre > THRESHOLD)) * norm
    assert close(found.encode(X), codes)
    assert close(found.decode(codes), (codes / norm) @ W["W_dec"] + W["b_dec"])

    layers = {name: t for name, t in LAYERS.items() if name != "encoder.bias"} | {"decoder_bias": W["b_dec"]}
    gate = {"gate_bias": GATE["b_gate"], "mag_bias": GATE["b_mag"], "r_mag": GATE["r_mag"]}
    found = load_dictionary(learned(tmp_path / "b", {**layers, **gate}, dict_class="GatedAutoEncoder"))
    inner = linear(X - W["b_dec"], LAYERS["encoder.weight"])
    codes = (inner + GATE["b_gate"] > 0) * relu(GATE["r_mag"].exp() * inner + GATE["b_mag"]) * norm
    assert close(found.encode(X), codes)
    assert close(found.decode(codes), linear(codes / norm, LAYERS["decoder.weight"]) + W["b_dec"])


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    tmp_path.joinpath("ae.pt").write_bytes(pickle.dumps({"bias": Payload()}, protocol=2))
    with pytest.raises(PatchclampError, match="more than tensors"):
        load_dictionary(tmp_path, site="resid_post.8")
    assert not (tmp_path / "ran").exists()


# ---- sparsify
@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify(tmp_path: Path, transcode: bool) -> None:
    folder = tmp_path / "layers.7.mlp"
    folder.mkdir()
    skip = normal(UNITS, UNITS)
    tensors = {"encoder.weight": LAYERS["encoder.weight"], "encoder.bias": W["b_enc"], "W_dec": W["W_dec"]}
    tensors |= {"b_dec": W["b_dec"], "W_skip": skip}
    save_file(tensors, folder / "sae.safetensors")
    cfg = {"d_in": UNITS, "k": 5, "activation": "topk", "transcode": transcode, "skip_connection": True}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    found = load_dictionary(folder, site="resid_mid.7" if transcode else None)
    codes = topk(linear(X if transcode else X - W["b_dec"], tensors["encoder.weight"], W["b_enc"]), 5)
    assert str(found.target) == "mlp_out.7"
    assert str(found.site) == ("resid_mid.7" if transcode else "mlp_out.7")
    assert close(found.encode(X), codes)
    assert close(found.reconstruct(X), codes @ W["W_dec"] + W["b_dec"] + X @ skip.mT)
    (folder / "cfg.json").write_text(json.dumps({**cfg, "activation": "groupmax"}))
    with pytest.raises(PatchclampError, match="groupmax"):
        load_dictionary(folder, site="resid_mid.7")


# ---- circuit-tracer
def traced(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    yaml = pytest.importorskip("yaml")
    folder.mkdir(exist_ok=True)
    config = {
        "model_kind": "transcoder_set",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_resid_post",
        **config,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    weights = {**W, "W_enc": W["W_enc"].T.contiguous(), **tensors}
    save_file(weights, folder / "layer_3.safetensors")
    return folder / "layer_3.safetensors"


def test_circuit_tracer(tmp_path: Path) -> None:
    pre = linear(X, W["W_enc"].T, W["b_enc"])
    skip = normal(UNITS, UNITS)
    found = load_dictionary(traced(tmp_path / "a", {"W_skip": skip}))
    assert (str(found.site), str(found.target)) == ("resid_mid.3", "resid_post.3")
    assert close(found.encode(X), relu(pre))
    assert close(found.reconstruct(X), relu(pre) @ W["W_dec"] + W["b_dec"] + X @ skip.T)
    thresholds = {"activation_function.threshold": THRESHOLD}
    found = load_dictionary(traced(tmp_path / "b", thresholds).parent)
    assert close(found.encode(X), pre * (pre > THRESHOLD))
    found = load_dictionary(traced(tmp_path / "c", {}, activation="topk", k=4))
    gate = torch.zeros_like(pre).scatter(-1, pre.topk(4, dim=-1).indices, 1.0)
    assert close(found.encode(X), pre * gate)
    with pytest.raises(PatchclampError, match="negative"):
        load_dictionary(traced(tmp_path / "d", {"activation_function.threshold": THRESHOLD - 1}))
    with pytest.raises(PatchclampError, match="cross_layer_transcoder"):
        load_dictionary(traced(tmp_path / "e", {}, model_kind="cross_layer_transcoder"))
    with pytest.raises(PatchclampError, match="give target="):
        load_dictionary(traced(tmp_path / "f", {}, feature_output_hook="hook_nowhere"))


# ---- GemmaScope
def test_gemma_scope(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "params.npz", **{name: t.numpy() for name, t in W.items()}, threshold=THRESHOLD.numpy()
    )
    found = load_dictionary(tmp_path, site="resid_post.20")
    pre = X @ W["W_enc"] + W["b_enc"]
    codes = (pre > THRESHOLD) * relu(pre)
    assert close(found.encode(X), codes)
    assert close(found.decode(codes), codes @ W["W_dec"] + W["b_dec"])
    assert torch.equal(
        load_dictionary(tmp_path / "params.npz", site="resid_post.20").encode(X), found.encode(X)
    )
    with pytest.raises(PatchclampError, match="give site="):
        load_dictionary(tmp_path)

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
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear, relu

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import load_dictionary
from patchclamp.decompose.dictionaries import SparseDictionary

UNITS, FEATURES, OUT = 12, 40, 9
RANDOM = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RANDOM)


X = normal(30, UNITS)
# Free rows of uneven norm, so that a forgotten folding shows.
W = {"W_enc": normal(UNITS, FEATURES), "b_enc": 0.3 * normal(FEATURES)}
W |= {"W_dec": normal(FEATURES, UNITS) * (0.2 + torch.rand(FEATURES, 1)), "b_dec": normal(UNITS)}
THRESHOLD = torch.rand(FEATURES, generator=RANDOM) * 2
GATE = {"b_gate": normal(FEATURES), "b_mag": normal(FEATURES), "r_mag": 0.3 * normal(FEATURES)}


def topk(pre: Tensor, k: int) -> Tensor:
    values, places = relu(pre).topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, places, values)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def saelens(folder: Path, cfg: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {
        "d_in": UNITS,
        "d_sae": FEATURES,
        "dtype": "float32",
        "metadata": {"hook_name": "blocks.5.hook_resid_pre"},
    } | cfg
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "sae_weights.safetensors")
    return folder


# ---- SAELens: x - b_dec * apply, encode, decode


def saelens_standard(x: Tensor, b: Tensor) -> Tensor:
    return relu((x - b) @ W["W_enc"] + W["b_enc"])


def saelens_topk(x: Tensor, b: Tensor) -> Tensor:
    return topk((x - b) @ W["W_enc"] + W["b_enc"], 4)


def saelens_jumprelu(x: Tensor, b: Tensor) -> Tensor:
    pre = (x - b) @ W["W_enc"] + W["b_enc"]
    return relu(pre) * (pre > THRESHOLD).float()


def saelens_gated(x: Tensor, b: Tensor) -> Tensor:
    active = ((x - b) @ W["W_enc"] + GATE["b_gate"] > 0).float()
    return active * relu((x - b) @ (W["W_enc"] * GATE["r_mag"].exp()) + GATE["b_mag"])


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


# ---- writing


def ours(activation: str, **changes: Any) -> SparseDictionary:
    more: dict[str, Any] = {
        "topk": {"k": 4},
        "batchtopk": {"k": 4, "threshold": 1.5},
        "jumprelu": {"threshold": THRESHOLD},
        "gated": GATE,
    }.get(activation, {})
    return SparseDictionary(
        "resid_post.2", **W, activation=activation, **{**more, **changes}, meta={"seed": 3}
    )


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu", "gated"])
@pytest.mark.parametrize("skip", [False, True])
def test_what_is_saved_and_read_back_encodes_the_same_bits(
    tmp_path: Path, activation: str, skip: bool
) -> None:
    changes = {"W_skip": normal(UNITS, UNITS), "target": "mlp_out.2", "apply_b_dec_to_input": False}
    dictionary = ours(activation, **(changes if skip else {}))
    back = load_dictionary(dictionary.save(tmp_path / "x"))
    assert isinstance(back, SparseDictionary)
    assert torch.equal(back.encode(X), dictionary.encode(X))
    assert torch.equal(back.reconstruct(X), dictionary.reconstruct(X))
    assert (back.site, back.target, back.meta) == (dictionary.site, dictionary.target, dictionary.meta)
    assert back.settings() == dictionary.settings()
    assert {n: tuple(t.shape) for n, t in back.state().items()} == {
        n: tuple(t.shape) for n, t in dictionary.state().items()
    }


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu", "gated"])
def test_what_is_written_is_saelens_own_layout(tmp_path: Path, activation: str) -> None:
    """Without our block in the config, SAELens' arithmetic on the file gives the same codes."""
    dictionary = ours(activation)
    dictionary.save(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    wanted = {"W_enc", "W_dec", "b_dec"} | (set(GATE) if activation == "gated" else {"b_enc"})
    assert set(tensors) == wanted | ({"threshold"} if activation in ("batchtopk", "jumprelu") else set())
    assert cfg["metadata"]["hook_name"] == "blocks.2.hook_resid_post"
    theirs = {"relu": "standard", "batchtopk": "jumprelu"}.get(activation, activation)
    assert cfg["architecture"] == theirs
    del cfg["patchclamp"]
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    assert torch.equal(load_dictionary(tmp_path).encode(X), dictionary.encode(X))


def test_what_saelens_has_no_architecture_for_is_written_under_a_name_it_refuses(tmp_path: Path) -> None:
    ours("topk", target="mlp_out.2", apply_b_dec_to_input=False).save(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["architecture"] == "patchclamp.sparse"
    del cfg["patchclamp"]
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(PatchclampError, match="is not read"):
        load_dictionary(tmp_path)


# ---- SparseDictionary itself


def test_sparse_codes_never_hold_more_than_a_piece_of_the_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from patchclamp.decompose.dictionaries import sparse_dictionary

    seen: list[int] = []
    original = SparseDictionary.pre_activations

    def watch(self: SparseDictionary, activity: Tensor) -> Tensor:
        seen.append(len(activity) * self.n_features)
        return original(self, activity)

    monkeypatch.setattr(sparse_dictionary, "DENSE_ENTRIES", 7 * FEATURES)
    monkeypatch.setattr(SparseDictionary, "pre_activations", watch)
    for activation in ("topk", "relu"):
        dictionary = ours(activation)
        codes = dictionary.encode_sparse(X)
        assert max(seen) <= 7 * FEATURES
        assert close(
            codes.to_dense(),
            original(dictionary, X).relu() if activation == "relu" else topk(original(dictionary, X), 4),
        )
    assert len(ours("topk").encode_sparse(X[:0])) == 0


def test_unit_directions_keep_the_output_and_r_mag_is_not_scaled() -> None:
    for activation in ("relu", "jumprelu", "gated", "batchtopk"):
        dictionary = ours(activation)
        folded = dictionary.unit_directions()
        assert close(folded.reconstruct(X), dictionary.reconstruct(X))
        assert torch.equal(folded.encode(X) > 0, dictionary.encode(X) > 0)


def test_encoding_is_differentiable() -> None:
    x = X.clone().requires_grad_()
    ours("topk").encode(x).sum().backward()
    assert x.grad is not None
    active = (ours("topk").encode(X) > 0).float()
    assert close(x.grad, active @ W["W_enc"].T)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "topk"}, "needs k"),
        ({"activation": "jumprelu"}, "needs threshold"),
        ({"activation": "tok"}, "did you mean topk"),
        ({"activation": "topk", "k": FEATURES + 1}, "there are 40 features"),
        ({"b_enc": torch.zeros(3)}, r"b_enc is \(3,\)"),
        ({"W_dec": torch.full((FEATURES, UNITS), float("nan"))}, "W_dec holds NaN"),
        ({"W_dec": torch.zeros(FEATURES, OUT), "b_dec": None}, "apply_b_dec_to_input"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PatchclampError, match=message):
        SparseDictionary("resid_post.2", **{**W, **changes})


def test_activity_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PatchclampError, match="12 units"):
        ours("relu").encode(torch.zeros(2, 13))
    with pytest.raises(PatchclampError, match="NaN"):
        ours("relu").encode(torch.full((2, UNITS), float("nan")))


def test_paths_without_a_dictionary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchclampError, match="no such file"):
        load_dictionary(tmp_path / "nowhere")
    with pytest.raises(PatchclampError, match="holds no dictionary"):
        load_dictionary(tmp_path)
    with pytest.raises(PatchclampError, match="one of saelens"):
        load_dictionary(tmp_path, layout="sealens")
    with pytest.raises(PatchclampError, match="architecture 'temporal'"):
        load_dictionary(saelens(tmp_path / "t", {"architecture": "temporal"}, W))
    with pytest.raises(PatchclampError, match="give site="):
        load_dictionary(saelens(tmp_path / "n", {"metadata": {}}, W))

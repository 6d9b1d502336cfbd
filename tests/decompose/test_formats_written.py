"""What is saved is SAELens' layout and encodes the same bits when it is read back; sparse codes themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from format_toys import (
    FEATURES,
    GATE,
    OUT,
    THRESHOLD,
    UNITS,
    W,
    X,
    close,
    normal,
    saelens,
    topk,
)
from patchclamp import Recording
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import PCA, TopK, load_dictionary
from patchclamp.decompose.dictionaries import SparseDictionary


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


def test_saelens_metadata_survive(tmp_path: Path) -> None:
    """Without a version SAELens takes the file for one from before 6.0, drops the block and sets prepend_bos."""
    first = ours("topk")
    first.meta["prepend_bos"] = False
    first.save(tmp_path / "a")
    cfg = json.loads((tmp_path / "a" / "cfg.json").read_text())
    about = dict(cfg["metadata"])
    assert about["hook_name"] == "blocks.2.hook_resid_post"
    assert about["prepend_bos"] is False
    assert int(about["sae_lens_version"].split(".")[0]) >= 6
    del cfg["patchclamp"]
    theirs = {"prepend_bos": False, "context_size": 128, "model_name": "gpt2", "neuronpedia_id": None}
    cfg["metadata"] |= theirs | {"sae_lens_version": "6.54.12"}
    (tmp_path / "a" / "cfg.json").write_text(json.dumps(cfg))
    load_dictionary(tmp_path / "a").save(tmp_path / "b")
    again = json.loads((tmp_path / "b" / "cfg.json").read_text())["metadata"]
    wanted = {**about, **{key: value for key, value in theirs.items() if value is not None}}
    assert again == wanted
    out = ours("relu", target="mlp_out.2", apply_b_dec_to_input=False)
    out.save(tmp_path / "c")
    written = json.loads((tmp_path / "c" / "cfg.json").read_text())["metadata"]
    assert written["hook_name_out"] == "mlp_out.2"
    assert "prepend_bos" not in written


@pytest.mark.parametrize(("bos", "said"), [("always", True), ("tokenizer: without", False), (None, None)])
def test_what_the_recording_says_of_bos_is_kept(bos: str | None, said: bool | None) -> None:
    manifest = {} if bos is None else {"bos": bos}
    recording = Recording.from_arrays({"resid_post.2": normal(60, UNITS)}, manifest=manifest)
    for estimator in (PCA(n_features=3), TopK(8, k=2, steps=3)):
        assert estimator.fit(recording).meta.get("prepend_bos") is said


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

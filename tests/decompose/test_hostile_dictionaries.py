"""Dictionaries of other hands that are not what they seem: odd configs, wrong shapes, weights cut short, in each layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import format_toys as toys
from format_toys import FEATURES, UNITS, W
from hostile import ODD, Case, as_json, child, spoiled, spots, with_value
from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary

pytestmark = pytest.mark.slow

TURNED = {"encoder.weight": W["W_enc"].T.contiguous(), "encoder.bias": W["b_enc"]}


def sparsify(folder: Path) -> None:
    cfg = {"k": 4, "num_latents": FEATURES, "d_in": UNITS, "transcode": False, "activation": "topk"}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file({**TURNED, "W_dec": W["W_dec"], "b_dec": W["b_dec"]}, folder / "sae.safetensors")


def dictionary_learning(folder: Path) -> None:
    state = {**TURNED, "decoder.weight": W["W_dec"].T.contiguous(), "b_dec": W["b_dec"], "k": torch.tensor(4)}
    torch.save(state, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "k": 4, "activation_dim": UNITS, "dict_size": FEATURES}
    trainer |= {"submodule_name": "resid_post_layer_8", "layer": 8}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))


def gemma_scope(folder: Path) -> None:
    np.savez(folder / "params.npz", **{k: v.numpy() for k, v in W.items()}, threshold=toys.THRESHOLD.numpy())


def circuit_tracer(folder: Path) -> None:
    save_file({**W, "W_enc": W["W_enc"].T.contiguous()}, folder / "layer_5.safetensors")
    hooks = "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    (folder / "config.yaml").write_text(f"model_kind: transcoder_set\n{hooks}")


def ours(folder: Path) -> None:
    SparseDictionary("resid_pre.5", **W, activation="topk", k=4).save(folder)


def sae(**cfg: object) -> Callable[[Path], None]:
    tensors = W | ({"threshold": toys.THRESHOLD} if cfg["architecture"] == "jumprelu" else {})
    return lambda folder: toys.saelens(folder, cfg, tensors) and None


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "standard": sae(
        architecture="standard", apply_b_dec_to_input=True, normalize_activations="none", hook_layer=5
    ),
    "topk": sae(architecture="topk", k=4),
    "jumprelu": sae(architecture="jumprelu"),
    "ours": ours,
    "layers.5": sparsify,
    "dictionary_learning": dictionary_learning,
    "gemma_scope": gemma_scope,
    "circuit_tracer": circuit_tracer,
}
MUST = ("architecture", "d_in", "d_sae", "k", "num_latents", "activation_dim", "dict_size", "dict_class")
"""Settings that the tensors decide: any other value is refused."""


def loading(name: str, path: Path, ends: tuple[int, ...] = (0, 2)) -> Case:
    site = ", site='resid_post.5'" if path.suffix == ".npz" or (path / "params.npz").exists() else ""
    python = (
        "import torch; from patchclamp.decompose.formats import load_dictionary\n"
        f"load_dictionary({str(path)!r}{site}).reconstruct(torch.ones(3, {UNITS}))"
    )
    return Case(name, python=python, files=[str(path)], ends=ends)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_was_edited_or_cut_is_refused(name: str, tmp_path: Path) -> None:
    good = tmp_path / "good" / name
    good.mkdir(parents=True)
    LAYOUTS[name](good)
    cases = [loading(f"{name} as it is", good, (0,))]

    def version(file: str, data: bytes, what: str, ends: tuple[int, ...] = (0, 2)) -> None:
        folder = tmp_path / str(len(cases)) / name
        shutil.copytree(good, folder)
        (folder / file).write_bytes(data)
        cases.append(loading(f"{name} {file} {what}", folder, ends))

    for file in sorted(good.iterdir()):
        for what, data in spoiled(file.read_bytes()).items():
            version(file.name, data, what)
        if file.suffix != ".json":
            continue
        config = json.loads(file.read_text())
        for number, where in enumerate(spots(config)[1:]):
            for value in ODD[number % 6 :: 6]:
                same = value is None or value == 4
                ends = (2,) if where[-1] in MUST and not same else (0, 2)
                version(file.name, as_json(with_value(config, where, value)), f"{where}={value!r}", ends)
    assert child().broken(cases) == []


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    spoil: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "a row less": lambda t: t[:-1], "NaN": lambda t: t * float("nan"), "one number": lambda t: t.sum(),
        "whole numbers": lambda t: t.long(), "nothing": lambda t: t[:0], "true and false": lambda t: t > 0,
    }  # fmt: skip
    cases = []
    for key, tensor in W.items():
        for what, change in spoil.items():
            tensors = W | {key: change(tensor)}
            folder = toys.saelens(tmp_path / f"{key} {what}", {"architecture": "standard"}, tensors)
            cases.append(loading(f"{key}: {what}", folder, (2,)))
            file = tmp_path / f"{key} {what}.npz"
            np.savez(file, **{k: v.numpy() for k, v in tensors.items()}, threshold=toys.THRESHOLD.numpy())
            cases.append(loading(f"npz {key}: {what}", file, (2,)))
    np.savez(tmp_path / "objects.npz", W_enc=np.array([{}, 1], dtype=object))
    np.savez(tmp_path / "texts.npz", **{k: v.numpy().astype("U") for k, v in W.items()})
    cases += [loading(file.name, file, (2,)) for file in (tmp_path / "objects.npz", tmp_path / "texts.npz")]
    assert child().broken(cases) == []

"""Model files that are not what they seem: folders of a checkpoint and GGUF files, cut short, edited or made up."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import planted
from hostile import ODD, Case, as_json, changed, child, spoiled, with_value

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(planted.save(tmp_path_factory.mktemp("models") / "good"))


def opening(name: str, path: Path, ends: tuple[int, ...] = (0, 2)) -> Case:
    """Open a model, and let it and its tokenizer work once."""
    python = (
        f"import torch; from patchclamp.subjects import open_subject; subject = open_subject({str(path)!r})\n"
        "subject.model(torch.tensor([[1, 2, 3]])); subject.tokenizer and subject.tokenizer('w1 w2')"
    )
    return Case(name, python=python, files=[str(path)], ends=ends)


def copy(good: Path, folder: Path, file: str, data: bytes) -> Path:
    shutil.copytree(good, folder)
    (folder / file).write_bytes(data)
    return folder


REFUSED: list[tuple[str, Any]] = [
    ("architectures", ["NoSuchModel"]), ("architectures", ["Trainer"]), ("architectures", [3]), ("architectures", "odd"),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}), ("quantization_config", 3),
    ("num_attention_heads", 0), ("num_attention_heads", 3), ("num_key_value_heads", 3), ("num_key_value_heads", -1),
    ("hidden_size", 130), ("hidden_size", 2**40), ("vocab_size", 10), ("vocab_size", 10**12), ("intermediate_size", -5),
    ("num_hidden_layers", -1), ("num_hidden_layers", 1), ("num_hidden_layers", 5), ("num_hidden_layers", 10**7),
    ("num_hidden_layers", 10**23), ("head_dim", 1), ("dtype", "odd"), ("model_type", []), ("max_position_embeddings", 0),
]  # fmt: skip
"""Settings that the weights beside them contradict, or that no model can have."""


def test_a_config_that_cannot_be_is_refused(good: Path, tmp_path: Path) -> None:
    config = json.loads((good / "config.json").read_text())
    cases = []
    for number, (key, value) in enumerate(REFUSED):
        folder = copy(good, tmp_path / f"a{number}", "config.json", as_json({**config, key: value}))
        cases.append(opening(f"{key}={value!r}", folder, (2,)))
    for number, key in enumerate(config):
        value = ODD[number * 5 % len(ODD)]
        folder = copy(
            good, tmp_path / f"b{number}", "config.json", as_json(with_value(config, (key,), value))
        )
        cases.append(opening(f"{key}={value!r}", folder))
    assert child().broken(cases) == []


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_file_that_was_cut_or_spoiled_is_refused(good: Path, tmp_path: Path, file: str) -> None:
    cases = []
    for name, data in spoiled((good / file).read_bytes()).items():
        cut = file == "model.safetensors" and name in ("empty", "head", "half", "all but one", "text")
        folder = copy(good, tmp_path / name, file, data)
        cases.append(opening(f"{file} {name}", folder, (2,) if cut else (0, 2)))
    assert child().broken(cases) == []


# ---- GGUF

SIZES = {"embedding_length": 8, "feed_forward_length": 12, "block_count": 1, "context_length": 32}


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A Llama of one layer with a tokenizer of a few characters."""
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    out = gguf.GGUFWriter(path, "llama")
    for key, value in SIZES.items():
        out.add_uint32(f"llama.{key}", value)
    out.add_head_count(2)
    out.add_layer_norm_rms_eps(1e-5)
    tokens = ["<s>", *"abcdefghijklmnopqrstuvw12", "ab"]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(tokens)
    out.add_token_types([3] + [1] * (len(tokens) - 1))
    out.add_token_merges(["a b"])
    out.add_bos_token_id(0)
    shapes = {
        "token_embd": (len(tokens), 8),
        "output_norm": (8,),
        "blk.0.attn_norm": (8,),
        "blk.0.ffn_norm": (8,),
    }
    shapes |= {f"blk.0.attn_{part}": (8, 8) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (12, 8), "blk.0.ffn_up": (12, 8), "blk.0.ffn_down": (8, 12)}
    for name, shape in shapes.items():
        out.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path.read_bytes()


def reading(name: str, path: Path, data: bytes, ends: tuple[int, ...] = (0, 2)) -> Case:
    """Read model and tokenizer of a GGUF file."""
    path.write_bytes(data)
    python = (
        "from patchclamp.subjects.files.gguf import load_gguf\n"
        "from patchclamp.subjects.files.gguf_tokenizer import load_gguf_tokenizer\n"
        f"load_gguf({str(path)!r}); load_gguf_tokenizer({str(path)!r})('ab 12')"
    )
    return Case(name, python=python, files=[str(path)], ends=ends)


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def test_what_a_gguf_head_declares_has_room_in_the_file(gguf_file: bytes, tmp_path: Path) -> None:
    data, made = gguf_file, b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    files = {"good": data}
    for count in (2**64 - 1, 2**60, 2**32, 10**7):
        number = struct.pack("<Q", count)
        files[f"{count} tensors"] = data[:8] + number + data[16:]
        files[f"{count} entries"] = data[:16] + number + data[24:]
        files[f"a key of {count}"] = data[:24] + number + data[32:]
        for kind in (0, 8, 9, 12, 99):
            array = entry(b"general.architecture", 9, struct.pack("<IQ", kind, count))
            files[f"an array of {count} of type {kind}"] = made + array + bytes(100)
    files["arrays in arrays"] = made + entry(b"x", 9, struct.pack("<IQ", 9, 1) * 3000)
    for shape in ((2**40,), (2**62, 4), (2**32, 2**32), (1,) * 9):
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        tensor = struct.pack("<Q", 1) + b"t" + sizes + struct.pack("<IQ", 0, 0)
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
        text = entry(b"general.architecture", 8, struct.pack("<Q", 5) + b"llama")
        files[f"a tensor of {shape}"] = head + text + tensor + bytes(200)
    files |= {name: part for name, part in spoiled(data).items() if name not in ("a byte more", "twice")}
    cases = []
    for number, (name, part) in enumerate(files.items()):
        fine = name in ("good", "middle of ones", "tail of ones")
        cases.append(reading(name, tmp_path / f"{number}.gguf", part, (0, 2) if fine else (2,)))
    outcomes = [child().run(case) for case in cases]
    assert [one.broken for one in outcomes if one.broken] == []
    assert outcomes[0].status == 0


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_gguf_file_ends_in_a_model_or_a_line(
    gguf_file: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    case = reading("changed", tmp_path / "changed.gguf", data.draw(changed(gguf_file)))
    assert not child().run(case).broken

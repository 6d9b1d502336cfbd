"""What a user may name as a model, and the fingerprint of its weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from patchclamp.base.errors import PatchclampError
from patchclamp.subjects.files.loading import fingerprint, load_model


def tiny_llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(
        **(sizes | {"num_attention_heads": 2, "num_key_value_heads": 1} | changes)
    )
    return transformers.LlamaForCausalLM(config).eval()


def test_a_module_is_handed_back_as_it_is() -> None:
    model = tiny_llama().train()
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    loaded = load_model(model, tokenizer="mine")
    assert loaded.model is model
    assert loaded.model.training
    assert (loaded.tokenizer, loaded.name) == ("mine", "LlamaForCausalLM")
    assert before == {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(PatchclampError, match=r"model\.to\(torch\.bfloat16\)"):
        load_model(model, dtype="bfloat16")
    with pytest.raises(PatchclampError, match="your object is left as it is"):
        load_model(model.to("meta"), device="cpu")


def test_a_folder(tmp_path: Path) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(tokens).logits, model(tokens).logits)
    assert loaded.tokenizer is None
    assert loaded.name == str(tmp_path)
    assert loaded.fingerprint == fingerprint(model)
    assert not loaded.model.training
    half = load_model(str(tmp_path), dtype="bfloat16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.fingerprint != loaded.fingerprint


def test_float32_is_the_default_on_the_cpu(tmp_path: Path) -> None:
    tiny_llama().to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_model(tmp_path, device="cpu").model.parameters()} == {torch.float32}


def test_the_class_is_the_one_that_was_saved(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    assert type(load_model(tmp_path).model).__name__ == "BertForMaskedLM"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("smollm", "did you mean smollm2"),
        ("nobody/no-such-model", "not in the local Hugging Face cache"),
        ("./does/not/exist", "neither a folder"),
        ("model.gguf", "no such file"),
        ("two words", "neither a folder"),
    ],
)
def test_sources_that_do_not_exist(source: str, message: str) -> None:
    with pytest.raises(PatchclampError, match=message):
        load_model(source)


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(PatchclampError, match=r"no config\.json.*\*\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"")
    with pytest.raises(PatchclampError, match=r"give the file: .*a\.gguf"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no_such_family"}')
    with pytest.raises(PatchclampError, match="cannot be loaded"):
        load_model(tmp_path)


def test_devices_and_dtypes_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(PatchclampError, match="did you mean bfloat16"):
        load_model(tmp_path, dtype="bfloat")
    with pytest.raises(PatchclampError, match="is not known"):
        load_model(tmp_path, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(PatchclampError, match="device='cpu'"):
            load_model(tmp_path, device="cuda")


def test_code_from_a_checkpoint_does_not_run_unasked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}')
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(PatchclampError, match="trust_remote_code"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_do_not_run(tmp_path: Path) -> None:
    tiny_llama().config.save_pretrained(tmp_path)
    payload = "import os\nclass Run:\n    def __reduce__(self): return (os.mkdir, (PATH,))\n"
    target = tmp_path / "ran"
    save = f"import torch\ntorch.save({{'w': Run()}}, {str(tmp_path / 'pytorch_model.bin')!r})"
    script = f"PATH = {str(target)!r}\n{payload}\n{save}"
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(PatchclampError, match="more than tensors"):
        load_model(tmp_path)
    assert not target.exists()


def test_fingerprint_sees_every_single_weight() -> None:
    model = nn.Sequential(nn.Linear(37, 411), nn.BatchNorm1d(411), nn.Linear(411, 3))
    first = fingerprint(model)
    assert fingerprint(model) == first
    for tensor in [*model.parameters(), model[1].running_mean]:
        flat = tensor.data.reshape(-1)
        for place in {0, flat.numel() // 2, flat.numel() - 1}:
            old = flat[place].item()
            flat[place] = old + 0.25
            assert fingerprint(model) != first
            flat[place] = old
    assert fingerprint(model) == first


def test_fingerprint_sees_exchanged_rows_names_settings_and_dtype() -> None:
    model = nn.Linear(8, 4, bias=False)
    first = fingerprint(model)
    model.weight.data = model.weight.data[[1, 0, 2, 3]]
    assert fingerprint(model) != first
    wrapped = nn.Sequential(model)
    assert fingerprint(wrapped) != fingerprint(model)
    assert fingerprint(tiny_llama()) != fingerprint(tiny_llama(rms_norm_eps=1e-3))
    assert fingerprint(tiny_llama()) == fingerprint(tiny_llama())
    assert fingerprint(tiny_llama().half()) != fingerprint(tiny_llama())


@pytest.mark.parametrize("shape", [(0, 4), (3,), (), (5, 3), (2, 0), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.uint8, torch.bool])
def test_fingerprint_of_any_shape_and_type(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    module = nn.Module()
    module.register_buffer("b", torch.ones(shape).to(dtype))
    first = fingerprint(module)
    if module.b.numel():
        module.b.view(-1)[-1] = 0
        assert fingerprint(module) != first
    module.register_buffer("b", torch.ones(99)[3:96:2].to(dtype))
    assert fingerprint(module) != first


def test_weights_that_are_not_there_count_by_shape() -> None:
    assert fingerprint(nn.Linear(3, 4).to("meta")).startswith("shapes:")

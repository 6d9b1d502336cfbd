"""Tokenizers built from GGUF metadata: how text is cut, BOS, special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from patchclamp.base.errors import PatchclampError
from patchclamp.subjects.files.gguf_tokenizer import SPLITS, load_gguf_tokenizer

SPECIAL = ["<bos>", "<eos>"]
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), "ĠĠ", "11", "Ġ1", "hi", "é", "Ã©", "<tool>"]
MERGES = ["Ġ Ġ", "1 1", "Ġ 1", "h i", "Ã ©"]


def write(path: Path, pre: str, bos: bool | None = False, model: str = "gpt2") -> Path:
    tokens = list(dict.fromkeys(TOKENS))
    out = gguf.GGUFWriter(path, "llama")
    out.add_tokenizer_model(model)
    out.add_tokenizer_pre(pre)
    out.add_token_list(tokens)
    out.add_token_types([3 if t in SPECIAL else 4 if t == "<tool>" else 1 for t in tokens])
    out.add_token_merges(MERGES)
    out.add_bos_token_id(0)
    out.add_eos_token_id(1)
    if bos is not None:
        out.add_add_bos_token(bos)
    out.add_chat_template("{{ messages[0]['content'] }}!")
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def pieces(tokenizer: Any, text: str) -> list[str]:
    found: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    return found


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["hi", "Ġ", "11"]),
        ("smollm", ["hi", "Ġ", "1", "1"]),
        ("llama-bpe", ["hi", "Ġ", "11"]),
        ("qwen2", ["hi", "Ġ", "1", "1"]),
    ],
)
def test_text_is_cut_as_the_file_says(pre: str, expected: list[str], tmp_path: Path) -> None:
    assert pieces(load_gguf_tokenizer(write(tmp_path / "m.gguf", pre)), "hi 11") == expected


@pytest.mark.parametrize("pre", SPLITS)
def test_saved_and_read_again_it_is_the_same(pre: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = load_gguf_tokenizer(write(tmp_path / "m.gguf", pre, bos=True))
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved", local_files_only=True)
    for text in ("hi 11  1é\n", "<tool>hi<eos>", ""):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id == 0
        assert again(text)["input_ids"] == ids
        assert tokenizer.decode(ids[1:]) == text
    assert tokenizer.eos_token_id == 1
    assert again.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x!"


@pytest.mark.parametrize("bos", [False, None])
def test_no_bos_unless_the_file_asks_for_it(bos: bool | None, tmp_path: Path) -> None:
    assert pieces(load_gguf_tokenizer(write(tmp_path / "m.gguf", "smollm", bos)), "hi") == ["hi"]


def test_special_and_user_tokens_stay_whole(tmp_path: Path) -> None:
    tokenizer = load_gguf_tokenizer(write(tmp_path / "m.gguf", "smollm"))
    assert pieces(tokenizer, "hi<tool>hi<eos>") == ["hi", "<tool>", "hi", "<eos>"]
    assert tokenizer.decode(tokenizer("hi<tool><eos>")["input_ids"], skip_special_tokens=True) == "hi<tool>"


@pytest.mark.parametrize(("pre", "model"), [("unheard-of", "gpt2"), ("smollm", "rwkv")])
def test_what_is_not_known_is_refused(pre: str, model: str, tmp_path: Path) -> None:
    with pytest.raises(PatchclampError, match=f"'{model}'.*'{pre}'.*smollm.*tokenizer="):
        load_gguf_tokenizer(write(tmp_path / "m.gguf", pre, model=model))

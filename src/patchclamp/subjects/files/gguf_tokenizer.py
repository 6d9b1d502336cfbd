"""The tokenizer that a GGUF file carries.

Byte-level BPE is built here from the file's vocabulary and merges, so that the same file gives the same tokens under
every version of transformers: its own conversion took Llama-architecture files with such a vocabulary for CodeLlama's
in 5.0 (BOS added, byte fallback), and in 5.23 still leaves out the splitting of digits that SmolLM2 was trained with
(seen where several spaces stand before a number). How text is cut before merging is named in the file
(``tokenizer.ggml.pre``); the cuts known here are in `SPLITS`, others are refused. SentencePiece vocabularies
(Gemma, Llama 2) go through transformers, and the file's BOS flag is then enforced.

Verified: SmolLM2, token for token against transformers 5.23 on text without that case. Not verified against the
original tokenizers: the Llama 3 and Qwen 2 cuts, whose patterns are those of their published tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchclamp.base.errors import PatchclampError
from patchclamp.subjects.files.foreign import foreign
from patchclamp.subjects.files.gguf_header import check_head

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONTROL, _USER_DEFINED = 3, 4
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# tokenizer.ggml.pre -> (pattern or None for GPT-2's own, single digits first, whole words win over merges, NFC)
SPLITS: dict[str, tuple[str | None, bool, bool, bool]] = {
    "gpt-2": (None, False, False, False),
    "smollm": (None, True, False, False),
    "llama-bpe": (_WORDS % "{1,3}", False, True, False),
    "qwen2": (_WORDS % "", False, False, True),
}


def load_gguf_tokenizer(path: str | Path) -> Any:
    """Build the tokenizer of a GGUF file, with its special tokens, chat template and BOS policy.

    Raises
    ------
    PatchclampError
        For a vocabulary or a way of cutting text that is not known here; pass ``tokenizer=`` then.
    """
    from gguf import GGUFReader

    path = Path(path)
    check_head(path)
    fields = GGUFReader(path).fields

    def get(key: str, default: Any = None) -> Any:
        field = fields.get(f"tokenizer.{key}")
        with foreign(path, f"tokenizer.{key} cannot be read"):
            return default if field is None else field.contents()

    model, cut = get("ggml.model"), get("ggml.pre")
    if model == "gpt2" and isinstance(cut, str) and cut in SPLITS:
        _check_vocabulary(path, get)
        return _byte_level(path, get, cut)
    if model == "llama":
        return _sentencepiece(path, bool(get("ggml.add_bos_token", True)))
    raise PatchclampError(
        f"{path}: a tokenizer of type {model!r} that cuts text like {cut!r} is not known; those that are: gpt2 with "
        f"{', '.join(SPLITS)}, and llama (SentencePiece). Pass the model's own: tokenizer=AutoTokenizer.from_pretrained(...)"
    )


def _check_vocabulary(path: Path, get: Callable[..., Any]) -> None:
    """Refuse a vocabulary whose parts do not fit together."""
    tokens, merges = get("ggml.tokens"), get("ggml.merges")
    kinds = get("ggml.token_type", [])
    for key, texts in (("tokens", tokens), ("merges", merges)):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise PatchclampError(f"{path}: tokenizer.ggml.{key} is no list of texts; pass tokenizer=")
    known = set(tokens)
    for merge in merges:
        parts = merge.split(" ", 1)
        if len(parts) < 2 or not {*parts, "".join(parts)} <= known:
            raise PatchclampError(
                f"{path}: the merge {merge!r} is not of two of the file's tokens; pass tokenizer="
            )
    if not isinstance(kinds, list) or not all(isinstance(kind, int) for kind in kinds):
        raise PatchclampError(f"{path}: tokenizer.ggml.token_type is no list of numbers; pass tokenizer=")
    for name in ("bos", "eos", "unknown", "padding"):
        index = get(f"ggml.{name}_token_id")
        if index is not None and (type(index) is not int or not 0 <= index < len(tokens)):
            raise PatchclampError(
                f"{path}: tokenizer.ggml.{name}_token_id is {index!r}, and there are {len(tokens)} tokens; pass tokenizer="
            )


def _byte_level(path: Path, get: Callable[..., Any], cut: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = get("ggml.tokens")
    named = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    ids = {ours: get(f"ggml.{theirs}_token_id") for theirs, ours in named.items()}
    special = {f"{name}_token": tokens[index] for name, index in ids.items() if index is not None}
    with foreign(path, "its tokenizer cannot be built (pass tokenizer=)"):
        backend = _backend(get, tokens, cut)
    if get("ggml.add_bos_token", False):
        if ids["bos"] is None:
            raise PatchclampError(f"{path}: asks for a BOS token but names none; pass tokenizer=")
        _prepend(backend, tokens[ids["bos"]], ids["bos"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **special
    )
    if template := get("chat_template"):
        tokenizer.chat_template = template
    return tokenizer


def _backend(get: Callable[..., Any], tokens: list[str], cut: str) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pattern, digits, whole, nfc = SPLITS[cut]
    merges = [tuple(merge.split(" ", 1)) for merge in get("ggml.merges")]
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    if nfc:
        backend.normalizer = normalizers.NFC()
    for token, kind in zip(tokens, get("ggml.token_type", []), strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            backend.add_tokens([AddedToken(token, normalized=False, special=kind == _CONTROL)])
    return backend


def _prepend(backend: Tokenizer, token: str, index: int) -> None:
    from tokenizers import processors

    backend.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, index)]
    )


def _sentencepiece(path: Path, bos: bool) -> Any:
    from transformers import AutoTokenizer

    with foreign(path, "the tokenizer in the file cannot be converted"):
        tokenizer = AutoTokenizer.from_pretrained(
            str(path.parent), gguf_file=path.name, local_files_only=True
        )
    first = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    if first != bos:
        raise PatchclampError(
            f"{path}: the file says that BOS is {'' if bos else 'not '}added, this version of transformers builds a "
            "tokenizer that does otherwise; pass tokenizer="
        )
    return tokenizer

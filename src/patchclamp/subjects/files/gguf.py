"""Read a language model from a GGUF file into float32, exactly as its quantised weights stand.

A GGUF file differs from a transformers checkpoint in names, in the order of some rows and in a convention:

* Llama's query and key rows are stored pairwise interleaved within each head (rotary by neighbours), where
  transformers wants the two halves of a head one after the other: rows ``(half, 2)`` become ``(2, half)``.
* Gemma's norm gains are stored as ``1 + w``; transformers stores ``w``.
* Frequency factors of long-context Llamas (``rope_freqs.weight``) divide the rotary frequencies.

Anything that has no place in the table below is refused by name: a weight that were left out silently would
give a model that talks, and is another model.

Verified: tiny random models of all families written to GGUF by the tests give back their own logits bit for bit;
SmolLM2's logits equal those of ``from_pretrained(folder, gguf_file=...)`` bit for bit. Not verified on real
weights: Qwen and Gemma files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.draw.cards import shown
from patchclamp.subjects.files.foreign import FAILURES, foreign
from patchclamp.subjects.files.gguf_header import check_head

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PretrainedConfig, PreTrainedModel

_SHARED = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_SANDWICH = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True)
class _Layout:
    """How one GGUF architecture is laid out: class in transformers, names, and departures from the plain case."""

    model_class: str
    config_class: str
    names: Mapping[str, str] = field(default_factory=lambda: dict(_SHARED))
    interleaved: bool = False
    gain_plus_one: bool = False


LAYOUTS: dict[str, _Layout] = {
    "llama": _Layout("LlamaForCausalLM", "LlamaConfig", interleaved=True),
    "qwen2": _Layout("Qwen2ForCausalLM", "Qwen2Config"),
    "qwen3": _Layout("Qwen3ForCausalLM", "Qwen3Config", _SHARED | _QK_NORMS),
    "gemma2": _Layout("Gemma2ForCausalLM", "Gemma2Config", _SHARED | _SANDWICH, gain_plus_one=True),
    "gemma3": _Layout(
        "Gemma3ForCausalLM", "Gemma3TextConfig", _SHARED | _QK_NORMS | _SANDWICH, gain_plus_one=True
    ),
}


class _Header:
    """The file's metadata, with the architecture's prefix filled in."""

    def __init__(self, reader: GGUFReader, path: Path) -> None:
        self.path = path
        self._fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = str(self.get("general.architecture", "none given"))
        if self.architecture not in LAYOUTS:
            raise PatchclampError(
                f"{path}: architecture {self.architecture!r} cannot be read from GGUF; those that can are "
                f"{', '.join(LAYOUTS)}{did_you_mean(self.architecture, LAYOUTS)} (a transformers folder or a hub "
                "id of the same model works for every family)"
            )
        self.layout = LAYOUTS[self.architecture]

    def get(self, key: str, default: Any = None) -> Any:
        found = self._fields.get(key)
        with foreign(self.path, f"{key} cannot be read"):
            return default if found is None else found.contents()

    def arch(self, key: str, default: Any = None) -> Any:
        return self.get(f"{self.architecture}.{key}", default)

    def need(self, key: str) -> Any:
        value = self.arch(key)
        if value is None:
            raise PatchclampError(
                f"{self.path}: the metadata lack {self.architecture}.{key}; convert the model again"
            )
        return value

    def size(self, key: str, default: int | None = None, most: int = 1 << 24) -> int:
        """A size of the network: a whole number from 1 to `most`."""
        value = self.need(key) if default is None else self.arch(key, default)
        if type(value) is not int or not 1 <= value <= most:
            raise PatchclampError(
                f"{self.path}: {self.architecture}.{key} is {value!r}, and must be a whole number from 1 to {most:,}"
            )
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.need(key) if default is None else self.arch(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise PatchclampError(
                f"{self.path}: {self.architecture}.{key} is {value!r}, and must be a number"
            )
        return float(value)

    def token(self, name: str) -> int | None:
        """The number of a special token; None where the file names none."""
        value = self.get(f"tokenizer.ggml.{name}_token_id")
        if value is not None and (type(value) is not int or value < 0):
            raise PatchclampError(
                f"{self.path}: tokenizer.ggml.{name}_token_id is {value!r}, and must be a number of a token"
            )
        return value


@shown
@dataclass(frozen=True)
class GGUFModel:
    """What a GGUF file holds, in transformers' terms.

    Attributes
    ----------
    model_class : str
        Name of the class in transformers.
    config : transformers.PretrainedConfig
    state : dict of str to Tensor
        Contiguous float32 tensors under transformers' names; a tied head is left out.
    factors : Tensor or None
        Divisors of the rotary frequencies, shape (d_head / 2,), where the file has them.
    """

    model_class: str
    config: PretrainedConfig
    state: dict[str, Tensor]
    factors: Tensor | None


def read_gguf(path: str | Path) -> GGUFModel:
    """Read a GGUF file into a transformers config and a float32 state dict.

    Raises
    ------
    PatchclampError
        For a file that is not GGUF, an architecture that is not in `LAYOUTS`, mixtures of experts, rotary scaling
        other than linear, tensors without a place, and quantisations that the gguf package cannot undo.
    """
    header = _open(Path(path))
    config = _config(header)
    factors = header.tensors.get("rope_freqs.weight")
    return GGUFModel(
        header.layout.model_class,
        config,
        _state(header, config),
        None if factors is None else _dequantised(header, factors),
    )


def load_gguf(path: str | Path, contents: GGUFModel | None = None) -> PreTrainedModel:
    """Build the float32 model of a GGUF file, whose `contents` may have been read, in evaluation mode, on the CPU.

    Examples
    --------
    >>> load_gguf("model.Q4_1.gguf").config.num_hidden_layers  # doctest: +SKIP
    30
    """
    contents = contents or read_gguf(path)
    model = build(contents.model_class, contents.config, contents.state, str(path))
    if contents.factors is not None:
        divide_frequencies(model, contents.factors)
    return model


def divide_frequencies(model: PreTrainedModel, factors: Tensor) -> None:
    """Divide the rotary frequencies of a model by the factors that its file gives."""
    rotary = model.get_submodule("model.rotary_emb")
    rotary.register_buffer("inv_freq", rotary.get_buffer("inv_freq") / factors, persistent=False)


def build(
    model_class: str, config: PretrainedConfig, state: dict[str, Tensor], source: str
) -> PreTrainedModel:
    """Build a model around the tensors of `state` without copying them; every name must match.

    Parameters are made on the meta device, so nothing is initialised twice; buffers that no checkpoint
    carries (rotary frequencies, Gemma's embedding scale) are computed by the model's own code.

    Raises
    ------
    PatchclampError
        Where tensors are missing, left over or of another shape.
    """
    import transformers

    cls = getattr(transformers, model_class)
    with torch.device("meta"), foreign(source):
        wanted = {name: tuple(tensor.shape) for name, tensor in cls(config).state_dict().items()}
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if given != wanted:
        raise PatchclampError(f"{source}: {_difference(given, wanted)}")
    with quiet(), foreign(source):
        model: PreTrainedModel = cls.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32
        )
    model.eval()
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and its tables of tensors inside; what is wrong is refused by name."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _difference(given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    if missing or extra:
        parts = [f"lacks {', '.join(missing[:3])}"] if missing else []
        parts += [f"has {', '.join(extra[:3])}, which the model does not"] if extra else []
        return "; ".join(parts)
    name = next(name for name in wanted if given[name] != wanted[name])
    return f"{name} has shape {given[name]}, the metadata ask for {wanted[name]}"


def _open(path: Path) -> _Header:
    from gguf import GGUFReader

    check_head(path)
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PatchclampError(f"{path}: not a readable GGUF file: {error}") from error
    return _Header(reader, path)


def _config(header: _Header) -> PretrainedConfig:
    import transformers

    if header.arch("expert_count"):
        raise PatchclampError(
            f"{header.path}: mixtures of experts are not read from GGUF; give the hub id or folder"
        )
    if isinstance(header.need("attention.head_count"), list):
        raise PatchclampError(f"{header.path}: layers with different numbers of heads are not read from GGUF")
    hidden = header.size("embedding_length")
    heads = header.size("attention.head_count", most=hidden)
    groups = header.size("attention.head_count_kv", heads, most=heads)
    d_head = header.size("attention.key_length", max(1, hidden // heads))
    # Every layer has tensors of its own, so more layers than tensors are no layers.
    layers = header.size("block_count", most=max(1, len(header.tensors)))
    words = header.tensors.get("token_embd.weight")
    if words is None or len(words.shape) != 2:
        raise PatchclampError(
            f"{header.path}: has no tensor token_embd.weight of two axes, so it is no language model"
        )
    if header.arch("rope.dimension_count", d_head) != d_head:
        raise PatchclampError(f"{header.path}: rotary embedding over part of a head is not read from GGUF")
    config: dict[str, Any] = {
        "vocab_size": int(words.shape[1]),
        "hidden_size": hidden,
        "intermediate_size": header.size("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": header.size("context_length", most=1 << 40),
        "rms_norm_eps": header.real("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(header),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": header.token("bos"),
        "eos_token_id": header.token("eos"),
        "pad_token_id": header.token("padding"),
    }
    if header.architecture == "qwen2":
        if d_head != hidden // heads:
            raise PatchclampError(
                f"{header.path}: Qwen2 with heads of {d_head} instead of {hidden // heads} units"
            )
    else:
        config["head_dim"] = d_head
    if header.architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    if header.layout.gain_plus_one:
        config |= _gemma(header, hidden, heads, d_head)
    config_class = getattr(transformers, header.layout.config_class)
    with foreign(header.path):
        result: PretrainedConfig = config_class(**config)
    return result


def _rope(header: _Header) -> dict[str, Any]:
    scaling = header.arch("rope.scaling.type", "none")
    factor = header.real("rope.scaling.factor", 0.0)
    if scaling not in ("none", "linear"):
        raise PatchclampError(
            f"{header.path}: rotary scaling {scaling!r} is not read from GGUF, only 'linear'"
        )
    rope: dict[str, Any] = {
        "rope_theta": header.real("rope.freq_base", 10000.0),
        "rope_type": "default",
    }
    if scaling == "linear" and factor not in (0.0, 1.0):
        rope |= {"rope_type": "linear", "factor": factor}
    if header.architecture != "gemma3":
        return rope
    # Gemma 3 turns its sliding layers at a base of their own; older files do not say it.
    local = header.real("rope.freq_base_swa", 10000.0)
    return {"full_attention": rope, "sliding_attention": {"rope_theta": local, "rope_type": "default"}}


def _gemma(header: _Header, hidden: int, heads: int, d_head: int) -> dict[str, Any]:
    # The scale of the attention scores is not in the file. The 27B models of both generations (46 and 62 layers)
    # use d_model / heads, all others the size of a head.
    largest = header.size("block_count") == (46 if header.architecture == "gemma2" else 62)
    config: dict[str, Any] = {
        "query_pre_attn_scalar": hidden // heads if largest else d_head,
        "sliding_window": header.size("attention.sliding_window", 4096, most=1 << 40),
        "hidden_activation": "gelu_pytorch_tanh",
    }
    if header.architecture == "gemma2":
        config["attn_logit_softcapping"] = header.real("attn_logit_softcapping", 50.0)
        config["final_logit_softcapping"] = header.real("final_logit_softcapping", 30.0)
    return config


def _state(header: _Header, config: PretrainedConfig) -> dict[str, Tensor]:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state: dict[str, Tensor] = {}
    for name, tensor in header.tensors.items():
        if name == "rope_freqs.weight":
            continue
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        table = _TOP if match is None or match[1] is None else header.layout.names
        if match is None or match[2] not in table:
            raise PatchclampError(
                f"{header.path}: tensor {name} has no place in a {header.architecture} model"
            )
        layer, part, kind = match.groups()
        value = _dequantised(header, tensor)
        if header.layout.interleaved and part in heads:
            value = _halves(value, heads[part], header.path)
        if header.layout.gain_plus_one and part.endswith("norm"):
            value = value - 1
        prefix = f"model.layers.{layer}." if layer is not None else ""
        state[f"{prefix}{table[part]}.{kind}"] = value
    return state


def _dequantised(header: _Header, tensor: Any) -> Tensor:
    from gguf import dequantize

    try:
        values = dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise PatchclampError(
            f"{header.path}: {tensor.name} is quantised as {tensor.tensor_type.name}, which the gguf package "
            "cannot undo; convert the file to another type"
        ) from error
    except FAILURES as error:
        raise PatchclampError(f"{header.path}: {tensor.name} cannot be read ({error})") from error
    # Unquantised tensors come as views of the read-only file: they get memory of their own.
    return torch.tensor(values, dtype=torch.float32)


def _halves(rows: Tensor, heads: int, path: Path) -> Tensor:
    """Undo the pairwise interleaving of rotary rows: (heads, half, 2) -> (heads, 2, half)."""
    if rows.shape[0] % (2 * heads):
        raise PatchclampError(
            f"{path}: {rows.shape[0]} rows of queries or keys cannot be those of {heads} heads with two halves each"
        )
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return split.transpose(1, 2).reshape(rows.shape).contiguous()

"""Which model a file speaks of: a fingerprint of weights and settings, and the model's answer on a small fixed input.

A fingerprint reads ``v2-HASH~INPUT:ANSWER``. The hash decides: it is exact, and the same on every machine. The answer
(a few numbers that sum up the output) catches what no hash of data can, such as other code under the same weights; it
moves with kernels and threads in its last bits, so it is rounded and compared with a tolerance, and it never
turns two different hashes into one model. Fingerprints without ``v2-`` are those of an older version of this program.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Settings that change no number of a pass in evaluation mode: names, tokens that a tokenizer puts in, what is kept and
# returned, how weights were first drawn, generation and training. Whatever is not listed counts; a test tries each.
HARMLESS = frozenset(
    {
        *("architectures", "auto_map", "dtype", "torch_dtype", "name_or_path", "transformers_version"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "tokenizer_class"),
        *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "prefix"),
        *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_router_logits"),
        *("id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "num_labels"),
        *("initializer_range", "initializer_factor", "rescale_prenorm_residual", "gradient_checkpointing"),
        *("attn_implementation", "chunk_size_feed_forward", "pretraining_tp", "router_aux_loss_coef"),
        *("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "classifier_dropout"),
        *("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob"),
        *("layerdrop", "summary_first_dropout"),
        *("max_length", "min_length", "do_sample", "temperature", "top_k", "top_p", "num_beams"),
    }
)
# The fixed list of the first version, by which its files are still compared.
_FIRST = (
    *(
        "model_type",
        "hidden_act",
        "hidden_activation",
        "activation_function",
        "num_attention_heads",
        "n_head",
    ),
    *("num_key_value_heads", "head_dim", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    *("norm_epsilon", "layernorm_epsilon", "rope_parameters", "rotary_pct", "rotary_dim"),
    *("partial_rotary_factor", "sliding_window", "query_pre_attn_scalar", "attn_logit_softcapping"),
    *("final_logit_softcapping", "num_experts_per_tok", "norm_topk_prob", "use_parallel_residual"),
    *("parallel_attn", "alibi"),
)
_MARK = "v2-"
_UNITS = 3  # in the last digit of an answer: far above what kernels differ by, far below another model


def fingerprint(model: nn.Module, version: int = 2) -> str:
    """Hash of what a model computes with: its weights as they are loaded, and the settings beside them.

    SHA-256 over, for each parameter and each buffer of the state dict in order of name: name, type, shape, the
    sum of its bits read as 64-bit integers for each row (modulo 2**64), and a strided sample of at most 4096 raw
    values; and over the class name and every setting of the config that differs from its class's default and is not
    known to be without effect (`HARMLESS`). Defaults are left out so that a setting which a new version of transformers
    adds changes nothing. Of a module without a config, class and settings (``extra_repr``) of each part count.

    Any change of a single weight, and any exchange of rows, changes it; only changes made to cancel within a row are
    not seen: it guards against mistakes, not against malice. Weights cast to another dtype are other weights and have
    another fingerprint; the device does not matter. Weights that are not in memory (meta device, offloaded by
    accelerate) count by name and shape only, and the fingerprint then begins with ``shapes:``.

    Parameters
    ----------
    version
        1 gives what older files carry: it counts a fixed list of settings, so it may be equal for models that differ.

    Cost: one reading of the weights (SmolLM2, 538 MB: 0.1 s).

    Examples
    --------
    >>> one = nn.Linear(2, 2)
    >>> before = fingerprint(one)
    >>> _ = one.weight.data[0, 0].add_(1.0)
    >>> fingerprint(one) == before
    False
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    settings = _settings_first(model) if version == 1 else _settings(model)
    if settings is not None:
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    prefix = ""
    for name, tensor in weights(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.is_meta:
            prefix = "shapes:"
        elif tensor.numel():
            digest.update(_content(tensor))
    return prefix + ("" if version == 1 else _MARK) + digest.hexdigest()[:32]


def _settings_first(model: nn.Module) -> dict[str, Any] | None:
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return None
    values = config.to_dict()
    return {key: values[key] for key in _FIRST if values.get(key) is not None}


def _settings(model: nn.Module) -> dict[str, Any]:
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        return _own(config)
    return {name: [type(part).__name__, part.extra_repr()] for name, part in model.named_modules()}


def _own(config: Any) -> dict[str, Any]:
    """Settings that may matter and are not the defaults of their class, those of configs within included."""
    values, usual = config.to_dict(), _defaults(config)
    found: dict[str, Any] = {"model_type": values.get("model_type")}
    for key, value in values.items():
        within = getattr(config, key, None)
        if key in HARMLESS or key.startswith("_"):
            continue
        if hasattr(within, "to_dict") and isinstance(value, Mapping):
            found[key] = _own(within)
        elif value != usual.get(key):
            found[key] = value
    return found


def _defaults(config: Any) -> dict[str, Any]:
    try:
        made: dict[str, Any] = type(config)().to_dict()
    except (TypeError, ValueError, AttributeError):  # a config that cannot be made of nothing
        return {}
    return made


def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of the state dict, in order of name."""
    saved = set(model.state_dict(keep_vars=True))
    tensors = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in saved}
    for name in sorted(tensors):
        yield name, tensors[name].detach()


def _content(tensor: Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    rows = tensor.shape[0] if tensor.ndim > 1 else 1
    width = flat.numel() * flat.element_size() // rows
    whole = (
        width % 8 == 0 and flat.data_ptr() % 8 == 0 and flat.storage_offset() * flat.element_size() % 8 == 0
    )
    words = flat.view(torch.int64 if whole else torch.uint8).reshape(rows, -1)
    sums = words.sum(1, dtype=torch.int64).cpu()
    sample = flat[:: max(1, flat.numel() // 4096)][:4096].clone().view(torch.uint8).cpu()
    return bytes(sums.numpy().tobytes() + sample.numpy().tobytes())


def answer(given: Tensor, output: Tensor, dtype: torch.dtype) -> str:
    """A model's output on an input in a few numbers, as text that `same_model` compares.

    The root mean square (log2), and of the deviations from the mean four sums with fixed signs, each over their root mean
    square and sqrt(n), so that all are of order 1: rounded to .001, in half precision to .1.

    Examples
    --------
    >>> answer(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), torch.float32).partition(":")[2]
    '0.000,1.414,1.414,0.000,0.000'
    """
    key = hashlib.sha256(f"{tuple(given.shape)}".encode() + bytes(given.cpu().double().numpy().tobytes()))
    values = output.detach().cpu().double().flatten()
    size = float(values.square().mean().sqrt()) if values.numel() else 0.0
    if not 0 < size < float("inf"):
        return f"{key.hexdigest()[:8]}:{'zero' if size == 0 else 'not finite'}"
    places = torch.arange(len(values))
    numbers = [float(torch.tensor(size).log2())]
    values = values - values.mean()
    scale = float(values.square().sum().sqrt()) or 1.0
    for shift in (7, 11, 15, 19):
        signs = 1 - 2 * ((places * 2654435761 >> shift) & 1)
        numbers.append(float((values * signs).sum()) / scale)
    digits = 3 if dtype in (torch.float32, torch.float64) else 1
    return f"{key.hexdigest()[:8]}:{','.join(f'{x + 0.0:.{digits}f}' for x in numbers)}"


def same_model(one: str, other: str) -> bool:
    """Whether two fingerprints are of one model: equal hashes, and answers to the same input within rounding.

    Examples
    --------
    >>> same_model("v2-ab~1:4.13,-0.52", "v2-ab~1:4.12,-0.52"), same_model("v2-ab~1:4.13,-0.52", "v2-ab~1:4.13,0.52")
    (True, False)
    """
    (one, _, ours), (other, _, theirs) = one.partition("~"), other.partition("~")
    (key, _, ours), (their_key, _, theirs) = ours.partition(":"), theirs.partition(":")
    if one != other or not ours or not theirs or key != their_key or ours == theirs:
        return one == other
    try:
        pairs = [(float(a), float(b)) for a, b in zip(ours.split(","), theirs.split(","), strict=True)]
    except ValueError:  # one of them is not finite
        return False
    step = 10.0 ** -len(ours.split(",")[0].partition(".")[2])
    return all(abs(a - b) <= (_UNITS + 0.1) * step for a, b in pairs)


def is_old(mark: str) -> bool:
    """Whether a fingerprint was made by a version that counted less."""
    return not mark.removeprefix("shapes:").startswith(_MARK)


OLD = "its fingerprint is of an older version, which counts the weights and some settings only; by those it is this model"
"""What is said where a file is taken as of the same model by such a fingerprint."""

__all__ = ["HARMLESS", "OLD", "answer", "fingerprint", "is_old", "same_model", "weights"]

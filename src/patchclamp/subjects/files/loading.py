"""From what a user names (embedded model, hub id, folder, GGUF file, module) to a model and its tokenizer."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError, check_choice, did_you_mean
from patchclamp.nouns.recording.lazy import DTYPES

_HUB_PART = r"(?![.-])[\w.-]+(?<![.-])"
_HUB_ID = re.compile(rf"(?!.*(?:--|\.\.)){_HUB_PART}(/{_HUB_PART})?")  # as the hub itself has it
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)
# What, beside the weights, changes what a transformers model computes. A fixed list: the defaults that a new
# version of transformers adds to a config must not change the fingerprint of a model that did not change.
_CONFIG = (
    *(
        "model_type",
        "hidden_act",
        "hidden_activation",
        "activation_function",
        "num_attention_heads",
        "n_head",
    ),
    *(
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "norm_epsilon",
    ),
    *("layernorm_epsilon", "rope_parameters", "rotary_pct", "rotary_dim", "partial_rotary_factor"),
    *("sliding_window", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
    *("num_experts_per_tok", "norm_topk_prob", "use_parallel_residual", "parallel_attn", "alibi"),
)


class Loaded(NamedTuple):
    """A model ready to be recorded: the object, its tokenizer (None where it has none), name and fingerprint.

    `name` is what opens the same model again: ``"smollm2"``, the hub id, the path, or the class name of a module
    that the user gave.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    fingerprint: str


def load_model(
    source: str | Path | nn.Module,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
    tokenizer: Any = None,
) -> Loaded:
    """Load a model, or take the user's own as it is.

    Parameters
    ----------
    source
        ``"smollm2"`` (embedded, needs no network), a Hugging Face id, a folder with ``config.json`` and weights, a
        ``.gguf`` file, or a module, which is handed back untouched: not moved, converted or put into evaluation mode.
    device
        ``"auto"`` takes the GPU where there is one, else the CPU.
    dtype
        ``"auto"`` is float32 on the CPU and the checkpoint's own type on a GPU; else a name such as ``"bfloat16"``.
    trust_remote_code
        Whether code that comes with a checkpoint may run. Weights are read from safetensors, or from a PyTorch file
        with ``weights_only=True``; nothing is unpickled.
    tokenizer
        Used instead of the one found with the model.

    Raises
    ------
    PatchclampError
        For a source that does not exist or cannot be fetched, a device that is not there, an unknown dtype, and a
        device or dtype asked for a module that is somewhere else.

    Examples
    --------
    >>> loaded = load_model(nn.Linear(2, 3))
    >>> loaded.name, loaded.tokenizer
    ('Linear', None)
    """
    if isinstance(source, nn.Module):
        _check_own(source, device, dtype)
        return Loaded(source, tokenizer, type(source).__name__, fingerprint(source))
    place, kind = _device(device), _dtype(dtype)
    name = str(source)
    model, found = _read(
        name, kind if kind or place.type != "cpu" else torch.float32, trust_remote_code, tokenizer
    )
    model = model.to(device=place, dtype=kind) if kind else model.to(place)
    model.eval()
    return Loaded(model, tokenizer if tokenizer is not None else found, name, fingerprint(model))


def fingerprint(model: nn.Module) -> str:
    """Hash of what a model computes with: its weights as they are loaded, and the settings beside them.

    SHA-256 over, for each parameter and each buffer of the state dict in order of name: name, type, shape, the
    sum of its bits read as 64-bit integers for each row (modulo 2**64), and a strided sample of at most 4096 raw
    values; and over the class name and those config entries that change what is computed. Any change of a single
    weight, and any exchange of rows, changes it; only changes made to cancel within a row are not seen: it guards
    against mistakes, not against malice. Weights cast to another dtype are other weights and have another
    fingerprint; the device does not matter. Weights that are not in memory (meta device, offloaded by accelerate)
    count by name and shape only, and the fingerprint then begins with ``shapes:``.

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
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        values = config.to_dict()
        known = {key: values[key] for key in _CONFIG if values.get(key) is not None}
        digest.update(json.dumps(known, sort_keys=True, default=str).encode())
    prefix = ""
    for name, tensor in _weights(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.is_meta:
            prefix = "shapes:"
        elif tensor.numel():
            digest.update(_content(tensor))
    return prefix + digest.hexdigest()[:32]


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
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


def _device(device: str | torch.device) -> torch.device:
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise PatchclampError(
            f"device {device!r} is not known; use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (place.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(place.type, True)
    if not there:
        raise PatchclampError(
            f"device {device}: this machine, or this build of torch, does not have it; use device='cpu'"
        )
    return place


def _dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return None
    check_choice("dtype", dtype, ("auto", *DTYPES))
    return DTYPES[dtype]


def _check_own(model: nn.Module, device: str | torch.device, dtype: str | torch.dtype) -> None:
    tensor = next(model.parameters(), None)
    if tensor is None:
        return
    place = tensor.device if str(device) == "auto" else _device(device)
    if place.type != tensor.device.type or place.index not in (None, tensor.device.index):
        raise PatchclampError(
            f"your model is on {tensor.device}, device={str(place)!r} was asked for; your object is left as it is: "
            f"call model.to({str(place)!r}) first"
        )
    kind = _dtype(dtype)
    if kind not in (None, tensor.dtype):
        raise PatchclampError(
            f"your model is in {tensor.dtype}, {kind} was asked for; your object is left as it is: "
            f"call model.to({kind}) first"
        )


def _read(name: str, dtype: torch.dtype | None, trust: bool, tokenizer: Any) -> tuple[nn.Module, Any]:
    from patchclamp.subjects.files import embedded
    from patchclamp.subjects.files.conversion import open_gguf

    if name in embedded.EMBEDDED:
        return embedded.load_embedded(name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return open_gguf(path, tokenizer)
    if path.is_dir():
        if not (path / "config.json").is_file():
            files = sorted(path.glob("*.gguf"))
            hint = (
                f"give the file: {files[0]}" if files else "a model folder has config.json and *.safetensors"
            )
            raise PatchclampError(f"{name}: there is no config.json in this folder; {hint}")
        return _from_transformers(str(path), dtype, trust, tokenizer, local=True)
    if path.exists() or not _HUB_ID.fullmatch(name):
        raise PatchclampError(
            f"{name}: neither a folder with config.json, a .gguf file, a hub id (owner/name) nor "
            f"{', '.join(embedded.EMBEDDED)}{did_you_mean(name, embedded.EMBEDDED)}"
        )
    return _from_transformers(name, dtype, trust, tokenizer, local=_only_local(name))


def _from_transformers(
    name: str, dtype: torch.dtype | None, trust: bool, tokenizer: Any, local: bool
) -> tuple[nn.Module, Any]:
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    from patchclamp.subjects.files.gguf import quiet

    options: dict[str, Any] = {"trust_remote_code": trust, "local_files_only": local}
    try:
        config = AutoConfig.from_pretrained(name, **options)
        with quiet():
            model = _model_class(transformers, config, trust).from_pretrained(
                name, config=config, dtype=dtype or "auto", weights_only=True, **options
            )
        # Vision models have no tokenizer; a folder that was saved without one is the user's choice.
        wanted = tokenizer is None and getattr(model, "main_input_name", "") == "input_ids"
        if Path(name).is_dir():
            wanted = wanted and any((Path(name) / file).is_file() for file in _TOKENIZER_FILES)
        return model, AutoTokenizer.from_pretrained(name, **options) if wanted else None
    except (OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise PatchclampError(f"{name}: cannot be loaded: {_reason(error)}") from error


def _model_class(transformers: Any, config: Any, trust: bool) -> Any:
    """The class that the checkpoint was saved from, so that an encoder is not loaded as a decoder."""
    known = [getattr(transformers, arch, None) for arch in getattr(config, "architectures", None) or []]
    remote = trust and getattr(config, "auto_map", None)
    return known[0] if known and known[0] is not None and not remote else transformers.AutoModelForCausalLM


def _only_local(name: str) -> bool:
    """Whether to look only into the local cache; refuses at once what needs a network that is not there."""
    from huggingface_hub import constants, try_to_load_from_cache

    if _reachable(constants.ENDPOINT) and not constants.HF_HUB_OFFLINE:
        return False
    from patchclamp.subjects.files.embedded import EMBEDDED

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return True
    raise PatchclampError(
        f"{name}: not in the local Hugging Face cache, and it cannot be fetched without a network; give a folder, a "
        f".gguf file or {', '.join(EMBEDDED)} (embedded){did_you_mean(name, EMBEDDED)}"
    )


def _reachable(endpoint: str) -> bool:
    """Whether the hub's name resolves; asked first, because the hub's client retries for half a minute."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, 443)
    except OSError:
        return False
    return True


def _reason(error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return "it brings code of its own; read it, and if you trust it, pass trust_remote_code=True"
    if isinstance(error, pickle.UnpicklingError):
        return "its weights are a pickle that holds more than tensors; use a safetensors copy of the model"
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__

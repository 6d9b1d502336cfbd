"""Where each family of models keeps its named tensors: one table, from which resolver, docs and tests derive.

`row_for(model)` gives the row that fits a model, its paths already adapted to whether the model carries a head.
The rows themselves are in `families/`; every one is checked by arithmetic on tiny random models
(`tests/subjects/test_anatomy.py`, with transformers 5.23), and `patchclamp check` runs the same proofs on a user's model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.units import POINTS
from patchclamp.subjects.families import TABLE
from patchclamp.subjects.families.row import AnatomyRow, Tap

__all__ = [
    "POINTS",
    "TABLE",
    "AnatomyRow",
    "Tap",
    "families",
    "module_at",
    "row_for",
    "text_config",
    "weight_in_out",
]


def families() -> dict[str, tuple[str, ...]]:
    """Names of the supported families and the `model_type` values that they answer to.

    Examples
    --------
    >>> families()["Llama"]
    ('llama',)
    """
    return {row.family: row.model_types for row in TABLE if not row.refused}


def text_config(model: nn.Module) -> Any:
    """The configuration that holds the text model's sizes (a part of it, for models that also see).

    Raises
    ------
    PatchclampError
        For a module without a transformers configuration.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise PatchclampError(
            f"{type(model).__name__} has no transformers configuration, so its named points are unknown; {as_plain(model)}"
        )
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def row_for(model: nn.Module) -> AnatomyRow:
    """The row of the anatomy table that fits a model, its paths relative to this very object.

    Parameters
    ----------
    model
        A transformers model, with or without its head.

    Returns
    -------
    Row
        For a model without a head, `logits` is in `missing` and `head_path` is empty.

    Raises
    ------
    PatchclampError
        For a family that is not in the table, or a configuration that its row refuses.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaModel
    >>> tiny = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    ...                    vocab_size=11)
    >>> row_for(LlamaModel(tiny)).layers
    'layers'
    """
    text_config(model)
    config: Any = model.config
    kin = [row for row in TABLE if config.model_type in row.model_types]
    if not kin:
        known = sorted({name for row in TABLE for name in row.model_types})
        raise PatchclampError(
            f"model_type {config.model_type!r}: this family is not in the anatomy table"
            f"{did_you_mean(str(config.model_type), known)}; the table has {', '.join(known)}. "
            f"Every module of it can still be read: {as_plain(model)}"
        )
    fitting = [
        row for row in kin if all(getattr(config, key, None) == value for key, value in row.when.items())
    ]
    if not fitting:
        wanted = " or ".join(str(dict(row.when)) for row in kin)
        raise PatchclampError(
            f"{kin[0].family}: the table covers configurations with {wanted} only; {as_plain(model)}"
        )
    row = fitting[0]
    if row.refused:
        raise PatchclampError(f"{row.family}: {row.refused}; {as_plain(model)}")
    return _adapted(row, model)


def as_plain(model: nn.Module) -> str:
    """The call that opens a model without a row, with an input of its kind."""
    config: Any = getattr(model, "config", None)
    example, opened = "torch.tensor([[1, 2, 3]])" if config is not None else "<one input>", "model"
    if getattr(config, "is_encoder_decoder", False):
        opened = "model.get_encoder()"  # the decoder takes an input of its own
    if getattr(model, "main_input_name", "input_ids") == "pixel_values":
        size = getattr(config, "image_size", None) or 224
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        example = f"torch.zeros(1, {getattr(config, 'num_channels', 3)}, {height}, {width})"
    return (
        f"open the {type(model).__name__} object itself as a plain module: TorchModule({opened}, {example}); its sites are "
        "dotted paths with .in or .out"
    )


def _adapted(row: AnatomyRow, model: nn.Module) -> AnatomyRow:
    """Fit paths to the object at hand: drop the base's prefix if the model is the base, find its head."""
    if module_at(model, row.base) is None:
        row = _without_prefix(row)
    layers = module_at(model, row.layers)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise PatchclampError(
            f"{type(model).__name__} ({row.family}): expected the blocks at {row.layers!r} and found none; this class "
            f"is laid out otherwise (the table was checked with transformers 5.23); {as_plain(model)}"
        )
    first, fixed, missing = layers[0], dict(row.fixed), dict(row.missing)
    for point in [p for p, tap in fixed.items() if module_at(model, tap.module) is None]:
        reason = "the model was opened without its head" if point == "logits" else "this model has none"
        missing[point] = f"{type(model).__name__} has no module {fixed.pop(point).module}: {reason}"
    if "logits" in fixed and row.logit_softcap and getattr(text_config(model), row.logit_softcap, None):
        fixed["logits"] = Tap("", "out")  # the cap is no module, so only the model's own output is behind it
    head = tuple(path for path in row.head_path if module_at(model, path) is not None)
    return replace(
        row,
        fixed=fixed,
        missing=missing,
        head_path=head if "logits" in fixed else (),
        norms=tuple(path for path in row.norms if module_at(first, path) is not None),
        qkv=tuple(path for path in row.qkv if module_at(first, path) is not None),
    )


def _without_prefix(row: AnatomyRow) -> AnatomyRow:
    def short(path: str) -> str:
        return path.removeprefix(row.base + ".")

    fixed = {point: tap._replace(module=short(tap.module)) for point, tap in row.fixed.items()}
    return replace(
        row, layers=short(row.layers), fixed=fixed, head_path=tuple(map(short, row.head_path)), base=""
    )


def module_at(root: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a dotted path, None if there is none."""
    found: Any = root
    for name in path.split(".") if path else []:
        found = getattr(found, name, None)
        if found is None:
            return None
    return found if isinstance(found, nn.Module) else None


def weight_in_out(module: nn.Module) -> Tensor:
    """The matrix M of a linear map y = x M + b, as (inputs, outputs), whichever way the module stores it.

    Raises
    ------
    PatchclampError
        For modules that are not plain linear maps (quantised ones among them).
    """
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point():
        if isinstance(module, nn.Linear):
            return weight.T
        if type(module).__name__ == "Conv1D":  # GPT-2's, stored (inputs, outputs)
            return weight
    raise PatchclampError(
        f"{type(module).__name__} is not a plain linear map, so its matrix cannot be read; load the model unquantised"
    )

"""What attention heads read the stream with: queries of each head, keys and values of each key-value head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects.families.anatomy import weight_in_out
from patchclamp.subjects.transformer import Transformer

Kind = Literal["q", "k", "v"]
KINDS: tuple[Kind, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class Projection:
    """Where the queries, keys or values of a layer come out, head by head.

    Parameters
    ----------
    path
        The module, from the model.
    columns
        Which of its outputs belong to each head; keys and values have one row a key-value head.
    weight
        (head, d_head, inputs): what each output reads.
    """

    path: str
    columns: Int[Tensor, "head d_head"]
    weight: Float[Tensor, "head d_head d_in"]

    def __len__(self) -> int:
        return int(self.columns.shape[0])


def projection(subject: Transformer, layer: int, kind: Kind) -> Projection:
    """The module and columns that make queries, keys or values, also where one module makes all three.

    Raises
    ------
    PatchclampError
        For latent attention (DeepSeek), whose keys and values are made in two steps and share parts.
    """
    row, heads = subject.row_at(layer), subject.n_heads
    root = f"{subject.row.layers}.{layer}"
    size = subject.unit_dim(Site("head", layer))
    if row.fused:
        path = row.qkv[0]
        weight = weight_in_out(subject.layer_module(layer, path)).detach()
        shared = (weight.shape[1] // size - heads) // 2
        index = torch.arange(weight.shape[1], device=weight.device)
        if row.fused == "blocks":
            first = {"q": 0, "k": heads, "v": heads + shared}[kind] * size
            columns = index[first : first + (heads if kind == "q" else shared) * size].view(-1, size)
        else:
            groups = index.view(shared, heads // shared + 2, size)
            columns = {"q": groups[:, :-2].reshape(-1, size), "k": groups[:, -2], "v": groups[:, -1]}[kind]
        return Projection(f"{root}.{path}", columns, weight.T[columns])
    names = [path.rsplit(".", 1)[-1] for path in row.qkv]
    if [name[0] for name in names] != list(KINDS) or any(
        name[1:2] == "_" and "_a_" in name for name in names
    ):
        raise PatchclampError(
            f"layer {layer}: {subject.family} makes queries, keys and values in {', '.join(row.qkv)}, of which keys and "
            "values share parts, so no input of a head is its own; take mlp_out.L and logits as receivers"
        )
    path = row.qkv[KINDS.index(kind)]
    weight = weight_in_out(subject.layer_module(layer, path)).detach()
    columns = torch.arange(weight.shape[1], device=weight.device).view(-1, size)
    return Projection(f"{root}.{path}", columns, weight.T[columns])

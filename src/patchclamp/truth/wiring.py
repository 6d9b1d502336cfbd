"""Networks whose every edge is a module: what one component hands to one input of another is a site of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

Stream = Float[Tensor, "item pos d"]


class Edge(nn.Identity):
    """Hands its input on as a tensor of its own, so that its gradient is that of this edge alone.

    `nn.Identity` itself returns the very tensor that it got: all edges of a source would be one tensor, and a gradient
    read at any of them the sum over all.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The same values."""
        return input.view_as(input)


class Wiring(nn.Module):
    """All edges of a network: each destination receives the sum of its sources, each by an `Edge`.

    Parameters
    ----------
    sources
        Destination -> components that it can read, in the order of the pass. Names without dots.

    Examples
    --------
    >>> wiring = Wiring({"out": ("a", "b")})
    >>> wiring.into("out", {"a": torch.ones(1, 1, 2), "b": torch.ones(1, 1, 2)}).tolist()
    [[[2.0, 2.0]]]
    >>> wiring.addresses("edges")
    {('a', 'out'): 'edges.a.out.out', ('b', 'out'): 'edges.b.out.out'}
    """

    def __init__(self, sources: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.sources = {destination: tuple(names) for destination, names in sources.items()}
        for name in dict.fromkeys(name for names in self.sources.values() for name in names):
            self.add_module(
                name, nn.ModuleDict({d: Edge() for d, names in self.sources.items() if name in names})
            )

    def into(self, destination: str, written: Mapping[str, Stream]) -> Stream:
        """What a destination reads."""
        parts = [
            self.get_submodule(f"{name}.{destination}")(written[name]) for name in self.sources[destination]
        ]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def addresses(self, prefix: str) -> dict[tuple[str, str], str]:
        """(source, destination) -> address, for a wiring that is the module `prefix` of a model."""
        return {(name, d): f"{prefix}.{name}.{d}.out" for d, names in self.sources.items() for name in names}


class Head(nn.Module):
    """An attention head of matrices set by hand, without normalisation: softmax(q k') v.

    Parameters
    ----------
    query, key
        (d, d_head). Scores are not divided by anything: sharpness is in these.
    value
        (d, d), values and output projection in one.
    causal
        Whether a position sees only itself and what is before it.
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = linear(query), linear(key), linear(value)
        self.causal = causal

    def forward(self, q: Stream, k: Stream, v: Stream) -> Stream:
        """Attention of queries from `q` to keys from `k`, moving values from `v`."""
        scores: Tensor = self.query(q) @ self.key(k).transpose(1, 2)
        if self.causal:
            later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        value: Tensor = self.value(v)
        return scores.softmax(-1) @ value


def linear(matrix: Float[Tensor, "d_in d_out"], bias: Float[Tensor, " d_out"] | None = None) -> nn.Linear:
    """The map x @ matrix + bias."""
    made = nn.Linear(matrix.shape[0], matrix.shape[1], bias=bias is not None, dtype=matrix.dtype)
    with torch.no_grad():
        made.weight.copy_(matrix.T)
        if bias is not None:
            made.bias.copy_(bias)
    return made


def heads_and_mlps(layers: Iterable[tuple[int, bool]], roots: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Destinations and their sources in a transformer whose blocks write in turn.

    Parameters
    ----------
    layers
        (number of heads, whether there is an MLP) of each block.
    roots
        What writes before the first block.

    Examples
    --------
    >>> heads_and_mlps([(1, True)], ["emb"])["m0"], heads_and_mlps([(1, True)], ["emb"])["out"]
    (('emb', 'a0h0'), ('emb', 'a0h0', 'm0'))
    """
    written = list(roots)
    found: dict[str, tuple[str, ...]] = {}
    for layer, (n_heads, mlp) in enumerate(layers):
        heads = [f"a{layer}h{h}" for h in range(n_heads)]
        found |= {f"{head}_{part}": tuple(written) for head in heads for part in "qkv"}
        written += heads
        if mlp:
            found[f"m{layer}"] = tuple(written)
            written.append(f"m{layer}")
    return found | {"out": tuple(written)}

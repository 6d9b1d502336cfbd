"""A transformer of two layers, set by hand, that finds "A B ... A" and says B; the sharpness of its attention is a dial."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from patchclamp.base.seeds import torch_rng
from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth.base import Circuit, enter
from patchclamp.truth.wiring import Head, Wiring, heads_and_mlps, linear

VOCABULARY = 16
LENGTH = 8
JUNK = 8
LEAK = 0.02
ITEMS = 64
SHARPNESS = (2, 5, 20, 100)
HEADS = ("a0h0", "a0h1", "a1h0", "a1h1")
CIRCUIT = (
    ("pos", "a0h0_q"),
    ("pos", "a0h0_k"),
    ("tok", "a0h0_v"),
    ("a0h0", "a1h0_k"),
    ("tok", "a1h0_q"),
    ("tok", "a1h0_v"),
    ("a1h0", "out"),
)
NODES = ("tok", "pos", "a0h0", "a1h0")


class Subspaces:
    """The stream as a row of parts, each with a basis of its own."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        ends = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
        self.at = {name: slice(a, b) for name, a, b in zip(sizes, ends, ends[1:], strict=False)}
        self.d = ends[-1]

    def put(self, source: str, target: str, matrix: Tensor) -> Float[Tensor, "d d"]:
        """The map of the stream that reads one part by `matrix` (source, target) into another."""
        full = torch.zeros(self.d, self.d, dtype=torch.float64)
        full[self.at[source], self.at[target]] = matrix.double()
        return full


class Induction(nn.Module):
    """Two layers of two heads over one-hot tokens and positions; no norm, no MLP.

    Stream: token, position, previous token, output, junk, each one-hot in its own part. Head a0h0 attends from
    position i to i - 1 and copies the token there into "previous"; a1h0 looks for places whose "previous" is the token
    at hand and copies their token to the output. a0h1 and a1h1 attend at random and write junk, of which, as of the
    token itself, the output reads `LEAK`, so that they have some effect.

    Parameters
    ----------
    beta
        Scores of the two heads are beta where they match and 0 elsewhere.
    draw
        Of the other two heads' weights.
    """

    def __init__(self, beta: float, draw: torch.Generator) -> None:
        super().__init__()
        s = Subspaces(tok=VOCABULARY, pos=LENGTH, prev=VOCABULARY, out=VOCABULARY, junk=JUNK)
        inputs = torch.eye(VOCABULARY + LENGTH, s.d, dtype=torch.float64)
        here = torch.zeros_like(inputs)
        here[:VOCABULARY] = inputs[:VOCABULARY]
        self.tok, self.pos = linear(here), linear(inputs - here)
        self.edges = Wiring(heads_and_mlps([(2, False), (2, False)], ["tok", "pos"]))
        eye = torch.eye(VOCABULARY)
        back = torch.eye(LENGTH).roll(-1, 1)
        back[0] = 0
        self.a0h0 = Head(
            beta * s.put("pos", "pos", back),
            s.put("pos", "pos", torch.eye(LENGTH)),
            s.put("tok", "prev", eye),
            True,
        )
        self.a0h1 = _random_head(s, draw)
        self.a1h0 = Head(
            beta * s.put("tok", "tok", eye), s.put("prev", "tok", eye), s.put("tok", "out", eye), True
        )
        self.a1h1 = _random_head(s, draw)
        read = s.put("out", "tok", eye) + LEAK * s.put("tok", "tok", eye)
        read += LEAK * s.put("junk", "tok", torch.randn(JUNK, VOCABULARY, generator=draw))
        self.out = linear(read[:, s.at["tok"]])

    def forward(self, inputs: Float[Tensor, "item pos one_hot"]) -> Float[Tensor, "item vocabulary"]:
        """Logits after the last token."""
        written = {"tok": self.tok(inputs), "pos": self.pos(inputs)}
        for layer in (HEADS[:2], HEADS[2:]):
            read = {f"{h}_{part}": self.edges.into(f"{h}_{part}", written) for h in layer for part in "qkv"}
            for head in layer:
                written[head] = self.get_submodule(head)(*(read[f"{head}_{part}"] for part in "qkv"))
        out: Tensor = self.out(self.edges.into("out", written))[:, -1]
        return out


def _random_head(s: Subspaces, draw: torch.Generator) -> Head:
    query, key = (torch.randn(LENGTH, LENGTH, generator=draw) for _ in range(2))
    value = torch.randn(VOCABULARY, JUNK, generator=draw) / JUNK**0.5
    return Head(s.put("pos", "pos", query), s.put("pos", "pos", key), s.put("tok", "junk", value), True)


def induction(beta: float, seed: int = 0, items: int = ITEMS) -> Circuit:
    """Build the induction transformer, with sequences and the edges that carry the answer.

    An item is BOS, random tokens, and a token seen once before, whose successor is the answer. The corrupted input is
    another sequence with its positions permuted: with positions in order, edges from `pos` would be the same in both
    runs and drop out of the truth. Without BOS the first position, which has no predecessor, would attend to itself
    and so pass for a match. Metric: logit of the answer minus the mean of the others.

    Parameters
    ----------
    beta
        Sharpness of attention. At 2 it is soft; from 20 on the softmax is saturated, and gradients through queries
        and keys vanish although the edges matter as much as before.
    seed
        Of the random heads and of the items.
    items
        Number of items.

    Returns
    -------
    Circuit
        `sites` are the six components (``tok.out``, ..., ``a1h1.out``) and `nodes` their truth; `edges` has the
        addresses of all 42 edges, of which 7 are true. Score both with ``level="site"``. `data["accuracy"]` is measured.

    Notes
    -----
    The truth is exact for patching, from the construction. The circuit is that of Olsson et al. 2022.

    Examples
    --------
    >>> circuit = induction(20)
    >>> len(circuit.edges), sum(circuit.edges.values()), circuit.data["accuracy"]
    (42, 7, 1.0)
    """
    draw = torch_rng(seed)
    net = Induction(beta, draw).float().eval()
    pairs = _draw_pairs(items, draw)
    positions = torch.arange(LENGTH).expand(items, LENGTH)
    mixed = torch.stack([torch.randperm(LENGTH, generator=draw) for _ in range(items)])
    clean = _one_hots(torch.stack([c for c, _, _ in pairs]), positions)
    corrupted = _one_hots(torch.stack([k for _, k, _ in pairs]), mixed)
    answers = torch.tensor([answer for _, _, answer in pairs])
    with torch.no_grad():
        accuracy = float((net(clean).argmax(1) == answers).double().mean())
    name = f"induction-{beta:g}"
    subject = TorchModule(net, clean[:1], f"truth:{name}")
    addresses = net.edges.addresses("edges")
    components = ("tok", "pos", *HEADS)
    return Circuit(
        subject,
        TensorTask(name, clean, corrupted, answer_above_rest, targets=answers),
        tuple(f"{c}.out" for c in components),
        nodes={f"{c}.out": c in NODES for c in components},
        level="site",
        edges={address: edge in CIRCUIT for edge, address in addresses.items()},
        data={"accuracy": accuracy, "beta": beta},
    )


def answer_above_rest(
    logits: Float[Tensor, "item vocabulary"], answers: Int[Tensor, " item"]
) -> Float[Tensor, " item"]:
    """Logit of the answer minus the mean of all others."""
    right = logits.gather(1, answers[:, None])[:, 0]
    return right - (logits.sum(1) - right) / (logits.shape[1] - 1)


def _draw_pairs(items: int, draw: torch.Generator) -> list[tuple[Tensor, Tensor, int]]:
    """Clean sequence, corrupted sequence with another answer, the clean one's answer."""
    pairs: list[tuple[Tensor, Tensor, int]] = []
    while len(pairs) < items:
        (clean, answer), (corrupted, other) = _draw_sequence(draw), _draw_sequence(draw)
        if answer != other:
            pairs.append((clean, corrupted, answer))
    return pairs


def _draw_sequence(draw: torch.Generator) -> tuple[Int[Tensor, " pos"], int]:
    """BOS (token 0), random tokens, and one of them again that occurs once and has a successor; that successor."""
    while True:
        body = torch.randint(1, VOCABULARY, (LENGTH - 2,), generator=draw)
        at = int(torch.randint(0, LENGTH - 3, (1,), generator=draw))
        if int((body == body[at]).sum()) == 1:
            return torch.cat([torch.zeros(1, dtype=torch.int64), body, body[at : at + 1]]), int(body[at + 1])


def _one_hots(
    tokens: Int[Tensor, "item pos"], positions: Int[Tensor, "item pos"]
) -> Float[Tensor, "item pos one_hot"]:
    return torch.cat([one_hot(tokens, VOCABULARY), one_hot(positions, LENGTH)], 2).float()


for _beta in SHARPNESS:
    enter(
        f"induction-{_beta}",
        "circuit",
        partial(induction, _beta),
        f"hand-built induction transformer, 42 edges each a site, softmax sharpness {_beta}",
        "induction heads: Olsson et al. 2022; edges as sites after Hanna et al. 2024",
    )

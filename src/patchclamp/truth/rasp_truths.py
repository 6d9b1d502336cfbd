"""Compiled programs with the edges that matter, which depend on what an edge is replaced by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.seeds import torch_rng
from patchclamp.subjects.clamp.batch import Batch, Edit
from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth.base import Circuit, enter
from patchclamp.truth.rasp import Program, fraction_of_previous, histogram, reverse
from patchclamp.truth.rasp_compile import TOLERANCE, Compiled

ITEMS = 64
_Edges = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _ProgramSpec:
    make: Callable[[], Program]
    about: str
    patch: _Edges
    zero: _Edges


PROGRAMS: Mapping[str, _ProgramSpec] = {
    "rasp-reverse": _ProgramSpec(
        reverse,
        "the sequence backwards",
        (("emb", "a3h0_v"), ("a3h0", "out")),
        (
            ("emb", "a0h0_v"), ("a0h0", "m0"), ("emb", "m0"), ("m0", "m1"), ("emb", "m1"), ("m1", "m2"),
            ("m2", "a3h0_q"), ("emb", "a3h0_k"), ("emb", "a3h0_v"), ("a3h0", "out"),
        ),
    ),
    "rasp-fraction": _ProgramSpec(
        fraction_of_previous,
        "the share of one token among those so far",
        (("emb", "m0"), ("m0", "a1h0_v"), ("a1h0", "out")),
        (("emb", "m0"), ("m0", "a1h0_v"), ("emb", "a1h0_q"), ("emb", "a1h0_k"), ("a1h0", "out")),
    ),
    "rasp-histogram": _ProgramSpec(
        histogram,
        "how often each token occurs",
        (("emb", "a0h0_q"), ("emb", "a0h0_k"), ("a0h0", "m0"), ("m0", "out")),
        (
            ("emb", "a0h0_q"), ("emb", "a0h0_k"), ("emb", "a0h0_v"),
            ("a0h0", "m0"), ("emb", "m0"), ("m0", "out"),
        ),
    ),
}  # fmt: skip


def rasp(name: str, ablation: str = "patch", seed: int = 0, items: int = ITEMS) -> Circuit:
    """Build a compiled program, with the edges and components that matter under an ablation.

    Under ``"patch"`` (another input's activity, as in resampling) an edge matters if what it carries differs between
    inputs: that the length of the sequence is computed does not show, all inputs being equally long. Under ``"zero"``
    it does. Metric: with o the output and y, y' what the program gives for the clean and the corrupted input, the mean
    over positions of o . (y - y'): linear in the output, and it has a gradient for numbers as for one-hot values.

    Parameters
    ----------
    name
        In `PROGRAMS`.
    ablation
        ``"patch"`` or ``"zero"``.
    seed
        Of the items: clean and corrupted inputs with different outputs.
    items
        Number of items.

    Returns
    -------
    Circuit
        `sites` are the components, `edges` the addresses of all edges; score both with ``level="site"``. For ``"zero"``
        effects are those of ``Intervention(address, "zero")``; methods that compare two runs estimate patches, for
        which the truth is the other one. `data["program"]` runs the program itself.

    Notes
    -----
    The sets of edges hold for the compiler here. They were found by `edges_that_matter` over every input, under patching
    with every other input as partner for reverse and histogram (16 shuffled partners for fraction); the tests find them
    again from a part of the pairs.

    Examples
    --------
    >>> [sum(rasp("rasp-reverse", how).edges.values()) for how in ("patch", "zero")]
    [2, 10]
    """
    spec = PROGRAMS[name]
    true = spec.zero if ablation == "zero" else spec.patch
    program = spec.make()
    net = Compiled(program).eval()
    clean, corrupted = _draw(program, items, seed)
    subject = TorchModule(net, net.encode(clean[:1]), f"truth:{name}")
    addresses = net.edges.addresses("edges")
    task = TensorTask(
        name,
        net.encode(clean),
        net.encode(corrupted),
        along_difference,
        targets=net.target(clean) - net.target(corrupted),
    )
    nodes = {source for source, _ in true}
    return Circuit(
        subject,
        task,
        tuple(f"{c}.out" for c in net.components),
        nodes={f"{c}.out": c in nodes for c in net.components},
        ablation=ablation,
        level="site",
        edges={address: edge in true for edge, address in addresses.items()},
        data={"program": program},
    )


def along_difference(
    output: Float[Tensor, "item pos value"], difference: Float[Tensor, "item pos value"]
) -> Float[Tensor, " item"]:
    """Mean over positions of output . (clean target - corrupted target)."""
    return (output * difference).sum(2).mean(1)


def edges_that_matter(
    net: Compiled,
    clean: Float[Tensor, "item pos one_hot"],
    corrupted: Float[Tensor, "item pos one_hot"] | None,
) -> dict[tuple[str, str], bool]:
    """For every edge, whether exact replacement changes any output of any item by more than `TOLERANCE`.

    Parameters
    ----------
    net
        The compiled program.
    clean
        Inputs of the runs that are changed.
    corrupted
        Inputs from whose runs the edge's activity is taken; None puts zeros.
    """
    subject = TorchModule(net, clean[:1])
    batch = subject.batch(clean)
    usual = subject.run(batch, logits="all").logits
    assert usual is not None
    found = {}
    for edge, address in net.edges.addresses("edges").items():
        site = subject.resolve(address)[0]
        if corrupted is None:
            new = torch.zeros(len(clean), clean.shape[1], subject.width(site), dtype=torch.float64)
        else:
            new = subject.run(subject.batch(corrupted), read=[site]).activity[site]

        def write(activity: Tensor, batch: Batch, new: Tensor = new) -> Tensor:
            return new

        changed = subject.run(batch, write=[Edit(site, write)], logits="all").logits
        assert changed is not None
        found[edge] = bool((changed - usual).abs().max() > TOLERANCE)
    return found


def _draw(program: Program, items: int, seed: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    draw = torch_rng(seed)
    every = program.inputs()
    clean: list[tuple[str, ...]] = []
    corrupted: list[tuple[str, ...]] = []
    while len(clean) < items:
        first, second = (every[int(i)] for i in torch.randint(len(every), (2,), generator=draw))
        if program.run(first) != program.run(second):
            clean.append(first)
            corrupted.append(second)
    return clean, corrupted


for _name, _spec in PROGRAMS.items():
    for _suffix, _ablation in (("", "patch"), ("-zero", "zero")):
        enter(
            _name + _suffix,
            "circuit",
            partial(rasp, _name, _ablation),
            f"compiled program: {_spec.about}; truth of {'other inputs' if not _suffix else 'zero'} ablation",
            "RASP: Weiss et al. 2021; compiled after Lindner et al. 2023 (tracr)",
        )

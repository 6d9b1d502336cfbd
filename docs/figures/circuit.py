"""The drawing of `docs/circuits.md`: ``python docs/figures/circuit.py`` makes it anew, in half a minute."""

from __future__ import annotations

from pathlib import Path

import patchclamp as pc
from patchclamp.connect.circuits import neuron_graph
from patchclamp.study import label_nodes

FIGURE = Path(__file__).with_suffix(".svg")


def main() -> None:
    """Open the embedded model, find the circuit, draw it."""
    subject = pc.open_subject("smollm2")
    task = pc.load_task("agreement", subject.tokenizer, n=8)
    graph = neuron_graph(subject, task, neurons=30, heads=6, senders=3)
    label_nodes(subject, task, graph).to_svg(FIGURE, n=24, links=40)


if __name__ == "__main__":
    main()

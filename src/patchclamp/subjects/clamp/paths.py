"""Exact path patching: what one part says to another by one way alone, and what the other then does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from patchclamp.base.errors import check_choice
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Edit
from patchclamp.subjects.clamp.edits import put
from patchclamp.subjects.clamp.flow import FREEZE, FlowPlan
from patchclamp.subjects.clamp.freeze import State, as_they_were, held, state_of
from patchclamp.subjects.clamp.receivers import Receiver

Received = Mapping[Site, Tensor]


class PathRuns:
    """Two passes over one batch: in the first a sender changes and receivers are read, in the second receivers alone change.

    Parameters
    ----------
    plan
        Of the model.
    batch
        The run in which paths are patched.
    freeze
        What keeps its activity of the unchanged run in the first pass: ``"heads"`` (their values before the output
        projection, at all positions), ``"mlps"`` (their neurons; of expert layers the output), ``"patterns"``,
        ``"norms"``. The sender's own change acts on top. In the second pass nothing is frozen.
    """

    def __init__(self, plan: FlowPlan, batch: Batch, freeze: Sequence[str]) -> None:
        for name in freeze:
            check_choice("freeze", name, FREEZE)
        self.subject, self.freeze = plan.subject, frozenset(freeze)
        self.batch = batch.to(self.subject.device)
        layers = range(self.subject.n_layers)
        heads = [Site("head", layer) for layer in layers] if "heads" in freeze else []
        mlps = []
        if "mlps" in freeze:
            taps = [self.subject.row_at(layer).taps for layer in layers]
            mlps = [Site("mlp_act" if "mlp_act" in t else "mlp_out", i) for i, t in enumerate(taps)]
        self._still = [*heads, *mlps]
        streams = [Site("resid_pre", layer) for layer in layers]
        self._recompute = {"patterns", "norms"} & self.freeze
        self.state: State = (
            state_of(self.subject, batch, [*self._still, *streams])
            if self._recompute
            else State(
                self.batch, activity=dict(self.subject.run(batch, read=[*self._still, *streams]).activity)
            )
        )

    def receive(
        self, change: Sequence[Edit], receivers: Sequence[Receiver], layer: int = 0
    ) -> dict[Site, Tensor]:
        """What the receivers read when the sender changes and all that is frozen does not.

        Parameters
        ----------
        change
            Edits at the sender.
        receivers
            All that come after it.
        layer
            The sender's block, where the pass can begin.
        """
        still = [site for site in self._still if (site.layer or 0) >= layer]
        edits = [*as_they_were(self.state, still), *change]
        reads = list(dict.fromkeys(site for one in receivers for site, _ in one.taps))
        start = (layer, self.state.activity[Site("resid_pre", layer)]) if layer else None
        with ExitStack() as stack:
            extra: list[Site] = []
            if self._recompute:
                patterns, norms = "patterns" in self.freeze, "norms" in self.freeze
                extra = stack.enter_context(held(self.subject, self.state, patterns=patterns, norms=norms))
                start = None  # the state's patterns are given to every layer
            got = self.subject.run(self.batch, read=[*reads, *extra], write=edits, start=start).activity
        return {site: got[site] for site in reads}

    def send(self, receivers: Sequence[Receiver], received: Received, logits: Tensor | str) -> Tensor:
        """The logits when the receivers read what they received, and all else is free."""
        places = sorted({site for one in receivers for site, _ in one.taps}, key=str)
        edits = [Edit(site, put(received[site], self._of(site, receivers))) for site in places]
        out = self.subject.run(self.batch, write=edits, logits=logits).logits
        assert out is not None
        return out

    def _of(self, site: Site, receivers: Sequence[Receiver]) -> Tensor | None:
        parts = [columns for one in receivers for at, columns in one.taps if at == site]
        whole = any(columns is None for columns in parts)
        return None if whole else torch.cat([columns for columns in parts if columns is not None])

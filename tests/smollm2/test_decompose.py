"""SNMF on one MLP site of the embedded model: features differ from neurons and explain text that was not fitted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from patchclamp import open_subject
from patchclamp.decompose import PCA, SNMF, load_dictionary
from patchclamp.decompose.base import activity as read
from patchclamp.decompose.base import unexplained_variance
from patchclamp.record import documents, record

pytestmark = pytest.mark.smollm2


def test_snmf_of_an_mlp_site(tmp_path: Path) -> None:
    subject = open_subject("smollm2")
    texts = [vars(one) for one in documents("sample")][:120]
    recording = record(subject, texts, "mlp_act.12", store=tmp_path / "store", progress=False)
    found = SNMF(n_features=50).fit(recording)
    assert str(found.site) == "mlp_act.12"
    assert found.directions.shape == (50, 1536)
    assert found.meta["dead"] == 0
    # One per cent of 1,536 units each, and not a neuron by itself: no entry carries nearly all of a direction.
    assert (found.directions != 0).sum(1).tolist() == [16] * 50
    assert float((found.directions.abs().amax(1) < 0.95).float().mean()) > 0.5

    seen, held = read(recording).split(0.1, seed=0)
    assert held is not None
    unexplained = unexplained_variance(found, held)
    assert found.meta["unexplained"] == pytest.approx(unexplained)
    # Better than as many neurons, the most active ones; no better than as many principal components fitted to it.
    activity = torch.cat(list(held.blocks()))
    strongest = torch.cat(list(seen.blocks())).square().sum(0).topk(50).indices
    kept = torch.zeros_like(activity).index_copy(1, strongest, activity[:, strongest])
    total = (activity - activity.mean(0)).square().sum()
    neurons = float((activity - kept).square().sum() / total)
    bound = unexplained_variance(PCA(n_features=50, held_out=0).fit(activity), held)
    assert bound < unexplained < neurons

    back = load_dictionary(found.save(tmp_path / "snmf"))
    assert torch.equal(back.encode(activity), found.encode(activity))

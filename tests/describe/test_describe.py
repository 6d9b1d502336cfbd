"""Decoding through the LM head finds planted tokens, and says when there is nothing to find."""

from __future__ import annotations

import math

import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.describe import TOOLS, lm_head
from patchclamp.describe.lm_head import decode_directions


@pytest.fixture(scope="module")
def unembedding() -> torch.Tensor:
    return torch.randn(500, 64, generator=torch.Generator().manual_seed(0))


def planted(unembedding: torch.Tensor, token: int, noise: float = 1.0) -> torch.Tensor:
    return noise * torch.randn(64, generator=torch.Generator().manual_seed(1)) + 3 * unembedding[token]


def top(table, way: str = "promotes"):
    return table[table.way == way].iloc[0]


def test_a_planted_token_is_found_and_is_significant(unembedding):
    best = top(decode_directions(planted(unembedding, 17)[None], unembedding, None))
    assert best.token_id == 17
    assert best.p < 0.01
    assert best.z > 5


def test_what_is_written_backwards_is_suppressed(unembedding):
    best = top(decode_directions(-planted(unembedding, 17)[None], unembedding, None), "suppresses")
    assert best.token_id == 17
    assert best.z < -5


def test_a_random_direction_is_not_significant(unembedding):
    random = torch.randn(40, 64, generator=torch.Generator().manual_seed(9))
    table = decode_directions(random, unembedding, None, top=1)
    assert (table[table["way"] == "promotes"].p < 0.05).mean() < 0.2


def test_z_has_unit_variance_over_random_directions(unembedding):
    random = torch.randn(4000, 64, generator=torch.Generator().manual_seed(3))
    centred = unembedding - unembedding.mean(0)
    table = decode_directions(random, unembedding, None, top=1, n_null=2)
    row = table.iloc[0]
    by_hand = centred[row.token_id] @ random[0] / random[0].norm()
    assert row.logit == pytest.approx(float(by_hand), rel=1e-4)
    assert row.z == pytest.approx(float(8 * by_hand / centred[row.token_id].norm()), rel=1e-4)
    z = math.sqrt(64) * (random / random.norm(dim=1, keepdim=True)) @ (centred[5] / centred[5].norm())
    assert float(z.var()) == pytest.approx(1, abs=0.06)


def test_a_constant_added_to_all_logits_changes_nothing(unembedding):
    direction = planted(unembedding, 17)[None]
    shifted = unembedding + 5 * direction
    first, second = (decode_directions(direction, w, None, min_norm=0) for w in (unembedding, shifted))
    assert first.token_id.tolist() == second.token_id.tolist()


def test_the_gain_of_the_norm_is_applied_or_not_as_asked(unembedding):
    gain = torch.ones(64)
    gain[:32] = 0.0
    direction = torch.zeros(1, 64)
    direction[0, :32] = 1.0
    assert decode_directions(direction, unembedding, gain).z.abs().max() < 1e-6
    assert decode_directions(direction, unembedding, gain, norm="ignore").z.abs().max() > 1


def test_results_do_not_depend_on_the_chunk_or_the_length(unembedding):
    direction = planted(unembedding, 17)[None]
    first = decode_directions(direction, unembedding, None, chunk=500)
    second = decode_directions(direction * 7, unembedding, None, chunk=13)
    assert first.token_id.tolist() == second.token_id.tolist()
    assert first.z.to_numpy() == pytest.approx(second.z.to_numpy(), abs=1e-4)


def test_short_rows_are_left_out(unembedding):
    weights = unembedding.clone()
    weights[17] *= 0.01
    assert 17 not in decode_directions(planted(unembedding, 17)[None], weights, None).token_id.tolist()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_direction_without_length_is_refused(unembedding, value):
    with pytest.raises(PatchclampError, match="nothing to decode"):
        decode_directions(torch.full((1, 64), value), unembedding, None)


def test_neurons_of_a_model_decode_by_their_output_weights():
    from patchclamp.subjects import open_subject
    from tiny import tiny_model

    subject = open_subject(tiny_model("llama"))
    weights, gain = subject.unembed()
    down = subject.model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        down[:, 3] = 10 * (weights[7] * gain - (weights * gain).mean(0)) / gain.clamp_min(1e-3)
    table = lm_head(subject, "mlp_act.1[3]", top=1, n_null=20, min_norm=0)
    assert top(table).unit == "mlp_act.1[3]"
    assert TOOLS["lm_head"] is lm_head
    by_hand = ((weights * gain) - (weights * gain).mean(0)) @ down[:, 3]
    cosine = by_hand / ((weights * gain) - (weights * gain).mean(0)).norm(dim=1)
    assert top(table).token_id == int(cosine.argmax())


def test_heads_have_no_direction_of_their_own():
    from patchclamp.subjects import open_subject
    from tiny import tiny_model

    with pytest.raises(PatchclampError, match="average contribution"):
        lm_head(open_subject(tiny_model("llama")), "head.0[1]")

"""Any direction, features too, in one call; the answer does not depend on how the vocabulary and the units are cut."""

from __future__ import annotations

import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.dictionaries import SparseDictionary
from patchclamp.describe import lm_head
from patchclamp.describe.lm_head import decode_directions
from patchclamp.describe.search import extremes as extremes_module
from patchclamp.describe.search.extremes import VocabularyRows, extremes
from patchclamp.subjects import open_subject
from tiny import tiny_model


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [None, 64, 100, 333])
@pytest.mark.parametrize("buffer", [1 << 10, 1 << 26])
def test_the_extremes_are_those_of_the_whole_product(monkeypatch, chunk, buffer):
    monkeypatch.setattr(extremes_module, "BUFFER_BYTES", buffer)
    weights, unit = noise(333, 16), torch.nn.functional.normalize(noise(21, 16, seed=1))
    rows = VocabularyRows(weights, None, 0.0, chunk)
    centred = weights - weights.mean(0)
    whole = 4 * unit @ torch.nn.functional.normalize(centred).T
    for way, sign in (("promotes", 1), ("suppresses", -1)):
        want = (sign * whole).topk(7, dim=1)
        found = extremes(unit, rows, 7)[way]
        torch.testing.assert_close(found.z, sign * want.values, atol=1e-5, rtol=1e-5)
        assert torch.equal(found.ids, want.indices)
        torch.testing.assert_close(found.logit, (unit @ centred.T).gather(1, found.ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [None, 64, 200])
def test_among_equal_tokens_the_first_are_named(chunk):
    """Every row occurs many times, in groups far apart."""
    weights = noise(4, 8).repeat(200, 1)
    found = decode_directions(weights[2:3], weights, None, top=5, n_null=5, chunk=chunk)
    assert found[found.way == "promotes"].token_id.tolist() == [2, 6, 10, 14, 18]


@pytest.fixture(scope="module")
def subject():
    return open_subject(tiny_model("llama"))


def test_a_vector_is_decoded_as_the_neuron_that_writes_it(subject):
    options = {"top": 3, "n_null": 20, "min_norm": 0}
    neuron = lm_head(subject, "mlp_act.1[3]", **options)
    written = subject.model.model.layers[1].mlp.down_proj.weight[:, 3].detach()
    vector = lm_head(subject, written, names=["probe"], **options)
    assert vector.unit.unique().tolist() == ["probe"]
    columns = ["way", "rank", "token_id", "p"]
    assert vector[columns].equals(neuron[columns])
    with pytest.raises(PatchclampError, match="the stream of"):
        lm_head(subject, torch.ones(5))


def test_a_feature_is_decoded_by_what_it_writes(subject):
    directions = noise(6, subject.d_model)
    dictionary = SparseDictionary("resid_post.1", directions.T.clone(), None, directions, None)
    options = {"top": 2, "n_null": 20, "min_norm": 0}
    with subject.attach("mine", dictionary):
        found = lm_head(subject, "resid_post.1/mine[4]", **options)
    assert found.unit[0] == "resid_post.1/mine[4]"
    assert found.token_id.tolist() == lm_head(subject, directions[4], **options).token_id.tolist()


def test_all_neurons_of_all_layers_in_one_call(subject):
    found = lm_head(subject, "mlp_act.*", top=2, n_null=20, min_norm=0)
    width = subject.model.config.intermediate_size
    assert len(found) == subject.n_layers * width * 4
    assert found.unit.iloc[-1] == f"mlp_act.{subject.n_layers - 1}[{width - 1}]"
    assert (found.p > 0).all()


def test_features_of_attention_are_decoded_through_the_output_projection(subject):
    """z -> W_O -> W_U is linear: the feature is the vector that its row of the decoder writes."""
    width = subject.width(subject.resolve("z.1")[0])
    decoder = noise(6, width, seed=3)
    attended = SparseDictionary("z.1", decoder.T.contiguous(), None, decoder, None)
    options = {"top": 4, "n_null": 20, "min_norm": 0}
    columns = ["way", "rank", "token_id", "p"]
    written = subject.model.model.layers[1].self_attn.o_proj.weight.detach() @ decoder[2]
    with subject.attach("attended", attended):
        found = lm_head(subject, "z.1/attended[2]", **options)
    assert found.unit.unique().tolist() == ["z.1/attended[2]"]
    assert found[columns].equals(lm_head(subject, written, **options)[columns])
    column = subject.model.model.layers[1].self_attn.o_proj.weight[:, 7].detach()
    one, same = lm_head(subject, "z.1[7]", **options), lm_head(subject, column, **options)
    assert one[columns].equals(same[columns])
    with pytest.raises(PatchclampError, match="no fixed direction"):
        lm_head(subject, "head.1[2]", **options)

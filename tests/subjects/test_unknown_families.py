"""A family without a row is refused with a call that opens it, and the call works."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers as tf

from patchclamp import TorchModule, open_subject
from patchclamp.base.errors import PatchclampError

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = SMALL | {"intermediate_size": 24, "num_key_value_heads": 2, "pad_token_id": 0}
ROBERTA = SMALL | {"intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 0}
T5 = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 2, "d_kv": 4, "vocab_size": 9}
MODELS: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "cohere": (tf.CohereForCausalLM, tf.CohereConfig, LLAMA, "model.layers.1.mlp.out"),
    "starcoder2": (tf.Starcoder2ForCausalLM, tf.Starcoder2Config, LLAMA, "model.layers.1.mlp.c_proj.out"),
    "roberta": (tf.RobertaModel, tf.RobertaConfig, ROBERTA, "encoder.layer.1.output.dense.out"),
    "t5": (tf.T5Model, tf.T5Config, T5, "block.0.layer.1.DenseReluDense.wo.out"),
    "resnet": (
        tf.ResNetForImageClassification,
        tf.ResNetConfig,
        {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]},
        "resnet.encoder.stages.1.layers.0.activation.out",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_call_in_the_refusal_opens_the_model(name: str) -> None:
    kind, config, values, site = MODELS[name]
    model = kind(config(**values)).eval()
    with pytest.raises(PatchclampError, match="not in the anatomy table") as refused:
        open_subject(model)
    call = re.search(r"TorchModule\((model\S*), (torch\.\w+)\((.*?)\)\);", str(refused.value))
    assert call is not None, str(refused.value)
    body = model.get_encoder() if call[1] == "model.get_encoder()" else model
    assert call[1] in ("model", "model.get_encoder()")
    numbers = [int(number) for number in re.findall(r"\d+", call[3])]
    example = torch.zeros(*numbers) if call[2] == "torch.zeros" else torch.tensor([numbers])
    subject = TorchModule(body, example)
    (found,) = subject.resolve(site)
    assert found in subject.known_sites()
    seen = subject.run(subject.dummy(), read=[found]).activity[found]
    assert seen.shape[2] == subject.width(found)
    assert bool(torch.isfinite(seen).all())


def test_a_module_without_a_config_is_refused_with_its_call() -> None:
    with pytest.raises(PatchclampError, match=r"example=<one input>"):
        open_subject(torch.nn.Linear(2, 2))

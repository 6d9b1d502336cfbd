"""Where TransformerLens and nnsight define the same tensor, they and we read the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from patchclamp.nouns.units import parse_site
from patchclamp.subjects import LanguageModel

pytestmark = pytest.mark.crosscheck

TOKENS = [[3, 14, 15, 9, 2, 6], [5, 35, 8, 9, 7, 9]]
NAMES = [
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_resid_post",
    "blocks.1.hook_attn_out",
    "blocks.1.hook_mlp_out",
    "blocks.1.mlp.hook_post",
    "blocks.1.mlp.hook_pre",
    "blocks.1.attn.hook_z",
    "blocks.1.attn.hook_pattern",
]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(50)}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")),
        bos_token="w1",
        eos_token="w2",
        pad_token="w3",
    ).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_transformer_lens_reads_the_same_tensors_under_its_names(
    model: LlamaForCausalLM, tmp_path: Path
) -> None:
    bridge = pytest.importorskip("transformer_lens.model_bridge").TransformerBridge
    model.save_pretrained(tmp_path)
    ours = LanguageModel(model)
    sites = {name: parse_site(name) for name in NAMES}
    run = ours.run(ours.batch(TOKENS), read=list(sites.values()))
    theirs = bridge.boot_transformers(
        str(tmp_path),
        hf_model=LlamaForCausalLM.from_pretrained(tmp_path).eval(),
        tokenizer=_tokenizer(tmp_path),
        dtype=torch.float32,
    )
    with torch.no_grad():
        _, cache = theirs.run_with_cache(torch.tensor(TOKENS), names_filter=NAMES)
    for name, site in sites.items():
        seen = cache[name].reshape(run.activity[site].shape)
        assert torch.allclose(run.activity[site], seen, atol=2e-6), name


def test_nnsight_reads_the_same_tensors(model: LlamaForCausalLM) -> None:
    nnsight = pytest.importorskip("nnsight")
    ours = LanguageModel(model)
    site = parse_site("mlp_act.1")
    mine = ours.run(ours.batch(TOKENS), read=[site]).activity[site]
    wrapped = nnsight.NNsight(model)
    with wrapped.trace(input_ids=torch.tensor(TOKENS), use_cache=False):
        seen = wrapped.model.layers[1].mlp.down_proj.input.save()
    assert torch.equal(mine, seen)

"""Tiny random models of every family in the anatomy table, built from configurations alone.

Weights are drawn larger than transformers' own 0.02, so that every part moves the stream; head sizes differ
from d_model / heads wherever the family allows it, and key and value heads are fewer than heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as tf
from torch import nn

VOCAB = 97
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4} | _TOKENS
_LLAMA = _SIZES | {"intermediate_size": 56, "num_key_value_heads": 2, "max_position_embeddings": 64}
_WIDE_HEADS = _LLAMA | {"head_dim": 12}
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "n_inner": 72,
} | _TOKENS


@dataclass(frozen=True)
class Tiny:
    """How to build one tiny model."""

    name: str
    model: Callable[[Any], nn.Module]
    config: Callable[..., Any]
    values: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """The model, in evaluation mode."""
        torch.manual_seed(seed)
        model = self.model(self.config(**self.values))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.15)
                elif name.endswith("bias"):
                    parameter.normal_(0.0, 0.1)
                else:  # gains of norms: away from 1, so that forgetting one shows
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model.to(dtype).eval()


_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "image_size": 16,
    "patch_size": 4,
}
_DEEPSEEK = _SIZES | {
    "intermediate_size": 56,
    "moe_intermediate_size": 24,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "max_position_embeddings": 64,
}
_OPT = _SIZES | {"ffn_dim": 56, "max_position_embeddings": 64, "word_embed_proj_dim": 32}
_FALCON = _SIZES | {"max_position_embeddings": 64}
_NEOX = _SIZES | {"intermediate_size": 72, "max_position_embeddings": 64}
_BERT = _SIZES | {"intermediate_size": 56, "max_position_embeddings": 64}

DECODERS: dict[str, Tiny] = {
    tiny.name: tiny
    for tiny in (
        Tiny("llama", tf.LlamaForCausalLM, tf.LlamaConfig, _WIDE_HEADS | {"attention_bias": True}),
        Tiny("mistral", tf.MistralForCausalLM, tf.MistralConfig, _WIDE_HEADS | {"sliding_window": 4}),
        Tiny("qwen2", tf.Qwen2ForCausalLM, tf.Qwen2Config, _LLAMA),
        Tiny("qwen3", tf.Qwen3ForCausalLM, tf.Qwen3Config, _WIDE_HEADS),
        Tiny("gemma", tf.GemmaForCausalLM, tf.GemmaConfig, _WIDE_HEADS),
        Tiny("gemma2", tf.Gemma2ForCausalLM, tf.Gemma2Config, _WIDE_HEADS | {"sliding_window": 4}),
        Tiny("gemma3", tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, _WIDE_HEADS | {"sliding_window": 4}),
        Tiny(
            "gemma3-images",
            tf.Gemma3ForConditionalGeneration,
            tf.Gemma3Config,
            {
                "text_config": _WIDE_HEADS | {"sliding_window": 4},
                "vision_config": _VISION,
                "mm_tokens_per_image": 4,
                "image_token_index": 3,
                "boi_token_index": 4,
                "eoi_token_index": 5,
            },
        ),
        Tiny("phi3", tf.Phi3ForCausalLM, tf.Phi3Config, _LLAMA | {"original_max_position_embeddings": 64}),
        Tiny("olmo2", tf.Olmo2ForCausalLM, tf.Olmo2Config, _LLAMA),
        Tiny("olmo3", tf.Olmo3ForCausalLM, tf.Olmo3Config, _LLAMA | {"sliding_window": 4}),
        Tiny("smollm3", tf.SmolLM3ForCausalLM, tf.SmolLM3Config, _LLAMA),
        Tiny("gpt2", tf.GPT2LMHeadModel, tf.GPT2Config, _GPT2),
        Tiny("gpt_neox", tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig, _NEOX),
        Tiny(
            "gpt_neox-sequential",
            tf.GPTNeoXForCausalLM,
            tf.GPTNeoXConfig,
            _NEOX | {"use_parallel_residual": False},
        ),
        Tiny("gptj", tf.GPTJForCausalLM, tf.GPTJConfig, _GPT2 | {"rotary_dim": 4}),
        Tiny("opt", tf.OPTForCausalLM, tf.OPTConfig, _OPT),
        Tiny(
            "opt-post-norm",
            tf.OPTForCausalLM,
            tf.OPTConfig,
            _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
        ),
        Tiny(
            "bloom",
            tf.BloomForCausalLM,
            tf.BloomConfig,
            {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 3, "n_head": 4} | _TOKENS,
        ),
        Tiny("falcon", tf.FalconForCausalLM, tf.FalconConfig, _FALCON),
        Tiny(
            "falcon-new",
            tf.FalconForCausalLM,
            tf.FalconConfig,
            _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
        ),
        Tiny(
            "falcon-one-norm",
            tf.FalconForCausalLM,
            tf.FalconConfig,
            _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        ),
        Tiny(
            "falcon-sequential",
            tf.FalconForCausalLM,
            tf.FalconConfig,
            _FALCON | {"parallel_attn": False, "multi_query": False, "alibi": True, "bias": True},
        ),
        Tiny(
            "mixtral",
            tf.MixtralForCausalLM,
            tf.MixtralConfig,
            _WIDE_HEADS | {"num_local_experts": 6, "num_experts_per_tok": 2},
        ),
        Tiny(
            "qwen2_moe",
            tf.Qwen2MoeForCausalLM,
            tf.Qwen2MoeConfig,
            _LLAMA
            | _EXPERTS
            | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [1], "norm_topk_prob": True},
        ),
        Tiny(
            "qwen3_moe",
            tf.Qwen3MoeForCausalLM,
            tf.Qwen3MoeConfig,
            _WIDE_HEADS | _EXPERTS | {"mlp_only_layers": [0], "norm_topk_prob": True},
        ),
        Tiny(
            "olmoe",
            tf.OlmoeForCausalLM,
            tf.OlmoeConfig,
            _LLAMA | {"num_experts": 6, "num_experts_per_tok": 2},
        ),
        Tiny("deepseek_v3", tf.DeepseekV3ForCausalLM, tf.DeepseekV3Config, _DEEPSEEK),
    )
}
ENCODERS: dict[str, Tiny] = {"bert": Tiny("bert", tf.BertForMaskedLM, tf.BertConfig, _BERT)}
VISION: dict[str, Tiny] = {
    "vit": Tiny(
        "vit",
        tf.ViTForImageClassification,
        tf.ViTConfig,
        _VISION | {"num_hidden_layers": 3, "num_labels": 5},
    )
}
LANGUAGE: dict[str, Tiny] = DECODERS | ENCODERS
ALL: dict[str, Tiny] = LANGUAGE | VISION


def tiny_model(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Build a tiny random model by its name in `ALL`."""
    return ALL[name].build(seed, dtype)

"""Decoders with one MLP a block: Llama and its kin, Gemma, Phi-3, OLMo 2, and the GPT families."""

from __future__ import annotations

from dataclasses import replace

from patchclamp.subjects.families.row import AnatomyRow, Tap, ends, in_parallel, row_of

LLAMA = row_of(
    family="Llama",
    model_types=("llama",),
    layers="model.layers",
    attention="self_attn",
    head_proj="self_attn.o_proj",
    resid_mid=Tap("post_attention_layernorm", "in"),
    activation="mlp.act_fn",
    mlp_proj="mlp.down_proj",
    fixed=ends("model.embed_tokens", "model.norm", "lm_head"),
    gated=True,
    norms=("input_layernorm", "post_attention_layernorm"),
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    mlp_in=("mlp.gate_proj", "mlp.up_proj"),
)

# Gemma's embedding module multiplies by sqrt(d_model) itself, so its output is what enters the first block.
_GEMMA = replace(LLAMA, family="Gemma", model_types=("gemma",), norm_offset=1.0)
_GEMMA2 = replace(
    _GEMMA,
    family="Gemma 2",
    model_types=("gemma2",),
    taps=dict(LLAMA.taps)
    | {
        "resid_mid": Tap("pre_feedforward_layernorm", "in"),
        "attn_out_post": Tap("post_attention_layernorm", "out"),
        "mlp_out_post": Tap("post_feedforward_layernorm", "out"),
    },
    norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    logit_softcap="final_logit_softcapping",
)
_GEMMA3 = replace(_GEMMA2, family="Gemma 3 (text)", model_types=("gemma3_text",))
_GEMMA3_WITH_IMAGES = replace(
    _GEMMA3,
    family="Gemma 3 (text part)",
    model_types=("gemma3",),
    base="model.language_model",
    layers="model.language_model.layers",
    fixed=ends(Tap("model.language_model.layers.0", "in"), "model.language_model.norm", "lm_head"),
    # the class with images returns the head's output as it is
    logit_softcap=None,
)

_PHI3 = replace(
    LLAMA,
    family="Phi-3",
    model_types=("phi3",),
    taps=dict(LLAMA.taps)
    | {
        "mlp_pre": Tap("mlp.activation_fn", "in"),
        "attn_out_post": Tap("resid_attn_dropout", "out"),
        "mlp_out_post": Tap("resid_mlp_dropout", "out"),
    },
    activation="mlp.activation_fn",
    qkv=("self_attn.qkv_proj",),
    fused="blocks",
    mlp_in=("mlp.gate_up_proj",),
)
_OLMO2 = replace(
    LLAMA,
    family="OLMo 2",
    model_types=("olmo2", "olmo3"),
    taps=dict(LLAMA.taps)
    | {
        # no norm before the MLP: its input is the stream
        "resid_mid": Tap("mlp", "in"),
        "attn_out_post": Tap("post_attention_layernorm", "out"),
        "mlp_out_post": Tap("post_feedforward_layernorm", "out"),
    },
    norms=("post_attention_layernorm", "post_feedforward_layernorm"),
)

_GPT2 = row_of(
    family="GPT-2",
    model_types=("gpt2",),
    base="transformer",
    layers="transformer.h",
    attention="attn",
    head_proj="attn.c_proj",
    resid_mid=Tap("ln_2", "in"),
    activation="mlp.act",
    mlp_proj="mlp.c_proj",
    fixed=ends("transformer.drop", "transformer.ln_f", "lm_head"),
    norms=("ln_1", "ln_2"),
    qkv=("attn.c_attn",),
    fused="blocks",
    mlp_in=("mlp.c_fc",),
    when={"add_cross_attention": False},
)
_GPTJ = in_parallel(
    row_of(
        family="GPT-J",
        model_types=("gptj",),
        base="transformer",
        layers="transformer.h",
        fixed=_GPT2.fixed,
        attention="attn",
        head_proj="attn.out_proj",
        activation="mlp.act",
        mlp_proj="mlp.fc_out",
        norms=("ln_1",),
        qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        mlp_in=("mlp.fc_in",),
    )
)

_NEOX_SEQUENTIAL = row_of(
    family="GPT-NeoX (one after the other)",
    model_types=("gpt_neox",),
    base="gpt_neox",
    layers="gpt_neox.layers",
    attention="attention",
    head_proj="attention.dense",
    resid_mid=Tap("post_attention_layernorm", "in"),
    attn_out_post=Tap("post_attention_dropout", "out"),
    activation="mlp.act",
    mlp_proj="mlp.dense_4h_to_h",
    mlp_out_post=Tap("post_mlp_dropout", "out"),
    fixed=ends("gpt_neox.emb_dropout", "gpt_neox.final_layer_norm", "lm_head"),
    norms=("input_layernorm", "post_attention_layernorm"),
    qkv=("attention.query_key_value",),
    fused="groups",
    mlp_in=("mlp.dense_h_to_4h",),
    when={"use_parallel_residual": False},
)
_NEOX = in_parallel(_NEOX_SEQUENTIAL, family="GPT-NeoX, Pythia", when={"use_parallel_residual": True})

_OPT = row_of(
    family="OPT",
    model_types=("opt",),
    base="model",
    layers="model.decoder.layers",
    attention="self_attn",
    head_proj="self_attn.out_proj",
    resid_mid=Tap("final_layer_norm", "in"),
    activation="activation_fn",
    mlp_proj="fc2",
    mlp_out=Tap("fc2", "out"),
    # no module returns the sum of token and position embeddings
    fixed=ends(Tap("model.decoder.layers.0", "in"), "model.decoder.final_layer_norm", "lm_head"),
    norms=("self_attn_layer_norm", "final_layer_norm"),
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    mlp_in=("fc1",),
    head_path=("model.decoder.project_out", "lm_head"),
    flat=("resid_mid", "mlp_pre", "mlp_act", "mlp_out", "mlp_out_post"),
    when={"do_layer_norm_before": True},
)
_OPT_POST = replace(
    _OPT,
    family="OPT (norm after the sum, 350m)",
    taps=dict(_OPT.taps) | {"resid_mid": Tap("self_attn_layer_norm", "out")},
    fixed={point: tap for point, tap in _OPT.fixed.items() if point != "final_norm"},
    flat=("mlp_pre", "mlp_act", "mlp_out", "mlp_out_post"),
    post_norm=True,
    missing={
        **_OPT.missing,
        "final_norm": "this model normalises at the end of every block and has no final norm; use the last resid_post",
    },
    when={"do_layer_norm_before": False},
)

# BLOOM's attention and MLP modules add the stream themselves: their raw outputs are those of the inner projections.
_BLOOM = row_of(
    family="BLOOM",
    model_types=("bloom",),
    base="transformer",
    layers="transformer.h",
    attention="self_attention",
    head_proj="self_attention.dense",
    attn_out=Tap("self_attention.dense", "out"),
    resid_mid=Tap("post_attention_layernorm", "in"),
    activation="mlp.gelu_impl",
    mlp_proj="mlp.dense_4h_to_h",
    mlp_out=Tap("mlp.dense_4h_to_h", "out"),
    fixed=ends("transformer.word_embeddings_layernorm", "transformer.ln_f", "lm_head"),
    norms=("input_layernorm", "post_attention_layernorm"),
    qkv=("self_attention.query_key_value",),
    fused="groups",
    mlp_in=("mlp.dense_h_to_4h",),
    position_ids=False,
    when={"apply_residual_connection_post_layernorm": False},
)
_BLOOM_NORMED = replace(
    _BLOOM,
    when={"apply_residual_connection_post_layernorm": True},
    refused="apply_residual_connection_post_layernorm=True adds to the normed stream, so no residual stream runs "
    "through the blocks; no released BLOOM has it",
)

_FALCON_SEQUENTIAL = replace(
    _BLOOM,
    family="Falcon (one after the other)",
    model_types=("falcon",),
    taps=dict(_BLOOM.taps)
    | dict.fromkeys(("attn_out", "attn_out_post"), Tap("self_attention", "out"))
    | dict.fromkeys(("mlp_out", "mlp_out_post"), Tap("mlp", "out"))
    | {"mlp_pre": Tap("mlp.act", "in")},
    fixed=dict(_BLOOM.fixed) | {"embeddings": Tap("transformer.word_embeddings", "out")},
    activation="mlp.act",
    position_ids=True,
    when={"new_decoder_architecture": False, "parallel_attn": False},
)
_FALCON = in_parallel(
    _FALCON_SEQUENTIAL,
    family="Falcon",
    norms=("ln_attn", "ln_mlp", "input_layernorm"),
    # Falcon adds the attention's output to the MLP's in place
    inplace=("mlp_out", "mlp_out_post"),
    when={},
)

ROWS: tuple[AnatomyRow, ...] = (
    LLAMA,
    replace(LLAMA, family="Mistral", model_types=("mistral",)),
    replace(LLAMA, family="Qwen2", model_types=("qwen2",)),
    replace(LLAMA, family="Qwen3", model_types=("qwen3",)),
    replace(LLAMA, family="SmolLM3", model_types=("smollm3",)),
    _GEMMA,
    _GEMMA2,
    _GEMMA3,
    _GEMMA3_WITH_IMAGES,
    _PHI3,
    _OLMO2,
    _GPT2,
    _GPTJ,
    _NEOX,
    _NEOX_SEQUENTIAL,
    _OPT,
    _OPT_POST,
    _BLOOM,
    _BLOOM_NORMED,
    _FALCON_SEQUENTIAL,
    _FALCON,
)

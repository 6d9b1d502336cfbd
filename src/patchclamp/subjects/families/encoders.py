"""Encoders: ViT (norm before) and BERT (norm after the sum)."""

from __future__ import annotations

from patchclamp.subjects.families.row import DENSE, AnatomyRow, Tap, block, ends

_VIT = AnatomyRow(
    family="ViT",
    model_types=("vit",),
    base="vit",
    layers="vit.layers",
    taps=block(
        attention="attention",
        head_proj="attention.o_proj",
        resid_mid=Tap("layernorm_after", "in"),
        activation="mlp.activation_fn",
        mlp_proj="mlp.fc2",
        mlp_out=Tap("mlp", "out"),
    ),
    fixed=ends("vit.embeddings", "vit.layernorm", "classifier"),
    attention="attention",
    head_proj="attention.o_proj",
    mlp_proj="mlp.fc2",
    gated=False,
    norms=("layernorm_before", "layernorm_after"),
    activation="mlp.activation_fn",
    qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    mlp_in=("mlp.fc1",),
    # the classifier reads the class token alone
    unembed="classifier",
    head_path=("classifier",),
    causal=False,
    position_ids=False,
    missing={"router": DENSE},
)
_BERT = AnatomyRow(
    family="BERT",
    model_types=("bert",),
    base="bert",
    layers="bert.encoder.layer",
    taps=block(
        attention="attention.self",
        head_proj="attention.output.dense",
        attn_out=Tap("attention.output.dense", "out"),
        resid_mid=Tap("attention.output", "out"),
        activation="intermediate.intermediate_act_fn",
        mlp_proj="output.dense",
        mlp_out=Tap("output.dense", "out"),
    ),
    fixed={
        "embeddings": Tap("bert.embeddings", "out"),
        "logits": Tap("cls", "out"),
    },
    attention="attention.self",
    head_proj="attention.output.dense",
    mlp_proj="output.dense",
    gated=False,
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    activation="intermediate.intermediate_act_fn",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    mlp_in=("intermediate.dense",),
    unembed="cls.predictions.decoder",
    head_path=("cls.predictions.transform", "cls.predictions.decoder"),
    post_norm=True,
    causal=False,
    missing={
        "router": DENSE,
        "final_norm": "BERT normalises at the end of every block and has no final norm; use the last resid_post",
    },
    when={"is_decoder": False},
)

ROWS: tuple[AnatomyRow, ...] = (_VIT, _BERT)

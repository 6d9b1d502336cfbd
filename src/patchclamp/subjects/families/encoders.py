"""Encoders: ViT (norm before) and BERT (norm after the sum)."""

from __future__ import annotations

from patchclamp.subjects.families.row import AnatomyRow, Tap, ends, row_of

_VIT = row_of(
    family="ViT",
    model_types=("vit",),
    base="vit",
    layers="vit.layers",
    attention="attention",
    head_proj="attention.o_proj",
    resid_mid=Tap("layernorm_after", "in"),
    activation="mlp.activation_fn",
    mlp_proj="mlp.fc2",
    fixed=ends("vit.embeddings", "vit.layernorm", "classifier"),
    norms=("layernorm_before", "layernorm_after"),
    qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    mlp_in=("mlp.fc1",),
    # the classifier reads the class token alone
    head_path=("classifier",),
    causal=False,
    position_ids=False,
)
_BERT = row_of(
    family="BERT",
    model_types=("bert",),
    base="bert",
    layers="bert.encoder.layer",
    attention="attention.self",
    head_proj="attention.output.dense",
    attn_out=Tap("attention.output.dense", "out"),
    resid_mid=Tap("attention.output", "out"),
    activation="intermediate.intermediate_act_fn",
    mlp_proj="output.dense",
    mlp_out=Tap("output.dense", "out"),
    fixed={
        "embeddings": Tap("bert.embeddings", "out"),
        "logits": Tap("cls", "out"),
    },
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    mlp_in=("intermediate.dense",),
    head_path=("cls.predictions.transform", "cls.predictions.decoder"),
    post_norm=True,
    causal=False,
    missing={
        "final_norm": "BERT normalises at the end of every block and has no final norm; use the last resid_post",
    },
    when={"is_decoder": False},
)

ROWS: tuple[AnatomyRow, ...] = (_VIT, _BERT)

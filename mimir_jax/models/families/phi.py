"""Phi-1, Phi-1.5 and Phi-2: attention and MLP side by side behind one norm (Gunasekar et al. 2023)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import (
    ACTIVATION_NAMES,
    REQUIRED,
    Family,
    Row,
    choose,
    embedding_rows,
    head_norm_rows,
    linear_rows,
    norm_rows,
    quotient,
    read_fields,
    read_rope,
    rotary_width,
)

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "intermediate_size": REQUIRED,
    "num_key_value_heads": None,
    "hidden_act": "gelu_new",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "qk_layernorm": False,
    "tie_word_embeddings": False,
    "rope_parameters": None,  # transformers 5; what follows it is in older files
    "rope_theta": None,
    "partial_rotary_factor": None,
}
IRRELEVANT = frozenset(["attention_dropout", "embd_pdrop", "initializer_range", "resid_pdrop"])
DEFAULTS: dict[str, Any] = {"rope_scaling": None}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Phi config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    share = 0.5 if f["partial_rotary_factor"] is None else f["partial_rotary_factor"]
    share, theta = read_rope(f, share, 10000.0 if f["rope_theta"] is None else f["rope_theta"])
    if f["num_key_value_heads"] is not None:
        quotient(f, "num_attention_heads", "num_key_value_heads")
    head_dim = quotient(f, "hidden_size", "num_attention_heads")
    return DecoderConfig(
        vocab=f["vocab_size"],
        layers=f["num_hidden_layers"],
        embed=f["hidden_size"],
        heads=f["num_attention_heads"],
        kv_heads=f["num_key_value_heads"],
        head_dim=head_dim,
        mlp=f["intermediate_size"],
        context=f["max_position_embeddings"],
        norm_eps=f["layer_norm_eps"],
        activation=choose("hidden_act", f["hidden_act"], ACTIVATION_NAMES),
        parallel_residual=True,
        shared_norm=True,
        qk_norm="head" if f["qk_layernorm"] else None,
        rotary_dim=rotary_width(head_dim, share),
        rope_theta=theta,
        tied_head=f["tie_word_embeddings"],
        head_bias=True,
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    layer = "model.layers.{}."
    inner, groups = (c.heads, c.head_dim), (c.key_heads, c.head_dim)
    table = embedding_rows(c, "model.embed_tokens.weight", "lm_head.weight")
    table += norm_rows(c, "blocks.attention_norm", layer + "input_layernorm")
    table += norm_rows(c, "final_norm", "model.final_layernorm")
    for ours, theirs, shape in (("query", "q_proj", inner), ("key", "k_proj", groups), ("value", "v_proj", groups)):
        table += linear_rows(f"blocks.attention.{ours}", layer + "self_attn." + theirs, shape, (c.embed,))
    if c.qk_norm is not None:
        for ours, theirs in (("query_norm", "q_layernorm"), ("key_norm", "k_layernorm")):
            table += head_norm_rows(c, f"blocks.attention.{ours}", layer + "self_attn." + theirs, 1)
    table += linear_rows("blocks.attention.out", layer + "self_attn.dense", (c.embed,), inner)
    table += linear_rows("blocks.mlp.up", layer + "mlp.fc1", (c.mlp,), (c.embed,))
    table += linear_rows("blocks.mlp.down", layer + "mlp.fc2", (c.embed,), (c.mlp,))
    return table


FAMILY = Family(
    "phi",
    config,
    rows,
    ignored=(r".*\.rotary_emb\.inv_freq",),  # tables that old versions of transformers saved
    prefix="model.",
)

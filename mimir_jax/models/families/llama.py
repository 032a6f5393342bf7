"""Llama and its kin, such as SmolLM (Touvron et al. 2023)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder import DecoderConfig
from mimir_jax.models.family import (
    ACTIVATION_NAMES,
    REQUIRED,
    Family,
    Row,
    choose,
    embedding_rows,
    linear_rows,
    norm_rows,
    quotient,
    read_fields,
    read_rope,
)

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "intermediate_size": REQUIRED,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "rope_parameters": None,  # transformers 5; what follows it is in older files
    "rope_theta": None,
}
# pretraining_tp cuts products into slices that add up to the same; max_sequence_length repeats the context.
# fmt: off
IRRELEVANT = frozenset([
    "attention_dropout", "initializer_range", "is_llama_config", "max_sequence_length", "pretraining_tp",
    "transformers.js_config",
])
# fmt: on
DEFAULTS: dict[str, Any] = {"rope_scaling": None, "rope_interleaved": False, "partial_rotary_factor": 1.0}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Llama config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    share, theta = read_rope(f, 1.0, 10000.0 if f["rope_theta"] is None else f["rope_theta"])
    if share != 1.0:
        raise ConfigError(f"config.json: rope_parameters.partial_rotary_factor={share!r} is not modelled (only 1.0)")
    if f["num_key_value_heads"] is not None:
        quotient(f, "num_attention_heads", "num_key_value_heads")
    head_dim = quotient(f, "hidden_size", "num_attention_heads") if f["head_dim"] is None else f["head_dim"]
    return DecoderConfig(
        vocab=f["vocab_size"],
        layers=f["num_hidden_layers"],
        embed=f["hidden_size"],
        heads=f["num_attention_heads"],
        kv_heads=f["num_key_value_heads"],
        head_dim=head_dim,
        mlp=f["intermediate_size"],
        context=f["max_position_embeddings"],
        norm="rms",
        norm_eps=f["rms_norm_eps"],
        activation=choose("hidden_act", f["hidden_act"], ACTIVATION_NAMES),
        gated_mlp=True,
        rotary_dim=head_dim,
        rope_theta=theta,
        qkv_bias=f["attention_bias"],
        attention_out_bias=f["attention_bias"],
        mlp_bias=f["mlp_bias"],
        tied_head=f["tie_word_embeddings"],
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    layer = "model.layers.{}."
    inner, groups = (c.heads, c.head_dim), (c.key_heads, c.head_dim)
    table = embedding_rows(c, "model.embed_tokens.weight", "lm_head.weight")
    table += norm_rows(c, "blocks.attention_norm", layer + "input_layernorm")
    table += norm_rows(c, "blocks.mlp_norm", layer + "post_attention_layernorm")
    table += norm_rows(c, "final_norm", "model.norm")
    for ours, theirs, shape in (("query", "q_proj", inner), ("key", "k_proj", groups), ("value", "v_proj", groups)):
        theirs = layer + "self_attn." + theirs
        table += linear_rows(f"blocks.attention.{ours}", theirs, shape, (c.embed,), bias=c.qkv_bias)
    out = layer + "self_attn.o_proj"
    table += linear_rows("blocks.attention.out", out, (c.embed,), inner, bias=c.attention_out_bias)
    table += linear_rows("blocks.mlp.gate", layer + "mlp.gate_proj", (c.mlp,), (c.embed,), bias=c.mlp_bias)
    table += linear_rows("blocks.mlp.up", layer + "mlp.up_proj", (c.mlp,), (c.embed,), bias=c.mlp_bias)
    table += linear_rows("blocks.mlp.down", layer + "mlp.down_proj", (c.embed,), (c.mlp,), bias=c.mlp_bias)
    return table


FAMILY = Family("llama", config, rows, ignored=(r".*\.rotary_emb\.inv_freq",))

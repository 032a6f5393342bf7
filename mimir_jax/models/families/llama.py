"""Llama 1 to 3 and its kin, such as SmolLM and SmolLM2 (Touvron et al. 2023).

`shared` and `rows` serve the families that are Llama but for a few options, too.
"""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import (
    Family,
    Row,
    embedding_rows,
    head_norm_rows,
    mlp_rows,
    norm_rows,
    out_rows,
    separate_rows,
)
from mimir_jax.models.fields import ACTIVATION_NAMES, REQUIRED, choose, quotient, read_fields, read_scaled_rope

# What `shared` reads.
SHARED: dict[str, Any] = {
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
    "rope_scaling": None,
    "rope_theta": None,
}
# pretraining_tp cuts products into slices that add up to the same; max_sequence_length repeats the context.
# fmt: off
IRRELEVANT = frozenset([
    "attention_dropout", "initializer_range", "is_llama_config", "max_sequence_length", "pretraining_tp",
    "transformers.js_config",
])
# fmt: on
DEFAULTS: dict[str, Any] = {"rope_interleaved": False, "partial_rotary_factor": 1.0}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Llama config.json describes."""
    return DecoderConfig(**shared(read_fields(hf, SHARED, IRRELEVANT, DEFAULTS)))


def shared(f: Mapping[str, Any], theta: float = 10000.0) -> dict[str, Any]:
    """Options of the decoder, from the fields of `SHARED`; `theta` where they do not say."""
    theta, scaling = read_scaled_rope(f, theta)
    if f["num_key_value_heads"] is not None:
        quotient(f, "num_attention_heads", "num_key_value_heads")
    head_dim = quotient(f, "hidden_size", "num_attention_heads") if f["head_dim"] is None else f["head_dim"]
    if head_dim % 2:
        raise ConfigError(f"config.json: head_dim={head_dim} is odd, which cannot be rotated")
    return {
        "vocab": f["vocab_size"],
        "layers": f["num_hidden_layers"],
        "embed": f["hidden_size"],
        "heads": f["num_attention_heads"],
        "kv_heads": f["num_key_value_heads"],
        "head_dim": head_dim,
        "mlp": f["intermediate_size"],
        "context": f["max_position_embeddings"],
        "norm": "rms",
        "norm_eps": f["rms_norm_eps"],
        "activation": choose("hidden_act", f["hidden_act"], ACTIVATION_NAMES),
        "gated_mlp": True,
        "rotary_dim": head_dim,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "qkv_bias": f["attention_bias"],
        "attention_out_bias": f["attention_bias"],
        "mlp_bias": f["mlp_bias"],
        "tied_head": f["tie_word_embeddings"],
    }


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    layer = "model.layers.{}."
    table = embedding_rows(c, "model.embed_tokens.weight", "lm_head.weight")
    if c.norm_place != "after":
        table += norm_rows(c, "blocks.attention_norm", layer + "input_layernorm")
    if c.norm_place == "before" and not c.shared_norm:
        table += norm_rows(c, "blocks.mlp_norm", layer + "post_attention_layernorm")
    if c.norm_place == "both":
        table += norm_rows(c, "blocks.mlp_norm", layer + "pre_feedforward_layernorm")
    if c.norm_place in ("after", "both"):
        table += norm_rows(c, "blocks.attention_out_norm", layer + "post_attention_layernorm")
        table += norm_rows(c, "blocks.mlp_out_norm", layer + "post_feedforward_layernorm")
    table += norm_rows(c, "final_norm", "model.norm")
    if c.qk_norm is not None:
        for ours, theirs, heads in (("query_norm", "q_norm", c.heads), ("key_norm", "k_norm", c.key_heads)):
            table += head_norm_rows(c, f"blocks.attention.{ours}", f"{layer}self_attn.{theirs}", heads)
    table += separate_rows(c, layer + "self_attn.")
    table += out_rows(c, layer + "self_attn.o_proj")
    return [*table, *mlp_rows(c, layer + "mlp.up_proj", layer + "mlp.down_proj", gate=layer + "mlp.gate_proj")]


BUFFERS = (r".*\.rotary_emb\.inv_freq",)
FAMILY = Family("llama", config, rows, ignored=BUFFERS)

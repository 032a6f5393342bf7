"""Phi-1, Phi-1.5 and Phi-2: attention and MLP side by side behind one norm (Gunasekar et al. 2023)."""

from collections.abc import Mapping
from typing import Any

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
from mimir_jax.models.fields import REQUIRED, quotient, read_fields, read_rope, read_sizes, rotary_width

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
    sizes = read_sizes(f)
    return DecoderConfig(
        **sizes,
        kv_heads=f["num_key_value_heads"],
        mlp=f["intermediate_size"],
        norm_eps=f["layer_norm_eps"],
        parallel_residual=True,
        shared_norm=True,
        qk_norm="head" if f["qk_layernorm"] else None,
        rotary_dim=rotary_width(sizes["head_dim"], share),
        rope_theta=theta,
        tied_head=f["tie_word_embeddings"],
        head_bias=True,
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    layer = "model.layers.{}."
    table = embedding_rows(c, "model.embed_tokens.weight", "lm_head.weight")
    table += norm_rows(c, "blocks.attention_norm", layer + "input_layernorm")
    table += norm_rows(c, "final_norm", "model.final_layernorm")
    table += separate_rows(c, layer + "self_attn.")
    if c.qk_norm is not None:
        for ours, theirs in (("query_norm", "q_layernorm"), ("key_norm", "k_layernorm")):
            table += head_norm_rows(c, f"blocks.attention.{ours}", layer + "self_attn." + theirs, 1)
    table += out_rows(c, layer + "self_attn.dense")
    return [*table, *mlp_rows(c, layer + "mlp.fc1", layer + "mlp.fc2")]


FAMILY = Family(
    "phi",
    config,
    rows,
    ignored=(r".*\.rotary_emb\.inv_freq",),  # tables that old versions of transformers saved
    prefix="model.",
)

"""OPT: learned positions, norms before or, in the 350M, after each half of a layer (Zhang et al. 2022)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import (
    Family,
    Row,
    embedding_rows,
    linear_rows,
    mlp_rows,
    norm_rows,
    out_rows,
    separate_rows,
)
from mimir_jax.models.fields import REQUIRED, read_fields, read_optional, read_sizes

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "ffn_dim": REQUIRED,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": None,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "layer_norm_elementwise_affine": True,
    "enable_bias": True,
    "tie_word_embeddings": True,
}
IRRELEVANT = frozenset(["activation_dropout", "attention_dropout", "dropout", "init_std", "layerdrop"])
OFFSET = 2  # rows of the table of positions that no position uses


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that an OPT config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, {})
    before, width = f["do_layer_norm_before"], read_optional(hf, "word_embed_proj_dim", None)
    return DecoderConfig(
        **read_sizes(f, activation="activation_function"),
        mlp=f["ffn_dim"],
        norm_affine=f["layer_norm_elementwise_affine"],
        norm_place="before" if before else "sum",
        final_norm=before and not f["_remove_final_layer_norm"],
        learned_positions=True,
        qkv_bias=f["enable_bias"],
        attention_out_bias=f["enable_bias"],
        mlp_bias=f["enable_bias"],
        tied_head=f["tie_word_embeddings"],
        token_embed=None if width == f["hidden_size"] else width,
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    decoder, layer = "model.decoder.", "model.decoder.layers.{}."
    place = "" if c.norm_place == "before" else "_out"
    table = embedding_rows(c, decoder + "embed_tokens.weight", "lm_head.weight")
    positions = (c.context + OFFSET, c.embed)
    table.append(Row("positions", decoder + "embed_positions.weight", positions, lambda tensor: tensor[OFFSET:]))
    if c.token_embed is not None:
        for name, outputs, inputs in (("in", c.embed, c.token_embed), ("out", c.token_embed, c.embed)):
            table += linear_rows(f"project_{name}", f"{decoder}project_{name}", (outputs,), (inputs,), bias=False)
    table += norm_rows(c, f"blocks.attention{place}_norm", layer + "self_attn_layer_norm")
    table += norm_rows(c, f"blocks.mlp{place}_norm", layer + "final_layer_norm")
    if c.final_norm:
        table += norm_rows(c, "final_norm", decoder + "final_layer_norm")
    table += separate_rows(c, layer + "self_attn.")
    table += out_rows(c, layer + "self_attn.out_proj")
    return [*table, *mlp_rows(c, layer + "fc1", layer + "fc2")]


FAMILY = Family("opt", config, rows, prefix="model.")

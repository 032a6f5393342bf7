"""OPT: learned positions, norms before or, in the 350M, after each half of a layer (Zhang et al. 2022)."""

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
    linear_rows,
    norm_rows,
    quotient,
    read_fields,
    read_optional,
)

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
        vocab=f["vocab_size"],
        layers=f["num_hidden_layers"],
        embed=f["hidden_size"],
        heads=f["num_attention_heads"],
        head_dim=quotient(f, "hidden_size", "num_attention_heads"),
        mlp=f["ffn_dim"],
        context=f["max_position_embeddings"],
        norm_affine=f["layer_norm_elementwise_affine"],
        norm_place="before" if before else "sum",
        final_norm=before and not f["_remove_final_layer_norm"],
        activation=choose("activation_function", f["activation_function"], ACTIVATION_NAMES),
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
    inner, place = (c.heads, c.head_dim), "" if c.norm_place == "before" else "_out"
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
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        theirs = layer + "self_attn." + theirs
        table += linear_rows(f"blocks.attention.{ours}", theirs, inner, (c.embed,), bias=c.qkv_bias)
    out = layer + "self_attn.out_proj"
    table += linear_rows("blocks.attention.out", out, (c.embed,), inner, bias=c.attention_out_bias)
    table += linear_rows("blocks.mlp.up", layer + "fc1", (c.mlp,), (c.embed,), bias=c.mlp_bias)
    table += linear_rows("blocks.mlp.down", layer + "fc2", (c.embed,), (c.mlp,), bias=c.mlp_bias)
    return table


FAMILY = Family("opt", config, rows, prefix="model.")

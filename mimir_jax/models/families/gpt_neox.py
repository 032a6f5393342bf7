"""GPT-NeoX: Pythia and its kin, such as StableLM's alpha models (Black et al. 2022; Biderman et al. 2023)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import (
    ACTIVATION_NAMES,
    REQUIRED,
    Family,
    Row,
    choose,
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
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "rope_parameters": None,  # transformers 5; the two after it are what older files carry
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "partial_rotary_factor": None,  # copies of these two, which transformers 4.46 and later wrote beside them
    "rope_theta": None,
}
# fmt: off
IRRELEVANT = frozenset([
    "attention_dropout", "attention_probs_dropout_prob", "classifier_dropout", "hidden_dropout", "hidden_dropout_prob",
    "initializer_range",
])
# fmt: on
DEFAULTS: dict[str, Any] = {"rope_scaling": None}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a GPT-NeoX config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    share, theta = read_rope(f, f["rotary_pct"], f["rotary_emb_base"])
    head_dim = quotient(f, "hidden_size", "num_attention_heads")
    return DecoderConfig(
        vocab=f["vocab_size"],
        layers=f["num_hidden_layers"],
        embed=f["hidden_size"],
        heads=f["num_attention_heads"],
        head_dim=head_dim,
        mlp=f["intermediate_size"],
        context=f["max_position_embeddings"],
        norm_eps=f["layer_norm_eps"],
        activation=choose("hidden_act", f["hidden_act"], ACTIVATION_NAMES),
        parallel_residual=f["use_parallel_residual"],
        rotary_dim=int(head_dim * share),  # an odd one rotates one dimension more, there as here
        rope_theta=theta,
        qkv_bias=f["attention_bias"],
        attention_out_bias=f["attention_bias"],
        tied_head=f["tie_word_embeddings"],
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors. Query, key and value are one, laid out (heads, 3, head_dim)."""
    layer = "gpt_neox.layers.{}."
    fused, inner = (c.heads, 3, c.head_dim), (c.heads, c.head_dim)
    table = [Row("embedding", "gpt_neox.embed_in.weight", (c.vocab, c.embed))]
    if not c.tied_head:
        table.append(Row("head", "embed_out.weight", (c.vocab, c.embed)))
    table += norm_rows(c, "blocks.attention_norm", layer + "input_layernorm")
    table += norm_rows(c, "blocks.mlp_norm", layer + "post_attention_layernorm")
    table += norm_rows(c, "final_norm", "gpt_neox.final_layer_norm")
    for index, name in enumerate(("query", "key", "value")):
        theirs = layer + "attention.query_key_value"
        part = np.s_[:, index]
        table += linear_rows(f"blocks.attention.{name}", theirs, fused, (c.embed,), bias=c.qkv_bias, part=part)
    dense = layer + "attention.dense"
    table += linear_rows("blocks.attention.out", dense, (c.embed,), inner, bias=c.attention_out_bias)
    table += linear_rows("blocks.mlp.up", layer + "mlp.dense_h_to_4h", (c.mlp,), (c.embed,))
    table += linear_rows("blocks.mlp.down", layer + "mlp.dense_4h_to_h", (c.embed,), (c.mlp,))
    return table


FAMILY = Family(
    "gpt_neox",
    config,
    rows,
    # causal masks and rotary tables that old versions of transformers saved
    ignored=(r".*\.attention\.(bias|masked_bias)", r".*\.rotary_emb\.inv_freq"),
)

"""GPT-2 and what was trained in its form: distilgpt2, BioMedLM, the datablations models (Radford et al. 2019)."""

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
)

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "n_embd": REQUIRED,
    "n_layer": REQUIRED,
    "n_head": REQUIRED,
    "n_positions": 1024,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}
# reorder_and_upcast_attn is about rounding in half precision: softmax is in float32 here anyway.
# n_ctx is what old versions of transformers sized their causal mask by.
# fmt: off
IRRELEVANT = frozenset([
    "_num_labels", "attn_pdrop", "embd_pdrop", "initializer_range", "n_ctx", "reorder_and_upcast_attn", "resid_pdrop",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
])
# fmt: on
DEFAULTS: dict[str, Any] = {"add_cross_attention": False}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a GPT-2 config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    return DecoderConfig(
        vocab=f["vocab_size"],
        layers=f["n_layer"],
        embed=f["n_embd"],
        heads=f["n_head"],
        head_dim=quotient(f, "n_embd", "n_head"),
        mlp=4 * f["n_embd"] if f["n_inner"] is None else f["n_inner"],
        context=f["n_positions"],
        norm_eps=f["layer_norm_epsilon"],
        activation=choose("activation_function", f["activation_function"], ACTIVATION_NAMES),
        learned_positions=True,
        attention_scale=None if f["scale_attn_weights"] else 1.0,
        inverse_layer_scale=f["scale_attn_by_inverse_layer_idx"],
        tied_head=f["tie_word_embeddings"],
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors. Query, key and value are one, laid out (3, heads, head_dim)."""
    layer = "transformer.h.{}."
    fused, inner = (3, c.heads, c.head_dim), (c.heads, c.head_dim)
    table = embedding_rows(c, "transformer.wte.weight", "lm_head.weight")
    table.append(Row("positions", "transformer.wpe.weight", (c.context, c.embed)))
    table += norm_rows(c, "blocks.attention_norm", layer + "ln_1")
    table += norm_rows(c, "blocks.mlp_norm", layer + "ln_2")
    table += norm_rows(c, "final_norm", "transformer.ln_f")
    for index, name in enumerate(("query", "key", "value")):
        ours, theirs = f"blocks.attention.{name}", layer + "attn.c_attn"
        table += linear_rows(ours, theirs, fused, (c.embed,), part=index, conv1d=True)
    table += linear_rows("blocks.attention.out", layer + "attn.c_proj", (c.embed,), inner, conv1d=True)
    table += linear_rows("blocks.mlp.up", layer + "mlp.c_fc", (c.mlp,), (c.embed,), conv1d=True)
    table += linear_rows("blocks.mlp.down", layer + "mlp.c_proj", (c.embed,), (c.mlp,), conv1d=True)
    return table


FAMILY = Family(
    "gpt2",
    config,
    rows,
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),  # causal masks
    prefix="transformer.",
)

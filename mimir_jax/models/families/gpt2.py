"""GPT-2 and what was trained in its form: distilgpt2, BioMedLM, the datablations models (Radford et al. 2019)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import Family, Row, embedding_rows, fused_rows, mlp_rows, norm_rows, out_rows
from mimir_jax.models.fields import REQUIRED, read_fields, read_sizes

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
NAMES = {
    "layers": "n_layer",
    "embed": "n_embd",
    "heads": "n_head",
    "context": "n_positions",
    "activation": "activation_function",
}
"""What `read_sizes` finds under another name."""


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a GPT-2 config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    return DecoderConfig(
        **read_sizes(f, **NAMES),
        mlp=4 * f["n_embd"] if f["n_inner"] is None else f["n_inner"],
        norm_eps=f["layer_norm_epsilon"],
        learned_positions=True,
        attention_scale=None if f["scale_attn_weights"] else 1.0,
        inverse_layer_scale=f["scale_attn_by_inverse_layer_idx"],
        tied_head=f["tie_word_embeddings"],
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    layer = "transformer.h.{}."
    table = embedding_rows(c, "transformer.wte.weight", "lm_head.weight")
    table.append(Row("positions", "transformer.wpe.weight", (c.context, c.embed)))
    table += norm_rows(c, "blocks.attention_norm", layer + "ln_1")
    table += norm_rows(c, "blocks.mlp_norm", layer + "ln_2")
    table += norm_rows(c, "final_norm", "transformer.ln_f")
    table += fused_rows(c, layer + "attn.c_attn", by_head=False, conv1d=True)
    table += out_rows(c, layer + "attn.c_proj", conv1d=True)
    return [*table, *mlp_rows(c, layer + "mlp.c_fc", layer + "mlp.c_proj", conv1d=True)]


FAMILY = Family(
    "gpt2",
    config,
    rows,
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),  # causal masks
    prefix="transformer.",
)

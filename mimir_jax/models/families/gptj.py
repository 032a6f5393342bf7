"""GPT-J: attention and MLP side by side behind one norm, a head with a bias (Wang and Komatsuzaki 2021)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
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
    "n_positions": 2048,
    "n_inner": None,
    "rotary_dim": 64,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
}
# fmt: off
IRRELEVANT = frozenset([
    "attn_pdrop", "embd_pdrop", "initializer_range", "n_ctx", "resid_pdrop",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
])
# fmt: on
DEFAULTS: dict[str, Any] = {"rotary": True, "scale_attn_weights": True}  # the published file says so


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a GPT-J config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    head_dim = quotient(f, "n_embd", "n_head")
    if f["rotary_dim"] > head_dim or f["rotary_dim"] % 2:
        raise ConfigError(f"config.json: rotary_dim={f['rotary_dim']} is no even number up to a head's {head_dim}")
    return DecoderConfig(
        vocab=f["vocab_size"],
        layers=f["n_layer"],
        embed=f["n_embd"],
        heads=f["n_head"],
        head_dim=head_dim,
        mlp=4 * f["n_embd"] if f["n_inner"] is None else f["n_inner"],
        context=f["n_positions"],
        norm_eps=f["layer_norm_epsilon"],
        activation=choose("activation_function", f["activation_function"], ACTIVATION_NAMES),
        parallel_residual=True,
        shared_norm=True,
        rotary_dim=f["rotary_dim"],
        rotary_interleaved=True,
        qkv_bias=False,
        attention_out_bias=False,
        tied_head=f["tie_word_embeddings"],
        head_bias=True,
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    layer = "transformer.h.{}."
    inner = (c.heads, c.head_dim)
    table = embedding_rows(c, "transformer.wte.weight", "lm_head.weight")
    table += norm_rows(c, "blocks.attention_norm", layer + "ln_1")
    table += norm_rows(c, "final_norm", "transformer.ln_f")
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        table += linear_rows(f"blocks.attention.{ours}", layer + "attn." + theirs, inner, (c.embed,), bias=False)
    table += linear_rows("blocks.attention.out", layer + "attn.out_proj", (c.embed,), inner, bias=False)
    table += linear_rows("blocks.mlp.up", layer + "mlp.fc_in", (c.mlp,), (c.embed,))
    table += linear_rows("blocks.mlp.down", layer + "mlp.fc_out", (c.embed,), (c.mlp,))
    return table


FAMILY = Family(
    "gptj",
    config,
    rows,
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),  # causal masks
    prefix="transformer.",
)

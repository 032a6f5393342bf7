"""GPT-Neo: layers alternate between global and local attention, and scores are not scaled (Black et al. 2021)."""

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
    "hidden_size": REQUIRED,
    "num_layers": REQUIRED,
    "num_heads": REQUIRED,
    "intermediate_size": None,
    "max_position_embeddings": 2048,
    "attention_types": [[["global", "local"], 12]],
    "attention_layers": None,  # attention_types written out, beside it
    "window_size": 256,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
# fmt: off
IRRELEVANT = frozenset([
    "attention_dropout", "classifier_dropout", "embed_dropout", "initializer_range", "resid_dropout",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
])
# fmt: on


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a GPT-Neo config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, {})
    return DecoderConfig(
        vocab=f["vocab_size"],
        layers=f["num_layers"],
        embed=f["hidden_size"],
        heads=f["num_heads"],
        head_dim=quotient(f, "hidden_size", "num_heads"),
        mlp=4 * f["hidden_size"] if f["intermediate_size"] is None else f["intermediate_size"],
        context=f["max_position_embeddings"],
        norm_eps=f["layer_norm_epsilon"],
        activation=choose("activation_function", f["activation_function"], ACTIVATION_NAMES),
        learned_positions=True,
        attention_scale=1.0,
        windows=windows(f),
        qkv_bias=False,
        tied_head=f["tie_word_embeddings"],
    )


def windows(f: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """Each layer's window, from attention_types: [[kinds, times], ...] with kinds "global" and "local"."""
    types = MODELLED["attention_types"] if f["attention_types"] is None else f["attention_types"]
    try:
        kinds = [str(kind) for some, times in types for _ in range(times) for kind in some]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.json: attention_types={types!r} is not [[kinds, times], ...]") from error
    if f["attention_layers"] not in (None, kinds):
        raise ConfigError(f"config.json: attention_layers={f['attention_layers']!r} contradicts attention_types")
    if len(kinds) != f["num_layers"]:
        raise ConfigError(f"config.json: attention_types has {len(kinds)} layers, num_layers={f['num_layers']}")
    sizes = {"global": None, "local": f["window_size"]}
    found = tuple(choose("attention_types", kind, sizes) for kind in kinds)
    return found if any(found) else None


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    layer = "transformer.h.{}."
    inner = (c.heads, c.head_dim)
    table = embedding_rows(c, "transformer.wte.weight", "lm_head.weight")
    table.append(Row("positions", "transformer.wpe.weight", (c.context, c.embed)))
    table += norm_rows(c, "blocks.attention_norm", layer + "ln_1")
    table += norm_rows(c, "blocks.mlp_norm", layer + "ln_2")
    table += norm_rows(c, "final_norm", "transformer.ln_f")
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        theirs = layer + "attn.attention." + theirs
        table += linear_rows(f"blocks.attention.{ours}", theirs, inner, (c.embed,), bias=False)
    table += linear_rows("blocks.attention.out", layer + "attn.attention.out_proj", (c.embed,), inner)
    table += linear_rows("blocks.mlp.up", layer + "mlp.c_fc", (c.mlp,), (c.embed,))
    table += linear_rows("blocks.mlp.down", layer + "mlp.c_proj", (c.embed,), (c.mlp,))
    return table


FAMILY = Family(
    "gpt_neo",
    config,
    rows,
    ignored=(r"(transformer\.)?h\.\d+\.attn\.attention\.(bias|masked_bias)",),  # causal masks
    prefix="transformer.",
)

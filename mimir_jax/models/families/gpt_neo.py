"""GPT-Neo: layers alternate between global and local attention, and scores are not scaled (Black et al. 2021)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import Family, Row, embedding_rows, mlp_rows, norm_rows, out_rows, separate_rows
from mimir_jax.models.fields import REQUIRED, choose, read_fields, read_sizes

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
        **read_sizes(f, layers="num_layers", heads="num_heads", activation="activation_function"),
        mlp=4 * f["hidden_size"] if f["intermediate_size"] is None else f["intermediate_size"],
        norm_eps=f["layer_norm_epsilon"],
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
    table = embedding_rows(c, "transformer.wte.weight", "lm_head.weight")
    table.append(Row("positions", "transformer.wpe.weight", (c.context, c.embed)))
    table += norm_rows(c, "blocks.attention_norm", layer + "ln_1")
    table += norm_rows(c, "blocks.mlp_norm", layer + "ln_2")
    table += norm_rows(c, "final_norm", "transformer.ln_f")
    table += separate_rows(c, layer + "attn.attention.")
    table += out_rows(c, layer + "attn.attention.out_proj")
    return [*table, *mlp_rows(c, layer + "mlp.c_fc", layer + "mlp.c_proj")]


FAMILY = Family(
    "gpt_neo",
    config,
    rows,
    ignored=(r"(transformer\.)?h\.\d+\.attn\.attention\.(bias|masked_bias)",),  # causal masks
    prefix="transformer.",
)

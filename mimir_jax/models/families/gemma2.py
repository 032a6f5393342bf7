"""Gemma 2: Gemma with capped scores and logits, norms on both sides and windows in every other layer (2024)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import gemma, llama
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields, read_optional, read_windows

# What Gemma 3 has, too.
SHARED: dict[str, Any] = {
    **gemma.SHARED,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": None,
    "layer_types": None,
    "final_logit_softcapping": None,
}
MODELLED: dict[str, Any] = {**SHARED, "attn_logit_softcapping": None, "sliding_window_size": None}
IRRELEVANT = gemma.IRRELEVANT | {"hidden_act"}  # hidden_activation is what counts


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Gemma 2 config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, llama.DEFAULTS)
    if f["sliding_window_size"] not in (None, f["sliding_window"]):
        raise ConfigError("config.json: sliding_window_size and sliding_window contradict one another")
    return DecoderConfig(
        **shared(hf, f, every=2),
        attention_softcap=read_optional(hf, "attn_logit_softcapping", 50.0),
        logit_softcap=read_optional(hf, "final_logit_softcapping", 30.0),
    )


def shared(hf: Mapping[str, Any], f: Mapping[str, Any], every: int) -> dict[str, Any]:
    """Options of the decoder, from the fields of `SHARED`; without layer_types, each `every`th layer has no window."""
    layers = range(1, f["num_hidden_layers"] + 1)
    types = ["sliding_attention" if layer % every else "full_attention" for layer in layers]
    window = read_optional(hf, "sliding_window", 4096)
    return {
        **gemma.shared(f, f["hidden_activation"]),
        "norm_place": "both",
        "attention_scale": f["query_pre_attn_scalar"] ** -0.5,
        "windows": read_windows(types if f["layer_types"] is None else f["layer_types"], len(layers), window),
    }


FAMILY = Family("gemma2", config, llama.rows, ignored=llama.BUFFERS)

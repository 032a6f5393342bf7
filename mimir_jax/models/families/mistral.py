"""Mistral: Llama with a window in every layer (Jiang et al. 2023)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import llama
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields, read_optional

MODELLED: dict[str, Any] = {**llama.SHARED, "max_position_embeddings": 131072, "sliding_window": None}
del MODELLED["attention_bias"], MODELLED["mlp_bias"]
DEFAULTS: dict[str, Any] = {**llama.DEFAULTS, "attention_bias": False, "mlp_bias": False}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Mistral config.json describes."""
    f = read_fields(hf, MODELLED, llama.IRRELEVANT, DEFAULTS)
    f |= {"attention_bias": False, "mlp_bias": False}
    f["num_key_value_heads"] = read_optional(hf, "num_key_value_heads", 8)
    window = read_optional(hf, "sliding_window", 4096)
    windows = None if window is None else (window,) * f["num_hidden_layers"]
    return DecoderConfig(**llama.shared(f), windows=windows)


FAMILY = Family("mistral", config, llama.rows, ignored=llama.BUFFERS)

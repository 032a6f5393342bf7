"""Qwen2 and Qwen2.5: Llama with biases of queries, keys and values, and windows in some layers (Yang et al. 2024)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import llama
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields, read_optional, read_windows

WINDOWED: dict[str, Any] = {
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 28,
    "layer_types": None,
}
MODELLED: dict[str, Any] = {**llama.SHARED, **WINDOWED}
del MODELLED["attention_bias"], MODELLED["mlp_bias"]
DEFAULTS: dict[str, Any] = {**llama.DEFAULTS, "use_mrope": False}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Qwen2 config.json describes."""
    f = read_fields(hf, MODELLED, llama.IRRELEVANT, DEFAULTS)
    f |= {"attention_bias": True, "mlp_bias": False}
    f["num_key_value_heads"] = read_optional(hf, "num_key_value_heads", 32)
    return DecoderConfig(**{**llama.shared(f), "attention_out_bias": False, "windows": windows(hf, f)})


def windows(hf: Mapping[str, Any], f: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """Each layer's window: by layer_types, or from layer max_window_layers on."""
    window = read_optional(hf, "sliding_window", 4096) if f["use_sliding_window"] else None
    layers = range(f["num_hidden_layers"])
    local = [window is not None and layer >= f["max_window_layers"] for layer in layers]
    types = ["sliding_attention" if one else "full_attention" for one in local]
    return read_windows(types if f["layer_types"] is None else f["layer_types"], len(layers), window)


FAMILY = Family("qwen2", config, llama.rows, ignored=llama.BUFFERS)

"""Qwen3: Llama with a norm of each query and key, and windows in some layers (Yang et al. 2025)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import llama, qwen2
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields, read_optional

MODELLED: dict[str, Any] = {**llama.SHARED, **qwen2.WINDOWED, "head_dim": 128}
del MODELLED["mlp_bias"]


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Qwen3 config.json describes."""
    f = read_fields(hf, MODELLED, llama.IRRELEVANT, llama.DEFAULTS)
    f["mlp_bias"] = False
    f["num_key_value_heads"] = read_optional(hf, "num_key_value_heads", 32)
    return DecoderConfig(**llama.shared(f), qk_norm="head", windows=qwen2.windows(hf, f))


FAMILY = Family("qwen3", config, llama.rows, ignored=llama.BUFFERS)

"""OLMo 2: Llama with norms of what attention and MLP give, and of all queries and keys (Walsh et al. 2025)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import llama, olmo
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields

MODELLED: dict[str, Any] = {**olmo.MODELLED, "rms_norm_eps": 1e-5}
del MODELLED["clip_qkv"]


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that an OLMo 2 config.json describes."""
    return DecoderConfig(**shared(read_fields(hf, MODELLED, olmo.IRRELEVANT, llama.DEFAULTS)))


def shared(f: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the decoder, from the fields of `MODELLED`."""
    options = llama.shared({**f, "head_dim": None, "mlp_bias": False})
    return {**options, "norm_place": "after", "qk_norm": "all"}


FAMILY = Family("olmo2", config, llama.rows, ignored=llama.BUFFERS)

"""OLMo 1: Llama with LayerNorms that have no weights (Groeneveld et al. 2024)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import llama
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields, read_optional

MODELLED: dict[str, Any] = {**llama.SHARED, "clip_qkv": None}
del MODELLED["head_dim"], MODELLED["rms_norm_eps"], MODELLED["mlp_bias"]
IRRELEVANT = frozenset(["attention_dropout", "initializer_range"])


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that an OLMo config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, llama.DEFAULTS)
    c = DecoderConfig(**llama.shared({**f, "head_dim": None, "rms_norm_eps": 1e-5, "mlp_bias": False}))
    return replace(c, norm="layer", norm_affine=False, clip_qkv=read_optional(hf, "clip_qkv", None))


FAMILY = Family("olmo", config, llama.rows, ignored=llama.BUFFERS)

"""Gemma 3, text only: Gemma 2 without caps, with a norm of each query and key and a rope of local layers (2025)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import gemma2, llama
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields, read_optional, read_scaled_rope

MODELLED: dict[str, Any] = {
    **gemma2.SHARED,
    "max_position_embeddings": 131072,
    "rope_local_base_freq": None,
    "sliding_window_pattern": 6,
}
IRRELEVANT = gemma2.IRRELEVANT | {"_sliding_window_pattern"}  # a copy, beside layer_types
# Hugging Face's implementation reads attn_logit_softcapping and does not use it: there is nothing to be equal to.
DEFAULTS: dict[str, Any] = {**llama.DEFAULTS, "attn_logit_softcapping": None}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Gemma 3 config.json describes; that of its text, where it reads images as well."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    ropes = f["rope_parameters"] or {}
    if not isinstance(ropes, Mapping) or ropes.keys() - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"config.json: rope_parameters={ropes!r} must be of full_attention and sliding_attention")
    local = {"rope_parameters": ropes.get("sliding_attention"), "rope_theta": f["rope_local_base_freq"]}
    local_theta, local_scaling = read_scaled_rope({**f, **local, "rope_scaling": None}, 1e4)
    if local_scaling is not None:
        raise ConfigError("config.json: rope_parameters.sliding_attention.rope_type is not modelled (only 'default')")
    f["rope_parameters"] = ropes.get("full_attention")
    theta, scaling = read_scaled_rope(f, 1e6)
    f |= {"rope_theta": theta, "rope_parameters": None, "rope_scaling": None}
    options = gemma2.shared(hf, f, every=f["sliding_window_pattern"])
    return DecoderConfig(
        **{**options, "rope_scaling": scaling},
        qk_norm="head",
        local_rope_theta=None if options["windows"] is None else local_theta,
        logit_softcap=read_optional(hf, "final_logit_softcapping", None),
    )


FAMILY = Family("gemma3_text", config, llama.rows, ignored=llama.BUFFERS)

"""OLMo 3: OLMo 2 with windows in three layers of four, whose rope is not scaled (Olmo team 2025)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import llama, olmo, olmo2
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields, read_optional, read_scaled_rope, read_windows

MODELLED: dict[str, Any] = {**olmo2.MODELLED, "sliding_window": None, "layer_types": None}
THETA = 500000.0


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that an OLMo 3 config.json describes."""
    f = read_fields(hf, MODELLED, olmo.IRRELEVANT, llama.DEFAULTS)
    layers = range(1, f["num_hidden_layers"] + 1)
    types = ["sliding_attention" if layer % 4 else "full_attention" for layer in layers]
    types = types if f["layer_types"] is None else f["layer_types"]
    windows = read_windows(types, len(layers), read_optional(hf, "sliding_window", 4096))
    # Since transformers 5 there are parameters of each kind of layers; before, rope_scaling was of those without one.
    ropes = f["rope_parameters"] or {}
    if not isinstance(ropes, Mapping) or ropes.keys() - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"config.json: rope_parameters={ropes!r} must be of full_attention and sliding_attention")
    theta, scaling = read_scaled_rope({**f, "rope_parameters": ropes.get("full_attention")}, THETA)
    local = {"rope_parameters": ropes.get("sliding_attention"), "rope_scaling": None}
    local_theta, local_scaling = read_scaled_rope({**f, **local}, THETA)
    if local_scaling is not None:
        raise ConfigError("config.json: rope_parameters.sliding_attention.rope_type is not modelled (only 'default')")
    one_rope = windows is None or (scaling is None and local_theta == theta)
    f |= {"rope_parameters": None, "rope_scaling": None, "rope_theta": theta}
    return DecoderConfig(
        **{**olmo2.shared(f), "rope_scaling": scaling},
        windows=windows,
        local_rope_theta=None if one_rope else local_theta,
    )


FAMILY = Family("olmo3", config, llama.rows, ignored=llama.BUFFERS)

"""SmolLM3: Llama without a rotary embedding in every fourth layer (Bakouch et al. 2025)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import llama
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields, read_optional, read_windows

MODELLED: dict[str, Any] = {
    **llama.SHARED,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "no_rope_layers": None,
    "no_rope_layer_interval": 4,
    "use_sliding_window": False,
    "sliding_window": None,
    "layer_types": None,
}
IRRELEVANT = llama.IRRELEVANT | {"max_window_layers"}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a SmolLM3 config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, llama.DEFAULTS)
    f["num_key_value_heads"] = read_optional(hf, "num_key_value_heads", 4)
    layers = f["num_hidden_layers"]
    rotated = f["no_rope_layers"]  # 1 where there is one, whatever its name says
    if rotated is None:
        rotated = [(layer + 1) % f["no_rope_layer_interval"] != 0 for layer in range(layers)]
    if not isinstance(rotated, list) or len(rotated) < layers or any(one not in (0, 1) for one in rotated):
        raise ConfigError(
            f"config.json: no_rope_layers={rotated!r} is no list of 0 or 1 for num_hidden_layers={layers}"
        )
    rotary_layers = tuple(bool(one) for one in rotated[:layers])
    window = read_optional(hf, "sliding_window", None) if f["use_sliding_window"] else None
    types = ["full_attention" if window is None or one else "sliding_attention" for one in rotary_layers]
    return DecoderConfig(
        **llama.shared(f, 2e6),
        rotary_layers=None if all(rotary_layers) else rotary_layers,
        windows=read_windows(types if f["layer_types"] is None else f["layer_types"], layers, window),
    )


FAMILY = Family("smollm3", config, llama.rows, ignored=llama.BUFFERS)

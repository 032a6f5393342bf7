"""Gemma 1: Llama with scaled embeddings, norms around 1 and GELU (Gemma Team 2024)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import llama
from mimir_jax.models.family import Family
from mimir_jax.models.fields import read_fields

# What all generations of Gemma have.
SHARED: dict[str, Any] = {
    **llama.SHARED,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": None,
}
del SHARED["mlp_bias"], SHARED["hidden_act"]
IRRELEVANT = llama.IRRELEVANT | {"cache_implementation"}
MODELLED: dict[str, Any] = {**SHARED, "num_key_value_heads": 16, "hidden_act": "gelu_pytorch_tanh"}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Gemma config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT | {"hidden_activation"}, llama.DEFAULTS)
    if hf.get("hidden_activation") not in (None, "gelu_pytorch_tanh"):
        raise ConfigError(f"config.json: hidden_activation={hf['hidden_activation']!r} is not modelled")
    # The first files say gelu and mean its approximation.
    return DecoderConfig(**shared(f, "gelu_pytorch_tanh" if f["hidden_act"] == "gelu" else f["hidden_act"]))


def shared(f: Mapping[str, Any], activation: str) -> dict[str, Any]:
    """Options of the decoder, from the fields of `SHARED`."""
    if f["use_bidirectional_attention"]:
        raise ConfigError("config.json: use_bidirectional_attention is not modelled (only causal attention is)")
    options = llama.shared({**f, "mlp_bias": False, "hidden_act": activation})
    return {**options, "embedding_scale": f["hidden_size"] ** 0.5, "norm_offset": 1.0}


FAMILY = Family("gemma", config, llama.rows, ignored=llama.BUFFERS)

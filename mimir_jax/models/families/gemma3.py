"""Gemma 3 of the sizes that read images, too: its text is `gemma3_text`, and what belongs to images is left out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import gemma3_text, llama
from mimir_jax.models.family import Family, Row
from mimir_jax.models.fields import read_fields

# What the published files leave out of text_config.
TEXT: dict[str, Any] = {"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4}
# fmt: off
IRRELEVANT = frozenset([
    "boi_token_index", "eoi_token_index", "image_token_index", "initializer_range", "mm_tokens_per_image",
    "vision_config",
])
# fmt: on
MODELLED: dict[str, Any] = {"text_config": None, "tie_word_embeddings": True}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder of the text that a Gemma 3 config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, {})
    text = f["text_config"]
    if not isinstance(text, Mapping):
        raise ConfigError(f"config.json: text_config={text!r} must be an object")
    tied = text.get("tie_word_embeddings", f["tie_word_embeddings"])
    if tied != f["tie_word_embeddings"]:
        raise ConfigError("config.json: tie_word_embeddings contradicts the one of its text_config")
    try:
        return gemma3_text.config({**TEXT, **text, "tie_word_embeddings": tied})
    except ConfigError as error:
        raise ConfigError(str(error).replace("config.json", "config.json: text_config", 1)) from error


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors: those of the text under a name of their own."""

    def within(name: str) -> str:
        return f"language_model.{name}"

    return [
        replace(row, name=within(row.name), copy=None if row.copy is None else within(row.copy))
        for row in llama.rows(c)
    ]


FAMILY = Family(
    "gemma3",
    config,
    rows,
    ignored=(r"(model\.)?(vision_tower|multi_modal_projector)\..*", *llama.BUFFERS),
    # as transformers 5 has them in memory
    renamed=(
        (r"model\.language_model\.(.*)", r"language_model.model.\1"),
        (r"lm_head\.weight", "language_model.lm_head.weight"),
    ),
)

"""RoBERTa (Liu et al. 2019): BERT's layers; positions begin behind the id of padding, and the head has a GELU."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.encoder import EncoderConfig
from mimir_jax.models.families.bert import RENAMED, body, head, norm, read
from mimir_jax.models.family import Family, Row, linear_rows

UNUSED = 2
"""First positions that no token has: those up to the id of padding."""


def config(hf: Mapping[str, Any]) -> EncoderConfig:
    """The encoder that a RoBERTa config.json describes."""
    if hf.get("pad_token_id", UNUSED - 1) != UNUSED - 1:
        raise ConfigError(f"config.json: pad_token_id={hf['pad_token_id']!r} is not modelled (only {UNUSED - 1} is)")
    return read(hf, UNUSED, "gelu")


def rows(c: EncoderConfig) -> list[Row]:
    """The tensors."""
    return [
        *head(
            c,
            "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.weight",
            "lm_head.bias",
            "lm_head.decoder.bias",
        ),
        *body(c, "roberta", UNUSED, c.token_types),
        *linear_rows("transform", "lm_head.dense", (c.embed,), (c.embed,)),
        *norm("head_norm", "lm_head.layer_norm", c.embed),
    ]


FAMILY = Family(
    "roberta",
    config,
    rows,
    ignored=(r"(roberta\.)?embeddings\.position_ids", r"(roberta\.)?pooler\..*"),
    prefix="roberta.",
    renamed=RENAMED,
    head="lm_head.",
)

"""BERT (Devlin et al. 2019), and the table of RoBERTa, whose layers have BERT's names."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.encoder import Activation, EncoderConfig
from mimir_jax.models.family import Family, Row, linear_rows
from mimir_jax.models.fields import ACTIVATION_NAMES, REQUIRED, choose, quotient, read_fields

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "intermediate_size": REQUIRED,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}
# fmt: off
IRRELEVANT = frozenset([
    "attention_probs_dropout_prob", "classifier_dropout", "hidden_dropout_prob", "initializer_range",
    "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
    "pooler_size_per_head", "pooler_type", "gradient_checkpointing",
])
# fmt: on
DEFAULTS: dict[str, Any] = {"add_cross_attention": False, "tie_word_embeddings": True}

RENAMED = ((r"(.*LayerNorm)\.gamma", r"\1.weight"), (r"(.*LayerNorm)\.beta", r"\1.bias"))
"""What the first checkpoints of BERT call the weights of norms."""


def read(hf: Mapping[str, Any], positions: int, head_activation: Activation | None = None) -> EncoderConfig:
    """The encoder that a config.json of BERT's form describes.

    Args:
        hf: the parsed config.json.
        positions: rows of the table of positions that no token has.
        head_activation: the head's, where it is not that of the layers.
    """
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    if hf.get("is_decoder"):
        raise ConfigError("config.json: is_decoder=True is not modelled: a masked model reads both ways")
    choose("position_embedding_type", f["position_embedding_type"], {"absolute": None})
    activation: Activation = choose("hidden_act", f["hidden_act"], ACTIVATION_NAMES)
    if f["max_position_embeddings"] <= positions:
        raise ConfigError(f"config.json: max_position_embeddings={f['max_position_embeddings']} leaves no position")
    return EncoderConfig(
        vocab=f["vocab_size"],
        layers=f["num_hidden_layers"],
        embed=f["hidden_size"],
        heads=f["num_attention_heads"],
        head_dim=quotient(f, "hidden_size", "num_attention_heads"),
        mlp=f["intermediate_size"],
        context=f["max_position_embeddings"] - positions,
        token_types=f["type_vocab_size"],
        norm_eps=f["layer_norm_eps"],
        activation=activation,
        head_activation=head_activation or activation,
    )


def config(hf: Mapping[str, Any]) -> EncoderConfig:
    """The encoder that a BERT config.json describes."""
    return read(hf, 0)


def norm(ours: str, theirs: str, width: int) -> list[Row]:
    """A LayerNorm."""
    return [Row(f"{ours}.scale", f"{theirs}.weight", (width,)), Row(f"{ours}.shift", f"{theirs}.bias", (width,))]


def head(c: EncoderConfig, words: str, product: str, bias: str, bias_copy: str | None) -> list[Row]:
    """The table of words, which is the product of the head, too, and the head's bias."""
    return [
        Row("embedding", words, (c.vocab, c.embed), copy=product),
        Row("head_bias", bias, (c.vocab,), copy=bias_copy),
    ]


def body(c: EncoderConfig, prefix: str, positions: int, types: int) -> list[Row]:
    """All tensors but the words and the head, of BERT's form.

    Args:
        c: the shape.
        prefix: of all names.
        positions: first rows of the table of positions that no token has.
        types: rows of the table of token types, of which a single text has the first.
    """
    layer, inner = f"{prefix}.encoder.layer.{{}}.", (c.heads, c.head_dim)
    names = f"{prefix}.embeddings."
    table = [
        Row(
            "positions", names + "position_embeddings.weight", (positions + c.context, c.embed), lambda t: t[positions:]
        ),
        Row("token_type", names + "token_type_embeddings.weight", (types, c.embed), lambda t: t[0]),
        *norm("embedding_norm", names + "LayerNorm", c.embed),
        *norm("blocks.attention_norm", layer + "attention.output.LayerNorm", c.embed),
        *norm("blocks.mlp_norm", layer + "output.LayerNorm", c.embed),
    ]
    for name in ("query", "key", "value"):
        table += linear_rows(f"blocks.attention.{name}", f"{layer}attention.self.{name}", inner, (c.embed,))
    table += linear_rows("blocks.attention.out", layer + "attention.output.dense", (c.embed,), inner)
    table += linear_rows("blocks.mlp.up", layer + "intermediate.dense", (c.mlp,), (c.embed,))
    return [*table, *linear_rows("blocks.mlp.down", layer + "output.dense", (c.embed,), (c.mlp,))]


def rows(c: EncoderConfig) -> list[Row]:
    """The tensors."""
    theirs = "cls.predictions."
    return [
        *head(
            c,
            "bert.embeddings.word_embeddings.weight",
            theirs + "decoder.weight",
            theirs + "bias",
            theirs + "decoder.bias",
        ),
        *body(c, "bert", 0, c.token_types),
        *linear_rows("transform", theirs + "transform.dense", (c.embed,), (c.embed,)),
        *norm("head_norm", theirs + "transform.LayerNorm", c.embed),
    ]


FAMILY = Family(
    "bert",
    config,
    rows,
    ignored=(r"(bert\.)?embeddings\.position_ids", r"(bert\.)?pooler\..*", r"cls\.seq_relationship\..*"),
    prefix="bert.",
    renamed=RENAMED,
    head="cls.predictions.",
)

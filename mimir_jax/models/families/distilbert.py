"""DistilBERT (Sanh et al. 2019): BERT with half of the layers and no token types."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.encoder import EncoderConfig
from mimir_jax.models.families.bert import RENAMED, head, norm
from mimir_jax.models.family import Family, Row, linear_rows
from mimir_jax.models.fields import ACTIVATION_NAMES, REQUIRED, choose, quotient, read_fields

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "dim": REQUIRED,
    "n_layers": REQUIRED,
    "n_heads": REQUIRED,
    "hidden_dim": REQUIRED,
    "max_position_embeddings": 512,
    "activation": "gelu",
}
# sinusoidal_pos_embds is about how positions began; what they are is in the files.
# fmt: off
IRRELEVANT = frozenset([
    "attention_dropout", "dropout", "initializer_range", "output_past", "qa_dropout", "seq_classif_dropout",
    "sinusoidal_pos_embds", "tie_weights_",
])
# fmt: on


def config(hf: Mapping[str, Any]) -> EncoderConfig:
    """The encoder that a DistilBERT config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, {"tie_word_embeddings": True})
    activation = choose("activation", f["activation"], ACTIVATION_NAMES)
    return EncoderConfig(
        vocab=f["vocab_size"],
        layers=f["n_layers"],
        embed=f["dim"],
        heads=f["n_heads"],
        head_dim=quotient(f, "dim", "n_heads"),
        mlp=f["hidden_dim"],
        context=f["max_position_embeddings"],
        activation=activation,
        head_activation=activation,
        token_types=0,
    )


def rows(c: EncoderConfig) -> list[Row]:
    """The tensors."""
    names, layer = "distilbert.embeddings.", "distilbert.transformer.layer.{}."
    table = head(c, names + "word_embeddings.weight", "vocab_projector.weight", "vocab_projector.bias", None)
    table += [
        Row("positions", names + "position_embeddings.weight", (c.context, c.embed)),
        *norm("embedding_norm", names + "LayerNorm", c.embed),
        *norm("blocks.attention_norm", layer + "sa_layer_norm", c.embed),
        *norm("blocks.mlp_norm", layer + "output_layer_norm", c.embed),
        *linear_rows("transform", "vocab_transform", (c.embed,), (c.embed,)),
        *norm("head_norm", "vocab_layer_norm", c.embed),
    ]
    inner = (c.heads, c.head_dim)
    for ours, theirs in (("query", "q_lin"), ("key", "k_lin"), ("value", "v_lin")):
        table += linear_rows(f"blocks.attention.{ours}", f"{layer}attention.{theirs}", inner, (c.embed,))
    table += linear_rows("blocks.attention.out", layer + "attention.out_lin", (c.embed,), inner)
    table += linear_rows("blocks.mlp.up", layer + "ffn.lin1", (c.mlp,), (c.embed,))
    return [*table, *linear_rows("blocks.mlp.down", layer + "ffn.lin2", (c.embed,), (c.mlp,))]


FAMILY = Family(
    "distilbert",
    config,
    rows,
    ignored=(r"(distilbert\.)?embeddings\.position_ids",),
    prefix="distilbert.",
    renamed=RENAMED,
    head="vocab_",
)

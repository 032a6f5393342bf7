"""T5, its version 1.1, and Flan-T5 (Raffel et al. 2020)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.family import Family, Row, linear_rows
from mimir_jax.models.fields import ACTIVATION_NAMES, REQUIRED, choose, read_fields
from mimir_jax.models.seq2seq import Seq2SeqConfig

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "d_model": REQUIRED,
    "d_kv": REQUIRED,
    "d_ff": REQUIRED,
    "num_layers": REQUIRED,
    "num_heads": REQUIRED,
    "num_decoder_layers": None,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "scale_decoder_outputs": None,
}
# dense_act_fn and is_gated_act say again what feed_forward_proj says; n_positions is no bound: positions are relative.
# fmt: off
IRRELEVANT = frozenset([
    "classifier_dropout", "dense_act_fn", "dropout_rate", "initializer_factor", "is_gated_act", "n_positions",
    "output_past",
])
# fmt: on


def config(hf: Mapping[str, Any]) -> Seq2SeqConfig:
    """The encoder-decoder that a T5 config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, {})
    gated, _, name = f["feed_forward_proj"].rpartition("-")
    if gated not in ("", "gated"):
        raise ConfigError(f"config.json: feed_forward_proj={f['feed_forward_proj']!r} is not modelled")
    if gated and name == "gelu":
        name = "gelu_new"
    scaled = f["scale_decoder_outputs"]
    return Seq2SeqConfig(
        vocab=f["vocab_size"],
        layers=f["num_layers"],
        decoder_layers=f["num_decoder_layers"] or f["num_layers"],
        embed=f["d_model"],
        heads=f["num_heads"],
        head_dim=f["d_kv"],
        mlp=f["d_ff"],
        buckets=f["relative_attention_num_buckets"],
        farthest=f["relative_attention_max_distance"],
        norm_eps=f["layer_norm_epsilon"],
        activation=choose("feed_forward_proj", name, ACTIVATION_NAMES),
        gated_mlp=bool(gated),
        scaled_output=f["tie_word_embeddings"] if scaled is None else bool(scaled),
        tied_head=f["tie_word_embeddings"],
    )


def rows(c: Seq2SeqConfig) -> list[Row]:
    """The tensors."""
    words = (c.vocab, c.embed)
    table = [Row("embedding", "shared.weight", words, copy="lm_head.weight" if c.tied_head else None)]
    table += [] if c.tied_head else [Row("head", "lm_head.weight", words)]
    for side in ("encoder", "decoder"):
        layer, inner = f"{side}.block.{{}}.layer.", (c.heads, c.head_dim)
        parts = [("attention", "SelfAttention")] + ([("cross", "EncDecAttention")] if side == "decoder" else [])
        for number, (ours, theirs) in enumerate(parts):
            for name, letter in (("query", "q"), ("key", "k"), ("value", "v")):
                where = f"{layer}{number}.{theirs}.{letter}"
                table += linear_rows(f"{side}.blocks.{ours}.{name}", where, inner, (c.embed,), bias=False)
            where = f"{layer}{number}.{theirs}.o"
            table += linear_rows(f"{side}.blocks.{ours}.out", where, (c.embed,), inner, bias=False)
            table.append(Row(f"{side}.blocks.{ours}_norm.scale", f"{layer}{number}.layer_norm.weight", (c.embed,)))
        mlp = f"{layer}{len(parts)}."
        into = [("gate", "wi_0"), ("up", "wi_1")] if c.gated_mlp else [("up", "wi")]
        for ours, theirs in into:
            where = f"{mlp}DenseReluDense.{theirs}"
            table += linear_rows(f"{side}.blocks.mlp.{ours}", where, (c.mlp,), (c.embed,), bias=False)
        table += linear_rows(f"{side}.blocks.mlp.down", mlp + "DenseReluDense.wo", (c.embed,), (c.mlp,), bias=False)
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table += [
            Row(f"{side}.blocks.mlp_norm.scale", mlp + "layer_norm.weight", (c.embed,)),
            Row(f"{side}.final_norm.scale", f"{side}.final_layer_norm.weight", (c.embed,)),
            Row(f"{side}.distances", first, (c.buckets, c.heads)),
        ]
    return table


FAMILY = Family(
    "t5",
    config,
    rows,
    # Copies of the words, and a bias of cross attention that old versions saved and none used.
    ignored=(
        r"(encoder|decoder)\.embed_tokens\.weight",
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    ),
)

"""GPT-NeoX: Pythia and its kin, such as StableLM's alpha models (Black et al. 2022; Biderman et al. 2023)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import Family, Row, fused_rows, mlp_rows, norm_rows, out_rows
from mimir_jax.models.fields import REQUIRED, read_fields, read_rope, read_sizes

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "intermediate_size": REQUIRED,
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "rope_parameters": None,  # transformers 5; the two after it are what older files carry
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "partial_rotary_factor": None,  # copies of these two, which transformers 4.46 and later wrote beside them
    "rope_theta": None,
}
# fmt: off
IRRELEVANT = frozenset([
    "attention_dropout", "attention_probs_dropout_prob", "classifier_dropout", "hidden_dropout", "hidden_dropout_prob",
    "initializer_range",
])
# fmt: on
DEFAULTS: dict[str, Any] = {"rope_scaling": None}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a GPT-NeoX config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    share, theta = read_rope(f, f["rotary_pct"], f["rotary_emb_base"])
    sizes = read_sizes(f)
    return DecoderConfig(
        **sizes,
        mlp=f["intermediate_size"],
        norm_eps=f["layer_norm_eps"],
        parallel_residual=f["use_parallel_residual"],
        rotary_dim=int(sizes["head_dim"] * share),  # an odd one rotates one dimension more, there as here
        rope_theta=theta,
        qkv_bias=f["attention_bias"],
        attention_out_bias=f["attention_bias"],
        tied_head=f["tie_word_embeddings"],
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    layer = "gpt_neox.layers.{}."
    table = [Row("embedding", "gpt_neox.embed_in.weight", (c.vocab, c.embed))]
    if not c.tied_head:
        table.append(Row("head", "embed_out.weight", (c.vocab, c.embed)))
    table += norm_rows(c, "blocks.attention_norm", layer + "input_layernorm")
    table += norm_rows(c, "blocks.mlp_norm", layer + "post_attention_layernorm")
    table += norm_rows(c, "final_norm", "gpt_neox.final_layer_norm")
    table += fused_rows(c, layer + "attention.query_key_value", by_head=True)
    table += out_rows(c, layer + "attention.dense")
    return [*table, *mlp_rows(c, layer + "mlp.dense_h_to_4h", layer + "mlp.dense_4h_to_h")]


FAMILY = Family(
    "gpt_neox",
    config,
    rows,
    # causal masks and rotary tables that old versions of transformers saved
    ignored=(r".*\.attention\.(bias|masked_bias)", r".*\.rotary_emb\.inv_freq"),
)

"""GPT-NeoX: Pythia and its kin (Black et al. 2022; Biderman et al. 2023)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder import DecoderConfig
from mimir_jax.models.family import (
    ACTIVATION_NAMES,
    REQUIRED,
    Family,
    Row,
    choose,
    read_fields,
)

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
IRRELEVANT = frozenset({"attention_dropout", "classifier_dropout", "hidden_dropout", "initializer_range"})
DEFAULTS: dict[str, Any] = {"rope_scaling": None}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a GPT-NeoX config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    rope = f["rope_parameters"] or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ConfigError(f"config.json: rope_parameters.rope_type={kind!r} is not modelled (only 'default')")
    share = rope.get("partial_rotary_factor", f["rotary_pct"])
    theta = rope.get("rope_theta", f["rotary_emb_base"])
    for name, used in (("partial_rotary_factor", share), ("rope_theta", theta)):
        if f[name] not in (None, used):
            raise ConfigError(f"config.json: {name}={f[name]!r} contradicts the {used!r} that it says elsewhere")
    if f["hidden_size"] % f["num_attention_heads"]:
        raise ConfigError(
            "config.json: hidden_size={hidden_size} is no multiple of num_attention_heads={num_attention_heads}".format(
                **f
            )
        )
    head_dim = f["hidden_size"] // f["num_attention_heads"]
    return DecoderConfig(
        vocab=f["vocab_size"],
        layers=f["num_hidden_layers"],
        embed=f["hidden_size"],
        heads=f["num_attention_heads"],
        head_dim=head_dim,
        mlp=f["intermediate_size"],
        context=f["max_position_embeddings"],
        norm_eps=f["layer_norm_eps"],
        activation=choose("hidden_act", f["hidden_act"], ACTIVATION_NAMES),
        parallel_residual=f["use_parallel_residual"],
        rotary_dim=int(head_dim * share),
        rope_theta=float(theta),
        qkv_bias=f["attention_bias"],
        attention_out_bias=f["attention_bias"],
        tied_head=f["tie_word_embeddings"],
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors. Query, key and value are one, laid out (heads, 3, head_dim)."""
    layer = "gpt_neox.layers.{}."
    fused, out = layer + "attention.query_key_value", layer + "attention.dense"
    inner = c.heads * c.head_dim

    def part(index: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda tensor: tensor.reshape(c.heads, 3, c.head_dim, *tensor.shape[1:])[:, index]

    def norm(ours: str, theirs: str) -> list[Row]:
        return [
            Row(f"{ours}.scale", f"{theirs}.weight", (c.embed,)),
            Row(f"{ours}.shift", f"{theirs}.bias", (c.embed,)),
        ]

    def linear(ours: str, theirs: str, wide: int, narrow: int) -> list[Row]:
        return [
            Row(f"{ours}.kernel", f"{theirs}.weight", (wide, narrow)),
            Row(f"{ours}.bias", f"{theirs}.bias", (wide,)),
        ]

    table = [Row("embedding", "gpt_neox.embed_in.weight", (c.vocab, c.embed))]
    table += norm("blocks.attention_norm", layer + "input_layernorm")
    table += norm("blocks.mlp_norm", layer + "post_attention_layernorm")
    table += norm("final_norm", "gpt_neox.final_layer_norm")
    for index, name in enumerate(("query", "key", "value")):
        ours = f"blocks.attention.{name}"
        table.append(Row(f"{ours}.kernel", fused + ".weight", (3 * inner, c.embed), part(index)))
        if c.qkv_bias:
            table.append(Row(f"{ours}.bias", fused + ".bias", (3 * inner,), part(index)))
    table.append(
        Row(
            "blocks.attention.out.kernel",
            out + ".weight",
            (c.embed, inner),
            lambda tensor: tensor.reshape(c.embed, c.heads, c.head_dim),
        )
    )
    if c.attention_out_bias:
        table.append(Row("blocks.attention.out.bias", out + ".bias", (c.embed,)))
    table += linear("blocks.mlp.up", layer + "mlp.dense_h_to_4h", c.mlp, c.embed)
    table += linear("blocks.mlp.down", layer + "mlp.dense_4h_to_h", c.embed, c.mlp)
    if not c.tied_head:
        table.append(Row("head", "embed_out.weight", (c.vocab, c.embed)))
    return table


FAMILY = Family(
    "gpt_neox",
    config,
    rows,
    # causal masks and rotary tables that old versions of transformers saved
    ignored=(r".*\.attention\.(bias|masked_bias)", r".*\.rotary_emb\.inv_freq"),
)

"""StableLM-Base-Alpha 3B and 7B v2, the reference models of MIMIR's Table 1 (Stability AI 2023).

Attention and a gated MLP side by side behind one LayerNorm, no biases but the norms', and a rope of part of each head.
Hugging Face's implementation is code beside the weights, which is not run.
"""

from collections.abc import Mapping
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.family import Family, Row, embedding_rows, fused_rows, linear_rows, norm_rows, out_rows
from mimir_jax.models.fields import REQUIRED, read_fields, read_sizes, rotary_width

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_heads": REQUIRED,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "norm_eps": 1e-5,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "tie_word_embeddings": False,
}
IRRELEVANT = frozenset(["initializer_range"])
DEFAULTS: dict[str, Any] = {"rotary_scaling_factor": 1.0}
MULTIPLE = 256  # of which the MLP's width is one


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a StableLM-Base-Alpha v2 config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    sizes = read_sizes(f, heads="num_heads")
    return DecoderConfig(
        **sizes,
        mlp=-(-(8 * f["hidden_size"] // 3) // MULTIPLE) * MULTIPLE,
        norm_eps=f["norm_eps"],
        gated_mlp=True,
        parallel_residual=True,
        shared_norm=True,
        rotary_dim=rotary_width(sizes["head_dim"], f["rotary_pct"]),
        rope_theta=float(f["rotary_emb_base"]),
        qkv_bias=False,
        attention_out_bias=False,
        mlp_bias=False,
        tied_head=f["tie_word_embeddings"],
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors. The two layers that read in the MLP are one, the gate last."""
    layer = "transformer.layers.{}."
    table = embedding_rows(c, "transformer.embed.weight", "lm_head.weight")
    table += norm_rows(c, "blocks.attention_norm", layer + "norm")
    table += norm_rows(c, "final_norm", "transformer.final_norm")
    table += fused_rows(c, layer + "attention.qkv_proj", by_head=True)
    table += out_rows(c, layer + "attention.out_proj")
    for index, name in enumerate(("up", "gate")):
        ours, theirs = f"blocks.mlp.{name}", layer + "mlp.gate_proj"
        table += linear_rows(ours, theirs, (2, c.mlp), (c.embed,), bias=False, part=index)
    table += linear_rows("blocks.mlp.down", layer + "mlp.out_proj", (c.embed,), (c.mlp,), bias=False)
    return table


FAMILY = Family(
    "stablelm_alpha",
    config,
    rows,
    ignored=(r".*\.rotary_emb\.(inv_freq|cos_cached|sin_cached)",),
    note="the layout of stablelm_alpha was never compared with its own implementation, which is code beside the "
    "weights and is not run: see that its loss on ordinary English is between 2 and 4 nats a token",
)

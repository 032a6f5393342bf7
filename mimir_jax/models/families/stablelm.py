"""StableLM 3B-4E1T, StableLM 2 and their kin: Llama with LayerNorms and a rope of part of each head (Tow et al. 2023).

StableLM's alpha models are GPT-NeoX.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import llama
from mimir_jax.models.family import Family, Row
from mimir_jax.models.fields import read_fields, read_rope, rotary_width

MODELLED: dict[str, Any] = {
    **llama.SHARED,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-5,
    "use_qkv_bias": False,
    "qk_layernorm": False,
    "use_parallel_residual": False,
    "partial_rotary_factor": None,
}
del MODELLED["head_dim"], MODELLED["rms_norm_eps"], MODELLED["attention_bias"], MODELLED["mlp_bias"]
del MODELLED["rope_scaling"]
IRRELEVANT = frozenset(["attention_dropout", "hidden_dropout", "initializer_range"])
DEFAULTS: dict[str, Any] = {"rope_scaling": None}


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a StableLM config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    share = 0.25 if f["partial_rotary_factor"] is None else f["partial_rotary_factor"]
    share, theta = read_rope(f, share, 10000.0 if f["rope_theta"] is None else f["rope_theta"])
    f |= {"rope_parameters": None, "rope_scaling": None, "rope_theta": theta, "rms_norm_eps": f["layer_norm_eps"]}
    c = DecoderConfig(**llama.shared({**f, "head_dim": None, "attention_bias": False, "mlp_bias": False}))
    return replace(
        c,
        norm="layer",
        parallel_residual=f["use_parallel_residual"],
        shared_norm=f["use_parallel_residual"],
        qk_norm="heads" if f["qk_layernorm"] else None,
        rotary_dim=rotary_width(c.head_dim, share),
        qkv_bias=f["use_qkv_bias"],
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors. Norms of queries and keys have one for each head."""
    table = llama.rows(replace(c, qk_norm=None))
    if c.qk_norm is not None:
        for name, count in (("query", c.heads), ("key", c.key_heads)):
            theirs = "model.layers.{}.self_attn." + f"{name[0]}_layernorm.norms."
            for head in range(count):
                ours = f"blocks.attention.{name}_norm.heads.{head}.scale"
                table.append(Row(ours, f"{theirs}{head}.weight", (c.head_dim,)))
    return table


FAMILY = Family("stablelm", config, rows, ignored=llama.BUFFERS)

"""GPT-J: attention and MLP side by side behind one norm, a head with a bias (Wang and Komatsuzaki 2021)."""

from collections.abc import Mapping
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.families import gpt2
from mimir_jax.models.family import Family, Row, embedding_rows, mlp_rows, norm_rows, out_rows, separate_rows
from mimir_jax.models.fields import REQUIRED, read_fields, read_sizes

MODELLED: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "n_embd": REQUIRED,
    "n_layer": REQUIRED,
    "n_head": REQUIRED,
    "n_positions": 2048,
    "n_inner": None,
    "rotary_dim": 64,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
}
# fmt: off
IRRELEVANT = frozenset([
    "attn_pdrop", "embd_pdrop", "initializer_range", "n_ctx", "resid_pdrop",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
])
# fmt: on
DEFAULTS: dict[str, Any] = {"rotary": True, "scale_attn_weights": True}  # the published file says so


def config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a GPT-J config.json describes."""
    f = read_fields(hf, MODELLED, IRRELEVANT, DEFAULTS)
    sizes = read_sizes(f, **gpt2.NAMES)
    if f["rotary_dim"] > sizes["head_dim"] or f["rotary_dim"] % 2:
        raise ConfigError(
            f"config.json: rotary_dim={f['rotary_dim']} is no even number up to a head's {sizes['head_dim']}"
        )
    return DecoderConfig(
        **sizes,
        mlp=4 * f["n_embd"] if f["n_inner"] is None else f["n_inner"],
        norm_eps=f["layer_norm_epsilon"],
        parallel_residual=True,
        shared_norm=True,
        rotary_dim=f["rotary_dim"],
        rotary_interleaved=True,
        qkv_bias=False,
        attention_out_bias=False,
        tied_head=f["tie_word_embeddings"],
        head_bias=True,
    )


def rows(c: DecoderConfig) -> list[Row]:
    """The tensors."""
    layer = "transformer.h.{}."
    table = embedding_rows(c, "transformer.wte.weight", "lm_head.weight")
    table += norm_rows(c, "blocks.attention_norm", layer + "ln_1")
    table += norm_rows(c, "final_norm", "transformer.ln_f")
    table += separate_rows(c, layer + "attn.")
    table += out_rows(c, layer + "attn.out_proj")
    return [*table, *mlp_rows(c, layer + "mlp.fc_in", layer + "mlp.fc_out")]


FAMILY = Family(
    "gptj",
    config,
    rows,
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),  # causal masks
    prefix="transformer.",
)

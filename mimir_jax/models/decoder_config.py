"""The shape of a decoder and the options that families differ in: what a config.json is translated to."""

from dataclasses import dataclass
from typing import Any, Literal

from mimir_jax.models.rope import RopeScaling


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder and the options that families differ in."""

    vocab: int
    layers: int
    embed: int
    heads: int
    head_dim: int
    mlp: int
    context: int
    kv_heads: int | None = None
    """Key-value heads; None is as many as heads."""
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    gated_mlp: bool = False
    norm_affine: bool = True
    """Norms have a scale and, LayerNorms, a shift."""
    norm_place: Literal["before", "after", "both", "sum"] = "before"
    """Of attention and MLP each: x + f(norm(x)), x + norm(f(x)), x + norm'(f(norm(x))) or norm(x + f(x))."""
    final_norm: bool = True
    parallel_residual: bool = False
    """x + attention(norm(x)) + mlp(norm'(x)), not one after the other; with norms before."""
    shared_norm: bool = False
    """The MLP reads what attention reads: norm' is norm; with parallel_residual."""
    qk_norm: Literal["head", "heads", "all"] | None = None
    """Norm of the queries and keys of each head, with one scale for all heads ("head") or with one for each ("heads");
    or of all heads of a token as one ("all")."""
    clip_qkv: float | None = None
    """Bound of the absolute values of queries, keys and values."""
    rotary_dim: int = 0
    """Leading dimensions of each head that are rotated; 0 is no rotary embedding."""
    rotary_interleaved: bool = False
    """Dimensions 2i and 2i + 1 are rotated together, not i and i + rotary_dim / 2."""
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    """rope_theta of layers with a window, which `rope_scaling` leaves alone then; None is as in other layers."""
    rotary_layers: tuple[bool, ...] | None = None
    """Which layers have the rotary embedding; None is all. Not with local_rope_theta."""
    embedding_scale: float | None = None
    """What embedded tokens are multiplied with."""
    norm_offset: float = 0.0
    """Added to the scale of every norm."""
    attention_softcap: float | None = None
    """See `capped`, of attention scores."""
    logit_softcap: float | None = None
    """See `capped`, of logits."""
    learned_positions: bool = False
    attention_scale: float | None = None
    """None is head_dim ** -0.5."""
    inverse_layer_scale: bool = False
    """Scores of layer l = 0, 1, ... are divided by l + 1."""
    windows: tuple[int | None, ...] | None = None
    """For each layer how many last tokens it attends to, None for all; None for all layers alike."""
    qkv_bias: bool = True
    attention_out_bias: bool = True
    mlp_bias: bool = True
    tied_head: bool = False
    head_bias: bool = False
    token_embed: int | None = None
    """Width of token embeddings and head, with projections from it and to it; None is embed, without."""

    @property
    def key_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def token_width(self) -> int:
        return self.embed if self.token_embed is None else self.token_embed

    @property
    def norm_options(self) -> dict[str, Any]:
        """What every `Norm` is built with, beside its shape."""
        return {
            "eps": self.norm_eps,
            "centered": self.norm == "layer",
            "affine": self.norm_affine,
            "offset": self.norm_offset,
        }

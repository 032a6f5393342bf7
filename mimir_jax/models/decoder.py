"""One causal transformer in Flax NNX; what families differ in are fields of its config.

Letters of axes: b row, t time, q query time, s key time, d embed, h heads, g key-value heads, n heads of a key-value
head, k head_dim, f mlp, v vocab.

Rows are *packed*: several documents lie one behind the other in a row, told apart by `segments`, and a token
attends only to its own document and, where there is one, to a `Past` that was read before: a prefix whose keys and
values are computed once for all that follows it. Every product is asked for a float32 result and cast after, and the
residual stream, norms and softmax are float32 whatever the weights' dtype: on CPUs with bfloat16 products that is
twice as fast as a bfloat16 result, and everywhere it is closer to the float32 model.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from mimir_jax.arrays import AnyArray
from mimir_jax.models.rope import RopeScaling, rotary_frequencies

UNSEEN = 1 << 30  # a distance beyond every window
QUERY_BLOCK = 128  # queries that share a slice of keys: the keys behind them are never multiplied


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


ACTIVATIONS = {
    # 1 + erf, not erfc: what torch computes, and one branch less
    "gelu": lambda x: 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5)),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

# Logical axes of each parameter, by the end of its path. Stacked layers have "layers" in front.
AXES: dict[str, tuple[str, ...]] = {
    "embedding": ("vocab", "embed"),
    "positions": ("time", "embed"),
    "head": ("vocab", "embed"),
    "head_bias": ("vocab",),
    "project_in.kernel": ("embed", "embed"),
    "project_out.kernel": ("embed", "embed"),
    "query_norm.scale": ("heads", "head_dim"),
    "key_norm.scale": ("kv_heads", "head_dim"),
    "scale": ("embed",),
    "shift": ("embed",),
    "query.kernel": ("heads", "head_dim", "embed"),
    "query.bias": ("heads", "head_dim"),
    "key.kernel": ("kv_heads", "head_dim", "embed"),
    "key.bias": ("kv_heads", "head_dim"),
    "value.kernel": ("kv_heads", "head_dim", "embed"),
    "value.bias": ("kv_heads", "head_dim"),
    "out.kernel": ("embed", "heads", "head_dim"),
    "out.bias": ("embed",),
    "up.kernel": ("mlp", "embed"),
    "up.bias": ("mlp",),
    "gate.kernel": ("mlp", "embed"),
    "gate.bias": ("mlp",),
    "down.kernel": ("embed", "mlp"),
    "down.bias": ("embed",),
}


def parameter_axes(path: str) -> tuple[str, ...]:
    """Logical axes of the parameter at a dotted path, such as `blocks.attention.query.kernel`."""
    axes = next(axes for end, axes in AXES.items() if path == end or path.endswith("." + end))
    return ("layers", *axes) if path.startswith("blocks.") else axes


def product(subscripts: str, x: Float[Array, "..."], kernel: Float[Array, "..."]) -> Float32[Array, "..."]:
    """einsum in the kernel's dtype with a float32 result; float32 is never rounded to tf32 or bfloat16."""
    return jnp.einsum(
        subscripts,
        x.astype(kernel.dtype),
        kernel,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


class Past(NamedTuple):
    """Keys and values of tokens that were read before, at positions 0, 1, ... of what the rows go on from.

    Attributes:
        key: [layers, row, kv_heads, past, head_dim]; one row where all rows go on from the same.
        value: as key.
    """

    key: Float[Array, "*layers row kv_heads past head_dim"]
    value: Float[Array, "*layers row kv_heads past head_dim"]


class Tree(NamedTuple):
    """Segments of which some go on from another one of their row, which stands before them: from its first tokens.

    Attributes:
        segments: as without a tree.
        trunks: of each token, the segment that its own goes on from; its own where it goes on from none.
        seen: of each token, how many first tokens of the trunk its segment goes on from.
        positions: of each token in its document, those of the trunk included.
    """

    segments: Int[Array, "b t"]
    trunks: Int[Array, "b t"]
    seen: Int[Array, "b t"]
    positions: Int[Array, "b t"]


Segments = Int[Array, "b t"] | Tree


class Linear(nnx.Module):
    """A product over the last axes of x; kernels keep the [out, in] order of published checkpoints."""

    def __init__(
        self,
        subscripts: str,
        kernel: tuple[int, ...],
        bias: tuple[int, ...] | None,
        scale: float,
        rngs: nnx.Rngs,
    ):
        self.subscripts = subscripts
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), kernel))
        self.bias = nnx.Param(jnp.zeros(bias)) if bias is not None else None

    def __call__(self, x: Float[Array, "b t ..."]) -> Float32[Array, "b t ..."]:
        y = product(self.subscripts, x, self.kernel[...])
        return y if self.bias is None else y + self.bias[None, None].astype(jnp.float32)


class Norm(nnx.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019), in float32, over the last axis or all axes of
    the scale's shape.
    """

    def __init__(
        self,
        config: DecoderConfig,
        shape: tuple[int, ...] | None = None,
        over: tuple[int, ...] = (-1,),
        shift: bool = True,
    ):
        shape = (config.embed,) if shape is None else shape
        self.eps = config.norm_eps
        self.offset = config.norm_offset
        self.over = over
        self.centered = config.norm == "layer"
        self.scale = nnx.Param(jnp.ones(shape) - config.norm_offset) if config.norm_affine else None
        self.shift = nnx.Param(jnp.zeros(shape)) if config.norm_affine and self.centered and shift else None

    def __call__(self, x: Float32[Array, "b t ..."]) -> Float32[Array, "b t ..."]:
        x = self.normalize(x)
        if self.scale is not None:
            scale = self.scale[None, None].astype(jnp.float32)
            x = x * (self.offset + scale if self.offset else scale)
        return x if self.shift is None else x + self.shift[None, None].astype(jnp.float32)

    def normalize(self, x: Float32[Array, "b t ..."]) -> Float32[Array, "b t ..."]:
        if self.centered:
            x = x - jnp.mean(x, axis=self.over, keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=self.over, keepdims=True) + self.eps)


class HeadNorms(nnx.Module):
    """A norm of each head with a scale of its own; these are published apart from one another."""

    def __init__(self, config: DecoderConfig, heads: int):
        self.heads = nnx.List([Norm(config, (config.head_dim,), shift=False) for _ in range(heads)])

    def __call__(self, x: Float32[Array, "b t h k"]) -> Float32[Array, "b t h k"]:
        scales = jnp.stack([norm.scale[...] for norm in self.heads if norm.scale is not None])
        return self.heads[0].normalize(x) * scales[None, None].astype(jnp.float32)


def _head_norm(c: DecoderConfig, heads: int) -> Norm | HeadNorms | None:
    """The norm of queries or of keys."""
    if c.qk_norm is None:
        return None
    if c.qk_norm == "heads":
        return HeadNorms(c, heads)
    return Norm(c, (1, c.head_dim)) if c.qk_norm == "head" else Norm(c, (heads, c.head_dim), (-2, -1))


def capped(x: Float32[Array, "..."], cap: float | None) -> Float32[Array, "..."]:
    """Values kept within +-cap, cap * tanh(x / cap) (Bello et al. 2017); None leaves them as they are."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class LayerKind(NamedTuple):
    """What layers differ in beside their weights; None where they are alike.

    Attributes:
        window: how many last tokens are attended to.
        rope: which of the rotary tables is used.
        scale: what scores are multiplied with, beside what all layers' are.
    """

    window: Int[Array, "*layers"] | None
    rope: Int[Array, "*layers"] | None
    scale: Float32[Array, "*layers"] | None = None


def layer_kinds(config: DecoderConfig) -> LayerKind:
    """Of all layers."""
    window = rope = scale = None
    if config.windows is not None:
        window = jnp.array([config.context if w is None else w for w in config.windows], jnp.int32)
        if config.local_rope_theta is not None:
            rope = jnp.array([w is not None for w in config.windows], jnp.int32)
    if config.rotary_layers is not None:
        rope = jnp.array([not rotated for rotated in config.rotary_layers], jnp.int32)
    if config.inverse_layer_scale:
        scale = 1.0 / jnp.arange(1, config.layers + 1, dtype=jnp.float32)
    return LayerKind(window, rope, scale)


Rotary = tuple[Float32[Array, "b t 1 r"], Float32[Array, "b t 1 r"]]
RotaryTables = tuple[Float32[Array, "*kinds b t 1 r"], Float32[Array, "*kinds b t 1 r"]]


def rotary_tables(positions: Int[Array, "b t"], config: DecoderConfig) -> RotaryTables | None:
    """Cosine and sine of each position's angles (Su et al. 2021), r = rotary_dim / 2; None without a rotary embedding.

    Where layers differ in it they have a leading axis: first those of the others, then those of layers with a window
    (`local_rope_theta`) or without a rotary embedding, whose angles are 0. See `layer_rotary`.
    """
    c = config
    if not c.rotary_dim:
        return None
    frequencies = rotary_frequencies(c.rope_theta, c.rotary_dim, c.rope_scaling)
    angle = positions.astype(jnp.float32)[..., None, None] * frequencies[None, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if c.rope_scaling is not None and c.rope_scaling.table_scale != 1:
        cos, sin = cos * c.rope_scaling.table_scale, sin * c.rope_scaling.table_scale
    if c.rotary_layers is not None:
        return jnp.stack([cos, jnp.ones_like(cos)]), jnp.stack([sin, jnp.zeros_like(sin)])
    if c.local_rope_theta is None:
        return cos, sin
    local = rotary_frequencies(c.local_rope_theta, c.rotary_dim, None)
    angle = positions.astype(jnp.float32)[..., None, None] * local[None, None, None]
    return jnp.stack([cos, jnp.cos(angle)]), jnp.stack([sin, jnp.sin(angle)])


def layer_rotary(rotary: RotaryTables | None, kind: LayerKind) -> Rotary | None:
    """The tables that a layer uses."""
    return rotary if rotary is None or kind.rope is None else (rotary[0][kind.rope], rotary[1][kind.rope])


def rotate(
    x: Float32[Array, "b t h k"],
    cos: Float32[Array, "b t 1 r"],
    sin: Float32[Array, "b t 1 r"],
    interleaved: bool = False,
) -> Float32[Array, "b t h k"]:
    """Rotate the leading 2r dimensions of each head, pairing dimension i with i + r.

    Where dimensions 2i and 2i + 1 are a pair (`interleaved`), the result has them at i and i + r: queries and keys are
    permuted alike, so that their products are the same.
    """
    r = cos.shape[-1]
    first, second, rest = x[..., :r], x[..., r : 2 * r], x[..., 2 * r :]
    if interleaved:
        first, second = x[..., 0 : 2 * r : 2], x[..., 1 : 2 * r : 2]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


class Attention(nnx.Module):
    """Causal attention within segments, computed for blocks of queries against the keys up to their end."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        c = config
        self.scale = c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale
        self.softcap, self.clip, self.interleaved = c.attention_softcap, c.clip_qkv, c.rotary_interleaved
        std, out_std = 0.02, 0.02 / (2 * c.layers) ** 0.5

        def projection(heads: int) -> Linear:
            bias = (heads, c.head_dim) if c.qkv_bias else None
            return Linear("btd,hkd->bthk", (heads, c.head_dim, c.embed), bias, std, rngs)

        self.query = projection(c.heads)
        self.key = projection(c.key_heads)
        self.value = projection(c.key_heads)
        self.query_norm, self.key_norm = _head_norm(c, c.heads), _head_norm(c, c.key_heads)
        out_bias = (c.embed,) if c.attention_out_bias else None
        self.out = Linear("bthk,dhk->btd", (c.embed, c.heads, c.head_dim), out_bias, out_std, rngs)

    def __call__(
        self,
        x: Float32[Array, "b t d"],
        rotary: tuple[Float32[Array, "b t 1 r"], Float32[Array, "b t 1 r"]] | None,
        segments: Segments,
        window: Int[Array, ""] | None,
        past: Past | None = None,
        distance: Int[Array, "b t past"] | None = None,
        scale: Float32[Array, ""] | None = None,
    ) -> tuple[Float32[Array, "b t d"], Past]:
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.clip is not None:
            query, key, value = (jnp.clip(y, -self.clip, self.clip) for y in (query, key, value))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query = query * (self.scale if scale is None else self.scale * scale)
        if rotary is not None:
            query, key = rotate(query, *rotary, self.interleaved), rotate(key, *rotary, self.interleaved)
        b, t, h, k = query.shape
        g = key.shape[2]
        # Heads in front, once: blocks of queries are then products of plain matrices, without a transpose each.
        query, key, value = (jnp.moveaxis(y.astype(self.query.kernel.dtype), 2, 1) for y in (query, key, value))
        query = query.reshape(b, g, h // g, t, k)
        own, before = Past(key, value), 0
        if past is not None:
            before = past.key.shape[2]
            key, value = (
                jnp.concatenate([jnp.broadcast_to(old, (b, *old.shape[1:])), new], axis=2)
                for old, new in zip(past, own)
            )
        blocks = []
        for start in range(0, t, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, t)
            visible = row_mask(segments, start, stop, window)
            if distance is not None:
                near = distance[:, start:stop] < (UNSEEN if window is None else window)
                visible = jnp.concatenate([near, visible], axis=-1)
            keys = slice(before + stop)
            blocks.append(_attend(query[..., start:stop, :], key[:, :, keys], value[:, :, keys], visible, self.softcap))
        mixed = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=3)
        return self.out(jnp.moveaxis(mixed.reshape(b, h, t, k), 1, 2)), own


def _attend(
    query: Float[Array, "b g n q k"],
    key: Float[Array, "b g s k"],
    value: Float[Array, "b g s k"],
    visible: Bool[Array, "b q s"],
    softcap: float | None,
) -> Float32[Array, "b g n q k"]:
    """Softmax attention of the queries to the visible keys."""
    b, g, n, q, k = query.shape
    s = key.shape[2]
    scores = capped(_matrix_product(query.reshape(b, g, n * q, k), key, 3), softcap).reshape(b, g, n, q, s)
    scores = jnp.where(visible[:, None, None], scores, jnp.finfo(jnp.float32).min)
    # A row of padding sees itself (it is a segment of its own), so no denominator is 0.
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    mixed = _matrix_product(weights.reshape(b, g, n * q, s), value, 2).reshape(query.shape)
    return mixed / jnp.sum(weights, axis=-1, keepdims=True)


def _matrix_product(x: Float[Array, "b g m c"], y: Float[Array, "b g _ _"], axis: int) -> Float32[Array, "b g m _"]:
    """x times y over y's `axis`, as `product` does it. einsum would swap the operands and transpose the result."""
    return jax.lax.dot_general(
        x.astype(y.dtype),
        y,
        (((3,), (axis,)), ((0, 1), (0, 1))),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def row_mask(segments: Segments, start: int, stop: int, window: Int[Array, ""] | None) -> Bool[Array, "b q s"]:
    """True where a query of [start, stop) may see a key of [0, stop)."""
    if not isinstance(segments, Tree):
        return attention_mask(segments[:, start:stop], segments[:, :stop], start, window)
    own, trunk, seen, at = (x[:, start:stop, None] for x in segments)
    key, place = segments.segments[:, None, :stop], segments.positions[:, None, :stop]
    visible = ((own == key) & (place <= at)) | ((own != trunk) & (trunk == key) & (place < seen))
    return visible if window is None else visible & (at - place < window)


def attention_mask(
    query_segments: Int[Array, "b q"],
    key_segments: Int[Array, "b s"],
    start: int,
    window: Int[Array, ""] | None,
) -> Bool[Array, "b q s"]:
    """True where the query at start + i may see key j: same document, not after it, within the window."""
    distance = start + jnp.arange(query_segments.shape[1])[:, None] - jnp.arange(key_segments.shape[1])[None]
    near = distance >= 0
    if window is not None:
        near &= distance < window
    return near[None] & (query_segments[:, :, None] == key_segments[:, None, :])


def past_distance(positions: Int[Array, "b t"], seen: Int[Array, "b t"], past: int) -> Int[Array, "b t past"]:
    """How far each token is from each position of the past; UNSEEN from the `seen` on, which it does not go on from."""
    index = jnp.arange(past)[None, None]
    return jnp.where(index < seen[..., None], positions[..., None] - index, UNSEEN)


class MLP(nnx.Module):
    """Two products around an activation; gated families multiply it with a third (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        c = config
        up_bias, down_bias = ((c.mlp,), (c.embed,)) if c.mlp_bias else (None, None)
        self.activation = c.activation
        self.up = Linear("btd,fd->btf", (c.mlp, c.embed), up_bias, 0.02, rngs)
        self.gate = Linear("btd,fd->btf", (c.mlp, c.embed), up_bias, 0.02, rngs) if c.gated_mlp else None
        down_std = 0.02 / (2 * c.layers) ** 0.5
        self.down = Linear("btf,df->btd", (c.embed, c.mlp), down_bias, down_std, rngs)

    def __call__(self, x: Float32[Array, "b t d"]) -> Float32[Array, "b t d"]:
        activation = ACTIVATIONS[self.activation]
        up = self.up(x)
        return self.down(activation(up) if self.gate is None else activation(self.gate(x)) * up)


class Block(nnx.Module):
    """One layer."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.parallel_residual = config.parallel_residual
        self.shared_norm, self.norm_sum = config.shared_norm, config.norm_place == "sum"
        before, after = config.norm_place in ("before", "both"), config.norm_place != "before"
        self.attention_norm = Norm(config) if before else None
        self.attention = Attention(config, rngs)
        self.attention_out_norm = Norm(config) if after else None
        self.mlp_norm = Norm(config) if before and not config.shared_norm else None
        self.mlp = MLP(config, rngs)
        self.mlp_out_norm = Norm(config) if after else None

    def __call__(
        self,
        x: Float32[Array, "b t d"],
        rotary: tuple[Float32[Array, "b t 1 r"], Float32[Array, "b t 1 r"]] | None,
        segments: Segments,
        window: Int[Array, ""] | None,
        scale: Float32[Array, ""] | None = None,
    ) -> Float32[Array, "b t d"]:
        return self.read(x, rotary, segments, window, scale=scale)[0]

    def read(
        self,
        x: Float32[Array, "b t d"],
        rotary: tuple[Float32[Array, "b t 1 r"], Float32[Array, "b t 1 r"]] | None,
        segments: Segments,
        window: Int[Array, ""] | None,
        past: Past | None = None,
        distance: Int[Array, "b t past"] | None = None,
        scale: Float32[Array, ""] | None = None,
    ) -> tuple[Float32[Array, "b t d"], Past]:
        """The layer's output, going on from its past, and its own keys and values; `LayerKind` has window and scale."""
        read = _normed(self.attention_norm, x)
        mixed, own = self.attention(read, rotary, segments, window, past, distance, scale)
        if self.parallel_residual:
            return x + mixed + self.mlp(read if self.shared_norm else _normed(self.mlp_norm, x)), own
        x = self._add(x, mixed, self.attention_out_norm)
        return self._add(x, self.mlp(_normed(self.mlp_norm, x)), self.mlp_out_norm), own

    def _add(
        self, x: Float32[Array, "b t d"], y: Float32[Array, "b t d"], norm: Norm | None
    ) -> Float32[Array, "b t d"]:
        return _normed(norm, x + y) if self.norm_sum else x + _normed(norm, y)


def _normed(norm: Norm | None, x: Float32[Array, "b t d"]) -> Float32[Array, "b t d"]:
    return x if norm is None else norm(x)


class Decoder(nnx.Module):
    """A causal language model; layers are stacked along a leading axis and run with `jax.lax.scan`."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, shape = config.token_width, (config.vocab, config.token_width)
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.positions = (
            nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.context, config.embed)))
            if config.learned_positions
            else None
        )

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap
        def blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs)

        self.blocks = blocks(rngs)
        self.final_norm = Norm(config) if config.final_norm else None
        self.head = None if config.tied_head else nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.head_bias = nnx.Param(jnp.zeros(config.vocab)) if config.head_bias else None
        projected, scale = config.token_embed is not None, width**-0.5
        self.project_in = Linear("bte,de->btd", (config.embed, width), None, scale, rngs) if projected else None
        self.project_out = Linear("btd,ed->bte", (width, config.embed), None, 0.02, rngs) if projected else None

    @property
    def head_kernel(self) -> Float[Array, "vocab embed"]:
        """What hidden states are multiplied with to give logits."""
        return (self.embedding if self.head is None else self.head)[...]

    @property
    def head_shift(self) -> Float32[Array, " vocab"] | None:
        """What is added to give logits."""
        return None if self.head_bias is None else self.head_bias[...].astype(jnp.float32)

    def __call__(
        self,
        tokens: Int[AnyArray, "b t"],
        positions: Int[AnyArray, "b t"],
        segments: Int[AnyArray, "b t"],
        past: Past | None = None,
        seen: Int[AnyArray, "b t"] | None = None,
        trunks: Int[AnyArray, "b t"] | None = None,
    ) -> Float32[Array, "b t d"]:
        """Hidden states after the final norm.

        Args:
            tokens: ids.
            positions: of each token in its own document, its past included, from 0.
            segments: equal for the tokens of one document; each row's padding has a number of its own.
            past: what documents go on from; see `read`.
            seen: for each token how many first positions of the past, or of its trunk, its document goes on from.
            trunks: for each token the segment of its row that its own goes on from; see `Tree`.
        """
        positions, segments = jnp.asarray(positions), jnp.asarray(segments)
        tree: Segments = segments
        distance = None
        if past is not None and seen is not None:
            distance = past_distance(positions, jnp.asarray(seen), past.key.shape[3])
        if trunks is not None and seen is not None:
            tree = Tree(segments, jnp.asarray(trunks), jnp.asarray(seen), positions)
        return self._run(tokens, positions, tree, past, distance, keep=False)[0]

    def read(
        self,
        tokens: Int[AnyArray, "b t"],
        positions: Int[AnyArray, "b t"],
        segments: Int[AnyArray, "b t"],
        past: Past | None = None,
        distance: Int[AnyArray, "b t past"] | None = None,
    ) -> tuple[Float32[Array, "b t d"], Past]:
        """Hidden states, as calling does, and the tokens' keys and values for what goes on from them.

        `distance` says how far each token is from each position of the past, UNSEEN where it does not see it.
        """
        positions, segments = jnp.asarray(positions), jnp.asarray(segments)
        distance = None if distance is None else jnp.asarray(distance)
        hidden, own = self._run(tokens, positions, segments, past, distance, keep=True)
        assert own is not None
        return hidden, own

    def _run(
        self,
        tokens: Int[AnyArray, "b t"],
        positions: Int[Array, "b t"],
        segments: Segments,
        past: Past | None,
        distance: Int[Array, "b t past"] | None,
        keep: bool,
    ) -> tuple[Float32[Array, "b t d"], Past | None]:
        config = self.config
        rotary = rotary_tables(positions, config)

        def layer(
            x: Float32[Array, "b t d"], inputs: tuple[Block, LayerKind, Past | None]
        ) -> tuple[Float32[Array, "b t d"], Past | None]:
            block, kind, before = inputs
            x, own = block.read(x, layer_rotary(rotary, kind), segments, kind.window, before, distance, kind.scale)
            return x, own if keep else None

        # XLA:CPU widens a stack of bfloat16 weights to float32 before it takes a layer at a run-time index, for every
        # batch; at indices that it knows it does not.
        unroll = self.embedding.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
        x = self.embed(jnp.asarray(tokens), positions)
        x, own = jax.lax.scan(layer, x, (self.blocks, layer_kinds(config), past), unroll=unroll)
        return self.finish(x), own

    def embed(self, tokens: Int[Array, "b t"], positions: Int[Array, "b t"]) -> Float32[Array, "b t d"]:
        """What the first layer reads."""
        x = self.embedding[...][tokens].astype(jnp.float32)
        if self.config.embedding_scale is not None:
            x = x * self.config.embedding_scale
        if self.project_in is not None:
            x = self.project_in(x)
        if self.positions is not None:
            x = x + self.positions[...][positions].astype(jnp.float32)
        return x

    def finish(self, x: Float32[Array, "b t d"]) -> Float32[Array, "b t e"]:
        """What the head reads, of what the last layer gives."""
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x if self.project_out is None else self.project_out(x)

    def logits(
        self, tokens: Int[AnyArray, "b t"], positions: Int[AnyArray, "b t"], segments: Int[AnyArray, "b t"]
    ) -> Float32[Array, "b t vocab"]:
        """All logits, for tests and training of small models; scoring never makes this array."""
        return self.to_logits(self(tokens, positions, segments))

    def to_logits(self, hidden: Float32[Array, "b t e"]) -> Float32[Array, "b t vocab"]:
        """All logits of what `finish` gives."""
        logits = product("bte,ve->btv", hidden, self.head_kernel)
        if self.head_shift is not None:
            logits = logits + self.head_shift[None, None]
        return capped(logits, self.config.logit_softcap)

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
    parallel_residual: bool = False
    """x + attention(norm(x)) + mlp(norm'(x)), not one after the other."""
    rotary_dim: int = 0
    """Leading dimensions of each head that are rotated (half-split form); 0 is no rotary embedding."""
    rope_theta: float = 10000.0
    learned_positions: bool = False
    attention_scale: float | None = None
    """None is head_dim ** -0.5."""
    windows: tuple[int | None, ...] | None = None
    """For each layer how many last tokens it attends to, None for all; None for all layers alike."""
    qkv_bias: bool = True
    attention_out_bias: bool = True
    mlp_bias: bool = True
    tied_head: bool = False

    @property
    def key_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads


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
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019), in float32."""

    def __init__(self, config: DecoderConfig):
        self.eps = config.norm_eps
        self.scale = nnx.Param(jnp.ones(config.embed))
        self.shift = nnx.Param(jnp.zeros(config.embed)) if config.norm == "layer" else None

    def __call__(self, x: Float32[Array, "b t d"]) -> Float32[Array, "b t d"]:
        scale = self.scale[None, None].astype(jnp.float32)
        if self.shift is None:
            return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps) * scale
        centered = x - jnp.mean(x, axis=-1, keepdims=True)
        normed = centered * jax.lax.rsqrt(jnp.mean(centered * centered, axis=-1, keepdims=True) + self.eps)
        return normed * scale + self.shift[None, None].astype(jnp.float32)


def rotary_tables(
    positions: Int[Array, "b t"], config: DecoderConfig
) -> tuple[Float32[Array, "b t 1 r"], Float32[Array, "b t 1 r"]]:
    """Cosine and sine of each position's angles (Su et al. 2021), r = rotary_dim / 2."""
    exponent = jnp.arange(0, config.rotary_dim, 2, dtype=jnp.float32) / config.rotary_dim
    frequencies = config.rope_theta**-exponent
    angle = positions.astype(jnp.float32)[..., None, None] * frequencies[None, None, None]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(
    x: Float32[Array, "b t h k"], cos: Float32[Array, "b t 1 r"], sin: Float32[Array, "b t 1 r"]
) -> Float32[Array, "b t h k"]:
    """Rotate the leading 2r dimensions of each head, pairing dimension i with i + r."""
    r = cos.shape[-1]
    first, second, rest = x[..., :r], x[..., r : 2 * r], x[..., 2 * r :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


class Attention(nnx.Module):
    """Causal attention within segments, computed for blocks of queries against the keys up to their end."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        c = config
        self.scale = c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale
        std, out_std = 0.02, 0.02 / (2 * c.layers) ** 0.5

        def projection(heads: int) -> Linear:
            bias = (heads, c.head_dim) if c.qkv_bias else None
            return Linear("btd,hkd->bthk", (heads, c.head_dim, c.embed), bias, std, rngs)

        self.query = projection(c.heads)
        self.key = projection(c.key_heads)
        self.value = projection(c.key_heads)
        out_bias = (c.embed,) if c.attention_out_bias else None
        self.out = Linear("bthk,dhk->btd", (c.embed, c.heads, c.head_dim), out_bias, out_std, rngs)

    def __call__(
        self,
        x: Float32[Array, "b t d"],
        rotary: tuple[Float32[Array, "b t 1 r"], Float32[Array, "b t 1 r"]] | None,
        segments: Int[Array, "b t"],
        window: Int[Array, ""] | None,
        past: Past | None = None,
        distance: Int[Array, "b t past"] | None = None,
    ) -> tuple[Float32[Array, "b t d"], Past]:
        query, key, value = self.query(x) * self.scale, self.key(x), self.value(x)
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
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
            visible = attention_mask(segments[:, start:stop], segments[:, :stop], start, window)
            if distance is not None:
                near = distance[:, start:stop] < (UNSEEN if window is None else window)
                visible = jnp.concatenate([near, visible], axis=-1)
            keys = slice(before + stop)
            blocks.append(_attend(query[..., start:stop, :], key[:, :, keys], value[:, :, keys], visible))
        mixed = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=3)
        return self.out(jnp.moveaxis(mixed.reshape(b, h, t, k), 1, 2)), own


def _attend(
    query: Float[Array, "b g n q k"],
    key: Float[Array, "b g s k"],
    value: Float[Array, "b g s k"],
    visible: Bool[Array, "b q s"],
) -> Float32[Array, "b g n q k"]:
    """Softmax attention of the queries to the visible keys."""
    b, g, n, q, k = query.shape
    s = key.shape[2]
    scores = _matrix_product(query.reshape(b, g, n * q, k), key, 3).reshape(b, g, n, q, s)
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
        self.attention_norm = Norm(config)
        self.attention = Attention(config, rngs)
        self.mlp_norm = Norm(config)
        self.mlp = MLP(config, rngs)

    def __call__(
        self,
        x: Float32[Array, "b t d"],
        rotary: tuple[Float32[Array, "b t 1 r"], Float32[Array, "b t 1 r"]] | None,
        segments: Int[Array, "b t"],
        window: Int[Array, ""] | None,
    ) -> Float32[Array, "b t d"]:
        return self.read(x, rotary, segments, window)[0]

    def read(
        self,
        x: Float32[Array, "b t d"],
        rotary: tuple[Float32[Array, "b t 1 r"], Float32[Array, "b t 1 r"]] | None,
        segments: Int[Array, "b t"],
        window: Int[Array, ""] | None,
        past: Past | None = None,
        distance: Int[Array, "b t past"] | None = None,
    ) -> tuple[Float32[Array, "b t d"], Past]:
        """The layer's output, going on from its past, and its own keys and values."""
        mixed, own = self.attention(self.attention_norm(x), rotary, segments, window, past, distance)
        if self.parallel_residual:
            return x + mixed + self.mlp(self.mlp_norm(x)), own
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), own


class Decoder(nnx.Module):
    """A causal language model; layers are stacked along a leading axis and run with `jax.lax.scan`."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = (config.vocab, config.embed)
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
        self.final_norm = Norm(config)
        self.head = None if config.tied_head else nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

    @property
    def head_kernel(self) -> Float[Array, "vocab embed"]:
        """What hidden states are multiplied with to give logits."""
        return (self.embedding if self.head is None else self.head)[...]

    def __call__(
        self,
        tokens: Int[AnyArray, "b t"],
        positions: Int[AnyArray, "b t"],
        segments: Int[AnyArray, "b t"],
        past: Past | None = None,
        seen: Int[AnyArray, "b t"] | None = None,
    ) -> Float32[Array, "b t d"]:
        """Hidden states after the final norm.

        Args:
            tokens: ids.
            positions: of each token in its own document, its past included, from 0.
            segments: equal for the tokens of one document; each row's padding has a number of its own.
            past: what documents go on from; see `read`.
            seen: for each token how many first positions of the past its document goes on from.
        """
        return self._run(tokens, positions, segments, past, seen, keep=False)[0]

    def read(
        self,
        tokens: Int[AnyArray, "b t"],
        positions: Int[AnyArray, "b t"],
        segments: Int[AnyArray, "b t"],
        past: Past | None = None,
        seen: Int[AnyArray, "b t"] | None = None,
    ) -> tuple[Float32[Array, "b t d"], Past]:
        """Hidden states, as calling does, and the tokens' keys and values for what goes on from them."""
        hidden, own = self._run(tokens, positions, segments, past, seen, keep=True)
        assert own is not None
        return hidden, own

    def _run(
        self,
        tokens: Int[AnyArray, "b t"],
        positions: Int[AnyArray, "b t"],
        segments: Int[AnyArray, "b t"],
        past: Past | None,
        seen: Int[AnyArray, "b t"] | None,
        keep: bool,
    ) -> tuple[Float32[Array, "b t d"], Past | None]:
        config = self.config
        tokens, positions, segments = jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segments)
        distance = None
        if past is not None and seen is not None:
            distance = past_distance(positions, jnp.asarray(seen), past.key.shape[3])
        x = self.embedding[...][tokens].astype(jnp.float32)
        if self.positions is not None:
            x = x + self.positions[...][positions].astype(jnp.float32)
        rotary = rotary_tables(positions, config) if config.rotary_dim else None
        windows = None
        if config.windows is not None:
            windows = jnp.array([config.context if w is None else w for w in config.windows], jnp.int32)

        def layer(
            x: Float32[Array, "b t d"], inputs: tuple[Block, Int[Array, ""] | None, Past | None]
        ) -> tuple[Float32[Array, "b t d"], Past | None]:
            block, window, before = inputs
            x, own = block.read(x, rotary, segments, window, before, distance)
            return x, own if keep else None

        # XLA:CPU widens a stack of bfloat16 weights to float32 before it takes a layer at a run-time index, for every
        # batch; at indices that it knows it does not.
        unroll = self.embedding.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
        x, own = jax.lax.scan(layer, x, (self.blocks, windows, past), unroll=unroll)
        return self.final_norm(x), own

    def logits(
        self, tokens: Int[AnyArray, "b t"], positions: Int[AnyArray, "b t"], segments: Int[AnyArray, "b t"]
    ) -> Float32[Array, "b t vocab"]:
        """All logits, for tests and training of small models; scoring never makes this array."""
        return product("btd,vd->btv", self(tokens, positions, segments), self.head_kernel)

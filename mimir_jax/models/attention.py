"""Causal attention: what a token sees in packed rows, and the softmax over it.

Letters of axes: b row, t time, q query time, s key time, d embed, h heads, g key-value heads, n heads of a key-value
head, k head_dim.

Rows are *packed*: several documents lie one behind the other in a row, told apart by `segments`, and a token
attends only to its own document and, where there is one, to a `Past` that was read before: a prefix whose keys and
values are computed once for all that follows it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.layers import Linear, Norm, capped
from mimir_jax.models.rope import Rotary, rotate

UNSEEN = 1 << 30  # a distance beyond every window
QUERY_BLOCK = 128  # queries that share a slice of keys: the keys behind them are never multiplied


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


class HeadNorms(nnx.Module):
    """A norm of each head with a scale of its own; these are published apart from one another."""

    def __init__(self, config: DecoderConfig, heads: int):
        self.heads = nnx.List([Norm((config.head_dim,), shift=False, **config.norm_options) for _ in range(heads)])

    def __call__(self, x: Float32[Array, "b t h k"]) -> Float32[Array, "b t h k"]:
        scales = jnp.stack([norm.scale[...] for norm in self.heads if norm.scale is not None])
        return self.heads[0].normalize(x) * scales[None, None].astype(jnp.float32)


def _head_norm(c: DecoderConfig, heads: int) -> Norm | HeadNorms | None:
    """The norm of queries or of keys."""
    if c.qk_norm is None:
        return None
    if c.qk_norm == "heads":
        return HeadNorms(c, heads)
    if c.qk_norm == "head":
        return Norm((1, c.head_dim), **c.norm_options)
    return Norm((heads, c.head_dim), over=(-2, -1), **c.norm_options)


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
        rotary: Rotary | None,
        segments: Segments,
        window: Int[Array, ""] | None,
        past: Past | None = None,
        distance: Int[Array, "b t past"] | None = None,
        scale: Float32[Array, ""] | None = None,
        reach: int | None = None,
    ) -> tuple[Float32[Array, "b t d"], Past]:
        """The heads' mixed values, and the keys and values that they were taken from.

        Args:
            x: what the layer reads.
            rotary: tables of the positions, where they are told by rotation.
            segments: who sees whom in a row.
            window: how many tokens a token sees at most, itself included.
            past: what rows go on from.
            distance: of each token from each position of the past.
            scale: of the scores, beside the configured one.
            reach: no token sees another so many positions before it or more. Keys beyond it are not multiplied.
        """
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
        own = Past(key, value)
        blocks = []
        for first, start, stop in query_blocks(t, reach):
            visible = row_mask(segments, first, start, stop, window)
            seen = Past(key[:, :, first:stop], value[:, :, first:stop])
            if past is not None and distance is not None:
                near = distance[:, start:stop] < (UNSEEN if window is None else window)
                visible = jnp.concatenate([near, visible], axis=-1)
                seen = Past(
                    *(
                        jnp.concatenate([jnp.broadcast_to(old, (b, *old.shape[1:])), new], axis=2)
                        for old, new in zip(past, seen)
                    )
                )
            blocks.append(attend(query[..., start:stop, :], seen.key, seen.value, visible, self.softcap))
        mixed = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=3)
        return self.out(jnp.moveaxis(mixed.reshape(b, h, t, k), 1, 2)), own


def query_blocks(time: int, reach: int | None) -> list[tuple[int, int, int]]:
    """(first key, first query, end of both) of each block of queries; see `Attention`."""
    starts = range(0, time, QUERY_BLOCK)
    return [(max(start - (reach or time), 0), start, min(start + QUERY_BLOCK, time)) for start in starts]


def attend(
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


def row_mask(
    segments: Segments, first: int, start: int, stop: int, window: Int[Array, ""] | None
) -> Bool[Array, "b q s"]:
    """True where a query of [start, stop) may see a key of [first, stop)."""
    if not isinstance(segments, Tree):
        return attention_mask(segments[:, start:stop], segments[:, first:stop], start - first, window)
    own, trunk, seen, at = (x[:, start:stop, None] for x in segments)
    key, place = segments.segments[:, None, first:stop], segments.positions[:, None, first:stop]
    visible = ((own == key) & (place <= at)) | ((own != trunk) & (trunk == key) & (place < seen))
    return visible if window is None else visible & (at - place < window)


def attention_mask(
    query_segments: Int[Array, "b q"],
    key_segments: Int[Array, "b s"],
    start: int,
    window: Int[Array, ""] | None,
) -> Bool[Array, "b q s"]:
    """True where query i, which stands at key start + i, may see key j: same document, not after, within the window."""
    distance = start + jnp.arange(query_segments.shape[1])[:, None] - jnp.arange(key_segments.shape[1])[None]
    near = distance >= 0
    if window is not None:
        near &= distance < window
    return near[None] & (query_segments[:, :, None] == key_segments[:, None, :])


def past_distance(positions: Int[Array, "b t"], seen: Int[Array, "b t"], past: int) -> Int[Array, "b t past"]:
    """How far each token is from each position of the past; UNSEEN from the `seen` on, which it does not go on from."""
    index = jnp.arange(past)[None, None]
    return jnp.where(index < seen[..., None], positions[..., None] - index, UNSEEN)

"""One encoder-decoder transformer with relative positions in Flax NNX: T5 and its kin (Raffel et al. 2020).

Letters of axes: b row, q query time, s key time, d embed, h heads, k head_dim, v vocab. A row is one text and its
padding; the residual stream is float32 whatever the weights' dtype: see `layers`.
"""

from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from mimir_jax.arrays import AnyArray
from mimir_jax.models.decoder import AXES as SHARED_AXES
from mimir_jax.models.encoder import Activation
from mimir_jax.models.layers import MLP, Linear, Norm, product

AXES: dict[str, tuple[str, ...]] = {**SHARED_AXES, "distances": ("time", "heads")}
"""Logical axes of each parameter, by the end of its path."""

LOWEST = -1e30  # what hides a key; biases are added to it


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The shape of an encoder-decoder and the options that its forms differ in."""

    vocab: int
    layers: int
    decoder_layers: int
    embed: int
    heads: int
    head_dim: int
    mlp: int
    buckets: int = 32
    """Of distances, each with a bias of its own for every head."""
    farthest: int = 128
    """Distances from here on share a bucket."""
    norm_eps: float = 1e-6
    activation: Activation = "relu"
    gated_mlp: bool = False
    scaled_output: bool = True
    """What the head reads is multiplied with embed ** -0.5."""
    tied_head: bool = True


class KeyValue(NamedTuple):
    """Keys and values of what is attended to; with a leading axis of layers where it is of all of them."""

    key: Float[Array, "*layers b h s k"]
    value: Float[Array, "*layers b h s k"]


def distance_buckets(reach: int, both_ways: bool, config: Seq2SeqConfig) -> Int[np.ndarray, " distance"]:
    """Buckets of the distances key - query from -reach to reach.

    Half of the buckets are for one distance each, the other half for ranges that grow logarithmically. With
    `both_ways` the keys behind have buckets of their own; else all of them share that of distance 0.
    """
    buckets = config.buckets // 2 if both_ways else config.buckets
    distance = np.arange(-reach, reach + 1)
    behind = (distance > 0) * buckets if both_ways else 0
    far = np.abs(distance) if both_ways else np.maximum(-distance, 0)
    exact = buckets // 2
    with np.errstate(divide="ignore"):
        growth = np.log(far.astype(np.float32) / np.float32(exact)) / np.float32(log(config.farthest / exact))
    wide = exact + np.maximum(growth * np.float32(buckets - exact), 0).astype(np.int64)
    return np.asarray(behind + np.where(far < exact, far, np.minimum(wide, buckets - 1)), np.int32)


class BiasedAttention(nnx.Module):
    """Softmax attention without a scale, to which a bias of each head is added."""

    def __init__(self, config: Seq2SeqConfig, rngs: nnx.Rngs):
        c = config
        heads = (c.heads, c.head_dim)

        def projection() -> Linear:
            return Linear("btd,hkd->bthk", (*heads, c.embed), None, 0.02, rngs)

        self.query, self.key, self.value = projection(), projection(), projection()
        self.out = Linear("bthk,dhk->btd", (c.embed, *heads), None, 0.02, rngs)

    def read(self, x: Float32[Array, "b s d"]) -> KeyValue:
        """Keys and values of what is attended to."""
        dtype = self.query.kernel.dtype
        key, value = (jnp.moveaxis(y.astype(dtype), 2, 1) for y in (self.key(x), self.value(x)))
        return KeyValue(key, value)

    def __call__(
        self, x: Float32[Array, "b q d"], seen: KeyValue, bias: Float32[Array, "_ _ q s"]
    ) -> Float32[Array, "b q d"]:
        """What tokens `x` take from what they see; `bias` is very low where they do not."""
        query = jnp.moveaxis(self.query(x), 2, 1)
        scores = product("bhqk,bhsk->bhqs", query, seen.key) + bias
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = product("bhqs,bhsk->bhqk", weights, seen.value)
        return self.out(jnp.moveaxis(mixed, 1, 2))


class ReadingBlock(nnx.Module):
    """One layer of the encoder."""

    def __init__(self, config: Seq2SeqConfig, rngs: nnx.Rngs):
        c = config
        self.attention_norm = Norm((c.embed,), c.norm_eps, centered=False)
        self.attention = BiasedAttention(c, rngs)
        self.mlp_norm = Norm((c.embed,), c.norm_eps, centered=False)
        self.mlp = MLP(c.embed, c.mlp, c.activation, rngs, gated=c.gated_mlp, bias=False)

    def __call__(self, x: Float32[Array, "b s d"], bias: Float32[Array, "b h s s"]) -> Float32[Array, "b s d"]:
        read = self.attention_norm(x)
        x = x + self.attention(read, self.attention.read(read), bias)
        return x + self.mlp(self.mlp_norm(x))


class WritingBlock(nnx.Module):
    """One layer of the decoder."""

    def __init__(self, config: Seq2SeqConfig, rngs: nnx.Rngs):
        c = config
        self.attention_norm = Norm((c.embed,), c.norm_eps, centered=False)
        self.attention = BiasedAttention(c, rngs)
        self.cross_norm = Norm((c.embed,), c.norm_eps, centered=False)
        self.cross = BiasedAttention(c, rngs)
        self.mlp_norm = Norm((c.embed,), c.norm_eps, centered=False)
        self.mlp = MLP(c.embed, c.mlp, c.activation, rngs, gated=c.gated_mlp, bias=False)

    def __call__(
        self,
        x: Float32[Array, "b q d"],
        written: KeyValue,
        bias: Float32[Array, "1 h q s"],
        source: KeyValue,
        source_bias: Float32[Array, "b 1 1 t"],
        place: Int[Array, ""],
    ) -> tuple[Float32[Array, "b q d"], KeyValue]:
        """The layer's output, and `written` with the keys and values of `x` at `place`."""
        read = self.attention_norm(x)
        own = self.attention.read(read)
        written = KeyValue(*(jax.lax.dynamic_update_slice_in_dim(a, b, place, axis=2) for a, b in zip(written, own)))
        x = x + self.attention(read, written, bias)
        source_bias = jnp.broadcast_to(source_bias, (*source_bias.shape[:2], x.shape[1], source_bias.shape[3]))
        x = x + self.cross(self.cross_norm(x), source, source_bias)
        return x + self.mlp(self.mlp_norm(x)), written


class Stack(nnx.Module):
    """Layers along a leading axis, the biases of distances that all of them share, and the norm after them."""

    def __init__(
        self, config: Seq2SeqConfig, block: type[ReadingBlock] | type[WritingBlock], layers: int, rngs: nnx.Rngs
    ):
        @nnx.split_rngs(splits=layers)
        @nnx.vmap
        def blocks(rngs: nnx.Rngs) -> Any:
            return block(config, rngs)

        self.blocks = blocks(rngs)
        self.distances = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.buckets, config.heads)))
        self.final_norm = Norm((config.embed,), config.norm_eps, centered=False)

    def bias(self, buckets: Int[Array, "q s"]) -> Float32[Array, "1 h q s"]:
        """What is added to the scores at these distances."""
        return jnp.moveaxis(self.distances[...][buckets].astype(jnp.float32), 2, 0)[None]


class Seq2Seq(nnx.Module):
    """A text-to-text model."""

    def __init__(self, config: Seq2SeqConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (c.vocab, c.embed)))
        self.encoder = Stack(c, ReadingBlock, c.layers, rngs)
        self.decoder = Stack(c, WritingBlock, c.decoder_layers, rngs)
        self.head = None if c.tied_head else nnx.Param(0.02 * jax.random.normal(rngs.params(), (c.vocab, c.embed)))

    def words(self, tokens: Int[AnyArray, "b s"]) -> Float32[Array, "b s d"]:
        """Embeddings of tokens."""
        return self.embedding[...][jnp.asarray(tokens)].astype(jnp.float32)

    def read(self, tokens: Int[AnyArray, "b s"], real: Bool[AnyArray, "b s"]) -> KeyValue:
        """Of each layer of the decoder, the keys and values of the source.

        Args:
            tokens: ids, with what the tokenizer puts after a text.
            real: False on padding, which nothing sees.
        """
        return self.cross(self.encode(tokens, real))

    def encode(self, tokens: Int[AnyArray, "b s"], real: Bool[AnyArray, "b s"]) -> Float32[Array, "b s d"]:
        """Hidden states of the encoder; see `read`."""
        time = tokens.shape[1]
        places = np.arange(time)
        table = distance_buckets(time, True, self.config)
        bias = self.encoder.bias(jnp.asarray(table[places[None] - places[:, None] + time]))
        bias = bias + hidden_where(~jnp.asarray(real))
        x, _ = jax.lax.scan(lambda x, block: (block(x, bias), None), self.words(tokens), self.encoder.blocks)
        return self.encoder.final_norm(x)

    def cross(self, encoded: Float32[Array, "b s d"]) -> KeyValue:
        """Of each layer of the decoder, the keys and values of what the encoder gives."""
        _, source = jax.lax.scan(lambda _, block: (None, block.cross.read(encoded)), None, self.decoder.blocks)
        return source

    def empty(self, rows: int, steps: int) -> KeyValue:
        """Room for the keys and values of what is written."""
        c = self.config
        zeros = jnp.zeros((c.decoder_layers, rows, c.heads, steps, c.head_dim), self.embedding.dtype)
        return KeyValue(zeros, zeros)

    def write(
        self,
        tokens: Int[AnyArray, "b q"],
        place: Int[AnyArray, ""],
        written: KeyValue,
        source: KeyValue,
        real: Bool[AnyArray, "b t"],
    ) -> tuple[Float32[Array, "b q d"], KeyValue]:
        """Hidden states of the decoder for tokens from `place` on, and `written` with theirs.

        Args:
            tokens: ids; the first of all is that of padding.
            place: how many tokens were written before.
            written: from `empty` or the step before.
            source: from `read`.
            real: as for `read`.
        """
        steps, place = written.key.shape[3], jnp.asarray(place)
        table = jnp.asarray(distance_buckets(steps, False, self.config))
        distance = jnp.arange(steps)[None] - (place + jnp.arange(tokens.shape[1]))[:, None]
        bias = self.decoder.bias(table[distance + steps]) + jnp.where(distance > 0, LOWEST, 0.0)[None, None]
        source_bias = hidden_where(~jnp.asarray(real))

        def layer(
            x: Float32[Array, "b q d"], inputs: tuple[WritingBlock, KeyValue, KeyValue]
        ) -> tuple[Float32[Array, "b q d"], KeyValue]:
            block, before, seen = inputs
            return block(x, before, bias, seen, source_bias, place)

        x, written = jax.lax.scan(layer, self.words(tokens), (self.decoder.blocks, written, source))
        return self.decoder.final_norm(x), written

    def to_logits(self, hidden: Float32[Array, "b q d"]) -> Float32[Array, "b q v"]:
        """Logits of every token of the vocabulary."""
        x = hidden * self.config.embed**-0.5 if self.config.scaled_output else hidden
        return product("btd,vd->btv", x, (self.embedding if self.head is None else self.head)[...])


def hidden_where(hidden: Bool[Array, "b s"]) -> Float32[Array, "b 1 1 s"]:
    """A bias that hides keys of each row."""
    return jnp.where(hidden, LOWEST, 0.0)[:, None, None]

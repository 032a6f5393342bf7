"""One bidirectional transformer with a masked-model head in Flax NNX: BERT and its kin (Devlin et al. 2019).

Letters of axes: b row, t time, d embed, h heads, k head_dim, v vocab. A row is one document and its padding; the
residual stream is float32 whatever the weights' dtype: see `layers`.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float32, Int

from mimir_jax.arrays import AnyArray
from mimir_jax.models.attention import QUERY_BLOCK, attend
from mimir_jax.models.decoder import AXES as SHARED_AXES
from mimir_jax.models.layers import ACTIVATIONS, MLP, Linear, Norm, product

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]

AXES: dict[str, tuple[str, ...]] = {
    **SHARED_AXES,
    "token_type": ("embed",),
    "transform.kernel": ("embed", "embed"),
    "transform.bias": ("embed",),
}
"""Logical axes of each parameter, by the end of its path."""


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder and the options that families differ in."""

    vocab: int
    layers: int
    embed: int
    heads: int
    head_dim: int
    mlp: int
    context: int
    norm_eps: float = 1e-12
    activation: Activation = "gelu"
    head_activation: Activation = "gelu"
    token_types: int = 2
    """Published embeddings of types, of which every token of a single text has the first added; 0 is none."""


class SelfAttention(nnx.Module):
    """Softmax attention of tokens to all tokens of their row that are no padding."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        c = config
        heads, out_std = (c.heads, c.head_dim), 0.02 / (2 * c.layers) ** 0.5

        def projection() -> Linear:
            return Linear("btd,hkd->bthk", (*heads, c.embed), heads, 0.02, rngs)

        self.query, self.key, self.value = projection(), projection(), projection()
        self.out = Linear("bthk,dhk->btd", (c.embed, *heads), (c.embed,), out_std, rngs)

    def __call__(
        self, x: Float32[Array, "b q d"], read: Float32[Array, "b t d"], real: Bool[Array, "b t"]
    ) -> Float32[Array, "b q d"]:
        """What tokens `x` take from the tokens `read`."""
        query, key, value = self.query(x), self.key(read), self.value(read)
        query = query * query.shape[-1] ** -0.5
        query, key, value = (jnp.moveaxis(y.astype(self.query.kernel.dtype), 2, 1) for y in (query, key, value))
        query, blocks = query[:, :, None], []
        for start in range(0, query.shape[3], QUERY_BLOCK):  # scores of a few queries at a time stay in the cache
            part = query[..., start : start + QUERY_BLOCK, :]
            visible = jnp.broadcast_to(real[:, None], (real.shape[0], part.shape[3], real.shape[1]))
            blocks.append(attend(part, key, value, visible, None))
        return self.out(jnp.moveaxis(jnp.concatenate(blocks, axis=3)[:, :, 0], 1, 2))


class EncoderBlock(nnx.Module):
    """One layer: norm(x + f(x)) of attention and then of the MLP."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        c = config
        self.attention = SelfAttention(c, rngs)
        self.attention_norm = Norm((c.embed,), c.norm_eps)
        self.mlp = MLP(c.embed, c.mlp, c.activation, rngs, down_std=0.02 / (2 * c.layers) ** 0.5)
        self.mlp_norm = Norm((c.embed,), c.norm_eps)

    def __call__(
        self, x: Float32[Array, "b q d"], read: Float32[Array, "b t d"], real: Bool[Array, "b t"]
    ) -> Float32[Array, "b q d"]:
        """The layer's output at the tokens `x`, which are some of `read` or all of them."""
        x = self.attention_norm(x + self.attention(x, read, real))
        return self.mlp_norm(x + self.mlp(x))


class Encoder(nnx.Module):
    """A masked language model; layers are stacked along a leading axis."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        c = self.config = config

        def table(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        @nnx.split_rngs(splits=c.layers)
        @nnx.vmap
        def blocks(rngs: nnx.Rngs) -> EncoderBlock:
            return EncoderBlock(c, rngs)

        self.embedding, self.positions = table(c.vocab, c.embed), table(c.context, c.embed)
        self.token_type = table(c.embed) if c.token_types else None
        self.embedding_norm = Norm((c.embed,), c.norm_eps)
        self.blocks = blocks(rngs)
        self.transform = Linear("btd,ed->bte", (c.embed, c.embed), (c.embed,), 0.02, rngs)
        self.head_norm = Norm((c.embed,), c.norm_eps)
        self.head_bias = nnx.Param(jnp.zeros(c.vocab))

    def __call__(self, tokens: Int[AnyArray, "b t"], size: Int[AnyArray, " b"]) -> Float32[Array, "b t d"]:
        """Hidden states after the last layer.

        Args:
            tokens: ids, special tokens included; anything on padding, which follows the text.
            size: tokens of each row that are no padding.
        """
        return self.encode(self.embed(self.words(jnp.asarray(tokens))), jnp.asarray(size))

    def words(self, tokens: Int[Array, "b t"]) -> Float32[Array, "b t d"]:
        """Embeddings of tokens, wherever they stand."""
        return self.embedding[...][tokens].astype(jnp.float32)

    def embed(self, words: Float32[Array, "b t d"]) -> Float32[Array, "b t d"]:
        """What the first layer reads, of embeddings of tokens."""
        x = words + self.positions[None, : words.shape[1]].astype(jnp.float32)
        if self.token_type is not None:
            x = x + self.token_type[None, None].astype(jnp.float32)
        return self.embedding_norm(x)

    def encode(
        self, x: Float32[Array, "b t d"], size: Int[Array, " b"], place: Int[Array, " b"] | None = None
    ) -> Float32[Array, "b q d"]:
        """Hidden states after the last layer, of what the first reads: of all tokens or of one place of each row.

        At one place the last layer costs its keys and values alone.
        """
        real = jnp.arange(x.shape[1])[None] < size[:, None]
        layers = self.config.layers - (place is not None)
        # XLA:CPU widens a stack of bfloat16 weights to float32 before it takes a layer at a run-time index, for every
        # batch; at indices that it knows it does not.
        if self.embedding.dtype == jnp.bfloat16 and jax.default_backend() == "cpu":
            for index in range(layers):
                x = self._block(index)(x, x, real)
        else:
            x = jax.lax.fori_loop(0, layers, lambda index, x: self._block(index)(x, x, real), x)
        if place is None:
            return x
        return self._block(layers)(jnp.take_along_axis(x, place[:, None, None], axis=1), x, real)

    def _block(self, index: int | Int[Array, ""]) -> EncoderBlock:
        return jax.tree.map(lambda stacked: stacked[index], self.blocks)

    def to_logits(self, hidden: Float32[Array, "b q d"]) -> Float32[Array, "b q v"]:
        """The head, whose product is the table of words: logits of every token of the vocabulary."""
        activation = ACTIVATIONS[self.config.head_activation]
        x = self.head_norm(activation(self.transform(hidden)))
        return product("btd,vd->btv", x, self.embedding[...]) + self.head_bias[None, None].astype(jnp.float32)

"""One causal transformer in Flax NNX; what families differ in are fields of its config.

Letters of axes: b row, t time, d embed, e token_embed, r pairs of rotated dimensions. Rows are packed: see
`attention`. The residual stream is float32 whatever the weights' dtype: see `layers`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from mimir_jax.arrays import AnyArray
from mimir_jax.models.attention import Attention, Past, Segments, Tree, past_distance
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.layers import MLP, Linear, Norm, capped, product
from mimir_jax.models.rope import Rotary, rotary_frequencies

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


def parameter_axes(path: str, table: Mapping[str, tuple[str, ...]] = AXES) -> tuple[str, ...]:
    """Logical axes of the parameter at a dotted path, such as `blocks.attention.query.kernel`."""
    axes = next(axes for end, axes in table.items() if path == end or path.endswith("." + end))
    return ("layers", *axes) if "blocks" in path.split(".") else axes


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


class Block(nnx.Module):
    """One layer."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        c = config
        self.parallel_residual = c.parallel_residual
        self.shared_norm, self.norm_sum = c.shared_norm, c.norm_place == "sum"
        before, after = c.norm_place in ("before", "both"), c.norm_place != "before"

        def norm(wanted: bool) -> Norm | None:
            return Norm((c.embed,), **c.norm_options) if wanted else None

        self.attention_norm = norm(before)
        self.attention = Attention(c, rngs)
        self.attention_out_norm = norm(after)
        self.mlp_norm = norm(before and not c.shared_norm)
        down_std = 0.02 / (2 * c.layers) ** 0.5
        self.mlp = MLP(c.embed, c.mlp, c.activation, rngs, gated=c.gated_mlp, bias=c.mlp_bias, down_std=down_std)
        self.mlp_out_norm = norm(after)

    def __call__(
        self,
        x: Float32[Array, "b t d"],
        rotary: Rotary | None,
        segments: Segments,
        window: Int[Array, ""] | None,
        scale: Float32[Array, ""] | None = None,
    ) -> Float32[Array, "b t d"]:
        return self.read(x, rotary, segments, window, scale=scale)[0]

    def read(
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
        """The layer's output, going on from its past, and its own keys and values; `LayerKind` has window and scale."""
        read = _normed(self.attention_norm, x)
        mixed, own = self.attention(read, rotary, segments, window, past, distance, scale, reach)
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


class Layers(NamedTuple):
    """How stacked layers are run.

    Attributes:
        platform: that they are compiled for, such as "cpu".
        whole: what is done to a layer's weights before they are used: parts that lie elsewhere are fetched.
        rows: what is done to a layer's input: it is kept where its rows are.
        reach: no token sees another so many positions before it or more; see `Attention`.
    """

    platform: str
    whole: Callable[[Block], Block] = lambda block: block
    rows: Callable[[Float32[Array, "b t d"]], Float32[Array, "b t d"]] = lambda x: x
    reach: int | None = None


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
        self.final_norm = Norm((config.embed,), **config.norm_options) if config.final_norm else None
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
        layers: Layers | None = None,
    ) -> Float32[Array, "b t d"]:
        """Hidden states after the final norm.

        Args:
            tokens: ids.
            positions: of each token in its own document, its past included, from 0.
            segments: equal for the tokens of one document; each row's padding has a number of its own.
            past: what documents go on from; see `read`.
            seen: for each token how many first positions of the past, or of its trunk, its document goes on from.
            trunks: for each token the segment of its row that its own goes on from; see `Tree`.
            layers: how they are run where not as the default backend likes it.
        """
        positions, segments = jnp.asarray(positions), jnp.asarray(segments)
        tree: Segments = segments
        distance = None
        if past is not None and seen is not None:
            distance = past_distance(positions, jnp.asarray(seen), past.key.shape[3])
        if trunks is not None and seen is not None:
            tree = Tree(segments, jnp.asarray(trunks), jnp.asarray(seen), positions)
        return self._run(tokens, positions, tree, past, distance, keep=False, layers=layers)[0]

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
        layers: Layers | None = None,
    ) -> tuple[Float32[Array, "b t d"], Past | None]:
        config = self.config
        layers = Layers(jax.default_backend()) if layers is None else layers
        rotary = rotary_tables(positions, config)

        def layer(
            x: Float32[Array, "b t d"], inputs: tuple[Block, LayerKind, Past | None]
        ) -> tuple[Float32[Array, "b t d"], Past | None]:
            block, kind, before = inputs
            block, x = layers.whole(block), layers.rows(x)
            turned = layer_rotary(rotary, kind)
            x, own = block.read(x, turned, segments, kind.window, before, distance, kind.scale, layers.reach)
            return x, own if keep else None

        # XLA:CPU widens a stack of bfloat16 weights to float32 before it takes a layer at a run-time index, for every
        # batch; at indices that it knows it does not.
        unroll = self.embedding.dtype == jnp.bfloat16 and layers.platform == "cpu"
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

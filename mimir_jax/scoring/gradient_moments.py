"""The gradient of a document's nll as three numbers a tensor, without ever holding a gradient of the model.

Layers are scanned, and what the backward pass finds for one layer's weights is reduced at once (`watch`). The head
goes over tiles of the vocabulary, as the statistics do: no [vocab, embed] gradient ever, and no [time, vocab] array
where memory is short. Padding has no weight in the nll and is attended to by nothing that has, so it contributes
exact zeros.

All of it is float32. Weights in bfloat16 are widened a layer, or a tile of the head, at a time: these are gradients
in the rounded weights without further rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int

from mimir_jax.arrays import AnyArray
from mimir_jax.models.decoder import Block, Decoder, layer_kinds, layer_rotary, rotary_tables
from mimir_jax.models.layers import capped, product
from mimir_jax.parallel.mesh import partition

TILE = 1600  # columns of the head, about: a tile's gradient stays in a CPU's cache
NORMS = (1.0, 2.0, float("inf"))  # the norm axis, p by p

Groups = tuple[tuple[str, ...], ...]
"""Paths of the parameters that make up each published tensor."""


class DocumentArrays(NamedTuple):
    """A micro-batch: every document in rows of its own, one a window.

    Attributes:
        tokens: ids, 0 on padding.
        positions: of each token in its window.
        segments: 0; padding is a segment of its own.
        targets: the id that follows each token.
        weights: share of the following token in the document's nll: 1 / scored tokens, or 0.
        slots: equal for equal ids of one document, from 0.
    """

    tokens: Int[AnyArray, "*batch window time"]
    positions: Int[AnyArray, "*batch window time"]
    segments: Int[AnyArray, "*batch window time"]
    targets: Int[AnyArray, "*batch window time"]
    weights: Float[AnyArray, "*batch window time"]
    slots: Int[AnyArray, "*batch window time"]


# Gradients as three numbers a tensor: sum of |g|, sum of g^2, largest |g|.


def moments(gradient: Float32[Array, "..."]) -> Float32[Array, "3"]:
    """Sum of absolute values, sum of squares and largest absolute value."""
    size = jnp.abs(gradient)
    return jnp.stack([jnp.sum(size), jnp.sum(gradient * gradient), jnp.max(size)])


def add_moments(*parts: Float32[Array, "*batch 3"]) -> Float32[Array, "*batch 3"]:
    """Of the parts of one tensor, taken together."""
    stacked = jnp.stack(parts)
    return jnp.concatenate([jnp.sum(stacked[..., :2], axis=0), jnp.max(stacked[..., 2:], axis=0)], axis=-1)


@jax.custom_vjp
def watch(parameter: Float32[Array, "..."], probe: Float32[Array, "3"]) -> Float32[Array, "..."]:
    """The parameter itself, and what it is differentiated by instead: "the gradient" of the probe, whose value is not
    used, are the moments of the parameter's gradient, which itself goes no further.
    """
    return parameter


watch.defvjp(lambda parameter, probe: (parameter, None), lambda _, gradient: (None, moments(gradient)))


def _bits(x: Float[Array, "..."]) -> Array:
    """bfloat16 as integers: XLA:CPU would widen a whole array before it takes a part at a run-time index."""
    narrow = x.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if narrow else x


def _widened(bits: Array) -> Float32[Array, "..."]:
    x = jax.lax.bitcast_convert_type(bits, jnp.bfloat16) if bits.dtype == jnp.uint16 else bits
    return x.astype(jnp.float32)


def _split(module: nnx.Module) -> tuple[dict[str, Array], Callable[[dict[str, Array]], Any]]:
    """A module's parameters by dotted path, and the way back."""
    graph, state = nnx.split(module)
    flat = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}

    def build(values: dict[str, Array]) -> Any:
        leaves = [(path, leaf.replace(values[name])) for name, (path, leaf) in flat.items()]
        return nnx.merge(graph, nnx.from_flat_state(leaves))

    return {name: leaf[...] for name, (_, leaf) in flat.items()}, build


def document_moments(
    decoder: Decoder, arrays: DocumentArrays, mesh: Mesh, keep: bool
) -> dict[str, Float32[Array, "*layers 3"]]:
    """Moments of the gradient of one document's nll by path of the parameter; those of blocks a layer each."""
    config = decoder.config
    tokens, positions, segments, targets, weights, slots = (jnp.asarray(x) for x in arrays)
    rotary = rotary_tables(positions, config)
    layers, build_block = _split(decoder.blocks)
    parameters, build_decoder = _split(decoder)
    last = [name for name in parameters if name.startswith(("final_norm.", "project_out."))]
    bits = {name: _bits(x) for name, x in layers.items()}

    def layer(x: Float32[Array, "w t d"], inputs: tuple[Any, Any, Any]) -> tuple[Float32[Array, "w t d"], None]:
        stored, probes, kind = inputs
        block: Block = build_block({name: watch(_widened(stored[name]), probes[name]) for name in stored})
        tables = layer_rotary(rotary, kind)
        if x.shape[0] == 1:
            return block(x, tables, segments, kind.window, kind.scale), None

        @partial(jax.checkpoint, prevent_cse=False)
        def one_window(row: tuple[Any, Any, Any]) -> Float32[Array, "t d"]:
            x, tables, segments = jax.tree.map(lambda y: y[None], row)
            return block(x, tables, segments, kind.window, kind.scale)[0]

        return jax.lax.map(one_window, (x, tables, segments)), None

    policy = jax.checkpoint_policies.dots_saveable if keep else None
    layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)

    def body(
        x: Float32[Array, "w t d"], layer_probes: dict[str, Array], last_probes: dict[str, Array]
    ) -> Float32[Array, "w t e"]:
        x, _ = jax.lax.scan(layer, x, (bits, layer_probes, layer_kinds(config)))
        watched = {name: watch(_widened(parameters[name]), last_probes[name]) for name in last}
        return build_decoder(parameters | watched).finish(x)

    x = decoder.embed(tokens, positions)
    layer_probes = {name: jnp.zeros((config.layers, 3)) for name in layers}
    found: dict[str, Array] = {}
    hidden, pull = jax.vjp(body, x, layer_probes, {name: jnp.zeros(3) for name in last})

    # Tiles of a split vocabulary are cut within each device's share, which only a shard_map can say.
    head, softcap = Head(decoder.head_kernel, decoder.head_shift), config.logit_softcap
    axis = partition(mesh, ("vocab", "embed"), head.kernel.shape)[0]
    head_spec = Head(P(axis, None), None if head.bias is None else P(axis))  # type: ignore[arg-type]
    state_spec = HeadState(P(), P(None, None, axis) if keep else None)  # type: ignore[arg-type]
    over_vocab = partial(jax.shard_map, mesh=mesh, check_vma=False)
    predictions = Predictions(*(x.reshape(-1, *x.shape[2:]) for x in (hidden, targets, weights)))
    state = over_vocab(
        partial(head_state, axis_name=axis, softcap=softcap, keep=keep), in_specs=(P(), head_spec), out_specs=state_spec
    )(predictions, head)

    def over_head(function: Callable[..., Any], *more: Array) -> Any:
        specs = (P(), state_spec, head_spec, *(P() for _ in more))
        return over_vocab(partial(function, axis_name=axis, softcap=softcap), in_specs=specs, out_specs=P())(
            predictions, state, head, *more
        )

    hidden_gradient, of_kernel, of_bias = over_head(partial(head_gradients, of_kernel=not config.tied_head))
    found |= {} if config.tied_head else {"head": of_kernel}
    found |= {} if of_bias is None else {"head_bias": of_bias}
    x_gradient, of_layers, of_last = pull(hidden_gradient.reshape(hidden.shape))
    found |= {f"blocks.{name}": value for name, value in of_layers.items()}
    found |= of_last
    if decoder.positions is not None:
        found["positions"] = moments(jnp.sum(x_gradient, axis=0))  # a window's positions are 0, 1, 2, ...
    rows = x_gradient.reshape(-1, config.embed)
    if decoder.project_in is not None:
        embedded = decoder.embedding[...][tokens.reshape(-1)].astype(jnp.float32)
        found["project_in.kernel"] = moments(product("nd,ne->de", rows, embedded))
        rows = product("nd,de->ne", rows, decoder.project_in.kernel[...].astype(jnp.float32))
    if config.embedding_scale is not None:
        rows = rows * config.embedding_scale
    if config.tied_head:
        found["embedding"] = over_head(tied_moments, tokens.reshape(-1), rows)
    else:
        found["embedding"] = moments(jax.ops.segment_sum(rows, slots.reshape(-1), rows.shape[0]))
    return found


# The head, a tile of the vocabulary at a time.


class Predictions(NamedTuple):
    """All positions of a document.

    Attributes:
        hidden: states that predict.
        targets: ids to be predicted.
        weights: share of each in the nll.
    """

    hidden: Float32[Array, "n embed"]
    targets: Int[Array, " n"]
    weights: Float32[Array, " n"]


class Head(NamedTuple):
    """What gives logits, or this device's share of its rows."""

    kernel: Float[Array, "vocab embed"]
    bias: Float32[Array, " vocab"] | None


class HeadState(NamedTuple):
    """What the forward pass leaves.

    Attributes:
        log_weight: log of the sum of all exp(logits).
        logits: of each tile, where they are kept; -inf in columns that an earlier tile has too.
    """

    log_weight: Float32[Array, " n"]
    logits: Float32[Array, "tiles n tile"] | None


class _Tile(NamedTuple):
    """Rows of the head; the last tile begins with some that the one before it has too: `fresh` says which not."""

    kernel: Float32[Array, "tile embed"]
    bias: Float32[Array, " tile"] | None
    start: Int[Array, ""]
    fresh: Bool[Array, " tile"]

    def logits(self, hidden: Float32[Array, "n embed"], softcap: float | None) -> Float32[Array, "n tile"]:
        logits = product("nd,vd->nv", hidden, self.kernel)
        logits = capped(logits if self.bias is None else logits + self.bias[None], softcap)
        return jnp.where(self.fresh[None], logits, -jnp.inf)


def _over_tiles(
    step: Callable[[Any, _Tile, Any], tuple[Any, Any]], carry: Any, head: Head, inputs: Any
) -> tuple[Any, Any]:
    """`jax.lax.scan` over tiles of the head, all of one size."""
    vocab, bits = head.kernel.shape[0], _bits(head.kernel)
    count = -(-vocab // TILE)
    size = -(-vocab // count)

    def body(carry: Any, inputs: tuple[Int[Array, ""], Any]) -> tuple[Any, Any]:
        number, given = inputs
        start = jnp.minimum(number * size, vocab - size)
        rows = _widened(jax.lax.dynamic_slice_in_dim(bits, start, size))
        fresh = start + jnp.arange(size, dtype=jnp.int32) >= number * size
        bias = None if head.bias is None else jax.lax.dynamic_slice_in_dim(head.bias, start, size)
        return step(carry, _Tile(rows, bias, start, fresh), given)

    return jax.lax.scan(body, carry, (jnp.arange(count, dtype=jnp.int32), inputs))


def head_state(
    predictions: Predictions,
    head: Head,
    axis_name: str | None,
    softcap: float | None,
    keep: bool,
) -> HeadState:
    """The forward pass, over this device's share of the head's rows (see `vocab_stats`)."""
    n = len(predictions.targets)

    def step(carry: tuple[Array, Array], tile: _Tile, _: None) -> tuple[tuple[Array, Array], Array | None]:
        peak, weight = carry
        logits = tile.logits(predictions.hidden, softcap)
        larger = jnp.maximum(peak, jnp.max(logits, axis=-1))
        weight = weight * jnp.exp(peak - larger) + jnp.sum(jnp.exp(logits - larger[:, None]), axis=-1)
        return (larger, weight), logits if keep else None

    (peak, weight), logits = _over_tiles(step, (jnp.full(n, -jnp.inf), jnp.zeros(n)), head, None)
    if axis_name is not None:
        largest = jax.lax.pmax(peak, axis_name)
        weight, peak = jax.lax.psum(weight * jnp.exp(peak - largest), axis_name), largest
    return HeadState(peak + jnp.log(weight), logits)


def _errors(
    predictions: Predictions,
    state: HeadState,
    tile: _Tile,
    logits: Array | None,
    first: Int[Array, ""] | int,
    softcap: float | None,
) -> Float32[Array, "n tile"]:
    """The gradient of the nll in a tile's uncapped logits; `first` is the id of this device's first row."""
    logits = tile.logits(predictions.hidden, softcap) if logits is None else logits
    index = first + tile.start + jnp.arange(len(tile.fresh), dtype=jnp.int32)
    hit = (index[None] == predictions.targets[:, None]) & tile.fresh[None]
    errors = (jnp.exp(logits - state.log_weight[:, None]) - hit.astype(jnp.float32)) * predictions.weights[:, None]
    if softcap is None:
        return errors
    return jnp.where(tile.fresh[None], errors * (1.0 - (logits / softcap) ** 2), 0.0)


def _first_row(head: Head, axis_name: str | None) -> Int[Array, ""] | int:
    return 0 if axis_name is None else jax.lax.axis_index(axis_name) * head.kernel.shape[0]


def head_gradients(
    predictions: Predictions,
    state: HeadState,
    head: Head,
    axis_name: str | None,
    softcap: float | None,
    of_kernel: bool = True,
) -> tuple[Float32[Array, "n embed"], Float32[Array, "3"], Float32[Array, "3"] | None]:
    """The gradient of the nll in the hidden states, and the moments of those in the kernel (0 without `of_kernel`) and
    in the bias.
    """
    first = _first_row(head, axis_name)

    def step(carry: tuple[Any, Any, Any], tile: _Tile, logits: Array | None) -> tuple[tuple[Any, Any, Any], None]:
        hidden_gradient, found, of_bias = carry
        errors = _errors(predictions, state, tile, logits, first, softcap)
        hidden_gradient = hidden_gradient + product("nv,vd->nd", errors, tile.kernel)
        if of_kernel:
            found = add_moments(found, moments(product("nv,nd->vd", errors, predictions.hidden)))
        if of_bias is not None:
            of_bias = add_moments(of_bias, moments(jnp.sum(errors, axis=0)))
        return (hidden_gradient, found, of_bias), None

    carry = (jnp.zeros_like(predictions.hidden), jnp.zeros(3), None if head.bias is None else jnp.zeros(3))
    (hidden_gradient, found, of_bias), _ = _over_tiles(step, carry, head, state.logits)
    if axis_name is not None:
        hidden_gradient = jax.lax.psum(hidden_gradient, axis_name)
    of_bias = None if of_bias is None else _over_devices(of_bias, axis_name)
    return hidden_gradient, _over_devices(found, axis_name), of_bias


def tied_moments(
    predictions: Predictions,
    state: HeadState,
    head: Head,
    tokens: Int[Array, " n"],
    rows: Float32[Array, "n embed"],
    axis_name: str | None,
    softcap: float | None,
) -> Float32[Array, "3"]:
    """Moments of the gradient in a kernel that is head and embedding; `rows` are gradients of the embedded tokens."""
    first = _first_row(head, axis_name)

    def step(found: Array, tile: _Tile, logits: Array | None) -> tuple[Array, None]:
        errors = _errors(predictions, state, tile, logits, first, softcap)
        gradient = product("nv,nd->vd", errors, predictions.hidden)
        place = tokens - first - tile.start
        size = len(tile.fresh)
        here = (place >= 0) & (place < size) & tile.fresh[jnp.clip(place, 0, size - 1)]
        gradient = gradient.at[jnp.where(here, place, size)].add(rows, mode="drop")
        return add_moments(found, moments(gradient)), None

    found, _ = _over_tiles(step, jnp.zeros(3), head, state.logits)
    return _over_devices(found, axis_name)


def _over_devices(found: Float32[Array, "3"], axis_name: str | None) -> Float32[Array, "3"]:
    if axis_name is None:
        return found
    sums, largest = jax.lax.psum(found[:2], axis_name), jax.lax.pmax(found[2:], axis_name)
    return jnp.concatenate([sums, largest])


# From moments to norms.


def mean_norms(found: dict[str, Float32[Array, "*layers 3"]], groups: Groups) -> Float32[Array, "norm"]:
    """Mean over published tensors of their p-norms, in the order of `NORMS`."""
    tensors = jnp.concatenate([add_moments(*(found[path] for path in paths)).reshape(-1, 3) for paths in groups])
    return jnp.mean(jnp.stack([tensors[:, 0], jnp.sqrt(tensors[:, 1]), tensors[:, 2]]), axis=-1)


def _batch_norms(
    decoder: Decoder, arrays: DocumentArrays, mesh: Mesh, groups: Groups, keep: bool
) -> Float32[Array, "doc norm"]:
    """Norms of each document of a micro-batch; documents are split over `data`, weights over `model`."""

    def one_document(arrays: DocumentArrays) -> Float32[Array, "norm"]:
        return mean_norms(document_moments(decoder, arrays, mesh, keep), groups)

    return jax.vmap(one_document, spmd_axis_name="data")(arrays)


batch_norms = jax.jit(_batch_norms, static_argnums=(2, 3, 4))
batch_norms_of_models = jax.jit(jax.vmap(_batch_norms, in_axes=(0, None, None, None, None)), static_argnums=(2, 3, 4))

"""Trains a Decoder on documents: packed rows, AdamW, one compiled step, sharded like scoring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int

from mimir_jax.models.decoder import Decoder, parameter_axes
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.parallel.mesh import sharding_of
from mimir_jax.scoring.batching import GRAIN, Batch, BatchArrays, Piece, batch_arrays, pack_rows, spans
from mimir_jax.scoring.passes import Pass, document_passes

UNDECAYED = ("bias", ".scale", ".shift")  # ends of the paths of parameters that have no weight decay


@dataclass(frozen=True)
class TrainConfig:
    """The recipe: AdamW (Loshchilov and Hutter 2019) with linear warmup and cosine decay to 0."""

    epochs: int
    """Times that every document is read."""
    batch_tokens: int = 4096
    """Token positions of a step, over all devices, about."""
    learning_rate: float = 2e-3
    """At the end of the warmup."""
    warmup: float = 0.05
    """Share of all steps."""
    weight_decay: float = 0.1
    """Of embeddings and matrices; biases and norms have none."""
    adam_b2: float = 0.95
    clip_norm: float = 1.0
    """Largest global norm of a step's gradient."""
    seed: int = 0
    """Of the initial weights and of the order of documents."""


class TrainBatch(NamedTuple):
    """A batch, which of its targets are real, and how many those are."""

    arrays: BatchArrays
    mask: Bool[Array | np.ndarray, "row source"]
    total: Float32[Array | np.ndarray, ""]


BATCH_SPECS = TrainBatch._make([P("data"), P("data"), P()])


class TrainState(NamedTuple):
    """What a step reads and replaces."""

    decoder: Decoder
    optimizer: optax.OptState


OnEpoch = Callable[[int, Decoder, float], None]


def train(
    config: DecoderConfig,
    documents: Sequence[Int[np.ndarray, " _"]],
    recipe: TrainConfig,
    mesh: Mesh,
    on_epoch: OnEpoch = lambda epoch, decoder, mean_loss: None,
) -> Decoder:
    """A Decoder trained from its random initialization, in float32.

    Args:
        config: its shape.
        documents: ids of each, read as scoring reads them: no token is added, and those beyond the context are
            cut into windows that predict every token once.
        recipe: how to train.
        mesh: devices; a batch is split over `data`, the weights over `model`.
        on_epoch: called after each epoch with its number from 1, the model and the epoch's mean loss in nats per
            predicted token. The next step takes the model's memory: copy or save it during the call.

    Raises:
        ValueError: no document has two tokens.
    """
    passes = [one for ids in documents for one in document_passes([], ids.tolist(), config.context)]
    ways = mesh.shape["data"]
    steps = sum(len(epoch_batches(passes, recipe, epoch, ways)) for epoch in range(1, recipe.epochs + 1))
    if not steps:
        raise ValueError("nothing to train on: no document has two tokens, or epochs is 0")
    optimizer = make_optimizer(recipe, steps)
    state, shardings = init_state(config, optimizer, recipe.seed, mesh)
    step = jax.jit(partial(train_step, optimizer, mesh), donate_argnums=0, out_shardings=(shardings, None))
    placement = jax.tree.map(lambda spec: NamedSharding(mesh, spec), BATCH_SPECS)
    for epoch in range(1, recipe.epochs + 1):
        losses, totals = [], []
        for batch in epoch_batches(passes, recipe, epoch, ways):
            arrays = train_batch(batch, passes)
            state, loss = step(state, jax.device_put(arrays, placement))
            losses.append(loss)
            totals.append(arrays.total)
        # Fetched once an epoch, so that the next batch is laid out while a step computes.
        on_epoch(epoch, state.decoder, float(np.average(jax.device_get(losses), weights=totals)))
    return state.decoder


def epoch_batches(passes: Sequence[Pass], recipe: TrainConfig, epoch: int, ways: int) -> list[Batch]:
    """The batches of an epoch (from 1), all of one shape: a pure function of the arguments.

    Scoring's plan puts similar lengths together and takes rows as long as makes them full. Here the order must be
    random, and attention's backward pass, which grows with the row, decides: rows are as short as the longest pass
    allows, and the passes fall into them in random order, each into the fullest one that it fits.

    Args:
        passes: what to read; those of less than two tokens are left out.
        recipe: its batch_tokens and seed are used.
        epoch: which.
        ways: devices that a batch's rows are split over.
    """
    rng = np.random.default_rng((recipe.seed, epoch))
    order = [int(i) for i in rng.permutation(len(passes)) if passes[i].sources]
    if not order:
        return []
    time = -(-max(len(passes[i]) for i in order) // GRAIN) * GRAIN
    rows = [[(order[i], at) for i, at in row] for row in pack_rows([len(passes[i]) for i in order], time)]
    rows_per_batch = max(recipe.batch_tokens // (time * ways), 1) * ways
    # Shuffled because the rows begun last are the emptiest; split evenly so that no step sees much less than others.
    shares = np.array_split(rng.permutation(len(rows)), -(-len(rows) // rows_per_batch))
    return [
        Batch(
            rows_per_batch,
            time,
            time,
            tuple(Piece(i, row, offset, offset) for row, number in enumerate(share) for i, offset in rows[number]),
        )
        for share in shares
    ]


def train_batch(batch: Batch, passes: Sequence[Pass]) -> TrainBatch:
    """The arrays of a batch, with a mask that is True on real targets."""
    mask = np.zeros((batch.rows, batch.sources), bool)
    for _, row, place in spans(batch, passes):
        mask[row, place] = True
    return TrainBatch(batch_arrays(batch, passes), mask, np.array(mask.sum(), np.float32))


def mean_loss(decoder: Decoder, batch: TrainBatch) -> Float32[Array, ""]:
    """Mean of -log p(x_t | x_<t) over the batch's real targets; of some of its rows, their share of that mean.

    It makes all logits [row, source, vocab], as the gradient would anyway: meant for vocabularies of some thousands.
    """
    arrays = batch.arrays
    hidden = decoder(arrays.tokens, arrays.positions, arrays.segments)
    hidden = jnp.take_along_axis(hidden, arrays.source_index[..., None], axis=1)
    logits = decoder.to_logits(hidden)
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, arrays.targets)
    return jnp.sum(nll, where=batch.mask) / batch.total


def make_optimizer(recipe: TrainConfig, steps: int) -> optax.GradientTransformation:
    """Clipping and AdamW; the learning rate rises from 0 over the warmup and falls to 0 at the last of `steps`."""
    warmup = max(round(recipe.warmup * steps), 1)
    schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, warmup, max(steps, warmup + 1))

    def decayed(decoder: Decoder) -> Decoder:
        return jax.tree.map_with_path(lambda path, _: not _dotted(path).endswith(UNDECAYED), decoder)

    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(schedule, b2=recipe.adam_b2, weight_decay=recipe.weight_decay, mask=decayed),
    )


def init_state(
    config: DecoderConfig, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> tuple[TrainState, TrainState]:
    """Random weights and zero moments, made where they stay, and the sharding of each array."""

    def init() -> TrainState:
        decoder = Decoder(config, rngs=nnx.Rngs(seed))
        return TrainState(decoder, optimizer.init(decoder))

    abstract = jax.eval_shape(init)
    place = sharding_of(mesh)
    decoder = jax.tree.map_with_path(
        lambda path, leaf: place(parameter_axes(_dotted(path)), leaf.shape), abstract.decoder
    )
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        abstract.optimizer,
        decoder,
        transform_non_params=lambda _: NamedSharding(mesh, P()),
    )
    shardings = TrainState(decoder, moments)
    return jax.jit(init, out_shardings=shardings)(), shardings


def train_step(
    optimizer: optax.GradientTransformation, mesh: Mesh, state: TrainState, batch: TrainBatch
) -> tuple[TrainState, Float32[Array, ""]]:
    """One update, and the loss before it."""

    # The sums over `data` wait for all those over `model`: the compiler leaves independent ones unordered, and the
    # CPU backend, whose devices may then start different ones, would wait forever.
    @partial(
        jax.shard_map,
        mesh=mesh,
        axis_names={"data"},
        in_specs=(P(), BATCH_SPECS),
        out_specs=P(),
        check_vma=False,
    )
    def loss_and_gradient(decoder: Decoder, batch: TrainBatch) -> tuple[Float32[Array, ""], Decoder]:
        shares = jax.value_and_grad(mean_loss)(decoder, batch)
        return jax.lax.psum(jax.lax.optimization_barrier(shares), "data")

    loss, gradient = loss_and_gradient(state.decoder, batch)
    updates, moments = optimizer.update(gradient, state.optimizer, state.decoder)
    return TrainState(optax.apply_updates(state.decoder, updates), moments), loss


def _dotted(path: tuple[Any, ...]) -> str:
    """A parameter's path, without the Variable's own `value` at its end."""
    return jax.tree_util.keystr(path[:-1], simple=True, separator=".")

"""Trains a Decoder on documents: packed rows, AdamW, one compiled step, sharded like scoring.

`masked` trains an Encoder by the same loop, for another objective.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int, Key

from mimir_jax.models.decoder import Decoder, parameter_axes
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.encoder import Encoder, EncoderConfig
from mimir_jax.parallel.mesh import sharding_of
from mimir_jax.scoring.batching import GRAIN, Batch, BatchArrays, Piece, batch_arrays, pack_rows, spans
from mimir_jax.scoring.passes import Pass, document_passes
from mimir_jax.training.progress import SECONDS, Curve, Recorder, StateFolder

UNDECAYED = ("bias", ".scale", ".shift")  # ends of the paths of parameters that have no weight decay


@dataclass(frozen=True)
class TrainConfig:
    """The recipe: AdamW (Loshchilov and Hutter 2019) with linear warmup and a schedule after it."""

    epochs: int
    """Times that every document is read."""
    batch_tokens: int = 4096
    """Token positions of a step, over all devices, about."""
    learning_rate: float = 2e-3
    """At the end of the warmup."""
    warmup: float = 0.05
    """Share of all steps."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate after the warmup: down to 0 at the last step, or as it is, which makes the model after an
    epoch the one that a shorter run would end with, but for the warmup's length."""
    weight_decay: float = 0.1
    """Of embeddings and matrices; biases and norms have none."""
    adam_b2: float = 0.95
    """Decay of the running mean of squared gradients."""
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

Shape = DecoderConfig | EncoderConfig
Network = Decoder | Encoder
Loss = Callable[[Any, TrainBatch], Float32[Array, ""]]


class TrainState(NamedTuple):
    """What a step reads and replaces."""

    decoder: Network
    optimizer: optax.OptState


class Objective(NamedTuple):
    """What is trained, and for what.

    Attributes:
        network: makes one of random weights, of its config and `rngs`.
        axes: logical axes of the parameter at a dotted path.
        loss: mean over a batch's real targets; of some of its rows, their share of that mean.
    """

    network: Callable[..., Network]
    axes: Callable[[str], tuple[str, ...]]
    loss: Loss


OnEpoch = Callable[[int, Any, Curve], None]
Step = Callable[[TrainState, TrainBatch], tuple[TrainState, Float32[Array, "*model"]]]


class Trained(NamedTuple):
    """A trained model, or several with a leading model axis, and how it went."""

    decoder: Any
    curve: Curve


def train(
    config: DecoderConfig,
    documents: Sequence[Int[np.ndarray, " _"]],
    recipe: TrainConfig,
    mesh: Mesh,
    on_epoch: OnEpoch = lambda epoch, decoder, curve: None,
    *,
    initial: Decoder | None = None,
    state_folder: Path | None = None,
    state_seconds: float = SECONDS,
) -> Trained:
    """Train a Decoder, in float32.

    Args:
        config: its shape.
        documents: ids of each, read as scoring reads them: no token is added, and those beyond the context are
            cut into windows that predict every token once.
        recipe: how to train.
        mesh: devices; a batch is split over `data`, the weights over `model`.
        on_epoch: called after each epoch with its number from 1, the model and the curve so far. The next step takes
            the model's memory: copy or save it during the call.
        initial: weights to go on from, as fine-tuning does; by default random ones, from the recipe's seed.
        state_folder: where the run keeps its state, and finds that of one which was interrupted: it goes on there,
            and ends with the same weights, bit by bit, as if it had not been. Epochs that were complete are not
            reported again.
        state_seconds: between states that are kept.

    Raises:
        ValueError: no document has two tokens.
        ConfigError: `state_folder` holds the state of another run.
    """
    passes = [one for ids in documents for one in document_passes([], ids.tolist(), config.context)]
    ways = mesh.shape["data"]

    def batches(epoch: int) -> list[Callable[[], TrainBatch]]:
        return [partial(train_batch, batch, passes) for batch in epoch_batches(passes, recipe, epoch, ways)]

    def identity() -> dict[str, Any]:
        return {**identify(config, documents, recipe), "initial": _digest(jax.tree.leaves(initial)), "ways": ways}

    return run(CAUSAL, config, recipe, mesh, batches, on_epoch, initial, identity, state_folder, state_seconds)


def run(
    objective: Objective,
    config: Shape,
    recipe: TrainConfig,
    mesh: Mesh,
    batches: Callable[[int], Sequence[Callable[[], TrainBatch]]],
    on_epoch: OnEpoch,
    initial: Network | None,
    identity: Callable[[], Mapping[str, Any]],
    state_folder: Path | None,
    state_seconds: float,
) -> Trained:
    """Train one network for an objective; see `train`, and `fit` for the batches.

    Args:
        identity: what the run is made of; asked where a state is kept.

    Raises:
        ValueError: there is no batch.
        ConfigError: see `train`.
    """
    steps = sum(len(batches(epoch)) for epoch in range(1, recipe.epochs + 1))
    if not steps:
        raise ValueError("nothing to train on: no document has a token to predict, or epochs is 0")
    init, step, _ = programs(config, *compiled_part(recipe, steps), mesh, objective)
    state = init(jax.random.key(recipe.seed), initial)
    placement = jax.tree.map(lambda spec: NamedSharding(mesh, spec), BATCH_SPECS)

    def place(batch: TrainBatch) -> TrainBatch:
        return jax.device_put(batch, placement)

    if state_folder is None:
        return fit(step, state, recipe.epochs, batches, place, on_epoch)
    with StateFolder(state_folder, identity(), state_seconds) as kept:
        return fit(step, state, recipe.epochs, batches, place, on_epoch, kept)


def identify(config: Shape, documents: Iterable[np.ndarray], recipe: TrainConfig) -> dict[str, Any]:
    """What a training run is made of, as JSON: the state of one is of no use to another."""
    shape = hashlib.sha256(repr(config).encode()).hexdigest()
    return {"model": shape, "documents": _digest(documents), **asdict(recipe)}


def _digest(arrays: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def fit(
    step: Step,
    state: TrainState,
    epochs: int,
    batches: Callable[[int], Sequence[Callable[[], TrainBatch]]],
    place: Callable[[TrainBatch], TrainBatch],
    on_epoch: OnEpoch,
    kept: StateFolder | None = None,
) -> Trained:
    """Run all steps of all epochs, from where the kept state stands.

    Args:
        step: one update.
        state: to begin with.
        epochs: how many.
        batches: of an epoch, what lays out each batch; the same at every call.
        place: puts a batch on its devices.
        on_epoch: as for `train`.
        kept: where the state is kept.
    """
    found = None if kept is None else kept.latest(state)
    state, recorder = (state, Recorder()) if found is None else (found[0], Recorder(found[1]))
    end = 0
    for epoch in range(1, epochs + 1):
        layouts = batches(epoch)
        begin, end = end, end + len(layouts)
        if len(recorder) >= end:
            continue
        for layout in layouts[len(recorder) - begin :]:
            if kept is not None and kept.due(end=False):
                kept.keep(state, recorder.curve())
            batch = layout()
            state, loss = step(state, place(batch))
            recorder.add(epoch, np.asarray(batch.total), loss)
        # A state is kept after what is done with it is done: an interruption in between repeats the report.
        on_epoch(epoch, state.decoder, recorder.curve())
        if kept is not None and (epoch == epochs or kept.due(end=True)):
            kept.keep(state, recorder.curve())
    return Trained(state.decoder, recorder.curve())


def epoch_batches(
    passes: Sequence[Pass], recipe: TrainConfig, epoch: int, ways: int, time: int = 0, steps: int = 0
) -> list[Batch]:
    """The batches of an epoch (from 1), all of one shape: a pure function of the arguments.

    Scoring's plan puts similar lengths together and takes rows as long as makes them full. Here the order must be
    random, and attention's backward pass, which grows with the row, decides: rows are as short as the longest pass
    allows, and the passes fall into them in random order, each into the fullest one that it fits.

    Args:
        passes: what to read; those of less than two tokens are left out.
        recipe: its batch_tokens and seed are used.
        epoch: which.
        ways: devices that a batch's rows are split over.
        time: rows are at least so long.
        steps: there are at least so many batches, if there are as many rows: what makes the batches of several sets
            of documents as many and of one shape.
    """
    rng = np.random.default_rng((recipe.seed, epoch))
    order = [int(i) for i in rng.permutation(len(passes)) if passes[i].sources]
    if not order:
        return []
    time = max(-(-max(len(passes[i]) for i in order) // GRAIN) * GRAIN, time)
    rows = [[(order[i], at) for i, at in row] for row in pack_rows([len(passes[i]) for i in order], time)]
    rows_per_batch = max(recipe.batch_tokens // (time * ways), 1) * ways
    # Shuffled because the rows begun last are the emptiest; split evenly so that no step sees much less than others.
    count = max(-(-len(rows) // rows_per_batch), min(steps, len(rows)))
    shares = np.array_split(rng.permutation(len(rows)), count)
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


CAUSAL = Objective(Decoder, parameter_axes, mean_loss)


def make_optimizer(recipe: TrainConfig, steps: int) -> optax.GradientTransformation:
    """Clipping and AdamW; the learning rate rises from 0 over the warmup and then follows the recipe's schedule."""
    warmup, rate = max(round(recipe.warmup * steps), 1), recipe.learning_rate
    if recipe.schedule == "constant":
        schedule = optax.schedules.linear_schedule(0.0, rate, warmup)
    else:
        schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, rate, warmup, max(steps, warmup + 1))

    def decayed(decoder: Network) -> Network:
        return jax.tree.map_with_path(lambda path, _: not _dotted(path).endswith(UNDECAYED), decoder)

    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(schedule, b2=recipe.adam_b2, weight_decay=recipe.weight_decay, mask=decayed),
    )


def compiled_part(recipe: TrainConfig, steps: int) -> tuple[TrainConfig, int]:
    """A recipe and steps that stand for all which compile to the same: a constant rate knows only its warmup."""
    recipe = replace(recipe, seed=0, epochs=1)
    if recipe.schedule == "constant":
        return replace(recipe, warmup=1.0), max(round(recipe.warmup * steps), 1)
    return recipe, steps


class Programs(NamedTuple):
    """What is compiled for a run.

    Attributes:
        init: weights, random from a key or as given, and zero moments, made where they stay.
        step: one update, which takes the memory of the state before it.
        shardings: of the state's arrays.
    """

    init: Callable[[Key[Array, ""], Network | None], TrainState]
    step: Step
    shardings: TrainState


@cache
def programs(
    config: Shape,
    recipe: TrainConfig,
    steps: int,
    mesh: Mesh,
    objective: Objective = CAUSAL,
) -> Programs:
    """The programs of a run; runs that differ in nothing that is compiled, as seeds, share them."""
    optimizer = make_optimizer(recipe, steps)

    def init(key: Key[Array, ""], decoder: Network | None) -> TrainState:
        if decoder is None:
            decoder = objective.network(config, rngs=nnx.Rngs(key))
        decoder = jax.tree.map(lambda x: x.astype(jnp.float32), decoder)
        return TrainState(decoder, optimizer.init(decoder))

    abstract = jax.eval_shape(init, jax.random.key(0), None)
    place = sharding_of(mesh)
    decoder = jax.tree.map_with_path(
        lambda path, leaf: place(objective.axes(_dotted(path)), leaf.shape), abstract.decoder
    )
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        abstract.optimizer,
        decoder,
        transform_non_params=lambda _: NamedSharding(mesh, P()),
    )
    shardings = TrainState(decoder, moments)
    update = partial(train_step, optimizer, mesh, objective.loss)
    step = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))
    return Programs(jax.jit(init, out_shardings=shardings), step, shardings)


def train_step(
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    loss: Loss,
    state: TrainState,
    batch: TrainBatch,
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
    def loss_and_gradient(decoder: Network, batch: TrainBatch) -> tuple[Float32[Array, ""], Network]:
        shares = jax.value_and_grad(loss)(decoder, batch)
        return jax.lax.psum(jax.lax.optimization_barrier(shares), "data")

    before, gradient = loss_and_gradient(state.decoder, batch)
    updates, moments = optimizer.update(gradient, state.optimizer, state.decoder)
    return TrainState(optax.apply_updates(state.decoder, updates), moments), before


def _dotted(path: tuple[Any, ...]) -> str:
    """A parameter's path, without the Variable's own `value` at its end."""
    return jax.tree_util.keystr(path[:-1], simple=True, separator=".")

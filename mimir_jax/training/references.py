"""Many small models at once, by vmap over seeds and data masks: the IN and OUT references of LiRA and RMIA.

Each model reads its own documents, packed into rows of its own, so that nothing is computed for documents that it
does not see. All take their steps together: one compiled step updates [model, ...] weights from [model, row, time]
batches. Models are split over the mesh axis `data`, where no step needs to communicate; where `data` does not divide
their number, every device has all of them.
"""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int, Key

from mimir_jax.models.decoder import Decoder, DecoderConfig
from mimir_jax.scoring.batching import Batch
from mimir_jax.scoring.passes import Pass, document_passes
from mimir_jax.training.checkpoints import write_checkpoint
from mimir_jax.training.loop import (
    OnEpoch,
    Step,
    TrainBatch,
    TrainConfig,
    Trained,
    TrainState,
    compiled_part,
    epoch_batches,
    fit,
    identify,
    make_optimizer,
    mean_loss,
    train_batch,
)
from mimir_jax.training.membership import MEMBERSHIP, References, read_references, text_key
from mimir_jax.training.progress import SECONDS, StateFolder


def train_many(
    config: DecoderConfig,
    documents: Sequence[Int[np.ndarray, " _"]],
    copies: Int[np.ndarray, "model doc"] | Bool[np.ndarray, "model doc"],
    recipe: TrainConfig,
    mesh: Mesh,
    on_epoch: OnEpoch = lambda epoch, decoder, curve: None,
    *,
    seeds: Sequence[int] | None = None,
    state_folder: Path | None = None,
    state_seconds: float = SECONDS,
) -> Trained:
    """Train models of one shape together, each on its own documents and from its own seed, in float32.

    A model ends as `train` would leave it with the same documents and seed, up to rounding, where it takes as many
    steps alone: all take those of the one with the most rows, smaller batches where they have less to read.

    Args:
        config: the shape of all.
        documents: ids of each, as for `train`.
        copies: how often each model reads each document in an epoch; False or 0: never.
        recipe: of all; its seed is the first model's, the next ones' count on from it.
        mesh: models are split over `data`.
        on_epoch, state_folder, state_seconds: as for `train`.
        seeds: of each model, if not those.

    Returns:
        A decoder whose parameters have a leading model axis, and losses [step, model].

    Raises:
        ValueError: a model has nothing to read, or shapes do not fit.
        ConfigError: `state_folder` holds the state of another run.
    """
    models = len(copies)
    seeds = [recipe.seed + i for i in range(models)] if seeds is None else list(seeds)
    if copies.shape != (models, len(documents)) or len(seeds) != models:
        raise ValueError(f"copies {copies.shape} and {len(seeds)} seeds do not fit {len(documents)} documents")
    passes = [document_passes([], ids.tolist(), config.context) for ids in documents]
    own: list[list[Pass]] = [[one for i in np.repeat(np.arange(len(row)), row) for one in passes[i]] for row in copies]
    recipes = [replace(recipe, seed=seed) for seed in seeds]

    def plan(epoch: int) -> list[list[Batch]]:
        """Of each model its batches, all of one shape and nearly always as many."""
        alone = [epoch_batches(some, one, epoch, 1) for some, one in zip(own, recipes)]
        if not all(alone):
            empty = [i for i, batches in enumerate(alone) if not batches]
            raise ValueError(f"nothing to train on: models {empty} read no document of two tokens")
        time, steps = max(batches[0].time for batches in alone), max(map(len, alone))
        return [epoch_batches(some, one, epoch, 1, time, steps) for some, one in zip(own, recipes)]

    def batches(epoch: int) -> list[Callable[[], TrainBatch]]:
        planned = plan(epoch)
        rows, time = planned[0][0].rows, planned[0][0].time
        nothing = Batch(rows, time, time, ())
        steps = max(map(len, planned))
        filled = [some + [nothing] * (steps - len(some)) for some in planned]
        return [partial(_stacked, [some[i] for some in filled], own) for i in range(steps)]

    epochs = range(1, recipe.epochs + 1)
    steps = sum(max(map(len, plan(epoch))) for epoch in epochs)
    if not steps:
        raise ValueError("nothing to train on: epochs is 0")
    sharding = NamedSharding(mesh, P("data") if models % mesh.shape["data"] == 0 else P())
    init, step = _programs(config, *compiled_part(recipe, steps), sharding)
    state = init(jnp.stack([jax.random.key(seed) for seed in seeds]))

    def place(batch: TrainBatch) -> TrainBatch:
        return jax.device_put(batch, sharding)

    if state_folder is None:
        return fit(step, state, recipe.epochs, batches, place, on_epoch)
    identity = {
        **identify(config, documents, recipe),
        "copies": hashlib.sha256(np.ascontiguousarray(copies, np.int64).tobytes()).hexdigest(),
        "seeds": seeds,
    }
    with StateFolder(state_folder, identity, state_seconds) as kept:
        return fit(step, state, recipe.epochs, batches, place, on_epoch, kept)


def _stacked(batches: Sequence[Batch], passes: Sequence[Sequence[Pass]]) -> TrainBatch:
    """The arrays [model, ...] of a batch of each model."""
    each = [train_batch(batch, some) for batch, some in zip(batches, passes)]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *each)


@cache
def _programs(
    config: DecoderConfig, recipe: TrainConfig, steps: int, sharding: NamedSharding
) -> tuple[Callable[[Key[Array, " model"]], TrainState], Step]:
    """Random weights and zero moments of all models, and one update of all; see `loop.programs`."""
    optimizer = make_optimizer(recipe, steps)

    def init(key: Key[Array, ""]) -> TrainState:
        decoder = Decoder(config, rngs=nnx.Rngs(key))
        return TrainState(decoder, optimizer.init(decoder))

    step = jax.jit(jax.vmap(partial(_step, optimizer)), donate_argnums=0, in_shardings=sharding, out_shardings=sharding)
    return jax.jit(jax.vmap(init), out_shardings=sharding), step


def _step(
    optimizer: optax.GradientTransformation, state: TrainState, batch: TrainBatch
) -> tuple[TrainState, Float32[Array, ""]]:
    """One update of one model; none where its batch is empty."""
    empty = batch.total == 0
    filled = batch._replace(total=jnp.maximum(batch.total, 1.0))
    loss, gradient = jax.value_and_grad(mean_loss)(state.decoder, filled)
    updates, moments = optimizer.update(gradient, state.optimizer, state.decoder)
    after = TrainState(optax.apply_updates(state.decoder, updates), moments)
    return jax.tree.map(lambda old, new: jnp.where(empty, old, new), state, after), loss


def one_model(decoder: Decoder, number: int) -> Decoder:
    """One of the models with a leading axis."""
    return jax.tree.map(lambda x: x[number], decoder)


def write_references(
    folder: Path,
    decoder: Decoder,
    hf: Mapping[str, Any],
    tokenizer: Path,
    texts: Mapping[str, str],
    membership: Bool[np.ndarray, "reference doc"],
) -> References:
    """Write stacked models as Hugging Face folders `reference-00`, ..., and `membership.csv`, which tells attacks.

    Args:
        folder: to write to.
        decoder: with a leading axis of references.
        hf, tokenizer: as for `write_checkpoint`.
        texts: all documents by id, in the order of `membership`.
        membership: which reference was trained on which.
    """
    names = [f"reference-{i:02d}" for i in range(len(membership))]
    for i, name in enumerate(names):
        write_checkpoint(one_model(decoder, i), hf, tokenizer, folder / name)
    with (folder / MEMBERSHIP).open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text_sha256", "id", *names])
        for column, (name, text) in enumerate(texts.items()):
            rows.writerow([text_key(text), name, *membership[:, column].astype(int).tolist()])
    return read_references(folder)

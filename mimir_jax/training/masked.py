"""Trains an Encoder to fill masks (Devlin et al. 2019), by the loop that trains Decoders.

Rows are as long as the context and full: the documents of an epoch one after another, in random order, cut where a row
ends (Liu et al. 2019, FULL-SENTENCES). Masks are drawn anew in every epoch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int

from mimir_jax.models.decoder import parameter_axes
from mimir_jax.models.encoder import AXES, Encoder, EncoderConfig
from mimir_jax.scoring.batching import BatchArrays
from mimir_jax.training.loop import Objective, OnEpoch, TrainBatch, TrainConfig, Trained, identify, run
from mimir_jax.training.progress import SECONDS


@dataclass(frozen=True)
class Masking:
    """Which tokens are to be predicted, and what stands in their place."""

    mask: int
    """Id of the token that masks."""
    special: tuple[int, ...] = ()
    """Ids that are neither predicted nor put in a token's place."""
    share: float = 0.15
    """Of the tokens that are predicted."""
    masked: float = 0.8
    """Of the predicted ones that the mask replaces."""
    random: float = 0.1
    """Of the predicted ones that a random token replaces; the rest stays."""


def train_masked(
    config: EncoderConfig,
    documents: Sequence[Int[np.ndarray, " _"]],
    masking: Masking,
    recipe: TrainConfig,
    mesh: Mesh,
    on_epoch: OnEpoch = lambda epoch, encoder, curve: None,
    *,
    state_folder: Path | None = None,
    state_seconds: float = SECONDS,
) -> Trained:
    """Train an Encoder, in float32; the curve counts the predicted tokens.

    Args:
        config: its shape.
        documents: ids of each, special tokens included.
        masking: what is predicted.
        recipe, mesh, on_epoch, state_folder, state_seconds: as for `loop.train`.

    Raises:
        ValueError: there is no token to predict, or masks that are not of the vocabulary.
        ConfigError: `state_folder` holds the state of another run.
    """
    ways = mesh.shape["data"]
    if not 0 <= masking.mask < config.vocab:
        raise ValueError(f"the mask {masking.mask} is not one of {config.vocab} ids")

    def batches(epoch: int) -> list[Callable[[], TrainBatch]]:
        rows = epoch_rows(documents, config.context, recipe, epoch)
        count = max(recipe.batch_tokens // (config.context * ways), 1) * ways
        return [
            partial(masked_batch, rows[at : at + count], count, config, masking, (recipe.seed, epoch, at))
            for at in range(0, len(rows), count)
            if any(~np.isin(row, masking.special).all() for row in rows[at : at + count])
        ]

    def identity() -> dict[str, Any]:
        return {**identify(config, documents, recipe), "masking": repr(masking), "ways": ways}

    return run(MASKED, config, recipe, mesh, batches, on_epoch, None, identity, state_folder, state_seconds)


def epoch_rows(
    documents: Sequence[Int[np.ndarray, " _"]], context: int, recipe: TrainConfig, epoch: int
) -> list[Int[np.ndarray, " time"]]:
    """Every token of the documents once: rows of the context's length, of which the last may be shorter."""
    order = np.random.default_rng((recipe.seed, epoch)).permutation(len(documents))
    ids = np.concatenate([np.zeros(0, np.int32), *(documents[i] for i in order)])
    return [ids[at : at + context] for at in range(0, len(ids), context)]


def mask_row(
    ids: Int[np.ndarray, " time"], vocab: int, masking: Masking, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " time"], Int[np.ndarray, " source"]]:
    """What the model reads, and the places whose tokens it is to predict: a share of them, and at least one."""
    possible = np.flatnonzero(~np.isin(ids, masking.special))
    count = min(max(int(masking.share * len(possible)), 1), len(possible))
    places = np.sort(rng.choice(possible, count, replace=False))
    fate, read = rng.random(len(places)), ids.copy()
    others = np.setdiff1d(np.arange(vocab), masking.special)
    read[places] = np.where(
        fate < masking.masked,
        masking.mask,
        np.where(fate < masking.masked + masking.random, rng.choice(others, len(places)), ids[places]),
    )
    return read, places


def masked_batch(
    some: Sequence[Int[np.ndarray, " _"]],
    rows: int,
    config: EncoderConfig,
    masking: Masking,
    seed: tuple[int, ...],
) -> TrainBatch:
    """The arrays of a batch of `rows` rows, of which the last may be empty; `segments` tell padding alone."""
    time, sources = config.context, max(int(masking.share * config.context), 1)
    rng = np.random.default_rng(seed)
    tokens, segments = np.zeros((rows, time), np.int32), np.full((rows, time), time, np.int32)
    index, targets, mask = (np.zeros((rows, sources), dtype) for dtype in (np.int32, np.int32, bool))
    for row, ids in enumerate(some):
        read, places = mask_row(ids, config.vocab, masking, rng)
        tokens[row, : len(ids)], segments[row, : len(ids)] = read, 0
        index[row, : len(places)], targets[row, : len(places)] = places, ids[places]
        mask[row, : len(places)] = True
    positions = np.broadcast_to(np.arange(time, dtype=np.int32), (rows, time))
    return TrainBatch(BatchArrays(tokens, positions, segments, index, targets), mask, np.array(mask.sum(), np.float32))


def masked_loss(encoder: Encoder, batch: TrainBatch) -> Float32[Array, ""]:
    """Mean of -log p(x_t | the row with its masks) over the batch's masked places; of some of its rows, their share."""
    arrays = batch.arrays
    size = jnp.sum(jnp.asarray(arrays.segments) == 0, axis=1, dtype=jnp.int32)
    hidden = encoder(arrays.tokens, size)
    logits = encoder.to_logits(jnp.take_along_axis(hidden, jnp.asarray(arrays.source_index)[..., None], axis=1))
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, arrays.targets)
    return jnp.sum(nll, where=batch.mask) / batch.total


MASKED = Objective(Encoder, partial(parameter_axes, table=AXES), masked_loss)

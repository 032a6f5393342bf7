"""Scores and statistics of the same documents, with or without further leading axes."""

from functools import reduce

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mimir_jax.arrays import AnyArray, TokenStats


def match_documents(
    scores: Float[AnyArray, "..."], others: Float[AnyArray, "..."], name: str
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Broadcast two arrays [..., doc] over their leading axes, such as many targets against one reference.

    The document axis never broadcasts: one number for all documents would be a mistake, not a score.

    Raises:
        ValueError: `others`, which the message calls `name`, has another number of documents.
    """
    if scores.shape[-1] != others.shape[-1]:
        raise ValueError(f"{name} has {others.shape[-1]} documents, stats has {scores.shape[-1]}")
    left, right = jnp.broadcast_arrays(scores, others)
    return left, right


def match_tokens(
    stats: TokenStats, **others: TokenStats
) -> tuple[list[Float[Array, "*batch doc time"]], Bool[Array, "*batch doc time"]]:
    """Broadcast statistics of the same tokens, under other models or after other texts, over their leading axes.

    Returns:
        log_prob of `stats` and then of each other, and the positions that all of them score.

    Raises:
        ValueError: one of them has other documents or another time axis; the message calls it by its name.
    """
    for name, other in others.items():
        if other.mask.shape[-2:] != stats.mask.shape[-2:]:
            theirs, ours = ("{} documents of {} positions".format(*x.mask.shape[-2:]) for x in (other, stats))
            raise ValueError(f"{name} has {theirs}, stats has {ours}: they must hold the same tokens")
    every = (stats, *others.values())
    masks = jnp.broadcast_arrays(*(x.mask for x in every))
    log_probs = jnp.broadcast_arrays(*(x.log_prob for x in every))
    return list(log_probs), reduce(jnp.logical_and, masks)

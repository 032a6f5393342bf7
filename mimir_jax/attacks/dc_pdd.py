"""The divergence-based calibration attack: token probabilities against how common the tokens are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Num

from mimir_jax.arrays import AnyArray, TokenStats, masked_mean
from mimir_jax.attacks.parameters import POSITIVE, Positive


def first_occurrences(
    token_ids: Int[AnyArray, "*batch time"],
    log_prob: Float[AnyArray, "*batch time"],
    mask: Bool[AnyArray, "*batch time"],
) -> tuple[Int[Array, "*batch time"], Float[Array, "*batch time"], Bool[Array, "*batch time"]]:
    """Token ids in ascending order, their log_prob, and which of them are a token's first scored occurrence."""
    beyond = jnp.iinfo(jnp.int32).max
    ids = jnp.where(jnp.asarray(mask), jnp.asarray(token_ids), beyond)
    # Stable, so that equal ids keep the order of the text.
    ids, log_prob, mask = jax.lax.sort((ids, jnp.asarray(log_prob), jnp.asarray(mask)), is_stable=True, num_keys=1)
    previous = jnp.roll(ids, 1, axis=-1)
    position = jax.lax.broadcasted_iota(jnp.int32, ids.shape, ids.ndim - 1)
    return ids, log_prob, mask & ((ids != previous) | (position == 0))


def dc_pdd(
    stats: TokenStats, token_counts: Num[AnyArray, " vocab"], a: Positive = 0.01
) -> Float32[Array, "*batch doc"]:
    """Score a document by the probabilities of its tokens, rare tokens counting more and none for more than `a`.

        mean of min(p_t log(1 / f(x_t)), a) over the scored tokens that occur for the first time

    p_t = p(x_t | x_<t) and f(v) = (c_v + 1) / (N + V): c_v = count of v, N = sum of all counts, V = number of
    counts. A token is compared with the scored tokens before it: as in the authors' code, the unscored first
    token of a text takes no part, neither as an occurrence of its own nor as an earlier one of another.

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        token_counts: occurrences of each id of the tokenizer in a reference corpus.
        a: in nats, above 0.

    Returns:
        Nats, at most `a`; NaN where no token is scored, or a scored one has no count because its id is beyond
        them: the counts are then another tokenizer's.

    References:
        Zhang et al., Pretraining Data Detection for Large Language Models: A Divergence-based Calibration
        Method, 2024 (https://arxiv.org/abs/2409.14781).
    """
    POSITIVE.check("a", a)
    counts = jnp.asarray(token_counts, jnp.float32)
    # Not 1 / f, nor f itself: both logarithms stay far from where float32 is coarse.
    surprise = jnp.log(jnp.sum(counts) + counts.shape[0]) - jnp.log1p(counts)
    ids, log_prob, first = first_occurrences(stats.token_ids, stats.log_prob, stats.mask)
    calibrated = jnp.exp(log_prob) * jnp.take(surprise, ids, mode="fill", fill_value=jnp.nan)
    return masked_mean(jnp.minimum(calibrated, a), first)

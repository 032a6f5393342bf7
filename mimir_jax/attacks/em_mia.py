"""The expectation-maximization attack: documents as prefixes of each other, without known non-members."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from mimir_jax.arrays import AnyArray, masked_count
from mimir_jax.attacks.parameters import POSITIVE, Count


class Ranking(NamedTuple):
    """The order of values along the last axis, NaNs at the end, and where equal values begin and end in it."""

    order: Int[Array, "*batch doc"]
    present: Bool[Array, "*batch doc"]
    """In sorted order, as are the next two: not NaN."""
    begin: Int[Array, "*batch doc"]
    end: Int[Array, "*batch doc"]


def ranking_of(values: Float[Array, "*batch doc"]) -> Ranking:
    """Sort once what many labelings are compared with."""
    axis, size = values.ndim - 1, values.shape[-1]
    order = jnp.argsort(values, axis=-1)
    ascending = jnp.take_along_axis(values, order, axis=-1)
    position = jax.lax.broadcasted_iota(order.dtype, order.shape, axis)
    new = (ascending != jnp.roll(ascending, 1, axis=-1)) | (position == 0)
    last = jnp.roll(new, -1, axis=-1) | (position == size - 1)
    begin = jax.lax.cummax(jnp.where(new, position, 0), axis=axis)
    end = jax.lax.cummin(jnp.where(last, position + 1, size), axis=axis, reverse=True)
    return Ranking(order, ~jnp.isnan(ascending), begin, end)


def roc_auc(
    ranking: Ranking, positive: Bool[Array, "*batch doc"], negative: Bool[Array, "*batch doc"]
) -> Float32[Array, "*batch"]:
    """Share of pairs, one positive and one negative, with the positive's value above; a tie counts half."""
    positive, negative = (
        jnp.take_along_axis(label, ranking.order, axis=-1) & ranking.present for label in (positive, negative)
    )
    below = jnp.cumsum(negative, axis=-1, dtype=jnp.int32)
    below = jnp.concatenate([jnp.zeros_like(below[..., :1]), below], axis=-1)
    lower, higher = (jnp.take_along_axis(below, at, axis=-1) for at in (ranking.begin, ranking.end))
    wins = jnp.sum(jnp.where(positive, half(lower + higher), 0.0), axis=-1)
    pairs = masked_count(positive).astype(jnp.float32) * below[..., -1].astype(jnp.float32)
    # One division of whole and half numbers: equal shares are equal floats, whatever the order of the sums.
    return wins / jnp.where(pairs > 0, pairs, jnp.nan)


def comparisons(ranking: Ranking) -> tuple[Float32[Array, "*batch doc"], Float32[Array, "*batch doc"]]:
    """With how many others each value can be compared, and how many of them are below it, a tie counting half.

    Both in the order of the values, and 0 where the value is NaN.
    """
    n = masked_count(ranking.present)[..., None].astype(jnp.float32)
    below, others = (jnp.where(ranking.present, x, 0.0) for x in (half(ranking.begin + ranking.end - 1), n - 1.0))
    back = jnp.argsort(ranking.order, axis=-1)
    return jnp.take_along_axis(others, back, axis=-1), jnp.take_along_axis(below, back, axis=-1)


def half(x: Int[Array, "*batch doc"]) -> Float32[Array, "*batch doc"]:
    return x.astype(jnp.float32) / 2


def em_mia(
    log_likelihood: Float[AnyArray, "*batch doc"],
    min_k_plus_plus_score: Float[AnyArray, "*batch doc"],
    conditional_log_likelihood: Float[AnyArray, "*batch prefix doc"],
    prefix_index: Int[AnyArray, " prefix"],
    iterations: Count = 10,
) -> Float32[Array, "*batch doc"]:
    """Score documents by what they do to each other as prefixes, refining scores and prefixes in turns.

        R_p(x) = LL(x given p) / LL(x),   f = min_k++ to begin with, then `iterations` times
        r(p) = AUC of {R_p(x) : x other than p} against {f(x) > median f},   f(x) = -r(x)

    A good prefix is one whose R_p tells members from non-members, and a non-member is a good prefix.

    r(p) exists for prefixes only, so that f = -r wants every document as a prefix: as many passes over all
    documents as there are documents. With fewer prefixes than documents, f(x) is instead the share of pairs,
    one of the better prefixes p (r(p) >= median r) and one other document y, with R_p(x) above R_p(y). This
    keeps the half of the paper's idea that a good prefix makes R_p a good score, and it treats all documents
    alike: -r(x) for the few prefixes beside another score for the rest would be two scales in one ranking.
    Shares and not means of R_p, because R_p differs in level between prefixes and not every prefix fits before
    every document.

    Args:
        log_likelihood: LL of each document.
        min_k_plus_plus_score: its score under min_k++.
        conditional_log_likelihood: LL of each document after each prefix; NaN where the two do not fit. The
            document that is the prefix itself is left out, whatever is given.
        prefix_index: which document each prefix is, all different. As many as documents is all of them.
        iterations: turns, at least 1.

    Returns:
        -AUC, in [-1, 0], where every document is a prefix; else a share, in [0, 1]. NaN where a document has
        no LL or fits together with too few others.

    References:
        Kim et al., Detecting Training Data of Large Language Models via Expectation Maximization, 2024
        (https://arxiv.org/abs/2410.07582).
    """
    POSITIVE.check("iterations", iterations)
    plain, conditional = jnp.asarray(log_likelihood), jnp.asarray(conditional_log_likelihood)
    prefixes, size = jnp.asarray(prefix_index), plain.shape[-1]
    itself = prefixes[:, None] == jnp.arange(size, dtype=prefixes.dtype)[None, :]
    recall = conditional / jnp.where(plain == 0, jnp.nan, plain)[..., None, :]
    recall = jnp.where(jnp.broadcast_to(itself, recall.shape), jnp.nan, recall)
    if not recall.size:
        return jnp.full((*recall.shape[:-2], size), jnp.nan, recall.dtype)
    ranking, exhaustive = ranking_of(recall), len(prefixes) == size
    others, below = (jnp.swapaxes(x, -1, -2) for x in comparisons(ranking))

    def quality(score: Float[Array, "*batch doc"]) -> Float32[Array, "*batch prefix"]:
        high = score > jnp.nanmedian(score, axis=-1, keepdims=True)
        low = ~high & ~jnp.isnan(score)
        return roc_auc(ranking, *(jnp.broadcast_to(label[..., None, :], recall.shape) for label in (high, low)))

    def turn(_: Array, score: Float[Array, "*batch doc"]) -> Float32[Array, "*batch doc"]:
        r = quality(score)
        if exhaustive:
            return jnp.full_like(score, jnp.nan).at[..., prefixes].set(-r)
        good = (r >= jnp.nanmedian(r, axis=-1, keepdims=True))[..., None, :]
        pairs, wins = (jnp.sum(jnp.where(good, x, 0.0), axis=-1) for x in (others, below))
        return wins / jnp.where(pairs > 0, pairs, jnp.nan)

    start = jnp.where(jnp.isnan(plain), jnp.nan, jnp.asarray(min_k_plus_plus_score))
    start = jnp.broadcast_to(start, (*recall.shape[:-2], size))
    return jax.lax.fori_loop(0, iterations, turn, start)

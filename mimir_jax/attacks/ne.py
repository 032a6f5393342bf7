"""The neighborhood attacks: the log-likelihood of a document against that of texts close to it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from mimir_jax.arrays import TokenStats, masked_mean
from mimir_jax.attacks.broadcasting import match_documents
from mimir_jax.attacks.loss import loss
from mimir_jax.attacks.parameters import POSITIVE, Count


def neighbor_likelihoods(
    neighbor_stats: TokenStats, n: int
) -> tuple[Float32[Array, "*batch doc neighbor"], Bool[Array, "*batch doc neighbor"]]:
    """LL of the first `n` neighbors of each document, and which of them exist."""
    first = TokenStats(*(field[..., :n, :, :] for field in neighbor_stats))
    exists = jnp.any(jnp.asarray(first.mask), axis=-1)
    return jnp.swapaxes(loss(first), -1, -2), jnp.swapaxes(exists, -1, -2)


def ne(stats: TokenStats, neighbor_stats: TokenStats, n: Count = 25) -> Float32[Array, "*batch doc"]:
    """Score a document by how much more likely the model finds it than its neighbors.

        LL(x) - mean_j LL(x_j),   x_j = neighbors of x: the same text with a few words replaced

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        neighbor_stats: of their neighbors, fields [..., neighbor, doc, time], with a time axis of their own;
            a neighbor without a scored token is missing and left out.
        n: neighbors that count, at least 1: the first ones.

    Returns:
        Nats per token; NaN where no token of the document is scored or it has no neighbor.

    References:
        Mattern et al., Membership Inference Attacks against Language Models via Neighbourhood Comparison, 2023
        (https://arxiv.org/abs/2305.18462).
    """
    POSITIVE.check("n", n)
    original, neighbors = match_documents(
        loss(stats), masked_mean(*neighbor_likelihoods(neighbor_stats, n)), "neighbor_stats"
    )
    return original - neighbors


def ne_z(stats: TokenStats, neighbor_stats: TokenStats, n: Count = 25) -> Float32[Array, "*batch doc"]:
    """Score a document like `ne`, in standard deviations of its neighbors.

        (LL(x) - mean_j LL(x_j)) / std_j LL(x_j),   std with n in the denominator, and 1 where it is 0

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        neighbor_stats: of their neighbors, fields [..., neighbor, doc, time], as for `ne`.
        n: neighbors that count, at least 1: the first ones.

    Returns:
        Standard deviations; NaN where no token of the document is scored or it has no neighbor.

    References:
        Mattern et al., Membership Inference Attacks against Language Models via Neighbourhood Comparison, 2023
        (https://arxiv.org/abs/2305.18462).
    """
    difference = ne(stats, neighbor_stats, n)
    values, exists = neighbor_likelihoods(neighbor_stats, n)
    centered = values - masked_mean(values, exists)[..., None]
    std = jnp.sqrt(masked_mean(centered * centered, exists))
    # Equal values, and not a standard deviation of 0, which the mean's rounding error would hide.
    lowest = jnp.min(values, axis=-1, where=exists, initial=jnp.inf)
    highest = jnp.max(values, axis=-1, where=exists, initial=-jnp.inf)
    difference, std = match_documents(difference, jnp.where(lowest == highest, 1.0, std), "neighbor_stats")
    return difference / std

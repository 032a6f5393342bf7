"""The rank attacks: the place of each token in the model's prediction."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from mimir_jax.arrays import TokenStats, masked_mean


def rank(stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """Score a document by minus the mean rank of its tokens.

        -mean_t rank_t,   rank_t = 1 + #{v : p(v | x_<t) > p(x_t | x_<t)}

    Args:
        stats: statistics of the documents, fields [..., doc, time].

    Returns:
        Ranks, -1 at best; NaN where no token is scored.

    References:
        Gehrmann et al., GLTR: Statistical Detection and Visualization of Generated Text, 2019
        (https://arxiv.org/abs/1906.04043).
    """
    return -masked_mean(jnp.asarray(stats.rank, jnp.float32), stats.mask)


def log_rank(stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """Score a document by minus the mean log rank of its tokens, which no single rare token dominates.

        -mean_t log rank_t,   rank_t as for `rank`

    Args:
        stats: statistics of the documents, fields [..., doc, time].

    Returns:
        Nats, 0 at best; NaN where no token is scored.

    References:
        Mitchell et al., DetectGPT: Zero-Shot Machine-Generated Text Detection using Probability Curvature,
        2023 (https://arxiv.org/abs/2301.11305).
    """
    return -masked_mean(jnp.log(jnp.asarray(stats.rank, jnp.float32)), stats.mask)

"""The min-k%++ attack: min-k% over log-likelihoods standardized by the model's own prediction."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from mimir_jax.arrays import TokenStats
from mimir_jax.attacks.parameters import SHARE, Share
from mimir_jax.attacks.selection import mean_of_lowest

MIN_VAR = 1e-12
"""In nats^2; keeps z finite where the prediction is uniform or certain."""


def min_k_plus_plus(stats: TokenStats, k: Share = 0.2) -> Float32[Array, "*batch doc"]:
    """Score a document by the mean z-score of its relatively least likely tokens.

        mean of the max(1, int(k n)) lowest z_t,   z_t = (l_t - mu_t) / sqrt(max(var_t, 1e-12))

    mu_t and var_t are the mean and variance of log p(. | x_<t) under p(. | x_<t) itself.

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        k: share that is selected, in (0, 1].

    Returns:
        Standard deviations; NaN where no token is scored.

    References:
        Zhang et al., Min-K%++: Improved Baseline for Detecting Pre-Training Data from Large Language Models,
        2024 (https://arxiv.org/abs/2404.02936).
    """
    SHARE.check("k", k)
    z = jnp.subtract(stats.log_prob, stats.mean) / jnp.sqrt(jnp.maximum(stats.var, MIN_VAR))
    return mean_of_lowest(z, stats.mask, k)

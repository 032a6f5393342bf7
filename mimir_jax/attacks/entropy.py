"""The entropy attack: how certain the model is along the document."""

from jaxtyping import Array, Float32

from mimir_jax.arrays import TokenStats, masked_mean


def entropy(stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """Score a document by minus the mean entropy of the model's predictions.

        -mean_t H_t,   H_t = -sum_v p_v log p_v = -mu_t

    Args:
        stats: statistics of the documents, fields [..., doc, time].

    Returns:
        Nats per token, at most 0; NaN where no token is scored.

    References:
        Gehrmann et al., GLTR: Statistical Detection and Visualization of Generated Text, 2019
        (https://arxiv.org/abs/1906.04043).
    """
    return masked_mean(stats.mean, stats.mask)

"""The loss attack: the mean log-likelihood of a document's tokens."""

from jaxtyping import Array, Float32

from mimir_jax.arrays import TokenStats, masked_mean


def loss(stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """Score a document by its mean log-likelihood.

        LL = mean_t log p(x_t | x_<t)

    Args:
        stats: statistics of the documents, fields [..., doc, time].

    Returns:
        Nats per token; NaN where no token is scored.

    References:
        Yeom et al., Privacy Risk in Machine Learning, 2018 (https://arxiv.org/abs/1709.01604).
    """
    return masked_mean(stats.log_prob, stats.mask)

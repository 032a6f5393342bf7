"""The surprise attack: tokens that the model finds unlikely although it is sure of its prediction."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from mimir_jax.arrays import TokenStats, masked_mean
from mimir_jax.attacks.parameters import POSITIVE, SHARE, Positive, Share
from mimir_jax.attacks.selection import lowest


def surp(stats: TokenStats, k: Share = 0.4, max_entropy: Positive = 2.0) -> Float32[Array, "*batch doc"]:
    """Score a document by the mean log-likelihood of its surprising tokens.

        mean of l_t over {l_t among the max(1, int(k n)) lowest} and {H_t < max_entropy}

    l_t = log p(x_t | x_<t), H_t is the entropy of p(. | x_<t) and n the number of scored tokens. Of equal l_t
    the earlier one is the lower.

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        k: share of tokens that counts as unlikely, in (0, 1].
        max_entropy: in nats, above 0; predictions of this entropy or more are left out.

    Returns:
        Nats per token; NaN where no token is scored or none is surprising.

    References:
        Zhang and Wu, Adaptive Pre-training Data Detection for Large Language Models via Surprising Tokens,
        2024 (https://arxiv.org/abs/2407.21248).
    """
    SHARE.check("k", k)
    POSITIVE.check("max_entropy", max_entropy)
    positions, unlikely = lowest(stats.log_prob, stats.mask, k)
    log_prob, mean = (jnp.take_along_axis(jnp.asarray(x), positions, axis=-1) for x in (stats.log_prob, stats.mean))
    # Not `entropy < max_entropy`, which would leave out a NaN instead of showing it in the score.
    return masked_mean(log_prob, unlikely & ~(-mean >= max_entropy))

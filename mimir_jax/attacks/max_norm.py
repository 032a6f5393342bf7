"""The max-norm attack: how far each token falls short of the most likely one."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, Num

from mimir_jax.arrays import AnyArray, TokenStats, masked_mean


def max_norm(stats: TokenStats, token_counts: Num[AnyArray, " vocab"] | None = None) -> Float32[Array, "*batch doc"]:
    """Score a document by how close its tokens come to the model's first choices, rare tokens counting more.

        mean_t (1 - (m_t - l_t)) / w_t,   m_t = max_v log p(v | x_<t), l_t = log p(x_t | x_<t)

    w_t = 1 without `token_counts`, else max(count of x_t, 1) / sum of all counts.

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        token_counts: occurrences of each id of the tokenizer in a reference corpus.

    Returns:
        Nats per token (over the relative frequency, where weighted); NaN where no token is scored, the counts
        are all 0, or a scored token has none because its id is beyond them.

    References:
        Duan et al., Do Membership Inference Attacks Work on Large Language Models?, 2024
        (https://arxiv.org/abs/2402.07841), whose code has it.
    """
    closeness = 1.0 - jnp.subtract(stats.max_log_prob, stats.log_prob)
    if token_counts is not None:
        counts = jnp.asarray(token_counts, jnp.float32)
        total = jnp.sum(counts)
        weights = jnp.maximum(counts, 1.0) / jnp.where(total > 0, total, jnp.nan)
        closeness = closeness / jnp.take(weights, stats.token_ids, mode="fill", fill_value=jnp.nan)
    return masked_mean(closeness, stats.mask)

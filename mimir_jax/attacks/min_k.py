"""The min-k% attack: the log-likelihood of a document's least likely tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from mimir_jax.arrays import AnyArray, TokenStats, masked_count
from mimir_jax.attacks.parameters import POSITIVE, SHARE, Count, Share
from mimir_jax.attacks.selection import mean_of_lowest
from mimir_jax.attacks.windows import sliding_sums


def sliding_means(
    x: Float[AnyArray, "*batch time"], mask: Bool[AnyArray, "*batch time"], window: int, stride: int
) -> tuple[Float[Array, "*batch time"], Bool[Array, "*batch time"]]:
    """Mean of the `window` values from each position on, and the positions where a window starts.

    Windows start at the first scored position and every `stride` after it, and end within the scored ones.
    These are assumed to be contiguous: a gap in the mask would count as zeros.
    """
    x, mask = jnp.asarray(x), jnp.asarray(mask)
    # Longer ones select the same, and cost more or do not fit into an int32.
    window, stride = (min(length, x.shape[-1] + 1) for length in (window, stride))
    sums = sliding_sums(x, mask, window)
    index = jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1
    fits = index + window <= masked_count(mask)[..., None]
    return sums / window, mask & fits & (index % stride == 0)


def min_k(stats: TokenStats, k: Share = 0.2, window: Count = 1, stride: Count = 1) -> Float32[Array, "*batch doc"]:
    """Score a document by the mean log-likelihood of its least likely tokens.

        mean of the max(1, int(k n)) lowest l_t,   l_t = log p(x_t | x_<t), n = number of scored tokens

    The l_t are first replaced by their means over sliding windows of `window` scored tokens, one every
    `stride`, and n by the number of windows; the defaults leave them as they are. The scored tokens of a
    document must be contiguous.

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        k: share that is selected, in (0, 1].
        window: tokens in a window, at least 1.
        stride: tokens from one window's start to the next, at least 1.

    Returns:
        Nats per token; NaN where fewer tokens are scored than a window holds.

    References:
        Shi et al., Detecting Pretraining Data from Large Language Models, 2024
        (https://arxiv.org/abs/2310.16789).
    """
    SHARE.check("k", k)
    POSITIVE.check("window", window)
    POSITIVE.check("stride", stride)
    means, starts = sliding_means(stats.log_prob, stats.mask, window, stride)
    return mean_of_lowest(means, starts, k)

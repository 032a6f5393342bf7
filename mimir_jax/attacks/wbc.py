"""The window-based comparison attack: in how many stretches of a document the target beats a reference."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from mimir_jax.arrays import TokenStats, masked_count, masked_mean
from mimir_jax.attacks.broadcasting import match_tokens
from mimir_jax.attacks.windows import sliding_sums

WINDOWS = (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)
"""Tokens in a window, spaced geometrically."""


def wbc(stats: TokenStats, reference_stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """Score a document by the share of its windows that the target finds likelier than a reference model does.

        mean over w of mean_i 1[sum of nll_ref > sum of nll_target over the tokens i .. i + w - 1]

    w runs over `WINDOWS`, each shrunk to the number of scored tokens where a document has fewer. The scored
    tokens of a document must be contiguous.

    Args:
        stats: statistics of the documents under the target, fields [..., doc, time].
        reference_stats: of the same tokens under the reference; leading axes broadcast, so that one reference
            serves many targets.

    Returns:
        A share, in [0, 1]; NaN where no token is scored by both, or the two models' tokens differ.

    Raises:
        ValueError: the time axes differ.

    References:
        Chen et al., Window-based Membership Inference Attacks Against Fine-tuned Large Language Models, 2026
        (https://arxiv.org/abs/2601.02751).
    """
    (target, reference), mask = match_tokens(stats, reference_stats=reference_stats)
    target_ids, reference_ids = jnp.broadcast_arrays(stats.token_ids, reference_stats.token_ids)
    same = ~jnp.any(mask & (target_ids != reference_ids), axis=-1)
    gain = jnp.where(mask, target - reference, 0.0)
    index = jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1
    n = masked_count(mask)[..., None]
    shares = []
    for window in WINDOWS:
        # Beyond the last token there are zeros, so that the first of the windows too long is the document.
        sums = sliding_sums(gain, mask, window)
        votes = jnp.where(jnp.isnan(sums), jnp.nan, (sums > 0).astype(sums.dtype))
        shares.append(masked_mean(votes, mask & (index + jnp.minimum(window, n) <= n)))
    return jnp.where(same, jnp.mean(jnp.stack(shares), axis=0), jnp.nan)

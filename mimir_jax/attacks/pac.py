"""The polarized augment calibration attack: the spread of token log-likelihoods against that of word swaps."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from mimir_jax.arrays import TokenStats, masked_mean
from mimir_jax.attacks.broadcasting import match_documents
from mimir_jax.attacks.parameters import SHARE, Share
from mimir_jax.attacks.selection import mean_of_lowest


def polarized_distance(stats: TokenStats, lowest: float, highest: float) -> Float32[Array, "*batch doc"]:
    """Mean of the `highest` share of l_t minus mean of the `lowest` share, each of at least one token."""
    top = -mean_of_lowest(-jnp.asarray(stats.log_prob), stats.mask, highest)
    return top - mean_of_lowest(stats.log_prob, stats.mask, lowest)


def pac(
    stats: TokenStats, swap_stats: TokenStats, lowest: Share = 0.3, highest: Share = 0.05
) -> Float32[Array, "*batch doc"]:
    """Score a document by how much further swapped words set its likeliest tokens apart from the unlikeliest.

        -(PD(x) - mean_i PD(x_i)),   x_i = x after random swaps of words
        PD = mean of the max(1, int(highest n)) highest l_t - mean of the max(1, int(lowest n)) lowest l_t

    l_t = log p(x_t | x_<t) and n = number of scored tokens.

    Args:
        stats: statistics of the documents, fields [..., doc, time].
        swap_stats: of the swapped versions, fields [..., variant, doc, time], with a time axis of their own; a
            version without a scored token is missing and left out.
        lowest: share of tokens that counts as unlikely, in (0, 1].
        highest: share of tokens that counts as likely, in (0, 1].

    Returns:
        Nats per token; NaN where no token of the document is scored or it has no swapped version.

    References:
        Ye et al., Data Contamination Calibration for Black-box LLMs, 2024 (https://arxiv.org/abs/2405.11930).
    """
    SHARE.check("lowest", lowest)
    SHARE.check("highest", highest)
    exists = jnp.any(jnp.asarray(swap_stats.mask), axis=-1)
    distances = polarized_distance(swap_stats, lowest, highest)
    swapped = masked_mean(jnp.swapaxes(distances, -1, -2), jnp.swapaxes(exists, -1, -2))
    original, swapped = match_documents(polarized_distance(stats, lowest, highest), swapped, "swap_stats")
    return swapped - original

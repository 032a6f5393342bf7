"""Stratified percentile bootstrap of ranking metrics, for many attacks on the same documents at once."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from mimir_jax.metrics.roc import Counts, Ranking

# Entries of one [resample, document] array. Chunks this small stay in a core's cache through the dozen passes
# of the metrics, about twice as fast as all resamples at once, and they bound the memory to a few MiB.
_CHUNK_ENTRIES = 1 << 14


def resample_counts(
    n_documents: int, n_resamples: int, rng: np.random.Generator
) -> Int[np.ndarray, "resample document"]:
    """How often each document occurs in each of `n_resamples` draws of `n_documents` with replacement."""
    # Drawing and counting is the multinomial distribution, and ten times faster than rng.multinomial.
    drawn = rng.integers(n_documents, size=(n_resamples, n_documents))
    drawn += np.arange(n_resamples)[:, None] * n_documents
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)


def bootstrap(
    rankings: Sequence[Ranking],
    statistics: Callable[[Counts], Float[np.ndarray, "*batch statistic"]],
    n_resamples: int,
    seed: int,
) -> Float[np.ndarray, "ranking resample statistic"]:
    """Statistics of `n_resamples` stratified resamples: members and non-members are drawn separately.

    All rankings must be of the same documents. They are resampled together, so that differences between them
    are paired; and the resamples depend on the seed and the two sample sizes alone, so that a ranking gets
    the same ones whatever it is bootstrapped with.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 8 (several samples).

    Args:
        rankings: at least one, all with as many members and as many non-members.
        statistics: a vectorized function of counts, such as a stack of their metrics.
        n_resamples: resamples to draw, at least one.
        seed: of the draws.
    """
    n_members, n_nonmembers = len(rankings[0].members), len(rankings[0].nonmembers)
    # A stream each, so that the draws do not depend on the size of the chunks.
    member_rng, nonmember_rng = np.random.default_rng(seed).spawn(2)
    chunk = max(1, _CHUNK_ENTRIES // (n_members + n_nonmembers))
    parts = []
    for start in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - start)
        members = resample_counts(n_members, size, member_rng)
        nonmembers = resample_counts(n_nonmembers, size, nonmember_rng)
        parts.append(np.stack([statistics(ranking.counts(members, nonmembers)) for ranking in rankings]))
    return np.concatenate(parts, axis=1)


def percentile_interval(
    resampled: Float[np.ndarray, "*batch resample statistic"], confidence: float
) -> tuple[Float[np.ndarray, "*batch statistic"], Float[np.ndarray, "*batch statistic"]]:
    """The central `confidence` of the resampled values: lower and upper ends.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=-2)
    return low, high

"""Paired tests between scores of the same documents, and tables of many tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.special import ndtr

from mimir_jax.metrics.delong import Placements, placements, variance_of_means
from mimir_jax.metrics.intervals import quantile
from mimir_jax.metrics.roc import MetricsError, labeled_scores


@dataclass(frozen=True)
class Difference:
    """Between two metrics on the same documents.

    Attributes:
        difference: the first minus the second.
        low: lower end of its interval.
        high: upper end.
        p_value: two-sided, of no difference.
    """

    difference: float
    low: float
    high: float
    p_value: float


def auc_difference(
    first: Placements, second: Placements, confidence: float = 0.95, more_variance: float = 0.0
) -> Difference:
    """DeLong's paired test of two AUCs, from the placement values of the same documents.

    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988). Placements are the same numbers in the same order for
    both; they may be of cross-validated scores (`placements_in_folds`), or one of them constant, 1/2, for the test
    against chance.

    Args:
        first: of one score.
        second: of the other.
        confidence: of the interval.
        more_variance: what placements do not know of, to be added to the difference's variance.
    """
    apart = first.members - second.members, first.nonmembers - second.nonmembers
    difference = float(np.mean(apart[0]))
    deviation = (variance_of_means(*apart) + more_variance) ** 0.5
    if deviation == 0:
        return Difference(difference, difference, difference, float(difference == 0))
    half = quantile(confidence) * deviation
    return Difference(
        difference,
        max(difference - half, -1.0),
        min(difference + half, 1.0),
        float(2 * ndtr(-abs(difference) / deviation)),
    )


def compare(first: ArrayLike, second: ArrayLike, is_member: ArrayLike, confidence: float = 0.95) -> Difference:
    """The paired test of two attacks, or of one attack on two models, on the documents that both score.

    Args:
        first: scores [doc], NaN for none.
        second: likewise, of the same documents.
        is_member: labels.
        confidence: of the interval.

    Raises:
        MetricsError: as `labeled_scores`, or no document of a side is scored by both.
    """
    one, labels = labeled_scores(first, is_member)
    other, _ = labeled_scores(second, is_member)
    both = ~(np.isnan(one) | np.isnan(other))
    if not (both & labels).any() or not (both & ~labels).any():
        raise MetricsError("no member, or no non-member, has both scores")
    placed = [placements(scores[both & labels], scores[both & ~labels]) for scores in (one, other)]
    return auc_difference(placed[0], placed[1], confidence)


def benjamini_hochberg(p_values: Sequence[float]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values: those at most q are discoveries of which a share of q is false on average.

    Valid for independent and positively dependent tests: Benjamini and Hochberg, "Controlling the false discovery
    rate", Journal of the Royal Statistical Society B 57 (1995). NaN, of tests that were not made, stays NaN and
    counts for nothing.
    """
    p = np.asarray(p_values, float)
    made: Bool[np.ndarray, " test"] = ~np.isnan(p)
    order = np.argsort(p[made])[::-1]
    count = len(order)
    steps = p[made][order] * count / np.arange(count, 0, -1)
    adjusted = np.full(len(p), np.nan)
    adjusted[np.flatnonzero(made)[order]] = np.minimum(np.minimum.accumulate(steps), 1)
    return adjusted

"""Thresholds that are picked on one split and judged on another, and who is called a member."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.special import bdtr

from mimir_jax.metrics.intervals import Estimate, clopper_pearson
from mimir_jax.metrics.roc import MetricsError, check_fprs, labeled_scores


class Threshold(NamedTuple):
    """At or above which a score is called a member's.

    Attributes:
        value: inf where the non-members are too few for the target: nothing is called a member.
        nonmembers_called: of those that it was picked on.
    """

    value: float
    nonmembers_called: int


def pick_threshold(
    nonmembers: Float[np.ndarray, " nonmember"], fpr: float, confidence: float | None = None
) -> Threshold:
    """The lowest threshold, just above a non-member's score, that keeps the false-positive rate at the target.

    Without `confidence` the rate of these non-members is at most the target, and that of others may be larger half
    of the time. With it, the rate of the population is at most the target with that probability: as many of n are
    above as Binomial(n, fpr) exceeds with that probability. Tong, Feng and Li, "Neyman-Pearson classification
    algorithms and NP receiver operating characteristics", Science Advances 4 (2018).

    Args:
        nonmembers: scores; NaN is left out.
        fpr: the target, in (0, 1].
        confidence: that the target is kept, in (0, 1).

    Raises:
        MetricsError: no scored non-member, or settings out of their range.
    """
    check_fprs([fpr])
    falling = np.sort(nonmembers[~np.isnan(nonmembers)])[::-1]
    if not len(falling):
        raise MetricsError("a threshold is picked on non-members, and none has a score")
    n = len(falling)
    allowed = int(np.floor(fpr * n + 1e-9))
    if confidence is not None:
        if not 0 < confidence < 1:
            raise MetricsError(f"confidence must be between 0 and 1, not {confidence}")
        # The (k+1)-th highest of n has more than a share `fpr` above it with probability P(Binomial <= k).
        at_risk = bdtr(np.arange(n + 1.0), n, fpr)
        allowed = int(np.count_nonzero(at_risk <= 1 - confidence)) - 1
    if allowed >= n:
        return Threshold(-np.inf, n)
    if allowed < 0:
        return Threshold(np.inf, 0)
    value = float(np.nextafter(falling[allowed], np.inf))
    return Threshold(value, int(np.count_nonzero(falling >= value)))


@dataclass(frozen=True)
class Calibration:
    """A threshold of one split, and what it does on the other.

    Attributes:
        threshold: see `pick_threshold`.
        target: false-positive rate that it was picked for.
        fpr: share of the other split's non-members that are called members, with an exact interval.
        tpr: of its members.
        calibrating: [doc], which documents the threshold was picked on.
        predicted: [doc], called members; False where there is no score.
    """

    threshold: Threshold
    target: float
    fpr: Estimate
    tpr: Estimate
    calibrating: Bool[np.ndarray, " doc"]
    predicted: Bool[np.ndarray, " doc"]


def calibrate(
    scores: ArrayLike,
    is_member: ArrayLike,
    fpr: float,
    *,
    share: float = 0.5,
    keep_with: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Calibration:
    """Pick a threshold on a random share of the non-members, and report its rates on all other documents.

    The threshold owes nothing to the documents that the rates are of, so that Clopper-Pearson intervals hold.

    Args:
        scores: [doc], NaN for none.
        is_member: labels.
        fpr: target.
        share: of the scored non-members, to pick on.
        keep_with: see `confidence` of `pick_threshold`.
        confidence: of the intervals.
        seed: of the split.

    Raises:
        MetricsError: as `labeled_scores` and `pick_threshold`, or a part without a scored non-member.
    """
    values, labels = labeled_scores(scores, is_member)
    scored = ~np.isnan(values)
    rows = np.flatnonzero(scored & ~labels)
    count = round(share * len(rows))
    if not 0 < count < len(rows):
        raise MetricsError(f"{share} of {len(rows)} scored non-members leaves one part without any")
    calibrating = np.zeros(len(values), bool)
    calibrating[np.random.default_rng(seed).permutation(rows)[:count]] = True
    threshold = pick_threshold(values[calibrating], fpr, keep_with)
    predicted = scored & (np.nan_to_num(values, nan=-np.inf) >= threshold.value)
    rates = [_rate(predicted[scored & ~calibrating & (labels == side)], confidence) for side in (False, True)]
    return Calibration(threshold, fpr, rates[0], rates[1], calibrating, predicted)


def _rate(called: Bool[np.ndarray, " doc"], confidence: float) -> Estimate:
    low, high = clopper_pearson(np.array([called.sum()]), len(called), confidence)
    return Estimate(float(called.mean()), float(low[0]), float(high[0]))

"""Confidence intervals of ranking metrics, from what is left of the scores: placements, counts, ranks.

Which of them cover what they say was simulated (`benchmarks/coverage.py`); the defaults of `evaluate` are chosen by
it, and `UNDER_COVERING` says what is known of the others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaincinv, expit, logit, ndtri

from mimir_jax.metrics.delong import Placements

Values = Float[np.ndarray, "*batch"]
"""Arrays of at least one axis."""

PRIOR_DOCUMENTS = 0.25
"""Weight of Hanley and McNeil's variance against DeLong's in `score_interval`."""


@dataclass(frozen=True)
class Estimate:
    """A metric of the sample, with its interval."""

    value: float
    low: float
    high: float


def quantile(confidence: float) -> float:
    """Of the normal distribution, two-sided: 1.96 of .95."""
    return float(ndtri((1 + confidence) / 2))


def logit_interval(value: Values, variance: Values, confidence: float) -> tuple[Values, Values]:
    """Wald's interval on the logit scale, which stays within 0 and 1.

        expit(logit(a) -+ z sd / (a (1 - a)))

    With DeLong's variance this is the usual interval of an AUC: Pepe, "The statistical evaluation of medical tests
    for classification and prediction", 2003, section 5.2. It is a point where the value is 0 or 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        half = quantile(confidence) * np.sqrt(variance) / (value * (1 - value))
        low, high = expit(logit(value) - half), expit(logit(value) + half)
    inner = (value > 0) & (value < 1)
    return np.where(inner, low, value), np.where(inner, high, value)


def hanley_mcneil_variance(auc: Values, n_members: float, n_nonmembers: float) -> Values:
    """The variance of an AUC whose scores are exponential, by the AUC alone.

        a (1 - a) (1 + (m - 1) (1 - a) / (2 - a) + (n - 1) a / (1 + a)) / (m n)

    Hanley and McNeil, Radiology 143 (1982), as Newcombe 2006 writes it.
    """
    spread = 1 + (n_members - 1) * (1 - auc) / (2 - auc) + (n_nonmembers - 1) * auc / (1 + auc)
    return auc * (1 - auc) * spread / (n_members * n_nonmembers)


def score_interval(
    auc: Values, variance: Values, n_members: int, n_nonmembers: int, confidence: float
) -> tuple[Values, Values]:
    """Score-type interval of an AUC: all values a that the estimate does not reject, by the variance at a.

        (auc - a)^2 <= z^2 f V(a),    f = (w variance / V(auc) + w0) / (w + w0),    w = min(auc, 1 - auc) size

    V is Hanley and McNeil's variance with the mean of both sides' sizes, as in method 5 of Newcombe, "Confidence
    intervals for an effect size measure based on the Mann-Whitney statistic. Part 2", Statistics in Medicine 25
    (2006). Here it is scaled by how much wider the scores at hand are by DeLong's variance, as far as that can be
    known: w is about how many documents are on the wrong side, and w0 a quarter of a document. It is no point even
    with perfect separation.

    Args:
        auc: estimates.
        variance: DeLong's.
        n_members: behind each estimate.
        n_nonmembers: likewise.
        confidence: of the interval.
    """
    size = (n_members + n_nonmembers) / 2
    model = hanley_mcneil_variance(auc, size, size)
    ratio = np.divide(variance, model, out=np.ones_like(model), where=model > 0)
    weight = np.minimum(auc, 1 - auc) * size
    factor = (weight * ratio + PRIOR_DOCUMENTS) / (weight + PRIOR_DOCUMENTS)

    def outside(a: Values) -> np.ndarray:
        return (auc - a) ** 2 > quantile(confidence) ** 2 * factor * hanley_mcneil_variance(a, size, size)

    return _boundary(outside, np.zeros_like(auc), auc), _boundary(outside, np.ones_like(auc), auc)


def auc_interval(placed: Placements, confidence: float = 0.95) -> Estimate:
    """The AUC of placement values with its `score_interval`."""
    auc = placed.auc_roc
    low, high = score_interval(
        np.array([auc]), np.array([placed.variance]), len(placed.members), len(placed.nonmembers), confidence
    )
    return Estimate(auc, float(low[0]), float(high[0]))


def _boundary(outside: Callable[[Values], np.ndarray], far: Values, near: Values) -> Values:
    """Between a far end and the estimate, where `outside` begins, by bisection."""
    for _ in range(50):
        middle = (far + near) / 2
        out = outside(middle)
        far, near = np.where(out, middle, far), np.where(out, near, middle)
    # With no room for doubt the far end itself is inside.
    return np.where(outside(far), near, far)


def clopper_pearson(successes: Int[np.ndarray, "*batch"], n: int, confidence: float) -> tuple[Values, Values]:
    """Exact interval of a share; Clopper and Pearson, Biometrika 26 (1934)."""
    tail = (1 - confidence) / 2
    low = betaincinv(np.maximum(successes, 0.5), n - successes + 1, tail)
    high = betaincinv(successes + 1, np.maximum(n - successes, 0.5), 1 - tail)
    return np.where(successes == 0, 0.0, low), np.where(successes == n, 1.0, high)

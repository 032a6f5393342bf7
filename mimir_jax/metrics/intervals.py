"""Confidence intervals of ranking metrics, from what is left of the scores: placements, counts, ranks.

How often each covers the truth was simulated (`benchmarks/coverage.py`): the defaults are those that hold, and
`UNDER_COVERING` says what was found of the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaincinv, expit, logit, ndtri

from mimir_jax.metrics.delong import Placements

Values = Float[np.ndarray, "*batch"]
"""Arrays of at least one axis."""

AucInterval = Literal["score", "logit", "bootstrap"]
PrInterval = Literal["logit", "bootstrap"]
TprInterval = Literal["threshold", "clopper_pearson", "bootstrap"]
METHODS = {
    "auc_interval": get_args(AucInterval),
    "pr_interval": get_args(PrInterval),
    "tpr_interval": get_args(TprInterval),
}
"""By setting, its values; the first is the default."""

UNDER_COVERING = {
    ("auc_interval", "logit"): "AUC-ROC: logit intervals cover too little near 1",
    ("auc_interval", "bootstrap"): "AUC-ROC: bootstrap intervals cover too little near 1 and for few documents",
    ("pr_interval", "bootstrap"): "PR-AUC: bootstrap intervals cover too little near 1 and for few documents",
    ("tpr_interval", "clopper_pearson"): "TPR: Clopper-Pearson takes the threshold as known and covers too little",
    ("tpr_interval", "bootstrap"): "TPR: bootstrap intervals cover too little where few non-members decide",
}
"""What is known of intervals that do not hold, by setting and value; see `benchmarks/README.md`."""

TPR_DRAWS = 10000
"""Of the simulation behind `tpr_interval`."""
PRIOR_DOCUMENTS = 0.25
"""Weight of Hanley and McNeil's variance against DeLong's in `score_interval`."""


@dataclass(frozen=True)
class Estimate:
    """A metric of the sample, with its interval."""

    value: float
    low: float
    high: float


def interval_notes(**methods: str) -> tuple[str, ...]:
    """What must be said of the chosen intervals: nothing of those that hold."""
    return tuple(UNDER_COVERING[choice] for choice in methods.items() if choice in UNDER_COVERING)


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


def hanley_mcneil_variance(auc: Values, n_members: int, n_nonmembers: int) -> Values:
    """The variance of an AUC whose scores are exponential, by the AUC alone, for members and non-members alike.

        a (1 - a) (1 + (N - 1) ((1 - a) / (2 - a) + a / (1 + a))) / (m n),    N = (m + n) / 2

    Hanley and McNeil, Radiology 143 (1982), as Newcombe 2006 has it in his method 5.
    """
    size = (n_members + n_nonmembers) / 2
    spread = 1 + (size - 1) * ((1 - auc) / (2 - auc) + auc / (1 + auc))
    return auc * (1 - auc) * spread / (n_members * n_nonmembers)


def score_interval(
    auc: Values, variance: Values, n_members: int, n_nonmembers: int, confidence: float
) -> tuple[Values, Values]:
    """Score-type interval of an AUC: all values a that the estimate does not reject, by the variance at a.

        (auc - a)^2 <= z^2 f V(a),    f = (w variance / V(auc) + w0) / (w + w0),    w = min(auc, 1 - auc) size

    V is `hanley_mcneil_variance`, as in method 5 of Newcombe, "Confidence intervals for an effect size measure based on
    the Mann-Whitney statistic. Part 2", Statistics in Medicine 25 (2006). Here it is scaled by how much wider the
    scores at hand are by DeLong's variance, as far as that can be known: with size the harmonic mean of both sides'
    numbers, w is about how many documents are on the wrong side, and w0 a quarter of a document. It is no point
    even with perfect separation.

    Args:
        auc: estimates.
        variance: DeLong's.
        n_members: behind each estimate.
        n_nonmembers: likewise.
        confidence: of the interval.
    """
    model = hanley_mcneil_variance(auc, n_members, n_nonmembers)
    ratio = np.divide(variance, model, out=np.ones_like(model), where=model > 0)
    weight = np.minimum(auc, 1 - auc) * 2 * n_members * n_nonmembers / (n_members + n_nonmembers)
    factor = (weight * ratio + PRIOR_DOCUMENTS) / (weight + PRIOR_DOCUMENTS)

    def outside(a: Values) -> np.ndarray:
        return (auc - a) ** 2 > quantile(confidence) ** 2 * factor * hanley_mcneil_variance(a, n_members, n_nonmembers)

    return _boundary(outside, np.zeros_like(auc), auc), _boundary(outside, np.ones_like(auc), auc)


def auc_interval(
    placed: Placements,
    confidence: float = 0.95,
    variance_factor: float = 1.0,
    method: Literal["score", "logit"] = "score",
) -> Estimate:
    """The AUC of placement values with an interval, whose variance is DeLong's times a factor."""
    auc = placed.auc_roc
    value, variance = np.array([auc]), np.array([variance_factor * placed.variance])
    if method == "logit":
        low, high = logit_interval(value, variance, confidence)
    else:
        low, high = score_interval(value, variance, len(placed.members), len(placed.nonmembers), confidence)
    return Estimate(auc, float(low[0]), float(high[0]))


def _boundary(outside: Callable[[Values], np.ndarray], far: Values, near: Values) -> Values:
    """Between a far end and the estimate, where `outside` begins, by bisection."""
    for _ in range(50):
        middle = (far + near) / 2
        out = outside(middle)
        far, near = np.where(out, middle, far), np.where(out, near, middle)
    # With no room for doubt the far end itself is inside.
    return np.where(outside(far), near, far)


def pr_auc_interval(
    value: float, resampled: Float[np.ndarray, " resample"], n_members: int, n_nonmembers: int, confidence: float
) -> Estimate:
    """Average precision with a Wald interval on the logit scale, whose variance is that of the bootstrap.

    Boyd, Eng and Page, "Area under the precision-recall curve: point estimates and confidence intervals", ECML 2013,
    who take the binomial variance, which is too large here. Resamples with perfect separation count as if half a
    pair were in the wrong order. Where the sample itself is separated, the lower end is that of a share in which all
    members succeed: a share p of members with a non-member above them costs at most p.
    """
    if value >= 1:
        return Estimate(value, float(clopper_pearson(np.array([n_members]), n_members, confidence)[0][0]), value)
    half_a_pair = 0.5 / (n_members * n_nonmembers)
    deviation = np.std(logit(np.clip(resampled, half_a_pair, 1 - half_a_pair)), ddof=min(1, len(resampled) - 1))
    half = quantile(confidence) * float(deviation)
    return Estimate(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))


def clopper_pearson(successes: Int[np.ndarray, "*batch"], n: int, confidence: float) -> tuple[Values, Values]:
    """Exact interval of a share; Clopper and Pearson, Biometrika 26 (1934)."""
    tail = (1 - confidence) / 2
    low = betaincinv(np.maximum(successes, 0.5), n - successes + 1, tail)
    high = betaincinv(successes + 1, np.maximum(n - successes, 0.5), 1 - tail)
    return np.where(successes == 0, 0.0, low), np.where(successes == n, 1.0, high)


def tpr_interval(
    members_above: Int[np.ndarray, " false_positives"],
    n_members: int,
    fpr: float,
    confidence: float,
    n_draws: int = TPR_DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the true-positive rate at a false-positive rate of the population, not of these non-members.

    The threshold is as uncertain as the non-members are few: at a true rate u, Binomial(n, u) of them are above it.
    So draw how many are, k; where between the true rates of the k-th and the next one (order statistics of uniforms)
    u lies; read the members above off the ROC curve there, its points joined by straight lines; and draw the rate of
    which that is a sample, from Jeffreys' Beta(x + 1/2, m - x + 1/2). The interval is that of the draws. After Gu,
    Ghosal and Roy, "Bayesian bootstrap estimation of ROC curve", Statistics in Medicine 27 (2008).

    Below the smallest rate that the non-members resolve this trusts the curve to be concave.

    Args:
        members_above: by number of false positives k from 0 to the number of non-members, how many members can be
            called with at most k of them; the last is all members.
        n_members: behind it.
        fpr: in (0, 1].
        confidence: of the interval.
        n_draws: of the simulation.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    n = len(members_above) - 1
    k = rng.binomial(n, fpr, n_draws)
    with np.errstate(divide="ignore"):
        before = np.where(k > 0, fpr * rng.random(n_draws) ** (1 / k), 0.0)
        after = np.where(k < n, fpr + (1 - fpr) * (1 - rng.random(n_draws) ** (1 / (n - k))), 1.0)
    share = np.divide(fpr - before, after - before, out=np.ones(n_draws), where=after > before)
    points = np.concatenate([[0], members_above])
    x = points[k] + share * (points[k + 1] - points[k])
    rates = rng.beta(x + 0.5, n_members - x + 0.5)
    tail = (1 - confidence) / 2
    # As usual with Jeffreys' interval: nothing called does not say that the rate is above 0, nor everything below 1.
    low = np.quantile(np.where(x < 0.5, 0.0, rates), tail)
    high = np.quantile(np.where(x > n_members - 0.5, 1.0, rates), 1 - tail)
    return float(low), float(high)


def members_above(
    members: Float[np.ndarray, " member"], nonmembers: Float[np.ndarray, " nonmember"]
) -> Int[np.ndarray, " false_positives"]:
    """By number k of false positives, how many members can be called with at most k of them: above the (k+1)-th
    highest non-member. The last is all members."""
    falling = np.sort(nonmembers)[::-1]
    below = np.searchsorted(np.sort(members), falling, "right")
    return np.append(len(members) - below, len(members))

"""MIMIR's metrics, defect for defect.

Scores are MIMIR's: lower = member. Those of this package are `metrics`, and differ:

    TPR at an FPR     MIMIR: FPR strictly below the budget, on a curve without the points that change no area;
                      here: at most the budget, on all points.
    PR-AUC            MIMIR: non-members positive, trapezoids; here: members positive, average precision.
    bootstrap of AUC  MIMIR: members and non-members are drawn together, and the mean is of 1 - AUC, since scores
                      are negated twice; here: apart, and of the AUC.
    thresholds        MIMIR: found on negated scores, then set against scores that are not;
    of other sources  here: `roc_at_thresholds`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mimir_jax.metrics.roc import MetricsError, Ranking


class Roc(NamedTuple):
    """A thinned ROC curve, members positive.

    Attributes:
        fpr: [point], from 0 to 1.
        tpr: [point], from 0 to 1.
        auc: area below.
        thresholds: [point], of the negated scores, falling; the first is infinite.
    """

    fpr: Float[np.ndarray, " point"]
    tpr: Float[np.ndarray, " point"]
    auc: float
    thresholds: Float[np.ndarray, " point"]


class PrecisionRecall(NamedTuple):
    """A precision-recall curve, non-members positive, and the area of the trapezoids below."""

    precision: Float[np.ndarray, " point"]
    recall: Float[np.ndarray, " point"]
    auc: float


def _sides(members: ArrayLike, nonmembers: ArrayLike) -> tuple[Float[np.ndarray, " member"], Float[np.ndarray, " non"]]:
    """Scores of both sides without NaN.

    Raises:
        MetricsError: a side without any score.
    """
    sides = [np.asarray(side, np.float64).ravel() for side in (members, nonmembers)]
    member, nonmember = (side[~np.isnan(side)] for side in sides)
    if not len(member) or not len(nonmember):
        raise MetricsError(f"{len(member)} members and {len(nonmember)} non-members have a score; both sides need one")
    return member, nonmember


def roc(members: ArrayLike, nonmembers: ArrayLike) -> Roc:
    """The ROC curve as MIMIR stores it: scikit-learn's, which leaves out points between others on a line.

    Args:
        members: [doc], lower = member; NaN is left out.
        nonmembers: [doc].

    Raises:
        MetricsError: a side without any score.
    """
    from sklearn.metrics import auc, roc_curve  # takes a second to import

    member, nonmember = _sides(members, nonmembers)
    labels = np.repeat([1, 0], [len(member), len(nonmember)])
    fpr, tpr, thresholds = roc_curve(labels, -np.concatenate([member, nonmember]))
    return Roc(fpr, tpr, float(auc(fpr, tpr)), thresholds)


def tpr_below_fpr(fpr: ArrayLike, tpr: ArrayLike, budgets: Iterable[float]) -> dict[float, float]:
    """For each budget the TPR of the last point of a curve whose FPR is below it, and not equal to it."""
    rates = np.asarray(tpr)
    return {budget: float(rates[np.flatnonzero(np.asarray(fpr) < budget)[-1]]) for budget in budgets}


def precision_recall(members: ArrayLike, nonmembers: ArrayLike) -> PrecisionRecall:
    """The precision-recall curve of non-members, and its area by trapezoids. Arguments and errors as for `roc`."""
    from sklearn.metrics import auc, precision_recall_curve

    member, nonmember = _sides(members, nonmembers)
    labels = np.repeat([0, 1], [len(member), len(nonmember)])
    precision, recall, _ = precision_recall_curve(labels, np.concatenate([member, nonmember]))
    return PrecisionRecall(precision, recall, float(auc(recall, precision)))


def bootstrap_auc(
    members: ArrayLike, nonmembers: ArrayLike, random: np.random.RandomState, n_resamples: int = 1000
) -> Float[np.ndarray, " resample"]:
    """MIMIR's bootstrap distribution, of 1 - AUC. It stores the mean, and the standard deviation with ddof 1.

    All documents are drawn together, so that the share of members varies. The draws are those of scipy's bootstrap
    with this generator; MIMIR's generator is NumPy's global one, seeded with random_seed before the non-members are
    scored, and goes on from attack to attack.

    Args:
        members: [doc], lower = member; NaN is left out.
        nonmembers: [doc].
        random: of the draws.
        n_resamples: draws.

    Returns:
        NaN where a draw has only one side.

    Raises:
        MetricsError: a side without any score.
    """
    member, nonmember = _sides(members, nonmembers)
    n = len(member) + len(nonmember)
    is_member = np.arange(n) < len(member)
    ranking = Ranking.of(np.concatenate([member, nonmember]), is_member)  # lower = member: ranked the wrong way round
    values = np.empty(n_resamples)
    for i in range(n_resamples):
        times = np.bincount(random.randint(0, n, size=n), minlength=n)
        if times[is_member].any() and times[~is_member].any():
            values[i] = ranking.counts(times[is_member], times[~is_member]).auc_roc()
        else:
            values[i] = np.nan
    return values


def auc_from_thresholds(members: ArrayLike, nonmembers: ArrayLike, thresholds: ArrayLike) -> float:
    """MIMIR's AUC of other non-members: non-members positive, and called so at or above each threshold.

    Its thresholds are of negated scores, as in `Roc`, and its scores are not negated: losses are above every finite
    one, so that the result is 1/2 whatever the scores say. (Its run fails before it comes to this.)

    Args:
        members: [doc], lower = member.
        nonmembers: [doc], of another source.
        thresholds: of the main split's curve.
    """
    from sklearn.metrics import auc

    tpr = _share_at_or_above(nonmembers, thresholds)
    fpr = _share_at_or_above(members, thresholds)
    return float(auc(fpr, tpr))


class Rates(NamedTuple):
    """What thresholds that were chosen elsewhere do to other documents."""

    fpr: Float[np.ndarray, " threshold"]
    tpr: Float[np.ndarray, " threshold"]
    auc: float


def roc_at_thresholds(members: ArrayLike, nonmembers: ArrayLike, thresholds: ArrayLike) -> Rates:
    """What `auc_from_thresholds` is meant to be: members positive, higher = member, as everywhere in this package.

    Args:
        members: [doc], higher = member; NaN is left out.
        nonmembers: [doc], of another source.
        thresholds: the scores at or above which a document is called a member, falling: `roc(...).thresholds` of the
            main split, whose scores MIMIR negates.

    Returns:
        Rates, and the area below them: between the loosest threshold and (1, 1) there is none.

    Raises:
        MetricsError: a side without any score.
    """
    from sklearn.metrics import auc

    member, nonmember = _sides(members, nonmembers)
    fpr, tpr = _share_at_or_above(nonmember, thresholds), _share_at_or_above(member, thresholds)
    return Rates(fpr, tpr, float(auc(fpr, tpr)))


def _share_at_or_above(scores: ArrayLike, thresholds: ArrayLike) -> Float[np.ndarray, " threshold"]:
    values = np.asarray(scores, np.float64)
    called = values[~np.isnan(values)] >= np.asarray(thresholds)[:, None]
    return called.mean(axis=1)

"""ROC and precision-recall metrics of membership scores, for one sample or for many resamples at once.

Conventions, everywhere in this package:

    - a higher score means more likely a member; members are the positive class;
    - a document is called a member where its score is at or above a threshold, so that documents with equal
      scores are always called alike;
    - a NaN score is an unscored document, which is left out (`evaluate` counts them).

Every metric is a function of two rows of counts, the true and the false positives at each distinct score
(`Counts`). Sorting happens once a sample (`Ranking`); a bootstrap resample only changes how often each
document counts, so that resamples are a leading axis of the same arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from numpy.typing import ArrayLike

from mimir_jax.metrics import notebook


class MetricsError(ValueError):
    """Scores, labels or settings from which no metric can be computed; the message says why."""


class RocCurve(NamedTuple):
    """Points of an empirical ROC curve, from the strictest threshold to the loosest.

    Attributes:
        fpr: false-positive rate, from 0 to 1, never falling.
        tpr: true-positive rate, from 0 to 1, never falling.
        thresholds: the distinct scores in falling order, after an infinite one that no document reaches.
    """

    fpr: Float[np.ndarray, "threshold"]
    tpr: Float[np.ndarray, "threshold"]
    thresholds: Float[np.ndarray, "threshold"]

    def _repr_html_(self) -> str:
        return notebook.curve(self.fpr, self.tpr)


@dataclass(frozen=True, eq=False)
class Counts:
    """Documents called members at each threshold, in falling order of the threshold.

    The first threshold calls nothing a member, the last one everything. Repeated points change no metric, so
    that a resample keeps the thresholds of the whole sample. Leading axes are free: `[resample, threshold]`.

    Attributes:
        true_positives: members at or above the threshold.
        false_positives: non-members at or above the threshold.
    """

    true_positives: Float[np.ndarray, "*batch threshold"]
    false_positives: Float[np.ndarray, "*batch threshold"]

    def auc_roc(self) -> Float[np.ndarray, "*batch"]:
        """P(member scores higher) + P(equal) / 2: the area of the trapezoids under the ROC curve.

        Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC)
        curve", Radiology 143 (1982).
        """
        tp, fp = self.true_positives, self.false_positives
        area = np.einsum("...t,...t->...", np.diff(fp), tp[..., 1:] + tp[..., :-1]) / 2
        return np.asarray(area / (tp[..., -1] * fp[..., -1]))

    def pr_auc(self) -> Float[np.ndarray, "*batch"]:
        """Average precision: sum over thresholds of precision times the gain in recall, members positive.

        No interpolation between thresholds, which is too optimistic in precision-recall space: Davis and
        Goadrich, "The relationship between precision-recall and ROC curves", ICML 2006.
        """
        tp, fp = self.true_positives, self.false_positives
        # A resample may lack every document of the strictest thresholds: recall gains nothing there.
        called = np.maximum(tp + fp, 1)[..., 1:]
        gained = np.einsum("...t,...t->...", np.diff(tp), tp[..., 1:] / called)
        return np.asarray(gained / tp[..., -1])

    def tpr_at_fpr(self, fprs: Sequence[float]) -> Float[np.ndarray, "*batch fpr"]:
        """For each budget the largest true-positive rate whose false-positive rate is within it.

        Nothing is interpolated. Carlini et al., "Membership inference attacks from first principles", IEEE
        S&P 2022, arXiv:2112.03570.
        """
        tp, fp = self.true_positives, self.false_positives
        # Rates are compared, not counts: int(0.29 * 100) is 28, although 29 of 100 are within 0.29.
        fpr = fp / fp[..., -1:]
        last = np.empty((*fpr.shape[:-1], len(fprs)), dtype=np.intp)
        for i, budget in enumerate(fprs):
            last[..., i] = np.count_nonzero(fpr <= budget, axis=-1) - 1
        return np.take_along_axis(tp, last, axis=-1) / tp[..., -1:]


@dataclass(frozen=True, eq=False)
class Ranking:
    """One sample of scores, sorted and with ties grouped: what every resample of it shares.

    Attributes:
        members: positions among the scored members, highest score first.
        nonmembers: positions among the scored non-members, highest score first.
        thresholds: the distinct scores in falling order, after an infinite one.
        members_called: how many members are at or above each threshold.
        nonmembers_called: how many non-members are at or above each threshold.
    """

    members: Int[np.ndarray, "member"]
    nonmembers: Int[np.ndarray, "nonmember"]
    thresholds: Float[np.ndarray, "threshold"]
    members_called: Int[np.ndarray, "threshold"]
    nonmembers_called: Int[np.ndarray, "threshold"]

    @classmethod
    def of(cls, scores: Float[np.ndarray, "doc"], is_member: Bool[np.ndarray, "doc"]) -> "Ranking":
        """Sort what `labeled_scores` returned, without the unscored documents."""
        scored = ~np.isnan(scores)
        members, nonmembers = scores[scored & is_member], scores[scored & ~is_member]
        thresholds = np.append(np.inf, np.unique(np.concatenate([members, nonmembers]))[::-1])
        return cls(
            members=np.argsort(-members, kind="stable"),
            nonmembers=np.argsort(-nonmembers, kind="stable"),
            thresholds=thresholds,
            members_called=len(members) - np.searchsorted(np.sort(members), thresholds),
            nonmembers_called=len(nonmembers) - np.searchsorted(np.sort(nonmembers), thresholds),
        )

    def counts(
        self, members: Real[np.ndarray, "*batch member"], nonmembers: Real[np.ndarray, "*batch nonmember"]
    ) -> Counts:
        """Counts of a resample: how often each scored member and non-member occurs, in document order."""
        return Counts(
            _cumulative(members, self.members, self.members_called),
            _cumulative(nonmembers, self.nonmembers, self.nonmembers_called),
        )

    def sample_counts(self) -> Counts:
        """Counts of the sample itself."""
        return self.counts(np.ones(len(self.members)), np.ones(len(self.nonmembers)))


def _cumulative(
    times: Real[np.ndarray, "*batch document"],
    order: Int[np.ndarray, "document"],
    called: Int[np.ndarray, "threshold"],
) -> Float[np.ndarray, "*batch threshold"]:
    """Total of `times` over the first `called[t]` documents of `order`, for each threshold t."""
    totals = np.zeros((*times.shape[:-1], len(order) + 1))
    np.cumsum(np.take(times, order, axis=-1), axis=-1, out=totals[..., 1:])
    return np.take(totals, called, axis=-1)


def labeled_scores(scores: ArrayLike, is_member: ArrayLike) -> tuple[Float[np.ndarray, "doc"], Bool[np.ndarray, "doc"]]:
    """Scores as float64 and labels as bool, [doc] each, with something scored on both sides.

    Args:
        scores: [doc], NaN or None for an unscored document.
        is_member: [doc], booleans or 0 and 1.

    Raises:
        MetricsError: scores that are not numbers, more than one axis, lengths that differ, infinite scores,
            other labels, no scored member or no scored non-member.
    """
    values, labels = as_numbers(scores), np.asarray(is_member)
    if labels.dtype.kind not in "biuf" or not np.all((labels == 0) | (labels == 1)):
        raise MetricsError("is_member must hold booleans, or 0 and 1, and nothing else")
    if values.ndim != 1 or labels.ndim != 1:
        raise MetricsError(f"scores and is_member must have one axis, not the shapes {values.shape} and {labels.shape}")
    if len(values) != len(labels):
        raise MetricsError(f"{len(values)} scores for {len(labels)} values of is_member")
    if n_infinite := np.count_nonzero(np.isinf(values)):
        raise MetricsError(f"{n_infinite} of {len(values)} scores are infinite; a document without a score must be NaN")
    labels = labels.astype(np.bool_)
    scored = ~np.isnan(values)
    for name, side in (("member", labels), ("non-member", ~labels)):
        if not np.any(side):
            raise MetricsError(f"there is no {name}, and metrics need both members and non-members")
        if not np.any(side & scored):
            raise MetricsError(f"none of the {np.count_nonzero(side)} {name}s has a score")
    return values, labels


def as_numbers(scores: ArrayLike) -> Float[np.ndarray, "..."]:
    """Scores as float64, None as NaN.

    Raises:
        MetricsError: not numbers, or rows of different lengths.
    """
    try:
        return np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MetricsError(f"scores must be numbers, with NaN for unscored documents: {error}") from error


def check_fprs(fprs: Sequence[float]) -> None:
    """Refuse false-positive budgets outside (0, 1].

    Raises:
        MetricsError: naming those that are.
    """
    if wrong := [fpr for fpr in fprs if not 0 < fpr <= 1]:
        raise MetricsError(f"a false-positive rate must be above 0 and at most 1, not {', '.join(map(str, wrong))}")


def roc_curve(scores: ArrayLike, is_member: ArrayLike) -> RocCurve:
    """The empirical ROC curve, one point a distinct score, from (0, 0) to (1, 1).

    Equal to scikit-learn's `roc_curve` with `drop_intermediate=False`. Arguments and errors as for
    `labeled_scores`.
    """
    ranking = Ranking.of(*labeled_scores(scores, is_member))
    counts = ranking.sample_counts()
    return RocCurve(
        fpr=counts.false_positives / counts.false_positives[-1],
        tpr=counts.true_positives / counts.true_positives[-1],
        thresholds=ranking.thresholds,
    )


def auc_roc(scores: ArrayLike, is_member: ArrayLike) -> float:
    """Area under the ROC curve: P(member scores higher) + P(equal) / 2; see `Counts.auc_roc`.

    Equal to scikit-learn's `roc_auc_score`. Arguments and errors as for `labeled_scores`.

    >>> auc_roc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
    0.875
    """
    return float(Ranking.of(*labeled_scores(scores, is_member)).sample_counts().auc_roc())


def pr_auc(scores: ArrayLike, is_member: ArrayLike) -> float:
    """Area under the precision-recall curve as average precision, members positive; see `Counts.pr_auc`.

    Equal to scikit-learn's `average_precision_score`. A score that tells nothing gets the share of members,
    not one half. Arguments and errors as for `labeled_scores`.
    """
    return float(Ranking.of(*labeled_scores(scores, is_member)).sample_counts().pr_auc())


def tpr_at_fpr(scores: ArrayLike, is_member: ArrayLike, fpr: float) -> float:
    """The largest true-positive rate whose false-positive rate is at most `fpr`; see `Counts.tpr_at_fpr`.

    Where `fpr` is less than one in the number of non-members, this is the rate at zero false positives: the
    sample cannot tell the two apart. Arguments and errors as for `labeled_scores`.

    Raises:
        MetricsError: also an `fpr` outside (0, 1].

    >>> tpr_at_fpr([4, 3, 1, 2, 0], [True, True, True, False, False], fpr=0.1)
    0.6666666666666666
    """
    check_fprs([fpr])
    return float(Ranking.of(*labeled_scores(scores, is_member)).sample_counts().tpr_at_fpr([fpr])[0])

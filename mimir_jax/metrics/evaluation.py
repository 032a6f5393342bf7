"""From membership scores to metrics with intervals and counts."""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from mimir_jax.metrics.bootstrap import bootstrap, percentile_interval
from mimir_jax.metrics.delong import placements
from mimir_jax.metrics.intervals import (
    AucInterval,
    Estimate,
    PrInterval,
    TprInterval,
    clopper_pearson,
    interval_notes,
    members_above,
    pr_auc_interval,
    tpr_interval,
)
from mimir_jax.metrics.intervals import auc_interval as auc_estimate
from mimir_jax.metrics.result import Metrics, TprEstimate
from mimir_jax.metrics.roc import Counts, MetricsError, Ranking, as_numbers, check_fprs, labeled_scores

Name = TypeVar("Name", bound=Hashable)


@overload
def evaluate(
    scores: Mapping[Name, ArrayLike],
    is_member: ArrayLike,
    *,
    fprs: Sequence[float] = ...,
    n_bootstrap: int = ...,
    confidence: float = ...,
    seed: int = ...,
    auc_interval: AucInterval = ...,
    pr_interval: PrInterval = ...,
    tpr_interval: TprInterval = ...,
) -> dict[Name, Metrics]: ...


# Whether an array has one axis or two is not in its type: `| Any` spares callers who know a cast.
@overload
def evaluate(
    scores: ArrayLike,
    is_member: ArrayLike,
    *,
    fprs: Sequence[float] = ...,
    n_bootstrap: int = ...,
    confidence: float = ...,
    seed: int = ...,
    auc_interval: AucInterval = ...,
    pr_interval: PrInterval = ...,
    tpr_interval: TprInterval = ...,
) -> Metrics | Any: ...


def evaluate(
    scores: Mapping[Name, ArrayLike] | ArrayLike,
    is_member: ArrayLike,
    *,
    fprs: Sequence[float] = (0.001, 0.01, 0.05),
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    auc_interval: AucInterval = "score",
    pr_interval: PrInterval = "logit",
    tpr_interval: TprInterval = "threshold",
) -> Metrics | list[Metrics] | dict[Name, Metrics]:
    """AUC-ROC, PR-AUC and TPR at given FPRs, each with an interval.

    The intervals are of the sampling of documents only. The defaults cover what they say in simulations
    (`benchmarks/coverage.py`): of the AUC `score_interval`; of the PR-AUC a logit interval with the bootstrap's
    variance; of the TPR `tpr_interval`, in which the threshold is as uncertain as the non-members are few. Others can
    be chosen, and `Metrics.notes` then says what is known of them. Bootstrap means the percentiles of stratified
    resamples, which scores of the same documents share.

    Where an FPR is below one in the number of scored non-members the sample cannot resolve it: the TPR is
    then that at zero false positives, and `resolvable` is False.

    Args:
        scores: [doc], or [attack, doc], or a mapping from names to [doc]; higher means more likely a member,
            NaN (or None) that the document is unscored.
        is_member: [doc], booleans or 0 and 1.
        fprs: false-positive budgets, each in (0, 1].
        n_bootstrap: resamples, at least one.
        confidence: of the intervals, in (0, 1).
        seed: of the resamples and draws.
        auc_interval: `score`, `logit` (Wald's, with DeLong's variance) or `bootstrap`.
        pr_interval: `logit` or `bootstrap`.
        tpr_interval: `threshold`, `clopper_pearson` (the threshold taken as known) or `bootstrap`.

    Returns:
        Metrics for [doc]; a list of them for [attack, doc]; a dict with the mapping's keys for a mapping.

    Raises:
        MetricsError: a setting out of its range; scores or labels of the wrong kind, shape or length;
            infinite scores; an attack without a scored member or non-member. Of several attacks all faults
            are named.
    """
    check_fprs(fprs)
    if n_bootstrap < 1:
        raise MetricsError(f"n_bootstrap must be at least 1, not {n_bootstrap}")
    if not 0 < confidence < 1:
        raise MetricsError(f"confidence must be between 0 and 1, not {confidence}")
    methods = {"auc_interval": auc_interval, "pr_interval": pr_interval, "tpr_interval": tpr_interval}
    settings = (tuple(fprs), n_bootstrap, confidence, seed, methods)

    if isinstance(scores, Mapping):
        return _summarize(_labeled_rows(scores, is_member, "{}"), *settings)
    values = as_numbers(scores)
    if values.ndim == 2:
        rows = dict(enumerate(values))
        return list(_summarize(_labeled_rows(rows, is_member, "row {}"), *settings).values())
    return _summarize({None: labeled_scores(values, is_member)}, *settings)[None]


def _labeled_rows(
    rows: Mapping[Name, ArrayLike], is_member: ArrayLike, label: str
) -> dict[Name, tuple[np.ndarray, np.ndarray]]:
    """`labeled_scores` of each row; one error for the faults of all."""
    labeled, faults = {}, []
    for name, row in rows.items():
        try:
            labeled[name] = labeled_scores(row, is_member)
        except MetricsError as error:
            faults.append(f"{label.format(name)}: {error}")
    if faults:
        raise MetricsError("; ".join(faults))
    return labeled


def _summarize(
    labeled: Mapping[Name, tuple[np.ndarray, np.ndarray]],
    fprs: tuple[float, ...],
    n_bootstrap: int,
    confidence: float,
    seed: int,
    methods: Mapping[str, str],
) -> dict[Name, Metrics]:
    """Metrics of scores and labels that `labeled_scores` returned."""

    def statistics(counts: Counts) -> Float[np.ndarray, "*batch statistic"]:
        values = [counts.pr_auc()[..., None]]
        if methods["auc_interval"] == "bootstrap":
            values.append(counts.auc_roc()[..., None])
        if methods["tpr_interval"] == "bootstrap":
            values.append(counts.tpr_at_fpr(fprs))
        return np.concatenate(values, axis=-1)

    rankings = {name: Ranking.of(scores, is_member) for name, (scores, is_member) in labeled.items()}
    same_documents = defaultdict(list)
    for name, (scores, _) in labeled.items():
        same_documents[np.isnan(scores).tobytes()].append(name)

    metrics = {}
    for names in same_documents.values():
        resampled = bootstrap([rankings[name] for name in names], statistics, n_bootstrap, seed)
        for name, rows in zip(names, resampled):
            metrics[name] = _metrics(*labeled[name], rankings[name], rows, fprs, confidence, seed, methods)
    return {name: metrics[name] for name in labeled}


def _metrics(
    scores: Float[np.ndarray, " doc"],
    is_member: Bool[np.ndarray, " doc"],
    ranking: Ranking,
    resampled: Float[np.ndarray, "resample statistic"],
    fprs: tuple[float, ...],
    confidence: float,
    seed: int,
    methods: Mapping[str, str],
) -> Metrics:
    """Of one score; `resampled` holds the PR-AUC, then what else is bootstrapped: the AUC-ROC, the TPRs."""
    scored = ~np.isnan(scores)
    members, nonmembers = scores[is_member & scored], scores[~is_member & scored]
    counts = ranking.sample_counts()
    percentiles = np.stack(percentile_interval(resampled, confidence), axis=-1).tolist()

    if methods["auc_interval"] == "bootstrap":
        auc = Estimate(float(counts.auc_roc()), *percentiles[1])
    else:
        method: Literal["score", "logit"] = "score" if methods["auc_interval"] == "score" else "logit"
        auc = auc_estimate(placements(members, nonmembers), confidence, method=method)
    average_precision = float(counts.pr_auc())
    if methods["pr_interval"] == "bootstrap":
        pr_auc = Estimate(average_precision, *percentiles[0])
    else:
        pr_auc = pr_auc_interval(average_precision, resampled[:, 0], len(members), len(nonmembers), confidence)
    above = members_above(members, nonmembers)
    tprs = {}
    for i, (fpr, value) in enumerate(zip(fprs, counts.tpr_at_fpr(fprs).tolist())):
        if methods["tpr_interval"] == "bootstrap":
            low, high = percentiles[i - len(fprs)]
        elif methods["tpr_interval"] == "clopper_pearson":
            called = np.array([round(value * len(members))])
            low, high = (float(end[0]) for end in clopper_pearson(called, len(members), confidence))
        else:
            low, high = tpr_interval(above, len(members), fpr, confidence, seed=seed)
        # The largest TPR within a budget is itself a little too large: it may be at the end of its interval.
        tprs[fpr] = TprEstimate(value, min(low, value), max(high, value), resolvable=1 / len(nonmembers) <= fpr)
    return Metrics(
        auc_roc=auc,
        pr_auc=pr_auc,
        tpr_at_fpr=tprs,
        n_members=len(members),
        n_nonmembers=len(nonmembers),
        n_unscored_members=int(np.count_nonzero(is_member)) - len(members),
        n_unscored_nonmembers=int(np.count_nonzero(~is_member)) - len(nonmembers),
        confidence=confidence,
        notes=(
            *interval_notes(**methods),
            *(
                f"an FPR of {100 * fpr:g}% needs {math.ceil(1 / fpr)} scored non-members, and there are "
                f"{len(nonmembers)}: its TPR is that at no false positive"
                for fpr, tpr in tprs.items()
                if not tpr.resolvable
            ),
        ),
    )

"""What membership scores owe to how much of a document occurs in a corpus (`mimir_jax.data.ngram_index`).

A non-member most of whose n-grams are in the training data is hardly one, and a score that separates members from
non-members only where those are filtered by overlap measures the filter. Duan et al. 2024, arXiv:2402.07841,
sections 4 and 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mimir_jax.data.ngram_index import within
from mimir_jax.metrics.delong import placements
from mimir_jax.metrics.evaluation import evaluate
from mimir_jax.metrics.intervals import Estimate, auc_interval
from mimir_jax.metrics.result import Metrics
from mimir_jax.metrics.roc import MetricsError


@dataclass(frozen=True)
class Slice:
    """The AUC of all members against the non-members of a range of overlap.

    Attributes:
        low: least overlap.
        high: largest overlap; the last range includes it.
        n_nonmembers: in the range, with a score.
        auc_roc: None where the range has none.
    """

    low: float
    high: float
    n_nonmembers: int
    auc_roc: Estimate | None


def auc_by_overlap(
    scores: Float[np.ndarray, " doc"],
    is_member: Bool[np.ndarray, " doc"],
    values: Float[np.ndarray, " doc"],
    quantiles: int = 4,
    confidence: float = 0.95,
) -> list[Slice]:
    """The AUC by quantile of the non-members' overlap: does the score separate, or does the overlap?

    Args:
        scores: NaN for none.
        is_member: labels.
        values: overlaps; only the non-members' matter.
        quantiles: ranges.
        confidence: of the intervals.

    Raises:
        MetricsError: no member with a score, or no non-member with a score and an overlap.
    """
    scored = ~np.isnan(scores)
    members = scores[is_member & scored].astype(float)
    others = ~is_member & scored & ~np.isnan(values)
    if not len(members) or not others.any():
        raise MetricsError("AUC by overlap needs scored members, and scored non-members with an overlap")
    edges = np.quantile(values[others], np.linspace(0, 1, quantiles + 1))
    slices = []
    for i, (low, high) in enumerate(zip(edges.tolist(), edges[1:].tolist())):
        last = i == quantiles - 1
        rows = others & (values >= low) & ((values <= high) if last else (values < high))
        found = auc_interval(placements(members, scores[rows].astype(float)), confidence) if rows.any() else None
        slices.append(Slice(low, high, int(rows.sum()), found))
    return slices


def evaluate_below(
    scores: Float[np.ndarray, " doc"],
    is_member: Bool[np.ndarray, " doc"],
    values: Float[np.ndarray, " doc"],
    thresholds: Sequence[float],
    **settings: Any,
) -> dict[float, Metrics | None]:
    """Metrics of all members against the non-members below each overlap; None where no scored one is.

    Args:
        scores: NaN for none.
        is_member: labels.
        values: overlaps.
        thresholds: such as .2 and .8.
        settings: of `evaluate`.
    """
    found: dict[float, Metrics | None] = {}
    for threshold in thresholds:
        rows = is_member | within(values, 0.0, threshold)
        possible = (rows & ~is_member & ~np.isnan(scores)).any()
        found[threshold] = evaluate(scores[rows], is_member[rows], **settings) if possible else None
    return found


@dataclass(frozen=True)
class Association:
    """Spearman's correlation of a score with the overlap, of members or of non-members.

    Attributes:
        correlation: of ranks; None where one of both does not vary.
        p_value: two-sided; None likewise.
        n_documents: with both.
    """

    correlation: float | None
    p_value: float | None
    n_documents: int


def association(scores: Float[np.ndarray, " doc"], values: Float[np.ndarray, " doc"]) -> Association:
    """How a score of documents of one side goes with their overlap."""
    from scipy.stats import spearmanr

    both = ~(np.isnan(scores) | np.isnan(values))
    if both.sum() < 3 or np.ptp(scores[both]) == 0 or np.ptp(values[both]) == 0:
        return Association(None, None, int(both.sum()))
    found = spearmanr(scores[both], values[both])
    return Association(float(found.statistic), float(found.pvalue), int(both.sum()))

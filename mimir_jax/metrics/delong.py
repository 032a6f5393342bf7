"""Placement values: the variance of AUCs and of their differences, without resampling.

The placement of a member is the share of non-members below it, that of a non-member the share of members above it.
An AUC is the mean of either, and its variance is that of the two means (DeLong, DeLong and Clarke-Pearson, "Comparing
the areas under two or more correlated receiver operating characteristic curves: a nonparametric approach",
Biometrics 44, 1988); that of a difference between two AUCs is the variance of the differences of placements.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Placements(NamedTuple):
    """Placement values of one score; ties count half.

    Attributes:
        members: share of the non-members below each member.
        nonmembers: share of the members above each non-member.
    """

    members: Float[np.ndarray, " member"]
    nonmembers: Float[np.ndarray, " nonmember"]

    @property
    def auc_roc(self) -> float:
        return float(np.mean(self.members))

    @property
    def variance(self) -> float:
        """Of the AUC; 0 where a side has fewer than two documents, and with perfect separation."""
        return variance_of_means(self.members, self.nonmembers)


def variance_of_means(*samples: Float[np.ndarray, " _"]) -> float:
    """Of the sum of the samples' means."""
    return float(sum(np.var(sample, ddof=1) / len(sample) for sample in samples if len(sample) > 1))


def placements(members: Float[np.ndarray, " member"], nonmembers: Float[np.ndarray, " nonmember"]) -> Placements:
    """Placement values of scores without NaN, both sides not empty."""
    return Placements(_share_below(members, nonmembers), 1 - _share_below(nonmembers, members))


def _share_below(of: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    ordered = np.sort(others)
    return (np.searchsorted(ordered, of, "left") + np.searchsorted(ordered, of, "right")) / (2 * len(others))


def placements_in_folds(
    scores: Float[np.ndarray, " doc"], is_member: Bool[np.ndarray, " doc"], fold: Int[np.ndarray, " doc"]
) -> Placements:
    """Placement values within folds, of cross-validated scores: those of different folds are never compared.

    Their mean is the AUC averaged over folds, by each fold's number of members. LeDell, Petersen and van der Laan,
    "Computationally efficient confidence intervals for cross-validated area under the ROC curve estimates",
    Electronic Journal of Statistics 9 (2015).

    Args:
        scores: of each document, by a model that was fitted on the other folds.
        is_member: labels.
        fold: of each document; both sides occur in every fold.
    """
    found = np.empty(len(scores))
    for one in np.unique(fold):
        members, nonmembers = (np.flatnonzero((fold == one) & side) for side in (is_member, ~is_member))
        found[members], found[nonmembers] = placements(scores[members], scores[nonmembers])
    return Placements(found[is_member], found[~is_member])

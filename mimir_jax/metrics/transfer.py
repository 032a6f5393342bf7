"""What thresholds that were chosen on one set of non-members do on another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mimir_jax.metrics.roc import auc_roc, roc_curve


@dataclass(frozen=True)
class Transfer:
    """An attack on members and further non-members, at the thresholds of the main non-members.

    Attributes:
        auc_roc: of the members against the further non-members.
        fpr: by the main non-members' budget, the share of the further ones that the threshold calls members.
        tpr: by the same budget, the share of the members.
        n_nonmembers: further non-members with a score.
    """

    auc_roc: float
    fpr: dict[float, float]
    tpr: dict[float, float]
    n_nonmembers: int


def transfer(
    members: Float[np.ndarray, " member"],
    nonmembers: Float[np.ndarray, " nonmember"],
    others: Float[np.ndarray, " other"],
    fprs: Sequence[float],
) -> Transfer:
    """Choose thresholds on members and non-members, and apply them to others that are no members.

    The threshold of a budget is the lowest score that keeps the false-positive rate of the main non-members within
    it. NaN scores are left out.

    Args:
        members: scores.
        nonmembers: scores of those that thresholds are chosen on.
        others: scores of further non-members.
        fprs: budgets.

    Raises:
        MetricsError: a side has no score.
    """
    is_member = np.repeat([True, False], [len(members), len(nonmembers)])
    curve = roc_curve(np.concatenate([members, nonmembers]), is_member)
    others = others[~np.isnan(others)]
    chosen = {fpr: int(np.count_nonzero(curve.fpr <= fpr)) - 1 for fpr in fprs}
    return Transfer(
        auc_roc=auc_roc(np.concatenate([members, others]), np.repeat([True, False], [len(members), len(others)])),
        fpr={budget: float(np.mean(others >= curve.thresholds[at])) for budget, at in chosen.items()},
        tpr={budget: float(curve.tpr[at]) for budget, at in chosen.items()},
        n_nonmembers=len(others),
    )

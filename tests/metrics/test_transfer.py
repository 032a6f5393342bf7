"""Thresholds of one set of non-members on another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.metrics import MetricsError, transfer

NAN = float("nan")


def test_by_hand() -> None:
    members = np.array([5.0, 4.0, 2.0, 1.0])
    nonmembers = np.array([3.0, 2.0, 0.0, 0.0, -1.0])
    others = np.array([6.0, 3.5, 2.0, 1.5, -9.0])
    found = transfer(members, nonmembers, others, (0.1, 0.2, 0.4, 1.0))
    # Nobody of the main non-members: 4. One of five: 3. Two: 1, a member's score. All of them: the lowest.
    assert found.tpr == {0.1: 0.5, 0.2: 0.5, 0.4: 1.0, 1.0: 1.0}
    assert found.fpr == {0.1: 0.2, 0.2: 0.4, 0.4: 0.8, 1.0: 0.8}
    # 5 beats 4 of 5, 4 beats 4, 2 beats 2 and ties with one, 1 beats 1.
    assert found.auc_roc == pytest.approx((4 + 4 + 2.5 + 1) / 20)
    assert found.n_nonmembers == 5


def test_no_member_is_above_all_nonmembers() -> None:
    found = transfer(np.array([1.0]), np.array([2.0, 2.0]), np.array([3.0, 0.0]), (0.1,))
    assert (found.tpr, found.fpr) == ({0.1: 0.0}, {0.1: 0.0})  # no score reaches the threshold


def test_unscored_documents_are_left_out() -> None:
    full = transfer(np.array([2.0, 1.0]), np.array([0.0, 1.5]), np.array([1.7]), (0.5,))
    gaps = transfer(np.array([2.0, NAN, 1.0]), np.array([NAN, 0.0, 1.5]), np.array([NAN, 1.7, NAN]), (0.5,))
    assert gaps == full
    assert full.n_nonmembers == 1


@pytest.mark.parametrize("empty", range(3))
def test_a_side_without_scores(empty: int) -> None:
    sides = [np.array([1.0, 2.0]), np.array([0.0, 1.0]), np.array([0.5])]
    sides[empty] = np.full(2, NAN)
    with pytest.raises(MetricsError):
        transfer(*sides, (0.5,))


scores = st.lists(st.integers(-5, 5), min_size=1, max_size=12).map(lambda values: np.array(values, np.float64))


@given(scores, scores, scores, st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0]))
def test_the_threshold_is_the_lowest_within_the_budget(
    members: np.ndarray, nonmembers: np.ndarray, others: np.ndarray, budget: float
) -> None:
    found = transfer(members, nonmembers, others, (budget,))
    candidates = [t for t in [*members, *nonmembers] if np.mean(nonmembers >= t) <= budget]
    threshold = min(candidates, default=np.inf)
    (key,) = found.fpr
    assert found.fpr[key] == np.mean(others >= threshold)
    assert found.tpr[key] == pytest.approx(np.mean(members >= threshold))

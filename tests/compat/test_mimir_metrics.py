"""MIMIR's metrics against the numbers that it computed, and against plain statements of what they are."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.compat.mimir.metrics import (
    auc_from_thresholds,
    bootstrap_auc,
    precision_recall,
    roc,
    roc_at_thresholds,
    tpr_below_fpr,
)
from mimir_jax.metrics import MetricsError, auc_roc, pr_auc, tpr_at_fpr

# Few distinct values, so that there are ties; lower = member.
VALUES = st.integers(0, 12).map(lambda n: n / 4 - 1)
SIDE = st.lists(VALUES, min_size=1, max_size=12)


def called(losses: list[float], threshold: float) -> float:
    """The share of documents whose negated loss is at or above a threshold."""
    return sum(-loss >= threshold for loss in losses) / len(losses)


def test_the_golden_metrics(golden: Path) -> None:
    """What MIMIR's own code gave for its own scores."""
    stored = json.loads((golden / "mimir_scores.json").read_text())
    assert len(stored["metrics"]) > 15
    for attack, expected in stored["metrics"].items():
        sides = [
            [document["scores"][attack] for document in stored["documents"] if document["split"] == split]
            for split in ("member", "nonmember")
        ]
        assert roc(*sides).auc == pytest.approx(expected["roc_auc"], abs=1e-12), attack
        assert precision_recall(*sides).auc == pytest.approx(expected["pr_auc_as_mimir"], abs=1e-12), attack


@given(SIDE, SIDE)
def test_auc_is_the_share_of_pairs_in_order(members: list[float], nonmembers: list[float]) -> None:
    pairs = [(m < n) + (m == n) / 2 for m in members for n in nonmembers]
    assert roc(members, nonmembers).auc == pytest.approx(np.mean(pairs))
    ours = auc_roc([-x for x in members + nonmembers], [1] * len(members) + [0] * len(nonmembers))
    assert roc(members, nonmembers).auc == pytest.approx(ours)


@given(SIDE, SIDE)
def test_points_are_of_the_curve_and_none_that_matters_is_missing(
    members: list[float], nonmembers: list[float]
) -> None:
    curve = roc(members, nonmembers)
    assert np.isinf(curve.thresholds[0])
    assert (np.diff(curve.thresholds) < 0).all()
    for fpr, tpr, threshold in zip(curve.fpr, curve.tpr, curve.thresholds):
        assert tpr == called(members, threshold)
        assert fpr == called(nonmembers, threshold)
    for threshold in sorted({-x for x in members + nonmembers}):
        tpr = called(members, threshold)
        fpr = called(nonmembers, threshold)
        assert np.interp(fpr, curve.fpr, curve.tpr) >= tpr - 1e-12


def test_the_budget_itself_is_not_below_the_budget() -> None:
    """One of ten non-members is called at the point that ours reports for 10%."""
    members, nonmembers = [1.0, 2.0, 3.0, 5.0], [2.5, *[9.0] * 9]
    curve = roc(members, nonmembers)
    found = tpr_below_fpr(curve.fpr, curve.tpr, [0.1, 0.11])
    assert found == {0.1: 0.5, 0.11: 1.0}
    assert tpr_at_fpr([-x for x in members + nonmembers], [1] * 4 + [0] * 10, 0.1) == 1.0


def test_points_on_a_line_are_left_out() -> None:
    """Ten false positives one by one: of the level stretch only its ends are stored, and the step is lost."""
    members, nonmembers = [0.0, 0.0, 11.0], [float(i) for i in range(1, 11)]
    curve = roc(members, nonmembers)
    np.testing.assert_allclose(curve.fpr, [0, 0, 1, 1])
    np.testing.assert_allclose(curve.tpr, [0, 2 / 3, 2 / 3, 1])
    assert tpr_below_fpr(curve.fpr, curve.tpr, [0.5]) == {0.5: pytest.approx(2 / 3)}
    # A rising line of three: the point in the middle is gone.
    tied = roc([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(tied.fpr, [0, 1 / 3, 1])
    assert tpr_below_fpr(tied.fpr, tied.tpr, [0.9]) == {0.9: pytest.approx(1 / 3)}
    assert tpr_at_fpr([-1, -2, -3] * 2, [1] * 3 + [0] * 3, 0.9) == pytest.approx(2 / 3)


@given(SIDE, SIDE)
def test_precision_and_recall_of_nonmembers_by_trapezoids(members: list[float], nonmembers: list[float]) -> None:
    points = []
    for threshold in sorted({*members, *nonmembers}):
        right, wrong = (sum(loss >= threshold for loss in side) for side in (nonmembers, members))
        points.append((right / len(nonmembers), right / max(right + wrong, 1)))
    points.append((0.0, 1.0))
    area = sum((a[0] - b[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    found = precision_recall(members, nonmembers)
    assert found.auc == pytest.approx(area)
    np.testing.assert_allclose(found.recall, [recall for recall, _ in points])
    np.testing.assert_allclose(found.precision, [precision for _, precision in points])


def test_pr_auc_is_another_number_than_ours() -> None:
    members, nonmembers = [1.0, 2.0, 3.0], [2.5, 4.0]
    assert precision_recall(members, nonmembers).auc != pytest.approx(
        pr_auc([-x for x in members + nonmembers], [1, 1, 1, 0, 0])
    )


def test_the_bootstrap_is_scipys_of_a_flipped_auc(golden: Path) -> None:
    """The distribution that scipy gives for MIMIR's statistic: the AUC of scores that were negated once already."""
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    members, nonmembers = np.round(rng.normal(2.0, 1.0, 30), 1), np.round(rng.normal(2.4, 1.0, 20), 1)

    def statistic(scores: np.ndarray, labels: np.ndarray) -> float:
        inside, outside = scores[labels == 1], scores[labels == 0]
        return float(np.mean((inside[:, None] < outside) + (inside[:, None] == outside) / 2))

    negated, labels = -np.concatenate([members, nonmembers]), np.repeat([1, 0], [30, 20])
    reference = scipy_stats.bootstrap(
        (negated, labels),
        statistic,
        n_resamples=200,
        paired=True,
        vectorized=False,
        method="percentile",
        random_state=np.random.RandomState(7),
    )
    found = bootstrap_auc(members, nonmembers, np.random.RandomState(7), n_resamples=200)
    np.testing.assert_allclose(found, reference.bootstrap_distribution, rtol=1e-12)
    assert np.std(found, ddof=1) == pytest.approx(reference.standard_error)
    assert np.mean(found) == pytest.approx(1 - roc(members, nonmembers).auc, abs=0.02)  # the defect
    assert np.mean(found) < 0.45 < 0.55 < roc(members, nonmembers).auc


def test_the_generator_goes_on_from_attack_to_attack() -> None:
    members, nonmembers = [1.0, 2.0, 4.0, 7.0], [3.0, 5.0, 6.0]
    random = np.random.RandomState(0)
    first, second = (bootstrap_auc(members, nonmembers, random, 50) for _ in range(2))
    both = np.random.RandomState(0)
    both.randint(0, 7, size=(50, 7))  # as many as one call draws
    np.testing.assert_array_equal(second, bootstrap_auc(members, nonmembers, both, 50))
    assert not np.array_equal(first, second)


def test_draws_of_one_side_have_no_auc() -> None:
    found = bootstrap_auc([1.0], [2.0], np.random.RandomState(0), 100)
    assert 20 < np.isnan(found).sum() < 80
    assert set(found[~np.isnan(found)]) == {0.0}  # perfect, and flipped


def test_nan_is_left_out_and_an_empty_side_is_an_error() -> None:
    nan = float("nan")
    assert roc([1.0, nan, 3.0], [2.0, nan]).auc == roc([1.0, 3.0], [2.0]).auc
    assert precision_recall([nan, 1.0], [2.0]).auc == precision_recall([1.0], [2.0]).auc
    for function in (roc, precision_recall, roc_at_thresholds_of_nothing):
        with pytest.raises(MetricsError, match="both sides need one"):
            function([nan], [1.0])


def roc_at_thresholds_of_nothing(members: list[float], nonmembers: list[float]) -> object:
    return roc_at_thresholds(members, nonmembers, [np.inf, 0.0])


def test_thresholds_for_other_nonmembers_as_mimir_has_them_say_nothing() -> None:
    """Scores are losses, thresholds their negatives: everything is above all of them but the infinite one."""
    thresholds = roc([1.0, 2.0, 3.0], [2.0, 4.0, 5.0]).thresholds
    for others in ([0.1, 0.2], [9.0], [1.0, float("nan")]):
        assert auc_from_thresholds([1.0, 2.0, 3.0], others, thresholds) == 0.5


@given(SIDE, SIDE, SIDE)
def test_thresholds_for_other_nonmembers(members: list[float], nonmembers: list[float], others: list[float]) -> None:
    curve = roc(members, nonmembers)
    higher = [-x for x in members]
    same = roc_at_thresholds(higher, [-x for x in nonmembers], curve.thresholds)
    np.testing.assert_allclose(same.fpr, curve.fpr)
    np.testing.assert_allclose(same.tpr, curve.tpr)
    assert same.auc == pytest.approx(curve.auc)
    found = roc_at_thresholds(higher, [-x for x in others], curve.thresholds)
    np.testing.assert_allclose(found.tpr, curve.tpr)  # members and thresholds are the same
    for fpr, threshold in zip(found.fpr, curve.thresholds):
        assert fpr == called(others, threshold)

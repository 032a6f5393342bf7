"""Placements, DeLong's variance and paired tests, against formulas written out and against simulation."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from mimir_jax.metrics import MetricsError, auc_roc
from mimir_jax.metrics.comparison import auc_difference, benjamini_hochberg, compare
from mimir_jax.metrics.delong import placements, placements_in_folds

RNG = np.random.default_rng(0)


def test_placements_by_hand() -> None:
    found = placements(np.array([3.0, 1.0]), np.array([0.0, 1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(found.members, [3.5 / 4, 1.5 / 4])
    np.testing.assert_array_equal(found.nonmembers, [1, 0.75, 0.5, 0.25])
    assert found.auc_roc == pytest.approx(0.625)
    assert found.variance == pytest.approx(
        np.var([0.875, 0.375], ddof=1) / 2 + np.var([1, 0.75, 0.5, 0.25], ddof=1) / 4
    )


def test_auc_is_that_of_the_curve() -> None:
    scores, is_member = RNG.integers(0, 20, 90).astype(float), np.arange(90) < 40
    found = placements(scores[is_member], scores[~is_member])
    assert found.auc_roc == pytest.approx(auc_roc(scores, is_member))
    assert np.mean(found.nonmembers) == pytest.approx(found.auc_roc)


def test_folds_are_never_compared() -> None:
    """A shift of all scores of a fold changes nothing."""
    scores, is_member, fold = RNG.normal(size=60), np.arange(60) % 2 == 0, np.arange(60) // 2 % 3
    found = placements_in_folds(scores, is_member, fold)
    moved = placements_in_folds(scores + 100 * fold, is_member, fold)
    np.testing.assert_array_equal(found.members, moved.members)
    each = [auc_roc(scores[fold == k], is_member[fold == k]) for k in range(3)]
    assert found.auc_roc == pytest.approx(np.mean(each))


def test_single_documents_have_no_variance() -> None:
    assert placements(np.array([1.0]), np.array([0.0])).variance == 0


def test_difference_of_equal_scores() -> None:
    scores, is_member = RNG.normal(size=50), np.arange(50) < 20
    same = compare(scores, 2 * scores, is_member)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_size_and_power_of_the_paired_test() -> None:
    """Two equally good, correlated attacks: 5% rejections; the interval covers 0 as often as the test accepts."""
    n, trials = 60, 400
    is_member = np.arange(2 * n) < n
    rng = np.random.default_rng(1)
    rejected, apart = 0, 0
    for _ in range(trials):
        common = rng.normal(size=2 * n) + is_member
        first, second = common + 0.5 * rng.normal(size=2 * n), common + 0.5 * rng.normal(size=2 * n)
        found = compare(first, second, is_member)
        assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)
        rejected += found.p_value < 0.05
        apart += compare(common, rng.normal(size=2 * n), is_member).p_value < 0.05
    assert 0.02 * trials < rejected < 0.085 * trials
    assert apart > 0.9 * trials


def test_unscored_documents_leave_the_comparison() -> None:
    first, second, is_member = RNG.normal(size=40), RNG.normal(size=40), np.arange(40) < 20
    first[0], second[39] = np.nan, np.nan
    kept = slice(1, 39)
    assert compare(first, second, is_member) == compare(first[kept], second[kept], is_member[kept])
    first[:20:2], second[1:20:2] = np.nan, np.nan
    with pytest.raises(MetricsError, match="no member, or no non-member, has both scores"):
        compare(first, second, is_member)


def test_perfect_against_perfect() -> None:
    ones = placements(np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    half = ones._replace(members=np.full(2, 0.5), nonmembers=np.full(2, 0.5))
    found = auc_difference(ones, half)
    assert (found.difference, found.p_value) == (0.5, 0)


def test_benjamini_hochberg() -> None:
    p = RNG.random(30) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p.tolist()), false_discovery_control(p))
    with_gap = benjamini_hochberg([0.01, float("nan"), 0.04])
    np.testing.assert_allclose(with_gap, [0.02, np.nan, 0.04])
    assert benjamini_hochberg([]).shape == (0,)

"""Intervals: forms that are known, and a small simulation of how often they hold the truth."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from mimir_jax.metrics import evaluate
from mimir_jax.metrics.delong import placements
from mimir_jax.metrics.intervals import (
    METHODS,
    UNDER_COVERING,
    auc_interval,
    clopper_pearson,
    hanley_mcneil_variance,
    interval_notes,
    logit_interval,
    members_above,
    pr_auc_interval,
    score_interval,
    tpr_interval,
)
from mimir_jax.metrics.roc import tpr_at_fpr

spec = importlib.util.spec_from_file_location("coverage", Path(__file__).parents[2] / "benchmarks" / "coverage.py")
assert spec is not None
assert spec.loader is not None
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)


def test_score_interval_is_where_the_estimate_is_not_rejected() -> None:
    auc = np.array([0.6, 0.9, 0.97])
    low, high = score_interval(auc, hanley_mcneil_variance(auc, 80, 30), 80, 30, 0.95)
    for end in (low, high):
        deviation = np.sqrt(hanley_mcneil_variance(end, 80, 30))
        np.testing.assert_allclose(np.abs(auc - end) / deviation, 1.959964, rtol=1e-6)
    assert np.all((low > 0) & (low < auc) & (auc < high) & (high < 1))


def test_score_interval_is_symmetric_and_never_a_point() -> None:
    auc, variance = np.array([0.8, 1.0, 0.5]), np.array([0.002, 0.0, 0.0])
    low, high = score_interval(auc, variance, 30, 50, 0.95)
    other = score_interval(1 - auc, variance, 30, 50, 0.95)
    np.testing.assert_allclose(1 - other[1], low, atol=1e-9)
    np.testing.assert_allclose(1 - other[0], high, atol=1e-9)
    assert high[1] == 1
    assert low[1] < 0.97


def test_few_members_decide_whatever_the_number_of_nonmembers() -> None:
    """Thirty members, a thousand non-members, AUC .98: simulated coverage of the score interval."""
    rng = np.random.default_rng(0)
    shift, held = np.sqrt(2) * norm.ppf(0.98), 0
    for _ in range(400):
        found = auc_interval(placements(rng.normal(size=30) + shift, rng.normal(size=1000)))
        held += found.low <= 0.98 <= found.high
    assert 0.92 <= held / 400 <= 0.99


def test_logit_interval() -> None:
    low, high = logit_interval(np.array([0.8, 1.0]), np.array([0.01, 0.0]), 0.95)
    half = 1.959964 * 0.1 / (0.8 * 0.2)
    np.testing.assert_allclose(low[0], 1 / (1 + np.exp(-(np.log(4) - half))), rtol=1e-6)
    assert low[1] == high[1] == 1


def test_clopper_pearson() -> None:
    low, high = clopper_pearson(np.array([0, 3, 20]), 20, 0.95)
    for k, one in zip((0, 3, 20), zip(low, high)):
        exact = binomtest(k, 20).proportion_ci(0.95, "exact")
        np.testing.assert_allclose(one, (exact.low, exact.high), atol=1e-9)


def test_members_above() -> None:
    """Ties are called together, so a member that ties with a non-member needs it."""
    members, nonmembers = np.array([5.0, 3.0, 3.0, 0.0]), np.array([3.0, 4.0, 1.0])
    assert members_above(members, nonmembers).tolist() == [1, 1, 3, 4]
    scores, is_member = np.concatenate([members, nonmembers]), np.arange(7) < 4
    for k in range(3):
        assert members_above(members, nonmembers)[k] / 4 == tpr_at_fpr(scores, is_member, (k + 0.5) / 3)


def test_tpr_interval_knows_that_the_threshold_is_uncertain() -> None:
    """Members at two levels: with one false positive in a hundred, either may be above the threshold."""
    above = np.array([10] * 2 + [90] * 98 + [100])
    low, high = tpr_interval(above, 100, 0.01, 0.95)
    assert low < 0.1
    assert high > 0.9
    few = tpr_interval(np.array([40, 100]), 100, 0.001, 0.95)  # one non-member, and nobody knows its rate
    assert few[0] < 0.02
    everything = tpr_interval(above, 100, 1.0, 0.95)
    assert everything[0] > 0.95
    assert everything[1] == 1
    nothing = tpr_interval(np.array([0] * 100 + [50]), 50, 0.05, 0.95)
    assert nothing[0] == 0
    assert 0.02 < nothing[1] < 0.1


def test_pr_auc_interval_of_perfect_separation() -> None:
    estimate = pr_auc_interval(1.0, np.ones(50), 100, 100, 0.95)
    assert estimate.high == 1
    assert 0.95 < estimate.low < 0.975
    assert pr_auc_interval(0.5, np.full(20, 0.5), 100, 100, 0.95).low == pytest.approx(0.5)


def test_what_does_not_hold_says_so() -> None:
    assert interval_notes(**{name: values[0] for name, values in METHODS.items()}) == ()
    scores, is_member = np.arange(40.0), np.arange(40) % 2 == 0
    plain = evaluate(scores, is_member, fprs=(0.1,), n_bootstrap=20)
    assert plain.notes == ()
    for (setting, value), note in UNDER_COVERING.items():
        found = evaluate(scores, is_member, fprs=(0.1,), n_bootstrap=20, **{setting: value})
        assert found.notes == (note,)
        assert found != plain
    (warning,) = evaluate(scores, is_member, fprs=(0.01, 0.1), n_bootstrap=20).notes
    assert (
        warning == "an FPR of 1% needs 100 scored non-members, and there are 20: its TPR is that at no false positive"
    )


def test_the_simulation_knows_the_truth() -> None:
    for kind in ("normal", "memorized"):
        scores = simulation.draw(kind, 0.8, 1 << 17, np.random.default_rng(5))
        sides = np.split(scores, 2)
        assert placements(*sides).auc_roc == pytest.approx(0.8, abs=0.003)
        assert np.mean(sides[0] > np.quantile(sides[1], 0.95)) == pytest.approx(
            simulation.true_tpr(kind, 0.8, 0.05), abs=0.01
        )
        found = evaluate(scores, np.arange(1 << 18) < 1 << 17, n_bootstrap=1)
        assert found.pr_auc.value == pytest.approx(simulation.true_pr_auc(kind, 0.8), abs=0.003)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least"), [(50, 0.9), (200, 0.92)])
def test_defaults_cover(n: int, least: float) -> None:
    """200 trials each; the standard error is 1.5 points. All figures: benchmarks/coverage.py."""
    found = simulation.coverage("normal", 0.99, n, trials=200, resamples=100, fprs=(0.05,))
    for metric, methods in found.items():
        assert next(iter(methods.values())) >= least, (metric, methods)  # the default comes first
    assert found["TPR at 5%"]["clopper_pearson"] < found["TPR at 5%"]["threshold"]
    if n == 50:
        assert found["AUC-ROC"]["bootstrap"] < 0.9
        assert auc_interval(placements(np.array([1.0, 2.0]), np.array([0.0]))).low < 0.5

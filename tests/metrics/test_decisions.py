"""Thresholds keep what they promise, on documents that they were not picked on."""

import numpy as np
import pytest
from scipy.stats import norm

from mimir_jax.metrics import MetricsError, tpr_at_fpr
from mimir_jax.metrics.decisions import calibrate, pick_threshold


def test_the_threshold_is_that_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    scores, is_member = rng.integers(0, 40, 300) + 10.0 * (np.arange(300) < 100), np.arange(300) < 100
    for fpr in (0.001, 0.01, 0.1, 1.0):
        threshold = pick_threshold(scores[~is_member], fpr)
        assert np.mean(scores[is_member] >= threshold.value) == tpr_at_fpr(scores, is_member, fpr)
        assert np.mean(scores[~is_member] >= threshold.value) <= fpr
        assert threshold.nonmembers_called == np.count_nonzero(scores[~is_member] >= threshold.value)


def test_with_confidence_the_population_keeps_the_target() -> None:
    rng = np.random.default_rng(1)
    n, fpr, trials = 300, 0.05, 400
    plain, sure = [], []
    for _ in range(trials):
        nonmembers = rng.normal(size=n)
        plain.append(norm.sf(pick_threshold(nonmembers, fpr).value) > fpr)
        sure.append(norm.sf(pick_threshold(nonmembers, fpr, confidence=0.9).value) > fpr)
    assert 0.35 < np.mean(plain) < 0.75
    assert 0.05 < np.mean(sure) < 0.13  # at most .1, and near it: the threshold is not higher than needed


def test_too_few_nonmembers_call_nothing() -> None:
    threshold = pick_threshold(np.arange(20.0), 0.01, confidence=0.95)
    assert threshold == (np.inf, 0)
    nothing = calibrate(np.arange(60.0), np.arange(60) >= 20, 0.01, keep_with=0.95)
    assert not nothing.predicted.any()
    assert (nothing.tpr.value, nothing.fpr.value) == (0, 0)


def test_calibration_reports_on_other_documents() -> None:
    rng = np.random.default_rng(2)
    is_member = np.arange(2000) < 1000
    scores = rng.normal(size=2000) + 2 * is_member
    scores[:3] = np.nan
    found = calibrate(scores, is_member, 0.05, seed=3)
    rest = ~found.calibrating & ~np.isnan(scores)
    assert found.calibrating.sum() == 500
    assert not found.calibrating[is_member].any()
    assert found.fpr.value == np.mean(found.predicted[rest & ~is_member])
    assert found.tpr.value == np.mean(found.predicted[rest & is_member])
    assert found.tpr.low < norm.sf(found.threshold.value - 2) < found.tpr.high
    assert found.fpr.low < norm.sf(found.threshold.value) < found.fpr.high
    assert not found.predicted[:3].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fpr": 0.0}, "above 0 and at most 1"),
        ({"keep_with": 1.0}, "confidence must be between 0 and 1"),
        ({"share": 1.0}, "leaves one part without any"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    arguments = {"fpr": 0.1, **settings}
    with pytest.raises(MetricsError, match=message):
        calibrate(np.arange(10.0), np.arange(10) % 2 == 0, **arguments)
    with pytest.raises(MetricsError, match="none has a score"):
        pick_threshold(np.full(3, np.nan), 0.1)

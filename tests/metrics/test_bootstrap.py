"""The bootstrap against a plain loop, and what its resamples depend on."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mimir_jax.metrics import bootstrap as module
from mimir_jax.metrics import tpr_at_fpr
from mimir_jax.metrics.bootstrap import bootstrap, percentile_interval, resample_counts
from mimir_jax.metrics.roc import Counts, Ranking

IS_MEMBER = np.arange(50) < 30


def tied_scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 12, size=50) + 2.0 * IS_MEMBER


def statistics(counts: Counts) -> np.ndarray:
    return np.stack([counts.auc_roc(), counts.pr_auc(), counts.tpr_at_fpr([0.2])[..., 0]], axis=-1)


def test_equal_to_a_loop_over_resamples() -> None:
    scores = tied_scores(0)
    resampled = bootstrap([Ranking.of(scores, IS_MEMBER)], statistics, n_resamples=40, seed=7)[0]
    member_rng, nonmember_rng = np.random.default_rng(7).spawn(2)
    member_times, nonmember_times = (
        resample_counts(30, 40, member_rng),
        resample_counts(20, 40, nonmember_rng),
    )
    for row, members, nonmembers in zip(resampled, member_times, nonmember_times):
        drawn = np.concatenate([np.repeat(scores[IS_MEMBER], members), np.repeat(scores[~IS_MEMBER], nonmembers)])
        expected = [
            roc_auc_score(IS_MEMBER, drawn),
            average_precision_score(IS_MEMBER, drawn),
            tpr_at_fpr(drawn, IS_MEMBER, 0.2),
        ]
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_resamples_are_stratified() -> None:
    def totals(counts: Counts) -> np.ndarray:
        return np.stack([counts.true_positives[..., -1], counts.false_positives[..., -1]], axis=-1)

    resampled = bootstrap([Ranking.of(tied_scores(0), IS_MEMBER)], totals, n_resamples=20, seed=0)
    np.testing.assert_array_equal(resampled[0], [[30, 20]] * 20)


def test_resample_counts_are_multinomial() -> None:
    times = resample_counts(10, 20_000, np.random.default_rng(0))
    np.testing.assert_array_equal(times.sum(axis=1), 10)
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.03)
    covariance = np.cov(times.T)
    np.testing.assert_allclose(covariance, np.eye(10) - 0.1, atol=0.04)


@pytest.mark.parametrize("entries", [1, 150, 1 << 30])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    rankings = [Ranking.of(tied_scores(seed), IS_MEMBER) for seed in range(3)]
    expected = bootstrap(rankings, statistics, n_resamples=25, seed=3)
    assert expected.shape == (3, 25, 3)
    monkeypatch.setattr(module, "_CHUNK_ENTRIES", entries)
    np.testing.assert_array_equal(bootstrap(rankings, statistics, n_resamples=25, seed=3), expected)


def test_rankings_share_their_resamples() -> None:
    rankings = [Ranking.of(tied_scores(seed), IS_MEMBER) for seed in (0, 1)]
    together = bootstrap([*rankings, rankings[0]], statistics, n_resamples=25, seed=3)
    np.testing.assert_array_equal(together[0], together[2])
    for ranking, row in zip(rankings, together):
        np.testing.assert_array_equal(bootstrap([ranking], statistics, n_resamples=25, seed=3)[0], row)


def test_percentile_interval() -> None:
    resampled = np.stack([np.linspace(0, 1, 101), np.linspace(1, 0, 101) * 10], axis=-1)
    low, high = percentile_interval(resampled[None], 0.9)
    np.testing.assert_allclose(low, [[0.05, 0.5]])
    np.testing.assert_allclose(high, [[0.95, 9.5]])

"""ROC metrics against scikit-learn, brute force and the symmetries that define them."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from mimir_jax.metrics import MetricsError, auc_roc, pr_auc, roc_curve, tpr_at_fpr
from mimir_jax.metrics.roc import Ranking, labeled_scores

Sample = tuple[np.ndarray, np.ndarray]

TIED = st.integers(-4, 4).map(float)
CONTINUOUS = st.floats(-1e100, 1e100)
FPRS = st.one_of(st.floats(1e-4, 1), st.builds(lambda k, n: min(k, n) / n, *[st.integers(1, 40)] * 2))


@st.composite
def samples(draw: st.DrawFn, values: st.SearchStrategy[float] = TIED) -> Sample:
    """Scores and labels, in any order, with at least one document on each side."""
    members = draw(st.lists(values, min_size=1, max_size=40))
    nonmembers = draw(st.lists(values, min_size=1, max_size=40))
    documents = draw(st.permutations([(s, True) for s in members] + [(s, False) for s in nonmembers]))
    scores, is_member = zip(*documents)
    return np.array(scores), np.array(is_member)


@given(st.one_of(samples(TIED), samples(CONTINUOUS)))
def test_equal_to_sklearn(sample: Sample) -> None:
    scores, is_member = sample
    assert auc_roc(scores, is_member) == pytest.approx(sklearn_metrics.roc_auc_score(is_member, scores))
    assert pr_auc(scores, is_member) == pytest.approx(sklearn_metrics.average_precision_score(is_member, scores))
    curve = roc_curve(scores, is_member)
    expected = sklearn_metrics.roc_curve(is_member, scores, drop_intermediate=False)
    for ours, theirs in zip(curve, expected):
        np.testing.assert_array_equal(ours, theirs)


@given(samples(), FPRS)
def test_tpr_is_the_best_over_all_thresholds(sample: Sample, fpr: float) -> None:
    scores, is_member = sample
    members, nonmembers = scores[is_member], scores[~is_member]
    best = max(
        np.mean(members >= threshold)
        for threshold in (np.inf, *scores)
        if np.sum(nonmembers >= threshold) / len(nonmembers) <= fpr
    )
    assert tpr_at_fpr(scores, is_member, fpr) == best


def test_budget_that_binary_fractions_miss() -> None:
    # 29 of 100 is a rate of 0.29, but int(0.29 * 100) is 28.
    scores = np.concatenate([np.arange(100.0), [70.5]])
    is_member = np.arange(101) == 100
    assert np.sum(scores[~is_member] >= 70.5) == 29
    assert tpr_at_fpr(scores, is_member, 0.29) == 1
    assert tpr_at_fpr(scores, is_member, 0.28) == 0


def test_nothing_is_interpolated() -> None:
    # The ROC curve has the points (0, 0), (1/2, 1/2) and (1, 1) only.
    scores, is_member = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    assert tpr_at_fpr(scores, is_member, 0.49) == 0
    assert tpr_at_fpr(scores, is_member, 0.5) == 0.5
    assert tpr_at_fpr(scores, is_member, 0.99) == 0.5
    assert tpr_at_fpr(scores, is_member, 1.0) == 1


@given(samples(), FPRS)
def test_increasing_transforms_change_nothing(sample: Sample, fpr: float) -> None:
    scores, is_member = sample
    transformed = 3 * scores**3 - 7
    assert auc_roc(transformed, is_member) == auc_roc(scores, is_member)
    assert pr_auc(transformed, is_member) == pr_auc(scores, is_member)
    assert tpr_at_fpr(transformed, is_member, fpr) == tpr_at_fpr(scores, is_member, fpr)


@given(samples())
def test_reversal_mirrors_the_auc(sample: Sample) -> None:
    scores, is_member = sample
    assert auc_roc(-scores, is_member) == pytest.approx(1 - auc_roc(scores, is_member))
    assert auc_roc(scores, ~is_member) == pytest.approx(1 - auc_roc(scores, is_member))


@given(samples(), st.data())
def test_resampled_counts_equal_repeated_documents(sample: Sample, data: st.DataObject) -> None:
    scores, is_member = sample
    n_members, n_nonmembers = int(is_member.sum()), int((~is_member).sum())

    def draws(n: int) -> np.ndarray:
        return np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))

    member_draws, nonmember_draws = draws(n_members), draws(n_nonmembers)
    resampled = np.concatenate([scores[is_member][member_draws], scores[~is_member][nonmember_draws]])
    labels = np.arange(len(resampled)) < n_members
    counts = Ranking.of(scores, is_member).counts(
        np.bincount(member_draws, minlength=n_members), np.bincount(nonmember_draws, minlength=n_nonmembers)
    )
    assert counts.auc_roc() == pytest.approx(sklearn_metrics.roc_auc_score(labels, resampled))
    assert counts.pr_auc() == pytest.approx(sklearn_metrics.average_precision_score(labels, resampled))
    assert counts.tpr_at_fpr([0.1])[0] == pytest.approx(tpr_at_fpr(resampled, labels, 0.1))


@pytest.mark.parametrize("constant", [0.0, -3.5])
def test_constant_scores_tell_nothing(constant: float) -> None:
    scores, is_member = np.full(10, constant), np.arange(10) < 4
    assert auc_roc(scores, is_member) == 0.5
    assert pr_auc(scores, is_member) == pytest.approx(0.4)
    assert tpr_at_fpr(scores, is_member, 0.99) == 0
    np.testing.assert_array_equal(roc_curve(scores, is_member).fpr, [0, 1])


def test_unscored_documents_are_left_out() -> None:
    scores = np.array([3, np.nan, 1, 2, np.nan, 0])
    is_member = np.array([1, 1, 1, 0, 0, 0])
    scored = ~np.isnan(scores)
    assert auc_roc(scores, is_member) == auc_roc(scores[scored], is_member[scored]) == 0.75
    assert pr_auc(scores, is_member) == pr_auc(scores[scored], is_member[scored])
    assert tpr_at_fpr(scores, is_member, 0.1) == 0.5
    assert len(roc_curve(scores, is_member).fpr) == 5


@pytest.mark.parametrize("kind", [list, np.array, np.float32, jnp.array, lambda x: np.array(x, object)])
@pytest.mark.parametrize("labels", [[True, False, True, False], [1, 0, 1, 0], np.array([1.0, 0.0, 1.0, 0.0])])
def test_array_likes(kind: Callable[[list[int]], np.ndarray], labels: list[int]) -> None:
    assert auc_roc(kind([4, 3, 2, 1]), labels) == 0.75


def test_none_is_unscored() -> None:
    values, _ = labeled_scores([1.0, None, 0.0], [True, True, False])  # type: ignore[list-item]
    np.testing.assert_array_equal(values, [1, np.nan, 0])


@pytest.mark.parametrize("metric", [auc_roc, pr_auc, roc_curve, lambda s, y: tpr_at_fpr(s, y, 0.1)])
@pytest.mark.parametrize(
    ("scores", "is_member", "message"),
    [
        ([1, 2], [1, 1], "there is no non-member"),
        ([1, 2], [0, 0], "there is no member"),
        ([], [], "there is no member"),
        ([1, np.nan, np.nan], [0, 1, 1], "none of the 2 members has a score"),
        ([1, np.nan], [1, 0], "none of the 1 non-members has a score"),
        ([1, 2, 3], [1, 0], "3 scores for 2 values of is_member"),
        ([1, np.inf, -np.inf, 0], [1, 0, 1, 0], "2 of 4 scores are infinite"),
        ([1, 2], [1, 2], "is_member must hold booleans"),
        ([1, 2], [1, np.nan], "is_member must hold booleans"),
        ([1, 2], ["1", "0"], "is_member must hold booleans"),
        ([1, 2], [True, None], "is_member must hold booleans"),
        ([[1, 2]], [1, 0], r"one axis, not the shapes \(1, 2\) and \(2,\)"),
        ([1, 2], [[1, 0]], r"one axis, not the shapes \(2,\) and \(1, 2\)"),
        (["a", "b"], [1, 0], "scores must be numbers"),
        ([[1], [1, 2]], [1, 0], "scores must be numbers"),
    ],
)
def test_bad_input(metric: Callable, scores: list, is_member: list, message: str) -> None:
    with pytest.raises(MetricsError, match=message):
        metric(scores, is_member)


@pytest.mark.parametrize("fpr", [0.0, -0.1, 1.01, float("nan")])
def test_fpr_out_of_range(fpr: float) -> None:
    with pytest.raises(MetricsError, match="above 0 and at most 1, not"):
        tpr_at_fpr([1, 0], [1, 0], fpr)

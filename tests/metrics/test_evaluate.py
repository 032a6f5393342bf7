"""evaluate: values, counts, the forms of its arguments, and every refusal."""

import json
from dataclasses import asdict

import jax.numpy as jnp
import numpy as np
import pytest

from mimir_jax import metrics
from mimir_jax.metrics import MetricsError, evaluate

N = 120
IS_MEMBER = np.arange(2 * N) % 2 == 0


def scores_of(seed: int, shift: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=2 * N) + shift * IS_MEMBER


def test_values_are_those_of_the_sample() -> None:
    scores = scores_of(0)
    result = evaluate(scores, IS_MEMBER, fprs=(0.01, 0.2))
    assert result.auc_roc.value == metrics.auc_roc(scores, IS_MEMBER)
    assert result.pr_auc.value == metrics.pr_auc(scores, IS_MEMBER)
    assert list(result.tpr_at_fpr) == [0.01, 0.2]
    for fpr, estimate in result.tpr_at_fpr.items():
        assert estimate.value == metrics.tpr_at_fpr(scores, IS_MEMBER, fpr)
    for estimate in (result.auc_roc, result.pr_auc, *result.tpr_at_fpr.values()):
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1
    assert (result.n_members, result.n_nonmembers) == (N, N)
    assert (result.n_unscored_members, result.n_unscored_nonmembers) == (0, 0)


def test_unscored_documents_are_excluded_and_counted() -> None:
    scores = scores_of(0)
    scores[[0, 2, 4, 1]] = np.nan  # three members, one non-member
    scored = ~np.isnan(scores)
    result = evaluate(scores, IS_MEMBER)
    assert (result.n_members, result.n_nonmembers) == (N - 3, N - 1)
    assert (result.n_unscored_members, result.n_unscored_nonmembers) == (3, 1)
    without = evaluate(scores[scored], IS_MEMBER[scored])
    assert (result.auc_roc, result.pr_auc, result.tpr_at_fpr) == (
        without.auc_roc,
        without.pr_auc,
        without.tpr_at_fpr,
    )


def test_mapping_rows_and_single_arrays_agree() -> None:
    gaps = scores_of(2)
    gaps[5] = np.nan
    scores = {"loss": scores_of(0), "surp": gaps, "zlib": scores_of(1)}
    result = evaluate(scores, IS_MEMBER)
    assert list(result) == ["loss", "surp", "zlib"]
    assert result == {name: evaluate(row, IS_MEMBER) for name, row in scores.items()}
    assert evaluate(np.stack(list(scores.values())), IS_MEMBER) == list(result.values())
    assert evaluate({}, IS_MEMBER) == {}


def test_array_likes() -> None:
    scores = scores_of(0).astype(np.float32)
    expected = evaluate(scores, IS_MEMBER)
    assert evaluate(jnp.asarray(scores), IS_MEMBER.astype(int).tolist()) == expected
    assert evaluate(scores.tolist(), jnp.asarray(IS_MEMBER)) == expected


def test_resamples_follow_the_seed() -> None:
    scores = scores_of(0)
    assert evaluate(scores, IS_MEMBER, seed=1) == evaluate(scores, IS_MEMBER, seed=1)
    assert evaluate(scores, IS_MEMBER, seed=1).pr_auc != evaluate(scores, IS_MEMBER, seed=2).pr_auc
    one, two = (evaluate(scores, IS_MEMBER, auc_interval="bootstrap", seed=seed) for seed in (1, 2))
    assert one.auc_roc != two.auc_roc


def test_confidence_widens_the_interval() -> None:
    narrow, wide = (evaluate(scores_of(0), IS_MEMBER, confidence=c) for c in (0.5, 0.99))
    assert (narrow.confidence, wide.confidence) == (0.5, 0.99)
    assert wide.auc_roc.low < narrow.auc_roc.low < narrow.auc_roc.high < wide.auc_roc.high


def test_an_fpr_below_one_nonmember_is_not_resolvable() -> None:
    fprs = (1 / (N + 1), 1 / N, 0.5)
    result = evaluate(scores_of(0), IS_MEMBER, fprs=fprs)
    assert [result.tpr_at_fpr[fpr].resolvable for fpr in fprs] == [False, True, True]
    scores = scores_of(0)
    zero_false_positives = np.mean(scores[IS_MEMBER] > scores[~IS_MEMBER].max())
    assert result.tpr_at_fpr[fprs[0]].value == zero_false_positives


def test_degenerate_scores() -> None:
    constant = evaluate(np.zeros(2 * N), IS_MEMBER)
    assert constant.auc_roc.value == 0.5
    assert 0.49 < constant.auc_roc.low < 0.5 < constant.auc_roc.high < 0.51
    assert constant.tpr_at_fpr[0.05].value == 0
    separated = evaluate(IS_MEMBER.astype(float), IS_MEMBER)  # which says not that the next document is, too
    assert (separated.auc_roc.value, separated.auc_roc.high) == (1, 1)
    assert 0.95 < separated.auc_roc.low < 0.99
    assert (separated.pr_auc.value, separated.pr_auc.high) == (1, 1)
    assert 0.95 < separated.pr_auc.low < 0.99
    assert separated.tpr_at_fpr[0.05].low < 1
    point = evaluate(IS_MEMBER.astype(float), IS_MEMBER, auc_interval="bootstrap").auc_roc
    assert asdict(point) == {"value": 1, "low": 1, "high": 1}
    one_a_side = evaluate([1.0, 0.0], [True, False])
    assert one_a_side.auc_roc.value == 1


def test_json_form() -> None:
    result = json.loads(json.dumps(asdict(evaluate(scores_of(0), IS_MEMBER)), allow_nan=False))
    assert result["n_members"] == N
    assert set(result["tpr_at_fpr"]["0.001"]) == {"value", "low", "high", "resolvable"}
    assert result["tpr_at_fpr"]["0.001"]["resolvable"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fprs": (0.1, 0.0, 2.0)}, "above 0 and at most 1, not 0.0, 2.0"),
        ({"n_bootstrap": 0}, "n_bootstrap must be at least 1, not 0"),
        ({"confidence": 0.0}, "confidence must be between 0 and 1, not 0.0"),
        ({"confidence": 95.0}, "confidence must be between 0 and 1, not 95.0"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(MetricsError, match=message):
        evaluate(scores_of(0), IS_MEMBER, **settings)


def test_no_fprs() -> None:
    assert evaluate(scores_of(0), IS_MEMBER, fprs=()).tpr_at_fpr == {}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, np.nan, 2.0], "^none of the 1 non-members has a score"),
        ([1.0, np.inf, 2.0], "^1 of 3 scores are infinite"),
        ([1.0, 2.0], "^2 scores for 3 values of is_member"),
        ([[1.0, np.nan, 2.0]], "^row 0: none of the 1 non-members has a score"),
        (np.zeros((1, 1, 3)), "^scores and is_member must have one axis"),
        ([[1.0], [1.0, 2.0]], "^scores must be numbers"),
    ],
)
def test_bad_scores(scores: list, message: str) -> None:
    with pytest.raises(MetricsError, match=message):
        evaluate(scores, [True, False, True])


def test_faults_of_all_attacks_are_named_at_once() -> None:
    scores = {"loss": [1, 2, 3], "surp": [1, np.nan, 3], "zlib": [np.inf, 2, 3]}
    with pytest.raises(MetricsError, match=r"^surp: none of the 1 non-members .*; zlib: 1 of 3 scores are inf"):
        evaluate(scores, [True, False, True])

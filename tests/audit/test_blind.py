"""Cross-validation that leaks nothing, and audits of data whose answer is known."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mimir_jax.audit.baselines import BASELINES, FEATURES, Baseline
from mimir_jax.audit.blind import FEWEST, AuditError, blind, blind_of_documents
from mimir_jax.audit.verdict import audit, compare_with_blind
from mimir_jax.data.embedded import demo_documents
from mimir_jax.data.readers import Document
from tests.conftest import SHARED

N = 100
IS_MEMBER = np.arange(2 * N) < N


def noise(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in rng.integers(0, 80, 30)) for _ in range(2 * N)]


def shifted(share: float = 0.7) -> list[str]:
    rng = np.random.default_rng(1)
    return [t + (" old" if m else " new") * (rng.random() < share) for t, m in zip(noise(0), IS_MEMBER)]


def test_noise_is_noise_and_the_best_is_no_maximum() -> None:
    """Many baselines of pure noise: the largest AUC is above .5, that of the nested choice is not, on average."""
    rng = np.random.default_rng(0)

    def guess(train: np.ndarray, is_member: np.ndarray, other: np.ndarray) -> np.ndarray:
        return rng.normal(size=len(other))

    FEATURES["size"] = lambda texts: np.array([[len(text)] for text in texts], float)
    try:
        some = {str(i): Baseline("size", guess) for i in range(20)}
        found = [blind(noise(seed), IS_MEMBER, baselines=some, seed=seed) for seed in range(4)]
    finally:
        del FEATURES["size"]
    largest = [max(one.estimate(scores).value for scores in one.baselines.values()) for one in found]
    nested = [one.estimate(one.best).value for one in found]
    assert np.mean(largest) > 0.56
    assert abs(np.mean(nested) - 0.5) < 0.04


def test_what_is_fitted_never_sees_the_documents_that_it_scores() -> None:
    """A baseline that knows by heart what it was fitted on, and nothing else."""

    def memorize(train: np.ndarray, is_member: np.ndarray, other: np.ndarray) -> np.ndarray:
        known = {float(row[0]): float(label) for row, label in zip(train, is_member)}
        return np.array([known.get(float(row[0]), 0.5) for row in other])

    FEATURES["number"] = lambda texts: np.array([[hash(text)] for text in texts], float)
    try:
        texts = noise(0)
        one = blind(texts, IS_MEMBER, baselines={"memory": Baseline("number", memorize)})
        np.testing.assert_array_equal(one.best.scores, 0.5)
        texts[1:N:2] = texts[0:N:2]  # every member twice: both copies are in one fold
        one = blind(texts, IS_MEMBER, baselines={"memory": Baseline("number", memorize)})
        np.testing.assert_array_equal(one.best.scores, 0.5)
        assert all(one.best.fold[i] == one.best.fold[i + 1] for i in range(0, N, 2))
        groups = np.arange(2 * N) // 4
        one = blind(noise(1), IS_MEMBER, baselines={"memory": Baseline("number", memorize)}, groups=groups.tolist())
        assert all(len(set(one.best.fold[groups == g])) == 1 for g in range(N // 2))
    finally:
        del FEATURES["number"]


def test_shift_is_found_and_the_choice_is_recorded() -> None:
    found = blind(shifted(), IS_MEMBER)
    assert found.estimate(found.best).low > 0.8
    assert not set(found.best.chosen) & {"dates", "length", "zlib"}
    assert set(found.baselines) == set(BASELINES)
    again = blind(shifted(), IS_MEMBER)
    np.testing.assert_array_equal(found.best.scores, again.best.scores)


@pytest.mark.parametrize("few", [0, 1, FEWEST - 1])
def test_too_few_documents(few: int) -> None:
    texts, is_member = noise(0)[: N + few], IS_MEMBER[: N + few]
    with pytest.raises(AuditError, match=f"^{few} different documents on a side; .* at least {FEWEST}"):
        blind(texts, is_member)
    found = audit(documents_of(texts, is_member), {"loss": np.zeros(len(texts))})
    assert found["best"] is None
    assert found["baselines"] == found["comparisons"] == {}
    assert found["notes"][0].startswith("no blind baselines")
    with pytest.raises(AuditError, match="2 folds; expected 3 to 10"):
        blind(noise(0), IS_MEMBER, folds=2)
    with pytest.raises(AuditError, match="no baselines"):
        blind(noise(0), IS_MEMBER, baselines={})


def documents_of(texts: Sequence[str], is_member: np.ndarray) -> list[Document]:
    return [Document(str(i), text, bool(member), "test") for i, (text, member) in enumerate(zip(texts, is_member))]


def test_token_ids_are_words() -> None:
    ids = [
        tuple(int(word[1:]) for word in text.split()) + ((999,) if m else (998,))
        for text, m in zip(noise(0), IS_MEMBER)
    ]
    documents = [Document(str(i), "", bool(m), "x", token_ids=one) for i, (one, m) in enumerate(zip(ids, IS_MEMBER))]
    found = blind_of_documents(documents)
    assert found.estimate(found.best).value == 1
    assert "zlib" not in found.baselines


def test_verdicts() -> None:
    """An attack that beats the baseline, one that only repeats it, one that is chance, one without a side."""
    found = blind(shifted(0.5), IS_MEMBER)
    rng = np.random.default_rng(0)
    scores = {
        "strong": rng.normal(size=2 * N) + 6 * IS_MEMBER,
        "same": found.best.scores + 0.01 * rng.normal(size=2 * N),
        "chance": rng.normal(size=2 * N),
        "half": np.where(IS_MEMBER, np.nan, 1.0),
    }
    scores["strong"][:5] = np.nan
    compared = compare_with_blind(found, scores)
    assert list(compared) == ["strong", "same", "chance"]
    assert [one.beats for one in compared.values()] == [True, False, False]
    assert " beats what is reached without the model" in compared["strong"].sentence
    assert "does not beat" in compared["chance"].sentence
    assert abs(compared["same"].difference) < 0.05
    for one in compared.values():
        assert one.low <= one.difference <= one.high
        assert one.p_value <= one.p_adjusted


def test_beating_a_baseline_below_chance_is_not_enough() -> None:
    """Cross-validation may fall below .5; an attack that is chance does not win by that."""
    found = blind(noise(0), IS_MEMBER, baselines={"length": BASELINES["length"]})
    worse = found.best.__class__(-IS_MEMBER.astype(float), found.best.fold, found.best.chosen)
    below = found.__class__(found.baselines, worse, IS_MEMBER)
    one = compare_with_blind(below, {"chance": np.random.default_rng(0).normal(size=2 * N)})["chance"]
    assert one.difference > 0.3
    assert not one.beats
    assert "not above chance" in one.sentence


def test_audit_is_json() -> None:
    scores = {"loss": np.random.default_rng(0).normal(size=2 * N)}
    found = json.loads(json.dumps(audit(documents_of(shifted(), IS_MEMBER), scores), allow_nan=False))
    assert set(found) == {"baselines", "best", "scores", "comparisons", "notes", "shift", "telling_words"}
    assert {one["word"] for one in found["telling_words"]} >= {"old", "new"}
    assert set(found["comparisons"]["loss"]["among_alike"]) == {"value", "low", "high"}
    assert set(found["best"]) == {"name", "auc_roc", "low", "high", "chosen"}
    assert sum(found["best"]["chosen"].values()) == 5
    assert set(found["comparisons"]["loss"]) >= {"difference", "low", "high", "p_value", "beats", "sentence"}
    assert "told apart without the model" in found["notes"][0]
    assert "loss" in found["notes"][1]


@pytest.mark.slow
def test_the_embedded_example() -> None:
    """Its random split tells nothing, its shifted one, here a part of it, everything."""
    assert abs(audit(demo_documents())["best"]["auc_roc"] - 0.5) < 0.04
    shifted = [[d for d in demo_documents(shifted=True) if d.is_member is side][:150] for side in (True, False)]
    assert audit([*shifted[0], *shifted[1]])["best"]["low"] > 0.95


def test_wikimia() -> None:
    path: Path = SHARED / "data" / "wikimia" / "128.jsonl"
    if not path.exists():
        pytest.skip(f"WikiMIA is not at {path}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = audit(documents_of([row["input"] for row in rows], np.array([row["label"] == 1 for row in rows])))
    assert 0.975 < found["baselines"]["bag_of_words"]["auc_roc"] < 1
    assert 0.87 < found["baselines"]["naive_bayes"]["auc_roc"] < 0.95
    assert found["baselines"]["dates"]["auc_roc"] > 0.9
    assert found["best"]["low"] > 0.95

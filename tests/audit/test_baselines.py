"""Each baseline finds what it is for, and nothing where there is nothing."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mimir_jax.audit import baselines
from mimir_jax.audit.baselines import BASELINES, FEATURES, mentioned_dates

WORDS = [f"word{i}" for i in range(300)]
IS_MEMBER = np.arange(240) % 2 == 0


def text_of(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(20, 40)))


def texts_with(kind: str, seed: int = 0) -> list[str]:
    """Random texts of both sides alike, but for one trait."""
    rng = np.random.default_rng(seed)
    texts = []
    for member in IS_MEMBER.tolist():
        text = text_of(rng)
        if kind == "word" and rng.random() < 0.8:
            text += " apple" if member else " pear"
        if kind == "phrase" and rng.random() < 0.5:
            text += " by and large" if member else " large and by"
        if kind == "date":
            text += f" in May {rng.integers(1990, 2010) if member else rng.integers(2008, 2024)}"
        if kind == "length" and member:
            text += " " + text_of(rng)
        if kind == "repeats" and member:
            text = " ".join([text[:40]] * 4)
        if kind == "capitals" and member:
            text = text.upper()
        texts.append(text)
    return texts


def auc(name: str, texts: list[str], rows: np.ndarray | None = None) -> float:
    """Fitted on the first half, measured on the other."""
    baseline = BASELINES[name]
    features = FEATURES[baseline.features](texts)
    half = len(texts) // 2
    scores = baseline.fit(features[:half], IS_MEMBER[:half], features[half:])
    return float(roc_auc_score(IS_MEMBER[half:], scores))


@pytest.mark.parametrize(
    ("name", "kind", "reached"),
    [
        ("bag_of_words", "word", 0.85),
        ("tf_idf", "word", 0.8),
        ("naive_bayes", "word", 0.75),
        ("rare_ngrams", "phrase", 0.7),
        ("dates", "date", 0.95),
        ("length", "length", 0.95),
        ("zlib", "repeats", 0.95),
        ("characters", "capitals", 0.95),
    ],
)
def test_finds_what_it_is_for(name: str, kind: str, reached: float) -> None:
    assert auc(name, texts_with(kind)) >= reached
    assert abs(auc(name, texts_with("nothing")) - 0.5) < 0.2


def test_dates() -> None:
    assert mentioned_dates("Born in 1912, died on 5 May 1999.") == [1912, 1999 + 4 / 12]
    assert mentioned_dates("On Sept. 3rd, 2021; 2023-02-28; December 2020") == [
        2021 + 8 / 12,
        2023 + 1 / 12,
        2020 + 11 / 12,
    ]
    assert mentioned_dates("$1999, 12020, 2020.5, 1,999, 2045, 1499, 2021b, x2021, room 21") == []
    assert mentioned_dates("the 1990s, in 2021.") == [2021]
    assert mentioned_dates("maybe 2021, marching 2022") == [2021, 2022]


def test_texts_without_anything() -> None:
    """Empty texts, texts that share no word, lone surrogates."""
    texts = ["", " \n", "one two", "three \ud800", "\x00", "naïve 北京 😀"] * 3 + [""] * 2
    is_member = np.arange(len(texts)) % 2 == 0
    for name, baseline in BASELINES.items():
        features = FEATURES[baseline.features](texts)
        scores = baseline.fit(features[:10], is_member[:10], features[10:])
        assert scores.shape == (10,), name
        assert np.isfinite(scores).all(), name
    for make in FEATURES.values():
        assert make(["a b c", "d e f"]).shape[0] == 2


def test_long_texts_are_read_from_their_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_CHARACTERS", 2400)
    texts = ["x " * 700 + "late " * 300, "x late"]
    assert [len(text) for text in baselines._beginnings(texts)] == [1200, 6]
    assert baselines.word_ngrams(["a b c d"] * 3).shape == (3, 9)  # four words, three pairs, two triples


def test_rules_are_greedy() -> None:
    """The first rule covers most; documents that it covers no longer count for the next."""
    from scipy.sparse import csr_matrix

    own = np.array([True] * 6 + [False] * 6)
    has = np.zeros((12, 3))
    has[:6, 0] = 1  # all of this side
    has[:5, 1] = 1  # nothing but covered documents
    has[6:11, 2] = 1  # the other side
    matrix = csr_matrix(has)
    rules, weights = baselines._rules(matrix, matrix.tocsc(), own)
    assert (rules, weights) == ([0], [np.log(7)])
    scores = baselines.rare_ngrams(matrix, own, csr_matrix(np.array([[1.0, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]])))
    np.testing.assert_allclose(scores, [np.log(7), -np.log(6), 0, np.log(7) - np.log(6)])


def test_numbers_have_any_shape_and_unit() -> None:
    """Members in the middle: no straight line tells them apart, and no unit matters."""
    x = np.random.default_rng(0).normal(size=(400, 1))
    member = np.abs(x[:, 0]) < 0.6
    for scale in (1.0, 1e9):
        scores = baselines.numeric(scale * x[:200], member[:200], scale * x[200:])
        assert roc_auc_score(member[200:], scores) > 0.9

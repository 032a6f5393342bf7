"""What differs is named; what only repeats the difference is not counted twice."""

import numpy as np
import pytest

from mimir_jax.audit.blind import blind
from mimir_jax.audit.shift import adjusted_auc, measures, shift, telling_words
from mimir_jax.metrics import MetricsError, auc_roc

IS_MEMBER = np.arange(240) < 120


def texts_of(newer: bool) -> list[str]:
    rng = np.random.default_rng(0)
    texts = []
    for member in IS_MEMBER.tolist():
        words = [f"w{i}" for i in rng.integers(0, 60, 25)]
        texts.append(" ".join(words) + (" in 1999" if member or not newer else " in 2023, said zebra"))
    return texts


def test_shift_is_named() -> None:
    found = shift(texts_of(newer=True), IS_MEMBER)
    date = found["latest date"]
    assert (date.members, date.nonmembers, date.distance, date.missing) == (1999, 2023, 1, (0, 0))
    assert date.p_adjusted is not None
    assert date.p_adjusted < 1e-10
    alike = shift(texts_of(newer=False), IS_MEMBER)
    assert all(one.p_adjusted is None or one.p_adjusted > 0.05 for one in alike.values())
    assert alike["latest date"].p_value == 1


def test_missing_numbers() -> None:
    found = shift(["no date", "another", "in 2001"], np.array([True, True, False]))
    assert found["latest date"].members is None
    assert found["latest date"].p_value is None
    assert found["latest date"].missing == (1, 0)
    assert set(measures([""])) == set(found)


def test_telling_words() -> None:
    words = telling_words(texts_of(newer=True), IS_MEMBER, count=2)
    assert "1999" in {word.word for word in words[:2]}
    assert {"2023", "zebra", "said"} >= {word.word for word in words[2:]}
    assert words[0].z > 0 > words[-1].z
    assert (words[-1].members, words[-1].nonmembers) == (0, 120)
    assert telling_words(["a1", "b1"], np.array([True, False])) == []
    with pytest.raises(MetricsError, match="both sides"):
        telling_words(["a"], np.array([True]))


def test_adjusted_auc() -> None:
    """A score that is the blind score falls to 1/2; one that knows more stays; without shift nothing changes."""
    rng = np.random.default_rng(1)
    partly = [text if rng.random() < 0.6 else text.partition(" in ")[0] for text in texts_of(newer=True)]
    shifted = blind(partly, IS_MEMBER)
    repeats = shifted.best.scores.copy()
    assert auc_roc(repeats, IS_MEMBER) > 0.7
    left = adjusted_auc(repeats, shifted)
    assert left is not None
    assert left.value < auc_roc(repeats, IS_MEMBER) - 0.1  # what is left is within the strata
    knows = rng.normal(size=240) + 2 * IS_MEMBER
    knows[:5] = np.nan
    kept = adjusted_auc(knows, shifted)
    assert kept is not None
    assert kept.low < auc_roc(knows, IS_MEMBER) < kept.high
    assert kept.low > 0.8
    separated = blind(texts_of(newer=True), IS_MEMBER)
    assert adjusted_auc(knows, separated, strata=4) is None

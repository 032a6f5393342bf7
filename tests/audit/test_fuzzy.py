"""Edits are as many as asked for and nested; both readings follow from the scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.audit.fuzzy import (
    edit_distance,
    edited_documents,
    fuzzy_membership,
    scores_by_distance,
    substitute_tokens,
    word_distances,
)
from mimir_jax.data.readers import DataError, Document
from mimir_jax.metrics import MetricsError

VOCABULARY = list(range(5, 60))


@given(st.lists(st.integers(5, 59), max_size=30), st.integers(0, 40), st.integers(0, 3))
def test_substitutions(ids: list[int], edits: int, seed: int) -> None:
    edited = substitute_tokens(ids, edits, VOCABULARY, seed)
    assert sum(a != b for a, b in zip(ids, edited)) == min(edits, len(ids))
    assert len(edited) == len(ids)
    assert set(edited) <= {*VOCABULARY}
    fewer = substitute_tokens(ids, edits // 2, VOCABULARY, seed)
    assert all(b in (a, c) for a, b, c in zip(ids, fewer, edited))
    assert substitute_tokens(ids, edits, VOCABULARY, seed) == edited


def test_seeds_and_texts_differ() -> None:
    ids = list(range(5, 45))
    assert substitute_tokens(ids, 5, VOCABULARY, 0) != substitute_tokens(ids, 5, VOCABULARY, 1)
    places = [
        {i for i, (a, b) in enumerate(zip(x, substitute_tokens(x, 5, VOCABULARY))) if a != b} for x in (ids, ids[::-1])
    ]
    assert places[0] != places[1]
    assert sum(a != b for a, b in zip([5] * 9, substitute_tokens([5] * 9, 9, [5, 6]))) == 9


def test_edited_documents_know_their_originals() -> None:
    members = [Document("a", "one two", True, "web"), Document("b", "three", True, "web")]
    first, second = edited_documents(members, [[5, 6, 7], [8]], 2, VOCABULARY)
    assert (first.id, first.parent, first.text, len(first.token_ids or ())) == ("a/2-edits", "a", "", 3)
    assert second.token_ids != (8,)
    with pytest.raises(DataError, match="2 members, but token ids of 1"):
        edited_documents(members, [[5]], 1, VOCABULARY)
    with pytest.raises(DataError, match="at least two ids"):
        edited_documents(members, [[5], [6]], 1, [5])


def test_distances() -> None:
    assert edit_distance([1, 2, 3, 4], [1, 9, 3, 4]) == 0.25
    assert edit_distance([], []) == 0
    np.testing.assert_allclose(word_distances(["a b c", "a"], ["a c", "b c"]), [1 / 3, 1])


def test_two_readings() -> None:
    """The further the edits, the less a member; by the threshold, by either AUC, and by distance."""
    rng = np.random.default_rng(0)
    members, nonmembers = rng.normal(3, 1, 300), rng.normal(0, 1, 400)
    edited = {"1": members - 0.1, "25": members - 2.0, "100": members - 4.0}
    edited["25"][:10] = np.nan
    distances = {name: np.full(300, float(name)) for name in edited}
    found = fuzzy_membership(members, nonmembers, edited, distances=distances, fprs=(0.05,))
    called = [one.called[0.05] for one in found.values()]
    assert called == sorted(called, reverse=True)
    assert called[0] > 0.8
    assert called[2] < 0.05
    assert found["1"].as_members.value > 0.95
    assert found["100"].as_members.value < 0.5  # further out than real non-members
    assert abs(found["1"].as_nonmembers.value - 0.5) < 0.06
    assert found["100"].as_nonmembers.value > 0.95
    assert found["25"].n_documents == 290
    assert found["25"].distance == 25
    assert found["25"].score_change == pytest.approx(-2)
    assert fuzzy_membership(members, nonmembers, {"1": members})["1"].distance is None


def test_faults() -> None:
    scores = np.arange(5.0)
    with pytest.raises(MetricsError, match="paraphrases: 4 scores"):
        fuzzy_membership(scores, scores, {"paraphrases": scores[:4]})
    with pytest.raises(MetricsError, match="no member has a score both"):
        fuzzy_membership(scores, scores, {"neighbors": np.full(5, np.nan)})


def test_scores_by_distance() -> None:
    rows = scores_by_distance(np.array([1.0, 3, 5, np.nan]), np.array([0, 0.5, 1, 0.2]), (0.0, 0.5, 0.8, 1.0))
    assert rows == [(0, 0.5, 1, 1.0), (0.5, 0.8, 1, 3.0), (0.8, 1, 1, 5.0)]
    assert scores_by_distance(np.array([1.0]), np.array([2.0]), (0.0, 1.0)) == [(0, 1, 0, None)]

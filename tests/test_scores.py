"""From inputs to scores: axes, groups of documents, what is compiled, reasons of nulls, documents from sub-texts."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax import attacks, scores
from mimir_jax.arrays import TokenStats
from mimir_jax.attacks.registry import Attack, BoundAttack
from mimir_jax.scores import Call, Given, pool, reasons, sentence


def stats(seed: int, length: int, models: int = 1, scored: bool = True) -> TokenStats:
    """[model, time] of a document whose first token is not scored."""
    rng = np.random.default_rng(seed)
    shape = models, length
    mask = np.broadcast_to((np.arange(length) > 0) & scored, shape)
    floats = [np.where(mask, -rng.uniform(0.1, 3, shape), 0).astype(np.float32) for _ in range(4)]
    ids = np.broadcast_to(rng.integers(1, 9, length, np.int32), shape)
    return TokenStats(ids, floats[0], floats[1], -floats[2], floats[3], np.where(mask, 2, 0).astype(np.int32), mask)


def bound(function: Any, *names: str, joint: bool = False) -> BoundAttack:
    return BoundAttack(Attack("own", function, names, "ours", joint=joint), {})


def test_every_input_has_its_axes() -> None:
    """One model axis in front for some, documents last for some."""

    def own(stats: Any, zlib_bytes: Any, token_counts: Any, grad_norms: Any) -> Any:
        assert stats.mask.shape[0] == zlib_bytes.shape[0] == grad_norms.shape[-1]  # documents
        assert token_counts.shape == (7,)
        return attacks.loss(stats) + 1000 * zlib_bytes + 100 * jnp.sum(token_counts) + 10 * grad_norms[1]

    lengths = [3, 9, 1, 4]
    documents = [stats(i, n, models=2) for i, n in enumerate(lengths)]
    given = {
        "stats": Given(documents),
        "zlib_bytes": Given(np.arange(4, dtype=np.float32), per_model=False),
        "token_counts": Given(np.ones(7, np.float32), per_model=False, by_document=False),
        "grad_norms": Given(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
    }
    call = Call(bound(own, "stats", "zlib_bytes", "token_counts", "grad_norms"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "ATTACK_POSITIONS", 12)  # groups that are not in the documents' order
        found = scores.scores([call], given, 2, 4)["own"]
    for i, one in enumerate(documents):
        for model in range(2):
            ll = one.log_prob[model][one.mask[model]].mean() if lengths[i] > 1 else np.nan
            expected = ll + 1000 * i + 700 + 10 * (12 * model + 4 + i)
            np.testing.assert_allclose(found[model, i], expected, rtol=1e-6)


def test_references_have_inputs_of_their_own() -> None:
    documents = [stats(i, 5) for i in range(3)]
    others = {
        name: [TokenStats(*(x[0] for x in stats(seed + i, 4))) for i in range(3)] for seed, name in ((7, "a"), (9, "b"))
    }
    given = {"stats": Given(documents)} | {
        f"reference_stats-{name}": Given(some, per_model=False) for name, some in others.items()
    }
    calls = [Call(attacks.parse("ref"), name) for name in others]
    found = scores.scores(calls, given, 1, 3)
    assert list(found) == ["ref-a", "ref-b"]
    for name, some in others.items():
        expected = [d.log_prob[0, 1:].mean() - r.log_prob[1:].mean() for d, r in zip(documents, some)]
        np.testing.assert_allclose(found[f"ref-{name}"][0], expected, rtol=1e-5)


def test_the_longest_document_may_lack_an_input() -> None:
    """As a shot does, which has no statistics after the shots."""
    documents = [stats(0, 9), stats(1, 4), stats(2, 6)]
    after = [stats(3, 0), stats(4, 4), stats(5, 6)]
    found = scores.scores(
        [Call(attacks.parse("recall"))],
        {"stats": Given(documents), "nonmember_prefix_stats": Given(after)},
        1,
        3,
    )["recall"][0]
    expected = [b.log_prob[0, 1:].mean() / a.log_prob[0, 1:].mean() for a, b in zip(documents[1:], after[1:])]
    np.testing.assert_allclose(found, [np.nan, *expected], rtol=1e-5)


def test_joint_attacks_get_all_documents_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "ATTACK_POSITIONS", 1)
    seen: list[tuple[bool, int]] = []

    def function(joint: bool) -> Any:
        def own(log_likelihood: Any, stats: Any) -> Any:
            seen.append((joint, log_likelihood.shape[0]))
            return log_likelihood - jnp.mean(log_likelihood)

        return own

    given = {
        "log_likelihood": Given(np.array([[1, 2, 6]], np.float32)),
        "stats": Given([stats(i, i + 2) for i in range(3)]),
    }
    for joint, expected in ((False, [0, 0, 0]), (True, [-2, -1, 3])):
        call = Call(bound(function(joint), "log_likelihood", "stats", joint=joint))
        np.testing.assert_allclose(scores.scores([call], given, 1, 3)["own"], [expected])
    assert {size for joint, size in seen if not joint} == {1}
    assert [size for joint, size in seen if joint] == [3]


def test_nothing_is_compiled_twice() -> None:
    """Not for other numbers, and not for the same attacks parsed again."""

    def run(seed: int) -> None:
        calls = [Call(attacks.parse(spec)) for spec in ("loss", "min_k@k=0.3", "zlib")]
        given = {
            "stats": Given([stats(seed + i, n) for i, n in enumerate((5, 3, 8))]),
            "zlib_bytes": Given(np.array([3, 4, 5], np.int32), per_model=False),
        }
        scores.scores(calls, given, 1, 3)

    run(0)
    size = scores._call._cache_size()
    run(10)
    assert scores._call._cache_size() == size


@given(st.lists(st.integers(0, 10**9)), st.integers(1, 10**9))
def test_groups_hold_every_document_once_and_are_bounded(sizes: list[int], positions: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "ATTACK_POSITIONS", positions)
        groups = list(scores._groups(sizes))
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(sizes[i] for i in group) <= positions


# Why a score is null


def test_reasons_of_nulls() -> None:
    nan = np.nan
    calls = [Call(attacks.parse(spec)) for spec in ("loss", "recall", "min_k@window=3")]
    given = {
        "stats": Given(None),
        "nonmember_prefix_stats": Given(None, reasons={2: "it is a shot"}),
    }
    columns = {
        "a/loss": [nan, nan, 1, 1, 1],
        "a/recall": [nan, nan, nan, nan, 1],
        "a/min_k@window=3": [nan, nan, nan, 1, 1],
        "b/loss": [nan, nan, 1, 1, 1],
        "b/recall": [nan, nan, nan, nan, 1],
        "b/min_k@window=3": [nan, nan, 1, 1, 1],
    }
    arrays = {name: np.array(values, np.float32) for name, values in columns.items()}
    found = reasons([0, 1, 5, 5, 5], [False, False, True, True, True], calls, given, arrays, ["a/", "b/"])
    assert found[0] == dict.fromkeys(columns, "empty document")
    assert set(found[1].values()) == {"one token, and nothing before it to predict it from"}
    assert found[2] == {
        "a/recall": "it is a shot",
        "a/min_k@window=3": "fewer scored tokens than one window",
        "b/recall": "it is a shot",
    }
    assert list(found[3]) == ["a/recall", "b/recall"]
    assert found[4] == {}
    assert [sentence(why, len(columns)) for why in (found[0], found[2], found[4])] == [
        "empty document",
        "a/recall, b/recall: it is a shot; a/min_k@window=3: fewer scored tokens than one window",
        None,
    ]


# Documents from sub-texts


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", [2, 5, np.nan]), ("max", [3, 5, np.nan]), ("min", [1, 5, np.nan])]
)
def test_pooling_leaves_out_what_has_no_score(how: str, expected: list[float]) -> None:
    values = np.array([np.nan, 3, np.nan, 1, 5, np.nan], np.float32)
    np.testing.assert_array_equal(pool(values, [[0, 1, 3], [4], [2, 5]], how), np.array(expected, np.float32))

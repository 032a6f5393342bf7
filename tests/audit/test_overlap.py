"""Overlap against sets of tuples, against published bitmaps, and where documents have no n-gram."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimir_jax.audit.overlap import association, auc_by_overlap, evaluate_below
from mimir_jax.data.embedded import demo_documents
from mimir_jax.data.ngram_index import (
    BloomIndex,
    ExactIndex,
    fill,
    inclusion,
    member_overlaps,
    overlap,
    overlaps,
    within,
)
from mimir_jax.data.ngrams import batches, ngram_hashes, words
from mimir_jax.data.readers import DataError
from mimir_jax.metrics import MetricsError, auc_roc
from mimir_jax.report.audit_figures import histogram, scatter
from tests.conftest import SHARED

BITMAPS = SHARED / "data" / "pile_test_nonmembers"


HASHES = [17322207460336027576, 6305996626582393783]  # so that saved filters stay readable


def tuples(text: str, n: int) -> list[tuple[str, ...]]:
    split = words(text)
    return [tuple(split[i : i + n]) for i in range(len(split) - n + 1)]


def test_words() -> None:
    assert words("Don't stop, it costs 3.50!  \n ") == ["Don't", "stop", ",", "it", "costs", "3.50", "!"]
    assert words("") == words(" \t") == []


@given(st.lists(st.sampled_from("ab"), max_size=12), st.integers(1, 4))
@settings(max_examples=40)
def test_equal_hashes_are_equal_ngrams(letters: list[str], n: int) -> None:
    text = " ".join(letters)
    hashes, known = ngram_hashes(text, n).tolist(), tuples(text, n)
    assert len(hashes) == len(known)
    assert len(set(hashes)) == len(set(known))
    assert len(set(zip(hashes, known))) == len(set(known))


def test_hashes_are_the_same_everywhere() -> None:
    assert ngram_hashes("one two three", 2).tolist() == HASHES
    assert not set(ngram_hashes("a b", 1).tolist()) & set(ngram_hashes("a b a", 2).tolist())
    with pytest.raises(ValueError, match="n is 0"):
        ngram_hashes("a", 0)


@pytest.mark.parametrize("n", [3, 7])
def test_exact_sets_on_the_embedded_corpus(n: int) -> None:
    members = [d.text for d in demo_documents() if d.is_member][:80]
    others = [d.text for d in demo_documents() if not d.is_member][:30]
    known = {one for text in members for one in tuples(text, n)}
    exact, bloom = ExactIndex(n), BloomIndex(n, len(known), 1e-4)
    assert fill(exact, members) == fill(bloom, members) == 80
    assert len(exact) == len(known)
    falsely: set[tuple[str, ...]] = set()
    for text in others:
        expected = [one in known for one in tuples(text, n)]
        assert inclusion(exact, text).tolist() == expected
        found = inclusion(bloom, text)
        assert np.all(found >= expected)  # a filter never misses
        falsely |= {one for one, claimed, true in zip(tuples(text, n), found, expected) if claimed and not true}
    assert len(falsely) <= 3
    assert bloom.measured_false_positive_rate() < 5e-4
    assert sum(map(sum, (inclusion(exact, text) for text in others))) > (50 if n == 3 else 0)
    np.testing.assert_array_equal(overlaps(exact, members[:5]), 1)


def test_merging_in_pieces_counts_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    index = ExactIndex(1)
    for text in ("a b a", "b c", "c d"):
        index.add(ngram_hashes(text, 1))
        index._merge()
    assert index.texts_with(ngram_hashes("a b c d e", 1)).tolist() == [1, 2, 2, 1, 0]
    assert inclusion(index, "a b c d e", own=True).tolist() == [False, True, True, False, False]
    with pytest.raises(DataError, match="needs an ExactIndex"):
        inclusion(BloomIndex(1, 10), "a", own=True)
    assert not ExactIndex(2).contains(ngram_hashes("a b c", 2)).any()


def test_members_are_compared_with_the_others() -> None:
    texts = ["a b c d", "a b c x", "a b", "b c d e"]
    found = member_overlaps(texts, np.array([True, True, True, False]), n=2)
    np.testing.assert_allclose(found, [2 / 3, 2 / 3, 1, 2 / 3])
    assert np.isnan(member_overlaps(["a"], np.array([True]))).all()


def test_a_filter_is_saved(tmp_path: Path) -> None:
    index = BloomIndex(2, 1000, 1e-3)
    fill(index, ["a b c d"])
    index.save(tmp_path / "filter")
    again = BloomIndex.load(tmp_path / "filter", 2, 1000, 1e-3)
    assert inclusion(again, "x b c y").tolist() == [False, True, False]
    with pytest.raises(DataError, match="no Bloom filter"):
        BloomIndex.load(tmp_path / "absent", 2, 1000, 1e-3)
    with pytest.raises(DataError, match="impossible"):
        BloomIndex(2, 0)


@pytest.mark.slow
def test_processes_agree() -> None:
    texts = [d.text for d in demo_documents()][:50] * 3
    one, two = ExactIndex(5), ExactIndex(5)
    assert fill(one, texts) == fill(two, iter(texts), processes=2) == 150
    probe = demo_documents()[60].text
    np.testing.assert_array_equal(one.texts_with(ngram_hashes(probe, 5)), two.texts_with(ngram_hashes(probe, 5)))
    assert len(one) == len(two)


def test_batches_hold_every_text_once() -> None:
    texts = ["x" * size for size in (5, 20, 1, 1, 30, 2)]
    found = list(batches(texts, characters=20))
    assert [text for batch in found for text in batch] == texts
    assert len(found) == 3
    assert list(batches([])) == []


def test_first_positions_and_bounds() -> None:
    assert overlap([True] * 50 + [False] * 250) == 0.25
    assert overlap([True, False], positions=1) == 1
    assert np.isnan(overlap([]))
    values = np.array([0.0, 0.1999, 0.2, 0.8, np.nan])
    assert within(values, 0.0, 0.2).tolist() == [True, True, False, False, False]
    assert within(values, 0.2, 0.8).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("domain", "mean"),
    [("wikipedia_(en)", 0.254), ("github", 0.540), ("hackernews", 0.194), ("dm_mathematics", 0.729)],
)
def test_published_bitmaps(domain: str, mean: float) -> None:
    """The means that are stated for the Pile's test split; our words give as many n-grams as the bitmaps have."""
    if not BITMAPS.is_dir():
        pytest.skip(f"bitmaps are not at {BITMAPS}")
    shards = []
    for shard in ("shard0.jsonl.gz", "shard1.jsonl.gz"):
        with gzip.open(BITMAPS / domain / shard, "rt", encoding="utf-8") as file:
            shards.append([json.loads(line) for line in file])
    either = [np.logical_or(a["ngram_inclusion"], b["ngram_inclusion"]) for a, b in zip(*shards)]
    assert round(float(np.mean([overlap(one) for one in either])), 3) == mean
    for row, bitmap in list(zip(shards[0], either))[:25]:
        assert len(ngram_hashes(row["original"], 7)) == len(bitmap)


IS_MEMBER = np.arange(300) < 100
VALUES = np.where(IS_MEMBER, 1.0, np.linspace(0, 1, 300))


def test_auc_by_overlap() -> None:
    """A score that is the overlap separates members the worse, the more non-members overlap."""
    scores = VALUES + 0.3 * np.random.default_rng(0).normal(size=300)
    slices = auc_by_overlap(scores, IS_MEMBER, VALUES, quantiles=4)
    aucs = [one.auc_roc.value for one in slices if one.auc_roc]
    assert sum(one.n_nonmembers for one in slices) == 200
    assert aucs == sorted(aucs, reverse=True)
    rows = IS_MEMBER | ((slices[0].low <= VALUES) & (slices[0].high > VALUES))
    assert aucs[0] == pytest.approx(auc_roc(scores[rows], IS_MEMBER[rows]))
    scores[IS_MEMBER] = np.nan
    with pytest.raises(MetricsError, match="needs scored members"):
        auc_by_overlap(scores, IS_MEMBER, VALUES)
    same = auc_by_overlap(np.zeros(300), IS_MEMBER, np.zeros(300), quantiles=2)
    assert [one.n_nonmembers for one in same] == [0, 200]
    assert same[0].auc_roc is None


def test_evaluate_below() -> None:
    scores = VALUES.copy()
    found = evaluate_below(scores, IS_MEMBER, VALUES, (0.5, 0.8, 0.1), n_bootstrap=20)
    assert found[0.5] is not None
    assert found[0.8] is not None
    assert found[0.1] is None  # overlaps of the non-members begin at 1/3
    assert found[0.5].n_nonmembers < found[0.8].n_nonmembers < 200
    assert found[0.5].n_members == 100


def test_association() -> None:
    x = np.linspace(0, 1, 50)
    found = association(x**3, np.append(x[:-1], np.nan))
    assert found.correlation == pytest.approx(1)
    assert found.n_documents == 49
    assert association(np.ones(5), x[:5]).correlation is None
    assert association(x[:2], x[:2]).p_value is None


def test_figures(tmp_path: Path) -> None:
    histogram({"members": VALUES[IS_MEMBER], "a $x_1$": np.full(3, np.nan)}, tmp_path / "h.png", words=7)
    scatter(VALUES, VALUES, IS_MEMBER, ("overlap $", "loss"), tmp_path / "s.png", diagonal=True)
    for name in ("h.png", "s.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

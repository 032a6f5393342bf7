"""em_mia against a restatement in exact fractions, and what it must leave unchanged."""

from fractions import Fraction
from statistics import median

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mimir_jax.attacks import em_mia

pytestmark = pytest.mark.slow  # as a whole

Inputs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
JITTED = jax.jit(em_mia, static_argnums=4)
DOCUMENTS = 9


def auc(pairs: list[tuple[float, bool]]) -> Fraction | None:
    high, low = ([x for x, label in pairs if bool(label) is side] for side in (True, False))
    if not high or not low:
        return None
    wins = sum(Fraction(2 * (x > y) + (x == y), 2) for x in high for y in low)
    return wins / (len(high) * len(low))


def expected(values: Inputs, iterations: int) -> list[float]:
    plain, start, conditional, prefixes = values
    with np.errstate(invalid="ignore"):
        # In float32, where equal ones are equal in the function too.
        recall = (conditional / plain).astype(float)
    every = range(len(plain))
    fits = {p: [x for x in every if x != p and not np.isnan(recall[row, x])] for row, p in enumerate(prefixes)}
    row_of = {p: row for row, p in enumerate(prefixes)}
    f = {x: None if np.isnan(plain[x]) else Fraction(float(start[x])) for x in every}
    for _ in range(iterations):
        known = [score for score in f.values() if score is not None]
        middle = median(known) if known else None
        r = {p: auc([(recall[row_of[p], x], f[x] > middle) for x in fits[p] if f[x] is not None]) for p in row_of}
        if len(r) == len(plain):
            f = {x: None if r[x] is None else -r[x] for x in every}
            continue
        qualities = [quality for quality in r.values() if quality is not None]
        good = [p for p, quality in r.items() if quality is not None and quality >= median(qualities)]
        f = {}
        for x in every:
            pairs = [
                (recall[row_of[p], x], recall[row_of[p], y]) for p in good if x in fits[p] for y in fits[p] if y != x
            ]
            wins = sum(Fraction(2 * (mine > other) + (mine == other), 2) for mine, other in pairs)
            f[x] = wins / len(pairs) if pairs else None
    return [np.nan if f[x] is None else float(f[x]) for x in every]


def random_inputs(seed: int, n_prefixes: int, missing: float = 0.0) -> Inputs:
    """Values of few levels, so that there are ties."""
    rng = np.random.default_rng(seed)
    plain = -rng.choice([1.0, 2.0, 4.0], DOCUMENTS)
    conditional = -rng.integers(1, 7, (n_prefixes, DOCUMENTS)).astype(np.float64)
    conditional[rng.random(conditional.shape) < missing] = np.nan
    start = rng.integers(-3, 3, DOCUMENTS).astype(np.float32)
    prefixes = rng.permutation(DOCUMENTS)[:n_prefixes].astype(np.int32)
    return plain.astype(np.float32), start, conditional.astype(np.float32), prefixes


@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("n_prefixes", [1, 4, DOCUMENTS])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), missing=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_scores_follow_the_rule(iterations, n_prefixes, seed, missing):
    values = random_inputs(seed, n_prefixes, missing)
    np.testing.assert_allclose(JITTED(*values, iterations), expected(values, iterations), rtol=1e-6)


def test_worked_by_hand():
    plain = np.full(4, -1, np.float32)
    start = np.array([3, 2, 1, 0], np.float32)  # the first two are above the median, 1.5
    conditional = -np.array([[9, 1, 2, 3], [1, 9, 2, 3], [3, 4, 9, 2], [2, 1, 2, 9]], np.float32)
    # Recall after the first document: 1 | 2, 3. Higher for the third and the fourth; and so on.
    score = em_mia(plain, start, conditional, np.arange(4, dtype=np.int32), 1)
    np.testing.assert_allclose(score, [-0.0, -0.0, -1.0, -0.25])
    # Of the last two as prefixes, the third is the better one: 3, 4, -, 2.
    score = em_mia(plain, start, conditional[2:], np.array([2, 3], np.int32), 1)
    np.testing.assert_allclose(score, [0.5, 1.0, np.nan, 0.0])


@pytest.mark.parametrize("n_prefixes", [4, DOCUMENTS])
def test_a_document_is_not_its_own_prefix(n_prefixes):
    plain, start, conditional, prefixes = random_inputs(0, n_prefixes)
    scores = JITTED(plain, start, conditional, prefixes, 10)
    for junk in (np.nan, -100.0, 0.0):
        itself = conditional.copy()
        itself[np.arange(n_prefixes), prefixes] = junk
        np.testing.assert_array_equal(JITTED(plain, start, itself, prefixes, 10), scores)


@pytest.mark.parametrize("n_prefixes", [4, DOCUMENTS])
def test_a_document_without_a_score_changes_no_other(n_prefixes):
    plain, start, conditional, prefixes = random_inputs(1, n_prefixes)
    scores = JITTED(plain, start, conditional, prefixes, 10)
    assert np.isfinite(scores).all()
    column = np.full((n_prefixes, 1), np.nan, np.float32)
    more = [np.append(plain, np.float32(np.nan)), np.append(start, np.float32(5)), np.hstack([conditional, column])]
    if n_prefixes == DOCUMENTS:  # still every document
        more[2] = np.vstack([more[2], np.full((1, DOCUMENTS + 1), np.nan, np.float32)])
        prefixes = np.append(prefixes, np.int32(DOCUMENTS))
    np.testing.assert_array_equal(JITTED(*more, prefixes, 10), [*scores.tolist(), np.nan])


@pytest.mark.parametrize("n_prefixes", [4, DOCUMENTS])
def test_the_order_of_documents_and_prefixes_does_not_matter(n_prefixes):
    plain, start, conditional, prefixes = random_inputs(2, n_prefixes)
    scores = np.asarray(JITTED(plain, start, conditional, prefixes, 10))
    rng = np.random.default_rng(0)
    docs, rows = rng.permutation(DOCUMENTS), rng.permutation(n_prefixes)
    moved = np.argsort(docs)[prefixes][rows].astype(np.int32)
    np.testing.assert_array_equal(JITTED(plain[docs], start[docs], conditional[rows][:, docs], moved, 10), scores[docs])


def test_no_documents_and_no_prefixes():
    def nothing(n_prefixes, n_documents):
        shapes = [(n_documents,), (n_documents,), (n_prefixes, n_documents)]
        return em_mia(*(np.zeros(shape, np.float32) for shape in shapes), np.arange(n_prefixes, dtype=np.int32))

    assert nothing(0, 0).shape == (0,)
    assert np.isnan(nothing(0, 3)).all()


@pytest.mark.parametrize("n_prefixes", [20, 120])
def test_it_improves_on_where_it_starts(n_prefixes):
    """Non-members as prefixes lower the recall of non-members more, as ReCaLL finds; the start is weak."""
    rng = np.random.default_rng(0)
    member = np.arange(120) < 60
    plain = -rng.uniform(2, 4, 120).astype(np.float32)
    start = (member + rng.normal(0, 2, 120)).astype(np.float32)
    prefixes = rng.permutation(120)[:n_prefixes].astype(np.int32)
    level = rng.uniform(0.8, 1.2, (n_prefixes, 1))
    effect = 0.05 * np.outer(~member[prefixes], member)
    ratio = level + effect + rng.normal(0, 0.05, effect.shape)
    scores = JITTED(plain, start, (ratio * plain).astype(np.float32), prefixes, 10)
    assert roc_auc_score(member, start) < 0.7
    assert roc_auc_score(member, scores) > 0.9

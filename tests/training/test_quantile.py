"""The regression of quantile: it finds conditional quantiles that are known, says how well, and needs enough texts."""

import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest, norm
from sklearn.metrics import mean_pinball_loss

from mimir_jax.attacks.quantile import ALPHAS as ATTACKS_ALPHAS
from mimir_jax.data.readers import DataError
from mimir_jax.training.quantile import (
    ALPHAS,
    COMPONENTS,
    FOLDS,
    NEEDED,
    NETWORKS,
    TRAINED,
    Fit,
    apply_networks,
    fit_features,
    fit_quantiles,
    pinball,
    train_networks,
    wilson,
)

pytestmark = pytest.mark.slow  # as a whole

LEVELS = 1 - np.array(ALPHAS)
WORDS = {
    0: ("the", "and", "of", "a", "in", "that", "was", "with", "his", "they", "this", "have", "from", "one", "had"),
    1: ("0", "1", "17", "4096", "3.14", "==", "(", ")", "{", "}", "return", "if", "else", "while", "int", "x", "+="),
}
MEAN, DEVIATION = np.array([-3.0, -1.0]), np.array([0.2, 0.6])


def some_text(rng: np.random.Generator, kind: int, words: int | None = None) -> str:
    return " ".join(rng.choice(WORDS[kind], rng.integers(20, 60) if words is None else words))


def two_kinds(n: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts of two kinds in turn, and their LL: normal, with the mean and deviation of the kind."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % 2
    return [some_text(rng, kind) for kind in kinds], rng.normal(MEAN[kinds], DEVIATION[kinds]), kinds


@pytest.fixture(scope="module")
def fitted() -> Fit:
    texts, y, _ = two_kinds(1000, 0)
    return fit_quantiles(texts, y)


def margin(alpha: np.ndarray, n_fit: float, n_test: float) -> np.ndarray:
    """Four standard deviations of a share above a quantile that is itself estimated."""
    return 4 * np.sqrt(alpha * (1 - alpha) * (1 / n_fit + 1 / n_test))


def test_the_alphas_are_the_attacks() -> None:
    assert ALPHAS == ATTACKS_ALPHAS


def test_known_conditional_quantiles(fitted: Fit) -> None:
    texts, y, kinds = two_kinds(4000, 1)
    found = fitted.predict(texts)
    assert found.shape == (len(ALPHAS), 4000)
    assert found.dtype == np.float32
    alpha = np.array(ALPHAS)
    for kind in (0, 1):
        above = (y > found)[:, kinds == kind].mean(axis=-1)
        assert (np.abs(above - alpha) < margin(alpha, 500, 2000)).all(), (kind, above)
        z = norm.ppf(LEVELS)
        error = found[:, kinds == kind].mean(axis=-1) - (MEAN[kind] + DEVIATION[kind] * z)
        assert (np.abs(error) < DEVIATION[kind] * margin(alpha, 500, np.inf) / norm.pdf(z)).all(), (kind, error)
    # What thresholds that know no kinds would give: none of one of them.
    assert (y > np.quantile(y, LEVELS)[:, None])[:, kinds == 0].mean() < 0.001


def test_quantiles_that_follow_a_text_continuously() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 300, 2000)
    texts = [some_text(rng, 0, n) for n in lengths]
    mean = -5 + 0.5 * np.log(lengths)
    y = mean + rng.exponential(0.2, len(texts))
    fit = fit_quantiles(texts[:1000], y[:1000])
    found = fit.predict(texts[1000:])
    truth = mean[1000:] - 0.2 * np.log(np.array(ALPHAS))[:, None]
    assert np.corrcoef(found[4], truth[4])[0, 1] > 0.95
    above = (y[1000:] > found).mean(axis=-1)
    assert (np.abs(above - ALPHAS) < margin(np.array(ALPHAS), 1000, 1000)).all(), above


def test_constant_features_give_the_marginal_quantiles() -> None:
    y = np.random.default_rng(0).gumbel(-3, 0.5, 1000)
    fit = fit_quantiles(["the same text"] * 1000, y)
    found = fit.predict(["the same text", "the same text"])
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    above = (y[:, None] > found[:, 0]).mean(axis=0)
    assert (np.abs(above - ALPHAS) < margin(np.array(ALPHAS), 600, np.inf)).all(), above
    # Nothing was to be told apart, so what else is asked for does not matter either, but for rounding.
    np.testing.assert_allclose(fit.predict(["quite another", ""]), found, atol=1e-5)


def test_equal_log_likelihoods() -> None:
    texts, _, _ = two_kinds(200, 0)
    found = fit_quantiles(texts, np.full(200, -2.5)).predict(texts)
    np.testing.assert_allclose(found, -2.5, atol=0.05)


@given(st.lists(st.text(max_size=50), min_size=1, max_size=5))
def test_quantiles_do_not_cross(fitted: Fit, texts: list[str]) -> None:
    """For whatever text, of kinds that were never seen, too."""
    found = fitted.predict(texts)
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=0) <= 0).all()


def test_a_prediction_does_not_depend_on_the_other_texts(fitted: Fit) -> None:
    texts, _, _ = two_kinds(6, 2)
    together = fitted.predict(texts)
    for i in range(6):
        np.testing.assert_allclose(fitted.predict([texts[i]])[:, 0], together[:, i], rtol=1e-5, atol=1e-5)


def test_seeds_reproduce() -> None:
    texts, y, _ = two_kinds(200, 0)
    first, again, other = (fit_quantiles(texts, y, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.predict(texts), again.predict(texts))
    np.testing.assert_array_equal(first.calibration.share, again.calibration.share)
    assert (first.predict(texts) != other.predict(texts)).any()


def test_stacked_models_equal_one_by_one() -> None:
    texts, y, _ = two_kinds(200, 0)
    both = np.stack([y, 3 * y[::-1] + 1])
    both[1, :7] = np.nan
    stacked = fit_quantiles(texts, both)
    found = stacked.predict(texts[:9])
    assert found.shape == (2, len(ALPHAS), 9)
    assert stacked.n_texts.tolist() == [200, 193]
    assert stacked.left_out.tolist() == [0, 7]
    assert stacked.calibration.share.shape == (2, len(ALPHAS))
    for model in (0, 1):
        alone = fit_quantiles(texts, both[model])
        np.testing.assert_allclose(found[model], alone.predict(texts[:9]), atol=0.03)  # rounding, amplified by training
    notes = stacked.notes()
    assert ["model 0" in notes[0], "model 1" in notes[1]] == [True, True]
    assert "193 known non-members, 7 without a log-likelihood left out" in notes[1]


# What is said of it.


def test_held_out_calibration(fitted: Fit) -> None:
    share, low, high = (field[0] for field in fitted.calibration)
    assert ((low < share) & (share < high)).all()
    assert (np.abs(share - ALPHAS) < margin(np.array(ALPHAS), 600, 1000)).all(), share
    (note,) = fitted.notes()
    assert note.startswith("quantile: thresholds are fitted on 1000 known non-members; ")
    assert f"5%: {100 * share[4]:.1f}% ({100 * low[4]:.1f}-{100 * high[4]:.1f}%)" in note
    assert len(re.findall(r"\d+%: ", note)) == len(ALPHAS)
    assert "left out" not in note


def test_calibration_is_of_what_was_not_seen() -> None:
    """Networks that have not seen a text, and quantiles of how far others exceed what was not seen of them."""
    texts, y, _ = two_kinds(200, 0)
    fit = fit_quantiles(texts, y, seed=5)
    part = np.random.default_rng(5).permutation(200) % FOLDS
    place, spread = (np.asarray(field[0], np.float64) for field in apply_networks(fit.networks, fit.features(texts)))
    excess = np.zeros(200)
    for doc in range(200):
        unseen = [i for i, (held_out, _) in enumerate(NETWORKS) if held_out == part[doc]]
        assert len(unseen) == FOLDS - 1
        excess[doc] = (y[doc] - place[unseen, doc].mean()) / spread[unseen, doc].mean()
    above = np.zeros(len(ALPHAS))
    for doc in range(200):
        others = np.sort(excess[part != part[doc]])
        for i, level in enumerate(LEVELS):
            rank = level * (len(others) + 1) - 1
            below = min(int(rank), len(others) - 1)
            above[i] += excess[doc] > others[below] + (rank - below) * (others[min(below + 1, 159)] - others[below])
    np.testing.assert_allclose(fit.calibration.share[0], above / 200, atol=1.5 / 200)


def test_networks_see_their_parts_alone() -> None:
    """Masked equals sliced: what both masks leave out has no influence at all."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4)).astype(np.float32)
    y = rng.normal(size=90).astype(np.float32)
    fit, stop = np.arange(90) < 60, (np.arange(90) >= 60) & (np.arange(90) < 75)
    changed = np.where(fit | stop, y, 100).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 1)

    def trained(x: np.ndarray, y: np.ndarray, fit: np.ndarray, stop: np.ndarray) -> np.ndarray:
        networks = train_networks(keys, x, y[None], fit[None, None], stop[None, None])
        return np.stack(apply_networks(networks, x[:60]))

    whole = trained(x, y, fit, stop)
    np.testing.assert_array_equal(trained(x, changed, fit, stop), whole)
    np.testing.assert_allclose(trained(x[:75], y[:75], fit[:75], stop[:75]), whole, rtol=1e-3, atol=1e-3)
    other = np.where(fit, y, -y).astype(np.float32)  # what says when to stop does have one
    assert (trained(x, other, fit, stop) != whole).any()


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 200), (50, 1000)])
def test_wilson(successes: int, trials: int) -> None:
    low, high = wilson(np.array([successes]), np.array([trials]))
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose([low[0], high[0]], [expected.low, expected.high], atol=1e-12)


@given(
    arrays(np.float32, (7, len(TRAINED)), elements=st.floats(-10, 10, width=32)),
    arrays(np.float32, 7, elements=st.floats(-10, 10, width=32)),
    arrays(np.bool_, 7).filter(np.any),
)
def test_pinball(quantiles: np.ndarray, y: np.ndarray, where: np.ndarray) -> None:
    expected = np.mean(
        [mean_pinball_loss(y[where], quantiles[where, i], alpha=1 - alpha) for i, alpha in enumerate(TRAINED)]
    )
    found = pinball(jax.numpy.asarray(quantiles), jax.numpy.asarray(y), jax.numpy.asarray(where))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# Features.


def test_features_tell_kinds_apart_and_are_standardized() -> None:
    texts, _, kinds = two_kinds(200, 0)
    features = fit_features(texts, 0)
    x = features(texts)
    assert x.shape == (200, COMPONENTS + 3)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(x.std(axis=0)[-3:], 1, atol=0.1)
    assert x.std(axis=0).max() == pytest.approx(1, abs=0.1)
    assert max(abs(np.corrcoef(column, kinds)[0, 1]) for column in x.T) > 0.95
    # Case counts: it tells code and shouting from prose.
    assert (features([texts[0].upper()]) != features([texts[0]])).any()


# What is refused.


def test_too_few_texts() -> None:
    texts, y, _ = two_kinds(200, 0)
    y[NEEDED:] = np.nan
    assert fit_quantiles(texts, y).n_texts.tolist() == [NEEDED]
    y[3] = np.nan
    with pytest.raises(DataError, match=f"{NEEDED - 1} of 200 known non-members .* at least {NEEDED} are needed"):
        fit_quantiles(texts, y)
    with pytest.raises(DataError, match=f"{NEEDED - 1} of 200"):  # one model of several
        fit_quantiles(texts, np.stack([np.zeros(200), y]))
    with pytest.raises(DataError, match="0 of 0 known non-members"):
        fit_quantiles([], np.zeros(0))


def test_infinite_log_likelihoods_are_left_out() -> None:
    texts, y, _ = two_kinds(200, 0)
    y[0] = -np.inf
    fit = fit_quantiles(texts, y)
    assert fit.left_out.tolist() == [1]
    assert "1 without a log-likelihood left out" in fit.notes()[0]
    assert np.isfinite(fit.predict(texts)).all()

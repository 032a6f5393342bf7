"""TokenStats: padding, stacking, and masked reductions that equal those of the slice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mimir_jax.arrays import DTYPES, TokenStats, masked_count, masked_mean, pad_documents, stack

LEADING = [(), (1,), (3,), (2, 3)]


def random_stats(*shape: int, seed: int = 0) -> TokenStats:
    """Random values in every field, nowhere 0, so that padding can be told from them."""
    rng = np.random.default_rng(seed)
    return TokenStats(
        *(
            np.ones(shape, dtype) if dtype is np.bool_ else (1 + 98 * rng.random(shape)).astype(dtype)
            for dtype in DTYPES
        )
    )


# One shape, so that each reduction is compiled once; empty axes have a test of their own.
values = hnp.arrays(np.float32, (2, 3, 6), elements=st.floats(-1e3, 1e3, width=32))
masks = hnp.arrays(np.bool_, (2, 3, 6))


@pytest.mark.parametrize("leading", LEADING)
def test_pad_documents(leading: tuple[int, ...]) -> None:
    lengths = [3, 0, 5, 1]
    ragged = [random_stats(*leading, length, seed=i) for i, length in enumerate(lengths)]
    padded = pad_documents(ragged)
    for name, field, dtype in zip(TokenStats._fields, padded, DTYPES):
        assert isinstance(field, np.ndarray)
        assert field.dtype == dtype
        assert field.shape == (*leading, 4, 5)
        for row, (stats, length) in enumerate(zip(ragged, lengths)):
            np.testing.assert_array_equal(field[..., row, :length], getattr(stats, name))
            assert not field[..., row, length:].any()


def test_pad_documents_to_a_given_time() -> None:
    padded = pad_documents([random_stats(2), random_stats(3)], time=7)
    assert padded.mask.shape == (2, 7)
    assert padded.mask.sum(axis=-1).tolist() == [2, 3]


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_pad_documents_without_tokens(lengths: list[int]) -> None:
    padded = pad_documents([random_stats(length) for length in lengths])
    assert all(field.shape == (len(lengths), 0) for field in padded)


def test_pad_documents_copies() -> None:
    stats = random_stats(3)
    pad_documents([stats]).log_prob[...] = 0
    assert stats.log_prob.all()


def test_stack_puts_models_first() -> None:
    models = [random_stats(2, 3, seed=seed) for seed in range(4)]
    stacked = stack([models[0], TokenStats(*map(jnp.asarray, models[1])), *models[2:]])
    for field, dtype in zip(stacked, DTYPES):
        assert field.shape == (4, 2, 3)
        assert field.dtype == dtype
    for i, model in enumerate(models):
        for ours, theirs in zip(stacked, model):
            np.testing.assert_array_equal(ours[i], theirs)


def test_stack_refuses_other_tokens() -> None:
    with pytest.raises(ValueError, match="same shape"):
        stack([random_stats(2, 3), random_stats(2, 4)])


@given(values, masks)
def test_masked_equals_sliced(x: np.ndarray, mask: np.ndarray) -> None:
    mean, count = np.asarray(masked_mean(x, mask)), np.asarray(masked_count(mask))
    assert (mean.dtype, count.dtype) == (np.float32, np.int32)
    assert mean.shape == count.shape == x.shape[:-1]
    for index in np.ndindex(mean.shape):
        kept = x[index][mask[index]]
        assert count[index] == len(kept)
        if len(kept):
            np.testing.assert_allclose(mean[index], kept.mean(dtype=np.float64), rtol=1e-5, atol=1e-3)
        else:
            assert np.isnan(mean[index])


@given(values, masks, st.sampled_from([np.nan, np.inf, -np.inf, 1e38]))
def test_what_is_masked_does_not_count(x: np.ndarray, mask: np.ndarray, garbage: float) -> None:
    dirty = np.where(mask, x, np.float32(garbage))
    np.testing.assert_array_equal(masked_mean(dirty, mask), masked_mean(x, mask))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 3, 0)])
def test_reductions_of_empty_axes(shape: tuple[int, ...]) -> None:
    mean, count = masked_mean(np.ones(shape, np.float32), np.ones(shape, bool)), masked_count(np.ones(shape, bool))
    assert mean.shape == count.shape == shape[:-1]
    assert np.isnan(mean).all() if shape[-1] == 0 else mean.size == 0
    assert not np.any(count)


def test_padding_does_not_count() -> None:
    x, mask = np.array([1.0, 2.0, 4.0], np.float32), np.array([True, False, True])
    for pad in (0, 1, 100):
        wide = np.pad(x, (0, pad), constant_values=9), np.pad(mask, (0, pad))
        assert masked_mean(*wide) == 2.5
        assert masked_count(wide[1]) == 2


def test_masked_mean_shows_a_nan_that_is_not_masked() -> None:
    assert jnp.isnan(masked_mean(np.array([1, np.nan], np.float32), np.array([True, True])))


def test_reductions_are_jitted_vmapped_and_differentiated() -> None:
    x, mask = random_stats(3, 4).log_prob, np.arange(12).reshape(3, 4) % 3 > 0
    expected = masked_mean(x, mask)
    np.testing.assert_allclose(jax.jit(masked_mean)(x, mask), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(masked_mean)(x, mask), expected, rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(jax.vmap(masked_count))(mask), mask.sum(-1))
    empty = jnp.zeros(4, bool)
    gradient = jax.grad(lambda x: masked_mean(x, empty))(jnp.asarray(x[0]))
    assert not np.isnan(gradient).any()

"""Vocabulary statistics equal a float64 log-softmax, however the vocabulary is tiled or split."""

from functools import partial
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring.token_stats import TILE, VocabStats, _tile_size, vocab_stats

pytestmark = pytest.mark.slow  # as a whole

N = 6  # rows of most tests; every vocabulary size is compiled once

# Smaller than a tile, a prime that is one tile, primes with a remainder tile, and an even division (3,208).
SIZES = [1, 300, 1601, 3203, 3208, 6421]

_stats_of = jax.jit(vocab_stats)


def stats_of(hidden: np.ndarray, targets: np.ndarray, kernel: np.ndarray) -> VocabStats:
    return VocabStats(*(np.asarray(x) for x in _stats_of(hidden, targets, kernel)))


def exact(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states and a head whose product is exactly these logits [n, vocab]."""
    return np.eye(len(logits), dtype=np.float32), np.ascontiguousarray(logits.T, np.float32)


def reference(logits: np.ndarray, targets: np.ndarray) -> VocabStats:
    """The definitions, in float64."""
    z = logits.astype(np.float64)
    peak = z.max(-1, keepdims=True)
    log_p = z - peak - np.log(np.exp(z - peak).sum(-1, keepdims=True))
    p = np.exp(log_p)
    mean = (p * log_p).sum(-1)
    of_target = np.take_along_axis(z, targets[:, None], -1)
    return VocabStats(
        log_prob=np.take_along_axis(log_p, targets[:, None], -1)[:, 0],
        mean=mean,
        var=(p * (log_p - mean[:, None]) ** 2).sum(-1),
        max_log_prob=log_p.max(-1),
        rank=1 + (z > of_target).sum(-1),
    )


def assert_close(got: VocabStats, expected: VocabStats, tolerance: float = 1e-5) -> None:
    for name in VocabStats._fields:
        actual, wanted = np.asarray(getattr(got, name)), np.asarray(getattr(expected, name))
        assert actual.dtype == (np.int32 if name == "rank" else np.float32)
        if name == "rank":
            np.testing.assert_array_equal(actual, wanted)
        else:
            np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance, err_msg=name)


def logits_of(seed: int, vocab: int, scale: float, shift: float, ties: bool, peaks: int) -> np.ndarray:
    """Random logits; with ties they are whole multiples of the scale, and peaks stand 1,000 above the rest."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((N, vocab))
    logits = (np.round(logits) if ties else logits) * scale + shift
    for row in logits:
        row[rng.choice(vocab, min(peaks, vocab), replace=False)] += 1000
    return logits.astype(np.float32)


@given(
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from(SIZES),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 5.0, 300.0]),
    shift=st.sampled_from([-1000.0, 0.0, 1000.0]),
    ties=st.booleans(),
    peaks=st.integers(0, 3),
)
@example(seed=0, vocab=6421, scale=1.0, shift=0.0, ties=True, peaks=2)
@example(seed=0, vocab=3203, scale=300.0, shift=-1000.0, ties=False, peaks=0)
def test_equal_to_float64(seed: int, vocab: int, scale: float, shift: float, ties: bool, peaks: int) -> None:
    logits = logits_of(seed, vocab, scale, shift, ties, peaks)
    targets = np.random.default_rng(seed).integers(0, vocab, N, np.int32)
    targets[:2] = 0, vocab - 1  # the first column of the first tile and the last of the last
    targets[2] = logits[2].argmax()
    hidden, kernel = exact(logits)
    got = stats_of(hidden, targets, kernel)
    assert_close(got, reference(logits, targets))
    assert (got.var >= 0).all()
    assert (got.log_prob <= got.max_log_prob).all()
    assert got.rank[2] == 1


@pytest.mark.parametrize("vocab", SIZES)
@pytest.mark.parametrize("value", [0.0, -1000.0, 1000.0, 0.1])
def test_constant_logits(vocab: int, value: float) -> None:
    targets = np.random.default_rng(0).integers(0, vocab, N, np.int32)
    hidden, kernel = exact(np.full((N, vocab), value))
    got = stats_of(hidden, targets, kernel)
    np.testing.assert_array_equal(got.var, 0)
    np.testing.assert_array_equal(got.rank, 1)
    for field in (got.log_prob, got.mean, got.max_log_prob):
        np.testing.assert_allclose(field, -np.log(vocab), rtol=1e-6)


def test_near_ties_rank_in_float32() -> None:
    """Neighbors of the target by one last digit count as above or below it; equal ones and itself do not."""
    below, above = np.nextafter(np.float32(3), [np.float32(0), np.float32(9)])
    logits = np.full((1, 2 * TILE), -5, np.float32)
    logits[0, [0, 700, 1601, 1602, 3199]] = 3, above, 3, below, above
    hidden, kernel = exact(logits)
    ranks = [int(stats_of(hidden, np.array([i], np.int32), kernel).rank[0]) for i in (0, 1601, 700, 3199, 1602, 5)]
    assert ranks == [3, 3, 1, 1, 5, 6]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("vocab", [300, 6421])
def test_the_target_is_not_above_itself(vocab: int, dtype: Any) -> None:
    """Its logit is computed twice, by products that round differently; that must not move its rank."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((400, 64), np.float32)
    kernel = rng.standard_normal((vocab, 64), np.float32).astype(dtype)
    rounded = hidden.astype(dtype).astype(np.float64) @ kernel.astype(np.float64).T
    best = np.sort(rounded, -1)
    clear = best[:, -1] - best[:, -2] > 1e-3
    got = stats_of(hidden, rounded.argmax(-1).astype(np.int32), kernel)
    np.testing.assert_array_equal(got.rank[clear], 1)
    assert clear.sum() > 350


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), vocab=st.sampled_from([300, 6421]), scale=st.sampled_from([0.1, 1.0, 4.0]))
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_products(dtype: Any, seed: int, vocab: int, scale: float) -> None:
    """bfloat16 heads: exactly the model of the rounded operands, in float32; nothing else is rounded."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((N, 64), np.float32)
    kernel = (scale * rng.standard_normal((vocab, 64), np.float32) / 8).astype(dtype)
    targets = rng.integers(0, vocab, N, np.int32)
    rounded = hidden.astype(dtype).astype(np.float64) @ kernel.astype(np.float64).T
    expected = reference(rounded, targets)
    apart = np.abs(rounded - np.take_along_axis(rounded, targets[:, None], -1))
    apart[np.arange(N), targets] = np.inf
    assume(apart.min() > 1e-5)  # a near-tie is as right either way
    assert_close(stats_of(hidden, targets, kernel), expected)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), vocab=st.sampled_from([300, 3203]), softcap=st.sampled_from([2.0, 30.0]))
def test_capped_logits(seed: int, vocab: int, softcap: float) -> None:
    logits = logits_of(seed, vocab, 2.0, 0.0, ties=False, peaks=0)
    targets = np.random.default_rng(seed).integers(0, vocab, N, np.int32)
    targets[:2] = 0, vocab - 1
    z = softcap * np.tanh(logits.astype(np.float64) / softcap)
    apart = np.abs(z - np.take_along_axis(z, targets[:, None], -1))
    apart[np.arange(N), targets] = np.inf
    assume(apart.min() > 1e-5)  # a near-tie is as right either way
    hidden, kernel = exact(logits)
    got = VocabStats(*(np.asarray(x) for x in _capped_stats_of(hidden, targets, kernel, softcap=softcap)))
    assert_close(got, reference(z, targets))
    assert np.abs(got.log_prob - stats_of(hidden, targets, kernel).log_prob).max() > 1e-3


_capped_stats_of = jax.jit(vocab_stats, static_argnames="softcap")


@pytest.mark.parametrize("vocab", [300, 3203, 6416])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_biases(vocab: int, softcap: float | None) -> None:
    logits = logits_of(0, vocab, 2.0, 0.0, ties=False, peaks=0)
    bias = np.random.default_rng(1).standard_normal(vocab).astype(np.float32)
    targets = np.array([0, vocab - 1, 5, vocab // 2, vocab // 3, 200], np.int32)
    hidden, kernel = exact(logits)
    z = (logits + bias).astype(np.float64)
    expected = reference(z if softcap is None else softcap * np.tanh(z / softcap), targets)
    assert_close(_capped_stats_of(hidden, targets, kernel, softcap=softcap, bias=bias), expected)
    mesh = make_mesh(1, 2, jax.devices()[:2])
    if vocab % 2 == 0:
        split = jax.jit(
            jax.shard_map(
                lambda hidden, targets, kernel, bias: vocab_stats(hidden, targets, kernel, "model", softcap, bias),
                mesh=mesh,
                in_specs=(P(), P(), P("model"), P("model")),
                out_specs=P(),
                check_vma=False,
            )
        )
        assert_close(split(hidden, targets, kernel, bias), expected)


def test_bfloat16_hidden_states_are_rounded_only_with_the_head() -> None:
    """A float32 head sees float32 hidden states."""
    hidden = np.full((1, 2), 1 + 2.0**-12, np.float32)
    kernel = np.array([[1, 0], [0, 0.5]], np.float32)
    z = np.array([[1 + 2.0**-12, 0.5 + 2.0**-13]])
    target = np.array([0], np.int32)
    assert_close(stats_of(hidden, target, kernel), reference(z, target), 1e-7)
    coarse = np.array([[1.0, 0.5]])
    assert_close(stats_of(hidden, target, kernel.astype(ml_dtypes.bfloat16)), reference(coarse, target), 1e-7)


def test_leading_axes_are_free() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((2, 3, 8), np.float32)
    kernel = rng.standard_normal((300, 8), np.float32)
    targets = rng.integers(0, 300, (2, 3), np.int32)
    got = stats_of(hidden, targets, kernel)
    flat = stats_of(hidden.reshape(6, 8), targets.reshape(6), kernel)
    for one, other in zip(got, flat):
        np.testing.assert_array_equal(one.reshape(6), other)


@pytest.mark.parametrize(("ways", "vocab"), [(2, 6406), (4, 3224), (8, 3224), (8, 8)])
def test_split_vocabularies(ways: int, vocab: int) -> None:
    """Inside a shard_map, each device sees its share; 6,406 is twice a prime with a remainder tile."""
    mesh = make_mesh(1, ways, jax.devices()[:ways])
    logits = np.concatenate([logits_of(seed, vocab, 2.0, 0.0, ties=seed > 1, peaks=seed) for seed in range(4)])
    targets = np.random.default_rng(0).integers(0, vocab, len(logits), np.int32)
    targets[:3] = 0, vocab - 1, logits[2].argmax()
    hidden, kernel = exact(logits)

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(), P("model")), out_specs=P(), check_vma=False)
    def split(hidden: Any, targets: Any, kernel: Any) -> VocabStats:
        return vocab_stats(hidden, targets, kernel, "model")

    got = split(hidden, targets, kernel)
    assert_close(got, reference(logits, targets))
    whole = stats_of(hidden, targets, kernel)
    np.testing.assert_array_equal(got.rank, whole.rank)
    for name in ("log_prob", "mean", "var", "max_log_prob"):
        np.testing.assert_allclose(getattr(got, name), getattr(whole, name), rtol=2e-6, atol=2e-6)


def test_split_vocabularies_with_capped_logits() -> None:
    mesh = make_mesh(1, 4, jax.devices()[:4])
    logits = logits_of(0, 3224, 2.0, 0.0, ties=False, peaks=0)
    targets = np.array([0, 3223, 5, 900, 1700, 3000], np.int32)
    hidden, kernel = exact(logits)

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(), P("model")), out_specs=P(), check_vma=False)
    def split(hidden: Any, targets: Any, kernel: Any) -> VocabStats:
        return vocab_stats(hidden, targets, kernel, "model", softcap=3.0)

    assert_close(split(hidden, targets, kernel), reference(3 * np.tanh(logits / 3), targets))


@given(vocab=st.integers(1, 300_000))
@example(vocab=50304)  # Pythia's
@example(vocab=2 * TILE + 1)
def test_tiles(vocab: int) -> None:
    """A tile divides the vocabulary where that is possible at about TILE columns."""
    tile = _tile_size(vocab)
    assert 1 <= tile <= min(vocab, 2 * TILE)
    if vocab % tile:
        assert tile == TILE
        assert not any(vocab % size == 0 for size in range(TILE // 2, 2 * TILE + 1))

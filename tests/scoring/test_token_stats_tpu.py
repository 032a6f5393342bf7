"""The TPU kernel equals the path through XLA, by Pallas' interpreter, and compiles for TPUs."""

import math
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from mimir_jax.config import ConfigError
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.chips import parse_topology
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.plan import compile_scoring, topology_devices
from mimir_jax.scoring.batching import plan_batches
from mimir_jax.scoring.passes import document_passes
from mimir_jax.scoring.token_stats import VocabStats, vocab_stats
from mimir_jax.scoring.token_stats_tpu import MIB, block_sizes, over_blocks
from mimir_jax.testing import TINY

needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="the extra `tpu` is not installed")

interpreted = partial(over_blocks, interpret=True)


@partial(jax.jit, static_argnames="softcap")
def both(hidden: Any, targets: Any, kernel: Any, softcap: float | None = None, bias: Any = None) -> Any:
    stats = partial(vocab_stats, hidden, targets, kernel, softcap=softcap, bias=bias)
    return stats(moments_of=interpreted), stats()


def assert_equal(got: VocabStats, expected: VocabStats, tolerance: float = 1e-5) -> None:
    np.testing.assert_array_equal(got.rank, expected.rank)
    assert got.rank.dtype == jnp.int32
    for name in ("log_prob", "mean", "var", "max_log_prob"):
        actual, wanted = np.asarray(getattr(got, name)), np.asarray(getattr(expected, name))
        np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance, err_msg=name)


def random(n: int, vocab: int, embed: int, dtype: Any = np.float32, scale: float = 1.0) -> tuple[Any, Any, Any]:
    """Hidden states, targets and a head, on a grid on which sums of products are exact: no order of them ties apart."""
    rng = np.random.default_rng(n + vocab)
    hidden = np.round(4 * rng.standard_normal((n, embed))).astype(np.float32) / 4
    kernel = (scale * np.round(2 * rng.standard_normal((vocab, embed))) / 8).astype(dtype)
    return hidden, rng.integers(0, vocab, n, np.int32), kernel


@pytest.mark.parametrize(
    ("n", "vocab", "embed", "dtype", "softcap", "biased"),
    [
        (6, 1, 16, np.float32, None, False),
        (1, 8, 16, np.float32, None, True),
        (6, 300, 64, np.float32, 3.0, True),
        (130, 1601, 96, ml_dtypes.bfloat16, None, False),  # a prime: the last step is padded
        (600, 2048, 64, ml_dtypes.bfloat16, 3.0, True),  # two blocks of positions, two even steps
        (300, 3203, 40, np.float32, None, False),
    ],
)
@pytest.mark.slow
def test_equal_to_the_path_through_xla(
    n: int, vocab: int, embed: int, dtype: Any, softcap: float | None, biased: bool
) -> None:
    hidden, targets, kernel = random(n, vocab, embed, dtype)
    targets[-1] = vocab - 1
    bias = np.round(np.random.default_rng(1).standard_normal(vocab), 1).astype(np.float32) if biased else None
    got, expected = both(hidden, targets, kernel, softcap, bias)
    assert_equal(got, expected)
    if vocab > 1:
        assert np.ptp(got.log_prob) > 0 or n == 1


@pytest.mark.slow
def test_peaked_and_flat_predictions() -> None:
    """A head that is the logits themselves: constant, peaked by 1,000, far below 0, far apart; with a padded step."""
    vocab = 1100
    rng = np.random.default_rng(0)
    logits = np.stack(
        [
            np.full(vocab, -1000.0),
            np.where(np.arange(vocab) == 700, 1000.0, 0.0),
            np.where(np.arange(vocab) == vocab - 1, 0.0, -1000 + 1e-3 * rng.standard_normal(vocab)),
            300 * rng.standard_normal(vocab),
            1e-3 * rng.standard_normal(vocab) + 1000,
        ]
    ).astype(np.float32)
    targets = np.array([5, 700, 3, vocab - 1, 1024], np.int32)
    got, expected = both(np.eye(5, dtype=np.float32), targets, np.ascontiguousarray(logits.T))
    assert_equal(got, expected)
    np.testing.assert_array_equal(got.var[:2], 0)
    np.testing.assert_allclose(got.log_prob[0], -math.log(vocab), rtol=1e-6)
    exact = (logits[4].astype(np.float64)).var()
    np.testing.assert_allclose(got.var[4], exact, rtol=5e-3)  # the logits' own last digit is 6e-5


@pytest.mark.slow
def test_near_ties_rank_in_float32() -> None:
    """Neighbors of the target by one last digit count as above or below it; equal ones and itself do not."""
    below, above = np.nextafter(np.float32(3), [np.float32(0), np.float32(9)])
    logits = np.full(1200, -5, np.float32)
    logits[[0, 700, 1101, 1102, 1199]] = 3, above, 3, below, above
    hidden = np.ones((6, 1), np.float32)
    got, _ = both(hidden, np.array([0, 1101, 700, 1199, 1102, 5], np.int32), logits[:, None])
    assert got.rank.tolist() == [3, 3, 1, 1, 5, 6]


@pytest.mark.slow
def test_the_target_is_not_above_itself() -> None:
    """Its logit is computed twice, by products that round differently; that must not move its rank."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((200, 64), np.float32)
    kernel = rng.standard_normal((900, 64), np.float32)
    logits = hidden.astype(np.float64) @ kernel.astype(np.float64).T
    best = np.sort(logits, -1)
    clear = best[:, -1] - best[:, -2] > 1e-3
    got, _ = both(hidden, logits.argmax(-1).astype(np.int32), kernel)
    np.testing.assert_array_equal(got.rank[clear], 1)
    assert clear.sum() > 180


@pytest.mark.slow
def test_split_vocabularies() -> None:
    """Inside a shard_map, as the engine has it: each device a share of the head's rows and of the bias."""
    hidden, targets, kernel = random(40, 2412, 32)
    bias = np.round(np.random.default_rng(1).standard_normal(2412), 1).astype(np.float32)
    mesh = make_mesh(2, 4, jax.devices()[:8])

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P("data"), P("data"), P("model"), P("model")),
        out_specs=P("data"),
        check_vma=False,
    )
    def split(hidden: Any, targets: Any, kernel: Any, bias: Any) -> VocabStats:
        return vocab_stats(hidden, targets, kernel, "model", 3.0, bias, interpreted)

    assert_equal(split(hidden, targets, kernel, bias), both(hidden, targets, kernel, 3.0, bias)[1])


@pytest.mark.slow
def test_stacked_models() -> None:
    """Under vmap, as checkpoints of one shape are scored."""
    hidden, targets, kernel = random(20, 600, 32)
    kernels = np.stack([kernel, 2 * kernel, kernel[::-1]])
    got = jax.jit(jax.vmap(partial(vocab_stats, moments_of=interpreted), (None, None, 0)))(hidden, targets, kernels)
    for i, one in enumerate(kernels):
        assert_equal(VocabStats(*(x[i] for x in got)), both(hidden, targets, one)[1])


@given(
    positions=st.integers(1, 10_000),
    vocab=st.integers(1, 300_000),
    embed=st.integers(1, 8192),
    itemsize=st.sampled_from([2, 4]),
)
@example(positions=1, vocab=513, embed=1, itemsize=4)
def test_block_sizes(positions: int, vocab: int, embed: int, itemsize: int) -> None:
    block, tile, tiles = block_sizes(positions, vocab, embed, itemsize)
    assert block % 128 == 0
    assert tile % 16 == 0
    assert tiles % 2 == 0  # the last tile's buffer is the one that the next step's first product leaves alone
    assert 2 * (block + tile * tiles) * embed * itemsize <= 36 * MIB
    steps = math.ceil(vocab / (tile * tiles))
    padded = steps * tile * tiles
    assert vocab <= padded < vocab + 16 * tiles * steps  # a tile is cut to the vocabulary, in multiples of 16
    assert padded < 1.1 * vocab or vocab < 10_000


def test_other_devices_have_no_kernel() -> None:
    with pytest.raises(ConfigError, match="head: pallas is a kernel for TPUs, and the devices are cpu: use xla"):
        compiled("pallas", make_mesh(1, 1, jax.devices()[:1]))


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(("data", "model", "dtype"), [(1, 4, "bfloat16"), (2, 2, "float32")])
def test_scoring_with_the_kernel_compiles_for_tpus(data: int, model: int, dtype: str) -> None:
    mesh = make_mesh(data, model, topology_devices(parse_topology("v5e:2x2")))
    assert "vocabulary_moments" in compiled("pallas", mesh, dtype)
    assert "vocabulary_moments" not in compiled("xla", mesh, dtype)


def compiled(head: Any, mesh: jax.sharding.Mesh, dtype: str = "float32") -> str:
    """The text of the scoring program."""
    small = {**TINY, "hidden_size": 256, "intermediate_size": 1024, "vocab_size": 2404, "num_hidden_layers": 2}
    [batch, *_] = plan_batches(document_passes([], [0] * 64, 64) * 32, 512)
    program = compile_scoring(FAMILIES["gpt_neox"].config(small), mesh, False, dtype, batch, head)
    return program.as_text() or ""

"""Attention that leaves out keys which no query of a block can see is the same attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mimir_jax.models.attention import QUERY_BLOCK, Past, query_blocks
from mimir_jax.models.decoder import Decoder, Layers
from mimir_jax.models.decoder_config import DecoderConfig

TIME = 5 * QUERY_BLOCK
CONFIG: dict[str, Any] = {"vocab": 50, "layers": 2, "embed": 32, "heads": 4, "head_dim": 8, "mlp": 64, "context": TIME}


def rows(lengths: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and segments of rows of documents one behind the other."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, (len(lengths), TIME))
    segments, positions = np.full(tokens.shape, TIME), np.zeros(tokens.shape, int)
    for row, documents in enumerate(lengths):
        at = 0
        for length in documents:
            segments[row, at : at + length], positions[row, at : at + length] = at, np.arange(length)
            at += length
    return tokens, positions, segments


LENGTHS = [[100, 256, 256], [1, 255, 256, 128], [130, 131, 132, 133]]  # no document is longer than 256


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"rotary_dim": 8}, {"rotary_dim": 8, "kv_heads": 2, "windows": (None, 40)}])
def test_reach(options: dict[str, Any]) -> None:
    decoder = Decoder(DecoderConfig(**CONFIG, **options), rngs=nnx.Rngs(0))
    tokens, positions, segments = rows(LENGTHS)
    whole = decoder(tokens, positions, segments)
    some = decoder(tokens, positions, segments, layers=Layers("cpu", reach=256))
    real = segments < TIME
    np.testing.assert_allclose(np.asarray(some)[real], np.asarray(whole)[real], atol=1e-5)
    # Less than the longest document leaves out what it sees.
    less = decoder(tokens, positions, segments, layers=Layers("cpu", reach=128))
    assert np.abs(np.asarray(less)[real] - np.asarray(whole)[real]).max() > 1e-3


@pytest.mark.slow
def test_reach_behind_a_past() -> None:
    """All of the past stays in sight."""
    decoder = Decoder(DecoderConfig(**CONFIG, rotary_dim=8), rngs=nnx.Rngs(0))
    prefix = np.random.default_rng(1).integers(0, 50, (1, 60))
    past: Past = decoder.read(prefix, np.arange(60)[None], np.zeros((1, 60), int))[1]
    tokens, positions, segments = rows(LENGTHS)
    seen = np.full(tokens.shape, 60)
    whole = decoder(tokens, 60 + positions, segments, past, seen)
    some = decoder(tokens, 60 + positions, segments, past, seen, layers=Layers("cpu", reach=256))
    real = segments < TIME
    np.testing.assert_allclose(np.asarray(some)[real], np.asarray(whole)[real], atol=1e-5)


def test_fewer_keys_are_multiplied() -> None:
    keys = {
        reach: sum(stop - first for first, _, stop in query_blocks(TIME, reach)) for reach in (None, TIME, 256, 128)
    }
    assert keys == {None: 15 * 128, TIME: 15 * 128, 256: 12 * 128, 128: 9 * 128}
    decoder = Decoder(DecoderConfig(**CONFIG, rotary_dim=8), rngs=nnx.Rngs(0))
    whole, some = (
        jax.jit(lambda t, reach=reach: decoder(t, t, t, layers=Layers("cpu", reach=reach)))
        .lower(jnp.zeros((1, TIME), int))
        .cost_analysis()["flops"]
        for reach in (None, 256)
    )
    assert some < whole

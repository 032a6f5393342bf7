"""Scores of real checkpoints equal those that the original MIMIR computed, on one device and on eight."""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mimir_jax import attacks
from mimir_jax.arrays import TokenStats
from mimir_jax.data.text_features import zlib_bytes
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring import score
from mimir_jax.scoring.model import load_model

SPLITS = [(1, 8), (2, 4), (4, 2), (8, 1)]


@pytest.fixture(scope="module")
def documents(golden: Path) -> list[dict[str, Any]]:
    return json.loads((golden / "mimir_scores.json").read_text())["documents"]


@pytest.fixture(scope="module")
def target(golden: Path, documents: list[dict[str, Any]], one_device: jax.sharding.Mesh) -> TokenStats:
    return score(load_model(golden / "target", mesh=one_device), [d["text"] for d in documents])


@pytest.fixture(scope="module")
def reference(golden: Path, documents: list[dict[str, Any]], one_device: jax.sharding.Mesh) -> TokenStats:
    return score(load_model(golden / "reference", mesh=one_device), [d["text"] for d in documents])


def check(documents: list[dict[str, Any]], name: str, ours: Any) -> None:
    """Ours is MIMIR's with the sign changed: MIMIR's lower is member."""
    theirs = np.array([d["scores"][name] for d in documents])
    np.testing.assert_allclose(-np.asarray(ours), theirs, rtol=1e-4, atol=1e-5)


def test_token_log_probs(documents: list[dict[str, Any]], target: TokenStats) -> None:
    checked = 0
    for row, document in enumerate(documents):
        assert target.mask[row].sum() == document["n_tokens"] - 1
        if "log_probs" in document:
            np.testing.assert_allclose(target.log_prob[row][target.mask[row]], document["log_probs"], atol=1e-4)
            checked += 1
    assert checked == 10


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("min_k", {}),
        ("min_k@0.05", {"k": 0.05}),
        ("min_k@0.1", {"k": 0.1}),
        ("min_k@0.4", {"k": 0.4}),
        ("min_k@0.2,window=3,stride=2", {"window": 3, "stride": 2}),
    ],
)
def test_min_k(documents: list[dict[str, Any]], target: TokenStats, name: str, parameters: dict[str, Any]) -> None:
    check(documents, name, attacks.min_k(target, **parameters))


@pytest.mark.parametrize(("name", "k"), [("min_k++", 0.2), ("min_k++@0.1", 0.1)])
def test_min_k_plus_plus(documents: list[dict[str, Any]], target: TokenStats, name: str, k: float) -> None:
    check(documents, name, attacks.min_k_plus_plus(target, k=k))


def test_loss_and_zlib(documents: list[dict[str, Any]], target: TokenStats) -> None:
    texts = [d["text"] for d in documents]
    sizes = zlib_bytes(texts)
    np.testing.assert_array_equal(sizes, [len(zlib.compress(t.encode())) for t in texts])
    check(documents, "loss", attacks.loss(target))
    check(documents, "zlib", attacks.zlib(target, sizes))


def test_ref(documents: list[dict[str, Any]], target: TokenStats, reference: TokenStats) -> None:
    check(documents, "ref", attacks.ref(target, reference))


@pytest.mark.parametrize(("data", "model"), SPLITS)
def test_every_split_of_eight_devices_agrees(
    golden: Path, documents: list[dict[str, Any]], target: TokenStats, data: int, model: int
) -> None:
    rows = list(range(0, 96, 4))  # members and non-members; eight devices on two cores are slow
    sharded = score(load_model(golden / "target", mesh=make_mesh(data, model)), [documents[i]["text"] for i in rows])
    time = sharded.mask.shape[-1]
    expected = TokenStats(*(field[rows, :time] for field in target))
    np.testing.assert_array_equal(sharded.mask, expected.mask)
    np.testing.assert_array_equal(sharded.token_ids, expected.token_ids)
    for field in ("log_prob", "mean", "max_log_prob"):
        np.testing.assert_allclose(getattr(sharded, field), getattr(expected, field), rtol=0, atol=1e-5)
    # Up to 20 nats^2: a rounding of the logits by their last digit moves it by more than 1e-5.
    np.testing.assert_allclose(sharded.var, expected.var, rtol=1e-5, atol=1e-5)
    assert np.abs(sharded.rank - expected.rank).max() <= 3
    chosen = [documents[i] for i in rows]
    check(chosen, "loss", attacks.loss(sharded))
    check(chosen, "min_k", attacks.min_k(sharded))
    check(chosen, "min_k++", attacks.min_k_plus_plus(sharded))

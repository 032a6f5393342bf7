"""Scores of the original MIMIR, from its own token log-probs: no model is run here."""

import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from mimir_jax.arrays import TokenStats, pad_documents, stack
from mimir_jax.attacks import parse

GOLDEN = Path(__file__).parents[2] / "../shared/golden/mimir_scores.json"

SPECS = {
    "loss": "loss",
    "zlib": "zlib",
    "min_k": "min_k",
    "min_k@0.05": "min_k@k=0.05",
    "min_k@0.1": "min_k@k=0.1",
    "min_k@0.4": "min_k@k=0.4",
    "min_k@0.2,window=3,stride=2": "min_k@window=3,stride=2",
}
"""MIMIR's name of a score -> ours."""


@pytest.fixture(scope="module")
def every_document() -> list[dict]:
    if not GOLDEN.is_file():
        pytest.skip(f"the golden scores are not here: {GOLDEN}")
    return json.loads(GOLDEN.read_text("utf-8"))["documents"]


@pytest.fixture(scope="module")
def documents(every_document) -> list[dict]:
    return [doc for doc in every_document if "log_probs" in doc]


def stats_of(log_probs: list[float]) -> TokenStats:
    """TokenStats [time] with an unscored first token; these attacks read nothing but log_prob and mask."""
    log_prob = np.array([0.0, *log_probs], np.float32)
    zeros = np.zeros_like(log_prob)
    ids = np.zeros(len(log_prob), np.int32)
    return TokenStats(ids, log_prob, zeros, zeros, zeros, ids, np.arange(len(log_prob)) > 0)


@pytest.mark.parametrize("theirs", SPECS)
def test_scores_are_minus_those_of_mimir(documents, theirs):
    attack = parse(SPECS[theirs])
    available = {
        "stats": pad_documents([stats_of(doc["log_probs"]) for doc in documents]),
        "zlib_bytes": np.array([len(zlib.compress(doc["text"].encode())) for doc in documents]),
    }
    scores = jax.jit(attack)(*(available[name] for name in attack.attack.inputs))
    assert len(documents) == 10
    np.testing.assert_allclose(scores, [-doc["scores"][theirs] for doc in documents], rtol=1e-5)


def test_ne_is_minus_the_one_that_takes_the_mean(every_document):
    """From losses of documents and neighbors, as statistics of one token each."""
    documents = [doc for doc in every_document if "neighbor_losses" in doc]
    assert len(documents) > 90
    assert {len(doc["neighbor_losses"]) for doc in documents} == {4}
    stats = pad_documents([stats_of([-doc["scores"]["loss"]]) for doc in documents])
    neighbors = stack([pad_documents([stats_of([-doc["neighbor_losses"][j]]) for doc in documents]) for j in range(4)])
    expected = np.array([-doc["scores"]["ne_mean"] for doc in documents])
    np.testing.assert_allclose(jax.jit(parse("ne"))(stats, neighbors), expected, rtol=1e-4, atol=1e-5)
    losses = np.array([doc["neighbor_losses"] for doc in documents])
    z = expected / losses.std(axis=1)
    np.testing.assert_allclose(jax.jit(parse("ne_z"))(stats, neighbors), z, rtol=1e-4, atol=1e-3)
    # MIMIR's own takes the largest neighbor loss instead of the mean.
    head = np.array([doc["scores"]["ne_head_of_mimir"] for doc in documents])
    assert not np.allclose(-expected, head, atol=1e-2)

"""Collections and ensembles: power where there is something, and no more false positives than stated."""

import numpy as np
import pytest

from mimir_jax.audit.aggregation import FEWEST, dataset_inference, ensemble, infer_datasets
from mimir_jax.metrics import MetricsError, auc_roc


def collection(seed: int, effect: float, n: int = 80) -> np.ndarray:
    """Four scores, of which one is a little higher for members, and all on other scales."""
    scores = np.random.default_rng(seed).normal(size=(n, 4))
    scores[:, 0] += effect
    return scores * [1.0, 1e3, 1e-3, 1.0] + [5.0, 0.0, 0.0, -2.0]


def test_a_collection_is_found_though_its_documents_are_not() -> None:
    found = dataset_inference(collection(0, 0.9, 200), collection(1, 0, 200), permutations=200)
    assert found.p_value < 0.01
    assert found.effect > 0.3
    assert max(found.permutation) < 0.2
    assert found.n_documents == (100, 100)


def test_false_positives_are_controlled() -> None:
    """Suspects that are like the held-out documents: twice the median of dependent splits stays below the level."""
    p = [
        dataset_inference(collection(2 * s, 0, 40), collection(2 * s + 1, 0, 40), splits=5, permutations=10).p_value
        for s in range(80)
    ]
    assert np.mean(np.array(p) <= 0.1) <= 0.14
    single = [
        dataset_inference(collection(2 * s, 0, 40), collection(2 * s + 1, 0, 40), splits=1, permutations=99)
        for s in range(80)
    ]
    assert abs(np.mean([one.p_value for one in single]) - 0.5) < 0.12
    assert abs(np.mean([one.permutation[0] for one in single]) - 0.5) < 0.12


def test_several_collections() -> None:
    found = infer_datasets(
        {"seen": collection(0, 1.5), "unseen": collection(3, 0)}, collection(1, 0), splits=5, permutations=20
    )
    assert {name: trained for name, (_, trained) in found.items()} == {"seen": True, "unseen": False}


def test_gaps_and_too_few() -> None:
    suspects = collection(0, 0)
    suspects[::2, 1] = np.nan
    assert dataset_inference(suspects, collection(1, 0), splits=1, permutations=5).n_documents == (20, 40)
    with pytest.raises(MetricsError, match=f"{FEWEST} each are needed"):
        dataset_inference(suspects[:10], collection(1, 0))
    with pytest.raises(MetricsError, match="4 features of suspects, 3 of"):
        dataset_inference(suspects, collection(1, 0)[:, :3])
    same = dataset_inference(np.ones((20, 2)), np.ones((20, 2)), splits=2, permutations=10)
    assert (same.p_value, same.effect) == (1, 0)


def test_ensembles_are_fitted_on_held_out_documents_only() -> None:
    is_member = np.arange(400) % 2 == 0
    scores = np.random.default_rng(0).normal(size=(400, 3))
    scores[:, 1] -= 1.5 * is_member  # lower for members: the sign is learned
    scores[0, 2] = np.nan
    fitted_on = np.arange(400) >= 200
    found = ensemble(scores, is_member, fitted_on)
    assert np.isnan(found[fitted_on]).all()
    assert np.isnan(found[0])
    assert np.isfinite(found[1:200]).all()
    assert auc_roc(found, is_member) > 0.75
    flipped = np.where(fitted_on, is_member, ~is_member)  # labels of the others are not read
    np.testing.assert_array_equal(ensemble(scores, flipped, fitted_on), found)
    with pytest.raises(MetricsError, match="to fit an ensemble on"):
        ensemble(scores, is_member, np.arange(400) < 10)

"""Training to fill masks: what is masked, the objective against torch's, and what is trained can be read back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertForMaskedLM

from mimir_jax.config import ConfigError
from mimir_jax.models.encoder import Encoder
from mimir_jax.models.families import MASKED
from mimir_jax.parallel.mesh import make_mesh, sharding_of
from mimir_jax.scoring.masked import find_mask_model, load_mask_model
from mimir_jax.testing import TINY_BERT, tiny_encoder, write_mask_model
from mimir_jax.training.checkpoints import write_checkpoint
from mimir_jax.training.loop import TrainConfig
from mimir_jax.training.masked import (
    Masking,
    epoch_rows,
    mask_row,
    masked_batch,
    masked_loss,
    train_masked,
)

HF = {**TINY_BERT, "max_position_embeddings": 32}
CONFIG = MASKED["bert"].config(HF)
MASKING = Masking(mask=4, special=(0, 2, 3, 4))
RECIPE = TrainConfig(epochs=2, batch_tokens=4 * CONFIG.context, learning_rate=1e-2, seed=1)


@pytest.fixture(autouse=True)
def promotion() -> Any:
    """optax itself raises floats to the number of the step, an integer."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def random_documents(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.array([2, *rng.integers(5, CONFIG.vocab, length), 3], np.int32) for length in lengths]


DOCUMENTS = random_documents(40, 7, 90, 1, 33, 0)


def weights(encoder: Encoder) -> list[np.ndarray]:
    return [np.array(x) for x in jax.tree.leaves(encoder)]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.floats(0.01, 1.0), st.integers(0, 5))
def test_masks(tokens: list[int], share: float, seed: int) -> None:
    """A share of what is not special, at least one; nothing else changes, and nothing becomes another special token."""
    ids, masking = np.array(tokens, np.int32), replace(MASKING, share=share)
    read, places = mask_row(ids, 21, masking, np.random.default_rng(seed))
    possible = sum(token not in MASKING.special for token in tokens)
    assert len(set(places.tolist())) == min(max(int(share * possible), 1), possible)
    assert not np.isin(ids[places], MASKING.special).any()
    changed = np.flatnonzero(read != ids)
    assert set(changed.tolist()) <= set(places.tolist())
    assert not np.isin(read[changed], (0, 2, 3)).any()
    again = mask_row(ids, 21, masking, np.random.default_rng(seed))
    np.testing.assert_array_equal(again[0], read)


def test_eighty_ten_ten() -> None:
    ids = np.full(40_000, 7, np.int32)
    read, places = mask_row(ids, CONFIG.vocab, MASKING, np.random.default_rng(0))
    assert len(places) == 6000
    kinds = [(read[places] == 4).mean(), (read[places] == 7).mean()]
    np.testing.assert_allclose(kinds, [0.8, 0.1], atol=0.015)
    assert len(set(read[places].tolist())) > CONFIG.vocab / 2  # the rest is random


def test_every_token_once_in_another_order() -> None:
    first, second = (epoch_rows(DOCUMENTS, CONFIG.context, RECIPE, epoch) for epoch in (1, 2))
    whole = np.sort(np.concatenate(DOCUMENTS))
    for rows in (first, second):
        assert [len(row) for row in rows[:-1]] == [CONFIG.context] * (len(rows) - 1)
        np.testing.assert_array_equal(np.sort(np.concatenate(rows)), whole)
    assert any((a != b).any() for a, b in zip(first[:-1], second[:-1]))


@pytest.mark.slow
def test_the_objective_is_as_in_transformers(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """Of a written checkpoint, which both read back; rows of several lengths, and an empty one that counts nothing."""
    tokenizer = write_mask_model(tmp_path / "tokenizer")
    encoder = tiny_encoder(HF)
    write_checkpoint(encoder, HF, tokenizer, tmp_path / "model")
    torch_model, loading = BertForMaskedLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(loading[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = load_mask_model(find_mask_model(str(tmp_path / "model")), one_device).encoder
    for x, y in zip(weights(ours), weights(encoder), strict=True):
        np.testing.assert_array_equal(x, y)

    rows = [*epoch_rows(DOCUMENTS, CONFIG.context, RECIPE, 1)[-3:]]
    batch = masked_batch(rows, 4, CONFIG, MASKING, (0,))
    arrays = batch.arrays
    real = np.asarray(arrays.segments) == 0
    labels = np.full(real.shape, -100)
    for row, places, targets, mask in zip(labels, arrays.source_index, arrays.targets, batch.mask):
        row[places[mask]] = targets[mask]
    assert real.sum(axis=1).tolist() == [32, 32, len(rows[-1]), 0]
    some = real.any(axis=1)  # torch attends to the padding of an empty row
    with torch.no_grad():
        expected = torch_model.eval()(
            torch.tensor(arrays.tokens[some], dtype=torch.long),
            attention_mask=torch.tensor(real[some]),
            labels=torch.tensor(labels[some]),
        ).loss
    found = jax.jit(masked_loss)(ours, batch)
    np.testing.assert_allclose(float(found), float(expected), rtol=1e-5)
    # Whatever stands on padding.
    other = batch._replace(arrays=arrays._replace(tokens=np.where(real, arrays.tokens, 9).astype(np.int32)))
    np.testing.assert_allclose(float(jax.jit(masked_loss)(ours, other)), float(found), rtol=1e-6)


@pytest.mark.slow
def test_a_repeated_document_is_learned(one_device: jax.sharding.Mesh) -> None:
    recipe = replace(RECIPE, epochs=150, learning_rate=1e-2)
    losses: list[float] = []
    train_masked(
        CONFIG,
        random_documents(30),
        replace(MASKING, share=0.3),
        recipe,
        one_device,
        lambda epoch, _, curve: losses.append(float(curve.of_epoch(epoch))),
    )
    assert losses[0] == pytest.approx(np.log(CONFIG.vocab), abs=0.2)
    assert np.mean(losses[-20:]) < 0.3


@pytest.mark.slow
def test_seeds_and_devices(one_device: jax.sharding.Mesh) -> None:
    def train(seed: int, mesh: jax.sharding.Mesh) -> list[np.ndarray]:
        return weights(train_masked(CONFIG, DOCUMENTS, MASKING, replace(RECIPE, seed=seed), mesh).decoder)

    first, again, other = train(1, one_device), train(1, one_device), train(2, one_device)
    for x, y in zip(first, again):
        np.testing.assert_array_equal(x, y)
    assert any((x != y).any() for x, y in zip(first, other))
    for x, y in zip(first, train(1, make_mesh(4, 2))):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-4)
    # The parameters are split as those of a loaded masked model are.
    trained = train_masked(CONFIG, DOCUMENTS, MASKING, replace(RECIPE, epochs=1), make_mesh(4, 2)).decoder
    kernel = trained.blocks.mlp.up.kernel[...]
    assert kernel.sharding.is_equivalent_to(
        sharding_of(make_mesh(4, 2))(("layers", "mlp", "embed"), kernel.shape), kernel.ndim
    )


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    expected = train_masked(CONFIG, DOCUMENTS, MASKING, RECIPE, one_device)

    def stop(epoch: int, encoder: Any, curve: Any) -> None:
        raise KeyboardInterrupt

    def train(**more: Any) -> Any:
        folder = tmp_path / "state"
        return train_masked(
            CONFIG, DOCUMENTS, MASKING, RECIPE, one_device, state_folder=folder, state_seconds=0.0, **more
        )

    with pytest.raises(KeyboardInterrupt):
        train(on_epoch=stop)
    found = train()
    for x, y in zip(weights(found.decoder), weights(expected.decoder)):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(found.curve.loss, expected.curve.loss)
    with pytest.raises(ConfigError, match=r"another training run \(masking differ\)"):
        train_masked(
            CONFIG, DOCUMENTS, replace(MASKING, share=0.5), RECIPE, one_device, state_folder=tmp_path / "state"
        )


def test_nothing_to_predict(one_device: jax.sharding.Mesh) -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        train_masked(CONFIG, random_documents(0, 0), MASKING, RECIPE, one_device)
    with pytest.raises(ValueError, match="the mask 999 is not one of"):
        train_masked(CONFIG, DOCUMENTS, replace(MASKING, mask=999), RECIPE, one_device)

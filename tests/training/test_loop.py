"""The trainer: it learns, reproducibly, from real tokens only, and what it learned can be read back."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import GPTNeoXForCausalLM

from mimir_jax.models.checkpoint import SINGLE, load_decoder, save_tensors
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.mesh import make_mesh, sharding_of
from mimir_jax.scoring.batching import GRAIN
from mimir_jax.scoring.passes import Pass
from mimir_jax.testing import TINY, tiny_decoder
from mimir_jax.training.loop import (
    TrainBatch,
    TrainConfig,
    epoch_batches,
    init_state,
    make_optimizer,
    mean_loss,
    train,
    train_batch,
)

FAMILY = FAMILIES["gpt_neox"]
CONFIG = FAMILY.config(TINY)
RECIPE = TrainConfig(epochs=3, batch_tokens=2 * GRAIN, seed=1)


@pytest.fixture(autouse=True)
def promotion():
    """optax itself raises floats to the number of the step, an integer."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def random_documents(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, CONFIG.vocab, length, np.int32) for length in lengths]


DOCUMENTS = random_documents(100, 20, 90, 5, 60, 33, 128, 80)


loss_and_gradient = jax.jit(lambda loss, *inputs: jax.value_and_grad(loss)(*inputs), static_argnums=0)


def as_passes(documents):
    return [Pass(ids) for ids in documents]


def parameters(decoder):
    """Host copies: the loop donates a decoder's memory to the next step."""
    return [np.array(x) for x in jax.tree.leaves(decoder)]


def assert_equal_trees(actual, expected, atol=0.0):
    for x, y in zip(actual, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def test_a_repeated_document_is_learned(one_device):
    losses = []
    recipe = TrainConfig(epochs=40, batch_tokens=GRAIN, learning_rate=1e-2)
    train(CONFIG, random_documents(30), recipe, one_device, lambda epoch, decoder, loss: losses.append(loss))
    assert losses[0] == pytest.approx(np.log(CONFIG.vocab), abs=0.1)
    assert losses[-1] < 0.1


def test_same_seed_same_weights(one_device):
    first, again, other = (
        parameters(train(CONFIG, DOCUMENTS, replace(RECIPE, epochs=1, seed=seed), one_device)) for seed in (1, 1, 2)
    )
    assert_equal_trees(first, again)
    assert any((x != y).any() for x, y in zip(first, other))


def test_sharded_equals_one_device(one_device):
    recipe = replace(RECIPE, batch_tokens=4 * GRAIN)  # a row for each device of `data`
    decoders = [train(CONFIG, DOCUMENTS, recipe, mesh) for mesh in (one_device, make_mesh(4, 2))]
    assert_equal_trees(*map(parameters, decoders), atol=1e-4)


def test_parameters_and_moments_are_split_over_the_mesh():
    state, shardings = init_state(CONFIG, make_optimizer(RECIPE, 10), 0, make_mesh(4, 2))
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, shardings))
    split = [x.shape for x in jax.tree.leaves(state.optimizer) if not x.sharding.is_fully_replicated]
    assert split.count((CONFIG.vocab, CONFIG.embed)) == 4  # two moments of embedding and head


def test_biases_and_norms_do_not_decay(one_device):
    optimizer = make_optimizer(RECIPE, 10)
    decoder = tiny_decoder()
    still = jax.tree.map(jnp.zeros_like, decoder)
    state = optimizer.init(decoder)
    for _ in range(2):  # the learning rate of the first step is 0
        updates, state = optimizer.update(still, state, decoder)
    moved = {".".join(path): bool(jnp.any(x[...] != 0)) for path, x in nnx.to_flat_state(nnx.state(updates))}
    assert {path for path in moved if moved[path]} == {
        path for path in moved if path.endswith(("kernel", "embedding", "head"))
    }


def test_every_epoch_reads_every_document_once_in_another_order():
    passes = as_passes([*DOCUMENTS, *random_documents(1, 0)])  # the last two predict nothing
    epochs = [epoch_batches(passes, RECIPE, epoch, 2) for epoch in (1, 2, 3)]
    assert {(b.rows, b.time, b.sources) for batches in epochs for b in batches} == {(2, GRAIN, GRAIN)}
    read = [[index for batch in batches for index, *_ in batch.pieces] for batches in epochs]
    assert all(sorted(indices) == list(range(len(DOCUMENTS))) for indices in read)
    assert read[0] != read[1] != read[2]
    assert epoch_batches(passes, RECIPE, 1, 2) == epochs[0]


def test_passes_of_a_row_do_not_overlap():
    passes = as_passes(random_documents(*np.random.default_rng(0).integers(2, 128, 200)))
    for batch in epoch_batches(passes, RECIPE, 1, 1):
        taken = np.zeros((batch.rows, batch.time), int)
        for index, row, offset, *_ in batch.pieces:
            taken[row, offset : offset + len(passes[index])] += 1
            assert offset + len(passes[index]) <= batch.time
        assert taken.max() == 1


def packed(documents) -> TrainBatch:
    passes = as_passes(documents)
    (batch,) = epoch_batches(passes, replace(RECIPE, batch_tokens=8 * GRAIN), 1, 1)  # some rows stay empty
    return train_batch(batch, passes)


def test_packed_and_padded_equals_each_document_alone():
    decoder, documents = tiny_decoder(), DOCUMENTS[:3]

    def alone(decoder, _):
        nll = [
            -jax.nn.log_softmax(decoder.logits(ids[None], np.arange(len(ids))[None], np.zeros((1, len(ids)), int)))[
                0, np.arange(len(ids) - 1), ids[1:]
            ]
            for ids in documents
        ]
        return jnp.mean(jnp.concatenate(nll))

    loss, gradient = loss_and_gradient(mean_loss, decoder, packed(documents))
    expected, expected_gradient = loss_and_gradient(alone, decoder, None)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert_equal_trees(parameters(gradient), parameters(expected_gradient), atol=1e-5)


def test_what_stands_on_padding_is_not_read():
    batch = packed(DOCUMENTS)
    arrays = batch.arrays
    padding = arrays.segments == arrays.tokens.shape[1]
    assert padding.any()
    assert not batch.mask.all()
    assert batch.mask.sum() == batch.total == sum(len(ids) - 1 for ids in DOCUMENTS)
    noise = np.random.default_rng(0).integers(0, CONFIG.vocab, arrays.tokens.shape, np.int32)
    other = TrainBatch(
        arrays._replace(
            tokens=np.where(padding, noise, arrays.tokens),
            targets=np.where(batch.mask, arrays.targets, noise),
        ),
        batch.mask,
        batch.total,
    )
    decoder = tiny_decoder()
    loss, gradient = loss_and_gradient(mean_loss, decoder, batch)
    other_loss, other_gradient = loss_and_gradient(mean_loss, decoder, other)
    assert loss == other_loss
    assert_equal_trees(parameters(gradient), parameters(other_gradient), atol=1e-7)


def test_long_documents_are_cut_into_windows(one_device):
    losses = []
    documents = random_documents(2 * CONFIG.context + 10)
    train(CONFIG, documents, replace(RECIPE, epochs=1), one_device, lambda epoch, decoder, loss: losses.append(loss))
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(("documents", "epochs"), [([], 1), (random_documents(1), 1), (DOCUMENTS, 0)])
def test_nothing_to_train_on(documents, epochs, one_device):
    with pytest.raises(ValueError, match="nothing to train on"):
        train(CONFIG, documents, replace(RECIPE, epochs=epochs), one_device)


def test_saved_model_is_read_back_here_and_by_hugging_face(tmp_path, one_device):
    decoder = train(CONFIG, DOCUMENTS, RECIPE, one_device)
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "dtype": "float32"}), encoding="utf-8")
    save_tensors(decoder, FAMILY, tmp_path / SINGLE)
    again = load_decoder(tmp_path, sharding_of(one_device))
    assert_equal_trees(parameters(again), parameters(decoder))

    ids = DOCUMENTS[0][None]
    ours = again.logits(ids, np.arange(ids.shape[1])[None], np.zeros_like(ids))
    with torch.no_grad():
        theirs = GPTNeoXForCausalLM.from_pretrained(tmp_path)(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_one_compilation_serves_all_steps(one_device):
    compiled = []

    def listener(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listener)
    counts = []
    try:
        train(CONFIG, DOCUMENTS, RECIPE, one_device, lambda epoch, decoder, loss: counts.append(len(compiled)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert len(counts) == RECIPE.epochs
    assert counts[0] > 0
    assert counts[-1] == counts[0]
    assert sum("train_step" in str(name) for name in compiled) == 1

"""The trainer: it learns, reproducibly, from real tokens only, and what it learned can be read back."""

import csv
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from mimir_jax.config import ConfigError
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring.batching import GRAIN
from mimir_jax.scoring.model import load_model
from mimir_jax.scoring.passes import Pass
from mimir_jax.testing import TINY, tiny_decoder, tiny_tokenizer, write_tokenizer
from mimir_jax.training.checkpoints import write_checkpoint
from mimir_jax.training.loop import (
    TrainBatch,
    TrainConfig,
    compiled_part,
    epoch_batches,
    make_optimizer,
    mean_loss,
    programs,
    train,
    train_batch,
)

pytestmark = pytest.mark.slow  # as a whole

FAMILY = FAMILIES["gpt_neox"]
CONFIG = FAMILY.config(TINY)
RECIPE = TrainConfig(epochs=3, batch_tokens=2 * GRAIN, seed=1)
FOUR_ROWS = replace(RECIPE, batch_tokens=4 * GRAIN)  # a row for each device of `data`


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
    train(
        CONFIG, random_documents(30), recipe, one_device, lambda epoch, _, curve: losses.append(curve.of_epoch(epoch))
    )
    assert losses[0] == pytest.approx(np.log(CONFIG.vocab), abs=0.1)
    assert losses[-1] < 0.1


def test_same_seed_same_weights(one_device):
    first, again, other = (
        parameters(train(CONFIG, DOCUMENTS, replace(RECIPE, seed=seed), one_device).decoder) for seed in (1, 1, 2)
    )
    assert_equal_trees(first, again)
    assert any((x != y).any() for x, y in zip(first, other))


def test_sharded_equals_one_device(one_device):
    decoders = [train(CONFIG, DOCUMENTS, FOUR_ROWS, mesh).decoder for mesh in (one_device, make_mesh(4, 2))]
    assert_equal_trees(*map(parameters, decoders), atol=1e-4)


def test_parameters_and_moments_are_split_over_the_mesh():
    init, _, shardings = programs(CONFIG, RECIPE, 10, make_mesh(4, 2))
    state = init(jax.random.key(0), None)
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
    documents = random_documents(2 * CONFIG.context + 10)
    curve = train(CONFIG, documents, replace(RECIPE, epochs=1), one_device).curve
    assert np.isfinite(curve.loss).all()
    assert curve.tokens.sum() == len(documents[0]) - 1


@pytest.mark.parametrize(("documents", "epochs"), [([], 1), (random_documents(1), 1), (DOCUMENTS, 0)])
def test_nothing_to_train_on(documents, epochs, one_device):
    with pytest.raises(ValueError, match="nothing to train on"):
        train(CONFIG, documents, replace(RECIPE, epochs=epochs), one_device)


def test_saved_model_is_read_back_here_and_by_hugging_face(tmp_path, one_device):
    folder, tokenizer = tmp_path / "trained", tmp_path / "tokenizer"
    write_tokenizer(tokenizer, tiny_tokenizer())
    decoder = train(CONFIG, DOCUMENTS, RECIPE, one_device).decoder
    for _ in range(2):  # the second time the folder is there, and is replaced
        write_checkpoint(decoder, {**TINY, "torch_dtype": "float16"}, tokenizer, folder)
    again = load_model(folder, mesh=one_device).decoder
    assert_equal_trees(parameters(again), parameters(decoder))
    assert AutoTokenizer.from_pretrained(folder)("a dog")["input_ids"] == tiny_tokenizer().encode("a dog").ids
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    ids = DOCUMENTS[0][None]
    ours = again.logits(ids, np.arange(ids.shape[1])[None], np.zeros_like(ids))
    with torch.no_grad():
        theirs = GPTNeoXForCausalLM.from_pretrained(folder)(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_one_compilation_serves_all_steps(one_device):
    compiled = []

    def listener(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listener)
    counts = []
    try:
        recipe = replace(RECIPE, clip_norm=0.5)  # which no other test has compiled
        train(CONFIG, DOCUMENTS, recipe, one_device, lambda epoch, decoder, curve: counts.append(len(compiled)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert len(counts) == RECIPE.epochs
    assert counts[0] > 0
    assert counts[-1] == counts[0]
    assert sum("train_step" in str(name) for name in compiled) == 1


class Interrupted(Exception):
    pass


def stop_at(epoch):
    """What an interruption after some epoch does."""

    def on_epoch(number, decoder, curve):
        if number == epoch:
            raise Interrupted

    return on_epoch


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["one device", "4 x 2"])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, one_device, mesh):
    devices = one_device if mesh == "one device" else make_mesh(4, 2)
    recipe = RECIPE if mesh == "one device" else FOUR_ROWS
    whole = train(CONFIG, DOCUMENTS, recipe, devices)
    seen = []
    for epoch in (1, 2):  # with a state after every step: the interrupted epoch's last one is not lost
        with pytest.raises(Interrupted):
            train(
                CONFIG, DOCUMENTS, recipe, devices, stop_at(epoch), state_folder=tmp_path / "state", state_seconds=0.0
            )
    again = train(
        CONFIG,
        DOCUMENTS,
        recipe,
        devices,
        lambda epoch, decoder, curve: seen.append(epoch),
        state_folder=tmp_path / "state",
    )
    assert seen == [2, 3]  # reported when it was interrupted, and not kept before the report had ended
    assert_equal_trees(parameters(again.decoder), parameters(whole.decoder))
    for field, expected in zip(again.curve, whole.curve):
        np.testing.assert_array_equal(field, expected)
    # A finished run is found finished.
    seen.clear()
    finished = train(CONFIG, DOCUMENTS, recipe, devices, stop_at(1), state_folder=tmp_path / "state")
    assert_equal_trees(parameters(finished.decoder), parameters(whole.decoder))


def test_the_state_of_another_run_is_refused(tmp_path, one_device):
    recipe = replace(RECIPE, epochs=1)
    train(CONFIG, DOCUMENTS, recipe, one_device, state_folder=tmp_path)
    with pytest.raises(ConfigError, match=r"another training run \(learning_rate differ\); remove it"):
        train(CONFIG, DOCUMENTS, replace(recipe, learning_rate=1.0), one_device, state_folder=tmp_path)
    with pytest.raises(ConfigError, match=r"\(documents differ\)"):
        train(CONFIG, DOCUMENTS[1:], recipe, one_device, state_folder=tmp_path)
    with pytest.raises(ConfigError, match=r"\(initial differ\)"):
        train(CONFIG, DOCUMENTS, recipe, one_device, state_folder=tmp_path, initial=tiny_decoder())


def test_fine_tuning_goes_on_from_the_given_weights(one_device):
    base = tiny_decoder()
    for given in (base, jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)):
        first = train(CONFIG, DOCUMENTS, RECIPE, one_device, initial=given).curve.loss[0]
        passes = as_passes(DOCUMENTS)
        batch = train_batch(epoch_batches(passes, RECIPE, 1, 1)[0], passes)
        loss, _ = loss_and_gradient(mean_loss, jax.tree.map(lambda x: x.astype(jnp.float32), given), batch)
        np.testing.assert_allclose(first, loss, rtol=1e-5)  # before the update, with the weights widened
    assert all(not x.is_deleted() for x in jax.tree.leaves(base))


def rates_of(recipe, steps):
    """How far a parameter moves in each of twelve steps with the same gradient, without decay."""
    decoder = tiny_decoder()
    ones = jax.tree.map(jnp.ones_like, decoder)
    optimizer = make_optimizer(replace(recipe, weight_decay=0.0), steps)
    state, update, moved = optimizer.init(decoder), jax.jit(optimizer.update), []
    for _ in range(12):
        updates, state = update(ones, state, decoder)
        moved.append(float(-updates.embedding[0, 0]) / recipe.learning_rate)
    return moved


def test_the_constant_schedule_stays():
    constant, cosine = (rates_of(replace(RECIPE, schedule=one, warmup=0.2), 10) for one in ("constant", "cosine"))
    np.testing.assert_allclose(constant[:3], cosine[:3], rtol=1e-5)
    np.testing.assert_allclose(constant[2:], 1, rtol=1e-5)
    assert cosine[10] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_what_stands_for_a_recipe_has_its_rates(schedule):
    recipe = replace(RECIPE, schedule=schedule, warmup=0.21, seed=7)
    np.testing.assert_array_equal(rates_of(recipe, 33), rates_of(*compiled_part(recipe, 33)))


def test_the_loss_curve(tmp_path, one_device):
    means = []
    trained = train(
        CONFIG, DOCUMENTS, RECIPE, one_device, lambda epoch, _, curve: means.append(float(curve.of_epoch(epoch)))
    )
    curve = trained.curve
    assert curve.epoch.tolist() == sorted(curve.epoch.tolist())
    assert {int(n) for n in np.bincount(curve.epoch, curve.tokens)[1:]} == {sum(len(ids) - 1 for ids in DOCUMENTS)}
    first = curve.epoch == 1
    assert means[0] == pytest.approx(np.average(curve.loss[first], weights=curve.tokens[first]))
    curve.write(tmp_path / "loss.csv")
    with (tmp_path / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, len(curve.loss) + 1))
    np.testing.assert_allclose([float(row["loss"]) for row in rows], curve.loss, rtol=1e-5)

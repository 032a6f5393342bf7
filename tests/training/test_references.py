"""Many models at once: each is the one that it would be alone, and the files say what each has read."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from mimir_jax.config import ConfigError
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring import score
from mimir_jax.scoring.batching import GRAIN
from mimir_jax.scoring.model import load_model
from mimir_jax.testing import TINY, tiny_tokenizer, write_tokenizer
from mimir_jax.training.loop import TrainConfig, train
from mimir_jax.training.membership import MEMBERSHIP, random_halves, read_references, text_key
from mimir_jax.training.references import one_model, train_many, write_references

pytestmark = pytest.mark.slow  # as a whole

CONFIG = FAMILIES["gpt_neox"].config(TINY)
RECIPE = TrainConfig(epochs=2, batch_tokens=2 * GRAIN, seed=3)


@pytest.fixture(autouse=True)
def promotion():
    """optax itself raises floats to the number of the step, an integer."""
    with jax.numpy_dtype_promotion("standard"):
        yield


DOCUMENTS = [np.random.default_rng(i).integers(0, CONFIG.vocab, 60, np.int32) for i in range(16)]
# A half; a document three times and others once; as the first; one document twice, which is one row.
COPIES = np.zeros((4, len(DOCUMENTS)), int)
COPIES[0] = COPIES[2] = random_halves(2, len(DOCUMENTS), seed=0)[0]
COPIES[1, :4], COPIES[3, 0] = [3, 1, 1, 1], 2
SEEDS = [3, 4, 3, 5]


def parameters(decoder):
    return [np.array(x) for x in jax.tree.leaves(decoder)]


def assert_close(actual, expected, atol):
    for x, y in zip(parameters(actual), parameters(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def together(one_device):
    with jax.numpy_dtype_promotion("standard"):
        return train_many(CONFIG, DOCUMENTS, COPIES, RECIPE, one_device, seeds=SEEDS)


def test_halves():
    halves = random_halves(6, 11, seed=1)
    np.testing.assert_array_equal(halves[:2], random_halves(2, 11, seed=1))
    assert [int(n) for n in halves.sum(axis=1)] == [5, 6] * 3
    assert (halves.sum(axis=0) == 3).all()
    assert len({row.tobytes() for row in halves}) == 6
    for wrong in (0, 1, 5):
        with pytest.raises(ValueError, match="must be even"):
            random_halves(wrong, 11, seed=1)


def test_each_model_is_as_if_trained_alone(together, one_device):
    for number in (0, 1):
        some = [DOCUMENTS[i] for i in np.repeat(np.arange(len(DOCUMENTS)), COPIES[number])]
        alone = train(CONFIG, some, replace(RECIPE, seed=SEEDS[number]), one_device)
        assert_close(one_model(together.decoder, number), alone.decoder, 2e-5)
        np.testing.assert_allclose(together.curve.loss[:, number], alone.curve.loss, rtol=1e-5)
        np.testing.assert_array_equal(together.curve.tokens[:, number], alone.curve.tokens)


def test_equal_seeds_and_documents_make_equal_models(together):
    assert_close(one_model(together.decoder, 0), one_model(together.decoder, 2), 0)


def test_a_model_with_less_to_read_waits(together):
    """The last has one row to read where the others have more, and takes a step where they take two."""
    assert (together.curve.tokens[:, 3] == 0).sum() == RECIPE.epochs
    assert together.curve.tokens[:, 3].sum() == 2 * RECIPE.epochs * (len(DOCUMENTS[0]) - 1)
    assert np.isfinite(together.curve.loss).all()
    assert all(np.isfinite(x).all() for x in parameters(together.decoder))


def test_models_are_split_over_devices(together):
    split = train_many(CONFIG, DOCUMENTS, COPIES, RECIPE, make_mesh(4, 2), seeds=SEEDS)
    assert_close(split.decoder, together.decoder, 1e-4)
    leaf = jax.tree.leaves(split.decoder)[0]
    assert leaf.sharding.shard_shape(leaf.shape)[0] == 1


class Interrupted(Exception):
    pass


def test_resumed_is_bit_identical(together, one_device, tmp_path):
    def stop(epoch, decoder, curve):
        if epoch == 2:
            raise Interrupted

    settings = {"seeds": SEEDS, "state_folder": tmp_path / "state", "state_seconds": 0.0}
    with pytest.raises(Interrupted):
        train_many(CONFIG, DOCUMENTS, COPIES, RECIPE, one_device, stop, **settings)
    again = train_many(CONFIG, DOCUMENTS, COPIES, RECIPE, one_device, **settings)
    assert_close(again.decoder, together.decoder, 0)
    np.testing.assert_array_equal(again.curve.loss, together.curve.loss)
    with pytest.raises(ConfigError, match=r"another training run \(copies differ\)"):
        train_many(CONFIG, DOCUMENTS, COPIES[:, ::-1], RECIPE, one_device, **settings)


@pytest.mark.parametrize(
    ("copies", "message"),
    [
        (np.zeros((2, 16), bool), r"models \[0, 1\] read no document"),
        (np.ones((2, 15), bool), "do not fit 16 documents"),
    ],
)
def test_nothing_to_train_on(copies, message, one_device):
    with pytest.raises(ValueError, match=message):
        train_many(CONFIG, DOCUMENTS, copies, RECIPE, one_device)


MEMBERSHIP_TABLE = COPIES > 0
TEXTS = {f"d{i}": f"text number {i}" for i in range(16)}


@pytest.fixture(scope="module")
def written(together, tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    write_tokenizer(folder / "tokenizer", tiny_tokenizer())
    write_references(folder, together.decoder, TINY, folder / "tokenizer", TEXTS, MEMBERSHIP_TABLE)
    return folder


def test_references_are_read_back(written, together, one_device):
    found = read_references(written)
    np.testing.assert_array_equal(found.of(list(TEXTS.values())), MEMBERSHIP_TABLE)
    np.testing.assert_array_equal(found.of(["unknown", "text number 3"])[:, 0], [False] * 4)
    np.testing.assert_array_equal(found.listed(["unknown", "text number 3"]), [False, True])
    assert len(read_references(written, 2).folders) == 2
    np.testing.assert_array_equal(read_references(written, 2).of(["text number 3"]), MEMBERSHIP_TABLE[:2, 3:4])
    for number in (0, 2):
        model = load_model(found.folders[number], mesh=one_device)
        assert_close(model.decoder, one_model(together.decoder, number), 0)
    assert np.isfinite(score(model, ["the quick brown fox"]).log_prob).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "its first line must be"),
        ("text_sha256,id\n", "its first line must be"),
        ("text_sha256,id,reference-00\nabc,d0,2\n", "line 2: expected a 0 or 1"),
        ("text_sha256,id,reference-00\nabc,d0\n", "line 2: expected a 0 or 1"),
        ("text_sha256,id,reference-00\nabc,d0,1\n", "no such checkpoint"),
    ],
)
def test_damaged_references(content, message, tmp_path):
    if content is not None:
        (tmp_path / MEMBERSHIP).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_references(tmp_path)


def test_more_references_than_there_are(written):
    for count in (0, 5):
        with pytest.raises(ConfigError, match=f"{count} references are asked for, and there are 4"):
            read_references(written, count)


def test_texts_that_utf8_cannot_hold_have_a_key():
    assert text_key("\ud800") != text_key("?")

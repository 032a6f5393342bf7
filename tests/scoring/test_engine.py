"""From texts to statistics: the same whatever a document is batched with, and clear words where that cannot be."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import processors

from mimir_jax.arrays import DTYPES, TokenStats
from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import CheckpointError
from mimir_jax.models.decoder import Decoder
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring import score
from mimir_jax.scoring.documents import score_documents
from mimir_jax.scoring.engine import ScoringError
from mimir_jax.scoring.model import Model, find_source, load_model, stack_models
from mimir_jax.scoring.tokens import TokenizerError
from mimir_jax.testing import END_OF_TEXT, TINY, tiny_tokenizer, write_checkpoint

CONTEXT = TINY["max_position_embeddings"]
FLOATS = ("log_prob", "mean", "var", "max_log_prob")
WORDS = (
    "there",
    "is",
    "more",
    "in",
    "these",
    "books",
    "than",
    "the",
    "reader",
    "of",
    "one",
    "would",
    "any",
    "dog",
    "jumps",
)


def text_of(words: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


TEXTS = [text_of(words, seed) for seed, words in enumerate([5, 60, 1, 20, 33, 20, 8, 75, 2, 50, 41, 3])]
LONG = text_of(300, 100)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def model(checkpoint: Path, one_device: jax.sharding.Mesh) -> Model:
    return load_model(checkpoint, mesh=one_device)


@pytest.fixture(scope="module")
def scored(model: Model) -> TokenStats:
    return score(model, TEXTS)


def row(stats: TokenStats, index: int, time: int | None = None) -> TokenStats:
    """One document, cut to its tokens."""
    return TokenStats(*(field[..., index, :time] for field in stats))


def assert_same(got: TokenStats, expected: TokenStats, tolerance: float = 1e-5, rank: int = 1) -> None:
    for field, dtype in zip(got, DTYPES):
        assert field.dtype == dtype
    np.testing.assert_array_equal(got.token_ids, expected.token_ids)
    np.testing.assert_array_equal(got.mask, expected.mask)
    for name in FLOATS:
        actual, wanted = getattr(got, name), getattr(expected, name)
        np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance, err_msg=name)
    assert np.abs(got.rank - expected.rank).max(initial=0) <= rank


@jax.jit
def _logits(decoder: Decoder, tokens: Any, positions: Any, segments: Any) -> jax.Array:
    return decoder.logits(tokens, positions, segments)


def by_hand(model: Model, ids: Sequence[int]) -> dict[str, np.ndarray]:
    """Statistics of ids[1:] given the ids before them, by a plain log-softmax in float64."""
    length = len(ids)
    assert length <= CONTEXT
    tokens, segments = np.zeros((1, CONTEXT), np.int32), np.ones((1, CONTEXT), np.int32)
    tokens[0, :length], segments[0, :length] = ids, 0
    positions = np.arange(CONTEXT, dtype=np.int32)[None]
    z = np.asarray(_logits(model.decoder, tokens, positions, segments))[0, : length - 1].astype(np.float64)
    log_p = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
    p, log_prob = np.exp(log_p), np.take_along_axis(log_p, np.array(ids[1:])[:, None], -1)
    mean = (p * log_p).sum(-1)
    return {
        "log_prob": log_prob[:, 0],
        "mean": mean,
        "var": (p * log_p**2).sum(-1) - mean**2,
        "max_log_prob": log_p.max(-1),
        "rank": 1 + (log_p > log_prob).sum(-1),
    }


def token_ids(model: Model, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def check_by_hand(stats: TokenStats, parts: Sequence[dict[str, np.ndarray]]) -> None:
    """The masked statistics of one document are these, one part behind the other."""
    for name in FLOATS:
        wanted = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(getattr(stats, name)[stats.mask], wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    wanted = np.concatenate([part["rank"] for part in parts])
    assert np.abs(stats.rank[stats.mask] - wanted).max(initial=0) <= 1


# What is computed.


def test_every_document_by_hand(model: Model, scored: TokenStats) -> None:
    for index, text in enumerate(TEXTS):
        ids = token_ids(model, text)
        stats = row(scored, index)
        assert stats.token_ids[: len(ids)].tolist() == ids
        assert stats.mask.tolist() == [0 < t < len(ids) for t in range(len(stats.mask))]
        check_by_hand(stats, [by_hand(model, ids)])
        for name in (*FLOATS, "rank"):
            assert (getattr(stats, name)[~stats.mask] == 0).all()
        assert (stats.token_ids[len(ids) :] == 0).all()


def test_a_document_beyond_the_context_is_scored_in_windows(model: Model) -> None:
    ids = token_ids(model, LONG)
    assert len(ids) > 2 * CONTEXT
    half = CONTEXT // 2
    parts = [by_hand(model, ids[:CONTEXT])]
    for begin in range(half, len(ids) - half, half):
        window = by_hand(model, ids[begin : begin + CONTEXT])
        parts.append({name: values[half - 1 :] for name, values in window.items()})
    stats = score(model, [TEXTS[0], LONG])
    assert stats.mask[1].sum() == len(ids) - 1
    assert stats.token_ids[1].tolist() == ids
    check_by_hand(row(stats, 1), parts)


def test_texts_without_a_prediction_keep_their_row(model: Model) -> None:
    stats = score(model, ["", "a", TEXTS[0], ""])
    assert stats.mask.any(axis=-1).tolist() == [False, False, True, False]
    assert stats.token_ids[1, 0] == token_ids(model, "a")[0]
    alone = score(model, ["", "a"])
    assert alone.mask.shape == (2, 1)
    assert not alone.mask.any()
    assert score(model, [""]).mask.shape == (1, 0)
    assert score(model, []).mask.shape == (0, 0)


def test_special_tokens_in_a_text_are_text(model: Model) -> None:
    """A document that spells out the end-of-text token contains it; nothing of it is dropped."""
    text = f"{END_OF_TEXT}the dog{END_OF_TEXT} jumps{END_OF_TEXT}"
    ids = token_ids(model, text)
    assert (ids[0], ids[-1], ids.count(0)) == (0, 0, 3)
    stats = score(model, [text])
    assert stats.token_ids[0].tolist() == ids
    check_by_hand(row(stats, 0), [by_hand(model, ids)])


# What it does not depend on.


def test_batch_mates_do_not_matter(model: Model, scored: TokenStats) -> None:
    for index in (2, 7):
        alone = score(model, [TEXTS[index]])
        assert_same(row(alone, 0), row(scored, index, alone.mask.shape[-1]))


def test_order_does_not_matter(model: Model, scored: TokenStats) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    assert_same(score(model, [TEXTS[i] for i in order]), TokenStats(*(field[order] for field in scored)))


@pytest.mark.parametrize("batch_tokens", [1, 512])
def test_batch_tokens_do_not_matter(model: Model, scored: TokenStats, batch_tokens: int) -> None:
    assert_same(score(model, TEXTS, batch_tokens=batch_tokens), scored)


@pytest.mark.parametrize(
    ("data", "model_ways"),
    [(2, 4), *(pytest.param(*split, marks=pytest.mark.slow) for split in [(2, 1), (1, 2), (8, 1), (4, 2), (1, 8)])],
)
def test_devices_do_not_matter(checkpoint: Path, scored: TokenStats, data: int, model_ways: int) -> None:
    mesh = make_mesh(data, model_ways, jax.devices()[: data * model_ways])
    assert_same(score(load_model(checkpoint, mesh=mesh), TEXTS), scored)


def test_the_default_mesh_is_all_devices(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    assert dict(model.mesh.shape) == {"data": 8, "model": 1}
    assert model.dtype == "float32"


def test_nothing_is_compiled_twice(
    tmp_path: Path, one_device: jax.sharding.Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    """The second pass over a data set compiles nothing at all, nor does another order of it."""
    # A shape of its own, so that no other test has compiled it.
    model = load_model(write_checkpoint(tmp_path, num_hidden_layers=1, intermediate_size=24), mesh=one_device)

    def compiled(texts: list[str]) -> int:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jax"), jax.log_compiles():
            score(model, texts)
        return sum("Compiling" in record.getMessage() for record in caplog.records)

    texts = [*TEXTS, LONG]
    assert compiled(texts) > 0
    assert compiled(texts) == 0
    assert compiled(texts[::-1]) == 0


def test_identical_texts_are_computed_once(model: Model) -> None:
    started, done = [], []
    texts = [TEXTS[1], TEXTS[3], TEXTS[1], "", TEXTS[1]]
    results = score_documents(model, texts, on_start=started.append, on_batch=done.append)
    distinct = sum(len(token_ids(model, text)) for text in {TEXTS[1], TEXTS[3]})
    assert started == [distinct]
    assert sum(done) == distinct
    for field, again, third in zip(results[0], results[2], results[4]):
        np.testing.assert_array_equal(field, again)
        np.testing.assert_array_equal(field, third)
    assert len(results) == 5


# Further models and dtypes.


def test_stacked_models_equal_one_by_one(tmp_path: Path, model: Model, one_device: jax.sharding.Mesh) -> None:
    other = load_model(write_checkpoint(tmp_path, seed=1), mesh=one_device)
    stacked = stack_models([model, other])
    assert stacked.stacked
    assert not model.stacked
    assert stacked.sources == (*model.sources, *other.sources)
    texts = ["", "a", *TEXTS[:4], LONG]
    got = score(stacked, texts)
    separate = [score(one, texts) for one in (model, other)]
    assert got.mask.shape == (2, *separate[0].mask.shape)
    for axis, one in enumerate(separate):
        assert_same(TokenStats(*(field[axis] for field in got)), one)
    assert np.abs(separate[0].log_prob - separate[1].log_prob).max() > 1


@pytest.mark.slow
def test_stacked_models_on_eight_devices(tmp_path: Path, model: Model, scored: TokenStats) -> None:
    mesh = make_mesh(4, 2)
    folders = [model.sources[0].folder, write_checkpoint(tmp_path, seed=1)]
    got = score(stack_models([load_model(folder, mesh=mesh) for folder in folders]), TEXTS)
    assert_same(TokenStats(*(field[0] for field in got)), scored)


@pytest.mark.parametrize("options", [{"layer_norm_eps": 1e-3}, {"tokenizer": tiny_tokenizer(310)}])
def test_models_that_cannot_be_stacked(
    tmp_path: Path, model: Model, one_device: jax.sharding.Mesh, options: dict[str, Any]
) -> None:
    other = load_model(write_checkpoint(tmp_path / "other", **options), mesh=one_device)
    with pytest.raises(ConfigError, match="checkpoint0 and other differ in shape, dtype or vocabulary"):
        stack_models([model, other])


def test_bfloat16_is_close_to_float32(checkpoint: Path, one_device: jax.sharding.Mesh, scored: TokenStats) -> None:
    """Eight bits of weights and operands: each log-prob moves by some hundredths, their mean by less than one."""
    got = score(load_model(checkpoint, mesh=one_device, dtype="bfloat16"), TEXTS)
    np.testing.assert_array_equal(got.mask, scored.mask)
    for name in FLOATS:
        assert getattr(got, name).dtype == np.float32
    moved = (got.log_prob - scored.log_prob)[scored.mask]
    assert 1e-4 < np.abs(moved).max() < 0.3
    assert np.abs(moved).mean() < 0.05
    assert abs(moved.mean()) < 0.01


# Tokenizers.


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory, one_device: jax.sharding.Mesh) -> Model:
    folder = write_checkpoint(tmp_path_factory.mktemp("bos"), tokenizer=tiny_tokenizer(bos=True))
    return load_model(folder, mesh=one_device)


def test_a_bos_is_read_and_never_scored(with_bos: Model) -> None:
    ids = token_ids(with_bos, TEXTS[3])
    assert with_bos.tokenizer(TEXTS[3])["input_ids"] == [0, *ids]
    stats = score(with_bos, [TEXTS[3], "a", ""])
    assert stats.token_ids[0].tolist() == ids
    assert stats.mask[0].all()  # the first token has a prediction: what follows a BOS
    check_by_hand(row(stats, 0), [by_hand(with_bos, [0, *ids])])
    assert stats.mask.sum(axis=-1).tolist() == [len(ids), 1, 0]


def test_a_bos_before_a_long_document(with_bos: Model) -> None:
    ids = token_ids(with_bos, LONG)
    stats = score(with_bos, [LONG])
    assert stats.token_ids[0].tolist() == ids
    assert stats.mask.all()
    first = by_hand(with_bos, [0, *ids[: CONTEXT - 1]])
    np.testing.assert_allclose(stats.log_prob[0, : CONTEXT - 1], first["log_prob"], rtol=1e-5, atol=1e-5)


def test_an_eos_behind_the_text_is_dropped(tmp_path: Path, model: Model, one_device: jax.sharding.Mesh) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, 0)]
    )
    with_eos = load_model(write_checkpoint(tmp_path, tokenizer=tokenizer), mesh=one_device)
    assert with_eos.tokenizer("a")["input_ids"][-1] == 0
    assert_same(score(with_eos, TEXTS[:3]), score(model, TEXTS[:3]))


def test_tokens_beyond_the_embedding(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    small = load_model(write_checkpoint(tmp_path, vocab_size=270), mesh=one_device)
    assert max(token_ids(small, TEXTS[0])) >= 270 > max(token_ids(small, "0123"))
    with pytest.raises(TokenizerError, match=r"2 documents have token ids beyond the model's 270 .*text 1, text 2"):
        score(small, ["0123", TEXTS[0], TEXTS[1]])
    with pytest.raises(TokenizerError, match=r"first: b\)"):
        score_documents(small, ["0123", TEXTS[0]], ids=["a", "b"])


def test_no_tokenizer(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """Transformers makes an empty tokenizer where there is none: every text would be empty."""
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=f"{tmp_path}: no tokenizer"):
        load_model(tmp_path, mesh=one_device)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match=f"{tmp_path}: no tokenizer"):
        load_model(tmp_path, mesh=one_device)


def test_a_damaged_tokenizer(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(TokenizerError, match=f"{tmp_path}: no tokenizer can be loaded"):
        load_model(tmp_path, mesh=one_device)


# Models that cannot be scored or loaded.


def test_a_model_that_overflows(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """All its weights are finite; what they make of a text is not."""
    weights = write_checkpoint(tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    tensors["gpt_neox.final_layer_norm.weight"] *= np.float32(1e30)
    tensors["embed_out.weight"] *= np.float32(1e30)
    save_file(tensors, weights)
    with pytest.raises(ScoringError, match="not finite"):
        score(load_model(tmp_path, mesh=one_device), TEXTS[:2])


def test_unknown_dtype(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="dtype 'float16' is not supported; supported: float32, bfloat16"):
        load_model(checkpoint, dtype="float16")


def test_a_folder_has_no_revision(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="a local folder has no revision 'step1000'"):
        load_model(checkpoint, revision="step1000")


@pytest.mark.parametrize("revision", [None, "step99000"])
def test_offline(revision: str | None) -> None:
    """HF_HUB_OFFLINE is set for all tests."""
    with pytest.raises(CheckpointError, match=r"nobody/no-such-model.*hub cannot be reached") as error:
        load_model("nobody/no-such-model", revision=revision)
    assert (f"at revision {revision}" in str(error.value)) is (revision is not None)


@pytest.mark.parametrize("path", ["no/such/folder/at/all", "/nowhere"])
def test_no_folder_and_no_hub_id(path: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model(path)


def test_a_source_is_hashes_of_its_files(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "one", files=2)
    source = find_source(str(folder))
    assert (source.folder, source.name, source.revision) == (folder, "one", None)
    weights = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert sorted(source.files) == ["config.json", *weights, "tokenizer.json", "tokenizer_config.json"]
    for name, digest in source.files.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    same, other = write_checkpoint(tmp_path / "same", files=2), write_checkpoint(tmp_path / "other", seed=1, files=2)
    assert find_source(str(same), name="another name").checkpoint == source.checkpoint
    assert find_source(str(other)).checkpoint != source.checkpoint
    (same / "tokenizer_config.json").write_text("{}")
    assert find_source(str(same)).checkpoint != source.checkpoint

"""Neighbors by filling spans: masks, the sampling loop against Hugging Face torch, and what becomes of the fills."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from mimir_jax.config import ConfigError, SpansConfig
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring import span_fills
from mimir_jax.scoring.masked import SpanModel, find_mask_model, load_span_model, sentinels_of
from mimir_jax.scoring.span_fills import (
    FillRows,
    Masked,
    check_spans,
    fill_neighbors,
    mask_spans,
    nucleus,
    random_tokens,
    random_words,
    read_fills,
    write_fills,
)
from mimir_jax.scoring.tokens import TokenizerError
from mimir_jax.testing import tiny_wordpiece, write_span_model

torch.set_num_threads(1)

TEXTS = ["The quick brown fox jumps over the lazy dog and looks at others", "", "word", "There is more in these books"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_span_model(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def model(folder: Path, one_device: jax.sharding.Mesh) -> SpanModel:
    return load_span_model(find_mask_model(str(folder)), one_device)


SPANS = st.builds(
    SpansConfig,
    length=st.integers(1, 5),
    share=st.floats(0.05, 1.0),
    buffer=st.integers(0, 3),
    round_up=st.booleans(),
)


@given(st.lists(st.sampled_from(["a", "b", "", "\n", "c,"]), min_size=1, max_size=40), SPANS, st.integers(0, 9))
def test_masks(words: list[str], spans: SpansConfig, seed: int) -> None:
    """Numbered from the left, the right number where there is room, with their buffers; the other words stay."""
    text = " ".join(words)
    pieces = mask_spans(text, spans, np.random.default_rng(seed))
    masks = [i for i, piece in enumerate(pieces) if isinstance(piece, int)]
    assert [pieces[i] for i in masks] == list(range(len(masks)))
    length = max(1, min(int(spans.share * len(words)), spans.length))
    wanted = spans.share * len(words) / (length + 2 * spans.buffer)
    assert 1 <= len(masks) <= max(1, int(np.ceil(wanted) if spans.round_up else wanted))
    assert all(later - earlier > spans.buffer for earlier, later in itertools.pairwise(masks))
    # In the place of each mask stood `length` words.
    assert len(pieces) - len(masks) + length * len(masks) == len(words)
    at = 0
    for piece in pieces:
        if isinstance(piece, int):
            at += length
        else:
            assert words[at] == piece
            at += 1


def test_masks_are_everywhere() -> None:
    """The last word, too."""
    found = [mask_spans("a b c d", SpansConfig(length=1), np.random.default_rng(seed)) for seed in range(50)]
    assert {one.index(0) for one in found} == {0, 1, 2, 3}


@settings(max_examples=25)
@given(st.integers(0, 2**20), st.sampled_from([1, 3, 8]), st.floats(0.01, 1.0))
def test_nucleus_is_as_in_transformers(seed: int, top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(seed).standard_normal((2, 8)).astype(np.float32)
    theirs = transformers.TopKLogitsWarper(top_k)(torch.zeros(2, 1), torch.tensor(logits))
    theirs = transformers.TopPLogitsWarper(top_p)(torch.zeros(2, 1), theirs).numpy() if top_p < 1 else theirs.numpy()
    ours = np.asarray(jax.jit(nucleus, static_argnums=1)(logits, top_k, np.float32(top_p)))
    if np.isfinite(ours).sum() != np.isfinite(theirs).sum():  # only where rounding decides
        probs = np.sort(np.exp(np.float64(logits)), axis=-1)[:, ::-1][:, :top_k]
        sums = np.cumsum(probs / probs.sum(-1, keepdims=True), -1)
        assert np.abs(sums - top_p).min() < 1e-5
    else:
        np.testing.assert_array_equal(ours, theirs)


def written(model: SpanModel, sources: Sequence[Sequence[int]], top_k: int, stop: int, rows: int, seed: int = 0) -> Any:
    arrays = FillRows(
        np.zeros((rows, 64), np.int32),
        np.ones(rows, np.int32),
        np.full(rows, -1, np.int32),
        np.full(rows, 32, np.int32),
        np.zeros((rows, 2), np.uint32),
    )
    for row, ids in enumerate(sources):
        arrays.tokens[row, : len(ids)], arrays.size[row], arrays.stop[row] = ids, len(ids), stop
        arrays.seed[row] = seed, len(ids)
    vocab, ends = np.int32(len(model.tokenizer)), np.array([0, 1], np.int32)
    options = {"mesh": model.mesh, "steps": 32, "top_k": top_k}
    ids, finite = write_fills(model.network, arrays, np.float32(0.9), vocab, ends, **options)
    assert bool(finite)
    return np.asarray(ids)[: len(sources)]


def test_greedy_is_as_in_transformers(model: SpanModel, folder: Path) -> None:
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    sources = [model.tokenizer(text)["input_ids"] for text in (TEXTS[0], TEXTS[3], "word")]
    found = written(model, sources, 1, 5, 8)
    banned = [[0], *([i] for i in range(len(model.tokenizer), 480))]
    for ids, ours in zip(sources, found.tolist()):
        with torch.no_grad():
            expected = theirs.generate(
                torch.tensor([ids]),
                do_sample=False,
                max_new_tokens=32,
                eos_token_id=[1, 5],
                bad_words_ids=banned,
                decoder_start_token_id=0,
            )[0].tolist()[1:]
        assert ours[: len(expected)] == expected
        assert not any(ours[len(expected) :])


def test_samples_do_not_depend_on_mates_or_devices(model: SpanModel, folder: Path) -> None:
    sources = [model.tokenizer(text)["input_ids"] for text in (TEXTS[0], TEXTS[3], "word")]
    expected = written(model, sources, 50, 5, 8)
    assert len({tuple(ids) for ids in expected.tolist()}) == 3
    np.testing.assert_array_equal(written(model, sources[::-1], 50, 5, 8)[::-1], expected)
    many = load_span_model(find_mask_model(str(folder)), make_mesh(4, 2))
    np.testing.assert_array_equal(written(many, sources, 50, 5, 8), expected)
    assert (written(model, sources, 50, 5, 8, seed=1) != expected).any()


S = [100, 101, 102, 103]


@pytest.mark.parametrize(
    ("ids", "fills"),
    [
        ([100, 7, 101, 8, 9, 102], [[7], [8, 9]]),
        ([100, 7, 101, 8, 1], [[7], [8]]),
        ([100, 7, 101, 8, 102, 5, 0], [[7], [8]]),
        ([100, 7, 101, 8], None),  # not ended
        ([100, 7, 102], None),  # one is left out
        ([101, 7, 100, 8, 102], None),  # another order
        ([7, 100, 7, 101, 8, 102], None),  # something before
        ([100, 101, 8, 102], None),  # an empty one
        ([100, 7, 1], None),
        ([], None),
    ],
)
def test_fills(ids: list[int], fills: Any) -> None:
    assert read_fills(ids, S, 2, 1) == fills


def test_retries_until_every_mask_is_filled(model: SpanModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each neighbor is tried again on its own, masked anew; then it is the text itself, and nothing is lost."""
    tried: list[tuple[int, int, int]] = []
    fill = model.tokenizer(" new", add_special_tokens=False)["input_ids"]

    def write(model: SpanModel, batch: Sequence[Masked], shape: Any, *rest: Any) -> list[list[int]]:
        assert len(batch) <= shape[0]
        found = []
        for one in batch:
            tried.append((one.text, one.neighbor, one.attempt))
            good = one.attempt == one.neighbor  # neighbor 0 at once, 1 at the second try, 2 never
            found.append([t for i in range(one.masks) for t in (model.sentinels[i], *fill)] + [1] if good else [1])
        return found

    monkeypatch.setattr(span_fills, "_write", write)
    spans = SpansConfig(max_tries=2)
    done: list[int] = []
    found = dict(fill_neighbors(model, TEXTS, 3, spans, batch_tokens=128, on_batch=done.append))
    assert sum(done) == 9
    assert found[1] == []
    for number in (0, 2, 3):
        first, second, third = found[number]
        assert "new" in first.split(" ")
        assert "new" in second.split(" ")
        assert third == TEXTS[number]
        assert [attempt for text, neighbor, attempt in tried if (text, neighbor) == (number, 2)] == [0, 1]
    assert found[2][0] == "new"


def test_a_model_that_fills_nothing(model: SpanModel) -> None:
    found = dict(fill_neighbors(model, TEXTS[:3], 2, SpansConfig(max_tries=2)))
    assert found.keys() == {0, 1, 2}
    assert found[2] == ["word", "word"]


def test_random_words(model: SpanModel) -> None:
    rng = np.random.default_rng(0)
    found = random_words("a b c d e f g h i j", ["X", "Y"], SpansConfig(length=2, share=0.4, buffer=0), rng)
    words = found.split(" ")
    assert len(words) == 10
    assert sum(word in "XY" for word in words) == 4
    assert len(random_words("a b", ["X"], SpansConfig(length=3, share=1.0), rng).split(" ")) in (3, 4)


def test_random_tokens(model: SpanModel) -> None:
    text = TEXTS[0] * 20
    own = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    spans = SpansConfig(length=2, buffer=1, share=0.5)
    made = random_tokens(text, model.tokenizer, spans, np.random.default_rng(0))
    assert made != text
    assert "<" not in made
    assert random_tokens("dog", model.tokenizer, SpansConfig(share=1e-9), np.random.default_rng(0)) == "dog"
    assert len(own) > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 0}, "length: 0"),
        ({"buffer": -1}, "buffer: -1"),
        ({"top_k": 0}, "top_k: 0"),
        ({"max_tries": 0}, "max_tries: 0"),
        ({"share": 0.0}, "share: 0.0"),
        ({"top_p": 1.5}, "top_p: 1.5"),
    ],
)
def test_numbers_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"neighbors\.spans\.{message}"):
        check_spans(SpansConfig(**changes))


def test_a_tokenizer_without_masks() -> None:
    with pytest.raises(TokenizerError, match="no <extra_id_0>"):
        sentinels_of(transformers.PreTrainedTokenizerFast(tokenizer_object=tiny_wordpiece()))

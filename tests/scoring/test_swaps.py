"""Neighbors by swapping: candidates as Hugging Face torch gives them with the same dropout, then plain bookkeeping."""

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from mimir_jax.compat.mimir.neighbors import SWAPS as MIMIR
from mimir_jax.config import ConfigError, SwapsConfig
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring.masked import MaskModel, find_mask_model, load_mask_model
from mimir_jax.scoring.neighbors import PAPER, SwapRules, _digest, propose_swaps, swap_neighbors, swapped_texts
from mimir_jax.scoring.swaps import Candidates, Encoded, check_swaps, combined_swaps, encode_texts, single_swaps
from mimir_jax.scoring.tokens import TokenizerError
from mimir_jax.testing import tiny_tokenizer, write_mask_model

torch.set_num_threads(1)

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "There is MORE  in these books\nthan the reader would think",
    "dog",
    "",
    "We read others, and the other dog looks at them without a word; that is why. " * 2,
]
SWAPPING = SwapsConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mask_model(tmp_path_factory.mktemp("mask"))


@pytest.fixture(scope="module")
def model(folder: Path, one_device: jax.sharding.Mesh) -> MaskModel:
    return load_mask_model(find_mask_model(str(folder)), one_device)


def encoded_by(model: MaskModel, texts: list[str], config: SwapsConfig = SWAPPING) -> list[Encoded]:
    names = [f"text {i}" for i in range(len(texts))]
    return encode_texts(model.tokenizer, names, texts, model.encoder.config.context, config)


def proposed(
    model: MaskModel, texts: list[str], rules: SwapRules = PAPER, seed: int = 0, tokens: int = 2048
) -> list[Candidates]:
    encoded = encoded_by(model, texts)
    found = dict(propose_swaps(model, encoded, SWAPPING, seed, rules, tokens))
    return [found[i] for i in range(len(texts))]


def made(model: MaskModel, texts: list[str], config: SwapsConfig = SWAPPING, **options: Any) -> list[list[str]]:
    found = dict(swap_neighbors(model, encoded_by(model, texts, config), 7, config, **options))
    return [found[i] for i in range(len(texts))]


def kept(seed: int, encoded: Encoded, place: int, width: int) -> np.ndarray:
    """The factors of dropout at a place."""
    key = np.frombuffer(_digest(seed, encoded, str(place), 8), "<u4")
    drawn = jax.random.bernoulli(jax.random.wrap_key_data(key, impl="threefry2x32"), np.float32(1 - 0.7), (width,))
    return np.where(np.asarray(drawn), np.float32(1 / 0.3), 0)


@pytest.mark.parametrize("rules", [PAPER, MIMIR], ids=["paper", "mimir"])
def test_candidates_by_torch(model: MaskModel, folder: Path, rules: SwapRules) -> None:
    """A pass a position, with the dropped-out embedding where each of the two reads it."""
    theirs = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    encoded = encoded_by(model, TEXTS)
    for one, ours in zip(encoded, proposed(model, TEXTS, rules), strict=True):
        ids = torch.tensor(one.ids[None], dtype=torch.long)
        special = set(model.tokenizer.all_special_ids) | {model.tokenizer.convert_tokens_to_ids("[unused0]")}
        last = len(one.ids) - (rules is PAPER)
        assert ours.places.tolist() == list(range(1, last))
        for row, place in enumerate(range(1, last)):
            with torch.no_grad():
                embeddings = theirs.bert.embeddings
                x = embeddings.word_embeddings(ids) if rules is PAPER else embeddings(ids)
                x[0, place] *= torch.tensor(kept(0, one, place, x.shape[-1]))
                probs = theirs(inputs_embeds=x).logits[0, place].double().softmax(0).numpy()
            original = int(one.ids[place])
            order = np.argsort(-probs, kind="stable").tolist()
            if rules is PAPER:
                vocab = len(model.tokenizer)
                wanted = [i for i in order if i != original and i not in special and i < vocab][:6]
                got = ours.ids[row].tolist()
            else:
                wanted = [i for i in order[:6] if i != original]
                got = ours.ids[row][np.isfinite(ours.scores[row])].tolist()
            assert got == wanted
            scores = ours.scores[row][np.isfinite(ours.scores[row])]
            np.testing.assert_allclose(scores, probs[wanted] / (1 - probs[original]), rtol=1e-4)


@pytest.mark.parametrize("strategy", ["deterministic", "random"])
def test_nothing_depends_on_mates_batches_or_devices(model: MaskModel, folder: Path, strategy: Any) -> None:
    config = SwapsConfig(strategy=strategy, share=0.2)
    expected = made(model, TEXTS, config)
    assert made(model, TEXTS[::-1], config, batch_tokens=200)[::-1] == expected
    assert made(model, TEXTS[1:2], config) == expected[1:2]
    many = load_mask_model(find_mask_model(str(folder)), make_mesh(4, 2))
    assert made(many, TEXTS, config, batch_tokens=200) == expected
    assert made(model, TEXTS, config, seed=1) != expected


def test_single_swaps_in_place(model: MaskModel) -> None:
    """Each neighbor is the text with one token replaced, and differs from it and from the others."""
    for text, neighbors in zip(TEXTS, made(model, TEXTS)):
        assert len(set(neighbors)) == len(neighbors)
        # One token has six candidates, of which some are written alike.
        assert len(neighbors) == 7 if len(text) > 3 else bool(text) <= len(neighbors) <= 6 * len(text)
        for neighbor in neighbors:
            start = next((i for i, (a, b) in enumerate(zip(text, neighbor)) if a != b), min(len(text), len(neighbor)))
            end = next((i for i, (a, b) in enumerate(zip(text[::-1], neighbor[::-1])) if a != b), len(text))
            assert neighbor != text
            assert len(text) - end - start < 12  # no longer than the longest token
            assert "[" not in neighbor
            assert "#" not in neighbor


def test_the_best_candidate_comes_first(model: MaskModel) -> None:
    (one,) = proposed(model, TEXTS[:1])
    (encoded,) = encoded_by(model, TEXTS[:1])
    row, column = np.unravel_index(one.scores.argmax(), one.scores.shape)
    start, end = encoded.spans[one.places[row]].tolist()
    piece = model.tokenizer.convert_ids_to_tokens(int(one.ids[row, column])).removeprefix("##")
    assert made(model, TEXTS[:1])[0][0] == TEXTS[0][:start] + piece + TEXTS[0][end:]


def test_combinations_swap_their_share(model: MaskModel) -> None:
    config = SwapsConfig(strategy="random", share=0.3, candidates=1, in_place=False)
    (encoded,) = encoded_by(model, TEXTS[:1])
    for neighbor in made(model, TEXTS[:1], config)[0]:
        ids = model.tokenizer(neighbor)["input_ids"]
        if len(ids) == len(encoded.ids):  # else its pieces are tokenized otherwise
            assert (np.array(ids) != encoded.ids).sum() == int(0.3 * (len(encoded.ids) - 2))


def test_text_written_anew(model: MaskModel) -> None:
    neighbors = made(model, TEXTS[:1], SwapsConfig(in_place=False))[0]
    assert len(neighbors) == 7
    assert all(neighbor == neighbor.lower() and neighbor == neighbor.strip() for neighbor in neighbors)


def test_mimirs_defects(model: MaskModel) -> None:
    """[SEP] is swapped: its piece stands before the text. Text written anew keeps spaces at its ends."""
    (encoded,) = encoded_by(model, TEXTS[:1])
    (one,) = proposed(model, TEXTS[:1], MIMIR)
    one.scores[:] = np.where(one.scores == -np.inf, -np.inf, 0.0)
    one.scores[-1, 1:3] = 9.0
    words = [model.tokenizer.decode([token]).replace("##", "") for token in one.ids[-1, 1:3].tolist()]
    (neighbor,) = swapped_texts(model.tokenizer, encoded, one, 1, SWAPPING, 0, MIMIR)
    assert neighbor in [word + TEXTS[0] for word in words]
    assert len(swapped_texts(model.tokenizer, encoded, one, 1000, SWAPPING, 0, MIMIR)) <= 100
    anew = SwapsConfig(in_place=False)
    one.scores[:] = np.where(np.isfinite(one.scores), one.scores, -np.inf)
    assert swapped_texts(model.tokenizer, encoded, one, 60, anew, 0, MIMIR)[-1].startswith(" the quick")
    # Nothing to swap is no neighbor, where MIMIR fails.
    assert swapped_texts(model.tokenizer, encoded, one, 5, SwapsConfig(strategy="random"), 0, MIMIR) == []
    several = swapped_texts(model.tokenizer, encoded, one, 5, SwapsConfig(strategy="random", share=0.2), 0, MIMIR)
    assert len(several) == 5


SCORES = st.lists(
    st.lists(st.one_of(st.floats(0, 10, width=32), st.just(-np.inf)), min_size=3, max_size=3), max_size=8
).map(lambda rows: np.array(rows, np.float32).reshape(-1, 3))


def candidates_of(scores: np.ndarray) -> Candidates:
    places = 2 + 3 * np.arange(len(scores))
    return Candidates(places, np.arange(scores.size, dtype=np.int32).reshape(scores.shape), scores)


@given(SCORES, st.integers(1, 30))
def test_single_swaps_are_the_best(scores: np.ndarray, count: int) -> None:
    candidates = candidates_of(scores)
    flat = [(-scores[i, j], i, j) for i, j in itertools.product(range(len(scores)), range(3)) if scores[i, j] > -np.inf]
    expected = [[(int(candidates.places[i]), int(candidates.ids[i, j]))] for _, i, j in sorted(flat)[:count]]
    assert single_swaps(candidates, count) == expected


@given(SCORES, st.integers(1, 30), st.integers(1, 4), st.integers(0, 9))
def test_combined_swaps(scores: np.ndarray, count: int, swaps: int, seed: int) -> None:
    """With trials enough every set is drawn, and the best are taken."""
    candidates = candidates_of(scores)
    usable = [i for i in range(len(scores)) if scores[i].max() > -np.inf]
    found = combined_swaps(candidates, count, swaps, 3000, np.random.default_rng(seed))
    sets = list(itertools.combinations(usable, min(swaps, len(usable)))) if usable else []
    assert len(found) == min(count, len(sets))
    totals = [sum(float(scores[(place - 2) // 3].max()) for place, _ in one) for one in found]
    best = sorted((sum(float(scores[i].max()) for i in one) for one in sets), reverse=True)[: len(found)]
    np.testing.assert_allclose(totals, best, rtol=1e-6)
    for one in found:
        assert all(token == candidates.ids[(p - 2) // 3, scores[(p - 2) // 3].argmax()] for p, token in one)
    assert len({tuple(sorted(one)) for one in found}) == len(found)


@settings(max_examples=30)
@given(st.text(max_size=40))
def test_bytes_of_a_character_are_not_torn(text: str) -> None:
    """With a tokenizer of bytes any text stays what it is but for the swapped places."""
    tokenizer = byte_tokenizer()
    (encoded,) = encode_texts(tokenizer, ["x"], [text], 512, SWAPPING)
    good = PAPER.places(encoded, frozenset())
    assert encoded.spans is not None
    covered = [i for start, end in encoded.spans[good].tolist() for i in range(start, end)]
    assert len(set(covered)) == len(covered)
    places = np.flatnonzero(good)
    the = tokenizer.convert_tokens_to_ids("Ġthe")
    for place in places.tolist():
        one = Candidates(np.array([place]), np.array([[the]], np.int32), np.ones((1, 1), np.float32))
        start, end = encoded.spans[place].tolist()
        neighbors = swapped_texts(tokenizer, encoded, one, 1, SWAPPING, 0)
        if text[start:end].strip() == "the":  # it is what stands there, or written alike
            continue
        (neighbor,) = neighbors
        assert neighbor.startswith(text[:start])
        assert neighbor.endswith(text[end:])
        assert neighbor[start : len(neighbor) - len(text) + end].strip() == "the"


def byte_tokenizer() -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer())


def test_pieces_of_bytes(model: MaskModel) -> None:
    """A piece with a space brings none where there is one already, and keeps it within a word."""
    tokenizer = byte_tokenizer()
    the = tokenizer.convert_tokens_to_ids("Ġthe")
    assert PAPER.piece(tokenizer, the, "a dog", 2) == "the"
    assert PAPER.piece(tokenizer, the, "dog", 0) == "the"
    assert PAPER.piece(tokenizer, the, "a dog", 1) == " the"
    assert PAPER.piece(tokenizer, the, "adog", 1) == " the"
    assert MIMIR.piece(tokenizer, the, "a dog", 2) == " the"


def test_documents_beyond_the_context(model: MaskModel) -> None:
    long = "dog " * 80
    with pytest.raises(ConfigError, match=r"2 documents exceed its context of 64 tokens, such as text 0 \(82 tokens\)"):
        encoded_by(model, [long, "dog", long])
    config = SwapsConfig(long="beginning")
    (neighbors,) = made(model, [long], config)
    assert len(neighbors) == 7
    assert all(neighbor.endswith("dog " * 15) for neighbor in neighbors)


def test_tokenizers_without_offsets() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(TokenizerError, match="Slow gives no offsets"):
        encode_texts(Slow(), ["a"], ["text"], 64, SWAPPING)


@pytest.mark.parametrize(
    ("count", "changes", "message"),
    [
        (0, {}, "neighbors.count: 0"),
        (1, {"candidates": 0}, "neighbors.swaps.candidates: 0"),
        (1, {"trials": 0}, "neighbors.swaps.trials: 0"),
        (1, {"share": 1.0}, "neighbors.swaps.share: 1.0"),
        (1, {"dropout": -0.1}, "neighbors.swaps.dropout: -0.1"),
    ],
)
def test_numbers_out_of_range(count: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        check_swaps(SwapsConfig(**changes), count)


def test_a_tokenizer_of_another_model(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    write_mask_model(tmp_path, vocab_size=100)
    with pytest.raises(TokenizerError, match="belongs to another model"):
        load_mask_model(find_mask_model(str(tmp_path)), one_device)

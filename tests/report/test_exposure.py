"""Which documents the heat maps show, and their tokens' texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import Row
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mimir_jax.arrays import TokenStats
from mimir_jax.report.exposure import KINDS, MOST_TOKENS, choose, read_exposure, token_pieces, write_exposure
from mimir_jax.testing import tiny_tokenizer


def test_the_extreme_documents_of_each_kind() -> None:
    scores = np.array([3.0, np.nan, 1.0, 2.0, 9.0, 8.0, -1.0], np.float32)
    is_member = np.array([True, True, True, True, False, False, False])
    assert list(choose(scores, is_member, count=2)) == [
        (KINDS[0], 0),
        (KINDS[0], 3),
        (KINDS[1], 2),
        (KINDS[2], 4),
        (KINDS[2], 5),
    ]


def test_none_where_nothing_is_scored() -> None:
    assert list(choose(np.full(4, np.nan, np.float32), np.arange(4) < 2)) == []


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer())


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_pieces_are_the_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert "".join(pieces) == whole


def test_a_text_that_ends_within_a_character(tokenizer: Any) -> None:
    ids = tokenizer("a日", add_special_tokens=False)["input_ids"][:-1]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces).startswith("a")


def test_marks_of_spaces() -> None:
    class Marked:
        """Decodes as SentencePiece does: without the space that a text begins with."""

        words = ("\u2581The", "\u2581fox", "es")

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [self.words[i] for i in ids]

        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(self.words[i] for i in ids).replace("\u2581", " ").strip()

    assert token_pieces(Marked(), [0, 1, 2]) == [" The", " fox", "es"]


def test_written_and_read(tmp_path: Path) -> None:
    n = MOST_TOKENS + 5
    ids = np.arange(n, dtype=np.int32)
    log_prob = np.full(n, -2.0, np.float32)
    nan = np.full(n, np.nan, np.float32)
    stats = TokenStats(ids, log_prob, log_prob - 1, np.full(n, 4.0, np.float32), log_prob, ids, ids > 0)
    told_less = TokenStats(ids, log_prob, nan, nan, nan, np.zeros(n, np.int32), ids > 0)  # as an endpoint
    rows = [Row("a\ud800", True, "s"), Row("b", False, "s")]
    write_exposure(
        tmp_path / "exposed.json",
        "loss",
        [(KINDS[0], 0), (KINDS[2], 1)],
        rows,
        np.array([0.5, 0.25], np.float32),
        [stats, told_less].__getitem__,
        lambda ids: [f"{i}\ud800" for i in ids],
        lambda i: [100, MOST_TOKENS + 2],
    )
    found = read_exposure(tmp_path / "exposed.json")
    assert found is not None
    first, second = found.documents
    assert (found.column, first.id, first.n_tokens, len(first.pieces)) == ("loss", r"a\ud800", n, MOST_TOKENS)
    assert first.windows == [100]
    assert (first.log_prob[:2], first.z[:2], first.rank[:3]) == ([None, -2.0], [None, 0.5], [None, 1, 2])
    assert (second.log_prob[1], second.z[1], second.rank[1]) == (-2.0, None, None)
    assert read_exposure(tmp_path / "none.json") is None

"""Spans as MIMIR masks and fills them, against its rules said in strings; swaps are in tests/scoring/test_swaps.py."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.compat.mimir.neighbors import SPANS, fills, masked
from mimir_jax.config import SpansConfig
from mimir_jax.neighbors import PAPER
from mimir_jax.scoring import span_fills
from mimir_jax.scoring.masked import SpanModel, find_mask_model, load_span_model
from mimir_jax.scoring.span_fills import FillRows, fill_neighbors
from mimir_jax.testing import tiny_sentinels, write_span_model

TOKENIZER = tiny_sentinels()
SENTINELS = [TOKENIZER.token_to_id(f"<extra_id_{number}>") for number in range(4)]
END = TOKENIZER.token_to_id("</s>")


def test_the_last_word_is_never_masked() -> None:
    """Where a text has more words than a span; the authors' form masks it like any other."""
    spans = SpansConfig(length=2, share=0.5, buffer=0)
    drawn = [masked("a b c d", spans, np.random.default_rng(seed)) for seed in range(50)]
    assert {one[0] for one in drawn} == {0, "a"}
    assert all(one[-1] == "d" for one in drawn)
    assert masked("a b", SpansConfig(length=2, share=1.0, buffer=0), np.random.default_rng(0)) == [0]


@pytest.mark.parametrize(
    ("words", "up", "masks"), [(39, False, 0), (39, True, 1), (40, False, 1), (79, False, 1), (80, False, 2)]
)
def test_short_texts_have_no_mask(words: int, up: bool, masks: int) -> None:
    spans = SpansConfig(length=10, share=0.3, buffer=1, round_up=up)
    pieces = masked(" ".join(["w"] * words), spans, np.random.default_rng(0))
    assert [piece for piece in pieces if isinstance(piece, int)] == list(range(masks))
    assert len(pieces) - masks + 10 * masks == words


@given(
    st.lists(st.sampled_from([0, END, *SENTINELS, *TOKENIZER.encode(" the fox").ids[:-1]]), max_size=12),
    st.integers(0, 3),
)
def test_fills(written: list[int], masks: int) -> None:
    """What is written is cut at any sentinel, without its first and last part and without padding and ends."""
    text = TOKENIZER.decode(written, skip_special_tokens=False)
    parts = re.split(r"<extra_id_\d+>", re.sub(r"<pad>|</s>", "", text))[1:-1]
    found = fills(written, SENTINELS, masks, END)
    if len(parts) < masks:
        assert found is None
    else:
        assert found is not None
        assert [TOKENIZER.decode(ids).strip() for ids in found] == [part.strip() for part in parts[:masks]]


@pytest.mark.slow
def test_what_is_written(tmp_path: Path, one_device: jax.sharding.Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """149 tokens that the end of a text does not end; an empty fill is one, where the authors' form tries again."""
    model = load_span_model(find_mask_model(str(write_span_model(tmp_path))), one_device)
    text = "The quick brown fox jumps"
    asked: list[tuple[int, int]] = []
    whole = span_fills.write_fills

    def write_fills(network: Any, rows: FillRows, top_p: Any, vocab: Any, ends: Any, **rest: Any) -> Any:
        asked.append((int(np.asarray(rows.limit).max()), int(ends[1])))
        return whole(network, rows, top_p, vocab, ends, **rest)

    monkeypatch.setattr(span_fills, "write_fills", write_fills)
    spans = SpansConfig(length=1, share=0.4, buffer=0, max_tries=1)
    for rules in (SPANS, PAPER.spans):
        assert [len(some) for _, some in fill_neighbors(model, [text], 2, spans, rules=rules)] == [2]
    assert asked == [(149, -1), (span_fills.most_written(text, spans), model.tokenizer.eos_token_id)]

    def write(model: SpanModel, batch: Sequence[Any], *rest: Any) -> list[list[int]]:
        return [[7, *model.sentinels[1:4][::-1], 9] for _ in batch]

    monkeypatch.setattr(span_fills, "_write", write)
    ((_, (filled,)),) = fill_neighbors(model, [text], 1, spans, rules=SPANS)
    assert len(filled.split(" ")) == 5
    assert len(filled.split()) == 3
    ((_, (same,)),) = fill_neighbors(model, [text], 1, spans)
    assert same == text

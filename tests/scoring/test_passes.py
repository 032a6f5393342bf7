"""Passes: windows that score every token once, keys that are content, and spans joined again."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimir_jax.arrays import DTYPES, TokenStats
from mimir_jax.scoring import passes as passes_module
from mimir_jax.scoring.passes import Pass, document_passes, join, pass_key


@given(before=st.integers(0, 3), length=st.integers(0, 200), context=st.integers(4, 40))
@example(before=0, length=0, context=8)
@example(before=0, length=1, context=8)
@example(before=1, length=0, context=8)
@example(before=0, length=8, context=8)
@example(before=0, length=9, context=8)
@example(before=1, length=8, context=8)
@example(before=0, length=12, context=8)
@example(before=0, length=13, context=8)
def test_windows(before: int, length: int, context: int) -> None:
    context_ids, text_ids = list(range(1000, 1000 + before)), list(range(length))
    passes = document_passes(context_ids, text_ids, context)
    assert all(one.ids.dtype == np.int32 for one in passes)

    # Every token of the text is in one span, in order, and nothing else is.
    assert np.concatenate([one.ids[one.start :] for one in passes]).tolist() == text_ids
    # Each is predicted once, but for a first one that nothing precedes.
    assert sum(one.sources for one in passes) == max(length - (not before), 0)

    if before + length <= context:
        assert len(passes) == 1
        return
    everything = [*context_ids, *text_ids]
    half = context // 2
    assert len(passes) == 1 + -(-(len(everything) - context) // half)
    for number, one in enumerate(passes):
        begin = number * half
        assert one.ids.tolist() == everything[begin : begin + context]
        if number:
            assert 1 <= len(one) - one.start <= half
            assert one.start >= context - half  # what each of its tokens has before it at least
    assert len(passes[0]) == context


def test_windows_by_hand() -> None:
    passes = document_passes([], list(range(11)), 4)
    assert [(one.ids.tolist(), one.start) for one in passes] == [
        ([0, 1, 2, 3], 0),
        ([2, 3, 4, 5], 2),
        ([4, 5, 6, 7], 2),
        ([6, 7, 8, 9], 2),
        ([8, 9, 10], 2),
    ]
    passes = document_passes([99], list(range(6)), 5)  # an odd context: starts 2 apart, spans of 2
    assert [(one.ids.tolist(), one.start) for one in passes] == [([99, 0, 1, 2, 3], 1), ([1, 2, 3, 4, 5], 3)]


@pytest.mark.parametrize(
    ("length", "start", "sources"),
    [(0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 0, 1), (2, 1, 1), (5, 0, 4), (5, 3, 2), (5, 5, 0)],
)
def test_sources(length: int, start: int, sources: int) -> None:
    """Position 0 never has a prediction; a span that starts at 0 has one less than its length."""
    assert Pass(np.zeros(length, np.int32), start).sources == sources


content = st.tuples(
    st.lists(st.integers(0, 3), max_size=4),
    st.integers(0, 3),
    st.sampled_from(["a0", "a1"]),
    st.sampled_from(["float32", "bfloat16"]),
)


def key_of(ids: list[int], start: int, checkpoint: str, dtype: str) -> str:
    return pass_key(Pass(np.array(ids, np.int32), start), checkpoint, dtype)


@given(one=content, other=content)
@example(one=([1, 2], 0, "a0", "float32"), other=([1, 2], 1, "a0", "float32"))
@example(one=([1, 2], 0, "a0", "float32"), other=([2, 1], 0, "a0", "float32"))
@example(one=([0], 0, "a0", "float32"), other=([0, 0], 0, "a0", "float32"))
@example(one=([1, 2], 0, "a0", "float32"), other=([1, 2], 0, "a1", "float32"))
@example(one=([1, 2], 0, "a0", "float32"), other=([1, 2], 0, "a0", "bfloat16"))
def test_keys_are_equal_where_the_content_is(
    one: tuple[list[int], int, str, str], other: tuple[list[int], int, str, str]
) -> None:
    assert (key_of(*one) == key_of(*other)) == (one == other)


def test_keys_do_not_depend_on_how_ids_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.arange(20, dtype=np.int32)
    expected = pass_key(Pass(ids[::2].copy()), "c", "float32")
    assert pass_key(Pass(ids[::2]), "c", "float32") == expected
    assert pass_key(Pass(ids[::2].astype(np.int64)), "c", "float32") == expected
    # The same in every process and version of Python: results on disk are found again.
    assert expected == "2dd5aacb132a73bcf6314dc55c7d6e02"
    monkeypatch.setattr(passes_module, "STATS_VERSION", passes_module.STATS_VERSION + 1)
    assert pass_key(Pass(ids[::2]), "c", "float32") != expected


def stats(*shape: int, seed: int = 0) -> TokenStats:
    rng = np.random.default_rng(seed)
    return TokenStats(*(rng.integers(0, 2, shape).astype(dtype) for dtype in DTYPES))


@pytest.mark.parametrize("leading", [(), (3,)])
def test_join(leading: tuple[int, ...]) -> None:
    parts = [stats(*leading, time, seed=time) for time in (4, 0, 2)]
    joined = join(parts)
    for field, dtype, *pieces in zip(joined, DTYPES, *parts):
        assert field.dtype == dtype
        assert field.shape == (*leading, 6)
        np.testing.assert_array_equal(field[..., :4], pieces[0])
        np.testing.assert_array_equal(field[..., 4:], pieces[2])
    assert join(parts[:1]) is parts[0]

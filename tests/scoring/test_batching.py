"""The batch plan: pure, complete, without overlaps, nearly without padding, and of few shapes."""

from collections.abc import Sequence

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mimir_jax.data.embedded import demo_documents, demo_path
from mimir_jax.scoring.batching import GRAIN, Batch, batch_arrays, padding_share, plan_batches, spans
from mimir_jax.scoring.passes import Pass


def passes_of(lengths: Sequence[int], starts: Sequence[int] | None = None) -> list[Pass]:
    """Passes whose ids tell them and their positions apart."""
    starts = [0] * len(lengths) if starts is None else starts
    return [
        Pass(np.arange(length, dtype=np.int32) + 10_000 * (i + 1), start)
        for i, (length, start) in enumerate(zip(lengths, starts))
    ]


def document_lengths(count: int, seed: int) -> list[int]:
    """Token counts of texts of 100 to 200 words."""
    return np.random.default_rng(seed).integers(130, 321, count).tolist()


def shapes(plan: Sequence[Batch]) -> set[tuple[int, int, int]]:
    return {(batch.rows, batch.time, batch.sources) for batch in plan}


def check(plan: Sequence[Batch], passes: Sequence[Pass], row_multiple: int) -> None:
    """What holds of every plan."""
    placed = sorted(piece.number for batch in plan for piece in batch.pieces)
    assert placed == [i for i, one in enumerate(passes) if one.sources]
    for batch in plan:
        assert batch.rows % row_multiple == 0
        assert batch.time % GRAIN == 0
        assert 1 <= batch.sources <= batch.time
        used = np.zeros((batch.rows, batch.time), np.int32)
        sources = np.zeros(batch.rows, np.int32)
        assert batch.pieces
        for number, row, offset, *_ in batch.pieces:
            stop = offset + len(passes[number])
            assert 0 <= row < batch.rows
            assert offset >= 0
            assert stop <= batch.time
            used[row, offset:stop] += 1
            sources[row] += passes[number].sources
        if batch.reach is not None:
            assert batch.reach % GRAIN == 0
            assert max(len(passes[piece.number]) for piece in batch.pieces) <= batch.reach < batch.time
        assert used.max() == 1
        assert sources.max() <= batch.sources


mixes = st.lists(
    st.one_of(st.integers(0, 8), st.integers(100, 350), st.integers(0, 1100)).flatmap(
        lambda length: st.tuples(st.just(length), st.integers(0, length))
    ),
    max_size=60,
)


@settings(max_examples=100)
@given(
    mix=mixes,
    batch_tokens=st.sampled_from([1, 256, 2048, 16384]),
    row_multiple=st.sampled_from([1, 2, 8]),
)
@example(mix=[], batch_tokens=2048, row_multiple=1)
@example(mix=[(0, 0), (1, 0), (1, 1), (5, 5)], batch_tokens=2048, row_multiple=1)  # all too short
@example(mix=[(1024, 512)], batch_tokens=2048, row_multiple=8)
@example(mix=[(200, 0)] * 50, batch_tokens=2048, row_multiple=2)
def test_every_plan(mix: list[tuple[int, int]], batch_tokens: int, row_multiple: int) -> None:
    lengths, starts = [length for length, _ in mix], [start for _, start in mix]
    passes = passes_of(lengths, starts)
    plan = plan_batches(passes, batch_tokens, row_multiple)
    check(plan, passes, row_multiple)
    assert 0 <= padding_share(plan, passes) < 1
    # A pure function of the lengths: other ids, another time, the same plan.
    others = [Pass(np.zeros(length, np.int32), start) for length, start in mix]
    assert plan_batches(others, batch_tokens, row_multiple) == plan


@settings(max_examples=30)
@given(mix=mixes.filter(bool), row_multiple=st.sampled_from([1, 4]))
def test_arrays(mix: list[tuple[int, int]], row_multiple: int) -> None:
    """The arrays hold each pass where the plan says, and `spans` finds its predictions again."""
    passes = passes_of([length for length, _ in mix], [start for _, start in mix])
    seen = []
    for batch in plan_batches(passes, 1024, row_multiple):
        arrays = batch_arrays(batch, passes)
        assert {x.dtype for x in jax.tree.leaves(arrays)} == {np.dtype(np.int32)}
        assert {x.shape for x in arrays[:3]} == {(batch.rows, batch.time)}
        assert {x.shape for x in arrays[3:5]} == {(batch.rows, batch.sources)}
        free = np.ones((batch.rows, batch.time), bool)
        for number, row, offset, *_ in batch.pieces:
            where = row, slice(offset, offset + len(passes[number]))
            np.testing.assert_array_equal(arrays.tokens[where], passes[number].ids)
            np.testing.assert_array_equal(arrays.positions[where], np.arange(len(passes[number])))
            segment = arrays.segments[where]
            assert (segment == segment[0]).all()
            assert (arrays.segments[row] == segment[0]).sum() == len(passes[number])  # no other piece has it
            free[where] = False
        assert (arrays.tokens[free] == 0).all()
        assert (arrays.segments[free] == batch.time).all()
        unused = np.ones((batch.rows, batch.sources), bool)
        for number, row, place in spans(batch, passes):
            one = passes[number]
            seen.append(number)
            np.testing.assert_array_equal(arrays.targets[row, place], one.ids[max(one.start, 1) :])
            # Each is predicted from the position before it, of the same pass.
            source = arrays.source_index[row, place]
            np.testing.assert_array_equal(arrays.tokens[row, source], one.ids[max(one.start, 1) - 1 : -1])
            assert unused[row, place].all()
            unused[row, place] = False
        assert (arrays.targets[unused] == 0).all()
        assert (arrays.source_index[unused] == 0).all()
    assert sorted(seen) == [i for i, one in enumerate(passes) if one.sources]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [64, 80, 100, 150, 200, 333, 600, 2000])
def test_padding_of_documents(count: int, seed: int) -> None:
    passes = passes_of(document_lengths(count, seed))
    plan = plan_batches(passes, 2048)
    check(plan, passes, 1)
    # Under a hundred documents are some dozen rows: one that stays half empty is already two percent.
    assert padding_share(plan, passes) < (0.05 if count >= 100 else 0.06)
    assert len(shapes(plan)) == 1


@pytest.mark.parametrize("row_multiple", [2, 4, 8])
def test_padding_over_devices(row_multiple: int) -> None:
    """`batch_tokens` grows with the devices, as the engine asks for it."""
    passes = passes_of(document_lengths(1000, 0))
    plan = plan_batches(passes, 2048 * row_multiple, row_multiple)
    check(plan, passes, row_multiple)
    assert padding_share(plan, passes) < 0.05
    assert len(shapes(plan)) <= 3


@pytest.fixture(scope="module")
def demo_lengths() -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(demo_path("tokenizer"))
    return [len(ids) for ids in tokenizer([d.text for d in demo_documents()], verbose=False)["input_ids"]]


@pytest.mark.parametrize("batch_tokens", [2048, 4096, 8192])
@pytest.mark.parametrize("count", [64, 200, 2000])
def test_padding_of_the_embedded_example(demo_lengths: list[int], count: int, batch_tokens: int) -> None:
    passes = passes_of(demo_lengths[:count])
    plan = plan_batches(passes, batch_tokens)
    check(plan, passes, 1)
    assert padding_share(plan, passes) < (0.05 if count >= 100 else 0.065)
    assert len(shapes(plan)) <= 3


def test_shapes_do_not_depend_on_order() -> None:
    lengths = document_lengths(100, 0)
    shuffled = np.random.default_rng(0).permutation(lengths).tolist()
    plans = [plan_batches(passes_of(some), 2048) for some in (lengths, shuffled)]
    assert [(b.rows, b.time, b.sources, len(b.pieces)) for b in plans[0]] == [
        (b.rows, b.time, b.sources, len(b.pieces)) for b in plans[1]
    ]


def test_one_long_pass_among_many_short_ones() -> None:
    """The short ones do not pay for attention over rows of the long one's length."""
    passes = passes_of([1024] + [5] * 5_000)
    plan = plan_batches(passes, 2048)
    check(plan, passes, 1)
    assert len(shapes(plan)) <= 3
    assert padding_share(plan, passes) < 0.05
    assert plan[0].time == 1024
    assert all(batch.time <= 2 * GRAIN for batch in plan[1:])


def test_a_few_short_passes_fill_the_rows_of_long_ones() -> None:
    passes = passes_of([1000] * 30 + [20] * 30)
    plan = plan_batches(passes, 2048)
    check(plan, passes, 1)
    assert len(shapes(plan)) == 1
    assert padding_share(plan, passes) < 0.01


@pytest.mark.parametrize(("length", "reach"), [(100, 128), (127, None), (200, 256), (257, 384)])
def test_reach(length: int, reach: int | None) -> None:
    """Rows of several passes reach as far as the longest of them, in whole blocks."""
    plan = plan_batches(passes_of([length] * 20), 4096)
    assert {batch.reach for batch in plan} == {reach}


@pytest.mark.parametrize(
    ("length", "most"), [(2, 0), (127, 0.01), (128, 0), (129, 0.13), (200, 0.05), (256, 0), (1000, 0.03), (1024, 0)]
)
def test_equal_lengths(length: int, most: float) -> None:
    """Nothing shorter fills what a row leaves; just above a row length, rows of several are the way out."""
    passes = passes_of([length] * 512)
    plan = plan_batches(passes, 2048)
    check(plan, passes, 1)
    assert len(shapes(plan)) == 1
    assert padding_share(plan, passes) <= most


@pytest.mark.parametrize("length", [2, 100, 129, 1024])
@pytest.mark.parametrize("row_multiple", [1, 8])
def test_one_pass(length: int, row_multiple: int) -> None:
    (batch,) = plan_batches(passes_of([length]), 2048, row_multiple)
    assert batch.rows == row_multiple
    assert batch.time == -(-length // GRAIN) * GRAIN
    assert len(batch.pieces) == 1


def test_nothing_to_predict() -> None:
    passes = passes_of([0, 1, 1])
    assert plan_batches(passes, 2048) == []
    assert padding_share([], passes) == 0


def test_batches_hold_about_the_tokens_asked_for() -> None:
    passes = passes_of(document_lengths(1000, 0))
    for batch_tokens in (2048, 8192):
        for batch in plan_batches(passes, batch_tokens):
            assert batch_tokens / 2 <= batch.rows * batch.time <= batch_tokens

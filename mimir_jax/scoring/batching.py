"""From passes to device batches: a plan that depends on nothing but the passes' lengths.

Passes are packed into rows of one length, several to a row where they fit, so that nearly every computed position
is a real token and one compiled shape serves a whole data set. Passes much shorter than the rows get shorter rows
of their own: attention's cost grows with the row. Passes that go on from a prefix share rows with others of the same.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mimir_jax.arrays import AnyArray
from mimir_jax.scoring.passes import Pass

GRAIN = 128  # row lengths are multiples of it
GOOD_FILL = 0.953  # the shortest rows that reach this share of real tokens are taken: attention grows with rows
SHORT = 4  # passes so many times shorter than the longest get rows of their own where they are most of the work
LONGEST_ROW = 1280  # or twice the longest pass: longer rows gain little fill and cost attention


class Piece(NamedTuple):
    """A pass's place: its number in the list of passes, its row of the batch, its first position there."""

    number: int
    row: int
    offset: int


@dataclass(frozen=True)
class Batch:
    """Passes that are computed together in an array [rows, time]; `sources` positions of a row predict.

    `past` is the length of the prefixes that the passes go on from, and `prefixes` how many the batch has room for; 0
    where they do not go on from any.
    """

    rows: int
    time: int
    sources: int
    pieces: tuple[Piece, ...]
    past: int = 0
    prefixes: int = 0


class BatchArrays(NamedTuple):
    """What a batch's device computation reads.

    Attributes:
        tokens: ids, 0 on padding.
        positions: of each token in its own pass.
        segments: number of the pass in its row; padding has the number of passes.
        source_index: positions whose hidden states predict, in order, the targets; 0 beyond them.
        targets: the ids to predict; 0 beyond them.
        seen: of each token, how many first positions of its row's prefix its pass goes on from.
        prefix: of each row, the number of its prefix among the batch's (`batch_prefixes`).
    """

    tokens: Int[AnyArray, "row time"]
    positions: Int[AnyArray, "row time"]
    segments: Int[AnyArray, "row time"]
    source_index: Int[AnyArray, "row source"]
    targets: Int[AnyArray, "row source"]
    seen: Int[AnyArray, "row time"] | None = None
    prefix: Int[AnyArray, " row"] | None = None


def plan_batches(passes: Sequence[Pass], batch_tokens: int, row_multiple: int = 1) -> list[Batch]:
    """A plan that places every pass of at least two tokens exactly once.

    Args:
        passes: in any order; the plan refers to them by index.
        batch_tokens: positions of a batch, about; a batch has at least `row_multiple` rows.
        row_multiple: the batch's rows are a multiple of it (ways in which they are split over devices).
    """
    order = sorted((i for i, p in enumerate(passes) if p.sources), key=lambda i: (-len(passes[i]), i))
    batches: list[Batch] = []
    plain = [i for i in order if passes[i].prefix is None]
    while plain:
        lengths = [len(passes[i]) for i in plain]
        # Many short passes among a few long ones: the long ones first, the rest in shorter rows.
        short = [i for i in plain if SHORT * len(passes[i]) <= lengths[0]]
        total = sum(len(passes[i]) for i in short)
        if 2 * total < sum(lengths) or total < SHORT * batch_tokens:
            short = []
        taken, plain = plain[: len(plain) - len(short)], short
        batches += _plan_groups([taken], passes, batch_tokens, row_multiple)
    groups: dict[bytes, list[int]] = {}
    for i in order:
        if (prefix := passes[i].prefix) is not None:
            groups.setdefault(prefix.tobytes(), []).append(i)
    # Prefixes of like length together, within a factor of four: all of a plan's are filled up to the longest.
    sizes: dict[int, list[list[int]]] = {}
    for group in groups.values():
        sizes.setdefault((max(passes[i].seen for i in group) // GRAIN).bit_length() // 2, []).append(group)
    for size in sorted(sizes):
        batches += _plan_groups(sizes[size], passes, batch_tokens, row_multiple)
    return batches


def _plan_groups(
    groups: Sequence[Sequence[int]], passes: Sequence[Pass], batch_tokens: int, row_multiple: int
) -> list[Batch]:
    """Batches of rows of one length; passes of different groups share no row. Longest passes first in each group."""
    if not groups:
        return []
    lengths = [[len(passes[i]) for i in group] for group in groups]
    time, packed, count = _choose_rows(lengths, batch_tokens, row_multiple)
    rows = [[(group[j], offset) for j, offset in row] for group, rows in zip(groups, packed) for row in rows]
    return _cut(rows, passes, time, count)


def _choose_rows(
    groups: Sequence[Sequence[int]], batch_tokens: int, row_multiple: int
) -> tuple[int, list[list[list[tuple[int, int]]]], int]:
    """The row length, each group's packing at it and the rows of a batch, from the groups' lengths, descending."""
    shortest = -(-max(lengths[0] for lengths in groups) // GRAIN) * GRAIN
    total, best = sum(map(sum, groups)), None
    for time in range(shortest, max(LONGEST_ROW, 2 * shortest) + 1, GRAIN):
        packed = [pack_rows(lengths, time) for lengths in groups]
        rows = sum(map(len, packed))
        count = _rows_per_batch(rows, time, batch_tokens, row_multiple)
        fill = total / (-(-rows // count) * count * time)  # with the empty rows of the last batch
        if best is None or fill > best[0]:
            best = fill, time, packed, count
        if fill >= GOOD_FILL or rows == len(groups):
            break
    assert best is not None
    return best[1:]


def pack_rows(lengths: Sequence[int], time: int) -> list[list[tuple[int, int]]]:
    """Best fit, in the order given (scoring's is decreasing): rows of (index into lengths, offset)."""
    rows: list[list[tuple[int, int]]] = []
    free: list[tuple[int, int]] = []  # (positions left, row), ascending
    for index, length in enumerate(lengths):
        at = bisect.bisect_left(free, (length, -1))
        left, row = free.pop(at) if at < len(free) else (time, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append((index, time - left))
        if left > length + 1:  # one free position cannot hold a pass
            bisect.insort(free, (left - length, row))
    return rows


def _cut(rows: list[list[tuple[int, int]]], passes: Sequence[Pass], time: int, count: int) -> list[Batch]:
    """Batches of `count` rows from packed rows; the last may hold empty ones."""
    sources = max(sum(passes[i].sources for i, _ in row) for row in rows)
    sources = min(-(-sources // 64) * 64, time)
    past = max((passes[i].seen for row in rows for i, _ in row), default=0)
    past = -(-past // GRAIN) * GRAIN
    batches = []
    for start in range(0, len(rows), count):
        pieces = [Piece(i, r, offset) for r, row in enumerate(rows[start : start + count]) for i, offset in row]
        batches.append(Batch(count, time, sources, tuple(pieces), past))
    # Room for as many prefixes in every batch as the fullest has, so that all have one shape.
    most = max(len(batch_prefixes(batch, passes)) for batch in batches)
    return [replace(batch, prefixes=most) for batch in batches]


def _rows_per_batch(rows: int, time: int, batch_tokens: int, row_multiple: int) -> int:
    """About batch_tokens / time, less where that leaves fewer empty rows in the last batch."""
    most = min(max(batch_tokens // (time * row_multiple), 1), -(-rows // row_multiple))
    choices = range(max(most // 2, 1), most + 1)
    wasted = {n: -rows % (n * row_multiple) for n in choices}
    # Larger batches win unless they waste more than a fiftieth of all rows.
    best = min(choices, key=lambda n: (max(wasted[n] / rows, 0.02), -n))
    return best * row_multiple


def batch_arrays(batch: Batch, passes: Sequence[Pass]) -> BatchArrays:
    """The batch's arrays (see BatchArrays)."""
    grid, heads = (batch.rows, batch.time), (batch.rows, batch.sources)
    tokens, positions = np.zeros(grid, np.int32), np.zeros(grid, np.int32)
    segments = np.full(grid, batch.time, np.int32)
    source_index, targets = np.zeros(heads, np.int32), np.zeros(heads, np.int32)
    seen, prefix = np.zeros(grid, np.int32), np.zeros(batch.rows, np.int32)
    prefixes = {one.tobytes(): i for i, one in enumerate(batch_prefixes(batch, passes))}
    filled = np.zeros(batch.rows, np.int64)
    for number, row, offset in batch.pieces:
        one = passes[number]
        if one.prefix is not None:
            prefix[row] = prefixes[one.prefix.tobytes()]
        stop = offset + len(one)
        tokens[row, offset:stop] = one.ids
        positions[row, offset:stop] = one.seen + np.arange(len(one))
        seen[row, offset:stop] = one.seen
        segments[row, offset:stop] = offset  # unique in its row
        span = slice(filled[row], filled[row] + one.sources)
        source_index[row, span] = np.arange(stop - one.sources, stop) - 1
        targets[row, span] = one.ids[len(one) - one.sources :]
        filled[row] = span.stop
    arrays = BatchArrays(tokens, positions, segments, source_index, targets)
    return arrays._replace(seen=seen, prefix=prefix) if batch.past else arrays


def batch_prefixes(batch: Batch, passes: Sequence[Pass]) -> list[Int[np.ndarray, " past"]]:
    """The distinct prefixes that the batch's passes go on from, in the order of the rows."""
    prefixes = (passes[piece.number].prefix for piece in batch.pieces)
    return list({one.tobytes(): one for one in prefixes if one is not None}.values())


def prefix_tokens(batch: Batch, passes: Sequence[Pass]) -> Int[np.ndarray, "prefix past"]:
    """The batch's prefixes, cut or filled up to one length, and rows of 0 where it has room for more."""
    tokens = np.zeros((batch.prefixes, batch.past), np.int32)
    for row, prefix in zip(tokens, batch_prefixes(batch, passes)):
        row[: len(prefix)] = prefix[: batch.past]
    return tokens


def spans(batch: Batch, passes: Sequence[Pass]) -> list[tuple[int, int, slice]]:
    """(pass, row, its targets' places) of each piece, as `batch_arrays` lays them."""
    filled = np.zeros(batch.rows, np.int64)
    places = []
    for piece in batch.pieces:
        start = int(filled[piece.row])
        stop = start + passes[piece.number].sources
        filled[piece.row] = stop
        places.append((piece.number, piece.row, slice(start, stop)))
    return places


def padding_share(batches: Sequence[Batch], passes: Sequence[Pass]) -> float:
    """Share of computed positions that hold no token."""
    computed = sum(batch.rows * batch.time for batch in batches)
    real = sum(len(passes[piece.number]) for batch in batches for piece in batch.pieces)
    return 1 - real / computed if computed else 0.0

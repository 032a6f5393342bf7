"""From passes to device batches: a plan that depends on nothing but the passes' lengths and prefixes.

Passes are packed into rows of one length, several to a row where they fit, so that nearly every computed position
is a real token and one compiled shape serves a whole data set. Passes much shorter than the rows get shorter rows
of their own: attention's cost grows with the row.

Passes that go on from a prefix share it in one of two ways. A few that go on from a pass which is run anyway, as the
neighbors of a document do, stand behind it in its row: a tree. Many that go on from one prefix, as all documents do
from recall's shots, have batches of their own, for which the prefix is read once.
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
TREE = 8  # rows of a tree, at most: beyond, its trunk is not run again in each row
LONGEST_ROW = 1280  # or twice the longest pass: longer rows gain little fill and cost attention


class Piece(NamedTuple):
    """A pass's place.

    Attributes:
        number: in the list of passes.
        row: of the batch.
        offset: its first position there.
        trunk: first position of the pass that it goes on from; its own where it goes on from none of the row.
        copy: whether the pass is there for others only, and is wanted elsewhere.
    """

    number: int
    row: int
    offset: int
    trunk: int
    copy: bool = False


@dataclass(frozen=True)
class Batch:
    """Passes that are computed together in an array [rows, time]; `sources` positions of a row predict.

    `past` is the length of the prefix that all of them go on from, 0 where there is none; `tree` says that some go on
    from others. `reach` bounds how far back in its row a token looks, where that is less than the row.
    """

    rows: int
    time: int
    sources: int
    pieces: tuple[Piece, ...]
    past: int = 0
    tree: bool = False
    reach: int | None = None

    @property
    def wanted(self) -> list[Piece]:
        """The pieces whose statistics are taken from this batch."""
        return [piece for piece in self.pieces if not piece.copy]


class BatchArrays(NamedTuple):
    """What a batch's device computation reads.

    Attributes:
        tokens: ids, 0 on padding.
        positions: of each token in its own pass.
        segments: number of the pass in its row; padding has the number of passes.
        source_index: positions whose hidden states predict, in order, the targets; 0 beyond them.
        targets: the ids to predict; 0 beyond them.
        seen: of each token, how many first positions its pass goes on from; None where none goes on from any.
        trunks: of each token, the number of the pass in its row that its own goes on from; None without trees.
    """

    tokens: Int[AnyArray, "row time"]
    positions: Int[AnyArray, "row time"]
    segments: Int[AnyArray, "row time"]
    source_index: Int[AnyArray, "row source"]
    targets: Int[AnyArray, "row source"]
    seen: Int[AnyArray, "row time"] | None = None
    trunks: Int[AnyArray, "row time"] | None = None


def plan_batches(passes: Sequence[Pass], batch_tokens: int, row_multiple: int = 1) -> list[Batch]:
    """A plan that places every pass of at least two tokens exactly once.

    Args:
        passes: in any order; the plan refers to them by index.
        batch_tokens: positions of a batch, about; a batch has at least `row_multiple` rows.
        row_multiple: the batch's rows are a multiple of it (ways in which they are split over devices).
    """
    order = sorted((i for i, p in enumerate(passes) if p.sources), key=lambda i: (-len(passes[i]), i))
    trees, pasts, plain = _group(order, passes)
    batches: list[Batch] = []
    if trees:
        batches += _plan_trees(trees, plain, passes, batch_tokens, row_multiple)
        plain = []
    while plain:
        lengths = [len(passes[i]) for i in plain]
        # Many short passes among a few long ones: the long ones first, the rest in shorter rows.
        short = [i for i in plain if SHORT * len(passes[i]) <= lengths[0]]
        total = sum(len(passes[i]) for i in short)
        if 2 * total < sum(lengths) or total < SHORT * batch_tokens:
            short = []
        taken, plain = plain[: len(plain) - len(short)], short
        batches += _plan_rows(taken, passes, batch_tokens, row_multiple)
    for group in pasts:
        past = max(passes[i].seen for i in group)
        past = GRAIN << (-(-past // GRAIN) - 1).bit_length()  # few lengths, each a compiled shape
        planned = _plan_rows(group, passes, batch_tokens, row_multiple)
        batches += [replace(batch, past=past, sources=batch.time) for batch in planned]
    return batches


def _group(
    order: Sequence[int], passes: Sequence[Pass]
) -> tuple[list[tuple[int, list[int]]], list[list[int]], list[int]]:
    """Trees (a trunk and what goes on from it), groups of passes with one prefix, and all other passes."""
    groups: dict[bytes, list[int]] = {}
    plain = []
    for i in order:
        if (prefix := passes[i].prefix) is None:
            plain.append(i)
        else:
            groups.setdefault(prefix.tobytes(), []).append(i)
    trunks = {passes[i].ids.tobytes(): i for i in reversed(plain)} if groups else {}
    trees, pasts = [], []
    for prefix_bytes, group in groups.items():
        few = sum(len(passes[i]) for i in group) <= TREE * LONGEST_ROW
        if few and prefix_bytes in trunks:
            trees.append((trunks[prefix_bytes], group))
        else:
            pasts.append(group)
    return trees, pasts, plain


def _plan_rows(group: Sequence[int], passes: Sequence[Pass], batch_tokens: int, row_multiple: int) -> list[Batch]:
    """Batches of rows of one length, of passes in descending order of length."""
    time, rows, count = _choose_rows([len(passes[i]) for i in group], batch_tokens, row_multiple)
    batches = _cut([[Piece(group[j], 0, at, at) for j, at in row] for row in rows], passes, time, count)
    longest = -(-len(passes[group[0]]) // GRAIN) * GRAIN
    return [replace(batch, reach=longest) for batch in batches] if longest < time else batches


def _plan_trees(
    trees: Sequence[tuple[int, list[int]]],
    plain: Sequence[int],
    passes: Sequence[Pass],
    batch_tokens: int,
    row_multiple: int,
) -> list[Batch]:
    """Batches of rows of one length that hold trees; other passes fill them up.

    A tree that does not fit one row is cut into several, each with the trunk in front.
    """
    largest = max(len(passes[trunk]) + max(len(passes[i]) for i in group) for trunk, group in trees)
    time = -(-max(largest, LONGEST_ROW, len(passes[plain[0]])) // GRAIN) * GRAIN
    bundles: list[tuple[int, list[Piece]]] = []  # each with its length
    for trunk, group in trees:
        first = len(passes[trunk])
        for number, row in enumerate(pack_rows([len(passes[i]) for i in group], time - first)):
            pieces = [Piece(trunk, 0, 0, 0, copy=number > 0), *(Piece(group[j], 0, first + at, 0) for j, at in row)]
            bundles.append((pieces[-1].offset + len(passes[pieces[-1].number]), pieces))
    trunks = {trunk for trunk, _ in trees}
    bundles += [(len(passes[i]), [Piece(i, 0, 0, 0)]) for i in plain if i not in trunks]
    bundles.sort(key=lambda bundle: -bundle[0])
    rows = [
        [piece._replace(offset=at + piece.offset, trunk=at + piece.trunk) for j, at in row for piece in bundles[j][1]]
        for row in pack_rows([length for length, _ in bundles], time)
    ]
    # What goes on from nothing is its own trunk.
    rows = [[p if passes[p.number].prefix is not None else p._replace(trunk=p.offset) for p in row] for row in rows]
    batches = _cut(rows, passes, time, _rows_per_batch(len(rows), time, batch_tokens, row_multiple))
    return [replace(batch, tree=True) for batch in batches]


def _choose_rows(
    lengths: Sequence[int], batch_tokens: int, row_multiple: int
) -> tuple[int, list[list[tuple[int, int]]], int]:
    """The row length, the packing at it and the rows of a batch; `lengths` is in descending order."""
    shortest = -(-lengths[0] // GRAIN) * GRAIN
    total, best = sum(lengths), None
    for time in range(shortest, max(LONGEST_ROW, 2 * shortest) + 1, GRAIN):
        rows = pack_rows(lengths, time)
        count = _rows_per_batch(len(rows), time, batch_tokens, row_multiple)
        fill = total / (-(-len(rows) // count) * count * time)  # with the empty rows of the last batch
        if best is None or fill > best[0]:
            best = fill, time, rows, count
        if fill >= GOOD_FILL or len(rows) == 1:
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


def _cut(rows: list[list[Piece]], passes: Sequence[Pass], time: int, count: int) -> list[Batch]:
    """Batches of `count` rows from packed rows; the last may hold empty ones."""
    sources = max(sum(passes[piece.number].sources for piece in row if not piece.copy) for row in rows)
    sources = min(-(-sources // 64) * 64, time)
    batches = []
    for start in range(0, len(rows), count):
        some = enumerate(rows[start : start + count])
        pieces = tuple(piece._replace(row=r) for r, row in some for piece in row)
        batches.append(Batch(count, time, sources, pieces))
    return batches


def _rows_per_batch(rows: int, time: int, batch_tokens: int, row_multiple: int) -> int:
    """About batch_tokens / time, less where that leaves fewer empty rows in the last batch."""
    most = min(max(batch_tokens // (time * row_multiple), 1), -(-rows // row_multiple))
    choices = range(max(most // 2, 1), most + 1)
    wasted = {n: -rows % (n * row_multiple) for n in choices}
    # Larger batches win unless they waste more than a fiftieth of all rows.
    best = min(choices, key=lambda n: (max(wasted[n] / rows, 0.02), -n))
    return best * row_multiple


def batch_arrays(batch: Batch, passes: Sequence[Pass], own: slice = slice(None)) -> BatchArrays:
    """The batch's arrays (see BatchArrays); of its rows only `own` ones are filled, where others are for others."""
    grid, heads = (batch.rows, batch.time), (batch.rows, batch.sources)
    tokens, positions = np.zeros(grid, np.int32), np.zeros(grid, np.int32)
    segments = np.full(grid, batch.time, np.int32)
    source_index, targets = np.zeros(heads, np.int32), np.zeros(heads, np.int32)
    seen, trunks = np.zeros(grid, np.int32), np.full(grid, batch.time, np.int32)
    filled = np.zeros(batch.rows, np.int64)
    mine = range(batch.rows)[own]
    for piece in batch.pieces:
        if piece.row not in mine:
            continue
        one, row = passes[piece.number], piece.row
        stop = piece.offset + len(one)
        place = slice(piece.offset, stop)
        tokens[row, place] = one.ids
        positions[row, place] = one.seen + np.arange(len(one))
        seen[row, place] = one.seen
        segments[row, place] = piece.offset  # unique in its row
        trunks[row, place] = piece.trunk
        if not piece.copy:
            span = slice(filled[row], filled[row] + one.sources)
            source_index[row, span] = np.arange(stop - one.sources, stop) - 1
            targets[row, span] = one.ids[len(one) - one.sources :]
            filled[row] = span.stop
    arrays = BatchArrays(tokens, positions, segments, source_index, targets)
    if batch.past:
        return arrays._replace(seen=seen)
    return arrays._replace(seen=seen, trunks=trunks) if batch.tree else arrays


def prefix_tokens(batch: Batch, passes: Sequence[Pass]) -> Int[np.ndarray, "1 past"]:
    """The prefix that the batch's passes go on from, cut or filled up to its length."""
    prefix = passes[batch.pieces[0].number].prefix
    assert prefix is not None
    tokens = np.zeros((1, batch.past), np.int32)
    tokens[0, : len(prefix)] = prefix[: batch.past]
    return tokens


def spans(batch: Batch, passes: Sequence[Pass]) -> list[tuple[int, int, slice]]:
    """(pass, row, its targets' places) of each piece, as `batch_arrays` lays them."""
    filled = np.zeros(batch.rows, np.int64)
    places = []
    for piece in batch.wanted:
        start = int(filled[piece.row])
        stop = start + passes[piece.number].sources
        filled[piece.row] = stop
        places.append((piece.number, piece.row, slice(start, stop)))
    return places


def padding_share(batches: Sequence[Batch], passes: Sequence[Pass]) -> float:
    """Share of computed positions that hold no token."""
    computed = sum(batch.rows * batch.time for batch in batches)
    real = sum(len(passes[piece.number]) for batch in batches for piece in batch.wanted)
    return 1 - real / computed if computed else 0.0

"""How close neighbors are to their documents."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int


class Closeness(NamedTuple):
    """How far neighbors are from their documents, of each neighbor.

    Attributes:
        tokens: token edits (insertions, deletions, replacements) that part them.
        share: of the longer one's tokens.
        change: LL(neighbor) - LL(document) under a third model, in nats per token; None where none was asked.
        unchanged: whether it is the document.
        repeated: whether an earlier neighbor of the document is the same.
    """

    tokens: Int[np.ndarray, " neighbor"]
    share: Float32[np.ndarray, " neighbor"]
    change: Float32[np.ndarray, " neighbor"] | None
    unchanged: Bool[np.ndarray, " neighbor"]
    repeated: Bool[np.ndarray, " neighbor"]


def closeness(
    documents: Sequence[str],
    neighbors: Sequence[Sequence[str]],
    tokenize: Callable[[str], Sequence[Hashable]],
    log_likelihoods: Callable[[Sequence[str]], Sequence[float]] | None = None,
) -> Closeness:
    """Compare neighbors with their documents.

    Args:
        documents: texts.
        neighbors: of each.
        tokenize: a text as the tokens, or words, that edits are counted in.
        log_likelihoods: of texts under the third model; None does without.
    """
    pairs = [(i, text) for i, some in enumerate(neighbors) for text in some]
    own = [tokenize(text) for text in documents]
    theirs = [tokenize(text) for _, text in pairs]
    tokens = np.array([edits(own[i], ids) for (i, _), ids in zip(pairs, theirs)], np.int64)
    longest = np.array([max(len(own[i]), len(ids), 1) for (i, _), ids in zip(pairs, theirs)])
    change = None
    if log_likelihoods is not None:
        found = np.asarray(log_likelihoods([*documents, *(text for _, text in pairs)]), np.float32)
        change = found[len(documents) :] - found[[i for i, _ in pairs]]
    return Closeness(
        tokens,
        (tokens / longest).astype(np.float32),
        change,
        np.array([text == documents[i] for i, text in pairs], bool),
        np.array([text in some[:place] for some in neighbors for place, text in enumerate(some)], bool),
    )


def edits(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and replacements that make one sequence the other (Levenshtein 1966)."""
    numbers = {token: number for number, token in enumerate({*one, *other})}
    a, b = (np.array([numbers[token] for token in some], np.int64) for some in (one, other))
    alike = a[: min(len(a), len(b))] == b[: len(a)]
    start = int(np.argmin(alike)) if not alike.all() else len(alike)
    a, b = a[start:], b[start:]
    alike = a[::-1][: min(len(a), len(b))] == b[::-1][: len(a)]
    end = int(np.argmin(alike)) if not alike.all() else len(alike)
    a, b = a[: len(a) - end], b[: len(b) - end]
    columns = np.arange(len(b) + 1)
    row = columns
    for number, token in enumerate(a, start=1):
        # Deletions and replacements; then insertions, which run along the row.
        row = np.minimum(row + 1, np.concatenate([[number], row[:-1] + (b != token)]))
        row = np.minimum.accumulate(row - columns) + columns
    return int(row[-1])

"""The n-grams of a corpus, exactly or in a Bloom filter, and how much of a text is among them."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from operator import index as as_is
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt64

from mimir_jax.data.ngrams import batches, hashes_of_texts, ngram_hashes
from mimir_jax.data.readers import DataError

FIRST_POSITIONS = 200
"""N-grams of a document that its overlap is the mean of, from the first on, as in MIMIR."""
PROBES = 100_000
"""Random numbers, none of them an n-gram's, by which a filter's false-positive rate is measured."""

Hashes = UInt64[np.ndarray, " position"]


@runtime_checkable
class Index(Protocol):
    """The n-grams of a corpus."""

    n: int

    def add(self, hashes: Hashes) -> None:
        """Those of one text."""

    def contains(self, hashes: Hashes) -> Bool[np.ndarray, " position"]:
        """Whether each occurs in the corpus."""


class ExactIndex:
    """All n-grams by their 64-bit hashes, and in how many texts each is: sixteen bytes an n-gram.

    Two n-grams collide with probability 2^-64: among a thousand million, a query is answered wrongly with
    probability 5e-11.

    Args:
        n: words in an n-gram.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._hashes = np.empty(0, np.uint64)
        self._texts = np.empty(0, np.int64)
        self._pending: list[np.ndarray] = []
        self._size = 0

    def add(self, hashes: Hashes) -> None:
        self._pending.append(np.unique(hashes))
        self._size += len(self._pending[-1])
        if self._size > max(1 << 20, len(self._hashes)):
            self._merge()

    def _merge(self) -> None:
        if not self._pending:
            return
        new, counts = np.unique(np.concatenate(self._pending), return_counts=True)
        both = np.concatenate([self._hashes, new])
        self._hashes, inverse = np.unique(both, return_inverse=True)
        totals = np.bincount(inverse, weights=np.concatenate([self._texts, counts]))
        self._texts, self._pending, self._size = totals.astype(np.int64), [], 0

    def texts_with(self, hashes: Hashes) -> np.ndarray:
        """In how many texts each n-gram occurs."""
        self._merge()
        if not len(self._hashes):
            return np.zeros(len(hashes), np.int64)
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[at] == hashes, self._texts[at], 0)

    def contains(self, hashes: Hashes) -> Bool[np.ndarray, " position"]:
        return np.asarray(self.texts_with(hashes) > 0)

    def __len__(self) -> int:
        self._merge()
        return len(self._hashes)


class BloomIndex:
    """A Bloom filter of n-grams: one and a quarter bytes an n-gram at a false-positive rate of 1%.

    Bloom, "Space/time trade-offs in hash coding with allowable errors", Communications of the ACM 13 (1970).

    Args:
        n: words in an n-gram.
        expected: different n-grams that it is sized for.
        false_positive_rate: with so many.
    """

    def __init__(self, n: int, expected: int, false_positive_rate: float = 1e-3) -> None:
        from rbloom import Bloom

        if expected < 1 or not 0 < false_positive_rate < 1:
            raise DataError(
                f"a filter of {expected} n-grams with false-positive rate {false_positive_rate}: impossible"
            )
        self.n = n
        self.expected = expected
        self.false_positive_rate = false_positive_rate
        self._filter: Any = Bloom(expected, false_positive_rate, as_is)

    def add(self, hashes: Hashes) -> None:
        self._filter.update(hashes.tolist())

    def contains(self, hashes: Hashes) -> Bool[np.ndarray, " position"]:
        return np.fromiter((one in self._filter for one in hashes.tolist()), bool, len(hashes))

    def measured_false_positive_rate(self, seed: int = 0) -> float:
        """As it is now: the share of random numbers that it claims to hold."""
        return float(self.contains(np.random.default_rng(seed).integers(0, 2**64, PROBES, np.uint64)).mean())

    def save(self, path: str | Path) -> None:
        """Write it, for `load`."""
        self._filter.save(str(path))

    @classmethod
    def load(cls, path: str | Path, n: int, expected: int, false_positive_rate: float) -> "BloomIndex":
        """What `save` wrote; the settings are those that it was made with.

        Raises:
            DataError: no such file, or none that holds a filter.
        """
        from rbloom import Bloom

        index = cls(n, 1, 0.5)
        try:
            index._filter = Bloom.load(str(path), as_is)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no Bloom filter that can be read: {error}") from error
        index.expected, index.false_positive_rate = expected, false_positive_rate
        return index


def fill(index: Index, corpus: Iterable[str], processes: int = 1) -> int:
    """Add the n-grams of a corpus, of which only a few megabytes are held at a time.

    Args:
        index: to add to.
        corpus: texts.
        processes: that split texts and hash; with 1, this one does.

    Returns:
        Texts read.
    """
    texts = 0
    for hashes in _hashed(corpus, index.n, processes):
        texts += len(hashes)
        for one in hashes:
            index.add(one)
    return texts


def _hashed(corpus: Iterable[str], n: int, processes: int) -> Iterator[list[np.ndarray]]:
    if processes == 1:
        for batch in batches(corpus):
            yield hashes_of_texts(batch, n)
        return
    # spawn: a fork of a process in which jax's threads run may hang.
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        waiting: deque[Future[list[np.ndarray]]] = deque()
        for batch in batches(corpus):
            waiting.append(pool.submit(hashes_of_texts, batch, n))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def inclusion(index: Index, text: str, own: bool = False) -> Bool[np.ndarray, " position"]:
    """For each n-gram of a text, whether it is in the corpus.

    Args:
        index: of the corpus.
        text: the document.
        own: the document is in the corpus itself: whether the n-gram is in another text of it, too.

    Raises:
        DataError: `own`, of an index that does not count texts.
    """
    hashes = ngram_hashes(text, index.n)
    if not own:
        return index.contains(hashes)
    if not isinstance(index, ExactIndex):
        raise DataError("the overlap of the corpus's own documents needs an ExactIndex, which counts texts")
    return np.asarray(index.texts_with(hashes) > 1)


def overlap(included: Sequence[bool] | Bool[np.ndarray, " position"], positions: int = FIRST_POSITIONS) -> float:
    """Share of the first n-grams that are included; NaN where there are none, as in a text of fewer than n words."""
    first = np.asarray(included, bool)[:positions]
    return float(first.mean()) if len(first) else float("nan")


def overlaps(
    index: Index, texts: Iterable[str], positions: int = FIRST_POSITIONS, own: bool = False
) -> Float[np.ndarray, " doc"]:
    """`overlap` of each text; see `inclusion`."""
    return np.array([overlap(inclusion(index, text, own), positions) for text in texts], float)


def member_overlaps(
    texts: Sequence[str], is_member: Bool[np.ndarray, " doc"], n: int = 7, positions: int = FIRST_POSITIONS
) -> Float[np.ndarray, " doc"]:
    """`overlap` of each text with the members: of a member with the other members."""
    hashes = [ngram_hashes(text, n) for text in texts]
    index = ExactIndex(n)
    for one, member in zip(hashes, is_member.tolist()):
        if member:
            index.add(one)
    return np.array(
        [overlap(index.texts_with(one) > int(member), positions) for one, member in zip(hashes, is_member.tolist())],
        float,
    )


def within(values: Float[np.ndarray, " doc"], low: float, high: float) -> Bool[np.ndarray, " doc"]:
    """MIMIR's filter of non-members: those with low <= overlap < high; a document without n-grams is out.

    Its published splits are ngram_7_0.2 (7 words, below .2), ngram_13_0.2 and ngram_13_0.8.
    """
    return np.asarray((values >= low) & (values < high))

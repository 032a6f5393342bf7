"""How much of each document occurs in a corpus: n-gram overlap, and what membership scores owe to it.

A non-member most of whose n-grams are in the training data is hardly one, and a score that separates members from
non-members only where those are filtered by overlap measures the filter. Duan et al. 2024, arXiv:2402.07841,
sections 4 and 5.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from operator import index as as_is
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt64

from mimir_jax.data.ngrams import batches, hashes_of_texts, ngram_hashes
from mimir_jax.data.readers import DataError
from mimir_jax.metrics.delong import placements
from mimir_jax.metrics.evaluation import Metrics, evaluate
from mimir_jax.metrics.intervals import Estimate, auc_interval
from mimir_jax.metrics.roc import MetricsError

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
    """All n-grams by their 64-bit hashes, and in how many texts each is: eight to sixteen bytes an n-gram.

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


def within(values: Float[np.ndarray, " doc"], low: float, high: float) -> Bool[np.ndarray, " doc"]:
    """MIMIR's filter of non-members: those with low <= overlap < high; a document without n-grams is out.

    Its published splits are ngram_7_0.2 (7 words, below .2), ngram_13_0.2 and ngram_13_0.8.
    """
    return np.asarray((values >= low) & (values < high))


@dataclass(frozen=True)
class Slice:
    """The AUC of all members against the non-members of a range of overlap.

    Attributes:
        low: least overlap.
        high: largest overlap; the last range includes it.
        n_nonmembers: in the range, with a score.
        auc_roc: None where the range has none.
    """

    low: float
    high: float
    n_nonmembers: int
    auc_roc: Estimate | None


def auc_by_overlap(
    scores: Float[np.ndarray, " doc"],
    is_member: Bool[np.ndarray, " doc"],
    values: Float[np.ndarray, " doc"],
    quantiles: int = 4,
    confidence: float = 0.95,
) -> list[Slice]:
    """The AUC by quantile of the non-members' overlap: does the score separate, or does the overlap?

    Args:
        scores: NaN for none.
        is_member: labels.
        values: overlaps; only the non-members' matter.
        quantiles: ranges.
        confidence: of the intervals.

    Raises:
        MetricsError: no member with a score, or no non-member with a score and an overlap.
    """
    scored = ~np.isnan(scores)
    members = scores[is_member & scored].astype(float)
    others = ~is_member & scored & ~np.isnan(values)
    if not len(members) or not others.any():
        raise MetricsError("AUC by overlap needs scored members, and scored non-members with an overlap")
    edges = np.quantile(values[others], np.linspace(0, 1, quantiles + 1))
    slices = []
    for i, (low, high) in enumerate(zip(edges.tolist(), edges[1:].tolist())):
        last = i == quantiles - 1
        rows = others & (values >= low) & ((values <= high) if last else (values < high))
        found = auc_interval(placements(members, scores[rows].astype(float)), confidence) if rows.any() else None
        slices.append(Slice(low, high, int(rows.sum()), found))
    return slices


def evaluate_below(
    scores: Float[np.ndarray, " doc"],
    is_member: Bool[np.ndarray, " doc"],
    values: Float[np.ndarray, " doc"],
    thresholds: Sequence[float],
    **settings: Any,
) -> dict[float, Metrics | None]:
    """Metrics of all members against the non-members below each overlap; None where no scored one is.

    Args:
        scores: NaN for none.
        is_member: labels.
        values: overlaps.
        thresholds: such as .2 and .8.
        settings: of `evaluate`.
    """
    found: dict[float, Metrics | None] = {}
    for threshold in thresholds:
        rows = is_member | within(values, 0.0, threshold)
        possible = (rows & ~is_member & ~np.isnan(scores)).any()
        found[threshold] = evaluate(scores[rows], is_member[rows], **settings) if possible else None
    return found


@dataclass(frozen=True)
class Association:
    """Spearman's correlation of a score with the overlap, of members or of non-members.

    Attributes:
        correlation: of ranks; None where one of both does not vary.
        p_value: two-sided; None likewise.
        n_documents: with both.
    """

    correlation: float | None
    p_value: float | None
    n_documents: int


def association(scores: Float[np.ndarray, " doc"], values: Float[np.ndarray, " doc"]) -> Association:
    """How a score of documents of one side goes with their overlap."""
    from scipy.stats import spearmanr

    both = ~(np.isnan(scores) | np.isnan(values))
    if both.sum() < 3 or np.ptp(scores[both]) == 0 or np.ptp(values[both]) == 0:
        return Association(None, None, int(both.sum()))
    found = spearmanr(scores[both], values[both])
    return Association(float(found.statistic), float(found.pvalue), int(both.sum()))

"""Runs of n words as 64-bit numbers."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import regex
from jaxtyping import UInt64

_BOUNDARY = regex.compile(r"(?V1w)\b")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def words(text: str) -> list[str]:
    """What Unicode's word boundaries (UAX 29) part, punctuation included, white space left out.

    The words of Dolma's and MIMIR's n-gram filters (Soldaini et al. 2024, arXiv:2402.00159; Duan et al. 2024,
    arXiv:2402.07841), case and all.
    """
    return [word for word in _BOUNDARY.split(text) if word and not word.isspace()]


@lru_cache(1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def ngram_hashes(text: str, n: int) -> UInt64[np.ndarray, " position"]:
    """A hash of the n words from each position on; empty where the text has fewer than n.

    Equal n-grams have equal hashes, in every process; two different ones collide with probability 2^-64.

    Args:
        text: is split by `words`.
        n: at least 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; an n-gram has at least one word")
    hashes = np.array([_word_hash(word) for word in words(text)], np.uint64)
    count = max(len(hashes) - n + 1, 0)
    found = np.full(count, n, np.uint64)
    for j in range(n):
        found = (found ^ hashes[j : j + count]) * _MULTIPLIER
        found ^= found >> np.uint64(29)
    for factor in _MIX:
        found = (found ^ (found >> np.uint64(30))) * factor
    return found ^ (found >> np.uint64(31))


def hashes_of_texts(texts: Sequence[str], n: int) -> list[UInt64[np.ndarray, " position"]]:
    """`ngram_hashes` of each text; a function of its own so that other processes can be given it."""
    return [ngram_hashes(text, n) for text in texts]


def batches(texts: Iterable[str], characters: int = 1 << 22) -> Iterator[list[str]]:
    """Texts in lists of about so many characters, a share of the work each."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

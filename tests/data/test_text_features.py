"""Features of texts."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.data.text_features import rouge1_recall, zlib_bytes


def test_zlib_bytes():
    texts = ["", "a", "a" * 1000, "é漢🦊"]
    sizes = zlib_bytes(texts)
    assert sizes.dtype == np.int32
    np.testing.assert_array_equal(sizes, [len(zlib.compress(text.encode(), 6)) for text in texts])
    assert sizes[2] < 30


def test_zlib_bytes_of_no_texts():
    assert zlib_bytes([]).shape == (0,)


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("", "the cat", 0.0),
        ("dog", "the cat", 0.0),
        ("the the the", "the cat the end", 0.5),  # no more often than the candidate or the reference has it
        ("the", "the cat the end", 0.25),
        ("a long one with the cat in it", "the cat", 1.0),  # recall: what else is said costs nothing
        ("The cat.", "the cat", 0.0),
        ("cat\n the", " the\tcat ", 1.0),
    ],
)
def test_rouge1_recall(candidate, reference, expected):
    assert rouge1_recall(candidate, reference) == expected


def test_rouge1_recall_of_nothing():
    assert math.isnan(rouge1_recall("the cat", " \n"))


WORDS = st.lists(st.sampled_from("abcd"), max_size=8)


@given(WORDS, WORDS.filter(bool))
def test_rouge1_recall_takes_each_word_of_the_candidate_once(candidate, reference):
    left, found = list(candidate), 0
    for word in reference:
        if word in left:
            left.remove(word)
            found += 1
    assert rouge1_recall(" ".join(candidate), " ".join(reference)) == found / len(reference)

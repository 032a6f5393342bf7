"""Versions of a text."""

import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.data.edits import lowercase, word_swaps

TEXT = "To be, or not to be:\n\n\tthat is  the question "


def test_lowercase():
    assert lowercase("ÉTÉ, Hamlet!\n") == "été, hamlet!\n"


@given(st.text(alphabet="ab ,\n\t\u2003é", max_size=40), st.integers(1, 6), st.sampled_from([0.05, 0.3, 1.0]))
def test_swaps_keep_the_words_and_the_white_space(text, n, share):
    versions = word_swaps(text, n, share)
    assert len(versions) == (n if len(text.split()) >= 2 else 0)
    for version in versions:
        assert Counter(version.split()) == Counter(text.split())
        assert re.findall(r"\s+", version) == re.findall(r"\s+", text)


@pytest.mark.parametrize("text", ["", " \n", "word", "  word\n"])
def test_nothing_to_swap(text):
    assert word_swaps(text) == []


def test_two_words():
    assert word_swaps("left right", 3) == ["right left"] * 3
    # Four swaps of two words undo each other.
    assert word_swaps("left right", 2, share=2.0) == ["left right"] * 2


@pytest.mark.parametrize(("share", "swaps"), [(0.01, 1), (0.05, 2), (0.3, 15)])
def test_the_share_is_the_number_of_swaps(share, swaps):
    words = [f"w{i}" for i in range(50)]
    moved = [sum(a != b for a, b in zip(words, version.split())) for version in word_swaps(" ".join(words), 40, share)]
    # A swap moves two words at most, and less only where it meets another.
    assert max(moved) <= 2 * swaps
    assert np.mean(moved) > 1.4 * swaps
    assert min(moved) >= (2 if swaps == 1 else 0)


def test_every_pair_is_as_likely():
    counts = Counter(word_swaps("a b c", 3000, share=0.1))
    assert set(counts) == {"b a c", "c b a", "a c b"}
    assert all(900 < count < 1100 for count in counts.values())


def test_the_choice_depends_on_text_and_seed_only():
    assert word_swaps(TEXT, 5)[:3] == word_swaps(TEXT, 3)
    assert len(set(word_swaps(TEXT, 5))) > 1
    assert word_swaps(TEXT, 5, seed=1) != word_swaps(TEXT, 5)
    positions = [f"{i}" for i in range(30)]
    versions = [word_swaps(" ".join(letter + i for i in positions), 1)[0] for letter in "xy"]
    assert [w[1:] for w in versions[0].split()] != [w[1:] for w in versions[1].split()]
    code = f"from mimir_jax.data.edits import word_swaps; print(repr(word_swaps({TEXT!r})))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert other.stdout.strip() == repr(word_swaps(TEXT))

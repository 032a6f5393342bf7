"""Other versions of a text, which a model scores beside the text itself."""

import hashlib
import re

import numpy as np


def lowercase(text: str) -> str:
    """Without capitals, as attack `lowercase` compares it with the original.

    Carlini et al., Extracting Training Data from Large Language Models, 2021, arXiv:2012.07805.
    """
    return text.lower()


def word_swaps(text: str, n: int = 5, share: float = 0.3, seed: int = 0) -> list[str]:
    """Versions with words in each other's places, as attack `pac` compares them with the original.

    A version is the text after max(1, int(share * words)) swaps, each of two different random positions. Words
    are what white space separates; the white space stays as it is. The choice depends on nothing but the text
    and the seed, and the first versions are the same whatever `n`.

    Args:
        text: the original.
        n: versions.
        share: swaps for each word.
        seed: of the random choice, at least 0.

    Returns:
        `n` texts, of which some may be alike; none where the text has fewer than two words.

    Ye et al., Data Contamination Calibration for Black-box LLMs, 2024, arXiv:2405.11930.
    """
    # Words at the odd places, as the pattern is a group.
    pieces = re.split(r"(\S+)", text)
    words = pieces[1::2]
    if len(words) < 2:
        return []
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])
    swaps = max(1, int(share * len(words)))
    versions = []
    for _ in range(n):
        swapped = list(words)
        first = rng.integers(0, len(words), swaps)
        # Any but the first: each of the others is equally likely.
        second = (first + rng.integers(1, len(words), swaps)) % len(words)
        for i, j in zip(first.tolist(), second.tolist()):
            swapped[i], swapped[j] = swapped[j], swapped[i]
        versions.append("".join(piece for pair in zip(pieces[::2], [*swapped, ""]) for piece in pair))
    return versions

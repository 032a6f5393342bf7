"""Numbers that a text has without any model."""

import math
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32


def zlib_bytes(texts: Sequence[str]) -> Int32[np.ndarray, "doc"]:
    """Size of each text's UTF-8 bytes after zlib compression, level 6: its entropy as attack `zlib` has it.

    Carlini et al., Extracting Training Data from Large Language Models, 2021, arXiv:2012.07805.

    >>> zlib_bytes(["to be or not to be", "to be " * 100]).tolist()
    [23, 20]
    """
    return np.array([len(zlib.compress(text.encode("utf-8"), level=6)) for text in texts], np.int32)


def rouge1_recall(candidate: str, reference: str) -> float:
    """Share of the reference's words that the candidate has too, as attack `samia` has it.

        sum_w min(count of w in candidate, count of w in reference) / words in reference

    Words are what white space separates, neither lower-cased nor stemmed, as in the attack's code. NaN where
    the reference has no word.

    Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004; Kaneko et al., Sampling-based
    Pseudo-Likelihood for Membership Inference Attacks, 2024, arXiv:2404.11262.
    """
    words = Counter(reference.split())
    return (words & Counter(candidate.split())).total() / words.total() if words else math.nan

"""Numbers that a text has without any model."""

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32


def zlib_bytes(texts: Sequence[str]) -> Int32[np.ndarray, "doc"]:
    """Size of each text's UTF-8 bytes after zlib compression, level 6: its entropy as attack `zlib` has it.

    Carlini et al., Extracting Training Data from Large Language Models, 2021, arXiv:2012.07805.
    """
    return np.array([len(zlib.compress(text.encode("utf-8"), level=6)) for text in texts], np.int32)

import zlib

import numpy as np

from mimir_jax.data.edits import lowercase
from mimir_jax.data.text_features import zlib_bytes


def test_zlib_bytes():
    texts = ["", "a", "a" * 1000, "é漢🦊"]
    sizes = zlib_bytes(texts)
    assert sizes.dtype == np.int32
    np.testing.assert_array_equal(sizes, [len(zlib.compress(text.encode(), 6)) for text in texts])
    assert sizes[2] < 30


def test_zlib_bytes_of_no_texts():
    assert zlib_bytes([]).shape == (0,)


def test_lowercase():
    assert lowercase("ÉTÉ, Hamlet!\n") == "été, hamlet!\n"

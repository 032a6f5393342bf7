"""One of several processes that share work: what each finds, and how errors of one reach all, as JSON.

python sharing.py COORDINATOR COUNT INDEX
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
from transformers import PreTrainedTokenizerFast

from mimir_jax.config import HostsConfig
from mimir_jax.parallel import hosts
from mimir_jax.scoring import tokens
from mimir_jax.testing import END_OF_TEXT, tiny_tokenizer

TEXTS = ["the quick brown fox " * (i % 5) + "and" * (i % 3) for i in range(11)]
IDS = [f"document {i}" for i in range(len(TEXTS))]
BAD = "a lone \ud800 surrogate"  # that no tokenizer takes


def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def texts_with(number: int) -> list[str]:
    return [BAD if i == number else text for i, text in enumerate(TEXTS)]


def said(work: Callable[[], object]) -> str:
    """The error of some work, which all processes do."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def outside(index: int) -> None:
    """Process 1 fails before it comes to what the others are at."""
    with hosts.together("prepare"):
        if index == 1:
            raise ValueError("no such file")
        tokens.tokenize_together(tokenizer(), TEXTS, IDS, 10**6)


def inside(number: int) -> None:
    with hosts.together("prepare"):
        tokens.tokenize_together(tokenizer(), texts_with(number), IDS, 10**6)


def main() -> None:
    coordinator, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    hosts.connect(HostsConfig(coordinator, count, index, 30.0))
    encode, encoded = tokens._encode, list[str]()

    def counted(tokenizer: Any, texts: Any, special: bool) -> list[list[int]]:
        encoded.extend(texts)
        return encode(tokenizer, texts, special)

    tokens._encode = counted
    shared = tokens.tokenize_together(tokenizer(), TEXTS, IDS, 10**6)
    print(
        json.dumps(
            {
                "processes": jax.process_count(),
                "tokens": shared,
                "encoded": [text for text in encoded if text not in tokens.PROBES],
                "one text": tokens.tokenize_together(tokenizer(), TEXTS[:1], IDS[:1], 10**6),
                "none": tokens.tokenize_together(tokenizer(), [], [], 10**6),
                "bytes": [len(one) for one in hosts.exchange(b"x" * 5 * index)],
                "long": [one == bytes([i]) * (3 + i) for i, one in enumerate(long(index))],
                "vocab": said(lambda: tokens.tokenize_together(tokenizer(), TEXTS, IDS, 1)),
                "bad in 0": said(lambda: inside(2)),
                "bad in 1": said(lambda: inside(3)),
                "outside": said(lambda: outside(index)),
                "still": said(lambda: hosts.check_equal("all", "00")),
            }
        )
    )
    hosts.leave(0)


def long(index: int) -> list[bytes]:
    """What is sent in several pieces."""
    chunk, hosts.CHUNK = hosts.CHUNK, 4
    found = hosts.exchange(bytes([index]) * (3 + index))
    hosts.CHUNK = chunk
    return found


if __name__ == "__main__":
    main()

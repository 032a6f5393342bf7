"""A pass: token ids that a model reads at once, and the span of them whose statistics are wanted."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mimir_jax.arrays import TokenStats

STATS_VERSION = 1  # of what TokenStats means; part of every pass's key


@dataclass(frozen=True, eq=False)
class Pass:
    """Token ids and where the wanted statistics start.

    Attributes:
        ids: int32 [length], everything that the model reads: a BOS or earlier text, then the span to score.
        start: statistics of ids[start:] are kept; position 0 never has a prediction.
    """

    ids: Int[np.ndarray, " length"]
    start: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sources(self) -> int:
        """How many positions predict a wanted token."""
        return max(len(self.ids) - max(self.start, 1), 0)


def pass_key(one: Pass, checkpoint: str, dtype: str) -> str:
    """What a pass's statistics are stored under: equal content, equal key, whatever batch or run it is in.

    Args:
        one: the pass.
        checkpoint: hash of the model's files.
        dtype: of its weights and products.
    """
    digest = hashlib.blake2b(f"{STATS_VERSION}|{checkpoint}|{dtype}|{one.start}|".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(one.ids, np.int32).tobytes())
    return digest.hexdigest()


def document_passes(context_ids: list[int], text_ids: list[int], context: int) -> list[Pass]:
    """The passes whose spans, joined, are the document's text: one, or windows where it exceeds the context.

    Windows are as long as the model's context and start half of it apart, so that every token is scored once,
    with the most context that the windows give it.

    Args:
        context_ids: what precedes the text for the model, such as a BOS; read, never scored.
        text_ids: the document's tokens.
        context: the most tokens that the model reads at once.
    """
    ids = np.array([*context_ids, *text_ids], np.int32)
    first = len(context_ids)
    if len(ids) <= context:
        return [Pass(ids, first)]
    if context < 2 or first >= context:
        raise ValueError(f"a context of {context} tokens has no room for text after {first} others")
    stride = context // 2
    passes = [Pass(ids[:context], first)]
    scored = context
    while scored < len(ids):
        begin = scored - (context - stride)
        end = min(begin + context, len(ids))
        passes.append(Pass(ids[begin:end], scored - begin))
        scored = end
    return passes


def join(spans: list[TokenStats]) -> TokenStats:
    """One document's statistics [time] from those of its passes."""
    return spans[0] if len(spans) == 1 else TokenStats(*(np.concatenate(parts, axis=-1) for parts in zip(*spans)))

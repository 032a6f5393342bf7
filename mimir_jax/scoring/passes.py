"""A pass: token ids that a model reads at once, and the span of them whose statistics are wanted."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mimir_jax.arrays import TokenStats

WORTH = 0.25  # share of a variant's tokens that must come before the first difference for it to be shared
STATS_VERSION = 1  # of what TokenStats means; part of every pass's key


@dataclass(frozen=True, eq=False)
class Pass:
    """Token ids, where the wanted statistics start, and what the ids go on from.

    Attributes:
        ids: int32 [length], what the model reads: a BOS or earlier text, then the span to score.
        start: statistics of ids[start:] are kept; position 0 never has a prediction.
        prefix: int32 [past], ids that are read once for all passes that share them; the ids follow prefix[:seen].
        seen: how many first ids of the prefix the pass goes on from. Position 0 has no prediction even so: where it
            is wanted, the prefix's last id moves to the pass.
    """

    ids: Int[np.ndarray, " length"]
    start: int = 0
    prefix: Int[np.ndarray, " past"] | None = None
    seen: int = 0

    def __post_init__(self) -> None:
        if self.prefix is not None:
            assert 0 < self.seen <= len(self.prefix)
            assert self.start > 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sources(self) -> int:
        """How many positions predict a wanted token."""
        return max(len(self.ids) - max(self.start, 1), 0)

    @property
    def read(self) -> Int[np.ndarray, " length"]:
        """All that the predictions depend on: the prefix as far as it is seen, and the ids."""
        return self.ids if self.prefix is None else np.concatenate([self.prefix[: self.seen], self.ids])


class Part(NamedTuple):
    """Some of a pass's span, as part of a document's statistics."""

    one: Pass
    keep: slice = slice(None)


def pass_key(one: Pass, checkpoint: str, dtype: str) -> str:
    """What a pass's statistics are stored under: equal content, equal key, whatever batch or run it is in.

    Args:
        one: the pass.
        checkpoint: hash of the model's files.
        dtype: of its weights and products.
    """
    start = one.seen + one.start  # the same for a pass that reads its prefix itself
    digest = hashlib.blake2b(f"{STATS_VERSION}|{checkpoint}|{dtype}|{start}|".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(one.read, np.int32).tobytes())
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


def conditional_parts(
    prefix: Int[np.ndarray, " past"], seen: int, context_ids: list[int], text_ids: list[int]
) -> list[Part]:
    """A document's text after prefix[:seen], with statistics of the tokens that a plain pass has them of.

    Args:
        prefix: what the model reads first, a BOS included where the model has one.
        seen: how much of it this document goes on from; with the text it must fit the context.
        context_ids: what precedes the text in a plain pass; not repeated after the prefix.
        text_ids: the document's tokens.
    """
    ids = np.array(text_ids, np.int32)
    if not text_ids:
        return [Part(Pass(ids))]
    if context_ids and seen > 1:  # a plain pass predicts the first token, too: the prefix's last one does so here
        return [Part(Pass(np.append(prefix[seen - 1], ids).astype(np.int32), 1, prefix, seen - 1))]
    return [Part(Pass(ids[:1])), Part(Pass(ids, 1, prefix, seen))]


def variant_parts(context_ids: list[int], text_ids: list[int], variant_ids: list[int], context: int) -> list[Part]:
    """A variant of a document, such as a neighbor: shared up to the first token that differs, then of its own.

    Or all of its own, where sharing saves less than WORTH: what goes on from a prefix packs less well.

    Args:
        context_ids: what precedes either text.
        text_ids: the document's tokens.
        variant_ids: the variant's tokens.
        context: the most tokens that the model reads at once.
    """
    first = len(context_ids)
    document, variant = (np.array([*context_ids, *ids], np.int32) for ids in (text_ids, variant_ids))
    shortest = min(len(document), len(variant))
    differ = np.flatnonzero(document[:shortest] != variant[:shortest])
    common = int(differ[0]) if len(differ) else shortest
    little = common < max(first + 1, 2, WORTH * len(variant))
    if little or max(len(document), len(variant)) > context:
        return [Part(one) for one in document_passes(context_ids, variant_ids, context)]
    parts = [Part(Pass(document, first), slice(common - first))]
    if common < len(variant):
        # From the last common token on, which predicts the first that differs.
        parts.append(Part(Pass(variant[common - 1 :], 1, document, common - 1)))
    return parts


def join(spans: Sequence[TokenStats]) -> TokenStats:
    """One document's statistics [time] from those of its passes."""
    return spans[0] if len(spans) == 1 else TokenStats(*(np.concatenate(parts, axis=-1) for parts in zip(*spans)))

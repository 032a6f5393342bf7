"""Attacks as the published MIMIR computes them, where that differs from their authors: the rule set `mimir`.

Scores are in this package's orientation, higher for members: minus what MIMIR writes into its files.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from mimir_jax.arrays import AnyArray, TokenStats, masked_count
from mimir_jax.attacks import ATTACKS, dc_pdd, gradnorm, loss, min_k, min_k_plus_plus
from mimir_jax.attacks.gradnorm import NORMS
from mimir_jax.attacks.parameters import Count, Positive, Share
from mimir_jax.attacks.registry import Attack
from mimir_jax.compat.mimir.neighbors import NEIGHBORS
from mimir_jax.config import ConfigError
from mimir_jax.data.documents import load_documents, read_texts
from mimir_jax.experiment import Rules
from mimir_jax.inputs import Provider, token_counts
from mimir_jax.neighbors import neighbors_of
from mimir_jax.scoring.passes import Part, Pass, document_passes
from mimir_jax.target import Passes, Target


def _without_empty_selection(
    scores: Float32[Array, "*batch doc"], mask: Bool[AnyArray, "*batch doc time"], k: int | float
) -> Float32[Array, "*batch doc"]:
    """NaN where int(k n) is 0: MIMIR takes the mean of nothing."""
    # In float64, which devices do not have: see `attacks.selection`.
    count_of_n = (k * np.arange(mask.shape[-1] + 1)).astype(np.int32)
    return jnp.where(jnp.asarray(count_of_n)[masked_count(mask)] > 0, scores, jnp.nan)


def mimir_min_k(
    stats: TokenStats, k: Share = 0.2, window: Count = 1, stride: Count = 1
) -> Float32[Array, "*batch doc"]:
    """`min_k`, but without a score where the share selects no token or window."""
    scores = min_k(stats, k, window, stride)
    # Longer ones select the same, and may not fit into an int32.
    window, stride = (min(length, stats.mask.shape[-1] + 1) for length in (window, stride))
    windows = jnp.maximum(masked_count(stats.mask) - window, -1) // stride + 1
    count_of_n = (k * np.arange(stats.mask.shape[-1] + 1)).astype(np.int32)
    return jnp.where(jnp.asarray(count_of_n)[windows] > 0, scores, jnp.nan)


def mimir_min_k_plus_plus(stats: TokenStats, k: Share = 0.2) -> Float32[Array, "*batch doc"]:
    """`min_k++`, but without a score where the share selects no token."""
    return _without_empty_selection(min_k_plus_plus(stats, k), stats.mask, k)


def mimir_ne(stats: TokenStats, neighbor_stats: TokenStats, n: Count = 25) -> Float32[Array, "*batch doc"]:
    """The document against the least likely of its neighbors, not against their mean: LL(x) - min_j LL(x_j)."""
    of_neighbors = loss(neighbor_stats)[..., :n, :]
    return loss(stats) - jnp.nanmin(of_neighbors, axis=-2)


def mimir_gradnorm(
    grad_norms: Float[AnyArray, "*batch norm doc"], p: Annotated[int | float, NORMS] = math.inf
) -> Float32[Array, "*batch doc"]:
    """The norm itself: MIMIR reads its negative as lower for members."""
    return -gradnorm(grad_norms, p)


def mimir_dc_pdd(
    eos_stats: TokenStats, token_document_counts: Float[AnyArray, " vocab"], a: Positive = 0.01
) -> Float32[Array, "*batch doc"]:
    """`dc_pdd` with an EOS before the document, so that its first token counts, and with counts of documents."""
    return dc_pdd(eos_stats, token_document_counts, a)


def mimir_recall(stats: TokenStats, chunk_stats: TokenStats) -> Float32[Array, "*batch doc"]:
    """LL(x given P) / LL(x), where x is cut at every multiple of the context, prefix included.

    A later chunk starts without context. Its first token is not scored, but counts in the chunk's weight.

    Args:
        stats: of the documents, fields [..., doc, time].
        chunk_stats: of the documents' tokens after the prefix; a token without a score starts a chunk.
    """
    mask = jnp.asarray(chunk_stats.mask)
    time = jax.lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    inside = jax.lax.cummax(mask.astype(jnp.int32), axis=mask.ndim - 1, reverse=True) > 0
    boundary = inside & ~mask
    start = jax.lax.cummax(jnp.where(boundary, time, 0), axis=mask.ndim - 1)
    length = jnp.sum(inside, axis=-1, keepdims=True, dtype=jnp.int32)
    following = jnp.concatenate([boundary[..., 1:], jnp.zeros_like(boundary[..., :1])], axis=-1)
    stop = jax.lax.cummin(
        jnp.where(following, time + 1, jnp.broadcast_to(length, mask.shape)), axis=mask.ndim - 1, reverse=True
    )
    size = (stop - start).astype(jnp.float32)
    unscored = jnp.take_along_axis(boundary, start, axis=-1).astype(jnp.float32)
    weight = jnp.where(mask, size / jnp.maximum(size - unscored, 1.0), 0.0)
    conditional = jnp.sum(weight * chunk_stats.log_prob, axis=-1) / jnp.sum(weight, axis=-1)
    return conditional / loss(stats)


def after_eos(target: Target) -> Passes:
    """The documents after the tokenizer's EOS."""
    eos = target.tokenizer.eos_token_id
    if eos is None:
        raise ConfigError(
            "dc_pdd under the rules of mimir puts an EOS before each document, and the tokenizer has none"
        )
    passes = [document_passes([eos], [*t.context_ids, *t.text_ids], target.config.context) for t in target.tokens]
    return Passes([[[Part(one) for one in document]] for document in passes])


def chunks(target: Target) -> Passes:
    """The documents after the first non-members' texts, cut at every multiple of the context."""
    documents, run, context = target.documents, target.run.shots, target.config.context
    if run.count < 1:
        raise ConfigError(f"shots.count: {run.count}, must be at least 1")
    if run.nonmembers is not None:
        texts = list(read_texts(run.nonmembers, target.run.data.text_field, run.count))
    else:
        data = target.run.data  # whole texts, where their beginnings are scored
        whole = load_documents(replace(data, tok_by_tok=False)) if data.tok_by_tok else documents[: target.main]
        texts = [d.text for d in whole if d.is_member is False][: run.count]
    if len(texts) < run.count:
        raise ConfigError(f"shots.count: {run.count} shots are asked for, and there are {len(texts)} non-members")
    lengths = [len(t.context_ids) + len(t.text_ids) for t in target.tokens]
    average = int(np.mean([n for n, d in zip(lengths, documents) if d.is_member]))
    kept = fitting_shots(target, texts, average)
    joined = target.tokenize(["".join(texts[-kept:])], "the shots")[0]
    prefix = np.array([*joined.context_ids, *joined.text_ids], np.int32)
    if not len(prefix):
        raise ConfigError("shots: there is no token in them")
    if len(prefix) >= context:
        raise ConfigError(f"shots: {len(prefix)} tokens of shots leave no room in a context of {context}")
    parts = [[chunked(prefix, np.array([*t.context_ids, *t.text_ids], np.int32), context)] for t in target.tokens]
    if kept < len(texts):
        target.note(f"recall: only the last {kept} of {len(texts)} shots fit, with a document of average length")
    return Passes(parts)


def fitting_shots(target: Target, texts: list[str], average: int) -> int:
    """How many shots fit the context with a document of average length; of those, MIMIR takes the last ones."""
    tokens = target.tokenize(texts, "shot")
    room = np.cumsum([len(t.context_ids) + len(t.text_ids) for t in tokens]) + average
    if room[-1] <= target.config.context:
        return len(texts)
    fitting = int(np.searchsorted(room, target.config.context, side="right"))
    # texts[-0:] is all of them, there as here.
    return fitting or len(texts)


def chunked(prefix: np.ndarray, ids: np.ndarray, context: int) -> list[Part]:
    """The document's tokens after the prefix, in chunks of the context, with statistics of the document's tokens."""
    room = context - len(prefix)
    first = np.append(prefix[-1:], ids[:room]).astype(np.int32)
    shared = Pass(first, 1, prefix, len(prefix) - 1) if len(prefix) > 1 else Pass(first, 1)
    later = [Pass(ids[start : start + context]) for start in range(room, len(ids), context)]
    return [Part(one) for one in (shared, *later)]


def document_counts(target: Target) -> np.ndarray:
    """In how many texts of a corpus each id occurs, special ones included; with the [PAD] that MIMIR adds."""
    return token_counts(target, per_document=True, vocab=vocab_size(target), special=True)


def vocab_size(target: Target) -> int:
    """Number of ids of the tokenizer, as MIMIR has it: it makes [PAD] the padding token of every tokenizer."""
    return len(target.tokenizer) + ("[PAD]" not in target.tokenizer.get_vocab())


def _row(name: str, function: Callable[..., Array], inputs: tuple[str, ...], null_reason: str | None) -> Attack:
    return replace(ATTACKS[name], function=function, inputs=inputs, null_reason=null_reason)


NOTHING_SELECTED = "the share of its tokens that is selected is none"

RULES = Rules(
    name="mimir",
    attacks={
        row.name: row
        for row in (
            _row("min_k", mimir_min_k, ("stats",), NOTHING_SELECTED),
            _row("min_k++", mimir_min_k_plus_plus, ("stats",), NOTHING_SELECTED),
            _row("ne", mimir_ne, ("stats", "neighbor_stats"), "it has no neighbors"),
            _row("gradnorm", mimir_gradnorm, ("grad_norms",), None),
            _row("dc_pdd", mimir_dc_pdd, ("eos_stats", "token_document_counts"), None),
            _row("recall", mimir_recall, ("stats", "chunk_stats"), None),
        )
    },
    providers={
        "eos_stats": Provider(after_eos),
        "chunk_stats": Provider(chunks),
        "token_document_counts": Provider(document_counts, per_model=False, by_document=False),
    },
    texts={"neighbor_stats": partial(neighbors_of, rules=NEIGHBORS)},
)

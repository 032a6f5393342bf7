"""Documents through a model: tokenize, cut into passes, run each distinct pass once, join."""

from collections.abc import Callable, Sequence

import numpy as np

from mimir_jax.arrays import TokenStats, stack
from mimir_jax.scoring.engine import run_passes
from mimir_jax.scoring.model import Model
from mimir_jax.scoring.passes import Part, Pass, document_passes, join, pass_key
from mimir_jax.scoring.store import Store
from mimir_jax.scoring.tokens import tokenize

DEFAULT_BATCH_TOKENS = 2048
NOTHING = Part(Pass(np.zeros(0, np.int32)))


def score_documents(
    model: Model,
    texts: Sequence[str],
    ids: Sequence[str] | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    store: Store | None = None,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> list[TokenStats]:
    """TokenStats [time] (or [model, time] of stacked models) of each text; see `score`.

    Args:
        model: from `load_model`.
        texts: the documents.
        ids: their names, for messages.
        batch_tokens: token positions that a device computes at a time.
        store: where results of earlier runs are found and new ones go.
        on_start: called with the number of tokens that will be computed.
        on_batch: called with the number of tokens of each batch that is done.
    """
    names = [f"text {i}" for i in range(len(texts))] if ids is None else ids
    context = model.decoder.config.context
    tokens = tokenize(model.tokenizer, texts, names, model.decoder.config.vocab, model.add_bos)
    documents = [[Part(one) for one in document_passes(t.context_ids, t.text_ids, context)] for t in tokens]
    return score_parts(model, documents, batch_tokens, store, on_start, on_batch)


def score_parts(
    model: Model,
    documents: Sequence[Sequence[Part]],
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    store: Store | None = None,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> list[TokenStats]:
    """TokenStats [time] (or [model, time]) of each document from its parts; each distinct pass is run once.

    Args:
        model: from `load_model`.
        documents: of each its parts, in order; none at all are a document without tokens.
        batch_tokens, store, on_start, on_batch: as for `score_documents`.
    """
    number: dict[str, int] = {}
    passes: list[Pass] = []
    keys: list[list[str]] = []  # of each distinct pass, one a checkpoint
    members: list[list[tuple[int, slice]]] = []  # of each document, its passes' numbers
    for document in documents:
        members.append([])
        for one, keep in document or [NOTHING]:
            key = [pass_key(one, source.checkpoint, model.dtype) for source in model.sources]
            if key[0] not in number:
                number[key[0]] = len(passes)
                passes.append(one)
                keys.append(key)
            members[-1].append((number[key[0]], keep))
    known = {} if store is None else _known(store, keys, model.stacked)

    def on_result(i: int, stats: TokenStats) -> None:
        if store is not None:
            for axis, key in enumerate(keys[i]):
                store.put(key, TokenStats(*(field[axis] for field in stats)) if model.stacked else stats)

    results = run_passes(model.decoder, passes, model.mesh, batch_tokens, known, on_result, on_start, on_batch)
    return [
        join([TokenStats(*(field[..., keep] for field in results[i])) for i, keep in document]) for document in members
    ]


def _known(store: Store, keys: list[list[str]], stacked: bool) -> dict[int, TokenStats]:
    """Passes whose statistics the store has for every checkpoint."""
    known = {}
    for i, key in enumerate(keys):
        found = store.get(key)
        if len(found) == len(key):
            known[i] = stack([found[one] for one in key]) if stacked else found[key[0]]
    return known

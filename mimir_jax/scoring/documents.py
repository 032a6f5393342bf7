"""Documents through a model: tokenize, cut into passes, run each distinct pass once, join."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from mimir_jax.arrays import TokenStats, stack
from mimir_jax.config import Head
from mimir_jax.parallel import hosts
from mimir_jax.parallel.preemption import Preemption
from mimir_jax.scoring.engine import run_passes
from mimir_jax.scoring.model import Model
from mimir_jax.scoring.passes import Part, Pass, document_passes, join, pass_key
from mimir_jax.scoring.store import Store, StoreError, pack, unpack
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
    head: Head = "xla",
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
        head: how statistics of the vocabulary are computed; see `RunConfig.head`.
    """
    names = [f"text {i}" for i in range(len(texts))] if ids is None else ids
    context = model.decoder.config.context
    tokens = tokenize(model.tokenizer, texts, names, model.decoder.config.vocab, model.add_bos)
    documents = [[Part(one) for one in document_passes(t.context_ids, t.text_ids, context)] for t in tokens]
    return score_parts(model, documents, batch_tokens, store, on_start, on_batch, head=head)


def score_parts(
    model: Model,
    documents: Sequence[Sequence[Part]],
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    store: Store | None = None,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
    preemption: Preemption | None = None,
    head: Head = "xla",
) -> list[TokenStats]:
    """TokenStats [time] (or [model, time]) of each document from its parts; each distinct pass is run once.

    Args:
        model: from `load_model`.
        documents: of each its parts, in order; none at all are a document without tokens.
        batch_tokens, on_start, on_batch, head: as for `score_documents`.
        store: as for `score_documents`; where there are several processes, process 0's counts.
        preemption: see `run_passes`.

    Raises:
        StoreError: the model has no weights, and the store lacks statistics; see also `Store`.
        ScoringError, Preempted, HostLostError: see `run_passes`.
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
    known = _known(store, keys, model.stacked)
    if model.weightless:
        _check_known(store, known, passes)

    def on_result(i: int, stats: TokenStats) -> None:
        if store is not None:
            for axis, key in enumerate(keys[i]):
                store.put(key, TokenStats(*(field[axis] for field in stats)) if model.stacked else stats)

    results = run_passes(
        model.decoder, passes, model.mesh, batch_tokens, known, preemption, on_result, on_start, on_batch, head
    )
    return [
        join([TokenStats(*(field[..., keep] for field in results[i])) for i, keep in document]) for document in members
    ]


def _known(store: Store | None, keys: list[list[str]], stacked: bool) -> dict[int, TokenStats]:
    """Passes whose statistics the store of process 0 has for every checkpoint."""
    with hosts.together("read the store"):
        found = {} if store is None else store.get(one for key in keys for one in key)
    if jax.process_count() > 1:
        found = unpack(hosts.broadcast(pack(found)))
    return {
        i: stack([found[one] for one in key]) if stacked else found[key[0]]
        for i, key in enumerate(keys)
        if all(one in found for one in key)
    }


def _check_known(store: Store | None, known: Mapping[int, TokenStats], passes: Sequence[Pass]) -> None:
    lacking = sum(bool(one.sources) and i not in known for i, one in enumerate(passes))
    if lacking:
        raise StoreError(
            f"{'no store' if store is None else store.folder}: lacks the statistics of {lacking} of {len(passes)} "
            "passes, and there are no weights to compute them: `mimir-jax score` with these options does"
        )

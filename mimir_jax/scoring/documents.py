"""Documents through a model: tokenize, cut into passes, run each distinct pass once, join."""

from collections.abc import Callable, Sequence

from mimir_jax.arrays import TokenStats
from mimir_jax.scoring.engine import run_passes
from mimir_jax.scoring.model import Model
from mimir_jax.scoring.passes import Pass, document_passes, join, pass_key
from mimir_jax.scoring.tokens import Tokens, tokenize

DEFAULT_BATCH_TOKENS = 2048


def score_documents(
    model: Model,
    texts: Sequence[str],
    ids: Sequence[str] | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    on_start: Callable[[int], None] = lambda total: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> list[TokenStats]:
    """TokenStats [time] (or [model, time] of stacked models) of each text; see `score`.

    Args:
        model: from `load_model`.
        texts: the documents.
        ids: their names, for messages.
        batch_tokens: token positions that a device computes at a time.
        on_start: called with the number of tokens that will be computed.
        on_batch: called with the number of tokens of each batch that is done.
    """
    names = [f"text {i}" for i in range(len(texts))] if ids is None else ids
    tokens = tokenize(model.tokenizer, texts, names, model.decoder.config.vocab)
    documents = [_passes(t, model.decoder.config.context) for t in tokens]
    distinct: dict[str, Pass] = {}
    keys = []
    for passes in documents:
        keys.append([pass_key(one, model.source.checkpoint, model.dtype) for one in passes])
        distinct.update(zip(keys[-1], passes))
    on_start(sum(len(one) for one in distinct.values() if one.sources))
    results = dict(
        zip(distinct, run_passes(model.decoder, list(distinct.values()), model.mesh, batch_tokens, on_batch))
    )
    return [join([results[key] for key in document]) for document in keys]


def _passes(tokens: Tokens, context: int) -> list[Pass]:
    return document_passes(tokens.context_ids, tokens.text_ids, context)

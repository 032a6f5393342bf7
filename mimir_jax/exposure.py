"""From a run's statistics to the documents that its report shows token by token."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from mimir_jax.arrays import TokenStats
from mimir_jax.data.documents import Document
from mimir_jax.metrics import Metrics
from mimir_jax.report import results
from mimir_jax.report.exposure import best_column, choose, token_pieces, write_exposure
from mimir_jax.target import Target


def expose(
    folder: Path,
    target: Target,
    plain: Sequence[TokenStats],
    models: Sequence[str],
    documents: Sequence[Document],
    scores: Mapping[str, np.ndarray],
    groups: Sequence[str],
    metrics: Mapping[str, Metrics | None],
) -> None:
    """Write the tokens of the documents that the attack with the highest AUC ranks first and last.

    Args:
        folder: of the results.
        target: what was attacked.
        plain: statistics [model, time] of each document.
        models: names of the checkpoints, with which columns begin where there are several.
        documents: the texts that were scored.
        scores: [doc] by column.
        groups: of each document "", or which further non-members it belongs to; those are not shown.
        metrics: by column.
    """
    column = best_column(metrics)
    if column is None:
        return
    model = models.index(column.partition("/")[0]) if len(models) > 1 else 0
    main = np.array([not group for group in groups], bool)
    shown = np.where(main, scores[column], np.nan)
    is_member = np.array([document.is_member is True for document in documents], bool)

    def windows(i: int) -> list[int]:
        parts = target.plain(target.tokens[i])
        return list(accumulate(len(part.one) - part.one.start for part in parts))[:-1]

    write_exposure(
        folder / results.EXPOSED,
        column,
        list(choose(shown, is_member)),
        documents,
        shown,
        lambda i: TokenStats(*(field[model] for field in plain[i])),
        lambda ids: token_pieces(target.tokenizer, ids),
        windows,
    )

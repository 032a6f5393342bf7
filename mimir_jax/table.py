"""The table of a run: what was scored, its scores by column, and documents from their sub-texts."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mimir_jax.data.documents import Document, unique_ids
from mimir_jax.report.escape import encodable
from mimir_jax.scores import pool


class Table(NamedTuple):
    """What was scored, and its scores by column."""

    documents: list[Document]
    scores: dict[str, np.ndarray]
    tokens: list[int]
    reasons: list[dict[str, str]]
    """Of each document, by column, why it has a null there."""
    groups: list[str]
    """"" of the documents that metrics are made of, else the name of further non-members."""


def whole_documents(texts: Table, how: str) -> Table:
    """The table of documents, where texts may be parts of documents."""
    if all(text.parent is None for text in texts.documents):
        return texts
    documents, groups, parts = wholes(texts.documents, texts.groups)
    pooled = {name: pool(values, parts, how) for name, values in texts.scores.items()}
    # A document lacks a score where all of its texts do; the first one's reason stands for them.
    why = [
        {name: texts.reasons[some[0]][name] for name, values in pooled.items() if np.isnan(values[row])}
        for row, some in enumerate(parts)
    ]
    tokens = [sum(texts.tokens[i] for i in some) for some in parts]
    return Table(documents, pooled, tokens, why, groups)


def wholes(texts: Sequence[Document], groups: Sequence[str]) -> tuple[list[Document], list[str], list[list[int]]]:
    """The documents that texts are or are parts of, their groups, and which texts are theirs."""
    parts: dict[tuple[str, str], list[int]] = {}
    for i, (text, group) in enumerate(zip(texts, groups)):
        parts.setdefault((group, text.id if text.parent is None else text.parent), []).append(i)
    documents = [
        dataclasses.replace(texts[some[0]], id=name, parent=None, text="\n\n".join(texts[i].text for i in some))
        for (_, name), some in parts.items()
    ]
    return unique_ids(documents), [group for group, _ in parts], list(parts.values())


def table_rows(table: Table) -> dict[str, Sequence[Any]]:
    rows: dict[str, Sequence[Any]] = {
        "id": [encodable(d.id) for d in table.documents],
        "is_member": [d.is_member for d in table.documents],
        "source": [encodable(d.source) for d in table.documents],
        "n_tokens": table.tokens,
    }
    if any(table.groups):
        rows["group"] = [encodable(group) for group in table.groups]
    return rows

"""The documents of a run, and what can be said of them before any model is loaded."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace

from mimir_jax.config import DataConfig
from mimir_jax.data.embedded import DEMO_SOURCES, demo_path
from mimir_jax.data.readers import DataError, Document, read_documents

__all__ = [
    "DataError",
    "Document",
    "fingerprint",
    "load_documents",
    "overlapping_texts",
    "read_documents",
    "unique_ids",
]


def load_documents(data: DataConfig) -> list[Document]:
    """The labelled documents that a configuration names, with unique ids.

    Two sources give the members first, then the non-members; one source with labels keeps its order. Sources
    are files and folders (see `read_documents`), or `demo/members`, `demo/nonmembers` and `demo/shifted` of
    the embedded example, which is also what a configuration without sources means.

    Raises:
        DataError: a combination of sources that means nothing, no members or no non-members, or a fault in a
            file.
    """
    if data.max_documents is not None and data.max_documents < 1:
        raise DataError(f"max_documents is {data.max_documents}, expected at least 1, or none for all")
    if data.documents is not None:
        if data.members is not None or data.nonmembers is not None:
            raise DataError("documents holds both sides already: give either documents, or members and nonmembers")
        return unique_ids(_read_labelled(data, data.documents))
    if (data.members is None) != (data.nonmembers is None):
        given, missing = ("members", "nonmembers") if data.nonmembers is None else ("nonmembers", "members")
        raise DataError(f"{given} is given but {missing} is not: give both, or neither for the example")
    members = _read_side(data, data.members or "demo/members", is_member=True)
    nonmembers = _read_side(data, data.nonmembers or "demo/nonmembers", is_member=False)
    return unique_ids([*members, *nonmembers])


def _read_labelled(data: DataConfig, source: str) -> list[Document]:
    documents = read_documents(
        source,
        text_field=data.text_field,
        label_field=data.label_field,
        max_documents=data.max_documents,
    )
    for label, side in (True, "members"), (False, "non-members"):
        if all(document.is_member is not label for document in documents):
            raise DataError(f"{source}: holds no {side} by its field {data.label_field!r}")
    return documents


def _read_side(data: DataConfig, source: str, *, is_member: bool) -> list[Document]:
    if source in DEMO_SOURCES:
        return read_documents(demo_path(DEMO_SOURCES[source]), is_member=is_member, max_documents=data.max_documents)
    return read_documents(source, text_field=data.text_field, is_member=is_member, max_documents=data.max_documents)


def unique_ids(documents: Iterable[Document]) -> list[Document]:
    """The same documents; an id that an earlier document has gets #2, #3, ...

    Members and non-members are often numbered from 0 each, so that a repeated id is no fault of the data.
    """
    documents = list(documents)
    given = {document.id for document in documents}
    used: set[str] = set()
    count: dict[str, int] = {}
    unique = []
    for document in documents:
        name = document.id
        while name in used or (name != document.id and name in given):
            count[document.id] = count.get(document.id, 1) + 1
            name = f"{document.id}#{count[document.id]}"
        used.add(name)
        unique.append(document if name == document.id else replace(document, id=name))
    return unique


def overlapping_texts(documents: Iterable[Document]) -> list[str]:
    """The texts that are both a member's and a non-member's, each once, in the order of the members."""
    documents = list(documents)
    nonmembers = {document.text for document in documents if document.is_member is False}
    members = dict.fromkeys(document.text for document in documents if document.is_member)
    return [text for text in members if text in nonmembers]


def fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 (hex) of ids, texts and labels in their order: equal for equal data only."""
    digest = hashlib.sha256()
    for document in documents:
        # A JSON list a line: no two sequences of documents have the same encoding.
        digest.update(json.dumps([document.id, document.text, document.is_member]).encode() + b"\n")
    return digest.hexdigest()

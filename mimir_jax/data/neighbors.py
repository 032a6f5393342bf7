"""Neighbors of documents in files: texts close to each, made once and scored by attacks ne and ne_z."""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from mimir_jax.data.benchmarks import SIDES, mimir_sample
from mimir_jax.data.readers import DataError, Document, json_lines, kind

CHECKED = 64  # documents of which the neighbors are compared with the text


class Line(NamedTuple):
    place: str
    """For messages: the file and the line."""
    id: str | None
    value: object
    """As in the file: texts, or lists of texts, one for each sub-text."""
    digest: str | None = None
    """Of the text that the neighbors were made of, where the file says it."""


class Found(NamedTuple):
    line: Line
    part: int | None
    """Which of the line's sub-texts the document is; None where the line is the document's own."""


def read_neighbors(source: str | Path, documents: Sequence[Document], count: int | None = None) -> list[list[str]]:
    """The neighbors of each document, in the documents' order.

    A file has a line for each document: a JSON list of texts; or a list of such lists, one for each of the document's
    sub-texts, as MIMIR writes it; or an object with `id` and `neighbors`, which is found by the document's id (or its
    parent's), whatever the order. Lists are taken by place; of a file that has more lines than there are documents,
    the n-th line is that of the n-th row of the documents' source.

    Args:
        source: a .jsonl[.gz|.zst] file, or mimir/<source>[/<split>] for those that MIMIR published.
        documents: those that are scored; of one side, or, in a file with ids or a mimir/ source, of both.
        count: take the first so many of each document; None is all.

    Raises:
        DataError: no such file, or one that does not match the documents: another number of lines, ids that are
            missing, other texts, or a document with too few neighbors or with something else than texts.
    """
    sample = mimir_sample(str(source))
    if sample is None:
        return _read(Path(source), documents, count)
    found: dict[int, list[str]] = {}
    for is_member in SIDES:
        places = [i for i, document in enumerate(documents) if bool(document.is_member) is is_member]
        if places:
            texts = _read(sample.file(is_member, neighbors=True), [documents[i] for i in places], count)
            found |= dict(zip(places, texts))
    return [found[i] for i in range(len(documents))]


def write_neighbors(
    path: str | Path,
    documents: Sequence[Document],
    neighbors: Sequence[Sequence[str]],
    provenance: Mapping[str, object],
) -> None:
    """Write neighbors for `read_neighbors`: a header of how they were made, then an object for each document.

    Each object holds a hash of what the document holds, so that neighbors of another text are noticed.

    Args:
        path: .jsonl or .jsonl.gz; written whole or not at all.
        documents: one for each list.
        neighbors: texts.
        provenance: model, settings, seed, ...; JSON values.
    """
    path = Path(path)
    lines: list[object] = [{"provenance": dict(provenance)}]
    lines += [
        {"id": document.id, "sha256": content_digest(document), "neighbors": list(texts)}
        for document, texts in zip(documents, neighbors, strict=True)
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    partial.replace(path)


def write_lists(path: Path, documents: Sequence[Document], neighbors: Sequence[Sequence[str]]) -> None:
    """Write neighbors of one side in MIMIR's form: a line a document, a list of texts for each of its sub-texts."""
    pairs = enumerate(zip(documents, neighbors, strict=True))
    groups = groupby(pairs, lambda item: item[0] if item[1][0].parent is None else item[1][0].parent)
    lists = [[list(texts) for _, (_, texts) in group] for _, group in groups]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(value) + "\n" for value in lists), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error


def read_provenance(path: str | Path) -> dict[str, object] | None:
    """What `write_neighbors` was told of how the neighbors were made; None for files of another origin."""
    _, value = next(json_lines(Path(path)), (0, None))
    return value.get("provenance") if isinstance(value, dict) else None


def _read(path: Path, documents: Sequence[Document], count: int | None) -> list[list[str]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file of neighbors")
    lines = _lines(path)
    by_place = lines[0].id is None
    found = (_by_place if by_place else _by_id)(path, lines, documents)
    texts = [_texts(document, *where, count) for document, where in zip(documents, found)]
    if by_place:
        _check_order(path, documents, texts)
    return texts


def _lines(path: Path) -> list[Line]:
    lines: list[Line] = []
    for number, value in json_lines(path):
        place = f"{path}, line {number}"
        if isinstance(value, list):
            lines.append(Line(place, None, value))
        elif isinstance(value, dict) and {"id", "neighbors"} <= value.keys():
            lines.append(Line(place, str(value["id"]), value["neighbors"], value.get("sha256")))
        elif not (isinstance(value, dict) and "provenance" in value and not lines):
            raise DataError(f"{place}: {kind(value)}, expected a list of texts, or an object with id and neighbors")
    if not lines:
        raise DataError(f"{path}: holds no neighbors")
    if len({line.id is None for line in lines}) > 1:
        raise DataError(f"{path}: lists and objects are mixed; give every line the same form")
    return lines


def _by_id(path: Path, lines: Sequence[Line], documents: Sequence[Document]) -> list[Found]:
    table: dict[str, Line] = {}
    for line in lines:
        if line.id in table:
            raise DataError(f"{line.place}: neighbors of document {line.id!r} for the second time")
        table[str(line.id)] = line
    missing = [document.id for document in documents if document.id not in table and document.parent not in table]
    if missing:
        raise DataError(
            f"{path}: no neighbors of {len(missing)} of {len(documents)} documents, such as {missing[0]!r}; it has "
            f"{len(lines)} others, such as {lines[0].id!r}: is it of these documents?"
        )
    return [
        Found(table[document.id], None) if document.id in table else Found(table[str(document.parent)], part)
        for document, (_, part) in zip(documents, _wholes(documents))
    ]


def _by_place(path: Path, lines: Sequence[Line], documents: Sequence[Document]) -> list[Found]:
    wholes = _wholes(documents)
    rows = {whole: document.row for document, (whole, _) in zip(documents, wholes)}
    by_parts = len(rows) < len(documents) and any(_is_nested(line.value) for line in lines)
    if len(lines) == len(documents) and not by_parts:
        return [Found(line, None) for line in lines]
    if len(lines) == len(rows):
        return [Found(lines[whole], part) for whole, part in wholes]
    known = [row for row in rows.values() if row is not None and row < len(lines)]
    if len(set(known)) < len(rows):
        raise DataError(
            f"{path}: {len(lines)} lines of neighbors for {len(rows)} documents; a line is expected for each document, "
            "or for each row of the file that they are of"
        )
    return [Found(lines[known[whole]], part) for whole, part in wholes]


def _wholes(documents: Sequence[Document]) -> list[tuple[int, int | None]]:
    """The number of the whole document that each is, or is a part of, and which part; None where it is whole."""
    places: list[tuple[int, int | None]] = []
    groups = groupby(enumerate(documents), lambda item: item[1].parent if item[1].parent is not None else item[0])
    for whole, (_, group) in enumerate(groups):
        places += [(whole, None if document.parent is None else part) for part, (_, document) in enumerate(group)]
    return places


def _is_nested(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, list) for one in value)


def _texts(document: Document, line: Line, part: int | None, count: int | None) -> list[str]:
    value = line.value
    if isinstance(value, list) and _is_nested(value):
        if part is None and len(value) > 1:
            raise DataError(f"{line.place}: neighbors of {len(value)} sub-texts, but {document.id!r} is one text")
        if part is not None and part >= len(value):
            raise DataError(f"{line.place}: neighbors of {len(value)} sub-texts, but {document.id!r} is one more")
        value = value[part or 0]
    elif part:
        raise DataError(f"{line.place}: neighbors of one text, but {document.id!r} is one of several sub-texts")
    if not isinstance(value, list):
        raise DataError(f"{line.place}: neighbors are {kind(value)}, expected a list of texts")
    for number, text in enumerate(value, start=1):
        if not isinstance(text, str):
            raise DataError(f"{line.place}: neighbor {number} of {document.id!r} is {kind(text)}, expected a string")
    none_made = not value and line.digest is not None and not count  # as of an empty document
    if (not value and not none_made) or (count is not None and len(value) < count):
        raise DataError(f"{line.place}: {len(value)} neighbors of {document.id!r}, expected at least {count or 1}")
    if line.digest is not None and part is None and line.digest != content_digest(document):
        raise DataError(f"{line.place}: the neighbors of {document.id!r} were made of another text; make them again")
    return value[:count]


def _check_order(path: Path, documents: Sequence[Document], texts: Sequence[Sequence[str]]) -> None:
    """Neighbors that are taken by place must look like their document rather than like the next one.

    Raises:
        DataError: of a quarter or more of those that can be told, they look like the next.
    """
    step = max(len(documents) // CHECKED, 1)
    own, other = 0, 0
    for i in range(0, len(documents), step):
        neighbor = set(texts[i][0].split())
        here = len(neighbor & set(documents[i].text.split()))
        there = len(neighbor & set(documents[(i + 1) % len(documents)].text.split()))
        own, other = own + (here > there), other + (there > here)
    if other >= 2 and 3 * other >= own:
        raise DataError(
            f"{path}: of {own + other} documents checked, {other} have neighbors that look more like the next one's: "
            "are the lines in the order of these documents?"
        )


def content_digest(document: Document) -> str:
    """Hash of what a document holds: its text, or its token ids."""
    content = document.text if document.token_ids is None else json.dumps(document.token_ids)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

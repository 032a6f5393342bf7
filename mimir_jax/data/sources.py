"""Any source of documents, by the string that a configuration names it with."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path

from mimir_jax.data import benchmarks, hub
from mimir_jax.data.embedded import DEMO_SOURCES, demo_path
from mimir_jax.data.readers import DataError, Document, row_document, stream_documents, wanted_fields

GROUP = "mimir_jax.datasets"
"""Entry points of this group are data sets by name: functions of nothing, or of what follows the name and a slash."""


def read_source(
    source: str,
    *,
    text_field: str = "text",
    label_field: str | None = None,
    side: bool | None = None,
    full_doc: bool = False,
    max_rows: int | None = None,
) -> Iterator[Document]:
    """The documents of a source, one at a time.

    Args:
        source: demo/members, demo/nonmembers or demo/shifted; hub:owner/name[/config][:split]; a short name, see
            `benchmarks`; a name that another package registers; or a file or folder, see `stream_documents`. With
            #NAME at its end, only documents of that source.
        text_field: field of a file or hub: data set that holds the text; data sets by name have their own.
        label_field: field that tells members from non-members, where the source holds both.
        side: the side that is wanted: of a source that knows its members, only those or only the others; all
            documents of another source count as that side. None, without a label_field, leaves unknown labels None.
        full_doc: the text may also be a list of sub-texts.
        max_rows: look no further than this.

    Raises:
        DataError: no such source, or a fault in it.
    """
    whole, part = split_source(source)
    documents = islice(_read(whole, text_field, label_field, side, full_doc), max_rows)
    return documents if part is None else _of_source(source, part, documents)


def split_source(source: str) -> tuple[str, str | None]:
    """`pile/00.jsonl.zst#ArXiv` as its file and the source within; None where none is named."""
    whole, mark, part = source.partition("#")
    return (source, None) if not mark or Path(source).exists() else (whole, part)


def short_name(source: str) -> str:
    """What results call a source: `in` of x/in.jsonl.gz, `mimir-arxiv-ngram_13_0.8` of the data set of that name."""
    whole, part = split_source(source)
    named = on_hub(whole) or whole.partition("/")[0] in ("mimir", *benchmarks.SHORT)
    name = whole.removeprefix(hub.PREFIX) if named else Path(whole).name.split(".")[0]
    return re.sub(r"[^\w.()-]+", "-", "-".join(filter(None, [name, part]))).strip("-")


def _of_source(source: str, part: str, documents: Iterable[Document]) -> Iterator[Document]:
    seen: set[str] = set()
    for document in documents:
        seen.add(document.source)
        if document.source == part:
            yield document
    if part not in seen:
        there = ", ".join(sorted(seen)[:20]) or "none"
        raise DataError(f"{source}: holds no documents of source {part!r}; there are: {there}")


def _read(
    source: str, text_field: str, label_field: str | None, side: bool | None, full_doc: bool
) -> Iterator[Document]:
    if source in DEMO_SOURCES:
        path = demo_path(DEMO_SOURCES[source])
        return stream_documents(path, label_field=label_field, is_member=side)
    if source.startswith(hub.PREFIX):
        read = partial(
            row_document, source, default_source=source, text_field=text_field, label_field=label_field, is_member=side,
            full_doc=full_doc,
        )  # fmt: skip
        rows = hub.hub_rows(source, hub.parse(source), wanted_fields(text_field, label_field))
        return (replace(read(row), row=number) for number, row in enumerate(rows))
    known = benchmarks.find(source) or _registered(source)
    if known is None:
        return stream_documents(
            source, text_field=text_field, label_field=label_field, is_member=side, full_doc=full_doc
        )
    return _labelled(source, known(side), side, label_field)


def on_hub(source: str) -> bool:
    """Whether a source is a data set of the hub, by its own name or a short one."""
    return source.startswith(hub.PREFIX) or split_source(source)[0] in benchmarks.BENCHMARKS


def read_texts(source: str, text_field: str = "text", max_texts: int | None = None) -> Iterator[str]:
    """The texts of any source, see `read_source`, one at a time; `demo` is all of the embedded example.

    Raises:
        DataError: as `read_source`, or the source holds token ids or nothing.
    """
    names = list(DEMO_SOURCES) if source == "demo" else [source]
    documents = (document for name in names for document in read_source(name, text_field=text_field))
    document = None
    for document in islice(documents, max_texts):
        if document.token_ids is not None:
            raise DataError(f"{source}: holds token ids, expected texts")
        yield document.text
    if document is None and max_texts != 0:
        raise DataError(f"{source}: holds no documents")


def _labelled(
    source: str, documents: Iterable[Document], side: bool | None, label_field: str | None
) -> Iterator[Document]:
    """Documents of a data set by name, as one side or with their own labels."""
    for document in documents:
        if document.is_member is None and side is None and label_field is not None:
            raise DataError(f"{source}: says nothing of membership; give it as members or as nonmembers")
        if side is None or document.is_member in (None, side):
            yield document if document.is_member is not None else replace(document, is_member=side)


def _registered(source: str) -> Callable[[bool | None], Iterator[Document]] | None:
    name, _, rest = source.partition("/")
    found = list(metadata.entry_points(group=GROUP, name=name))
    if len(found) > 1:
        packages = ", ".join(sorted(str(entry.dist.name if entry.dist else entry.value) for entry in found))
        raise DataError(f"{source}: more than one package registers a data set {name}: {packages}")
    return (lambda side: _call(source, found[0], rest)) if found else None


def _call(source: str, entry: metadata.EntryPoint, rest: str) -> Iterator[Document]:
    try:
        function = entry.load()
        documents = function(rest) if rest else function()
        for number, document in enumerate(documents):
            if not isinstance(document, Document):
                raise DataError(f"{source}: {entry.value} gave a {type(document).__name__}, expected a Document")
            yield document if document.row is not None else replace(document, row=number)
    except DataError:
        raise
    except Exception as error:  # of another package
        raise DataError(f"{source}: {entry.value} failed: {type(error).__name__}: {error}") from error

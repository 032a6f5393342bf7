"""Documents from files: JSONL, CSV, Parquet, arrays of token ids, text files and folders of them.

Whatever is wrong with a file is a `DataError` that names the file, the line or row, and the field.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

ID_FIELD = "id"
SOURCE_FIELD = "source"
PILE_FIELD = "meta"  # of the raw Pile: an object whose pile_set_name is the source
LABELS = {
    "1": True,
    "1.0": True,
    "true": True,
    "member": True,
    "0": False,
    "0.0": False,
    "false": False,
    "nonmember": False,
    "non-member": False,
}
"""By the value's string without case; a column of integers with gaps becomes 1.0 and 0.0 on its way."""


class DataError(ValueError):
    """Data that cannot be used; the message says where the fault is and what is expected."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text whose membership is asked for."""

    id: str
    """Names the document in results."""
    text: str
    """May be empty: a text too short for an attack is a result, not an error of the data."""
    is_member: bool | None
    """Whether the target was trained on it; None where nobody knows."""
    source: str
    """Where it comes from: a domain, a file."""
    parent: str | None = None
    """The document that this is a sub-text of."""
    token_ids: tuple | None = None
    """Integers: a pretokenized document, in the target's vocabulary; its text is then empty."""
    row: int | None = field(default=None, compare=False)
    """Which of its source's documents it is, from 0, whatever was selected after."""


@dataclass(frozen=True, slots=True)
class FullDocument(Document):
    """A document given as its sub-texts, each of which is scored; its text is empty."""

    parts: tuple[str, ...] = ()


class Row(NamedTuple):
    place: str
    """For messages: `line 3`, `row 3`, `a.txt`."""
    default_id: str
    values: Mapping[str, object]
    fields: Collection[str]
    """All that the file has, also those that were not asked for."""
    whole: object = None
    """Where rows have no fields, what the row is: the text, its sub-texts or an array of token ids."""


def read_documents(
    path: str | Path,
    *,
    text_field: str = "text",
    label_field: str | None = None,
    is_member: bool | None = None,
    max_documents: int | None = None,
) -> list[Document]:
    """The documents of a file or folder, see `stream_documents`.

    Args:
        path: file or folder.
        text_field: field that holds the text.
        label_field: field that is 1, true or "member", or 0, false or "nonmember".
        is_member: label of all documents, where there is no label_field.
        max_documents: the first so many; with a label_field, of members and of non-members each.

    Raises:
        DataError: as `stream_documents`, or the file holds no documents.
    """
    stream = stream_documents(path, text_field=text_field, label_field=label_field, is_member=is_member)
    documents = list(first(stream, max_documents, {is_member} if label_field is None else {True, False}))
    if not documents:
        raise DataError(f"{path}: holds no documents")
    return documents


def stream_documents(
    path: str | Path,
    *,
    text_field: str = "text",
    label_field: str | None = None,
    is_member: bool | None = None,
    full_doc: bool = False,
) -> Iterator[Document]:
    """Documents of a file, or of the .txt files in a folder, in their order, one at a time.

    Of a .jsonl (also .jsonl.gz, .jsonl.zst), .csv or .parquet file each row is a document. The field `id` (a string
    or an integer) is the document's id; without one, the file's name and the row's number are. The field `source`,
    where it is a string, is its source, or meta.pile_set_name as in the raw Pile; otherwise the file's name is. A
    line of JSONL may also be the text alone, a string. Of a .npy file, a two-dimensional array of token ids, each
    row is a document. A .txt file is one document.

    Args:
        path: file or folder.
        text_field: field that holds the text; text files and arrays have no fields.
        label_field: field that is 1, true or "member", or 0, false or "nonmember".
        is_member: label of all documents, where there is no label_field.
        full_doc: the text may also be a list of sub-texts.

    Raises:
        DataError: no such file, an unknown format, a missing field, a value of the wrong type, invalid JSON or
            UTF-8.
    """
    path = Path(path)
    wanted = wanted_fields(text_field, label_field)
    for number, row in enumerate(_rows(path, wanted)):
        document = row_document(
            path,
            row,
            _stem(path),
            text_field=text_field,
            label_field=label_field,
            is_member=is_member,
            full_doc=full_doc,
        )
        yield replace(document, row=number)


def stream_rows(
    path: str | Path, *, text_field: str = "text", more_fields: Collection[str] = ()
) -> Iterator[tuple[Document, Mapping[str, object]]]:
    """As `stream_documents`, each document with further fields of its row; those that it lacks are left out.

    Raises:
        DataError: as `stream_documents`.
    """
    path = Path(path)
    for number, row in enumerate(_rows(path, [*wanted_fields(text_field, None), *more_fields])):
        document = row_document(path, row, _stem(path), text_field=text_field)
        yield replace(document, row=number), {name: row.values[name] for name in more_fields if name in row.values}


def wanted_fields(text_field: str, label_field: str | None) -> list[str]:
    """The fields of a row that `row_document` looks at."""
    return [text_field, ID_FIELD, SOURCE_FIELD, PILE_FIELD] + ([] if label_field is None else [label_field])


def row_document(
    where: str | Path,
    row: Row,
    default_source: str,
    *,
    text_field: str,
    label_field: str | None = None,
    is_member: bool | None = None,
    full_doc: bool = False,
) -> Document:
    """The document that a row of a file or data set is; see `stream_documents`.

    Raises:
        DataError: a missing field or a value of the wrong type; the message starts with `where`.
    """
    label = is_member if label_field is None else _label(where, row, label_field)
    document = Document(id=_id(where, row), text="", is_member=label, source=_source(row, default_source))
    if isinstance(row.whole, np.ndarray):
        return replace(document, token_ids=tuple(row.whole.tolist()))
    value = _value(where, row, text_field) if row.whole is None else row.whole
    name = f"field {text_field!r}" if row.whole is None else "the line"
    if full_doc and isinstance(value, list):
        if not value:
            raise DataError(f"{where}, {row.place}: {name} is an empty list, expected the document's sub-texts")
        parts = tuple(_text(where, row, part, f"{name}, sub-text {i + 1},") for i, part in enumerate(value))
        return FullDocument(document.id, "", label, document.source, parts=parts)
    return replace(document, text=_text(where, row, value, name))


def first(
    documents: Iterator[Document], count: int | None, labels: Collection[bool | None] = (True, False)
) -> Iterator[Document]:
    """The first `count` documents of each label, in their order; none is all. Reads on only as far as it must."""
    if count is None:
        yield from documents
        return
    missing = dict.fromkeys(labels, count)
    if not count:
        return
    for document in documents:
        if missing.get(document.is_member, 0):
            missing[document.is_member] -= 1
            yield document
        if not any(missing.values()):
            return


def _rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    if path.is_dir():
        return _folder_rows(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    for suffix, read in READERS.items():
        if path.name.lower().endswith(suffix):
            return read(path, wanted)
    raise DataError(f"{path}: unknown format; give a {', '.join(READERS)} file or a folder of .txt files")


def _jsonl_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    for number, value in json_lines(path):
        place, name = f"line {number}", f"{_stem(path)}:{number}"
        if isinstance(value, dict):
            yield Row(place, name, value, list(value))
        elif isinstance(value, str | list):
            yield Row(place, name, {}, [], value)
        else:
            raise DataError(f"{path}, {place}: {kind(value)}, expected an object, or a string that is the text")


def json_lines(path: Path) -> Iterator[tuple[int, object]]:
    """The values of a .jsonl[.gz|.zst] file, each with the number of its line, from 1; empty lines hold none.

    Raises:
        DataError: no such file, invalid JSON or UTF-8.
    """
    # Lines end at \n alone: other separators (U+2028, \x0b) may stand unescaped inside a JSON string.
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(_decode(line, path, first_line=number))
        except DataError:
            raise
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: invalid JSON: {error}") from error
        yield number, value


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _open(path: Path) -> io.BufferedIOBase:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path)
    if suffix == ".zst":  # of any number of frames; one that is cut off is an error, as it is for gzip
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 1 << 20)
    return path.open("rb")


def _csv_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    data = b"".join(_lines(path))
    _decode(data, path)  # before pyarrow, whose message would have no line
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    # One block and one thread: a row may be of any length, and errors carry its number.
    read = pa.csv.ReadOptions(block_size=max(len(data), 1), use_threads=False)
    try:
        names = pa.csv.open_csv(io.BytesIO(data), read, parse).schema.names
        # Without types, a column of numbers would not be text and "NA" would be null.
        convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        table = pa.csv.read_csv(io.BytesIO(data), read, parse, convert)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: invalid CSV: {error}") from error
    yield from _table_rows(path, names, wanted, iter(table.to_batches()))


def _parquet_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [name for name in names if name in wanted]
            yield from _table_rows(path, names, wanted, file.iter_batches(batch_size=1024, columns=columns))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: invalid Parquet: {error}") from error


def _table_rows(
    path: Path, names: list[str], wanted: Collection[str], batches: Iterator[pa.RecordBatch]
) -> Iterator[Row]:
    twice = sorted({name for name in names if name in wanted and names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: more than one column is called {', '.join(map(repr, twice))}")
    number = 0
    for batch in batches:
        columns = [name for name in batch.schema.names if name in wanted]
        for i in range(batch.num_rows):
            number += 1
            try:
                values = {name: batch.column(name)[i].as_py() for name in columns}
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, row {number}: invalid UTF-8: {error.reason}") from error
            yield Row(f"row {number}", f"{_stem(path)}:{number}", values, names)


def _array_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as .npy: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "iu":
        if isinstance(array, np.ndarray):
            found = f"{array.dtype} {array.shape}"
        else:
            found = "an archive"
            array.close()
        raise DataError(f"{path}: {found}, expected an array of integers [document, token]")
    for number, ids in enumerate(array, start=1):
        if ids.size and ids.min() < 0:
            raise DataError(f"{path}, row {number}: {ids.min()} is no token id; a row must be token ids alone")
        yield Row(f"row {number}", f"{_stem(path)}:{number}", {}, [], np.asarray(ids))


def _text_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    yield Row(path.name, _stem(path), {}, [], _decode(b"".join(_lines(path)), path))


def _folder_rows(folder: Path) -> Iterator[Row]:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise DataError(f"{folder}: holds no .txt files")
    for path in paths:
        text = _decode(b"".join(_lines(path)), path)
        yield Row(path.name, f"{folder.name}/{path.stem}", {}, [], text)


READERS: dict[str, Callable[[Path, Collection[str]], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".jsonl.gz": _jsonl_rows,
    ".jsonl.zst": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
    ".npy": _array_rows,
    ".txt": _text_rows,
}


def _text(where: str | Path, row: Row, value: object, name: str) -> str:
    if not isinstance(value, str):
        expected = "a string" + (" (full_doc takes a list of sub-texts)" if isinstance(value, list) else "")
        raise DataError(f"{where}, {row.place}: {name} is {kind(value)}, expected {expected}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can escape what no text holds
        raise DataError(f"{where}, {row.place}: {name} is not Unicode: {error.reason}") from error
    return value


def _label(where: str | Path, row: Row, field: str) -> bool:
    value = _value(where, row, field)
    label = LABELS.get(str(value).strip().lower())
    if label is None:
        raise DataError(
            f"{where}, {row.place}: field {field!r} is {value!r}, expected 1, true or 'member', "
            "or 0, false or 'nonmember'"
        )
    return label


def _id(where: str | Path, row: Row) -> str:
    value = row.values.get(ID_FIELD)
    if value is None or value == "":
        return row.default_id
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}, {row.place}: field {ID_FIELD!r} is {kind(value)}, expected a string or an integer")
    return str(value)


def _source(row: Row, default: str) -> str:
    value, pile = row.values.get(SOURCE_FIELD), row.values.get(PILE_FIELD)
    if not isinstance(value, str) and isinstance(pile, Mapping):
        value = pile.get("pile_set_name")
    return value if isinstance(value, str) and value else default


def _value(where: str | Path, row: Row, field: str) -> object:
    if field not in row.values:
        raise DataError(
            f"{where}, {row.place}: field {field!r} is missing; there are: {', '.join(row.fields) or 'none'}"
        )
    return row.values[field]


def _decode(data: bytes, path: Path, first_line: int = 1) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise DataError(f"{path}, line {line}: invalid UTF-8: {error.reason}") from error


def _stem(path: Path) -> str:
    """`members` of members.jsonl.gz."""
    suffix = max((s for s in READERS if path.name.lower().endswith(s)), key=len, default="")
    return path.name[: len(path.name) - len(suffix)]


def kind(value: object) -> str:
    """What a value is, in a message."""
    return "null" if value is None else f"of type {type(value).__name__}"

"""Documents from files: JSONL, CSV, Parquet and folders of text files.

Whatever is wrong with a file is a `DataError` that names the file, the line or row, and the field.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

ID_FIELD = "id"
SOURCE_FIELD = "source"
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


class Row(NamedTuple):
    place: str
    """For messages: `line 3`, `row 3`, `a.txt`."""
    default_id: str
    values: Mapping[str, object]
    fields: Collection[str]
    """All that the file has, also those that were not asked for."""


def read_documents(
    path: str | Path,
    *,
    text_field: str = "text",
    label_field: str | None = None,
    is_member: bool | None = None,
    max_documents: int | None = None,
) -> list[Document]:
    """Documents of a .jsonl[.gz], .csv or .parquet file, or of the .txt files in a folder, in their order.

    The field `id` (a string or an integer) is the document's id; without one, the file's name and the row's
    number are. The field `source`, where it is a string, is its source; otherwise the file's name is.

    Args:
        path: file or folder.
        text_field: field that holds the text; a folder of text files has no fields.
        label_field: field that is 1, true or "member", or 0, false or "nonmember".
        is_member: label of all documents, where there is no label_field.
        max_documents: the first so many; with a label_field, of members and of non-members each.

    Raises:
        DataError: no such file, an unknown format, no documents, a missing field, a value of the wrong type,
            invalid JSON or UTF-8.
    """
    path = Path(path)
    wanted = [text_field, ID_FIELD, SOURCE_FIELD] + ([] if label_field is None else [label_field])
    documents: list[Document] = []
    count: dict[bool | None, int] = {}
    labels = {is_member} if label_field is None else {True, False}
    for row in _rows(path, wanted, text_field):
        label = is_member if label_field is None else _label(path, row, label_field)
        if max_documents is None or count.get(label, 0) < max_documents:
            documents.append(
                Document(
                    id=_id(path, row),
                    text=_text(path, row, text_field),
                    is_member=label,
                    source=_source(path, row),
                )
            )
            count[label] = count.get(label, 0) + 1
        if max_documents is not None and all(count.get(label, 0) >= max_documents for label in labels):
            break
    if not documents:
        raise DataError(f"{path}: holds no documents")
    return documents


def _rows(path: Path, wanted: Collection[str], text_field: str) -> Iterator[Row]:
    if path.is_dir():
        return _text_rows(path, text_field)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    for suffix, read in READERS.items():
        if path.name.lower().endswith(suffix):
            return read(path, wanted)
    raise DataError(f"{path}: unknown format; give a {', '.join(READERS)} file or a folder of .txt files")


def _jsonl_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    # Lines end at \n alone: other separators (U+2028, \x0b) may stand unescaped inside a JSON string.
    for number, line in enumerate(_lines(path), start=1):
        place = f"line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(_decode(line, path, first_line=number))
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{path}, {place}: invalid JSON: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"{path}, {place}: {_kind(values)}, expected an object")
        yield Row(place, f"{_stem(path)}:{number}", values, list(values))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


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


def _text_rows(folder: Path, text_field: str) -> Iterator[Row]:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise DataError(f"{folder}: holds no .txt files")
    for path in paths:
        text = _decode(b"".join(_lines(path)), path)
        yield Row(path.name, f"{folder.name}/{path.stem}", {text_field: text}, [text_field])


READERS: dict[str, Callable[[Path, Collection[str]], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".jsonl.gz": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}


def _text(path: Path, row: Row, field: str) -> str:
    text = _value(path, row, field)
    if not isinstance(text, str):
        raise DataError(f"{path}, {row.place}: field {field!r} is {_kind(text)}, expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can escape what no text holds
        raise DataError(f"{path}, {row.place}: field {field!r} is not Unicode: {error.reason}") from error
    return text


def _label(path: Path, row: Row, field: str) -> bool:
    value = _value(path, row, field)
    label = LABELS.get(str(value).strip().lower())
    if label is None:
        raise DataError(
            f"{path}, {row.place}: field {field!r} is {value!r}, expected 1, true or 'member', "
            "or 0, false or 'nonmember'"
        )
    return label


def _id(path: Path, row: Row) -> str:
    value = row.values.get(ID_FIELD)
    if value is None or value == "":
        return row.default_id
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{path}, {row.place}: field {ID_FIELD!r} is {_kind(value)}, expected a string or an integer")
    return str(value)


def _source(path: Path, row: Row) -> str:
    value = row.values.get(SOURCE_FIELD)
    return value if isinstance(value, str) and value else _stem(path)


def _value(path: Path, row: Row, field: str) -> object:
    if field not in row.values:
        raise DataError(
            f"{path}, {row.place}: field {field!r} is missing; there are: {', '.join(row.fields) or 'none'}"
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


def _kind(value: object) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"

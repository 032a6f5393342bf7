"""Every format, and every way in which a file can be wrong."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimir_jax.data.readers import DataError, Document, read_documents

ROWS = [
    {"id": "a", "text": "One text,\nof two lines.", "source": "web"},
    {"id": "b", "text": "", "source": "web"},
    {"id": "c", "text": 'Quotes: "x"; 漢字 🦊', "source": "wiki"},
]
DOCUMENTS = [Document(row["id"], row["text"], True, row["source"]) for row in ROWS]


def write_jsonl(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {
    "data.jsonl": write_jsonl,
    "data.jsonl.gz": write_jsonl,
    "data.csv": write_csv,
    "data.parquet": write_parquet,
}
every_format = pytest.mark.parametrize("name", WRITERS)


def write(folder, name, rows):
    path = folder / name
    WRITERS[name](path, rows)
    return path


def error_of(path, **options):
    with pytest.raises(DataError) as caught:
        read_documents(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message[len(str(path)) :]


@every_format
def test_formats_agree(tmp_path, name):
    assert read_documents(write(tmp_path, name, ROWS), is_member=True) == DOCUMENTS


@every_format
def test_without_id_and_source_the_file_names_them(tmp_path, name):
    documents = read_documents(write(tmp_path, name, [{"body": "x"}, {"body": "y"}]), text_field="body")
    assert documents == [Document("data:1", "x", None, "data"), Document("data:2", "y", None, "data")]


@every_format
def test_max_documents_are_the_first(tmp_path, name):
    assert read_documents(write(tmp_path, name, ROWS), is_member=True, max_documents=2) == DOCUMENTS[:2]


@every_format
def test_max_documents_with_labels_counts_each_side(tmp_path, name):
    rows = [{"text": str(i), "y": label} for i, label in enumerate([1, 1, 1, 0, 0, 1, 0])]
    path = write(tmp_path, name, rows)
    documents = read_documents(path, label_field="y", max_documents=2)
    assert [(d.text, d.is_member) for d in documents] == [
        ("0", True),
        ("1", True),
        ("3", False),
        ("4", False),
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 0], [True, False]),
        ([True, False], [True, False]),
        ([1.0, 0.0], [True, False]),
        (["1", "0"], [True, False]),
        (["True", "FALSE"], [True, False]),
        (["member", "nonmember"], [True, False]),
        (["Member", "non-member"], [True, False]),
    ],
)
@every_format
def test_labels(tmp_path, name, labels, expected):
    path = write(tmp_path, name, [{"text": "x", "label": label} for label in labels])
    assert [d.is_member for d in read_documents(path, label_field="label")] == expected


@pytest.mark.parametrize("label", [2, -1, "yes", "", 0.5])
@every_format
def test_unknown_label(tmp_path, name, label):
    path = write(tmp_path, name, [{"text": "x", "label": label}])
    message = error_of(path, label_field="label")
    assert "1, row 1" in f"1{message}" or message.startswith(", line 1")
    assert "'label' is" in message
    assert "expected 1, true or 'member'" in message


@every_format
def test_missing_text_field_lists_the_others(tmp_path, name):
    message = error_of(write(tmp_path, name, ROWS), text_field="body")
    assert "field 'body' is missing; there are: id, text, source" in message
    assert "1: " in message


@every_format
def test_missing_field_when_no_other_field_is_used(tmp_path, name):
    message = error_of(write(tmp_path, name, [{"a": "x", "b": "y"}]))
    assert "field 'text' is missing; there are: a, b" in message


@every_format
def test_missing_label_field(tmp_path, name):
    message = error_of(write(tmp_path, name, ROWS), label_field="label")
    assert "field 'label' is missing; there are: id, text, source" in message


@pytest.mark.parametrize(
    ("text", "kind"),
    [(3, "of type int"), (None, "null"), (["x"], "of type list"), (True, "of type bool")],
)
@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_text_that_is_no_string(tmp_path, name, text, kind):
    path = write(tmp_path, name, [{"text": text}])
    assert f"1: field 'text' is {kind}, expected a string" in error_of(path)


def test_csv_columns_are_strings(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("id,text\n1,12\n2,NA\n3,\n", encoding="utf-8")
    assert [(d.id, d.text) for d in read_documents(path)] == [("1", "12"), ("2", "NA"), ("3", "")]


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_integer_ids(tmp_path, name):
    assert read_documents(write(tmp_path, name, [{"id": 7, "text": "x"}]))[0].id == "7"


@pytest.mark.parametrize("value", [1.5, [1], True])
def test_id_of_another_type(tmp_path, value):
    path = write(tmp_path, "data.jsonl", [{"id": value, "text": "x"}])
    assert f", line 1: field 'id' is of type {type(value).__name__}" in error_of(path)


@pytest.mark.parametrize("value", [None, ""])
def test_no_id(tmp_path, value):
    assert read_documents(write(tmp_path, "data.jsonl", [{"id": value, "text": "x"}]))[0].id == "data:1"


def test_source_that_is_no_string_gives_way_to_the_file(tmp_path):
    path = write(tmp_path, "data.jsonl", [{"text": "x", "source": {"url": "y"}}])
    assert read_documents(path)[0].source == "data"


def test_folder_of_text_files(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "b.txt").write_bytes(b"second\r\n")
    (folder / "a.txt").write_bytes("first é".encode())
    (folder / "c.md").write_bytes(b"not read")
    assert read_documents(folder, text_field="body", is_member=False) == [
        Document("notes/a", "first é", False, "notes"),
        Document("notes/b", "second\r\n", False, "notes"),
    ]


def test_missing_file(tmp_path):
    assert error_of(tmp_path / "none.jsonl") == ": no such file or folder"


def test_unknown_extension(tmp_path):
    path = tmp_path / "data.xlsx"
    path.touch()
    assert error_of(path).startswith(": unknown format; give a .jsonl, .jsonl.gz, .csv, .parquet file")


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_jsonl(tmp_path, content):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    assert error_of(path) == ": holds no documents"


def test_empty_csv(tmp_path):
    path = tmp_path / "data.csv"
    path.touch()
    assert ": invalid CSV" in error_of(path)


def test_csv_with_a_header_only(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("id,text\n", encoding="utf-8")
    assert error_of(path) == ": holds no documents"


def test_parquet_without_rows(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert error_of(path) == ": holds no documents"


def test_empty_folder(tmp_path):
    assert error_of(tmp_path) == ": holds no .txt files"


def test_invalid_json_names_the_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "x"}\n\n{"text": "y"\n', encoding="utf-8")
    assert error_of(path).startswith(", line 3: invalid JSON: ")


def test_json_that_is_no_object(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('["x"]\n', encoding="utf-8")
    assert error_of(path) == ", line 1: of type list, expected an object"


@pytest.mark.parametrize(("name", "before"), [("data.jsonl", b'{"text": "x"}\n{"text": "'), ("data.csv", b"text\nx")])
def test_invalid_utf8_names_the_line(tmp_path, name, before):
    path = tmp_path / name
    path.write_bytes(before + b"\xff\n")
    assert error_of(path).startswith(", line 2: invalid UTF-8: ")


def test_invalid_utf8_in_a_text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nthr\xff")
    with pytest.raises(DataError, match=r"a\.txt, line 3: invalid UTF-8"):
        read_documents(tmp_path)


def test_invalid_utf8_in_parquet(tmp_path):
    path = tmp_path / "data.parquet"
    texts = pa.array([b"x", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": texts}), path)
    assert error_of(path).startswith(", row 2: invalid UTF-8: ")


def test_escaped_surrogate(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "\\ud800"}\n', encoding="utf-8")
    assert error_of(path).startswith(", line 1: field 'text' is not Unicode: ")


def test_csv_with_too_many_values(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("id,text\n1,x\n2,y,z\n", encoding="utf-8")
    message = error_of(path)
    assert message.startswith(": invalid CSV: ")
    assert "Row #3" in message


def test_two_columns_of_one_name(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,text\nx,y\n", encoding="utf-8")
    assert error_of(path) == ": more than one column is called 'text'"


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no gzip" + data])
def test_damaged_gzip(tmp_path, damage):
    path = write(tmp_path, "data.jsonl.gz", ROWS * 10)
    path.write_bytes(damage(path.read_bytes()))
    assert error_of(path).startswith(": cannot be read: ")


def test_damaged_parquet(tmp_path):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"no parquet")
    assert error_of(path).startswith(": invalid Parquet: ")


def test_a_csv_row_may_be_longer_than_a_block(tmp_path):
    text = "word, " * 500_000
    assert read_documents(write(tmp_path, "data.csv", [{"text": text}]))[0].text == text


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5)


# The strings hold every line end, quote and separator that the formats treat in a way of their own.
@every_format
@settings(deadline=None)
@given(texts)
def test_round_trip(tmp_path_factory, name, texts):
    path = write(tmp_path_factory.mktemp("data"), name, [{"text": text} for text in texts])
    assert [d.text for d in read_documents(path)] == texts


@settings(deadline=None)
@given(texts)
def test_round_trip_of_text_files(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("data")
    for i, text in enumerate(texts):
        (folder / f"{i}.txt").write_bytes(text.encode())
    assert [d.text for d in read_documents(folder)] == texts

"""Every format, and every way in which a file can be wrong."""

import csv
import gzip
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimir_jax.data.readers import DataError, Document, FullDocument, first, read_documents, stream_documents

ROWS = [
    {"id": "a", "text": "One text,\nof two lines.", "source": "web"},
    {"id": "b", "text": "", "source": "web"},
    {"id": "c", "text": 'Quotes: "x"; 漢字 🦊', "source": "wiki"},
]
DOCUMENTS = [Document(row["id"], row["text"], True, row["source"]) for row in ROWS]


def write_jsonl(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    compress = {".gz": gzip.compress, ".zst": zstd}.get(path.suffix, bytes)
    path.write_bytes(compress(text.encode()))


def zstd(data):
    return bytes(pa.Codec("zstd").compress(data))


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
    "data.jsonl.zst": write_jsonl,
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
    formats = ".jsonl, .jsonl.gz, .jsonl.zst, .csv, .parquet, .npy, .txt"
    assert error_of(path).startswith(f": unknown format; give a {formats} file")


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
    path.write_text("3\n", encoding="utf-8")
    assert error_of(path) == ", line 1: of type int, expected an object, or a string that is the text"


def test_lines_that_are_the_text(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('"x\\ny"\n"z"\n', encoding="utf-8")
    assert read_documents(path) == [Document("data:1", "x\ny", None, "data"), Document("data:2", "z", None, "data")]


@pytest.mark.parametrize("line", ['["x", "y"]', '{"id": "data:1", "text": ["x", "y"]}'])
def test_sub_texts_need_full_doc(tmp_path, line):
    path = tmp_path / "data.jsonl"
    path.write_text(line, encoding="utf-8")
    assert error_of(path).endswith("is of type list, expected a string (full_doc takes a list of sub-texts)")
    (document,) = stream_documents(path, full_doc=True)
    assert document == FullDocument("data:1", "", None, "data", parts=("x", "y"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "line 1: field 'text' is an empty list, expected the document's sub-texts"),
        (["x", 3], "line 1: field 'text', sub-text 2, is of type int, expected a string"),
        (3, "line 1: field 'text' is of type int, expected a string"),
    ],
)
def test_bad_sub_texts(tmp_path, value, message):
    path = write(tmp_path, "data.jsonl", [{"text": value}])
    with pytest.raises(DataError, match=re.escape(f"{path}, {message}")):
        list(stream_documents(path, full_doc=True))


def test_source_of_the_raw_pile(tmp_path):
    rows = [{"text": "x", "meta": {"pile_set_name": "ArXiv"}}, {"text": "y", "meta": {"pile_set_name": "Github"}}]
    for name in "data.jsonl", "data.parquet":
        assert [d.source for d in read_documents(write(tmp_path, name, rows))] == ["ArXiv", "Github"]
    odd = [{"text": "x", "meta": "a"}, {"text": "x", "meta": {}}, {"text": "x", "meta": {"pile_set_name": 3}}]
    assert [d.source for d in read_documents(write(tmp_path, "data.jsonl", odd))] == ["data"] * 3


def test_rows_are_numbered_from_0_whatever_their_ids(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n\n{"text": "y"}\n', encoding="utf-8")
    assert [(d.id, d.row) for d in read_documents(path)] == [("a", 0), ("data:3", 1)]


def test_text_file(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes("one\r\ntwo é\n".encode())
    assert read_documents(path, is_member=True) == [Document("book", "one\r\ntwo é\n", True, "book")]


def test_token_ids(tmp_path):
    path = tmp_path / "sample.npy"
    np.save(path, np.array([[1, 2, 3], [4, 0, 2047]], np.uint16))
    documents = read_documents(path, is_member=False)
    assert documents == [
        Document("sample:1", "", False, "sample", token_ids=(1, 2, 3)),
        Document("sample:2", "", False, "sample", token_ids=(4, 0, 2047)),
    ]
    assert all(type(i) is int for d in documents for i in d.token_ids)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3, int), ": int64 (3,), expected an array of integers [document, token]"),
        (np.zeros((2, 3)), ": float64 (2, 3), expected an array of integers [document, token]"),
        (np.array([[1, 2], [3, -1]]), ", row 2: -1 is no token id; a row must be token ids alone"),
        (np.zeros((0, 3), int), ": holds no documents"),
        (np.array([None]), ": cannot be read as .npy: "),
    ],
)
def test_arrays_that_are_no_token_ids(tmp_path, array, message):
    path = tmp_path / "sample.npy"
    np.save(path, array, allow_pickle=True)
    assert error_of(path).startswith(message)


def test_no_array(tmp_path):
    path = tmp_path / "sample.npy"
    path.write_bytes(b"no array")
    assert error_of(path).startswith(": cannot be read as .npy: ")
    np.savez(tmp_path / "two.npz", np.zeros(1))
    (tmp_path / "two.npz").rename(path)
    assert error_of(path).startswith(": an archive, expected")


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: b"no zstd" + data])
def test_damaged_zstd(tmp_path, damage):
    path = write(tmp_path, "data.jsonl.zst", ROWS * 10)
    path.write_bytes(damage(path.read_bytes()))
    assert error_of(path).startswith(": cannot be read: ")


def test_zstd_of_several_frames(tmp_path):
    path = tmp_path / "data.jsonl.zst"
    lines = [json.dumps({"text": str(i) * i}).encode() + b"\n" for i in range(100)]
    path.write_bytes(zstd(b"".join(lines[:51]) + lines[51][:4]) + zstd(lines[51][4:] + b"".join(lines[52:])))
    assert [d.text for d in read_documents(path)] == [str(i) * i for i in range(100)]


def test_reading_is_as_lazy_as_its_use(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "x"}\n{"text": "y"}\nno JSON\n', encoding="utf-8")
    assert [d.text for d in read_documents(path, max_documents=2)] == ["x", "y"]
    assert next(stream_documents(path)).text == "x"
    with pytest.raises(DataError, match="line 3: invalid JSON"):
        list(stream_documents(path))


documents = st.lists(st.builds(lambda label, i: (label, i), st.sampled_from([True, False, None]), st.integers(0, 9)))


@given(documents, st.integers(0, 4))
def test_first_of_each_label(items, count):
    made = [Document(str(i), "x", label, "s") for i, (label, _) in enumerate(items)]
    drawn = []
    taken = list(first((drawn.append(d) or d for d in made), count))
    for label in (True, False):
        assert [d for d in taken if d.is_member is label] == [d for d in made if d.is_member is label][:count]
    assert all(d.is_member is not None for d in taken)
    if {label: sum(d.is_member is label for d in taken) for label in (True, False)} == {True: count, False: count}:
        assert drawn[-1:] == taken[-1:] or count == 0  # no document more was read than needed
    assert list(first(iter(made), None)) == made


def test_deep_json(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("[" * 100_000, encoding="utf-8")
    assert error_of(path).startswith(", line 1: invalid JSON: ")


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

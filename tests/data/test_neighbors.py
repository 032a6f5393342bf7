"""Neighbors: every layout that a file may have, and every way in which it may not match the documents."""

import json
import re
from dataclasses import replace

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.data.embedded import demo_documents
from mimir_jax.data.neighbors import read_neighbors, read_provenance, write_neighbors
from mimir_jax.data.readers import DataError, Document

TEXTS = ["the cat sat on the mat", "a dog ran over green fields", "rain fell for seven days", "we sing old songs"]
DOCUMENTS = [Document(f"d{i}", text, True, "s", row=i) for i, text in enumerate(TEXTS)]
NEIGHBORS = [[f"{text} now", f"{text} then", f"well {text}"] for text in TEXTS]
PARTS = [
    Document("a/1", "x", True, "s", parent="a", row=0),
    Document("a/2", "y", True, "s", parent="a", row=0),
    Document("b/1", "z", True, "s", parent="b", row=1),
]


@pytest.fixture
def jsonl(tmp_path):
    def write(*values):
        path = tmp_path / "neighbors.jsonl"
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
        return path

    return write


def error_of(path, documents=DOCUMENTS, **options):
    with pytest.raises(DataError) as caught:
        read_neighbors(path, documents, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message[len(str(path)) :]


def objects(documents=DOCUMENTS, neighbors=NEIGHBORS):
    return [{"id": d.id, "neighbors": texts} for d, texts in zip(documents, neighbors)]


def test_flat_and_nested_lists(jsonl):
    assert read_neighbors(jsonl(*NEIGHBORS), DOCUMENTS) == NEIGHBORS
    assert read_neighbors(jsonl(*[[texts] for texts in NEIGHBORS]), DOCUMENTS) == NEIGHBORS


def test_objects_by_id_in_any_order(jsonl):
    assert read_neighbors(jsonl(*objects()[::-1]), DOCUMENTS) == NEIGHBORS
    assert read_neighbors(jsonl(*objects()), DOCUMENTS[2:]) == NEIGHBORS[2:]


def test_count_takes_the_first(jsonl):
    assert read_neighbors(jsonl(*NEIGHBORS), DOCUMENTS, 2) == [texts[:2] for texts in NEIGHBORS]
    assert error_of(jsonl(*NEIGHBORS), count=4) == ", line 1: 3 neighbors of 'd0', expected at least 4"


def test_a_longer_file_is_taken_by_the_rows_of_the_source(jsonl):
    some = [DOCUMENTS[1], DOCUMENTS[3]]
    assert read_neighbors(jsonl(*NEIGHBORS), some) == [NEIGHBORS[1], NEIGHBORS[3]]
    for documents in ([replace(d, row=None) for d in some], [replace(d, row=0) for d in some]):
        message = error_of(jsonl(*NEIGHBORS), documents)
        assert message.startswith(": 4 lines of neighbors for 2 documents; a line is expected for each document")


def test_a_shorter_file(jsonl):
    assert error_of(jsonl(*NEIGHBORS[:3])).startswith(": 3 lines of neighbors for 4 documents")


NESTED = [[["x1", "x2"], ["y1"]], [["z1"]]]


@pytest.mark.parametrize(
    "values",
    [
        NESTED,
        [*NESTED, [["other"]]],
        [[["x1", "x2"], ["y1"], ["beyond max_substrs"]], ["z1"]],
        [["x1", "x2"], ["y1"], ["z1"]],
        [{"id": "b", "neighbors": [["z1"]]}, {"id": "a", "neighbors": NESTED[0]}],
        [{"id": "b/1", "neighbors": ["z1"]}, {"id": "a", "neighbors": NESTED[0]}],
        objects(PARTS, [["x1", "x2"], ["y1"], ["z1"]]),
    ],
)
def test_sub_texts(jsonl, values):
    assert read_neighbors(jsonl(*values), PARTS) == [["x1", "x2"], ["y1"], ["z1"]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[["x1"]], [["z1"]]], ", line 1: neighbors of 1 sub-texts, but 'a/2' is one more"),
        ([["x1"], ["z1"]], ", line 1: neighbors of one text, but 'a/2' is one of several sub-texts"),
    ],
)
def test_sub_texts_that_do_not_match(jsonl, values, message):
    assert error_of(jsonl(*values), PARTS) == message


def test_several_sub_texts_of_a_document_that_is_one(jsonl):
    path = jsonl([["x"], ["y"]], ["z"])
    assert error_of(path, DOCUMENTS[:2]) == ", line 1: neighbors of 2 sub-texts, but 'd0' is one text"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], ": holds no neighbors"),
        ([{"provenance": {}}], ": holds no neighbors"),
        (["x"], ", line 1: of type str, expected a list of texts, or an object with id and neighbors"),
        ([{"id": "d0"}], ", line 1: of type dict, expected a list of texts, or an object with id and neighbors"),
        ([NEIGHBORS[0], {"provenance": {}}], ", line 2: of type dict, expected a list of texts, or an object with"),
        ([NEIGHBORS[0], *objects()], ": lists and objects are mixed"),
        ([NEIGHBORS[0], [], *NEIGHBORS[2:]], ", line 2: 0 neighbors of 'd1', expected at least 1"),
        ([NEIGHBORS[0], [[]], *NEIGHBORS[2:]], ", line 2: 0 neighbors of 'd1', expected at least 1"),
        ([NEIGHBORS[0], ["x", 3], *NEIGHBORS[2:]], ", line 2: neighbor 2 of 'd1' is of type int, expected a string"),
        ([NEIGHBORS[0], [None], *NEIGHBORS[2:]], ", line 2: neighbor 1 of 'd1' is null, expected a string"),
        ([NEIGHBORS[0], [["x"], "y"], *NEIGHBORS[2:]], ", line 2: neighbor 1 of 'd1' is of type list, expected a"),
        ([{"id": "d0", "neighbors": "x"}, *objects()[1:]], ", line 1: neighbors are of type str, expected a list"),
        ([*objects(), objects()[0]], ", line 5: neighbors of document 'd0' for the second time"),
        (objects()[:3], ": no neighbors of 1 of 4 documents, such as 'd3'; it has 3 others, such as 'd0'"),
        ([{"id": 7, "neighbors": ["x"]}], ": no neighbors of 4 of 4 documents, such as 'd0'; it has 1 others, such as"),
    ],
)
def test_files_that_do_not_match(jsonl, values, message):
    assert error_of(jsonl(*values)).startswith(message)


def test_no_file(tmp_path):
    assert error_of(tmp_path / "none.jsonl") == ": no such file of neighbors"
    assert error_of(tmp_path) == ": no such file of neighbors"


def test_invalid_json(tmp_path):
    path = tmp_path / "neighbors.jsonl"
    path.write_text('["x"]\n["y"\n', encoding="utf-8")
    assert error_of(path).startswith(", line 2: invalid JSON")


def test_lines_out_of_place(jsonl):
    message = error_of(jsonl(*[NEIGHBORS[(i + 1) % 4] for i in range(4)]))
    assert message == (
        ": of 4 documents checked, 4 have neighbors that look more like the next one's: are the lines in the order "
        "of these documents?"
    )


@pytest.mark.parametrize("step", [1, 7, 333, -1])
def test_real_texts_out_of_place(jsonl, step):
    documents = demo_documents()[:1000]
    neighbors = [[re.sub(r"\b(the|a|of)\b", "any", d.text)] for d in documents]
    assert read_neighbors(jsonl(*neighbors), documents) == neighbors
    moved = neighbors[::-1] if step < 0 else [*neighbors[step:], *neighbors[:step]]
    assert "have neighbors that look more like the next one's" in error_of(jsonl(*moved), documents)


def test_neighbors_unlike_any_document_are_no_fault(jsonl):
    other = [["quite another text"] for _ in TEXTS]
    assert read_neighbors(jsonl(*other), DOCUMENTS) == other


@pytest.mark.parametrize("name", ["n.jsonl", "deep/er/n.jsonl.gz"])
def test_written_neighbors_are_read(tmp_path, name):
    path = tmp_path / name
    odd = [["\u2028", "a\nb", "漢字 🦊"], *NEIGHBORS[1:]]
    write_neighbors(path, DOCUMENTS, odd, {"model": "bert", "seed": 3})
    assert read_neighbors(path, DOCUMENTS[::-1]) == odd[::-1]
    assert read_provenance(path) == {"model": "bert", "seed": 3}
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(DataError, match=re.escape(f"{path}, line 3: the neighbors of 'd1' were made of another text")):
        read_neighbors(path, [DOCUMENTS[0], replace(DOCUMENTS[1], text="changed")])


def test_neighbors_of_token_ids(tmp_path):
    documents = [Document("a", "", True, "s", token_ids=(1, 2))]
    write_neighbors(tmp_path / "n.jsonl", documents, [["x"]], {})
    assert read_neighbors(tmp_path / "n.jsonl", documents) == [["x"]]
    with pytest.raises(DataError, match="made of another text"):
        read_neighbors(tmp_path / "n.jsonl", [replace(documents[0], token_ids=(1, 3))])


def test_a_list_for_each_document_is_written(tmp_path):
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        write_neighbors(tmp_path / "n.jsonl", DOCUMENTS, NEIGHBORS[:3], {})
    assert list(tmp_path.iterdir()) == []


def test_files_of_another_origin_have_no_provenance(jsonl):
    assert read_provenance(jsonl(*NEIGHBORS)) is None
    assert read_provenance(jsonl(*objects())) is None
    assert read_provenance(jsonl()) is None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@given(st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=4))
def test_round_trip(tmp_path_factory, neighbors):
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    documents = [Document(str(i), "x", True, "s") for i in range(len(neighbors))]
    write_neighbors(path, documents, neighbors, {})
    assert read_neighbors(path, documents) == neighbors


def test_mimirs_neighbors_on_the_hub(monkeypatch, tmp_path):
    def download(repository, filename, *, repo_type):
        side = "in" if filename.split("/")[1] == "train_neighbors" else "out"
        assert filename.endswith("_neighbors/c4_neighbors_25_bert_in_place_swap.jsonl")
        path = tmp_path / f"{side}.jsonl"
        path.write_text("".join(json.dumps([f"{side} {text}"]) + "\n" for text in TEXTS), encoding="utf-8")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    both = [d for pair in zip(DOCUMENTS, [replace(d, is_member=False) for d in DOCUMENTS]) for d in pair]
    assert read_neighbors("mimir/c4", both) == [[f"{side} {text}"] for text in TEXTS for side in ("in", "out")]
    assert read_neighbors("mimir/c4", both[4:6]) == [[f"in {TEXTS[2]}"], [f"out {TEXTS[2]}"]]
    with pytest.raises(DataError, match="mimir/github: no such split"):
        read_neighbors("mimir/github", both)

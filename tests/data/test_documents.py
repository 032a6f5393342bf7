"""Which documents a configuration means, and what is said of them."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.config import DataConfig
from mimir_jax.data.documents import (
    DataError,
    Document,
    fingerprint,
    load_documents,
    overlapping_texts,
    unique_ids,
)


@pytest.fixture
def jsonl(tmp_path):
    def write(name, *rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


def test_two_sources(jsonl):
    data = DataConfig(
        members=jsonl("in.jsonl", {"body": "x"}, {"body": ""}),
        nonmembers=jsonl("out.jsonl", {"body": "y"}),
        text_field="body",
    )
    assert load_documents(data) == [
        Document("in:1", "x", True, "in"),
        Document("in:2", "", True, "in"),
        Document("out:1", "y", False, "out"),
    ]


def test_one_source_with_labels_keeps_its_order(jsonl):
    path = jsonl("all.jsonl", {"text": "x", "y": 0}, {"text": "y", "y": 1}, {"text": "z", "y": 0})
    documents = load_documents(DataConfig(documents=path, label_field="y"))
    assert [d.is_member for d in documents] == [False, True, False]


def test_max_documents_counts_each_side(jsonl):
    side = [{"text": str(i)} for i in range(5)]
    data = DataConfig(members=jsonl("in.jsonl", *side), nonmembers=jsonl("out.jsonl", *side), max_documents=2)
    assert [d.id for d in load_documents(data)] == ["in:1", "in:2", "out:1", "out:2"]


def test_no_source_is_the_embedded_example():
    documents = load_documents(DataConfig())
    assert sum(d.is_member is True for d in documents) == sum(d.is_member is False for d in documents) == 1000


def test_embedded_sources_mix_with_files(jsonl):
    path = jsonl("own.jsonl", {"body": "x"})
    documents = load_documents(DataConfig(members=path, nonmembers="demo/shifted", text_field="body"))
    assert len(documents) == 501
    assert {d.source for d in documents if not d.is_member} == {"shakespeare_folio"}


@pytest.mark.parametrize("side", ["members", "nonmembers"])
def test_one_side_alone(side):
    with pytest.raises(DataError, match=rf"^{side} is given but (non)?members is not: give both"):
        load_documents(DataConfig(**{side: "x.jsonl"}))


@pytest.mark.parametrize("side", ["members", "nonmembers"])
def test_documents_beside_a_side(side):
    with pytest.raises(DataError, match="give either documents, or members and nonmembers"):
        load_documents(DataConfig(documents="x.jsonl", **{side: "y.jsonl"}))


@pytest.mark.parametrize("n", [0, -1])
def test_max_documents_below_one(n):
    with pytest.raises(DataError, match=f"max_documents is {n}, expected at least 1"):
        load_documents(DataConfig(max_documents=n))


@pytest.mark.parametrize(("label", "missing"), [(1, "non-members"), (0, "members")])
def test_one_label_only(jsonl, label, missing):
    path = jsonl("all.jsonl", {"text": "x", "label": label})
    with pytest.raises(DataError, match=f"all.jsonl: holds no {missing} by its field 'label'"):
        load_documents(DataConfig(documents=path))


def test_equal_ids_of_two_sides_are_told_apart(jsonl):
    rows = [{"id": 0, "text": "x"}, {"id": 1, "text": "y"}]
    data = DataConfig(members=jsonl("in/d.jsonl", *rows), nonmembers=jsonl("out/d.jsonl", *rows))
    assert [d.id for d in load_documents(data)] == ["0", "1", "0#2", "1#2"]


def document(name="a", text="x", is_member=True):
    return Document(name, text, is_member, "s")


@given(st.lists(st.sampled_from(["a", "a#2", "a#3", "a#2#2", "b"])))
def test_unique_ids(names):
    unique = [d.id for d in unique_ids(document(name) for name in names)]
    assert len(set(unique)) == len(names)
    firsts = [i for i, name in enumerate(names) if name not in names[:i]]
    assert [unique[i] for i in firsts] == [names[i] for i in firsts]
    assert all(new.startswith(old) for new, old in zip(unique, names, strict=True))


def test_overlapping_texts():
    documents = [
        document("a", "both"),
        document("b", "in"),
        document("c", "both"),
        document("d", "also both"),
        document("e", "also both", False),
        document("f", "both", False),
        document("g", "out", False),
        document("h", "in", None),
    ]
    assert overlapping_texts(documents) == ["both", "also both"]


DOCUMENTS = [document("a", "x"), document("b", "y", False), document("c", "z", None)]


def test_fingerprint_is_stable():
    encoding = b'["a", "x", true]\n["b", "y", false]\n["c", "z", null]\n'
    assert fingerprint(iter(DOCUMENTS)) == hashlib.sha256(encoding).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [
        DOCUMENTS[:2],
        DOCUMENTS[::-1],
        [replace(DOCUMENTS[0], id="A"), *DOCUMENTS[1:]],
        [replace(DOCUMENTS[0], text="X"), *DOCUMENTS[1:]],
        [replace(DOCUMENTS[0], is_member=False), *DOCUMENTS[1:]],
        [replace(DOCUMENTS[0], is_member=None), *DOCUMENTS[1:]],
    ],
)
def test_fingerprint_sees_every_change(changed):
    assert fingerprint(changed) != fingerprint(DOCUMENTS)


@given(*[st.lists(st.builds(document, st.text(max_size=3), st.text(max_size=3)), max_size=3)] * 2)
def test_fingerprints_are_equal_for_equal_documents_only(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (a == b)

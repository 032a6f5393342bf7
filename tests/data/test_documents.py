"""Which documents a configuration means, and what is said of them."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.config import DataConfig
from mimir_jax.data import documents as documents_module
from mimir_jax.data.documents import (
    DataError,
    Document,
    fingerprint,
    load_documents,
    load_other_nonmembers,
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


def words(count, mark="w"):
    return " ".join(f"{mark}{i}" for i in range(count))


@pytest.fixture
def sides(jsonl):
    """Members with 0 to 9 words, each twice; non-members with 5 to 9."""
    members = [{"text": words(i)} for i in range(10) for _ in range(2)]
    return {
        "members": jsonl("in.jsonl", *members),
        "nonmembers": jsonl("out.jsonl", *[{"text": words(i, "n")} for i in range(5, 10)]),
    }


def lengths(documents, side):
    return [len(d.text.split()) for d in documents if d.is_member is side]


def test_selection_in_its_order(sides):
    data = DataConfig(**sides, dedupe=True, min_words=3, max_words=8, max_data=6, max_documents=5)
    found = load_documents(data)
    assert lengths(found, True) == [3, 4, 5, 6, 7]
    assert lengths(found, False) == [5, 6, 7, 8, 8]
    assert [d.row for d in found if d.is_member] == [6, 8, 10, 12, 14]
    assert lengths(load_documents(replace(data, max_data=2, max_documents=None)), True) == [3, 4]
    # Without dedupe, the first six texts of enough words are three in pairs.
    assert lengths(load_documents(replace(data, dedupe=False)), True) == [3, 3, 4, 4, 5]
    fewer = load_documents(replace(data, max_words_cutoff=False, max_data=None, max_documents=None))
    assert lengths(fewer, True) == [3, 4, 5, 6, 7]
    assert lengths(load_documents(DataConfig(**sides, max_rows=3)), True) == [0, 0, 1]


def test_selection_of_a_labelled_source_is_by_side(jsonl):
    rows = [{"text": words(i % 4), "label": int(i < 8)} for i in range(16)]
    data = DataConfig(documents=jsonl("all.jsonl", *rows), dedupe=True, min_words=1, max_data=2)
    found = load_documents(data)
    assert [(d.row, d.is_member) for d in found] == [(1, True), (2, True), (9, False), (10, False)]


def test_paired_sides_are_of_one_length(sides):
    found = load_documents(DataConfig(**sides, paired=True))
    assert lengths(found, True) == [0, 0, 1, 1, 2]
    assert lengths(found, False) == [5, 6, 7, 8, 9]


def test_beginnings(jsonl):
    data = DataConfig(
        members=jsonl("in.jsonl", {"id": "a", "text": "one two three"}),
        nonmembers=jsonl("out.jsonl", {"id": "a", "text": "eins zwei"}),
        tok_by_tok=True,
    )
    assert [(d.id, d.text, d.parent) for d in load_documents(data)] == [
        ("a/1", "one", None),
        ("a/2", "one two", None),
        ("a/3", "one two three", None),
        ("a#2/1", "eins", None),
        ("a#2/2", "eins zwei", None),
    ]
    assert [d.id for d in load_documents(replace(data, paired=True))] == ["a/1", "a/2", "a#2/1", "a#2/2"]


def test_sub_texts_have_the_parent_that_is_theirs(jsonl):
    rows = [{"id": "a", "parts": ["x", "y", "z"]}, {"id": "a", "parts": ["w"]}]
    data = DataConfig(
        members=jsonl("in.jsonl", *rows),
        nonmembers=jsonl("out.jsonl", *rows[1:]),
        text_field="parts",
        full_doc=True,
        max_substrs=2,
    )
    found = load_documents(data)
    assert [(d.id, d.text, d.parent) for d in found] == [
        ("a/1", "x", "a"),
        ("a/2", "y", "a"),
        ("a#2/1", "w", "a#2"),
        ("a#3/1", "w", "a#3"),
    ]
    assert len(load_documents(replace(data, max_substrs=None))) == 5
    assert {d.parent for d in load_documents(replace(data, max_documents=1))} == {"a", "a#2"}


def test_windows_of_texts(jsonl):
    data = DataConfig(
        members=jsonl("in.jsonl", {"text": words(2)}, {"text": words(8)}),
        nonmembers=jsonl("out.jsonl", {"text": words(5, "n")}),
        full_doc=True,
        min_words=3,
        max_words=3,
    )
    assert [(d.id, d.text) for d in load_documents(data)] == [
        ("in:2/1", "w0 w1 w2"),
        ("in:2/2", "w3 w4 w5"),
        ("out:1/1", "n0 n1 n2"),
    ]
    with pytest.raises(DataError, match="in:1: a text, not a list of sub-texts; give max_words"):
        load_documents(replace(data, min_words=0, max_words=None))


def test_max_tokens_counts_with_the_tokenizer(jsonl):
    data = DataConfig(
        members=jsonl("in.jsonl", {"text": "the king and the queen " * 20}, {"text": "the king"}),
        nonmembers=jsonl("out.jsonl", {"text": "unutterabl" * 9}, {"text": "no"}),
        max_tokens=9,
        tokenizer="demo/tokenizer",
    )
    cut, *others = load_documents(data)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(documents_module.demo_path("tokenizer"))
    assert len(tokenizer(cut.text)["input_ids"]) <= 9
    assert len(cut.text.split()) >= 5
    assert ("the king and the queen " * 20).startswith(cut.text)
    assert [d.text for d in others] == ["the king", "no"]  # a word of more than 9 tokens leaves nothing


def test_a_tokenizer_that_is_not_there(sides, tmp_path):
    with pytest.raises(DataError, match=f"tokenizer {tmp_path}: cannot be loaded"):
        load_documents(DataConfig(**sides, max_tokens=9, tokenizer=str(tmp_path)))


def test_pretokenized(tmp_path):
    for name, shift in ("in", 0), ("out", 5):
        np.save(tmp_path / f"{name}.npy", np.arange(6).reshape(2, 3) + shift)
    data = DataConfig(members=str(tmp_path / "in.npy"), nonmembers=str(tmp_path / "out.npy"))
    found = load_documents(data)
    assert [(d.id, d.token_ids) for d in found] == [
        ("in:1", (0, 1, 2)),
        ("in:2", (3, 4, 5)),
        ("out:1", (5, 6, 7)),
        ("out:2", (8, 9, 10)),
    ]
    assert overlapping_texts(found) == []
    assert fingerprint(found) != fingerprint([replace(found[0], token_ids=(0, 1, 3)), *found[1:]])
    assert overlapping_texts([*found, replace(found[0], is_member=False)]) == ["0 1 2"]
    with pytest.raises(DataError, match="holds token ids, of which tok_by_tok makes no beginnings"):
        load_documents(replace(data, tok_by_tok=True))


def test_other_nonmembers(jsonl):
    pile = jsonl("pile.jsonl", *[{"text": words(3, s), "meta": {"pile_set_name": s}} for s in "AAB"])
    data = DataConfig(
        members=f"{pile}#A", nonmembers=f"{pile}#A", other_nonmembers=(f"{pile}#B", "demo/shifted"), max_words=2,
        max_documents=2,
    )  # fmt: skip
    others = load_other_nonmembers(data)
    assert [(d.text, d.is_member) for d in others[f"{pile}#B"]] == [("B0 B1", False)]
    assert lengths(others["demo/shifted"], False) == [2, 2]
    assert load_other_nonmembers(DataConfig()) == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_words": 0}, "max_words is 0, expected at least 1"),
        ({"max_data": 0}, "max_data is 0, expected at least 1"),
        ({"max_rows": -1}, "max_rows is -1, expected at least 1"),
        ({"max_substrs": 0}, "max_substrs is 0, expected at least 1"),
        ({"min_words": -1}, "min_words is -1, expected 0 or more"),
        (
            {"min_words": 5, "max_words": 5, "max_words_cutoff": False},
            "no text has at least 5 and fewer than 5 words",
        ),
        ({"max_tokens": 5}, "max_tokens and tokenizer go together"),
        ({"tokenizer": "x"}, "max_tokens and tokenizer go together"),
        ({"full_doc": True, "tok_by_tok": True}, "full_doc and tok_by_tok cannot be combined"),
        ({"full_doc": True, "max_tokens": 5, "tokenizer": "x"}, "full_doc and max_tokens cannot be combined"),
        ({"other_nonmembers": ("x", "y", "x")}, "other_nonmembers: given twice: x"),
    ],
)
def test_settings_that_make_no_sense(fields, message):
    for load in load_documents, load_other_nonmembers:
        with pytest.raises(DataError, match=message):
            load(DataConfig(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_words": 50}, "in.jsonl: no members are left: 20 read, 0 of at least 50 words"),
        (
            {"dedupe": True, "max_words": 1, "min_words": 0, "max_words_cutoff": False, "nonmembers": None},
            "out.jsonl: no non-members are left: 5 read, 5 different, 0 of at least 0 and fewer than 1 words",
        ),
        ({"max_tokens": 1, "tokenizer": "demo/tokenizer", "min_words": 9}, "0 within 1 tokens"),
    ],
)
def test_a_selection_that_leaves_nothing_says_where(sides, fields, message):
    fields = {name: value for name, value in fields.items() if value is not None}
    with pytest.raises(DataError, match=re.escape(message)):
        load_documents(DataConfig(**sides, **fields))


def test_a_selection_that_leaves_one_label_says_where(jsonl):
    rows = [{"text": words(3), "label": 1}, {"text": words(2), "label": 0}]
    with pytest.raises(DataError, match="no non-members are left: 1 read, 0 of at least 3 words"):
        load_documents(DataConfig(documents=jsonl("all.jsonl", *rows), min_words=3))


def test_a_data_set_of_the_hub_that_is_too_large_to_hold(monkeypatch):
    monkeypatch.setattr(documents_module, "HUB_DOCUMENTS", 3)
    endless = [Document(str(i), "x", True, "c4") for i in range(9)]
    monkeypatch.setattr(documents_module, "read_source", lambda *_, **__: iter(endless))
    with pytest.raises(DataError, match="c4: more than 3 documents, held in memory; give max_documents"):
        load_documents(DataConfig(members="c4", nonmembers="c4/validation"))


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
        [replace(DOCUMENTS[0], parent="p"), *DOCUMENTS[1:]],
        [replace(DOCUMENTS[0], token_ids=(1,)), *DOCUMENTS[1:]],
        [replace(DOCUMENTS[0], token_ids=()), *DOCUMENTS[1:]],
    ],
)
def test_fingerprint_sees_every_change(changed):
    assert fingerprint(changed) != fingerprint(DOCUMENTS)


@given(*[st.lists(st.builds(document, st.text(max_size=3), st.text(max_size=3)), max_size=3)] * 2)
def test_fingerprints_are_equal_for_equal_documents_only(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (a == b)

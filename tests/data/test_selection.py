"""The steps of a selection, each against a plain restatement of what MIMIR does with lists."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.data import selection
from mimir_jax.data.readers import DataError, Document, FullDocument

WHITE = " \t\n\r\x0b\x0c\x85\xa0\u2028\u3000"
texts = st.text(st.sampled_from("ab" + WHITE), max_size=30)
counts = st.integers(1, 6)


def document(text, is_member=True, name="a", **fields):
    return Document(name, text, is_member, "s", **fields)


def documents_of(texts, labels=(True,)):
    return [document(text, labels[i % len(labels)], str(i), row=i) for i, text in enumerate(texts)]


def spans_of(text):
    """Start and end of the words, by walking over the characters."""
    spans, start = [], None
    for i, character in enumerate(text + " "):
        if character.isspace() and start is not None:
            spans.append((start, i))
            start = None
        elif not character.isspace() and start is None:
            start = i
    return spans


@given(texts)
def test_word_spans(text):
    assert selection.word_spans(text) == spans_of(text)
    assert [text[a:b] for a, b in selection.word_spans(text)] == text.split()


@given(texts, counts)
def test_cut_words(text, count):
    cut = selection.cut_words(text, count)
    assert text.startswith(cut)
    assert cut.split() == text.split()[:count]
    assert cut == cut.rstrip()
    assert selection.cut_words(cut, count) == cut


@given(texts, st.integers(0, 6))
def test_has_words(text, count):
    assert selection.has_words(text, count) == (len(text.split()) >= count)


def mimir_words(texts, min_words, max_words, cutoff):
    """Deduplicate, keep texts of enough words, cut or drop long ones: on whole lists, as MIMIR does it."""
    kept = [(text, spans_of(text)) for text in dict.fromkeys(texts)]
    kept = [(text, spans) for text, spans in kept if len(spans) >= min_words]
    if cutoff:
        return [text[: spans[min(max_words, len(spans)) - 1][1]] for text, spans in kept]
    return [text for text, spans in kept if len(spans) < max_words]


@given(st.lists(texts, max_size=8), counts, counts, st.booleans())
def test_words_and_repetitions_are_mimirs(texts, min_words, max_words, cutoff):
    distinct = selection.distinct(documents_of(texts))
    found = [d.text for d in selection.with_words(distinct, min_words, max_words, cutoff)]
    assert found == mimir_words(texts, min_words, max_words, cutoff)


@given(st.lists(texts, max_size=8), counts)
def test_no_bound_on_words(texts, min_words):
    found = [d.text for d in selection.with_words(documents_of(texts), min_words, None)]
    assert found == [text for text in texts if len(text.split()) >= min_words]


@given(st.lists(st.sampled_from("abc"), max_size=8), st.sampled_from([(True,), (True, False), (None,)]))
def test_distinct(texts, labels):
    documents = documents_of(texts, labels)
    once = list(selection.distinct(documents))
    assert list(selection.distinct(once)) == once
    assert {(d.text, d.is_member) for d in once} == {(d.text, d.is_member) for d in documents}
    assert len({(d.text, d.is_member) for d in once}) == len(once)
    assert all(d.row == min(e.row for e in documents if (e.text, e.is_member) == (d.text, d.is_member)) for d in once)


def test_distinct_looks_at_token_ids_and_sub_texts():
    documents = [
        document("", token_ids=(1, 2)),
        document("", token_ids=(1, 3)),
        document(""),
        FullDocument("a", "", True, "s", parts=("x",)),
        FullDocument("b", "", True, "s", parts=("y",)),
        document("", token_ids=(1, 3)),
    ]
    assert list(selection.distinct(documents)) == documents[:5]


def test_words_of_pretokenized_documents_and_lists_are_not_counted():
    documents = [document("", token_ids=(1,)), FullDocument("a", "", True, "s", parts=("x",))]
    assert list(selection.with_words(documents, 5, 6)) == documents
    assert list(selection.within_tokens(documents, 1, lambda texts: [[0] * 9 for _ in texts])) == documents


def pieces(texts):
    """A tokenizer of two characters a token within words, with a special token at both ends."""
    return [[0, *(m.end() for m in re.finditer(r"\S\S?", text)), 0] for text in texts]


def mimir_tokens(text, limit):
    """One cut, as MIMIR makes it."""
    if len(pieces([text])[0]) <= limit:
        return text
    cut = text[: pieces([text])[0][limit - 1]]
    return cut[: spans_of(cut)[-2][1]]


@given(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=9), st.integers(1, 12))
def test_within_tokens(words, limit):
    text = " ".join(words)
    found = [d.text for d in selection.within_tokens([document(text)], limit, pieces)]
    if found:
        assert len(pieces(found)[0]) <= limit
        assert found[0].split() == words[: len(found[0].split())]
        # MIMIR fails where a cut leaves too much or nothing; where it does not, it is the same
        assert found[0] == mimir_tokens(text, limit)
    else:
        assert len(words) == 1 or limit <= 2 + len(pieces([" ".join(words[:2])])[0])


def test_a_cut_that_grows_in_tokens_is_cut_again():
    # Tokens that span words: "a b c d" is 2 tokens, but cut to "a b" it is 3.
    sizes = {"a b c d": [4, 7], "a b": [1, 2, 3], "a": [1]}
    found = list(selection.within_tokens([document("a b c d")], 1, lambda texts: [sizes.get(t, [1]) for t in texts]))
    assert [d.text for d in found] == ["a"]


def test_texts_are_tokenized_in_batches():
    sizes = []

    def ends(texts):
        sizes.append(len(texts))
        return [[1]] * len(texts)

    stream = selection.within_tokens(iter(documents_of(["x"] * 150)), 1, ends)
    next(stream)
    assert sizes == [selection.BATCH]
    assert len(list(stream)) == 149
    assert sum(sizes) == 150


@given(texts, counts, counts)
def test_windows(text, words, min_words):
    found = selection.windows(text, words, min_words)
    every = text.split()
    # The same by a loop that stops where too little is left.
    expected = []
    for i in range(0, len(every), words):
        if len(every) - i < min_words:
            break
        expected.append(every[i : i + words])
    assert [piece.split() for piece in found] == expected
    assert all(piece in text and piece == piece.strip() for piece in found)


@given(st.text(" a\n", max_size=12), st.none() | st.integers(1, 9))
def test_word_prefixes(text, count):
    words = text.split(" ")
    expected = [" ".join(words[: i + 1]) for i in range(count or len(words))]
    assert selection.word_prefixes(text, count) == expected


@given(st.lists(st.text("a ", max_size=8), max_size=5), st.lists(st.text("a ", max_size=8), max_size=5))
def test_paired_beginnings_are_mimirs(members, nonmembers):
    expected = {True: [], False: []}
    for nonmember, member in zip(nonmembers, members):
        for count in range(len(nonmember.split(" "))):
            expected[False].append(" ".join(nonmember.split(" ")[: count + 1]))
            expected[True].append(" ".join(member.split(" ")[: count + 1]))
    documents = [*documents_of(members), *documents_of(nonmembers, (False,))]
    found = list(selection.beginnings(selection.pair(documents), paired=True))
    for side in True, False:
        assert [d.text for d in found if d.is_member is side] == expected[side]


@given(st.lists(st.booleans(), max_size=9))
def test_pair(labels):
    documents = documents_of("x" * len(labels), labels or (True,))
    paired = selection.pair(documents)
    count = min(labels.count(True), labels.count(False))
    for side in True, False:
        assert [d for d in paired if d.is_member is side] == [d for d in documents if d.is_member is side][:count]
    assert paired == sorted(paired, key=lambda d: d.row)


def test_beginnings_alone_go_by_their_own_words():
    found = list(selection.beginnings([document("a b c"), document("d", False, "n")]))
    assert [(d.id, d.text, d.is_member) for d in found] == [
        ("a/1", "a", True),
        ("a/2", "a b", True),
        ("a/3", "a b c", True),
        ("n/1", "d", False),
    ]


def test_sub_texts():
    documents = [FullDocument("a", "", True, "s", row=4, parts=("x", "y", "z")), document("one two three four five")]
    given = selection.with_parts(documents, 2, 1, 2)
    assert list(selection.sub_texts(given)) == [
        Document("a/1", "x", True, "s", parent="a"),
        Document("a/2", "y", True, "s", parent="a"),
        Document("a/1", "one two", True, "s", parent="a"),
        Document("a/2", "three four", True, "s", parent="a"),
    ]
    assert [d.row for d in selection.sub_texts(documents)] == [4, 4, 4]
    assert len(list(selection.sub_texts(selection.with_parts(documents, 2, 1, None)))) == 6
    assert list(selection.with_parts([document("one two")], 5, 3, None)) == []


def test_a_text_without_windows_to_cut():
    with pytest.raises(DataError, match="a: a text, not a list of sub-texts; give max_words"):
        list(selection.with_parts([document("x")], None, 0, 20))

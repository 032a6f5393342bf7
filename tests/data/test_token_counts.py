"""Tables of token frequencies: counted right, found again where they hold, and never used for another tokenizer."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.config import ConfigError, TokenCountsConfig
from mimir_jax.data import token_counts
from mimir_jax.data.embedded import demo_documents
from mimir_jax.data.hub import HubError
from mimir_jax.data.readers import DataError
from mimir_jax.data.token_counts import (
    MAX_TOKENS,
    Provenance,
    TokenCounts,
    cache_folder,
    count_tokens,
    read_table,
    table,
    write_table,
)

VOCAB = 128


def encode(texts: list[str]) -> list[list[int]]:
    """A token a character, of ASCII."""
    return [[min(ord(c), VOCAB - 1) for c in text] for text in texts]


def of(text: str) -> int:
    return ord(text)


# Counting.


def test_counts_by_hand() -> None:
    found = count_tokens(["abba", "", "ac", "aa"], encode, VOCAB)
    assert {chr(i): int(n) for i, n in enumerate(found.counts) if n} == {"a": 5, "b": 2, "c": 1}
    assert {chr(i): int(n) for i, n in enumerate(found.documents) if n} == {"a": 3, "b": 1, "c": 1}
    assert (found.n_texts, found.n_tokens) == (4, 8)
    assert found.counts.shape == found.documents.shape == (VOCAB,)
    assert found.counts.dtype == found.documents.dtype == np.int64


@given(st.lists(st.text(st.characters(max_codepoint=VOCAB - 1), max_size=20), min_size=1), st.integers(1, 25))
def test_equal_to_a_plain_loop(texts: list[str], most: int) -> None:
    texts.append("x")
    found = count_tokens(texts, encode, VOCAB, max_tokens_per_text=most)
    counts, documents = Counter(), Counter()
    for text in texts:
        counts.update(text[:most])
        documents.update(set(text[:most]))
    assert found.counts.tolist() == [counts[chr(i)] for i in range(VOCAB)]
    assert found.documents.tolist() == [documents[chr(i)] for i in range(VOCAB)]


def test_texts_are_cut() -> None:
    found = count_tokens(["a" * MAX_TOKENS + "b", "b"], encode, VOCAB)
    assert (found.counts[of("a")], found.counts[of("b")]) == (MAX_TOKENS, 1)
    assert found.documents[of("b")] == 1


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(0, VOCAB, n))) for n in rng.integers(0, 50, 60)]
    whole = count_tokens(texts, encode, VOCAB)
    monkeypatch.setattr(token_counts, "CHUNK_TEXTS", 7)
    monkeypatch.setattr(token_counts, "CHUNK_CHARACTERS", 100)
    seen = []

    def recorded(chunk: list[str]) -> list[list[int]]:
        seen.append(chunk)
        return encode(chunk)

    chunked = count_tokens(texts, recorded, VOCAB)
    np.testing.assert_array_equal(chunked.counts, whole.counts)
    np.testing.assert_array_equal(chunked.documents, whole.documents)
    assert [text for chunk in seen for text in chunk] == texts
    assert max(map(len, seen)) <= 7
    assert len(seen) > 60 / 7


def test_a_stream_is_read_no_further_than_it_is_counted() -> None:
    read = []

    def endless() -> Iterator[str]:
        while True:
            read.append(1)
            yield "a"

    found = count_tokens(endless(), encode, VOCAB, max_texts=1500)
    assert (found.n_texts, found.n_tokens, len(read)) == (1500, 1500, 1500)


@pytest.mark.parametrize("beyond", [-1, VOCAB])
def test_ids_beyond_the_vocabulary(beyond: int) -> None:
    with pytest.raises(DataError, match=f"token id {beyond} is not one of the tokenizer's {VOCAB}"):
        count_tokens(["a"], lambda texts: [[5, beyond]], VOCAB)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_nothing_to_count(texts: list[str]) -> None:
    with pytest.raises(DataError, match=f"no token to count in {len(texts)} texts"):
        count_tokens(texts, encode, VOCAB)


# Tables by configuration.


class Reader:
    """A `read_texts` that says how often it was asked, and for what."""

    def __init__(self, texts: list[str], error: Exception | None = None):
        self.texts, self.error = texts, error
        self.asked: list[tuple[str, str, int]] = []

    def __call__(self, source: str, text_field: str, max_texts: int) -> Iterator[str]:
        self.asked.append((source, text_field, max_texts))
        yield from self.texts[:max_texts]
        if self.error is not None:
            raise self.error


Ask = Callable[..., TokenCounts]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    def asked(reader: Reader, source: str = "texts", digest: str = "t1", vocab: int = VOCAB, **fields) -> TokenCounts:
        config = TokenCountsConfig(**{"source": source, "folder": str(tmp_path / "tables"), **fields})
        return table(config, digest, encode, vocab, reader)

    return asked


def tables(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "tables").iterdir())


def assert_same(one: TokenCounts, other: TokenCounts) -> None:
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.documents, other.documents)
    assert one.counts.dtype == other.counts.dtype
    assert (one.n_texts, one.n_tokens, one.provenance) == (other.n_texts, other.n_tokens, other.provenance)


def test_counted_once_and_found_again(tmp_path: Path, ask: Ask) -> None:
    reader = Reader(["abc", "a", "zz"])
    first = ask(reader, text_field="body", max_texts=2)
    assert (first.n_texts, first.n_tokens, first.counts[of("a")]) == (2, 4, 2)
    again = ask(reader, text_field="body", max_texts=2)
    assert_same(again, first)
    assert reader.asked == [("texts", "body", 2)]
    assert first.notes == again.notes == ()
    assert first.provenance is not None
    assert (first.provenance.source, first.provenance.tokenizer, first.provenance.n_texts) == ("texts", "t1", 2)
    (path,) = tables(tmp_path)
    with np.load(path) as archive:  # as anyone else would read it
        assert json.loads(str(archive["provenance"]))["max_texts"] == 2
        assert archive["counts"].sum() == 4


@pytest.mark.parametrize(
    "other", [{"digest": "t2"}, {"vocab": VOCAB + 1}, {"max_texts": 1}, {"text_field": "body"}, {"source": "others"}]
)
def test_another_question_is_counted_anew(tmp_path: Path, ask: Ask, other: dict) -> None:
    reader = Reader(["abc", "a"])
    ask(reader)
    ask(reader, **other)
    assert len(reader.asked) == 2
    assert len(tables(tmp_path)) == 2


def test_the_fingerprint_tells_texts_apart(ask: Ask) -> None:
    found = [ask(Reader(texts), source=f"s{i}") for i, texts in enumerate([["ab", "c"], ["a", "bc"], ["ab", "c"]])]
    prints = [one.provenance.fingerprint for one in found if one.provenance]
    assert prints[0] == prints[2] != prints[1]


def test_a_local_source_that_changed_is_counted_anew(tmp_path: Path, ask: Ask) -> None:
    path, reader = tmp_path / "corpus.jsonl", Reader(["abc"])
    path.write_text("one")
    ask(reader, source=str(path))
    ask(reader, source=str(path))
    assert len(reader.asked) == 1
    path.write_text("another")
    ask(reader, source=str(path))
    assert len(reader.asked) == 2


def test_a_folder_that_changed_is_counted_anew(tmp_path: Path, ask: Ask) -> None:
    folder, reader = tmp_path / "corpus", Reader(["abc"])
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    ask(reader, source=str(folder))
    (folder / "b.txt").write_text("two")
    ask(reader, source=str(folder))
    ask(reader, source=str(folder))
    assert len(reader.asked) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: b"PK" + data[10:]])
def test_a_damaged_table_is_named_and_counted_again(tmp_path: Path, ask: Ask, damage: Callable[[bytes], bytes]) -> None:
    reader = Reader(["abc", "a"])
    first = ask(reader)
    (path,) = tables(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    again = ask(reader)
    assert_same(again, first)
    assert len(again.notes) == 1
    assert str(path) in again.notes[0]
    assert "damaged" in again.notes[0]
    assert "counted again" in again.notes[0]
    assert ask(reader).notes == ()
    assert tables(tmp_path) == [path]


@given(st.data())
def test_no_flipped_byte_changes_a_count(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    provenance = Provenance("s", "", "text", 5, MAX_TOKENS, "t", VOCAB, n_texts=2)
    counted = replace(count_tokens(["abca", "b"], encode, VOCAB), provenance=provenance)
    path = tmp_path_factory.getbasetemp() / f"flip{os.getpid()}.npz"
    write_table(path, counted)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        found = read_table(path)
    except DataError:
        return
    assert_same(found, counted)  # a byte of no meaning, such as a date


def test_a_table_of_another_name_is_not_taken(tmp_path: Path, ask: Ask) -> None:
    reader = Reader(["abc"])
    ask(reader, source="one")
    (path,) = tables(tmp_path)
    ask(reader, source="two")
    other = next(p for p in tables(tmp_path) if p != path)
    os.replace(other, path)
    found = ask(reader, source="one")
    assert found.provenance is not None
    assert found.provenance.source == "one"
    assert "not the table that its name says" in found.notes[0]


def test_nothing_half_written_is_left(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file, **arrays) -> None:
        file.write(b"some")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(ConfigError, match=r"token_counts\.folder: .*cannot be written: no space left"):
        ask(Reader(["abc"]))
    assert tables(tmp_path) == []


def test_the_folder_is_a_file(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "file").touch()
    reader = Reader(["abc"])
    with pytest.raises(ConfigError, match=r"token_counts\.folder: .*file"):
        ask(reader, folder=str(tmp_path / "file"))
    assert reader.asked == []  # said before the work


def test_the_users_cache(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ask(Reader(["abc"]), folder=None)
    assert len(list((tmp_path / "mimir_jax" / "token_counts").glob("texts-*.npz"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "mimir_jax" / "token_counts"
    # A cache is a convenience: one that cannot be written is a note.
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = ask(Reader(["abc"]), folder=None)
    assert found.n_tokens == 3
    assert "cannot be written" in found.notes[0]


def test_max_texts(ask: Ask) -> None:
    with pytest.raises(ConfigError, match=r"token_counts\.max_texts: 0, must be at least 1"):
        ask(Reader(["abc"]), max_texts=0)


def test_a_source_without_text(ask: Ask) -> None:
    with pytest.raises(DataError, match=r"token_counts\.source: texts: no token to count in 1 texts"):
        ask(Reader([""]))


def test_a_reader_of_too_many_texts(ask: Ask) -> None:
    class Eager(Reader):
        def __call__(self, source: str, text_field: str, max_texts: int) -> Iterator[str]:
            return iter(self.texts)

    assert ask(Eager(["a"] * 5), max_texts=3).n_texts == 3


# C4 and the embedded example.


def test_auto_is_c4(ask: Ask) -> None:
    reader = Reader(["abc"])
    found = ask(reader, source="auto", text_field="body")
    assert reader.asked == [("c4", "text", 100000)]
    assert found.provenance is not None
    assert found.provenance.source == "c4"
    assert_same(ask(reader, source="c4"), found)
    assert len(reader.asked) == 1


@pytest.mark.parametrize("after", [0, 3])
def test_auto_without_the_hub_is_the_example(ask: Ask, after: int) -> None:
    """Whether there is no connection at all or it breaks on the way."""
    reader = Reader(["abc"] * after, HubError("c4: the hub cannot be reached"))
    found = ask(reader, source="auto")
    texts = [document.text for document in demo_documents()]
    assert found.n_texts == len(texts)
    expected = count_tokens(texts, encode, VOCAB)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert found.provenance is not None
    assert found.provenance.source == "demo"
    assert len(found.notes) == 1
    assert "embedded example" in found.notes[0]
    assert "the hub cannot be reached" in found.notes[0]
    # The example's table is reused, the note is not lost, and C4 is taken as soon as it is there.
    assert ask(reader, source="auto").notes == found.notes
    reader.error = None
    reader.texts = ["abc"]
    assert ask(reader, source="auto").n_tokens == 3


def test_c4_by_name_without_the_hub(ask: Ask) -> None:
    with pytest.raises(HubError, match="cannot be reached"):
        ask(Reader([], HubError("c4: the hub cannot be reached")), source="c4")


def test_the_example_in_part_is_of_both_sides(ask: Ask) -> None:
    reader = Reader([])
    found = ask(reader, source="demo", max_texts=10)
    documents = demo_documents()
    texts = [d.text for label in (True, False) for d in [d for d in documents if d.is_member is label][:5]]
    np.testing.assert_array_equal(found.counts, count_tokens(texts, encode, VOCAB).counts)
    assert reader.asked == []


# Tables from elsewhere.


def saved(path: Path, array: object) -> str:
    np.save(path, np.asarray(array))
    return str(path)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.float32, np.float64])
def test_an_array_of_counts(tmp_path: Path, ask: Ask, dtype: type) -> None:
    counts = np.arange(VOCAB, dtype=dtype)
    reader = Reader([])
    found = ask(reader, source=saved(tmp_path / "c.npy", counts))
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.documents, counts)
    assert found.n_tokens == counts.sum()
    assert found.provenance is None
    assert reader.asked == []


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((2, VOCAB)), "have 2 axes"),
        (np.array(3), "have 0 axes"),
        (np.array(["a"] * VOCAB), "are of type <U1"),
        (np.array([True] * VOCAB), "are of type bool"),
        (np.array([1.0] * (VOCAB - 1) + [np.nan]), "are not all finite"),
        (np.array([1.0] * (VOCAB - 1) + [np.inf]), "are not all finite"),
        (np.array([1] * (VOCAB - 1) + [-1]), "are not all 0 or more"),
        (np.ones(VOCAB + 1), f"{VOCAB + 1} counts, but the target's tokenizer has {VOCAB} ids"),
        (np.ones(0), f"0 counts, but the target's tokenizer has {VOCAB} ids"),
    ],
)
def test_an_array_that_is_none_of_counts(tmp_path: Path, ask: Ask, array: np.ndarray, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(Reader([]), source=saved(tmp_path / "c.npy", array))
    assert str(tmp_path / "c.npy") in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"text"])
@pytest.mark.parametrize("name", ["c.npy", "c.npz"])
def test_a_file_that_cannot_be_read(tmp_path: Path, ask: Ask, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"token_counts\.source: .*c\.np"):
        ask(Reader([]), source=str(tmp_path / name))


def test_an_archive_under_an_arrays_name(tmp_path: Path, ask: Ask) -> None:
    np.savez(tmp_path / "c", counts=np.ones(VOCAB))
    os.replace(tmp_path / "c.npz", tmp_path / "c.npy")
    with pytest.raises(ConfigError, match="are an archive"):
        ask(Reader([]), source=str(tmp_path / "c.npy"))


def test_an_archive_of_something_else(tmp_path: Path, ask: Ask) -> None:
    np.savez(tmp_path / "c.npz", counts=np.ones(VOCAB))
    with pytest.raises(ConfigError, match="no table of token counts"):
        ask(Reader([]), source=str(tmp_path / "c.npz"))


def test_a_stored_table_by_its_path(tmp_path: Path, ask: Ask) -> None:
    reader = Reader(["abc"])
    first = ask(reader)
    (path,) = tables(tmp_path)
    assert_same(ask(reader, source=str(path)), first)
    assert len(reader.asked) == 1


@pytest.mark.parametrize("other", [{"digest": "t2"}, {"vocab": VOCAB + 1}])
def test_a_stored_table_of_another_tokenizer(tmp_path: Path, ask: Ask, other: dict) -> None:
    ask(Reader(["abc"]))
    (path,) = tables(tmp_path)
    with pytest.raises(ConfigError, match=rf"counted with another tokenizer, of {VOCAB} ids"):
        ask(Reader([]), source=str(path), **other)


def test_mimirs_document_counts(golden: Path, ask: Ask) -> None:
    """MIMIR adds a [PAD]: its table has one entry more than the tokenizer."""
    path = golden / "dc_pdd_document_counts.npy"
    found = ask(Reader([]), source=str(path), vocab=2049)
    assert found.documents.shape == (2049,)
    with pytest.raises(ConfigError, match="another tokenizer"):
        ask(Reader([]), source=str(path), vocab=2048)

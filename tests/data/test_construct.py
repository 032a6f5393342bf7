"""Data sets out of a corpus: every rule of the paper, the same sample whatever the order, faults named."""

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimir_jax.data.construct import Recipe, construct, write
from mimir_jax.data.readers import DataError, read_documents
from tests.conftest import SHARED

PLAIN = Recipe(min_words=5, max_words=10, max_tokens=None, tokenizer=None)
Corpus = Callable[..., Recipe]


def text_of(number: int, words: int = 12) -> str:
    return " ".join(f"n{number}w{i}" for i in range(words))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """A recipe with files of these texts (or rows) as its parts."""

    def write_parts(train: Sequence[object], heldout: Sequence[object] = (), **settings: object) -> Recipe:
        names = {}
        for name, rows in (("train", train), ("heldout", heldout)):
            lines = [json.dumps(row if isinstance(row, dict) else {"text": row}) for row in rows]
            (tmp_path / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            names[name] = (str(tmp_path / f"{name}.jsonl"),) if rows else ()
        return replace(PLAIN, **names, **settings)  # type: ignore[arg-type]

    return write_parts


def texts(rows: Sequence[dict]) -> list[str]:
    return [row["text"] for row in rows]


def test_words_duplicates_and_both_sides(corpus: Corpus) -> None:
    train = [text_of(1), text_of(1), text_of(2, 4), text_of(3, 5)]
    made = construct(corpus(train, [text_of(1) + " other end", text_of(4, 30), "short"]))
    assert sorted(texts(made.texts["members"])) == sorted([text_of(1, 10), text_of(3, 5)])
    assert texts(made.texts["nonmembers"]) == [text_of(4, 10)]  # the other is a member, once cut
    assert made.manifest["steps"]["members"] == {"read": 4, "of at least 5 words": 3}
    assert made.manifest["steps"]["nonmembers"] == {"read": 3, "of at least 5 words": 2, "not in the training part": 1}
    assert made.manifest["documents"] == {"members": 2, "nonmembers": 1}


def test_the_choice_is_the_seeds_not_the_orders(corpus: Corpus) -> None:
    train, heldout = [text_of(i) for i in range(60)], [text_of(i) for i in range(60, 100)]
    first = construct(corpus(train, heldout, count=10))
    again = construct(corpus(train[::-1], heldout[::-1], count=10))
    more = construct(corpus(train, heldout, count=20))
    other = construct(corpus(train, heldout, count=10, seed=1))
    for side in ("members", "nonmembers"):
        assert texts(first.texts[side]) == texts(again.texts[side]) == texts(more.texts[side])[:10]
        assert texts(first.texts[side]) != texts(other.texts[side])


def test_tokens_of_a_tokenizer(corpus: Corpus) -> None:
    def token_ends(some: Sequence[str]) -> list[list[int]]:
        return [[*range(2, len(text) + 1, 2), len(text)] for text in some]  # a token every two characters

    made = construct(corpus([text_of(1)], [text_of(2)], max_tokens=12), token_ends)
    (text,) = texts(made.texts["members"])
    assert text == text_of(1, 4)
    with pytest.raises(DataError, match="max_tokens needs a tokenizer"):
        construct(corpus([text_of(1)], [text_of(2)], max_tokens=12))


@pytest.mark.parametrize("bloom", [None, 1000])
def test_ngram_filter(corpus: Corpus, bloom: int | None) -> None:
    train = [text_of(i, 20) for i in range(20)]
    half = " ".join([*text_of(3, 20).split()[10:15], *text_of(90, 5).split()])  # its 3-grams: 3 of 8 are known
    settings = {"ngram": 3, "bloom_ngrams": bloom}
    made = construct(corpus(train, [half, text_of(91)], max_overlap=0.2, **settings))
    assert texts(made.texts["nonmembers"]) == [text_of(91, 10)]
    made = construct(corpus(train, [half, text_of(91)], min_overlap=0.2, max_overlap=0.8, **settings))
    assert texts(made.texts["nonmembers"]) == [half]
    said = made.manifest["ngram_index"]
    assert said["texts"] == 20
    assert said["ngrams"] == 20 * 18 if bloom is None else said["false_positive_rate"]["measured"] < 0.01
    with pytest.raises(DataError, match=r"no nonmembers are left: 1 read, .* 1 not in the training part"):
        construct(corpus(train, [half], max_overlap=0.1, **settings))


def test_full_documents_and_token_ids(corpus: Corpus) -> None:
    recipe = corpus([text_of(1, 26), text_of(2, 12)], [text_of(3, 40)], full_min_words=20, first_tokens=15)
    made = construct(recipe, ids=lambda text: range(len(text.split())))
    (full,) = made.texts["members_full"]  # the last window has 6 words, of at least 5
    assert [len(part.split()) for part in full["text"]] == [10, 10, 6]
    assert [len(part.split()) for part in made.texts["nonmembers_full"][0]["text"]] == [10] * 4
    np.testing.assert_array_equal(made.token_ids["members_ids"], [np.arange(15)])
    assert made.token_ids["members_ids"].dtype == np.int32
    with pytest.raises(DataError, match="first_tokens needs ids_tokenizer"):
        construct(recipe)


def test_temporal_split_with_titles(corpus: Corpus) -> None:
    rows = [
        {"text": text_of(i, 8), "title": f"Title {i}", "made": day}
        for i, day in enumerate(["2019-05-01", "13-Jun-2020", "2020-07-01T10:00:00Z", "2023", "May 3, 2024"])
    ]
    settings = {"date_field": "made", "members_before": "2020-07-01", "nonmembers_from": "2023-01-01"}
    made = construct(corpus(rows, title_field="title", **settings))
    assert sorted(texts(made.texts["members"])) == [f"Title {i}\n{text_of(i, 8)}" for i in (0, 1)]
    assert {row["date"] for row in made.texts["nonmembers"]} == {"2023", "May 3, 2024"}
    with pytest.raises(DataError, match=r"train:6: 'soon' is no date"):
        construct(corpus([*rows, {"text": text_of(9), "title": "", "made": "soon"}], **settings))
    with pytest.raises(DataError, match=r"train:1: no field 'made'"):
        construct(corpus([text_of(1)], **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": ()}, "train names no source"),
        ({"heldout": ()}, "heldout names no source"),
        ({"date_field": "d", "members_before": "2020"}, "needs date_field, members_before and nonmembers_from"),
        ({"date_field": "d", "members_before": "2021", "nonmembers_from": "2020"}, "would be on both sides"),
        ({"count": 0}, "count is 0"),
        ({"min_words": 11}, "min_words 11 is more than max_words 10"),
        ({"train": ("absent.jsonl",)}, "absent.jsonl: no such file"),
    ],
)
def test_faults(settings: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        construct(replace(PLAIN, **{"train": ("demo/members",), "heldout": ("demo/nonmembers",), **settings}))


def test_written_with_a_manifest(corpus: Corpus, tmp_path: Path) -> None:
    made = construct(corpus([text_of(1)], [text_of(2)], first_tokens=3), ids=lambda text: [1, 2, 3, 4])
    folder = tmp_path / "made"
    manifest = write(made, folder)
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.json"}
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    (source,) = {name for name in manifest["sources"] if "train" in name}
    assert manifest["sources"][source] == hashlib.sha256(Path(source).read_bytes()).hexdigest()
    assert manifest["recipe"]["seed"] == 0
    (document,) = read_documents(folder / "members.jsonl", is_member=True)
    assert document.text == text_of(1, 10)
    assert read_documents(folder / "members_ids.npy")[0].token_ids == (1, 2, 3)
    with pytest.raises(DataError, match="holds a data set already"):
        write(made, folder)


def test_peps() -> None:
    """Real text with dates: members are older, whatever the form of the date."""
    path = SHARED / "data" / "peps.jsonl.gz"
    if not path.exists():
        pytest.skip(f"PEPs are not at {path}")
    recipe = Recipe(
        train=(str(path),), title_field="title", date_field="created", members_before="2010-01-01",
        nonmembers_from="2020-01-01", max_tokens=None, tokenizer=None, count=30, full_min_words=400,
    )  # fmt: skip
    made = construct(recipe)
    assert [len(rows) for rows in made.texts.values()] == [30, 30, 30, 30]
    assert all(100 <= len(text.split()) <= 200 for text in texts(made.texts["members"]))
    assert all(int(row["date"][-4:]) < 2010 for row in made.texts["members"])
    assert all(int(row["date"][-4:]) >= 2020 for row in made.texts["nonmembers"])
    with gzip.open(path, "rt", encoding="utf-8") as file:
        titles = {json.loads(line)["title"] for line in file}
    assert all(text.partition("\n")[0] in titles for text in texts(made.texts["members"]))

"""Members and non-members out of a corpus whose training and held-out parts are known, as MIMIR's were made.

Duan et al. 2024, arXiv:2402.07841, section 3 and appendix A: texts of 100 to 200 words, cut after the 200th and to 512
tokens of BERT's tokenizer, each once, non-members filtered by their n-gram overlap with the training part. What is
taken is decided by a hash of the seed and the text: the same whatever the order of the corpus, and found in passes
that hold no more than what they take, and a number for each held-out text.
"""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from mimir_jax.data import hub
from mimir_jax.data.ngram_index import BloomIndex, ExactIndex, Index, fill, inclusion, overlap, within
from mimir_jax.data.readers import DataError, Document, row_document, stream_rows, wanted_fields
from mimir_jax.data.selection import TokenEnds, cut_tokens, cut_words, has_words, windows
from mimir_jax.data.sources import read_source, split_source

SIDES = {True: "members", False: "nonmembers"}
MANIFEST = "manifest.json"

Ids = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Recipe:
    """How a data set is made."""

    train: tuple[str, ...] = ()
    """Sources of what was trained on, as in --data.members of a run."""
    heldout: tuple[str, ...] = ()
    """Sources of what was not; with the dates below, both parts may be one source, named as train."""
    text_field: str = "text"
    """Field that holds the text."""
    title_field: str | None = None
    """Field that is put before the text, as in the paper's temporal Wikipedia."""
    date_field: str | None = None
    """Field of a date, for temporal splits."""
    members_before: str | None = None
    """Members are dated before this day (2020-03-01)."""
    nonmembers_from: str | None = None
    """Non-members are dated on this day or after it."""
    count: int = 1000
    """Documents of each side at most."""
    min_words: int = 100
    """Only texts of at least so many words."""
    max_words: int = 200
    """Texts are cut after so many words."""
    max_tokens: int | None = 512
    """Texts are cut to whole words of at most so many tokens of `tokenizer`."""
    tokenizer: str | None = "google-bert/bert-base-uncased"
    """Folder or hub id of what max_tokens counts with; none with max_tokens none."""
    ngram: int | None = None
    """Filter non-members by their overlap of so many words with the whole training part (the paper: 7 and 13)."""
    min_overlap: float = 0.0
    """Least overlap that is kept."""
    max_overlap: float = 0.2
    """Overlaps from this on are dropped (the paper: .2 and .8)."""
    bloom_ngrams: int | None = None
    """Hold the training part's n-grams in a Bloom filter for so many different ones; by default exactly, which takes
    16 bytes each."""
    false_positive_rate: float = 0.001
    """Of the Bloom filter."""
    full_min_words: int | None = None
    """Also take full documents of at least so many words (the paper: 400), in sub-texts of max_words words, of which
    the last has at least min_words."""
    first_tokens: int | None = None
    """Also write the first so many token ids (the paper: 300) of uncut texts that have as many."""
    ids_tokenizer: str | None = None
    """Folder or hub id of the tokenizer of these ids: the target's."""
    processes: int = 1
    """That hash the training part's n-grams."""
    seed: int = 0
    """Of the choice."""


@dataclass(frozen=True)
class Constructed:
    """What was taken, by kind of file: `members`, `nonmembers`, `members_full`, ...

    Attributes:
        texts: documents, in the order in which they were chosen; of full documents a list of sub-texts.
        token_ids: [doc, token], `members_ids` and `nonmembers_ids`.
        manifest: settings, sources and what each step left.
    """

    texts: Mapping[str, list[dict[str, Any]]]
    token_ids: Mapping[str, np.ndarray]
    manifest: dict[str, Any]


class _Smallest:
    """The documents with the smallest keys of all that were offered, each key once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._heap: list[tuple[int, Any]] = []
        self._keys: set[int] = set()

    def wants(self, key: int) -> bool:
        # Once a key was dropped, only smaller ones are wanted: equal texts need not be remembered.
        return key not in self._keys and (len(self._heap) < self.count or -self._heap[0][0] > key)

    def add(self, key: int, value: Any) -> None:
        self._keys.add(key)
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, (-key, value))
        else:
            self._keys.discard(-heapq.heappushpop(self._heap, (-key, value))[0])

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in sorted(self._heap, key=lambda entry: -entry[0]))


def construct(recipe: Recipe, token_ends: TokenEnds | None = None, ids: Ids | None = None) -> Constructed:
    """Make a data set; nothing is written.

    Args:
        recipe: settings.
        token_ends: where the tokens of texts end, for max_tokens.
        ids: token ids of a text, for first_tokens.

    Raises:
        DataError: settings that mean nothing, a fault in a source, or no documents left on a side.
    """
    _check(recipe, token_ends, ids)
    index, indexed = _index(recipe)
    taken: dict[str, _Smallest] = {}
    steps: dict[str, Counter[str]] = {}
    # Of the training part, which may be large, only those texts are remembered that the held-out part has too.
    heldout = {_key(0, cut_words(document.text, recipe.max_words)) for document, _ in _rows(recipe, False)}
    shared: set[int] = set()
    for is_member in (True, False):
        steps[SIDES[is_member]] = Counter()
        taken |= _take(recipe, is_member, heldout, shared, index, token_ends, ids, steps[SIDES[is_member]])
    for side in SIDES.values():
        if not list(taken[side]):
            raise DataError(f"no {side} are left: {', '.join(f'{n} {step}' for step, n in steps[side].items())}")
    texts = {name: list(one) for name, one in taken.items() if not name.endswith("_ids")}
    arrays = {
        name: np.array([row["ids"] for row in one], np.int32).reshape(-1, recipe.first_tokens or 0)
        for name, one in taken.items()
        if name.endswith("_ids")
    }
    manifest = {
        "recipe": asdict(recipe),
        "sources": {source: _digest_of_source(source) for source in dict.fromkeys((*recipe.train, *recipe.heldout))},
        "steps": {side: dict(counts) for side, counts in steps.items()},
        "ngram_index": indexed,
        "documents": {name: len(list(one)) for name, one in taken.items()},
    }
    return Constructed(texts, arrays, manifest)


def _check(recipe: Recipe, token_ends: TokenEnds | None, ids: Ids | None) -> None:
    dated = recipe.members_before is not None or recipe.nonmembers_from is not None
    if not recipe.train:
        raise DataError("train names no source of what was trained on")
    if not recipe.heldout and not dated:
        raise DataError("heldout names no source of what was not trained on; or give date_field and both dates")
    if dated and None in (recipe.date_field, recipe.members_before, recipe.nonmembers_from):
        raise DataError("a temporal split needs date_field, members_before and nonmembers_from")
    if dated and _day(recipe.members_before, "members_before") > _day(recipe.nonmembers_from, "nonmembers_from"):
        raise DataError("members_before is after nonmembers_from: documents between them would be on both sides")
    for name in ("count", "min_words", "max_words", "ngram", "full_min_words", "first_tokens", "processes"):
        if (value := getattr(recipe, name)) is not None and value < 1:
            raise DataError(f"{name} is {value}, expected at least 1")
    if recipe.min_words > recipe.max_words:
        raise DataError(f"min_words {recipe.min_words} is more than max_words {recipe.max_words}")
    if recipe.max_tokens is not None and token_ends is None:
        raise DataError("max_tokens needs a tokenizer that counts; or give max_tokens none")
    if recipe.first_tokens is not None and ids is None:
        raise DataError("first_tokens needs ids_tokenizer, the target's")


def _index(recipe: Recipe) -> tuple[Index | None, dict[str, Any] | None]:
    """The n-grams of the whole training part, where non-members are filtered by them; and what is said of it."""
    if recipe.ngram is None:
        return None, None
    index: ExactIndex | BloomIndex
    if recipe.bloom_ngrams is None:
        index = ExactIndex(recipe.ngram)
    else:
        index = BloomIndex(recipe.ngram, recipe.bloom_ngrams, recipe.false_positive_rate)
    texts = fill(index, (document.text for document, _ in _rows(recipe, True)), recipe.processes)
    said: dict[str, Any] = {"texts": texts, "words": recipe.ngram}
    if isinstance(index, BloomIndex):
        said["false_positive_rate"] = {
            "asked": recipe.false_positive_rate,
            "measured": index.measured_false_positive_rate(recipe.seed),
        }
    else:
        said["ngrams"] = len(index)
    return index, said


def _rows(recipe: Recipe, is_member: bool) -> Iterator[tuple[Document, Mapping[str, object]]]:
    """The documents of one part with title and date, those of a temporal split only where the date says so."""
    sources = recipe.train if is_member else recipe.heldout or recipe.train
    more = [name for name in (recipe.title_field, recipe.date_field) if name is not None]
    for source in sources:
        for document, fields in _read(source, recipe.text_field, more):
            for name in more:
                if fields.get(name) is None:
                    raise DataError(f"{source}, {document.id}: no field {name!r}")
            if recipe.members_before is not None and recipe.date_field is not None:
                day = _day(fields[recipe.date_field], f"{source}, {document.id}")
                first = _day(recipe.nonmembers_from, "nonmembers_from")
                if not (day < _day(recipe.members_before, "members_before") if is_member else day >= first):
                    continue
            if recipe.title_field is not None:
                document = replace(document, text=f"{fields[recipe.title_field]}\n{document.text}")
            yield document, fields


def _read(source: str, text_field: str, more: Sequence[str]) -> Iterator[tuple[Document, Mapping[str, object]]]:
    whole, part = split_source(source)
    if not more:
        return ((document, {}) for document in read_source(source, text_field=text_field))
    found: Iterator[tuple[Document, Mapping[str, object]]]
    if whole.startswith(hub.PREFIX):
        rows = hub.hub_rows(whole, hub.parse(whole), [*wanted_fields(text_field, None), *more])
        found = ((row_document(whole, row, whole, text_field=text_field), row.values) for row in rows)
    else:
        found = stream_rows(whole, text_field=text_field, more_fields=more)
    return (one for one in found if part is None or one[0].source == part)


def _day(value: object, where: str) -> datetime:
    from dateutil.parser import parse

    try:
        return parse(str(value), default=datetime(1, 1, 1)).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: {value!r} is no date") from error


def _key(seed: int, text: str) -> int:
    """A number that the seed and the text decide; 8 bytes."""
    data = f"{seed}\n{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def _take(
    recipe: Recipe,
    is_member: bool,
    heldout: set[int],
    shared: set[int],
    index: Index | None,
    token_ends: TokenEnds | None,
    ids: Ids | None,
    steps: Counter[str],
) -> dict[str, _Smallest]:
    """Go through one part once; by kind of file, what is taken. Costly steps see only what may be taken.

    Going through the training part adds what the held-out part has too to `shared`, which is then left out of that.
    """
    side = SIDES[is_member]
    taken = {side: _Smallest(recipe.count)}
    if recipe.full_min_words is not None:
        taken[f"{side}_full"] = _Smallest(recipe.count)
    if recipe.first_tokens is not None:
        taken[f"{side}_ids"] = _Smallest(recipe.count)
    for document, fields in _rows(recipe, is_member):
        steps["read"] += 1
        if document.token_ids is not None or not has_words(document.text, recipe.min_words):
            continue
        steps[f"of at least {recipe.min_words} words"] += 1
        text = cut_words(document.text, recipe.max_words)
        same = _key(0, text)
        if is_member:
            if same in heldout:
                shared.add(same)
        elif same in shared:
            continue
        else:
            steps["not in the training part"] += 1
        if index is not None and not is_member:
            share = overlap(inclusion(index, text))
            if not within(np.array([share]), recipe.min_overlap, recipe.max_overlap)[0]:
                continue
            steps[f"overlap of {recipe.min_overlap:g} to {recipe.max_overlap:g}"] += 1
        key = _key(recipe.seed, text)
        row = {"id": document.id, "source": document.source}
        if recipe.date_field is not None:
            row["date"] = str(fields[recipe.date_field])
        if taken[side].wants(key):
            fitting: str | None = text
            if recipe.max_tokens is not None and token_ends is not None:
                fitting = cut_tokens(text, recipe.max_tokens, token_ends)
            if fitting is not None:
                taken[side].add(key, {**row, "text": fitting})
        long_enough = recipe.full_min_words is not None and has_words(document.text, recipe.full_min_words)
        if long_enough and taken[f"{side}_full"].wants(key):
            parts = windows(document.text, recipe.max_words, recipe.min_words)
            taken[f"{side}_full"].add(key, {**row, "text": parts})
        if recipe.first_tokens is not None and ids is not None and taken[f"{side}_ids"].wants(key):
            first = list(ids(document.text))[: recipe.first_tokens]
            if len(first) == recipe.first_tokens:
                taken[f"{side}_ids"].add(key, {**row, "ids": first})
    return taken


def _digest_of_source(source: str) -> str | None:
    """SHA-256 of a file; None of what is no file here."""
    path = Path(split_source(source)[0])
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(made: Constructed, folder: str | Path) -> dict[str, Any]:
    """Write members.jsonl, nonmembers.jsonl, what else was made, and the manifest, which gives the files' hashes.

    Raises:
        DataError: the folder holds a data set already, or cannot be written.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder}: holds a data set already; choose another folder")
    digests = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in made.texts.items():
            data = "".join(json.dumps(row) + "\n" for row in rows).encode()
            (folder / f"{name}.jsonl").write_bytes(data)
            digests[f"{name}.jsonl"] = hashlib.sha256(data).hexdigest()
        for name, array in made.token_ids.items():
            np.save(folder / f"{name}.npy", array)
            digests[f"{name}.npy"] = hashlib.sha256((folder / f"{name}.npy").read_bytes()).hexdigest()
        manifest = made.manifest | {"files": digests}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error}") from error
    return manifest

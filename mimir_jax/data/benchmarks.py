"""Published data sets by short names: a table of where each lies on the hub and which of its fields is what.

A name is a row of BENCHMARKS, `mimir/<source>[/<split>]` for the samples of MIMIR's paper, or `writing[/<folder>]`.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mimir_jax.data.hub import HubData, hub_file, hub_rows
from mimir_jax.data.readers import DataError, Document, row_document, stream_documents, wanted_fields

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A data set of the hub.

    Attributes:
        data: which it is.
        text_field: the field that holds the text, or that the text is put in where it is composed.
        label_field: 1 for members, 0 for non-members; None where the data set says nothing of membership.
        compose: the text of a row that holds it in parts; None leaves the row out.
        stream: whether it is read as far as needed, rather than downloaded whole; None lets its size decide.
    """

    data: HubData
    text_field: str = "text"
    label_field: str | None = None
    compose: tuple[tuple[str, ...], Callable[[Values], str | None]] | None = None
    stream: bool | None = None


def _question(values: Values) -> str:
    return f"Question: {values['question']} Answer:<<<SEP>>>{values['long_answer']}"


def _translation(language: str) -> Callable[[Values], str | None]:
    def text(values: Values) -> str | None:
        said = values["translation"][language]
        return said if 100 < len(said.split()) < 150 else None

    return text


_LENGTHS = (32, 64, 128, 256)
_PUBMED = Benchmark(
    HubData("qiaojin/PubMedQA", "pqa_labeled"), compose=(("question", "long_answer"), _question), stream=False
)
_WMT16 = HubData("wmt/wmt16", "de-en")

BENCHMARKS: dict[str, Benchmark] = {
    # Shi et al. 2024, arXiv:2310.16789; members and non-members differ by date
    **{
        f"wikimia/{n}": Benchmark(
            HubData("swj0419/WikiMIA", split=f"WikiMIA_length{n}"), "input", "label", stream=False
        )
        for n in _LENGTHS
    },
    "bookmia": Benchmark(HubData("swj0419/BookMIA"), "snippet", "label", stream=False),
    # Fu et al. 2024, arXiv:2408.08661
    **{
        f"wikimia-24/{n}": Benchmark(
            HubData("wjfu99/WikiMIA-24", split=f"WikiMIA_length{n}"), "input", "label", stream=False
        )
        for n in _LENGTHS
    },
    "c4": Benchmark(HubData("allenai/c4", "en"), stream=True),
    "c4/validation": Benchmark(HubData("allenai/c4", "en", "validation"), stream=True),
    "xsum": Benchmark(HubData("EdinburghNLP/xsum"), "document"),
    "xsum/validation": Benchmark(HubData("EdinburghNLP/xsum", split="validation"), "document"),
    "xsum/test": Benchmark(HubData("EdinburghNLP/xsum", split="test"), "document"),
    "pubmed": _PUBMED,
    "pubmed_qa": _PUBMED,
    "english": Benchmark(_WMT16, compose=(("translation",), _translation("en")), stream=True),
    "german": Benchmark(_WMT16, compose=(("translation",), _translation("de")), stream=True),
}

MIMIR = "iamgroot42/mimir"
_NGRAMS = ("ngram_7_0.2", "ngram_13_0.2", "ngram_13_0.8")
_MONTHS = ("2020_08", "2021_01", "2021_06", "2022_01", "2022_06", "2023_01", "2023_06")

MIMIR_SPLITS: dict[str, tuple[str, ...]] = {
    "arxiv": _NGRAMS,
    "dm_mathematics": _NGRAMS,
    "github": _NGRAMS,
    "hackernews": _NGRAMS,
    "pile_cc": _NGRAMS,
    "pubmed_central": _NGRAMS,
    "wikipedia_(en)": _NGRAMS,
    "full_pile": (),
    "c4": (),
    "temporal_arxiv": _MONTHS,
    "temporal_wiki": (),
}
"""The samples that MIMIR published, by source, with their splits: the n-gram overlap that non-members may have with
the training set, or the month that they are from. Duan et al. 2024, arXiv:2402.07841."""

MIMIR_SAMPLES = {"full_pile": 10000}
"""Of each side, at most; 1000 in the other sources."""

ALIASES = {"wikipedia": "wikipedia_(en)", "wikipedia_en": "wikipedia_(en)"}
SHORT = {"temporal_wiki": "mimir/temporal_wiki", "temporal_arxiv": "mimir/temporal_arxiv"}
"""Names for what MIMIR's data set holds."""

SIDES = {True: "member", False: "nonmember"}
FOLDERS = {True: "train", False: "test"}


def find(name: str) -> Callable[[bool | None], Iterator[Document]] | None:
    """How to read what a short name means: a function of the side that is wanted, None for both.

    Documents of data sets that say nothing of membership have no label. None where this is no short name.

    Raises:
        DataError: the name of a data set that has no such part; the message lists those that there are.
    """
    if name in BENCHMARKS:
        return lambda side: _benchmark_documents(name, BENCHMARKS[name], side)
    if (sample := mimir_sample(name)) is not None:
        return lambda side: _mimir_documents(sample, side)
    head, _, rest = name.partition("/")
    if head == "writing":
        return lambda side: _writing_documents(Path(rest or "data/writingPrompts"))
    family = [known for known in BENCHMARKS if known.partition("/")[0] == head]
    if family:
        raise DataError(f"{name}: no such data set; there are: {', '.join(family)} (./{name} is a file of that name)")
    return None


def _benchmark_documents(name: str, benchmark: Benchmark, side: bool | None) -> Iterator[Document]:
    fields, compose = benchmark.compose or ((), None)
    wanted = [*wanted_fields(benchmark.text_field, benchmark.label_field), *fields]
    number = 0
    for row in hub_rows(name, benchmark.data, wanted, benchmark.stream):
        if compose is not None:
            missing = [field for field in fields if field not in row.values]
            if missing:
                raise DataError(f"{name}, {row.place}: field {missing[0]!r} is missing; has the data set changed?")
            if (text := compose(row.values)) is None:
                continue
            row = row._replace(values={benchmark.text_field: text})
        document = row_document(name, row, name, text_field=benchmark.text_field, label_field=benchmark.label_field)
        if side is None or document.is_member in (None, side):
            yield replace(document, row=number)
        number += 1


@dataclass(frozen=True)
class MimirSample:
    """One of the samples that MIMIR published: a source and a split; "" where the source has none."""

    source: str
    split: str

    @property
    def name(self) -> str:
        return "/".join(filter(None, ["mimir", self.source, self.split]))

    def filename(self, is_member: bool, *, neighbors: bool = False) -> str:
        """The file of one side, within the data set's repository."""
        count = MIMIR_SAMPLES.get(self.source, 1000)
        folder, stem = FOLDERS[is_member], "_".join(filter(None, [self.source, self.split]))
        if neighbors:
            folder, stem = f"{folder}_neighbors", f"{stem}_neighbors_25_bert_in_place_swap"
        return f"cache_100_200_{count}_512/{folder}/{stem}.jsonl"

    def file(self, is_member: bool, *, neighbors: bool = False) -> Path:
        """That file, downloaded or out of the cache."""
        return hub_file(self.name, MIMIR, self.filename(is_member, neighbors=neighbors))


def plain_name(source: str) -> str:
    """A source of the Pile as MIMIR's files have it: `dm_mathematics` of DM Mathematics."""
    return source.replace(" ", "_").replace("-", "_").lower()


def mimir_sample(name: str) -> MimirSample | None:
    """The sample that mimir/<source>[/<split>], or a short name for it, names; None where it names another thing.

    Raises:
        DataError: there is no such source or split, or the split is missing.
    """
    head, _, rest = name.partition("/")
    if head in SHORT:
        head, _, source = SHORT[head].partition("/")
        rest = f"{source}/{rest}"
    if head != "mimir":
        return None
    source, _, split = rest.partition("/")
    source = ALIASES.get(plain_name(source), plain_name(source))
    if source not in MIMIR_SPLITS:
        raise DataError(f"{name}: no such source; there are: {', '.join(f'mimir/{one}' for one in MIMIR_SPLITS)}")
    splits = MIMIR_SPLITS[source]
    split = split.replace("-", "_").replace("<", "")
    if not splits and split in ("", "none"):
        return MimirSample(source, "")
    if split not in splits:
        choice = ", ".join(f"mimir/{source}/{one}" for one in splits) or f"mimir/{source} alone"
        raise DataError(f"{name}: no such split; there are: {choice}")
    return MimirSample(source, split)


def _mimir_documents(sample: MimirSample, side: bool | None) -> Iterator[Document]:
    for is_member in (True, False) if side is None else (side,):
        documents = stream_documents(sample.file(is_member), is_member=is_member)
        for number, document in enumerate(documents):
            name = f"{sample.name}/{SIDES[is_member]}:{number + 1}"
            yield replace(document, id=name, source=sample.source)


# In their order: later ones see what earlier ones wrote.
_SPACES = (
    (" ,", ","), (" .", "."), (" ?", "?"), (" !", "!"), (" ;", ";"), (" '", "'"), (" \u2019 ", "'"), (" :", ":"),
    ("<newline>", "\n"), ("`` ", '"'), (" ''", '"'), ("''", '"'), (".. ", "... "), (" )", ")"), ("( ", "("),
    (" n't", "n't"), (" i ", " I "), (" i'", " I'"), ("\\'", "'"), ("\n ", "\n"),
)  # fmt: skip


def _writing_documents(folder: Path) -> Iterator[Document]:
    """Stories of WritingPrompts with their prompts, cleaned, in a shuffled order, as MIMIR has them."""
    stories = []
    for prompt, story in zip(_text_lines(folder / "valid.wp_source"), _text_lines(folder / "valid.wp_target")):
        text = f"{prompt.replace('[ WP ]', '').replace('[ OT ]', '')} {story}"
        for old, new in _SPACES:
            text = text.replace(old, new)
        if "nsfw" not in text and "NSFW" not in text:
            stories.append(text.strip())
    random.Random(0).shuffle(stories)
    for number, text in enumerate(stories):
        yield Document(f"writing:{number + 1}", text, None, "writing", row=number)


def _text_lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"writing: {path}: cannot be read: {error}; writing/FOLDER names another folder") from error

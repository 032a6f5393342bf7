"""How often each token occurs in a corpus: counted once, stored with where it comes from, and found again."""

import contextlib
import hashlib
import json
import os
import re
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from jaxtyping import Num

from mimir_jax.config import ConfigError, TokenCountsConfig
from mimir_jax.data.embedded import demo_documents
from mimir_jax.data.hub import HubError
from mimir_jax.data.readers import DataError

VERSION = 1  # of what a stored table means; part of every table's key
MAX_TOKENS = 1024  # of a text, as attack `dc_pdd` has it
CHUNK_TEXTS, CHUNK_CHARACTERS = 1000, 1 << 22  # texts that are encoded together: at most so many of either

Encode = Callable[[list[str]], Sequence[Sequence[int]]]
ReadTexts = Callable[[str, str, int], Iterator[str]]
"""(source, text_field, max_texts) -> texts."""


@dataclass(frozen=True)
class Provenance:
    """What a table was counted in; all fields but the last two are known before counting and make its key.

    Attributes:
        source: as the configuration names it.
        state: of local files their sizes and times, hashed; "" for what is no local file.
        text_field: of the source.
        max_texts: at most so many texts were to be counted.
        max_tokens: of each text.
        tokenizer: its digest.
        vocab: its number of ids.
        version: of the counting.
        n_texts: how many texts were counted.
        fingerprint: SHA-256 of these texts.
    """

    source: str
    state: str
    text_field: str
    max_texts: int
    max_tokens: int
    tokenizer: str
    vocab: int
    version: int = VERSION
    n_texts: int = 0
    fingerprint: str = ""

    @property
    def key(self) -> str:
        """Equal for tables that would be equal, as far as that is known before counting."""
        known = {name: value for name, value in asdict(self).items() if name not in ("n_texts", "fingerprint")}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class TokenCounts:
    """How often each token id occurs.

    Attributes:
        counts: occurrences of each id; fractional only where a given file has fractions.
        documents: texts in which each id occurs; the counts again where a given file has one array.
        n_texts: how many texts were counted; 0 where a given file does not say.
        n_tokens: sum of the counts.
        provenance: None for a given file of counts alone.
        notes: what a reader of results must know, a sentence each.
    """

    counts: Num[np.ndarray, " vocab"]
    documents: Num[np.ndarray, " vocab"]
    n_texts: int
    n_tokens: int | float
    provenance: Provenance | None = None
    notes: tuple[str, ...] = ()


def count_tokens(
    texts: Iterable[str],
    encode: Encode,
    vocab: int,
    max_tokens_per_text: int = MAX_TOKENS,
    max_texts: int | None = None,
) -> TokenCounts:
    """Occurrences of each id, and texts with each id, in one sweep over a stream of texts.

    Args:
        texts: read as far as they are counted, some at a time.
        encode: from texts to their token ids.
        vocab: number of ids.
        max_tokens_per_text: texts are cut there.
        max_texts: the first so many; None is all.

    Raises:
        DataError: an id that is not in [0, vocab), or no token at all.
    """
    counts, documents = np.zeros(vocab, np.int64), np.zeros(vocab, np.int64)
    n_texts = 0
    for chunk in _chunks(texts if max_texts is None else islice(texts, max_texts)):
        rows = [np.asarray(ids[:max_tokens_per_text], np.int64) for ids in encode(chunk)]
        ids = np.concatenate(rows)
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocab:
            beyond = int(ids[(ids < 0) | (ids >= vocab)][0])
            raise DataError(f"token id {beyond} is not one of the tokenizer's {vocab}: its size is given wrongly")
        counts += np.bincount(ids, minlength=vocab)
        # Each pair of text and id once.
        pairs = np.unique(np.repeat(np.arange(len(rows)), [len(row) for row in rows]) * vocab + ids)
        documents += np.bincount(pairs % vocab, minlength=vocab)
        n_texts += len(rows)
    n_tokens = int(counts.sum())
    if not n_tokens:
        raise DataError(f"no token to count in {n_texts} texts")
    return TokenCounts(counts, documents, n_texts, n_tokens)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if len(chunk) == CHUNK_TEXTS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def table(
    config: TokenCountsConfig, tokenizer_digest: str, encode: Encode, vocab: int, read_texts: ReadTexts
) -> TokenCounts:
    """The table that a configuration names: read from a file, found among those counted before, or counted now.

    `auto` is C4, or the embedded example with a note that says so where the hub does not give it. A stored table
    that is damaged is counted again, with a note that names it.

    Args:
        config: what to count in.
        tokenizer_digest: a hash of the tokenizer: a table serves no other.
        encode: from texts to its token ids.
        vocab: its number of ids.
        read_texts: reads a source by (source, text_field, max_texts).

    Raises:
        ConfigError: max_texts is below 1, a given file is no table or another tokenizer's, or the given folder
            cannot be written.
        DataError: a source that cannot be read or has no text.
    """
    if config.max_texts < 1:
        raise ConfigError(f"token_counts.max_texts: {config.max_texts}, must be at least 1")
    if config.source.lower().endswith(".npy"):
        return _read_array(Path(config.source), vocab)
    if config.source.lower().endswith(".npz"):
        return _read_given(Path(config.source), tokenizer_digest, vocab)
    if config.source != "auto":
        return _stored_or_counted(config, config.source, tokenizer_digest, encode, vocab, read_texts)
    try:
        return _stored_or_counted(config, "c4", tokenizer_digest, encode, vocab, read_texts)
    except HubError as error:
        note = f"token counts are the embedded example's, a small corpus, not C4's: {error}"
        counted = _stored_or_counted(config, "demo", tokenizer_digest, encode, vocab, read_texts)
        return _noted(counted, note)


def _stored_or_counted(
    config: TokenCountsConfig, source: str, tokenizer: str, encode: Encode, vocab: int, read_texts: ReadTexts
) -> TokenCounts:
    field = "text" if source in ("c4", "demo") else config.text_field
    asked = Provenance(source, _state(source), field, config.max_texts, MAX_TOKENS, tokenizer, vocab)
    folder, notes = Path(config.folder) if config.folder else cache_folder(), []
    name = re.sub(r"[^\w.-]+", "-", Path(source).name)[:40]
    path = folder / f"{name}-{asked.key[:16]}.npz"
    if path.exists():
        try:
            found = read_table(path)
        except DataError as error:
            notes.append(f"{error}; counted again")
        else:
            if found.provenance is not None and found.provenance.key == asked.key:
                return found
            notes.append(f"{path}: not the table that its name says; counted again")
    try:  # now, not after minutes of counting
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if config.folder:
            raise ConfigError(f"token_counts.folder: {folder}: cannot be made: {error}") from error
    digest, texts = hashlib.sha256(), _texts(source, field, config.max_texts, read_texts)

    def hashed(text: str) -> str:
        digest.update(json.dumps(text).encode() + b"\n")  # a line each: no two sequences have the same encoding
        return text

    try:
        counted = count_tokens(map(hashed, texts), encode, vocab, max_texts=config.max_texts)
    except HubError:
        raise
    except DataError as error:
        raise DataError(f"token_counts.source: {source}: {error}") from error
    provenance = replace(asked, n_texts=counted.n_texts, fingerprint=digest.hexdigest())
    counted = replace(counted, provenance=provenance)
    try:
        write_table(path, counted)
    except OSError as error:
        if config.folder:
            raise ConfigError(f"token_counts.folder: {folder}: cannot be written: {error}") from error
        notes.append(f"{path}: cannot be written, so the next run counts again: {error}")
    return _noted(counted, *notes)


def _noted(counts: TokenCounts, *notes: str) -> TokenCounts:
    return replace(counts, notes=(*counts.notes, *notes))


def _texts(source: str, text_field: str, max_texts: int, read_texts: ReadTexts) -> Iterator[str]:
    if source == "demo":
        # Both sides in turn: the first so many say nothing of membership.
        documents = demo_documents()
        sides = [[d.text for d in documents if d.is_member is side] for side in (True, False)]
        return chain.from_iterable(zip(*sides))
    return read_texts(source, text_field, max_texts)


def _state(source: str) -> str:
    """What changes when a local source does: a corpus may be too large to be hashed for every run."""
    path = Path(source)
    if not path.exists():
        return ""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    stats = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def cache_folder() -> Path:
    """Where tables are kept for all of a user's runs: $XDG_CACHE_HOME/mimir_jax/token_counts, or under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mimir_jax" / "token_counts"


def write_table(path: Path, counts: TokenCounts) -> None:
    """Write a table and its provenance, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    assert counts.provenance is not None
    provenance = json.dumps(asdict(counts.provenance))
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, counts=counts.counts, documents=counts.documents, provenance=provenance)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def read_table(path: Path) -> TokenCounts:
    """Read what `write_table` wrote.

    Raises:
        DataError: no such file, damaged, or no table of counts.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            counts, documents = archive["counts"], archive["documents"]
            provenance = Provenance(**json.loads(str(archive["provenance"])))
    except Exception as error:  # whatever zipfile, zlib, NumPy and json raise of damaged bytes
        raise DataError(f"{path}: damaged, or no table of token counts ({error})") from error
    for name, array in (("counts", counts), ("documents", documents)):
        if reason := _fault(array):
            raise DataError(f"{path}: damaged, or no table of token counts ({name} {reason})")
    if not len(counts) == len(documents) == provenance.vocab:
        raise DataError(f"{path}: damaged: {len(counts)} and {len(documents)} counts of {provenance.vocab} ids")
    return TokenCounts(counts, documents, provenance.n_texts, int(counts.sum()), provenance)


def _read_given(path: Path, tokenizer: str, vocab: int) -> TokenCounts:
    """A table that the configuration names."""
    try:
        found = read_table(path)
    except DataError as error:
        raise ConfigError(f"token_counts.source: {error}") from error
    assert found.provenance is not None
    if (found.provenance.tokenizer, len(found.counts)) != (tokenizer, vocab):
        raise ConfigError(
            f"token_counts.source: {path}: counted with another tokenizer, of {len(found.counts)} ids, than the "
            f"target's, of {vocab}: name the texts instead, and they are counted with the target's"
        )
    return found


def _read_array(path: Path, vocab: int) -> TokenCounts:
    """An array of counts that someone else made; it does not say with which tokenizer, but for its size."""
    try:
        with path.open("rb") as file:
            counts = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"token_counts.source: {path}: cannot be read as .npy: {error}") from error
    # np.load opens archives too, which are no arrays.
    reason = _fault(counts) if isinstance(counts, np.ndarray) else "are an archive"
    if reason:
        raise ConfigError(f"token_counts.source: {path}: the counts {reason}; give one of 0 or more for each token id")
    if len(counts) != vocab:
        raise ConfigError(
            f"token_counts.source: {path}: {len(counts)} counts, but the target's tokenizer has {vocab} ids: they are "
            "another tokenizer's"
        )
    total = counts.sum()
    return TokenCounts(counts, counts, 0, float(total) if counts.dtype.kind == "f" else int(total))


def _fault(counts: np.ndarray) -> str | None:
    """What keeps an array from being counts."""
    if counts.ndim != 1:
        return f"have {counts.ndim} axes"
    if counts.dtype.kind not in "iuf":
        return f"are of type {counts.dtype}"
    if not np.isfinite(counts).all():
        return "are not all finite"
    return "are not all 0 or more" if (counts < 0).any() else None

"""MIMIR's documents and neighbors in our terms, and its local cache.

    load_from_hf     raw JSONL in MIMIR's data set on the hub; goes before load_from_cache where both are given.
                     Files are `<source>[_<split>].jsonl`.
    load_from_cache  <cache>/cache_<min words>_<max words>_<samples>_<max tokens>/{train,test}[_neighbors]/, where
                     files are `the_pile_<source>[_ngram_13_<0.8_truncated].jsonl`, or the data set's name.
    neither          the raw Pile below MIMIR_DATA_SOURCE, presampled files, or a data set of the hub; texts are then
                     selected and cut here.

Members are `train`, non-members `test`. MIMIR pairs members with non-members, so that the longer side is cut.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from mimir_jax.compat.mimir.config import DataSettings
from mimir_jax.config import ConfigError, DataConfig, NeighborsConfig
from mimir_jax.data.benchmarks import BENCHMARKS, MIMIR_SPLITS, mimir_sample, plain_name
from mimir_jax.data.documents import load_documents
from mimir_jax.data.hub import PREFIX
from mimir_jax.data.neighbors import write_lists
from mimir_jax.data.readers import DataError, Document

SIDES = {True: "train", False: "test"}
PILE = {True: "pile/00.jsonl.zst", False: "pile/test.jsonl.zst"}
KEYS = {"the_pile": "text", "xsum": "document"}
"""Field of the text where dataset_key does not say it."""

HUB_NEIGHBORS = 25
"""Of each document on the hub, made with BERT, swapped in place, whatever neighborhood_config says."""


def data_config(settings: DataSettings, base: DataConfig | None = None, tokenizer: str | None = None) -> DataConfig:
    """The documents that MIMIR's settings mean.

    Args:
        settings: MIMIR's.
        base: what the settings say nothing of, such as `aggregate`.
        tokenizer: of the mask-filling model where neighbors are generated; only then does MIMIR look at max_tokens.

    Raises:
        ConfigError: settings that contradict each other or name data that there is not.
    """
    base = base or DataConfig()
    members, nonmembers = (_source(settings, is_member) for is_member in SIDES)
    keys = {key for _, key in (members, nonmembers) if key is not None}
    if len(keys) > 1:
        raise ConfigError(f"dataset_key: members would have field {members[1]}, non-members {nonmembers[1]}; give one")
    data = replace(
        base,
        members=members[0],
        nonmembers=nonmembers[0],
        documents=None,
        other_nonmembers=tuple(_source(settings, False, other)[0] for other in settings.other_nonmember_sources),
        text_field=next(iter(keys), "text"),
    )
    if settings.pretokenized:
        return data  # all rows as they are
    data = replace(
        data,
        full_doc=settings.full_doc,
        max_substrs=settings.max_substrs,
        tok_by_tok=settings.tok_by_tok,
        paired=True,
    )
    if not settings.load_from_cache or settings.load_from_hf:
        data = replace(data, max_documents=settings.n_samples)
    if settings.load_from_cache or settings.load_from_hf or settings.full_doc:
        return data
    if _reads_pile(settings):
        data = replace(data, max_rows=max(10_000, settings.max_data))
    return replace(
        data,
        dedupe=True,
        min_words=settings.min_words,
        max_words=settings.max_words,
        max_words_cutoff=settings.max_words_cutoff,
        max_data=settings.max_data,
        max_tokens=settings.max_tokens if tokenizer else None,
        tokenizer=tokenizer,
    )


def neighbors_configs(settings: DataSettings) -> dict[int, NeighborsConfig]:
    """Where the neighbors lie that MIMIR's settings read: by their number for each document.

    `read_neighbors` takes that number as its count, as a file may hold more.

    Raises:
        ConfigError: the hub has not so many, or no cache is known.
    """
    found = {}
    for count in settings.neighbors.counts if settings.neighbors else ():
        files = {}
        for is_member in SIDES:
            if (name := _hub_name(settings, is_member)) is not None:
                if count > HUB_NEIGHBORS:
                    raise ConfigError(f"n_perturbation_list: {count}, but the hub has {HUB_NEIGHBORS} neighbors a text")
                files[is_member] = name
            else:
                files[is_member] = str(cache_file(settings, is_member, neighbors=count))
        found[count] = NeighborsConfig(members=files[True], nonmembers=files[False])
    return found


def notes(settings: DataSettings, documents: Sequence[Document]) -> list[str]:
    """What differs from MIMIR in the documents of these settings, a sentence each.

    Args:
        settings: MIMIR's.
        documents: loaded by them.
    """
    said = []
    if settings.load_from_hf and not settings.pretokenized:
        count = len({d.parent or d.id for d in documents if d.is_member}) if not settings.tok_by_tok else None
        if _hub_name(settings, True) is None:
            said.append("load_from_hf: the hub has no such sample; the local cache is read (MIMIR would stop)")
        elif count is not None and count < settings.n_samples:
            said.append(
                f"n_samples: {settings.n_samples}, but the hub has {count} pairs of members and non-members; all are "
                "taken (MIMIR would stop)"
            )
    if settings.other_nonmember_sources:
        said.append("dataset_nonmember_other_sources: read by their own names (MIMIR's code for them cannot run)")
    return said


def cache_file(settings: DataSettings, is_member: bool, *, neighbors: int | None = None) -> Path:
    """The file of one side in MIMIR's local cache.

    Args:
        settings: MIMIR's.
        is_member: which side.
        neighbors: the file of so many neighbors for each document, instead of the documents.

    Raises:
        ConfigError: no cache is named.
    """
    return _cache_file(settings, is_member, settings.specific_source, neighbors)


def dump_documents(settings: DataSettings) -> list[Path]:
    """Select documents as the settings say and write them to MIMIR's local cache; the files, members first.

    Raises:
        ConfigError, DataError: as `data_config` and `load_documents`; or the documents are token ids, of which there
            is no cache.
    """
    if settings.pretokenized:
        raise ConfigError("dump_cache: pretokenized documents have no cache")
    data = replace(data_config(settings), paired=False, tok_by_tok=False, max_substrs=None)
    documents = load_documents(data)
    paths = []
    for is_member in SIDES:
        own = [document for document in documents if document.is_member is is_member]
        texts: list[object] = [document.text for document in own]
        if settings.full_doc:
            texts = [[document.text for document in parts] for _, parts in groupby(own, lambda d: d.parent)]
        paths.append(_dump(cache_file(settings, is_member), texts))
    return paths


def dump_neighbors(
    settings: DataSettings, documents: Sequence[Document], neighbors: Sequence[Sequence[str]], count: int
) -> Path:
    """Write neighbors of one side's documents to MIMIR's local cache: [document][sub-text][neighbor].

    Args:
        settings: MIMIR's.
        documents: all members or all non-members.
        neighbors: of each; the first so many are written.
        count: how many the file's name says; short documents may have fewer.

    Raises:
        ConfigError: no cache is named.
        DataError: documents of both sides or of none, or the file cannot be written.
    """
    sides = {bool(document.is_member) for document in documents}
    if len(sides) != 1:
        raise DataError(f"neighbors of {len(documents)} documents: expected those of one side")
    path = cache_file(settings, sides.pop(), neighbors=count)
    write_lists(path, documents, [texts[:count] for texts in neighbors])
    return path


def _dump(path: Path, values: Sequence[object]) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
    return path


def _cache_file(settings: DataSettings, is_member: bool, specific: str | None, neighbors: int | None = None) -> Path:
    if settings.cache_path is None:
        raise ConfigError("MIMIR's cache is not known: set MIMIR_CACHE_PATH, or give env_config.cache_dir")
    bounds = settings.min_words, settings.max_words, settings.n_samples, settings.max_tokens
    stem = settings.dataset_member if is_member else settings.dataset_nonmember
    if specific and stem == "the_pile":
        stem = f"{stem}_{plain_name(specific)}"
    folder = SIDES[is_member]
    if neighbors is not None and settings.neighbors is not None:
        folder = f"{folder}_neighbors"
        stem = f"{stem}_neighbors_{neighbors}_{settings.neighbors.model.replace('/', '_')}"
        stem += "_in_place_swap" if settings.neighbors.in_place_swap else ""
    return Path(settings.cache_path) / f"cache_{'_'.join(map(str, bounds))}" / folder / f"{stem}.jsonl"


def _source(settings: DataSettings, is_member: bool, other: str | None = None) -> tuple[str, str | None]:
    """What DataConfig calls one side, and the field of its text where it has one.

    Args:
        settings: MIMIR's.
        is_member: which side.
        other: source of the Pile instead of the settings'; not of presampled documents.
    """
    name = settings.dataset_member if is_member else settings.dataset_nonmember
    side = "member" if is_member else "nonmember"
    presampled = settings.presampled_dataset_member if is_member else settings.presampled_dataset_nonmember
    specific = settings.specific_source if other is None else other
    presampled = presampled if other is None else None
    if settings.pretokenized:
        if presampled is None:
            raise ConfigError(f"pretokenized: give presampled_dataset_{side}, a .npy file of token ids")
        return presampled, None
    if settings.load_from_hf or settings.load_from_cache:
        if (hub := _hub_name(settings, is_member, other)) is not None:
            return hub, None
        return str(_cache_file(settings, is_member, specific)), None
    key = settings.dataset_key or KEYS.get(name)
    if presampled is not None or settings.full_doc:
        if presampled is None:
            raise ConfigError(f"full_doc: give presampled_dataset_{side}, a file of lists of sub-texts")
        return presampled, _key(key, name)
    if name == "the_pile":
        if settings.data_source is None:
            raise ConfigError("the raw Pile is not known: set MIMIR_DATA_SOURCE, or give env_config.data_source")
        return f"{settings.data_source}/{PILE[is_member]}" + (f"#{specific}" if specific else ""), _key(key, name)
    if Path(name).exists():
        return name, _key(key, name)
    if _has_own_field(name, key):
        return name, None
    split = "train[:100]" if "human" in name else "test" if "nthngdy" in name else "train"
    return f"{PREFIX}{'EdinburghNLP/xsum' if name == 'xsum' else name}:{split}", _key(key, name)


def _has_own_field(name: str, key: str | None) -> bool:
    """Whether a name of MIMIR's is one of ours too, where the text is known, and dataset_key asks for no other."""
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        return name == "writing"
    return key is None or benchmark.compose is not None or key == benchmark.text_field


def _key(key: str | None, name: str) -> str:
    if key is None:
        raise ConfigError(f"dataset_key: give the field of {name} that holds the text")
    return key


def _reads_pile(settings: DataSettings) -> bool:
    return any(
        name == "the_pile" and presampled is None
        for name, presampled in (
            (settings.dataset_member, settings.presampled_dataset_member),
            (settings.dataset_nonmember, settings.presampled_dataset_nonmember),
        )
    )


def _hub_name(settings: DataSettings, is_member: bool, other: str | None = None) -> str | None:
    """What we call the sample that load_from_hf means; None where the local cache is read.

    MIMIR would stop where the hub has no such sample; here load_from_cache, where it is given too, then has its turn.

    Raises:
        ConfigError: the hub has no such sample, and there is no cache to read instead.
    """
    if not settings.load_from_hf:
        return None
    name = settings.dataset_member if is_member else settings.dataset_nonmember
    specific = settings.specific_source if other is None else other
    try:
        if settings.full_doc:
            raise ConfigError("load_from_hf: full_doc needs lists of sub-texts, and the hub has texts")
        if name != "the_pile" or not specific:
            raise ConfigError(f"load_from_hf: the hub has sources of the_pile alone, not {name}; set it to false")
        return _sample_name(specific)
    except ConfigError:
        local = settings.load_from_cache and settings.cache_path is not None
        if local and _cache_file(settings, is_member, specific).is_file():
            return None
        raise


def _sample_name(specific: str) -> str:
    plain = plain_name(specific).replace("<", "").replace(">", "").rpartition("_truncated")
    stem = plain[0] or plain[2]
    source = next((known for known in MIMIR_SPLITS if stem == known or stem.startswith(f"{known}_")), None)
    if source is None:
        raise ConfigError(
            f"specific_source: the hub has no sample of {specific!r}; there are: {', '.join(MIMIR_SPLITS)}"
        )
    split = stem.removeprefix(source).removeprefix("_")
    if source == "arxiv" and split in MIMIR_SPLITS["temporal_arxiv"]:
        source = "temporal_arxiv"  # as local files call it
    try:
        sample = mimir_sample("/".join(filter(None, ["mimir", source, split])))
    except DataError as error:
        raise ConfigError(f"specific_source {specific!r}: {error}") from error
    return sample.name if sample else ""

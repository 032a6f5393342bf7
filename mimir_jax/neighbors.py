"""The neighbors of a run's documents: read from files or made by a mask-filling model, and how close they are."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mimir_jax.config import ConfigError, NeighborsConfig, RunConfig
from mimir_jax.data.documents import DataError, Document, load_documents, load_other_nonmembers, unique_ids
from mimir_jax.data.neighbor_closeness import Closeness, closeness
from mimir_jax.data.neighbor_store import NeighborStore, store_file
from mimir_jax.data.neighbors import content_digest, read_neighbors, write_lists, write_neighbors
from mimir_jax.models.checkpoint import read_filling_config
from mimir_jax.models.seq2seq import Seq2SeqConfig
from mimir_jax.parallel import hosts
from mimir_jax.parallel.mesh import configured_mesh
from mimir_jax.report.terminal import Bars, silent
from mimir_jax.scoring.documents import score_documents
from mimir_jax.scoring.masked import find_mask_model, load_mask_model, load_span_model
from mimir_jax.scoring.model import Source, find_source, load_source
from mimir_jax.scoring.neighbors import SwapRules, swap_neighbors
from mimir_jax.scoring.span_fills import SpanRules, check_spans, fill_neighbors, random_tokens, random_words
from mimir_jax.scoring.swaps import check_swaps, encode_texts
from mimir_jax.scoring.tokens import load_tokenizer

Note = Callable[[str], None]


class NeighborRules(NamedTuple):
    """How neighbors are made: as the authors of a method do, or as MIMIR does (compat/mimir/neighbors.py)."""

    swaps: SwapRules = SwapRules()
    spans: SpanRules = SpanRules()


PAPER = NeighborRules()


def neighbors_of(
    run: RunConfig,
    documents: Sequence[Document],
    bars: Bars = silent,
    note: Note = lambda sentence: None,
    rules: NeighborRules = PAPER,
) -> list[list[str]]:
    """The neighbors of each document: those that the run's files hold, and else those that its mask model makes.

    Raises:
        DataError: files that do not match the documents.
        ConfigError, CheckpointError, TokenizerError: a mask model or settings that cannot be used.
    """
    given = run.neighbors
    if given.documents is not None:
        return read_neighbors(given.documents, documents)
    found: dict[int, list[str]] = {}
    for is_member, source in (True, given.members), (False, given.nonmembers):
        side = {i: document for i, document in enumerate(documents) if document.is_member is is_member}
        if source is not None and side:
            found |= zip(side, read_neighbors(source, list(side.values())))
    left = [i for i, document in enumerate(documents) if i not in found and file_of(run, document) is None]
    if makes(given) and left:
        found |= zip(left, make_neighbors(run, [documents[i] for i in left], bars, note, rules)[0])
    return [found.get(i, []) for i in range(len(documents))]


def makes(given: NeighborsConfig) -> bool:
    """Whether neighbors are made where no file holds them."""
    return given.model is not None or given.spans.random is not None


def file_of(run: RunConfig, document: Document) -> str | None:
    """The file that a document's neighbors are read from."""
    given = run.neighbors
    return given.documents or (given.members if document.is_member else given.nonmembers)


def provenance(
    run: RunConfig, source: Source | None, documents: Sequence[Document], rules: NeighborRules
) -> dict[str, Any]:
    """All that neighbors of a text depend on beside the text; without a model they are made of the documents' words."""
    near = run.neighbors
    how: dict[str, Any] = {"seed": run.seed, "count": near.count}
    if source is None:
        words = fill_words(documents)
        digest = sha256("\n".join(words).encode("utf-8", "surrogatepass")).hexdigest()
        return how | {"rules": rules.spans.name, "words": digest, **asdict(near.spans)}
    how |= {"model": source.name, "checkpoint": source.checkpoint}
    if near.spans.random == "tokens":
        return how | asdict(near.spans)
    how |= {"dtype": run.dtype}
    if isinstance(read_filling_config(source.folder)[1], Seq2SeqConfig):
        return how | {"rules": rules.spans.name, **asdict(near.spans)}
    swaps = asdict(near.swaps)
    whole = swaps.pop("long") == "refuse"
    return how | {"rules": rules.swaps.name, "context": "whole" if whole else "beginning", **swaps}


def fill_words(documents: Sequence[Document]) -> list[str]:
    """The words that random fills are drawn from: all of the documents."""
    return sorted({word for document in documents for word in document.text.split()})


def _source(run: RunConfig) -> Source | None:
    """The mask-filling model; or, for random tokens, the target, in whose tokens they are; None for random words."""
    if run.neighbors.spans.random == "words":
        return None
    if run.neighbors.spans.random == "tokens":
        return find_source(run.model, run.revision, tokenizer=run.tokenizer)
    assert run.neighbors.model is not None
    return find_mask_model(run.neighbors.model)


def make_neighbors(
    run: RunConfig,
    documents: Sequence[Document],
    bars: Bars = silent,
    note: Note = lambda sentence: None,
    rules: NeighborRules = PAPER,
) -> tuple[list[list[str]], NeighborStore]:
    """Neighbors of each document by the run's mask-filling model, and the file that keeps them for later runs.

    What an earlier run made of the same text in the same way is taken from there. Several processes make them together,
    a share of each batch's rows, and process 0 keeps them.

    Raises:
        ConfigError, CheckpointError, TokenizerError: a model or settings that cannot be used, documents beyond its
            context: said before anything is computed.
        DataError: a file of made neighbors that cannot be used.
    """
    settings = run.neighbors
    check_swaps(settings.swaps, settings.count)
    check_spans(settings.spans)
    with hosts.together("neighbors"), bars(f"find {settings.model or settings.spans.random}"):
        source = _source(run)
        how = provenance(run, source, documents, rules)
        name = "words" if source is None else source.name
        store = NeighborStore(store_file(settings.folder, name, how), how, hosts.leads())
    _share(store, how, documents)
    todo = list({content_digest(d): d for d in documents if store.get(d) is None}.values())
    known = sum(store.get(document) is not None for document in documents)
    if todo:
        words, failed = fill_words(documents) if source is None else [], None
        with hosts.others_may_fail():
            for number, neighbors in _made(run, source, todo, words, bars, rules):
                try:
                    store.add(todo[number], neighbors)
                except DataError as error:
                    if jax.process_count() == 1:
                        raise
                    failed = error  # told when the others can listen
        with hosts.together("keep neighbors"):
            if failed is not None:
                raise failed
    found = [store.get(document) or [] for document in documents]
    fewer = sum(len(some) < settings.count for some in found)
    same = sum(text == document.text for document, some in zip(documents, found) for text in some)
    note(f"neighbors: made by {name}, {known} of {len(documents)} documents' by an earlier run; in {store.path}")
    if fewer:
        note(f"neighbors: {fewer} documents have fewer than {settings.count}: they are too short for more")
    if same:
        note(f"neighbors: {same} of {sum(map(len, found))} are the document itself: their masks were not filled")
    return found, store


def _share(store: NeighborStore, how: dict[str, Any], documents: Sequence[Document]) -> None:
    """Tell all processes what is kept of the documents' neighbors.

    Raises:
        HostsError: processes have other documents or settings.
    """
    if jax.process_count() == 1:
        return
    digests = [content_digest(document) for document in documents]
    hosts.check_equal("neighbors: documents or settings", sha256(json.dumps([how, digests]).encode()).hexdigest())
    kept = {digest: store.found[digest] for digest in digests if digest in store.found}
    store.found |= json.loads(hosts.broadcast(json.dumps(kept).encode()))


def _made(
    run: RunConfig,
    source: Source | None,
    documents: Sequence[Document],
    words: Sequence[str],
    bars: Bars,
    rules: NeighborRules,
) -> Iterator[tuple[int, list[str]]]:
    """Neighbors of each document, as they are made."""
    settings, texts = run.neighbors, [document.text for document in documents]
    if source is None or settings.spans.random is not None:
        spans = settings.spans
        tokenizer = None if source is None else load_tokenizer(source.tokenizer_folder)
        for number, text in enumerate(texts):
            draws = (
                np.random.default_rng([run.seed, i, *text.encode("utf-8", "surrogatepass")])
                for i in range(settings.count)
            )
            if not text.strip():
                yield number, []
            elif tokenizer is not None:
                yield number, [random_tokens(text, tokenizer, spans, rng) for rng in draws]
            else:
                yield number, [random_words(text, words, spans, rng, rules.spans.mask) for rng in draws]
        return
    mesh = configured_mesh(run.mesh)
    _, config = read_filling_config(source.folder)
    if isinstance(config, Seq2SeqConfig):
        with bars(f"load {source.name}", "bytes") as bar:
            writer = load_span_model(source, mesh, run.dtype, bar.start, bar.advance)
        with bars("neighbors", "neighbors") as bar:
            yield from fill_neighbors(
                writer,
                texts,
                settings.count,
                settings.spans,
                run.seed,
                rules.spans,
                run.batch_tokens,
                bar.start,
                bar.advance,
            )
        return
    tokenizer, names = load_tokenizer(source.tokenizer_folder), [document.id for document in documents]
    encoded = encode_texts(tokenizer, names, texts, config.context, settings.swaps)
    with bars(f"load {source.name}", "bytes") as bar:
        model = load_mask_model(source, mesh, run.dtype, bar.start, bar.advance)
    with bars("neighbors", "tokens") as bar:
        yield from swap_neighbors(
            model,
            encoded,
            settings.count,
            settings.swaps,
            run.seed,
            rules.swaps,
            run.batch_tokens,
            bar.start,
            bar.advance,
        )


def write_and_judge(
    run: RunConfig,
    out: Path | None,
    lists: bool = False,
    judge: str | None = None,
    bars: Bars = silent,
    rules: NeighborRules = PAPER,
) -> tuple[Closeness, list[str]]:
    """Neighbors of all documents of a run, written to files, and how close they are; with what a reader must know.

    Args:
        run: its data, neighbors, seed, dtype, mesh and batch_tokens count.
        out: where they are written with their provenance; None writes nothing but what is kept for later runs.
        lists: also write MIMIR's form beside `out`, a file for each side.
        judge: a third model, under which the change of log-likelihood is measured.
        bars: progress.
        rules: the authors', or MIMIR's.

    Raises:
        ConfigError: no neighbors are given and no model makes them, or a path that cannot be written.
        DataError, CheckpointError, TokenizerError: see `neighbors_of`.
    """
    given, notes = run.neighbors, list[str]()
    if not (makes(given) or given.documents or (given.members and given.nonmembers)):
        raise ConfigError("neighbors.model: name the mask-filling model that makes them, or files to judge")
    if out is not None and not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigError(f"out: {out}: must end in .jsonl or .jsonl.gz")
    if lists and out is None:
        raise ConfigError("lists: are written beside --out, which is not given")
    judging = find_source(judge) if judge is not None else None
    documents = load_documents(run.data)
    others = load_other_nonmembers(run.data)
    documents = unique_ids([*documents, *(document for name in others for document in others[name])])
    if ids := next((d.id for d in documents if d.token_ids is not None and not d.text), None):
        raise DataError(f"{ids}: holds token ids, and neighbors are made of texts")
    found = neighbors_of(run, documents, bars, notes.append, rules)
    with hosts.together("write neighbors"):
        if out is not None and hosts.leads():
            made = provenance(run, _source(run), documents, rules) if makes(given) else {"files": asdict(given)}
            notes += _write(out, lists, documents, found, made)
    log_likelihoods = None
    if judging is not None:
        with bars(f"load {judging.name}", "bytes") as bar:
            mesh = configured_mesh(run.mesh)
            model = load_source(judging, mesh, run.dtype, bar.start, bar.advance)

        def log_likelihoods(texts: Sequence[str]) -> list[float]:
            with bars(f"judge by {judging.name}", "tokens") as bar:
                stats = score_documents(
                    model, texts, batch_tokens=run.batch_tokens, on_start=bar.start, on_batch=bar.advance
                )
            return [float(one.log_prob[one.mask].mean()) if one.mask.any() else np.nan for one in stats]

        tokenizer = model.tokenizer
    else:
        tokenizer = load_tokenizer(find_mask_model(given.model).tokenizer_folder) if given.model else None

    def tokenize(text: str) -> list[Any]:
        ids = (
            text.split() if tokenizer is None else tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        )
        return list(ids)

    return closeness([document.text for document in documents], found, tokenize, log_likelihoods), notes


def _write(
    out: Path,
    lists: bool,
    documents: Sequence[Document],
    found: Sequence[Sequence[str]],
    made: dict[str, Any],
) -> list[str]:
    """Write the files of `write_and_judge`, and say which they are."""
    write_neighbors(out, documents, found, made)
    said = [f"neighbors: written to {out}"]
    for is_member, side in ((True, "members"), (False, "nonmembers")) if lists else ():
        path = out.with_name(f"{out.name.removesuffix('.gz').removesuffix('.jsonl')}.{side}.jsonl")
        of_side = [i for i, document in enumerate(documents) if bool(document.is_member) is is_member]
        write_lists(path, [documents[i] for i in of_side], [found[i] for i in of_side])
        said.append(f"neighbors: MIMIR's form, in the order of the {side}: {path}")
    return said

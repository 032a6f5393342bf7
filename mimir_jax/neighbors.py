"""The neighbors of a run's documents: read from files or made by a mask-filling model, and how close they are."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from mimir_jax.config import ConfigError, RunConfig
from mimir_jax.data.documents import Document
from mimir_jax.data.neighbor_store import NeighborStore, store_file
from mimir_jax.data.neighbors import content_digest, read_neighbors
from mimir_jax.models.checkpoint import read_mask_config
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.report.terminal import Bars, silent
from mimir_jax.scoring import neighbors as swapping
from mimir_jax.scoring.masked import find_mask_model, load_mask_model
from mimir_jax.scoring.model import Source
from mimir_jax.scoring.neighbors import SwapRules, check_swaps, encode_texts, swap_neighbors
from mimir_jax.scoring.tokens import load_tokenizer

Note = Callable[[str], None]


def neighbors_of(
    run: RunConfig,
    documents: Sequence[Document],
    bars: Bars = silent,
    note: Note = lambda sentence: None,
    rules: SwapRules = swapping.PAPER,
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
    if given.model is not None and left:
        found |= zip(left, make_neighbors(run, [documents[i] for i in left], bars, note, rules)[0])
    return [found.get(i, []) for i in range(len(documents))]


def file_of(run: RunConfig, document: Document) -> str | None:
    """The file that a document's neighbors are read from."""
    given = run.neighbors
    return given.documents or (given.members if document.is_member else given.nonmembers)


def provenance(run: RunConfig, source: Source, rules: SwapRules) -> dict[str, Any]:
    """All that neighbors of a text depend on beside the text."""
    return {
        "model": source.name,
        "checkpoint": source.checkpoint,
        "dtype": run.dtype,
        "rules": rules.name,
        "seed": run.seed,
        "count": run.neighbors.count,
        **{key: value for key, value in dataclasses.asdict(run.neighbors.swaps).items() if key != "long"},
        "context": "whole" if run.neighbors.swaps.long == "refuse" else "beginning",
    }


def make_neighbors(
    run: RunConfig,
    documents: Sequence[Document],
    bars: Bars = silent,
    note: Note = lambda sentence: None,
    rules: SwapRules = swapping.PAPER,
) -> tuple[list[list[str]], NeighborStore]:
    """Neighbors of each document by the run's mask model, and the file that keeps them for later runs.

    What an earlier run made of the same text in the same way is taken from there.

    Raises:
        ConfigError, CheckpointError, TokenizerError: a mask model or settings that cannot be used, documents beyond
            its context: said before anything is computed.
        DataError: a file of made neighbors that cannot be used.
    """
    settings = run.neighbors
    assert settings.model is not None
    check_swaps(settings.swaps, settings.count)
    if jax.process_count() > 1:
        raise ConfigError("neighbors.model: neighbors are made by one process: `mimir-jax neighbors` on one host first")
    with bars(f"find {settings.model}"):
        source = find_mask_model(settings.model)
    how = provenance(run, source, rules)
    store = NeighborStore(store_file(settings.folder, source.name, how), how)
    todo = list({content_digest(d): d for d in documents if store.get(d) is None}.values())
    known = sum(store.get(document) is not None for document in documents)
    if todo:
        tokenizer = load_tokenizer(source.tokenizer_folder)
        context = read_mask_config(source.folder)[1].context
        names, texts = [document.id for document in todo], [document.text for document in todo]
        encoded = encode_texts(tokenizer, names, texts, context, settings.swaps)
        with bars(f"load {source.name}", "bytes") as bar:
            mesh = make_mesh(run.mesh.data, run.mesh.model)
            model = load_mask_model(source, mesh, run.dtype, bar.start, bar.advance)
        with bars("neighbors", "tokens") as bar:
            made = swap_neighbors(
                model,
                encoded,
                settings.count,
                settings.swaps,
                run.seed,
                rules,
                run.batch_tokens,
                bar.start,
                bar.advance,
            )
            for number, neighbors in made:
                store.add(todo[number], neighbors)
    found = [store.get(document) or [] for document in documents]
    fewer = sum(len(some) < settings.count for some in found)
    note(f"neighbors: made by {source.name}, {known} of {len(documents)} documents' by an earlier run; in {store.path}")
    if fewer:
        note(f"neighbors: {fewer} documents have fewer than {settings.count}: they are too short for more")
    return found, store

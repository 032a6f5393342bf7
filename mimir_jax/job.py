"""What the steps of a run share: models are loaded, passes scored, and inputs gathered from all of them."""

import atexit
import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mimir_jax.arrays import TokenStats
from mimir_jax.attacks.registry import BoundAttack
from mimir_jax.config import ConfigError, RunConfig
from mimir_jax.data.documents import DataError, Document
from mimir_jax.data.text_features import zlib_bytes
from mimir_jax.inputs import VARIANTS, Loaded, Provider, log_likelihoods, without_versions
from mimir_jax.models.checkpoint import read_config
from mimir_jax.models.cost import decoder_cost
from mimir_jax.parallel import hosts
from mimir_jax.parallel.layout import settle
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.parallel.preemption import Preemption
from mimir_jax.report import results, written
from mimir_jax.report.terminal import Bar, Bars
from mimir_jax.scores import Given
from mimir_jax.scoring.api import Endpoint, score_texts
from mimir_jax.scoring.documents import score_parts
from mimir_jax.scoring.kept_models import kept_model
from mimir_jax.scoring.model import (
    DTYPES,
    TOKENIZER_FILES,
    Model,
    Source,
    find_source,
    load_source,
    stack_models,
    without_weights,
)
from mimir_jax.scoring.passes import Part
from mimir_jax.scoring.store import Store
from mimir_jax.scoring.tokens import load_tokenizer
from mimir_jax.shelf import Shelf
from mimir_jax.target import TEXTS, Passes, Target, Texts

REFERENCES = ("reference_stats", "reference_log_likelihoods")
OF_KNOWN_SETS = ("in_out_log_likelihoods", "population_in_out_log_likelihoods")
OTHER_MODELS = (*REFERENCES, *OF_KNOWN_SETS)
"""The inputs that come from other models: references, and those whose training sets are known (`in_out`)."""


@dataclass
class Job:
    """What every step of a run writes to and draws on."""

    config: RunConfig
    mesh: Mesh
    bars: Bars
    texts: Mapping[str, Texts] = field(default_factory=lambda: TEXTS)
    weights: bool = True
    """Whether models are loaded; else the store has all that is asked of them."""
    preemption: Preemption = field(default_factory=Preemption)
    patience: float = 300.0
    """Seconds without a sign of life after which other processes are given up."""
    sharded: bool = False
    """Whether weights are split over `data`, too."""
    layout: str = ""
    """Why the mesh is what it is."""
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    store: Store | None = None
    shelf: Shelf = field(default_factory=Shelf)

    @contextmanager
    def timed(self, name: str) -> Iterator[dict[str, float]]:
        """Add what a step takes to its entry in `stages`."""
        start = time.perf_counter()
        entry = self.stages.setdefault(name, {})
        yield entry
        entry["seconds"] = round(entry.get("seconds", 0) + time.perf_counter() - start, 3)

    def between_processes(self) -> AbstractContextManager[None]:
        """A block in which processes exchange what they found: none leaves another waiting because of a signal."""
        return self.preemption.in_order() if jax.process_count() > 1 else nullcontext()

    def finished(self, folder: Path, identity: Mapping[str, Any], overwrite: bool) -> bool:
        """Whether the results folder holds this very run's results, complete, in process 0's eyes.

        Raises:
            ConfigError: it holds those of another one; see `results.claim`.
        """
        done = False
        with hosts.together("results folder"):
            if hosts.leads() and (folder / results.METRICS).exists() and not overwrite:
                done = results.claim(folder, self.config, identity, overwrite)
                if done and not (folder / results.REPORT).exists():  # the run ended before it was written
                    written.write_report(folder)
        return hosts.broadcast(b"finished" if done else b"") != b""

    def close_store(self) -> None:
        """Write what is not yet on disk."""
        if self.store is not None:
            for path in self.store.damaged:
                self.note(f"{path}: damaged; its passes are computed again")
            self.store.close()

    def lay_out(self, sources: Sequence[Source]) -> None:
        """Choose the mesh for models, of which those of one shape may be computed together."""
        dtype = np.dtype(DTYPES[self.config.dtype])
        configs = [read_config(source.folder)[1] for source in sources]
        costs = [decoder_cost(one, one.context) for one in configs]
        largest = max(costs, key=lambda cost: cost.parameters)
        together = 1 + len(self.config.checkpoints)
        largest = largest._replace(parameters=together * largest.parameters, layer=together * largest.layer)
        data, model, self.sharded, self.layout = settle(
            self.config.mesh, largest, dtype.itemsize, self.config.batch_tokens, jax.devices()
        )
        self.mesh = make_mesh(data, model)

    def note(self, sentence: str) -> None:
        """Keep what a reader of the results must know; once, however often it is said."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def target(self, documents: list[Document], source: Source, main: int | None = None) -> Target:
        """What is known of a model before its weights are read; the first `main` documents are the main ones."""
        tokenizer = load_tokenizer(source.tokenizer_folder)
        # Documents that come as token ids get a text for whatever needs one.
        decoded = [
            d if d.token_ids is None or d.text else dataclasses.replace(d, text=tokenizer.decode(d.token_ids))
            for d in documents
        ]
        digest = hashlib.sha256("".join(v for k, v in sorted(source.files.items()) if k in TOKENIZER_FILES).encode())
        _, config = read_config(source.folder)
        first = len(documents) if main is None else main
        return Target(
            self.config,
            decoded,
            tokenizer,
            digest.hexdigest(),
            config,
            self.note,
            first,
            self.texts,
            self.bars,
            self.shelf.remember,
        )

    def load(self, sources: Sequence[Source], name: str) -> Model:
        """Load a model, or several as one, unless an earlier run has left it."""
        dtype, add_bos = self.config.dtype, self.config.add_bos
        if not self.weights:
            return without_weights(sources, self.mesh, dtype, add_bos)

        def load() -> Model:
            models = []
            for source in sources:
                with self.bars(f"load {source.name}", "bytes") as bar:
                    models.append(load_source(source, self.mesh, dtype, bar.start, bar.advance, add_bos, self.sharded))
            return models[0] if len(models) == 1 else stack_models(models)

        key = (*(source.checkpoint for source in sources), dtype, add_bos, self.mesh, self.sharded)
        with self.timed(f"load {name}"), hosts.together(f"load {name}"):
            return self.shelf.model(key, load)

    @contextmanager
    def watched(self, description: str, unit: str = "") -> Iterator[Bar]:
        """A bar of what is computed with other processes: whatever moves it is a sign of their life."""
        with self.bars(description, unit) as bar, hosts.watch(self.patience, description) as moved:
            yield _Watched(bar, moved)

    def score(self, model: Model, name: str, parts: Sequence[Sequence[Part]]) -> list[TokenStats]:
        """Statistics [model, time] of each list of parts."""
        tokens = 0

        def count(done: int) -> None:
            nonlocal tokens
            tokens += done
            bar.advance(done)

        what = f"score {name}"
        with self.timed(what) as entry, self.watched(what, "tokens") as bar:
            start = time.perf_counter()
            tokens_at_once, head = self.config.batch_tokens, self.config.head
            stats = score_parts(model, parts, tokens_at_once, self.store, bar.start, count, self.preemption, head)
            entry["tokens"] = entry.get("tokens", 0) + tokens
            entry["tokens_per_second"] = round(tokens / (time.perf_counter() - start), 1)
        return stats if model.stacked else [TokenStats(*(x[None] for x in one)) for one in stats]


@dataclass(frozen=True)
class _Watched:
    """A bar whose movements are signs of life."""

    bar: Bar
    moved: Callable[[], None]

    def start(self, total: int) -> None:
        self.bar.start(total)

    def advance(self, units: int) -> None:
        self.bar.advance(units)
        self.moved()


def find(path: str, revision: str | None, tokenizer: str | None, kept: Store | None = None) -> Source:
    """Find and hash a checkpoint; one whose weights may be gone in a store that kept it."""
    if kept is None:
        return find_source(path, revision, tokenizer=tokenizer)
    folder = tempfile.mkdtemp(prefix="mimir_jax-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return kept_model(kept, (path, revision, tokenizer), Path(folder))


def digest(identity: Mapping[str, Any]) -> str:
    """Of what all processes must agree on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def check_stored(bound: Sequence[BoundAttack], providers: Mapping[str, Provider], endpoint: Endpoint | None) -> None:
    """What a store does not hold cannot be attacked from it.

    Raises:
        ConfigError: attacks that run the model themselves, or an endpoint.
    """
    if endpoint is not None:
        raise ConfigError("endpoint: `mimir-jax run` asks it for what the store lacks, and for nothing else")
    needing = [
        one.name
        for one in bound
        if any(name not in OTHER_MODELS and providers[name].needs_weights for name in one.attack.inputs)
    ]
    if needing:
        raise ConfigError(f"attacks: {', '.join(needing)}: run the model themselves: `mimir-jax run` has its weights")


def check_tokenizers(
    bound: Sequence[BoundAttack], target: Target, others: Sequence[Target], references: Sequence[Source]
) -> None:
    """Attacks that compare two models token by token need one tokenizer."""
    strict = [one.name for one in bound if one.attack.same_tokens]
    if not strict:
        return
    own = target.tokenizer.get_vocab()
    for other, source in zip(others, references):
        if other.tokenizer.get_vocab() != own:
            raise ConfigError(
                f"attacks: {', '.join(strict)} compares models token by token, and {source.name} has another tokenizer"
            )


def check_checkpoints(target: Target, sources: Sequence[Source]) -> None:
    """Models that are computed as one need one shape and one tokenizer.

    Raises:
        ConfigError: one of them has another.
    """
    own = target.tokenizer.get_vocab() if len(sources) > 1 else {}
    for source in sources[1:]:
        if read_config(source.folder)[1] != target.config or load_tokenizer(source.tokenizer_folder).get_vocab() != own:
            raise ConfigError(
                f"checkpoints: {sources[0].name} and {source.name} differ in shape or vocabulary; run them one by one"
            )


def provide(
    job: Job, target: Target, sources: Sequence[Source], providers: Mapping[str, Provider], prepared: Mapping[str, Any]
) -> dict[str, Given]:
    """The inputs that come from the target: one run of all passes, then what else needs the model."""
    name = ", ".join(source.name for source in sources)
    model = job.load(sources, name)
    passes = {key: one for key, one in prepared.items() if isinstance(one, Passes)}
    flat = [parts for one in passes.values() for variants in one.parts for parts in variants]
    scored = iter(job.score(model, name, flat))
    given = {}
    for key, one in passes.items():
        given[key] = Given(one.gather(scored), reasons=one.reasons)
    plain = given["stats"].value
    assert isinstance(plain, list)
    loaded = Loaded(target, model, plain, partial(job.score, model, name), job.watched, job.store)
    for key, provider in providers.items():
        if key in passes:
            continue
        with job.timed(key):
            value = provider.compute(loaded, prepared[key]) if provider.compute else prepared[key]
        given[key] = Given(value, provider.per_model, provider.by_document)
    return given


def refer(job: Job, others: Sequence[Target], sources: Sequence[Source]) -> dict[str, Given]:
    """The inputs that come from references, each loaded once and let go."""
    given = {}
    for other, source in zip(others, sources):
        name = f"reference {source.name}"
        model = job.load([source], name)
        stats = job.score(model, name, [other.plain(tokens) for tokens in other.tokens])
        given[f"reference_stats-{source.name}"] = Given([TokenStats(*(x[0] for x in one)) for one in stats], False)
    if given:
        rows = [log_likelihoods(one.value)[None] for one in given.values() if isinstance(one.value, list)]
        given["reference_log_likelihoods"] = Given(np.concatenate(rows), per_model=False)
    return given


def texts_for_endpoint(job: Job, documents: Sequence[Document], needed: Sequence[str]) -> dict[str, list[list[str]]]:
    """By input, of each document the texts that an endpoint is asked for.

    Raises:
        DataError: documents that are token ids.
    """
    if ids := next((d.id for d in documents if d.token_ids is not None), None):
        raise DataError(f"{ids}: holds token ids, and an endpoint takes texts")
    plain = [[document.text] for document in documents]
    return {"stats": plain} | {
        name: job.texts[name](job.config, documents, job.bars, job.note) for name in needed if name in TEXTS
    }


def provide_from_endpoint(
    job: Job, endpoint: Endpoint, documents: Sequence[Document], texts: Mapping[str, Sequence[Sequence[str]]]
) -> dict[str, Given]:
    """The inputs that texts and an endpoint suffice for."""
    # An empty text is not sent, and has no tokens: it stands for a version that there is not.
    most = {name: max(map(len, of_input), default=0) for name, of_input in texts.items()}
    filled = {name: [[*some, *[""] * (most[name] - len(some))] for some in texts[name]] for name in texts}
    asked = [
        (text, document.id if name == "stats" else f"{name.removesuffix('_stats')} {number} of {document.id}")
        for name, of_input in filled.items()
        for document, some in zip(documents, of_input)
        for number, text in enumerate(some, start=1)
    ]
    with job.timed("score endpoint") as entry, job.bars(f"ask {endpoint.model}", "texts") as bar:
        flat, ids = [text for text, _ in asked], [name for _, name in asked]
        scored = iter(score_texts(endpoint, flat, ids, job.store, bar.start, bar.advance))
        entry["texts"] = len(flat)
    given = {"zlib_bytes": Given(zlib_bytes([document.text for document in documents]), per_model=False)}
    for name, of_input in filled.items():
        parts: list[list[list[Part]]] = [[[] for _ in some] for some in of_input]
        gathered = Passes(parts, name in VARIANTS).gather(TokenStats(*(x[None] for x in one)) for one in scored)
        given[name] = Given(gathered, reasons=without_versions(name, texts[name]))
    return given


def endpoint_of(config: RunConfig, key: str) -> Endpoint | None:
    """The endpoint that a configuration names; None where the target is a checkpoint.

    Raises:
        ApiError: it cannot be one.
    """
    given = config.endpoint
    if given.base_url is None:
        return None
    return Endpoint(given.base_url, config.model, key, given.prefix, given.concurrency)


def check_endpoint(config: RunConfig, bound: Sequence[BoundAttack]) -> None:
    """An endpoint tells log-probs of tokens of texts, and nothing else.

    Raises:
        ConfigError: attacks that need more, or checkpoints beside it.
    """
    if config.checkpoints:
        raise ConfigError("checkpoints: an endpoint is one target; run the checkpoints without it")
    possible = {"stats", "zlib_bytes", *REFERENCES, *TEXTS}
    beyond = [one.name for one in bound if not (one.attack.log_prob_only and possible.issuperset(one.attack.inputs))]
    beyond += [one.name for one in bound if one.attack.same_tokens and one.name not in beyond]
    if beyond:
        raise ConfigError(
            f"attacks: {', '.join(beyond)}: an endpoint gives log-probs of the tokens of a text, and no more"
        )

"""The runner: from a configuration to documents, passes, scores, metrics and a results folder."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mimir_jax import attacks
from mimir_jax.arrays import TokenStats, pad_documents
from mimir_jax.attacks.registry import BoundAttack
from mimir_jax.config import ConfigError, RunConfig
from mimir_jax.data.documents import Document, fingerprint, load_documents, overlapping_texts
from mimir_jax.data.edits import lowercase
from mimir_jax.data.text_features import zlib_bytes
from mimir_jax.metrics import Metrics, evaluate
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.report import results
from mimir_jax.report.terminal import Bars, silent
from mimir_jax.scoring.documents import score_documents
from mimir_jax.scoring.model import Model, Source, find_source, load_source, stack_models
from mimir_jax.scoring.store import Store

# Inputs of attacks that are passes of the target: over which edit of the text.
EDITS: dict[str, Callable[[str], str]] = {"stats": lambda text: text, "lowercase_stats": lowercase}

ATTACK_POSITIONS = 1 << 25  # token positions that attacks get at a time: about a gigabyte of statistics


@dataclass(frozen=True)
class Results:
    """What a run found.

    Attributes:
        folder: where it is written.
        documents: the rows.
        scores: [doc] by column, NaN where there is none. A column is an attack, `ref-<name>` where it takes a
            reference, with `<checkpoint>/` in front where several were attacked.
        metrics: by column; None where no member or no non-member has a score.
        notes: what a reader must know, a sentence each.
        computed: False where the folder held the results already.
    """

    folder: Path
    documents: list[Document]
    scores: dict[str, Float[np.ndarray, " doc"]]
    metrics: dict[str, Metrics | None]
    notes: list[str]
    computed: bool = True


@dataclass(frozen=True)
class Call:
    """An attack, with the name of the reference that it is called with; "" for none."""

    attack: BoundAttack
    reference: str

    @property
    def column(self) -> str:
        return f"{self.attack.name}-{self.reference}" if self.reference else self.attack.name


def resolve(config: RunConfig) -> RunConfig:
    """The configuration with its defaults spelled out and its attacks in their canonical form.

    Raises:
        ConfigError: an attack lacks what it needs or is named twice, or a number is out of range.
        AttackError: an unknown attack or parameter.
        MetricsError: settings of the metrics that are out of range.
    """
    if config.batch_tokens < 1:
        raise ConfigError(f"batch_tokens: {config.batch_tokens}, must be at least 1")
    if config.metrics.seed < 0:
        raise ConfigError(f"metrics.seed: {config.metrics.seed}, must be 0 or more")
    evaluate({}, [], **dataclasses.asdict(config.metrics))  # now, not after hours of scoring
    specs = config.attacks
    if specs is None:
        specs = (*attacks.DEFAULT, *(["ref"] if config.references else []))
    bound = [attacks.parse(spec) for spec in specs]
    names = [one.name for one in bound]
    if not names:
        raise ConfigError("attacks: none are named")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"attacks: named twice: {', '.join(twice)}")
    for one in bound:
        if "reference_stats" in one.attack.inputs and not config.references:
            raise ConfigError(f"attacks: {one.name} needs a reference model: give --references")
        if "token_counts" in one.attack.inputs and config.token_counts is None:
            raise ConfigError(f"attacks: {one.name} needs token frequencies: give --token-counts")
    return dataclasses.replace(config, experiment=config.experiment or _name(config), attacks=tuple(names))


def _name(config: RunConfig) -> str:
    """An experiment's name: model, revision, number of further checkpoints and data, as far as they are given."""
    name = Path(config.model).name
    if name in ("", ".."):  # the folder . or the like
        name = Path(config.model).resolve().name
    parts = [f"demo-{name}" if config.model.startswith("demo/") else name]
    if config.revision:
        parts.append(config.revision)
    if config.checkpoints:
        parts.append(f"and-{len(config.checkpoints)}-more")
    parts += [Path(path).name.split(".")[0] for path in (config.data.documents, config.data.members) if path]
    if config.data.nonmembers:
        parts.append("vs-" + Path(config.data.nonmembers).name.split(".")[0])
    return "-".join(parts)


def run(config: RunConfig, *, overwrite: bool = False, bars: Bars = silent) -> Results:
    """Attack a model and write the results folder.

    Everything that can fail early does so before a model is loaded. Token statistics are stored as they are
    computed, so that a run that was interrupted, or is repeated, computes only what is missing.

    Args:
        config: what to run.
        overwrite: discard the folder's results of another configuration.
        bars: progress, from `report.terminal`.

    Raises:
        ConfigError, AttackError, MetricsError: a configuration that cannot be run.
        DataError: documents that cannot be read, or no members or non-members.
        CheckpointError, TokenizerError: a model that cannot be loaded.
        ScoringError: statistics that are not finite.
    """
    config = resolve(config)
    stages: dict[str, dict[str, float]] = {}
    bound = [attacks.parse(spec) for spec in config.attacks or ()]
    mesh = make_mesh(config.mesh.data, config.mesh.model)
    token_counts = _read_counts(config.token_counts)
    with _timed(stages, "documents"):
        documents = load_documents(config.data)
        digest = fingerprint(documents)
    with _timed(stages, "hash checkpoints"), bars("find and hash checkpoints"):
        targets = _named(
            "checkpoints", [find_source(config.model, config.revision), *map(find_source, config.checkpoints)]
        )
        references = _named("references", [find_source(path) for path in config.references])
    identity: dict[str, Any] = {
        "documents": digest,
        "checkpoints": [source.checkpoint for source in (*targets, *references)],
    }
    if token_counts is not None:
        identity["token_counts"] = hashlib.sha256(token_counts.tobytes()).hexdigest()
    folder = Path(config.results) / str(config.experiment)
    if results.claim(folder, config, identity, overwrite):
        return _read(folder, documents)
    try:
        store = Store(folder / "stats")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error}") from error
    notes = [f"{path}: damaged; its passes are computed again" for path in store.damaged]
    overlap = len(overlapping_texts(documents))
    if overlap:
        notes.append(f"{overlap} texts are on both sides, member and non-member: the labels contradict")

    calls = [
        Call(one, reference)
        for one in bound
        for reference in ([s.name for s in references] if "reference_stats" in one.attack.inputs else [""])
    ]
    needed = {name for one in bound for name in one.attack.inputs}
    score = partial(_score, documents, mesh=mesh, config=config, store=store, bars=bars, stages=stages)
    try:
        passes = score("", targets, [name for name in EDITS if name in needed or name == "stats"])
        reference_stats = {
            source.name: score("reference ", [source], ["stats"])["stats"]
            for source in references
            if "reference_stats" in needed
        }
    finally:
        store.close()
    with _timed(stages, "attacks"), bars("attacks"):
        columns = _attack(calls, passes, reference_stats, zlib_bytes([d.text for d in documents]), token_counts)
    prefix = [f"{target.name}/" if len(targets) > 1 else "" for target in targets]
    scores = {f"{before}{call.column}": columns[call.column][i] for i, before in enumerate(prefix) for call in calls}
    is_member = np.array([document.is_member for document in documents])
    with _timed(stages, "metrics"), bars("metrics"):
        metrics = _evaluate(scores, is_member, config)
    notes += [f"{name}: one side has no score at all, so no metrics" for name, m in metrics.items() if m is None]

    tokens = [stats.mask.shape[-1] for stats in passes["stats"]]
    scored = [bool(stats.mask.any()) for stats in passes["stats"]]
    rows: dict[str, Sequence[Any]] = {
        "id": [_encodable(d.id) for d in documents],
        "is_member": is_member.tolist(),
        "source": [_encodable(d.source) for d in documents],
        "n_tokens": tokens,
    }
    reasons = _reasons(tokens, scored, calls, scores, prefix)
    unscored = sum(reason is not None for reason in reasons)
    if unscored:
        notes.append(f"{unscored} documents have a null score; the column `reason` of scores.parquet says why")
    with _timed(stages, "write"):
        results.write_scores(folder / results.SCORES, rows, scores, reasons)
        results.write_roc(folder / results.ROC, _with_metrics(scores, metrics), is_member)
    provenance = {
        "identity": identity,
        "versions": results.versions(),
        "device": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
        "mesh": dict(mesh.shape),
        "targets": [_described(source) for source in targets],
        "references": [_described(source) for source in references],
        "documents": {
            "members": int(is_member.sum()),
            "nonmembers": int((~is_member).sum()),
            "unscored": unscored,
            "overlapping": overlap,
        },
        "stages": stages,
        "notes": notes,
    }
    results.write_text(folder / results.RUN, json.dumps(provenance, indent=2))
    results.write_metrics(folder / results.METRICS, metrics)  # last: it says that the folder is complete
    return Results(folder, documents, scores, metrics, notes)


@contextmanager
def _timed(stages: dict[str, dict[str, float]], name: str) -> Iterator[dict[str, float]]:
    start = time.perf_counter()
    entry = stages.setdefault(name, {})
    yield entry
    entry["seconds"] = round(time.perf_counter() - start, 3)


def _read(folder: Path, documents: list[Document]) -> Results:
    try:
        metrics = results.read_metrics(folder / results.METRICS)
        scores = results.read_scores(folder / results.SCORES, list(metrics))
        notes = json.loads((folder / results.RUN).read_text(encoding="utf-8"))["notes"]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{folder}: results that cannot be read ({reason}); give --overwrite") from error
    return Results(folder, documents, scores, metrics, notes, computed=False)


def _read_counts(path: str | None) -> np.ndarray | None:
    if path is None:
        return None
    try:
        counts = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"token_counts: {path}: cannot be read as .npy: {error}") from error
    # np.load opens archives too, which are no arrays.
    if not isinstance(counts, np.ndarray) or counts.ndim != 1 or counts.dtype.kind not in "iuf":
        raise ConfigError(f"token_counts: {path}: must hold one number for each token id")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ConfigError(f"token_counts: {path}: must hold counts of 0 or more")
    return counts.astype(np.float32)


def _named(field: str, sources: Sequence[Source]) -> list[Source]:
    """Sources with distinct names: folders called alike get their whole paths.

    Names hold no slash, which parts the checkpoint from the attack in the columns.

    Raises:
        ConfigError: one checkpoint is given twice.
    """
    names = [source.name for source in sources]
    named = [
        dataclasses.replace(
            source,
            name=(str(source.folder) if names.count(source.name) > 1 else source.name).strip("/").replace("/", "_"),
        )
        for source in sources
    ]
    names = [source.name for source in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{field}: given twice: {', '.join(twice)}")
    return named


def _described(source: Source) -> dict[str, Any]:
    described = dataclasses.asdict(source)
    return described | {"folder": str(source.folder)}


def _score(
    documents: list[Document],
    role: str,
    sources: Sequence[Source],
    inputs: Sequence[str],
    *,
    mesh: Mesh,
    config: RunConfig,
    store: Store,
    bars: Bars,
    stages: dict[str, dict[str, float]],
) -> dict[str, list[TokenStats]]:
    """By input, TokenStats [model, time] of each document; one model axis entry a source."""
    name = role + ", ".join(source.name for source in sources)
    with _timed(stages, f"load {name}"):
        model = _load(sources, mesh, config.dtype, bars)
    texts = [EDITS[edit](document.text) for edit in inputs for document in documents]
    ids = [document.id for _ in inputs for document in documents]
    tokens = 0

    def count(done: int) -> None:
        nonlocal tokens
        tokens += done
        bar.advance(done)

    with _timed(stages, f"score {name}") as entry, bars(f"score {name}", "tokens") as bar:
        start = time.perf_counter()
        stats = score_documents(model, texts, ids, config.batch_tokens, store, bar.start, count)
        entry["tokens"] = tokens
        entry["tokens_per_second"] = round(tokens / (time.perf_counter() - start), 1)
    if not model.stacked:
        stats = [TokenStats(*(field[None] for field in one)) for one in stats]
    return {edit: stats[i * len(documents) : (i + 1) * len(documents)] for i, edit in enumerate(inputs)}


def _load(sources: Sequence[Source], mesh: Mesh, dtype: str, bars: Bars) -> Model:
    models = []
    for source in sources:
        with bars(f"load {source.name}", "bytes") as bar:
            models.append(load_source(source, mesh, dtype, bar.start, bar.advance))
    return models[0] if len(models) == 1 else stack_models(models)


def _attack(
    calls: Sequence[Call],
    passes: dict[str, list[TokenStats]],
    references: dict[str, list[TokenStats]],
    sizes: np.ndarray,
    token_counts: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """By column, scores [model, doc]; documents go in groups of like length, so that padding stays bounded."""
    n_models, n_documents = passes["stats"][0].mask.shape[0], len(sizes)
    scores = {call.column: np.empty((n_models, n_documents), np.float32) for call in calls}
    for group in _groups([n_models * stats.mask.shape[-1] for stats in passes["stats"]]):
        inputs: dict[str, Any] = {name: pad_documents([stats[i] for i in group]) for name, stats in passes.items()}
        inputs |= {"zlib_bytes": sizes[group], "token_counts": token_counts}
        padded = {
            name: TokenStats(*(field[0] for field in pad_documents([stats[i] for i in group])))
            for name, stats in references.items()
        }
        for column, values in _call(tuple(calls), inputs, padded).items():
            scores[column][:, group] = values
    return scores


@partial(jax.jit, static_argnums=0)
def _call(
    calls: tuple[Call, ...], inputs: dict[str, Any], references: dict[str, TokenStats]
) -> dict[str, Float[Array, "model doc"]]:
    scores = {}
    for call in calls:
        names = call.attack.attack.inputs
        values = [references[call.reference] if n == "reference_stats" else inputs[n] for n in names]
        axes = tuple(0 if n in EDITS else None for n in names)
        n_models = inputs["stats"].mask.shape[0]  # an attack may take nothing that has the axis
        scores[call.column] = jax.vmap(call.attack, in_axes=axes, axis_size=n_models)(*values)
    return scores


def _groups(sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Documents in order of size, cut where the padded group would exceed ATTACK_POSITIONS."""
    order = np.argsort(sizes, kind="stable")[::-1]
    start = 0
    while start < len(order):
        count = max(ATTACK_POSITIONS // max(sizes[order[start]], 1), 1)
        yield order[start : start + count]
        start += count


def _evaluate(scores: dict[str, np.ndarray], is_member: np.ndarray, config: RunConfig) -> dict[str, Metrics | None]:
    possible = {
        name: values
        for name, values in scores.items()
        if np.isfinite(values[is_member]).any() and np.isfinite(values[~is_member]).any()
    }
    found = evaluate(possible, is_member, **dataclasses.asdict(config.metrics)) if possible else {}
    return {name: found.get(name) for name in scores}


def _encodable(name: str) -> str:
    """A name with what UTF-8 cannot hold, as file names and escapes of JSON can, written out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _with_metrics(scores: dict[str, np.ndarray], metrics: dict[str, Metrics | None]) -> dict[str, np.ndarray]:
    return {name: values for name, values in scores.items() if metrics[name] is not None}


def _reasons(
    tokens: Sequence[int],
    scored: Sequence[bool],
    calls: Sequence[Call],
    scores: dict[str, np.ndarray],
    prefix: Sequence[str],
) -> list[str | None]:
    """Why a document has null scores; None where it has none."""
    reasons: list[str | None] = []
    for row, (n_tokens, any_scored) in enumerate(zip(tokens, scored)):
        why: dict[str, list[str]] = {}
        for before in prefix:
            for call in calls:
                column = before + call.column
                if np.isnan(scores[column][row]):
                    why.setdefault(_reason(n_tokens, any_scored, call), []).append(column)
        everywhere = len(why) == 1 and len(next(iter(why.values()))) == len(scores)
        parts = list(why) if everywhere else [f"{', '.join(columns)}: {reason}" for reason, columns in why.items()]
        reasons.append("; ".join(parts) or None)
    return reasons


def _reason(n_tokens: int, scored: bool, call: Call) -> str:
    if n_tokens == 0:
        return "empty document"
    if not scored:
        return "one token, and nothing before it to predict it from"
    return call.attack.attack.null_reason or "an input of the attack has no scored token"

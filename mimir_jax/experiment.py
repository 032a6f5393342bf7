"""The runner: from a configuration to documents, passes, scores, metrics and a results folder."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from jaxtyping import Float

from mimir_jax import attacks
from mimir_jax.attacks.registry import Attack, BoundAttack
from mimir_jax.audit.verdict import audit
from mimir_jax.config import ConfigError, EndpointConfig, RunConfig
from mimir_jax.data.documents import (
    Document,
    fingerprint,
    load_documents,
    load_other_nonmembers,
    overlapping_texts,
    unique_ids,
)
from mimir_jax.data.sources import short_name, split_source
from mimir_jax.exposure import expose
from mimir_jax.inputs import PROVIDERS, TEXTS, Provider, Texts
from mimir_jax.job import (
    REFERENCES,
    Job,
    check_checkpoints,
    check_endpoint,
    check_tokenizers,
    endpoint_of,
    provide,
    provide_from_endpoint,
    refer,
    texts_for_endpoint,
)
from mimir_jax.metrics import Metrics, Transfer, evaluate, transfer
from mimir_jax.metrics.intervals import METHODS, interval_notes
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.report import results
from mimir_jax.report.terminal import Bars, silent
from mimir_jax.scores import Call, pool, reasons, scores, sentence
from mimir_jax.scoring.api import Endpoint
from mimir_jax.scoring.masked import find_mask_model
from mimir_jax.scoring.model import Source, find_source, remarks


@dataclass(frozen=True)
class Rules:
    """What computes a score otherwise than its authors define it: rows, providers and versions of texts, by name."""

    name: Literal["paper", "mimir"] = "paper"
    attacks: Mapping[str, Attack] = field(default_factory=dict)
    providers: Mapping[str, Provider] = field(default_factory=dict)
    texts: Mapping[str, Texts] = field(default_factory=dict)


PAPER = Rules()


@dataclass(frozen=True)
class Results:
    """What a run found.

    Attributes:
        folder: where it is written.
        documents: the rows; of a full document its id, its side and its sub-texts joined.
        scores: [doc] by column, NaN where there is none. A column is an attack, `ref-<name>` where it takes a
            reference, with `<checkpoint>/` in front where several were attacked.
        metrics: by column; None where no member or no non-member has a score.
        notes: what a reader must know, a sentence each.
        computed: False where the folder held the results already.
        texts: what was scored: the documents, or their sub-texts.
        text_scores: [text] by column.
        text_groups: of each text "", or which further non-members it belongs to.
        audit: what is reached without the model, see `audit.verdict.audit`; None where that was not asked for.
    """

    folder: Path
    documents: list[Document]
    scores: dict[str, Float[np.ndarray, " doc"]]
    metrics: dict[str, Metrics | None]
    notes: list[str]
    computed: bool = True
    texts: list[Document] = field(default_factory=list)
    text_scores: dict[str, Float[np.ndarray, " text"]] = field(default_factory=dict)
    text_groups: list[str] = field(default_factory=list)
    audit: dict[str, Any] | None = None


def resolve(config: RunConfig, rules: Rules = PAPER) -> RunConfig:
    """The configuration with its defaults spelled out and its attacks in their canonical form.

    Raises:
        ConfigError: an attack lacks what it needs or is named twice, or a number is out of range.
        AttackError: an unknown attack or parameter.
        MetricsError: settings of the metrics that are out of range.
    """
    if config.rules == "mimir" and rules.name != config.rules:
        raise ConfigError("rules: mimir is a set of rules that the runner must be given: compat.mimir.attacks.RULES")
    if config.batch_tokens < 1:
        raise ConfigError(f"batch_tokens: {config.batch_tokens}, must be at least 1")
    for name, seed in (("seed", config.seed), ("metrics.seed", config.metrics.seed)):
        if seed < 0:
            raise ConfigError(f"{name}: {seed}, must be 0 or more")
    evaluate({}, [], **dataclasses.asdict(config.metrics))  # now, not after hours of scoring
    specs = config.attacks
    if specs is None:
        asked = config.endpoint.base_url is not None
        possible = [name for name in attacks.DEFAULT if attacks.ATTACKS[name].log_prob_only or not asked]
        specs = (*possible, *(["ref"] if config.references else []))
    bound = [attacks.parse(spec) for spec in specs]
    names = [one.name for one in bound]
    if not names:
        raise ConfigError("attacks: none are named")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"attacks: named twice: {', '.join(twice)}")
    providers = {**PROVIDERS, **rules.providers}
    for one in _bound(names, rules):
        for name in one.attack.inputs:
            missing = None if config.references else "give a reference model: --references"
            if name not in REFERENCES:
                missing = providers[name].missing(config) if name in providers else f"no run provides {name}"
            if missing:
                raise ConfigError(f"attacks: {one.name} lacks an input: {missing}")
    experiment = config.experiment or _name(config)
    return dataclasses.replace(config, experiment=experiment, attacks=tuple(names), rules=rules.name)


def _bound(specs: Sequence[str], rules: Rules) -> list[BoundAttack]:
    """The attacks under a set of rules."""
    bound = [attacks.parse(spec) for spec in specs]
    return [dataclasses.replace(one, attack=rules.attacks.get(one.attack.name, one.attack)) for one in bound]


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
    parts += [short_name(source) for source in (config.data.documents, config.data.members) if source]
    if config.data.nonmembers:
        parts.append("vs-" + short_name(config.data.nonmembers))
    return "-".join(parts)


def run(
    config: RunConfig,
    *,
    rules: Rules = PAPER,
    endpoint: Endpoint | None = None,
    overwrite: bool = False,
    bars: Bars = silent,
) -> Results:
    """Attack a model and write the results folder.

    Everything that can fail early does so before a model is loaded. Token statistics are stored as they are
    computed, so that a run that was interrupted, or is repeated, computes only what is missing.

    Args:
        config: what to run.
        rules: how attacks are computed where not as their authors say.
        endpoint: asks a server for the target's log-probs, instead of loading the model that `config` names; by
            default the one that `config` names, without a key.
        overwrite: discard the folder's results of another configuration.
        bars: progress, from `report.terminal`.

    Raises:
        ConfigError, AttackError, MetricsError: a configuration that cannot be run.
        DataError: documents that cannot be read, or no members or non-members.
        CheckpointError, TokenizerError: a model that cannot be loaded.
        ScoringError: statistics that are not finite.
        ApiError: an endpoint that does not answer as it should.
    """
    if endpoint is None:
        endpoint = endpoint_of(config, key="")
    else:  # so that what is written beside the results says all but the key
        settings = EndpointConfig(endpoint.base_url, endpoint.prefix, endpoint.concurrency)
        config = dataclasses.replace(config, model=endpoint.model, endpoint=settings)
    config = resolve(config, rules)
    job = Job(config, make_mesh(config.mesh.data, config.mesh.model), bars, {**TEXTS, **rules.texts})
    bound = _bound(config.attacks or (), rules)
    if endpoint is not None:
        check_endpoint(config, bound)
    with job.timed("documents"):
        documents = load_documents(config.data)
        main = len(documents)
        others = load_other_nonmembers(config.data)
        # The main documents, then further non-members, all of them scored alike.
        groups = [""] * main + [name for name in others for _ in others[name]]
        documents = unique_ids([*documents, *(document for name in others for document in others[name])])
    with job.timed("hash checkpoints"), bars("find and hash checkpoints"):
        named = [(config.model, config.revision), *((path, None) for path in config.checkpoints)]
        found = [] if endpoint else [find_source(*one, tokenizer=config.tokenizer) for one in named]
        targets = _named("checkpoints", found)
        references = _named("references", [find_source(path) for path in config.references])
        for remark in remarks([*targets, *references], config.dtype):
            job.note(remark)
        if any(source.name == "mean" for source in references):
            raise ConfigError("references: none can be called mean: the column ref-mean is that of all references")
    identity = {
        "documents": fingerprint(documents),
        "checkpoints": [source.checkpoint for source in (*targets, *references)],
        "files": _digests(config, bound),
    }
    folder = Path(config.results) / str(config.experiment)
    finished = (folder / results.METRICS).exists() and not overwrite
    if finished and results.claim(folder, config, identity, overwrite):
        if not (folder / results.REPORT).exists():  # the run ended before it was written
            results.write_report(folder)
        return _read(folder, documents, groups)

    needed = {name for one in bound for name in one.attack.inputs}
    providers = {**PROVIDERS, **rules.providers}
    own = {name: providers[name] for name in ["stats", *sorted(needed - {"stats", *REFERENCES})]}
    refers = references if needed & set(REFERENCES) else []
    target, texts_to_ask, prepared = None, {}, {}
    with job.timed("prepare"), bars("tokenize and plan"):
        if endpoint is None:
            target = job.target(documents, targets[0], main)
            documents = target.documents
            check_checkpoints(target, targets)
        else:
            texts_to_ask = texts_for_endpoint(job, documents, list(own))
        compared = [job.target(documents, source) for source in refers]
        if target is not None:
            check_tokenizers(bound, target, compared, references)
            prepared = {name: provider.prepare(target) for name, provider in own.items()}
    # Now that nothing of the input can be wrong: another run's results go.
    results.claim(folder, config, identity, overwrite)
    job.open_store(folder / "stats")
    overlap = len(overlapping_texts(documents))
    if overlap:
        job.note(f"{overlap} texts are on both sides, member and non-member: the labels contradict")
    try:
        if endpoint is not None:
            given = provide_from_endpoint(job, endpoint, documents, texts_to_ask)
        else:
            assert target is not None
            given = provide(job, target, targets, own, prepared)
        given |= refer(job, compared, refers)
    finally:
        job.close_store()

    calls = [
        Call(one, reference)
        for one in bound
        for reference in ([s.name for s in references] if "reference_stats" in one.attack.inputs else [""])
    ]
    models = max(len(targets), 1)
    with job.timed("attacks"), bars("attacks"):
        columns = scores(calls, given, models, len(documents))
    prefixes = [f"{source.name}/" for source in targets] if models > 1 else [""]
    of_texts = {
        f"{before}{call.column}": columns[call.column][i] for i, before in enumerate(prefixes) for call in calls
    }
    plain = given["stats"].value
    assert isinstance(plain, Sequence)
    tokens = [stats.mask.shape[-1] for stats in plain]
    why = reasons(tokens, [bool(stats.mask.any()) for stats in plain], calls, given, of_texts, prefixes)
    texts = _Table(documents, of_texts, tokens, why, groups)
    table = _whole(texts, config.data.aggregate)
    facts = {
        "identity": identity,
        "targets": [_described(source) for source in targets] if endpoint is None else [_named_endpoint(endpoint)],
        "references": [_described(source) for source in references],
        "overlapping": overlap,
    }
    outcome = _finish(job, folder, facts, texts, table)
    with bars("report"):
        if target is not None:
            names = [source.name for source in targets]
            expose(folder, target, plain, names, texts.documents, texts.scores, groups, outcome.metrics)
        results.write_report(folder)
    return outcome


def _named_endpoint(endpoint: Endpoint) -> dict[str, str]:
    return {"endpoint": endpoint.base_url, "name": endpoint.model, "prefix": endpoint.prefix}


def _digests(config: RunConfig, bound: Sequence[BoundAttack]) -> dict[str, str]:
    """What tells whether a file has changed that the configuration names beside documents and models."""
    shots, counts = config.shots, config.token_counts.source
    near = config.neighbors
    named = [near.members, near.nonmembers, near.documents, shots.members, shots.nonmembers, config.quantile.nonmembers]
    found = {str(path): _sha256(path) for source in named if source for path in _files(source)}
    if near.model is not None and any("neighbor_stats" in one.attack.inputs for one in bound):
        found["neighbors.model"] = find_mask_model(near.model).checkpoint
    for path in _files(counts) if counts not in ("auto", "c4", "demo") else ():
        if path.suffix in (".npy", ".npz", ".json"):
            found[str(path)] = _sha256(path)
        else:  # a corpus may be too large to be read for every run
            found[str(path)] = f"{path.stat().st_size} bytes of {path.stat().st_mtime_ns}"
    return found


def _files(source: str) -> Iterator[Path]:
    """The files of a source, if it has some here."""
    path = Path(split_source(source)[0])
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(one for one in path.rglob("*") if one.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Table(NamedTuple):
    """What was scored, and its scores by column."""

    documents: list[Document]
    scores: dict[str, np.ndarray]
    tokens: list[int]
    reasons: list[dict[str, str]]
    """Of each document, by column, why it has a null there."""
    groups: list[str]
    """"" of the documents that metrics are made of, else the name of further non-members."""


def _whole(texts: _Table, how: str) -> _Table:
    """The table of documents, where texts may be parts of documents."""
    if all(text.parent is None for text in texts.documents):
        return texts
    documents, groups, parts = _wholes(texts.documents, texts.groups)
    pooled = {name: pool(values, parts, how) for name, values in texts.scores.items()}
    # A document lacks a score where all of its texts do; the first one's reason stands for them.
    why = [
        {name: texts.reasons[some[0]][name] for name, values in pooled.items() if np.isnan(values[row])}
        for row, some in enumerate(parts)
    ]
    tokens = [sum(texts.tokens[i] for i in some) for some in parts]
    return _Table(documents, pooled, tokens, why, groups)


def _wholes(texts: Sequence[Document], groups: Sequence[str]) -> tuple[list[Document], list[str], list[list[int]]]:
    """The documents that texts are or are parts of, their groups, and which texts are theirs."""
    parts: dict[tuple[str, str], list[int]] = {}
    for i, (text, group) in enumerate(zip(texts, groups)):
        parts.setdefault((group, text.id if text.parent is None else text.parent), []).append(i)
    documents = [
        dataclasses.replace(texts[some[0]], id=name, parent=None, text="\n\n".join(texts[i].text for i in some))
        for (_, name), some in parts.items()
    ]
    return unique_ids(documents), [group for group, _ in parts], list(parts.values())


def _finish(job: Job, folder: Path, facts: Mapping[str, Any], texts: _Table, table: _Table) -> Results:
    """Metrics, and the files of the results folder."""
    config = job.config
    is_member = np.array([document.is_member for document in table.documents], bool)
    main = np.array([not group for group in table.groups], bool)
    of_main = {name: values[main] for name, values in table.scores.items()}
    with job.timed("metrics"), job.bars("metrics"):
        metrics = _evaluate(of_main, is_member[main], config)
    settings = dataclasses.asdict(config.metrics)
    for note in interval_notes(**{name: settings[name] for name in METHODS}):
        job.note(note)
    for name in (name for name, row in metrics.items() if row is None):
        job.note(f"{name}: one side has no score at all, so no metrics")
    audited = None
    if config.audit:
        with job.timed("audit"), job.bars("audit: what needs no model"):
            rows = [document for document, of in zip(table.documents, main) if of]
            # The beginnings of one text must not be on both sides of a cross-validation.
            groups = [(d.is_member, d.row, d.source) for d in rows] if config.data.tok_by_tok else None
            audited = audit(rows, of_main, groups=groups, confidence=config.metrics.confidence, seed=config.seed)
    unscored = sum(map(bool, table.reasons))
    if unscored:
        job.note(f"{unscored} documents have a null score; the column `reason` of scores.parquet says why")
    with job.timed("write"):
        for name, one in (results.SCORES, table), *([(results.TEXTS, texts)] if texts is not table else []):
            why = [sentence(reasons, len(one.scores)) for reasons in one.reasons]
            results.write_scores(folder / name, _rows(one), one.scores, why)
        if audited is not None:
            results.write_audit(folder / results.AUDIT, audited)
        results.write_roc(folder / results.ROC, _with_metrics(of_main, metrics), is_member[main])
        if not main.all():
            moved = {
                group: _transfer(table, _with_metrics(of_main, metrics), is_member[main], group, config.metrics.fprs)
                for group in dict.fromkeys(table.groups)
                if group
            }
            results.write_transfer(folder / results.TRANSFER, moved)
    provenance = {
        "identity": facts["identity"],
        "versions": results.versions(),
        "device": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
        "mesh": dict(job.mesh.shape),
        "targets": facts["targets"],
        "references": facts["references"],
        "documents": {
            "members": int(is_member[main].sum()),
            "nonmembers": int((~is_member)[main].sum()),
            "unscored": unscored,
            "overlapping": facts["overlapping"],
        },
        "stages": job.stages,
        "notes": job.notes,
    }
    results.write_text(folder / results.RUN, json.dumps(provenance, indent=2))
    results.write_metrics(folder / results.METRICS, metrics)  # last: it says that the folder is complete
    scored = texts.documents, texts.scores, texts.groups
    return Results(folder, table.documents, table.scores, metrics, job.notes, True, *scored, audit=audited)


def _rows(table: _Table) -> dict[str, Sequence[Any]]:
    rows: dict[str, Sequence[Any]] = {
        "id": [_encodable(d.id) for d in table.documents],
        "is_member": [d.is_member for d in table.documents],
        "source": [_encodable(d.source) for d in table.documents],
        "n_tokens": table.tokens,
    }
    if any(table.groups):
        rows["group"] = [_encodable(group) for group in table.groups]
    return rows


def _transfer(
    table: _Table, main: Mapping[str, np.ndarray], is_member: np.ndarray, group: str, fprs: Sequence[float]
) -> dict[str, Transfer]:
    """By column, what thresholds of the main documents do on further non-members."""
    rows = np.array([one == group for one in table.groups], bool)
    return {
        name: transfer(values[is_member], values[~is_member], table.scores[name][rows], fprs)
        for name, values in main.items()
        if np.isfinite(table.scores[name][rows]).any()
    }


def _read(folder: Path, texts: list[Document], groups: list[str]) -> Results:
    """The results of a finished run on these texts."""
    whole = all(text.parent is None for text in texts)
    try:
        metrics = results.read_metrics(folder / results.METRICS)
        scores = results.read_scores(folder / results.SCORES, list(metrics))
        of_texts = scores if whole else results.read_scores(folder / results.TEXTS, list(metrics))
        audited = results.read_audit(folder / results.AUDIT)
        notes = json.loads((folder / results.RUN).read_text(encoding="utf-8"))["notes"]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{folder}: results that cannot be read ({reason}); give --overwrite") from error
    documents = texts if whole else _wholes(texts, groups)[0]
    return Results(folder, documents, scores, metrics, notes, False, texts, of_texts, groups, audited)


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

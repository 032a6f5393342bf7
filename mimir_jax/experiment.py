"""The runner: from a configuration to documents, passes, scores, metrics and a results folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mimir_jax import attacks, in_out
from mimir_jax.attacks.registry import Attack, BoundAttack
from mimir_jax.config import ConfigError, EndpointConfig, RunConfig
from mimir_jax.data.documents import (
    Document,
    fingerprint,
    load_documents,
    load_other_nonmembers,
    overlapping_texts,
    unique_ids,
)
from mimir_jax.data.sources import short_name
from mimir_jax.exposure import expose
from mimir_jax.identity import described, described_endpoint, distinct_names, file_digests
from mimir_jax.inputs import PROVIDERS, Provider
from mimir_jax.job import (
    OF_KNOWN_SETS,
    OTHER_MODELS,
    REFERENCES,
    Job,
    check_checkpoints,
    check_endpoint,
    check_stored,
    check_tokenizers,
    digest,
    endpoint_of,
    find,
    provide,
    provide_from_endpoint,
    refer,
    texts_for_endpoint,
)
from mimir_jax.metrics import evaluate
from mimir_jax.outcome import Results, finish, read_finished
from mimir_jax.parallel import hosts
from mimir_jax.parallel.mesh import configured_mesh
from mimir_jax.parallel.preemption import Preemption
from mimir_jax.report import results, written
from mimir_jax.report.terminal import Bars, silent
from mimir_jax.scores import Call, Given, reasons, scores
from mimir_jax.scoring.api import Endpoint
from mimir_jax.scoring.engine import check_head
from mimir_jax.scoring.kept_models import Named, keep_model
from mimir_jax.scoring.model import Source, remarks
from mimir_jax.scoring.store import Store
from mimir_jax.shelf import Shelf
from mimir_jax.table import Table, whole_documents
from mimir_jax.target import TEXTS, Texts

Stage = Literal["run", "score", "attack"]


@dataclass(frozen=True)
class Rules:
    """What computes a score otherwise than its authors define it: rows, providers and versions of texts, by name."""

    name: Literal["paper", "mimir"] = "paper"
    attacks: Mapping[str, Attack] = field(default_factory=dict)
    providers: Mapping[str, Provider] = field(default_factory=dict)
    texts: Mapping[str, Texts] = field(default_factory=dict)


PAPER = Rules()


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
    providers = all_providers(rules)
    for one in bound_attacks(names, rules):
        for name in one.attack.inputs:
            if name in REFERENCES:
                missing = None if config.references else "give a reference model: --references"
            elif name in OF_KNOWN_SETS:
                missing = in_out.missing(config)
            else:
                missing = providers[name].missing(config) if name in providers else f"no run provides {name}"
            if missing:
                raise ConfigError(f"attacks: {one.name} lacks an input: {missing}")
    experiment = config.experiment or _name(config)
    return dataclasses.replace(config, experiment=experiment, attacks=tuple(names), rules=rules.name)


def bound_attacks(specs: Sequence[str], rules: Rules) -> list[BoundAttack]:
    """The attacks under a set of rules."""
    bound = [attacks.parse(spec) for spec in specs]
    return [dataclasses.replace(one, attack=rules.attacks.get(one.attack.name, one.attack)) for one in bound]


def all_providers(rules: Rules) -> dict[str, Provider]:
    """What provides each input under a set of rules, but for what comes from other models."""
    return {**PROVIDERS, **in_out.PROVIDERS, **rules.providers}


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
    stage: Stage = "run",
    overwrite: bool = False,
    bars: Bars = silent,
    preemption: Preemption | None = None,
    patience: float = 300.0,
    shelf: Shelf | None = None,
) -> Results:
    """Attack a model and write the results folder.

    Everything that can fail early does so before a model is loaded. Token statistics are stored as they are
    computed, so that a run that was interrupted, or is repeated, computes only what is missing.

    Where several processes run it, process 0 alone reads and writes the results folder and the store, and has the
    scores; the others return without.

    Args:
        config: what to run.
        rules: how attacks are computed where not as their authors say.
        endpoint: asks a server for the target's log-probs, instead of loading the model that `config` names; by
            default the one that `config` names, without a key.
        stage: "score" stores token statistics and does nothing with them; "attack" takes them from the store, without
            the models' weights.
        overwrite: discard the folder's results of another configuration.
        bars: progress, from `report.terminal`.
        preemption: says when to end early, in order.
        patience: seconds without a sign of life after which other processes are given up.
        shelf: what runs that follow one another share; by default nothing.

    Raises:
        ConfigError, AttackError, MetricsError: a configuration that cannot be run.
        DataError: documents that cannot be read, or no members or non-members.
        CheckpointError, TokenizerError: a model that cannot be loaded.
        StoreError: the store cannot be used, or lacks what is to be attacked.
        Preempted, HostsError: the run ended early, or another process failed.
        ScoringError: statistics that are not finite.
        ApiError: an endpoint that does not answer as it should.
    """
    if endpoint is None:
        endpoint = endpoint_of(config, key="")
    else:  # so that what is written beside the results says all but the key
        settings = EndpointConfig(endpoint.base_url, endpoint.prefix, endpoint.concurrency)
        config = dataclasses.replace(config, model=endpoint.model, endpoint=settings)
    config = resolve(config, rules)
    job = Job(
        config,
        configured_mesh(config.mesh),
        bars,
        {**TEXTS, **rules.texts},
        stage != "attack",
        preemption or Preemption(),
        patience,
        shelf=shelf or Shelf(),
    )
    if stage != "attack":  # which computes nothing, wherever the statistics were computed
        check_head(config.head, job.mesh)
    bound = bound_attacks(config.attacks or (), rules)
    providers = all_providers(rules)
    needed = {name for one in bound for name in one.attack.inputs}
    if endpoint is not None:
        check_endpoint(config, bound)
    if stage == "attack":
        check_stored(bound, providers, endpoint)
    folder = Path(config.results) / str(config.experiment)
    store = config.store or str(folder / "stats")
    kept = Store(store, read_only=True) if stage == "attack" else None
    with hosts.together("documents"):
        documents, groups = load_all(job)
    named: list[Named] = [] if endpoint else [(config.model, config.revision, config.tokenizer)]
    named += [(path, None, config.tokenizer) for path in config.checkpoints]
    with hosts.together("checkpoints"):
        targets, references = _checkpoints(job, named, kept)
        folders = in_out.folders(config) if needed & set(OF_KNOWN_SETS) else []
        of_known_sets = [find(path, None, None, kept) for path in folders]
    identity = {
        "documents": fingerprint(documents),
        "checkpoints": [source.checkpoint for source in (*targets, *references, *of_known_sets)],
        "files": file_digests(config, bound),
    }
    hosts.check_equal("documents, checkpoints or files", digest(identity))
    if job.finished(folder, identity, overwrite):
        return read_finished(folder, documents, groups) if hosts.leads() else Results(folder, documents, {}, {}, [])
    if targets or references:
        job.lay_out([*targets, *references, *of_known_sets])

    if stage == "score":  # what `attack` cannot take from the store is not computed
        needed = {name for name in needed if name in OTHER_MODELS or not providers[name].needs_weights}
    own = {name: providers[name] for name in ["stats", *sorted(needed - {"stats", *OTHER_MODELS})]}
    refers = references if needed & set(REFERENCES) else []
    target, texts_to_ask, prepared, known = None, {}, {}, None
    with hosts.together("prepare"), job.timed("prepare"), bars("tokenize and plan"), job.between_processes():
        if endpoint is None:
            target = job.target(documents, targets[0], groups.count(""))
            documents = target.documents
            check_checkpoints(target, targets)
        else:
            texts_to_ask = texts_for_endpoint(job, documents, list(own))
        compared = [job.target(documents, source) for source in refers]
        for other in compared:
            _ = other.tokens  # now, not when the target is scored
        if target is not None:
            check_tokenizers(bound, target, compared, references)
            prepared = {name: provider.prepare(target) for name, provider in own.items()}
            known = in_out.prepare(job, target, of_known_sets, needed)
    # Now that nothing of the input can be wrong: another run's results go.
    with hosts.together("results folder"):
        if hosts.leads():
            results.claim(folder, config, identity, overwrite)
            job.store = kept or Store(store)
            if kept is None:
                named += [(path, None, None) for path in (*config.references, *folders)]
                for one, source in zip(named, [*targets, *references, *of_known_sets]):
                    keep_model(job.store, one, source)
    overlap = len(overlapping_texts(documents))
    if overlap:
        job.note(f"{overlap} texts are on both sides, member and non-member: the labels contradict")
    try:
        if endpoint is not None:
            given = provide_from_endpoint(job, endpoint, documents, texts_to_ask)
        else:
            assert target is not None
            given = provide(job, target, targets, own, prepared) | in_out.refer(job, known)
        given |= refer(job, compared, refers)
    finally:
        job.close_store()
    if stage == "score":
        job.note(f"the statistics of {len(documents)} documents are in {store}")
    if stage == "score" or not hosts.leads():
        return Results(folder, documents, {}, {}, job.notes)

    calls = [
        Call(one, reference)
        for one in bound
        for reference in ([s.name for s in references] if "reference_stats" in one.attack.inputs else [""])
    ]
    texts = _table(job, calls, given, [source.name for source in targets], documents, groups)
    facts = {
        "identity": identity,
        "targets": [described(source) for source in targets] if endpoint is None else [described_endpoint(endpoint)],
        "references": [described(source) for source in (*references, *of_known_sets)],
        "overlapping": overlap,
    }
    outcome = finish(job, folder, facts, texts, whole_documents(texts, config.data.aggregate))
    with bars("report"):
        if target is not None:
            plain = given["stats"].value
            assert isinstance(plain, Sequence)
            names = [source.name for source in targets]
            expose(folder, target, plain, names, texts.documents, texts.scores, groups, outcome.metrics)
        written.write_report(folder)
    return outcome


def load_all(job: Job) -> tuple[list[Document], list[str]]:
    """The main documents, then further non-members, all of them scored alike; and of each "" or the latter's name."""
    with job.timed("documents"):
        main, others = load_documents(job.config.data), load_other_nonmembers(job.config.data)
        groups = [""] * len(main) + [name for name in others for _ in others[name]]
        return unique_ids([*main, *(document for name in others for document in others[name])]), groups


def _checkpoints(job: Job, named: Sequence[Named], kept: Store | None) -> tuple[list[Source], list[Source]]:
    """The targets, none where an endpoint is one, and the references, found and hashed; or from where they are kept."""
    config = job.config
    with job.timed("hash checkpoints"), job.bars("find and hash checkpoints"):
        targets = distinct_names("checkpoints", [find(*one, kept) for one in named])
        references = distinct_names("references", [find(path, None, None, kept) for path in config.references])
    for remark in remarks([*targets, *references], config.dtype):
        job.note(remark)
    if any(source.name == "mean" for source in references):
        raise ConfigError("references: none can be called mean: the column ref-mean is that of all references")
    return targets, references


def _table(
    job: Job,
    calls: Sequence[Call],
    given: Mapping[str, Given],
    targets: Sequence[str],
    documents: list[Document],
    groups: list[str],
) -> Table:
    """All scores; of several targets, a column's name begins with the target's."""
    with job.timed("attacks"), job.bars("attacks"):
        found = scores(calls, given, max(len(targets), 1), len(documents), main=groups.count(""))
    prefixes = [f"{name}/" for name in targets] if len(targets) > 1 else [""]
    columns = {f"{before}{call.column}": found[call.column][i] for i, before in enumerate(prefixes) for call in calls}
    plain = given["stats"].value
    assert isinstance(plain, Sequence)
    tokens = [stats.mask.shape[-1] for stats in plain]
    why = reasons(tokens, [bool(stats.mask.any()) for stats in plain], calls, given, columns, prefixes)
    return Table(documents, columns, tokens, why, groups)

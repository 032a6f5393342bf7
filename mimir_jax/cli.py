"""The command line: parse, call, print."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from mimir_jax.config import ConfigError, DataConfig, HostsConfig, RunConfig, from_json
from mimir_jax.report.escape import visible  # paths and fields of files are untrusted text

if TYPE_CHECKING:
    from mimir_jax.compat.mimir.translation import Translation
    from mimir_jax.experiment import Results, Stage

USAGE = """usage: mimir-jax run [--config FILE] [--any.field value ...]     attack a model (run --help lists the fields)
       mimir-jax check [CONFIG] [--any.field value ...]      find all that is wrong with a run, in seconds
       mimir-jax report RESULTS ...                          report.html of a results folder, or of several side by side
       mimir-jax score [--any.field value ...]               only compute and store the token statistics
       mimir-jax attack [RESULTS_FOLDER] [--any.field value ...]     attack what is stored, without the weights
       mimir-jax plan --model M --topology v5e:4x4           what a job needs, before any device is rented
       mimir-jax audit --members FILE --nonmembers FILE      what is reached without any model (audit --help)
       mimir-jax overlap --out FOLDER --corpus FILE          n-gram overlap of documents with a corpus
       mimir-jax construct --out FOLDER --train FILE --heldout FILE  members and non-members out of a corpus
       mimir-jax compare RESULTS ...                         paired tests between attacks, or between runs
       mimir-jax decide RESULTS --attack loss --fpr 0.01     who is called a member, with rates on other documents
       mimir-jax neighbors --neighbors.model MODEL --out FILE make texts close to each document (neighbors --help)
       mimir-jax privacy --base M --documents FILE           fine-tune, then tell which documents leaked
       mimir-jax average FILE_results.json ...               average MIMIR's results, such as those of references
       mimir-jax models                                      list the model families
       mimir-jax convert IN OUT                              write a .gguf file or a folder with .bin as safetensors

--help after run, check, score, attack, plan, report, audit, overlap, construct, compare, decide, neighbors or privacy
lists its options.
Exit codes: 0 done; 2 the input is at fault, and stderr says what to do; 75 ended early, and the same command goes on;
130 interrupted; 1 a defect, with its traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 2 where the input is at fault and stderr says what to do; 75 where the same command goes on
    from where this one had to end; 130 where it was interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    commands: dict[str, Callable[[list[str], Console, Console], int | None]] = {
        "run": _run,
        "check": _check,
        "report": _report,
        "score": partial(_run, stage="score"),
        "attack": partial(_run, stage="attack"),
        "plan": _plan,
        "audit": _audit,
        "overlap": partial(_command, "overlap"),
        "construct": partial(_command, "construct"),
        "decide": partial(_command, "decide"),
        "compare": partial(_command, "compare"),
        "neighbors": _neighbors,
        "privacy": _privacy,
        "average": _average,
        "models": _models,
        "convert": _convert,
    }
    command = commands.get(arguments[0] if arguments else "")
    if command is None:
        errors.print(Text(USAGE))
        return 0 if arguments in ([], ["-h"], ["--help"]) else 2
    try:
        return command(arguments[1:], Console(highlight=False), errors) or 0
    except KeyboardInterrupt:
        errors.print("mimir-jax: interrupted; what was computed is stored, and the same command goes on from there")
        return _leave(130)
    except Exception as error:
        if not isinstance(error, ValueError | RuntimeError) or not type(error).__module__.startswith("mimir_jax."):
            _leave(1, error)
            raise  # not an error of ours: a defect, whose traceback is wanted
        errors.print(Text("mimir-jax: " + visible(str(error).replace("\n", " "))))
        return _leave(_code(error))


def _code(error: Exception) -> int:
    from mimir_jax.parallel.hosts import RESUME, HostLostError
    from mimir_jax.parallel.preemption import Preempted

    return RESUME if isinstance(error, HostLostError | Preempted) else 2


def _leave(code: int, error: Exception | None = None) -> int:
    """The code; where other processes run, too, this is where one that fails ends."""
    if "jax" in sys.modules:
        from mimir_jax.parallel.hosts import leave

        leave(code, error)
    return code


def _run(arguments: list[str], console: Console, errors: Console, stage: "Stage" = "run") -> None:
    folder, arguments = _take_folder(arguments) if stage == "attack" else (None, arguments)
    options, translation = _configuration(arguments, folder, stage)
    if translation is not None and _dumped(translation, options.config, console, errors):
        return
    from mimir_jax.parallel import hosts  # after parsing, so that --help waits for as little as it can
    from mimir_jax.parallel.preemption import Preemption
    from mimir_jax.report.terminal import bars, silent

    hosts.connect(options.hosts)
    leads, preemption = hosts.leads(), Preemption()
    with preemption.listening():
        found = _compute(
            options.config,
            translation,
            stage=stage,
            overwrite=options.overwrite,
            bars=bars(errors) if leads and not options.quiet else silent,
            preemption=preemption,
            patience=options.hosts.timeout,
        )
    if not leads:
        return
    if options.json:
        print(json.dumps(_as_json(found), allow_nan=False))
    elif not options.quiet:
        _print(found, console, tuple(options.config.checkpoints))


def _configuration(
    arguments: list[str], default: RunConfig | None = None, stage: "Stage" = "run"
) -> "tuple[Options, Translation | None]":
    """What a command line with or without a file asks for, and how a file of MIMIR's was translated."""
    path, arguments = _take_config(arguments)
    translation = None
    if path is not None and is_mimir_file(path):
        from mimir_jax.compat.mimir.run import translation_of

        if stage != "run":
            raise ConfigError(f"{path}: is MIMIR's; `mimir-jax run` writes ours, results/*/config.json, and takes both")
        translation, arguments = translation_of(path, arguments, os.environ)
    config = translation.run if translation else from_json(path) if path else default or RunConfig()
    return _parse(arguments, config, stage), translation


def _print(found: "Results", console: Console, checkpoints: tuple[str, ...]) -> None:
    """The table, the verdict, what a reader must know, and where all of it is."""
    from mimir_jax.report.findings import verdict
    from mimir_jax.report.finished import audit_of
    from mimir_jax.report.results import REPORT
    from mimir_jax.report.tables import checkpoints_table, metrics_table

    metrics = {name: row for name, row in found.metrics.items() if row is not None}
    table = checkpoints_table if checkpoints else metrics_table
    if metrics:  # there are none of `score`
        console.print(table(metrics, title=f"{found.folder}", audit=found.audit))
        console.print(Text(visible(verdict(found.metrics, audit_of(found.audit)).answer)), soft_wrap=True)
    for note in [*found.notes, *(found.audit or {}).get("notes", [])]:
        console.print(Text(f"note: {visible(note)}"), soft_wrap=True)
    done = "written to" if found.computed else "nothing to compute: the same results are already in"
    console.print(Text(f"{done} {visible(str(found.folder))}"), soft_wrap=True)
    if (found.folder / REPORT).exists():
        console.print(Text(f"to look at: {visible(str(found.folder / REPORT))}"), soft_wrap=True)


def _as_json(found: "Results") -> dict[str, Any]:
    """What --json prints: where results are, and what metrics.json, audit.json and the verdict say."""
    from mimir_jax.report.findings import verdict
    from mimir_jax.report.finished import audit_of
    from mimir_jax.report.results import REPORT

    return {
        "folder": str(found.folder),
        "report": str(found.folder / REPORT),
        "computed": found.computed,
        "verdict": asdict(verdict(found.metrics, audit_of(found.audit))),
        "metrics": {name: None if row is None else asdict(row) for name, row in found.metrics.items()},
        "audit": found.audit,
        "notes": found.notes,
    }


def _check(arguments: list[str], console: Console, errors: Console) -> int:
    """`mimir-jax check CONFIG`, or with the options of `run`; whatever is wrong is named, a line each."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--config", *arguments]
    options, translation = _configuration(arguments)
    config = options.config
    from mimir_jax.check import check
    from mimir_jax.experiment import PAPER

    rules = PAPER
    if config.rules == "mimir":
        from mimir_jax.compat.mimir.attacks import RULES

        rules = RULES
    checked = check(config, rules)
    for fact in [*(translation.notes if translation else ()), *checked.facts]:
        console.print(Text(visible(fact)), soft_wrap=True)
    for problem in checked.problems:
        errors.print(Text("mimir-jax: " + visible(problem.replace("\n", " "))), soft_wrap=True)
    return 2 if checked.problems else 0


def _report(arguments: list[str], console: Console, errors: Console) -> None:
    def command(
        results: tyro.conf.Positional[tuple[Path, ...]],
        output: Path | None = None,
        texts: bool = True,
        quiet: bool = False,
    ) -> tuple[tuple[Path, ...], Path | None, bool, bool]:
        """Write report.html, figures (SVG, PDF) and tables (CSV, LaTeX, Markdown) of finished runs; no model is loaded.

        One folder gets its own report; several are set side by side, with paired tests where documents are the same.

        Args:
            results: Folders that mimir-jax run wrote.
            output: Folder for the report of several runs; by default `comparison` beside the first of them.
            texts: Whether to show tokens of the most and least exposed documents; without, the page has no text of any.
            quiet: Print nothing but errors.
        """
        return results, output, texts, quiet

    folders, output, texts, quiet = tyro.cli(
        command, args=arguments, prog="mimir-jax report", config=(tyro.conf.FlagCreatePairsOff,)
    )
    if not folders:
        raise ConfigError("report: name at least one results folder")
    from mimir_jax.report.finished import read_finished
    from mimir_jax.report.page import write_comparison, write_report

    runs = [read_finished(folder) for folder in folders]
    try:
        if len(runs) == 1 and output is None:
            run = runs[0] if texts else replace(runs[0], exposure=None)
            path = write_report(run, papers=True)
        else:
            path = write_comparison(runs, output or folders[0].resolve().parent / "comparison", papers=True)
    except OSError as error:
        raise ConfigError(f"report: cannot be written: {error}") from error
    if not quiet:
        console.print(Text(f"written to {visible(str(path))}, with tables/ and figures/ beside it"), soft_wrap=True)


def _compute(config: RunConfig, translation: "Translation | None", **how: Any) -> "Results":
    from mimir_jax import experiment
    from mimir_jax.job import endpoint_of

    key = os.environ.get("OPENAI_API_KEY", "")
    if translation is not None:
        from mimir_jax.compat.mimir.run import run

        return run(translation, config, key=key, **how)
    rules = experiment.PAPER
    if config.rules == "mimir":
        from mimir_jax.compat.mimir.attacks import RULES

        rules = RULES
    return experiment.run(config, rules=rules, endpoint=endpoint_of(config, key), **how)


def _plan(arguments: list[str], console: Console, errors: Console) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # what is planned for need not be here
    from rich.table import Table

    from mimir_jax.plan import PlanConfig, describe, plan
    from mimir_jax.scoring.model import find_shape

    job = tyro.cli(PlanConfig, args=arguments, prog="mimir-jax plan")
    found = plan(job, find_shape(job.model, job.revision))
    table = Table(title=f"{job.model} on {found.topology.name}", show_header=False, title_justify="left")
    for row in describe(found, job):
        table.add_row(*row)
    console.print(table)


def _dumped(translation: "Translation", config: RunConfig, console: Console, errors: Console) -> bool:
    """MIMIR's dump_cache: texts are selected, or neighbors made, and written, and nothing is scored."""
    from mimir_jax.compat.mimir.run import dump, dumps
    from mimir_jax.report.terminal import bars

    if not dumps(translation):
        return False
    for note in translation.notes:
        console.print(Text(f"note: {visible(note)}"), soft_wrap=True)
    for path in dump(translation, config, bars(errors)):
        console.print(Text(f"written: {visible(str(path))}; run again with load_from_cache"), soft_wrap=True)
    return True


def _command(name: str, arguments: list[str], console: Console, errors: Console) -> None:
    from mimir_jax import commands  # which reads data, and so takes a moment to import

    getattr(commands, name)(arguments, console, errors)


def _audit(arguments: list[str], console: Console, errors: Console) -> None:
    def command(
        data: Annotated[DataConfig, tyro.conf.arg(name="")] = DataConfig(),  # noqa: B008
        seed: int = 0,
        json: str | None = None,
    ) -> tuple[DataConfig, int, str | None]:
        """How far members and non-members are told apart without any model; by default the embedded example.

        Args:
            data: the documents.
            seed: Of the folds.
            json: File that the result is written to.
        """
        return data, seed, json

    data, seed, path = tyro.cli(command, args=arguments, prog="mimir-jax audit", config=(tyro.conf.FlagCreatePairsOff,))
    from mimir_jax.audit.verdict import audit
    from mimir_jax.data.documents import load_documents
    from mimir_jax.report.results import write_audit
    from mimir_jax.report.tables import baselines_table

    documents = load_documents(data)
    groups = (
        [(d.is_member, d.parent or d.row, d.source) for d in documents] if data.tok_by_tok or data.full_doc else None
    )
    found = audit(documents, groups=groups, seed=seed)
    members = sum(bool(document.is_member) for document in documents)
    if found["best"]:
        console.print(baselines_table(found, title=f"{members} members, {len(documents) - members} non-members"))
    for side, sign in (("members", 1), ("non-members", -1)):
        words = [one["word"] for one in found["telling_words"] if one["z"] * sign > 3]
        if words:
            console.print(Text(f"words that more {side} have: {visible(', '.join(words))}"), soft_wrap=True)
    for name, one in found["shift"].items():
        if one["p_adjusted"] is not None and one["p_adjusted"] < 0.05:
            medians = f"median {one['members']:.4g} of members, {one['nonmembers']:.4g} of non-members"
            console.print(Text(f"{name}: {medians}, adjusted p {one['p_adjusted']:.2g}"), soft_wrap=True)
    for note in found["notes"]:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    if path:
        write_audit(Path(path), found)


def _privacy(arguments: list[str], console: Console, errors: Console) -> None:
    """Fine-tune a base on documents, and show those that the checkpoint gives away most."""
    from mimir_jax.privacy import PrivacyConfig, audit_checkpoint
    from mimir_jax.report.tables import risk_table
    from mimir_jax.report.terminal import bars

    config = tyro.cli(PrivacyConfig, args=arguments, prog="mimir-jax privacy")
    risk = audit_checkpoint(config, bars(errors))
    names = [document.id for document in risk.documents]
    console.print(risk_table(names, risk.score, risk.p_value, risk.exposed, config.fpr))
    for note in risk.results.notes:
        console.print(Text(f"note: {visible(note)}"), soft_wrap=True)
    written = f"written: {risk.path}, and token by token {risk.results.folder / 'report.html'}"
    console.print(Text(visible(written)), soft_wrap=True)


def _neighbors(arguments: list[str], console: Console, errors: Console) -> None:
    """Make neighbors, or read them, write them whole, and say how close they are."""
    path, arguments = _take_config(arguments)
    default = from_json(path) if path else RunConfig()

    def command(
        out: Path | None = None,
        lists: bool = False,
        judge: str = "demo/epoch1",
        config: Annotated[RunConfig, tyro.conf.arg(name="")] = default,
        hosts: HostsConfig = HostsConfig(),  # noqa: B008
    ) -> tuple[Path | None, bool, str, RunConfig, HostsConfig]:
        """Make texts close to each document, as ne and ne_z take them, with a mask-filling model.

        What is made is kept, and found again by every later run on the same documents with the same settings.
        The fields are those of `mimir-jax run`; data, neighbors, rules, seed, dtype, mesh and batch_tokens count.

        Args:
            out: Write the neighbors of all documents here (.jsonl or .jsonl.gz), with how they were made.
            lists: Beside it also write MIMIR's form, a file for each side: <out>.members.jsonl, <out>.nonmembers.jsonl.
            judge: A third model, under which the change of log-likelihood is measured; none does without.
            config: the fields.
            hosts: the processes.
        """
        return out, lists, judge, config, hosts

    out, lists, judge, config, processes = tyro.cli(
        command, args=arguments, prog="mimir-jax neighbors", config=(tyro.conf.FlagCreatePairsOff,)
    )
    from mimir_jax.neighbors import PAPER, write_and_judge
    from mimir_jax.parallel.hosts import connect, leads
    from mimir_jax.report.tables import spread_table, visible
    from mimir_jax.report.terminal import bars, silent

    connect(processes)

    rules = PAPER
    if config.rules == "mimir":
        from mimir_jax.compat.mimir.neighbors import NEIGHBORS

        rules = NEIGHBORS
    third = None if judge == "none" else judge
    found, notes = write_and_judge(config, out, lists, third, bars(errors) if leads() else silent, rules)
    if not leads():
        return
    rows = {"tokens changed": found.tokens, "share of tokens changed": found.share}
    if found.change is not None:
        rows[f"change of log-likelihood under {third}, nats per token"] = found.change
    console.print(spread_table(rows, title=f"{len(found.tokens)} neighbors"))
    if len(found.tokens):
        console.print(
            Text(
                f"{found.unchanged.mean():.1%} are the document itself, {found.repeated.mean():.1%} are another "
                "neighbor's text"
            ),
            soft_wrap=True,
        )
    for note in notes:
        console.print(Text(f"note: {visible(note)}"), soft_wrap=True)


def _average(arguments: list[str], console: Console, errors: Console) -> None:
    """The mean of MIMIR's result files, with our metrics and what MIMIR's script of averages prints."""
    from mimir_jax.compat.mimir.results import average_references
    from mimir_jax.report.tables import metrics_table

    found = average_references(arguments)
    console.print(metrics_table({"mean": found.metrics}, title=f"mean of {len(arguments)} result files"))
    tprs = ", ".join(f"TPR {tpr:.4f} below FPR {fpr}" for fpr, tpr in found.mimir["tpr_at_low_fpr"].items())
    console.print(
        Text(f"MIMIR's script, with non-members positive: AUC {found.mimir['roc_auc']:.4f}, {tprs}"), soft_wrap=True
    )


def _models(arguments: list[str], console: Console, errors: Console) -> None:
    """The families, which checkpoints of MIMIR's paper each covers, and what was tested how."""
    from rich.table import Table

    from mimir_jax.models.coverage import COVERAGE
    from mimir_jax.models.families import FAMILIES, MASKED, REFUSED, SEQ2SEQ

    if arguments:
        raise ConfigError(f"models takes no arguments, not {' '.join(arguments)}")
    table = Table("model_type", show_lines=True)
    for header in ("of MIMIR's paper", "others, such as", "tested"):
        table.add_column(header, overflow="fold")
    for kind in (*FAMILIES, *MASKED, *SEQ2SEQ):
        table.add_row(kind, *COVERAGE[kind])
    console.print(table)
    for kind, reason in REFUSED.items():
        console.print(Text(f"{kind} is refused: {reason}."), soft_wrap=True)
    console.print(Text("A family more is one file: see `Adding a model family` in the README."), soft_wrap=True)


def _convert(arguments: list[str], console: Console, errors: Console) -> None:
    from mimir_jax.models.convert import convert

    if len(arguments) != 2 or any(argument.startswith("-") for argument in arguments):
        raise ConfigError("convert takes two paths, IN and OUT: a .gguf file or a folder with .bin, and a new folder")
    convert(Path(arguments[0]), Path(arguments[1]))
    console.print(Text(f"written to {visible(arguments[1])}"), soft_wrap=True)


def _take_folder(arguments: list[str]) -> tuple[RunConfig | None, list[str]]:
    """The configuration of a results folder that is named first, and the other arguments."""
    if not arguments or arguments[0].startswith("-"):
        return None, arguments
    folder = Path(arguments[0])
    config = from_json(folder / "config.json")
    store = config.store or str(folder / "stats")
    return replace(config, results=str(folder.parent), experiment=folder.name, store=store), arguments[1:]


def _take_config(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The file of --config, and the other arguments."""
    arguments = [part for one in arguments for part in (one.split("=", 1) if one.startswith("--config=") else [one])]
    if "--config" not in arguments:
        return None, arguments
    at = arguments.index("--config")
    if at + 1 == len(arguments):
        raise ConfigError("--config needs a file")
    return arguments[at + 1], arguments[:at] + arguments[at + 2 :]


def is_mimir_file(path: str) -> bool:
    """Whether a file holds one of MIMIR's configurations; a file that cannot be read does not."""
    from mimir_jax.compat.mimir.config import is_mimir

    try:
        return is_mimir(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return False


@dataclass(frozen=True)
class Options:
    """What `run` is told beside its configuration."""

    config: RunConfig
    hosts: HostsConfig
    overwrite: bool = False
    quiet: bool = False
    json: bool = False


def _parse(arguments: list[str], default: RunConfig, stage: "Stage") -> Options:
    def command(
        config: Annotated[RunConfig, tyro.conf.arg(name="")] = default,
        hosts: HostsConfig = HostsConfig(),  # noqa: B008
        all_checkpoints: bool = False,
        overwrite: bool = False,
        quiet: bool = False,
        json: bool = False,
    ) -> Options:
        """Attack a model and write <results>/<experiment>; without any option, the embedded example.

        --config FILE reads all fields from JSON, ours or MIMIR's, with MIMIR's own flags beside a file of
        MIMIR's; the options below replace them one by one.

        Args:
            config: the fields.
            hosts: the processes.
            all_checkpoints: Attack the embedded example after 1, 2, 4, 8 and 16 epochs in one vmapped pass.
            overwrite: Discard results of another configuration in the folder.
            quiet: Print nothing but errors: no progress, no table.
            json: Print metrics, verdict and notes to stdout as one JSON object, and nothing else there.
        """
        if all_checkpoints:
            first, *others = (f"demo/epoch{n}" for n in (1, 2, 4, 8, 16))
            config = replace(config, model=first, checkpoints=tuple(others))
        return Options(config, hosts, overwrite, quiet, json)

    return tyro.cli(command, args=arguments, prog=f"mimir-jax {stage}", config=(tyro.conf.FlagCreatePairsOff,))

"""`mimir-jax run`: attack a model, and print what was found."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from mimir_jax.cli.shared import parse, say, take_config
from mimir_jax.config import ConfigError, HostsConfig, RunConfig, from_json

if TYPE_CHECKING:
    from mimir_jax.compat.mimir.translation import Translation
    from mimir_jax.experiment import Results, Rules, Stage


@dataclass(frozen=True)
class Options:
    """Attack a model and write <results>/<experiment>; without any option, the embedded example.

    --config FILE reads all fields from JSON, ours or MIMIR's, with MIMIR's own flags beside a file of
    MIMIR's; the options below replace them one by one.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)
    """the processes."""
    all_checkpoints: bool = False
    """Attack the embedded example after 1, 2, 4, 8 and 16 epochs in one vmapped pass."""
    overwrite: bool = False
    """Discard results of another configuration in the folder."""
    quiet: bool = False
    """Print nothing but errors: no progress, no table."""
    json: bool = False
    """Print metrics, verdict and notes to stdout as one JSON object, and nothing else there."""


def main(arguments: list[str], console: Console, errors: Console) -> None:
    run_stage("run", arguments, console, errors)


def run_stage(
    stage: "Stage", arguments: list[str], console: Console, errors: Console, default: RunConfig | None = None
) -> None:
    """Parse, compute and print, for all three stages.

    Args:
        stage: `run` is both of `score` and `attack`.
        arguments: of the command line.
        console: for what was found.
        errors: for progress.
        default: configuration that options change where no file is named.
    """
    options, translation = configuration(arguments, default, stage)
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


def configuration(
    arguments: list[str], default: RunConfig | None = None, stage: "Stage" = "run"
) -> "tuple[Options, Translation | None]":
    """What a command line with or without a file asks for, and how a file of MIMIR's was translated."""
    path, arguments = take_config(arguments)
    translation = None
    if path is not None and _is_mimir_file(path):
        from mimir_jax.compat.mimir.run import translation_of

        if stage != "run":
            raise ConfigError(f"{path}: is MIMIR's; `mimir-jax run` writes ours, results/*/config.json, and takes both")
        translation, arguments = translation_of(path, arguments, os.environ)
    config = translation.run if translation else from_json(path) if path else default or RunConfig()
    return read_options(arguments, config, stage), translation


def read_options(arguments: list[str], default: RunConfig, stage: "Stage" = "run") -> Options:
    """The command line's options, over a configuration."""
    options = parse(Options, stage, arguments, Options(default))
    if options.all_checkpoints:
        first, *others = (f"demo/epoch{n}" for n in (1, 2, 4, 8, 16))
        options = replace(options, config=replace(options.config, model=first, checkpoints=tuple(others)))
    return options


def _is_mimir_file(path: str) -> bool:
    """Whether a file holds one of MIMIR's configurations; a file that cannot be read does not."""
    from mimir_jax.compat.mimir.config import is_mimir

    try:
        return is_mimir(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return False


def _dumped(translation: "Translation", config: RunConfig, console: Console, errors: Console) -> bool:
    """MIMIR's dump_cache: texts are selected, or neighbors made, and written, and nothing is scored."""
    from mimir_jax.compat.mimir.run import dump, dumps
    from mimir_jax.report.terminal import bars

    if not dumps(translation):
        return False
    for note in translation.notes:
        say(console, f"note: {note}")
    for path in dump(translation, config, bars(errors)):
        say(console, f"written: {path}; run again with load_from_cache")
    return True


def _compute(config: RunConfig, translation: "Translation | None", **how: Any) -> "Results":
    from mimir_jax import experiment
    from mimir_jax.job import endpoint_of

    key = os.environ.get("OPENAI_API_KEY", "")
    if translation is not None:
        from mimir_jax.compat.mimir.run import run

        return run(translation, config, key=key, **how)
    return experiment.run(config, rules=rules_of(config), endpoint=endpoint_of(config, key), **how)


def rules_of(config: RunConfig) -> "Rules":
    """The attacks' authors' rules or MIMIR's, as the configuration names them."""
    if config.rules == "mimir":
        from mimir_jax.compat.mimir.attacks import RULES

        return RULES
    from mimir_jax.experiment import PAPER

    return PAPER


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
        say(console, verdict(found.metrics, audit_of(found.audit)).answer)
    for note in [*found.notes, *(found.audit or {}).get("notes", [])]:
        say(console, f"note: {note}")
    done = "written to" if found.computed else "nothing to compute: the same results are already in"
    say(console, f"{done} {found.folder}")
    if (found.folder / REPORT).exists():
        say(console, f"to look at: {found.folder / REPORT}")


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

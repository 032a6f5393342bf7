"""The command line: parse, call, print."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from mimir_jax.config import ConfigError, RunConfig, from_json

USAGE = "usage: mimir-jax run [--config FILE] [--any.field value ...]      (mimir-jax run --help lists the fields)"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 2 where the input is at fault and stderr says what to do; 130 where it was interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    if arguments[:1] != ["run"]:
        errors.print(Text(USAGE))
        return 0 if arguments in ([], ["-h"], ["--help"]) else 2
    try:
        _run(arguments[1:], Console(highlight=False), errors)
    except KeyboardInterrupt:
        errors.print("mimir-jax: interrupted; what was computed is stored, and the same command goes on from there")
        return 130
    except (ValueError, RuntimeError) as error:
        if not type(error).__module__.startswith("mimir_jax."):
            raise  # not an error of ours: a defect, whose traceback is wanted
        from mimir_jax.report.tables import visible  # paths and fields of files are untrusted text

        errors.print(Text("mimir-jax: " + visible(str(error).replace("\n", " "))))
        return 2
    return 0


def _run(arguments: list[str], console: Console, errors: Console) -> None:
    config, overwrite = _parse(arguments)
    import jax  # after parsing, so that --help waits for as little as it can

    from mimir_jax import experiment
    from mimir_jax.report.tables import checkpoints_table, metrics_table, visible
    from mimir_jax.report.terminal import bars, silent

    leads = jax.process_index() == 0
    found = experiment.run(config, overwrite=overwrite, bars=bars(errors) if leads else silent)
    if not leads:
        return
    metrics = {name: row for name, row in found.metrics.items() if row is not None}
    table = checkpoints_table if config.checkpoints else metrics_table
    console.print(table(metrics, title=f"{found.folder}"))
    for note in found.notes:
        console.print(Text(f"note: {visible(note)}"), soft_wrap=True)
    done = "written to" if found.computed else "nothing to compute: the same results are already in"
    console.print(Text(f"{done} {visible(str(found.folder))}"), soft_wrap=True)


def _parse(arguments: list[str]) -> tuple[RunConfig, bool]:
    default = RunConfig()
    arguments = [part for one in arguments for part in (one.split("=", 1) if one.startswith("--config=") else [one])]
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 == len(arguments):
            raise ConfigError("--config needs a file")
        default = from_json(arguments[at + 1])
        arguments = arguments[:at] + arguments[at + 2 :]

    def command(
        config: Annotated[RunConfig, tyro.conf.arg(name="")] = default,
        all_checkpoints: bool = False,
        overwrite: bool = False,
    ) -> tuple[RunConfig, bool]:
        """Attack a model and write <results>/<experiment>; without any option, the embedded example.

        --config FILE reads all fields from JSON; the options below replace them one by one.

        Args:
            config: the fields.
            all_checkpoints: Attack the embedded example after 1, 2, 4, 8 and 16 epochs in one vmapped pass.
            overwrite: Discard results of another configuration in the folder.
        """
        if all_checkpoints:
            first, *others = (f"demo/epoch{n}" for n in (1, 2, 4, 8, 16))
            config = replace(config, model=first, checkpoints=tuple(others))
        return config, overwrite

    return tyro.cli(command, args=arguments, prog="mimir-jax run", config=(tyro.conf.FlagCreatePairsOff,))

"""`mimir-jax attack`: the second stage of `run`, on token statistics that are stored."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from mimir_jax.cli.run import run_stage
from mimir_jax.config import RunConfig, from_json


def main(arguments: list[str], console: Console, errors: Console) -> None:
    default, arguments = _take_folder(arguments)
    run_stage("attack", arguments, console, errors, default)


def _take_folder(arguments: list[str]) -> tuple[RunConfig | None, list[str]]:
    """The configuration of a results folder that is named first, and the other arguments."""
    if not arguments or arguments[0].startswith("-"):
        return None, arguments
    folder = Path(arguments[0])
    config = from_json(folder / "config.json")
    store = config.store or str(folder / "stats")
    return replace(config, results=str(folder.parent), experiment=folder.name, store=store), arguments[1:]

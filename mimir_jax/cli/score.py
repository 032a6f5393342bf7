"""`mimir-jax score`: the first stage of `run`, which needs the weights."""

from rich.console import Console

from mimir_jax.cli.run import run_stage


def main(arguments: list[str], console: Console, errors: Console) -> None:
    run_stage("score", arguments, console, errors)

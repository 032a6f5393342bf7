"""`mimir-jax plan`: what a job needs."""

import os

import jax
from rich.console import Console
from rich.table import Table

from mimir_jax.cli.shared import parse


def main(arguments: list[str], console: Console, errors: Console) -> None:
    if "JAX_PLATFORMS" not in os.environ:  # what is planned for need not be here, and what is here is not needed
        jax.config.update("jax_platforms", "cpu")
    from mimir_jax.plan import PlanConfig, describe, plan
    from mimir_jax.scoring.model import find_shape

    job = parse(PlanConfig, "plan", arguments)
    found = plan(job, find_shape(job.model, job.revision))
    table = Table(title=f"{job.model} on {found.topology.name}", show_header=False, title_justify="left")
    for row in describe(found, job):
        table.add_row(*row)
    console.print(table)

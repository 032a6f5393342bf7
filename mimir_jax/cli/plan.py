"""`mimir-jax plan`: what a job needs."""

import os

from rich.console import Console
from rich.table import Table

from mimir_jax.cli.shared import parse


def main(arguments: list[str], console: Console, errors: Console) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # what is planned for need not be here
    from mimir_jax.plan import PlanConfig, describe, plan
    from mimir_jax.scoring.model import find_shape

    job = parse(PlanConfig, "plan", arguments)
    found = plan(job, find_shape(job.model, job.revision))
    table = Table(title=f"{job.model} on {found.topology.name}", show_header=False, title_justify="left")
    for row in describe(found, job):
        table.add_row(*row)
    console.print(table)

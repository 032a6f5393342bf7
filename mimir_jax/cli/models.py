"""`mimir-jax models`: the families, which checkpoints of MIMIR's paper each covers, and what was tested how."""

from rich.console import Console
from rich.table import Table

from mimir_jax.cli.shared import say
from mimir_jax.config import ConfigError
from mimir_jax.models.coverage import COVERAGE
from mimir_jax.models.families import FAMILIES, MASKED, REFUSED, SEQ2SEQ


def main(arguments: list[str], console: Console, errors: Console) -> None:
    if arguments:
        raise ConfigError(f"models takes no arguments, not {' '.join(arguments)}")
    table = Table("model_type", show_lines=True)
    for header in ("of MIMIR's paper", "others, such as", "tested"):
        table.add_column(header, overflow="fold")
    for kind in (*FAMILIES, *MASKED, *SEQ2SEQ):
        table.add_row(kind, *COVERAGE[kind])
    console.print(table)
    for kind, reason in REFUSED.items():
        say(console, f"{kind} is refused: {reason}.")
    say(console, "A family more is one file: see `Adding a model family` in the README.")

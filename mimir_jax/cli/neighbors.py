"""`mimir-jax neighbors`: make neighbors, or read them, write them whole, and say how close they are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from mimir_jax.cli.shared import parse, say, take_config
from mimir_jax.config import HostsConfig, RunConfig, from_json


@dataclass(frozen=True)
class Options:
    """Make texts close to each document, as ne and ne_z take them, with a mask-filling model.

    What is made is kept, and found again by every later run on the same documents with the same settings.
    The fields are those of `mimir-jax run`; data, neighbors, rules, seed, dtype, mesh and batch_tokens count.
    """

    out: Path | None = None
    """Write the neighbors of all documents here (.jsonl or .jsonl.gz), with how they were made."""
    lists: bool = False
    """Beside it also write MIMIR's form, a file for each side: <out>.members.jsonl, <out>.nonmembers.jsonl."""
    judge: str = "demo/epoch1"
    """A third model, under which the change of log-likelihood is measured; none does without."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)
    """the processes."""


def main(arguments: list[str], console: Console, errors: Console) -> None:
    path, arguments = take_config(arguments)
    default = Options(config=from_json(path)) if path else None
    options = parse(Options, "neighbors", arguments, default)
    from mimir_jax.neighbors import PAPER, write_and_judge
    from mimir_jax.parallel.hosts import connect, leads
    from mimir_jax.report.tables import spread_table
    from mimir_jax.report.terminal import bars, silent

    connect(options.hosts)

    rules = PAPER
    if options.config.rules == "mimir":
        from mimir_jax.compat.mimir.neighbors import NEIGHBORS

        rules = NEIGHBORS
    judge = None if options.judge == "none" else options.judge
    progress = bars(errors) if leads() else silent
    found, notes = write_and_judge(options.config, options.out, options.lists, judge, progress, rules)
    if not leads():
        return
    rows = {"tokens changed": found.tokens, "share of tokens changed": found.share}
    if found.change is not None:
        rows[f"change of log-likelihood under {judge}, nats per token"] = found.change
    console.print(spread_table(rows, title=f"{len(found.tokens)} neighbors"))
    if len(found.tokens):
        itself = f"{found.unchanged.mean():.1%} are the document itself"
        say(console, f"{itself}, {found.repeated.mean():.1%} are another neighbor's text")
    for note in notes:
        say(console, f"note: {note}")

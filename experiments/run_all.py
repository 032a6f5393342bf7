"""A batch of the paper's experiments, resumable: what is computed stays in <results>/store and is not computed again.

    python -m experiments.run_all --only table1 --models pythia-160m-deduped
    python -m experiments.run_all --small

Runs of one model follow each other, also across experiments, so that a model is loaded once for all of its data sets;
a data set is tokenized once for all models of a tokenizer.
"""

import importlib
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from experiments.paper import Entry, Experiment, Options, Outcome, entries_of, report_outcomes, run_entry
from mimir_jax.config import ConfigError
from mimir_jax.data.documents import DataError
from mimir_jax.parallel import hosts
from mimir_jax.shelf import Shelf

NAMES = (
    "table1", "table3", "table8", "table11", "figure2", "model_size", "references", "full_documents", "temporal",
    "datablations", "edited_members", "max_norm", "wikimia", "silo",
)  # fmt: skip
"""Of the files, in the paper's order as far as it has one."""


def find(name: str) -> Experiment:
    """The experiment of a file."""
    found: Experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    return found


@dataclass(frozen=True)
class Batch(Options):
    """Which experiments, and how to run them."""

    only: Annotated[tuple[str, ...], tyro.conf.arg(help=f"These experiments: {', '.join(NAMES)}; by default all.")] = ()
    list: bool = False
    """Only say which runs there would be."""


def main(options: Batch, console: Console) -> bool:
    """Run them; whether every run could be run."""
    if unknown := [name for name in options.only if name not in NAMES]:
        raise ConfigError(f"--only: no experiment {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    planned: list[tuple[Experiment, Entry]] = []
    for name in options.only or NAMES:
        one = find(name)
        try:
            planned += [(one, entry) for entry in entries_of(one, options)]
        except (ConfigError, DataError) as error:
            if options.only:
                raise
            console.print(Text(f"left out: {error}"), soft_wrap=True)  # it has not these models, or data to make it of
    order = {entry.config.model: i for i, (_, entry) in reversed(list(enumerate(planned)))}
    turns = sorted(range(len(planned)), key=lambda turn: order[planned[turn][1].config.model])
    if options.list:
        for one, entry in (planned[turn] for turn in turns):
            console.print(Text(f"{one.name}: {entry.model} on {entry.data}"), soft_wrap=True)
        return True
    shelf = Shelf(options.keep_models)
    done = {turn: run_entry(*planned[turn], options, shelf, Console(stderr=True)) for turn in turns}
    outcomes: dict[str, list[Outcome]] = {}
    for turn, (one, _) in enumerate(planned):  # rows of a table in its own order
        outcomes.setdefault(one.name, []).append(done[turn])
    experiments = {one.name: one for one, _ in planned}
    complete = [report_outcomes(experiments[name], found, options, console) for name, found in outcomes.items()]
    return all(complete)


def command() -> None:
    options = tyro.cli(Batch, description=__doc__)
    try:
        hosts.connect(options.hosts)
        complete = main(options, Console(highlight=False))
    except (ConfigError, DataError) as error:
        Console(stderr=True).print(Text(str(error)), soft_wrap=True)
        complete = False
    sys.exit(0 if complete else 2)


if __name__ == "__main__":
    command()

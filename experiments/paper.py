"""What the paper's tables share: their models and domains, how a batch runs, and the table that comes of it.

Duan et al., Do Membership Inference Attacks Work on Large Language Models?, 2024 (arXiv:2402.07841). A file of this
folder is an `Experiment`: at full scale a list of runs on the published models and data, at small scale one on the
embedded example and what can be trained from it in a minute. Both go through the same code.
"""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mimir_jax import experiment
from mimir_jax.config import ConfigError, DataConfig, HostsConfig, MeshConfig, RunConfig
from mimir_jax.data.documents import DataError
from mimir_jax.data.embedded import demo_documents
from mimir_jax.metrics import Estimate, Metrics
from mimir_jax.outcome import Results
from mimir_jax.parallel import hosts
from mimir_jax.report.escape import visible
from mimir_jax.report.exports import Cell, Column, Grid, write_tables
from mimir_jax.report.results import PUBLISHED as PUBLISHED_VALUES
from mimir_jax.report.results import RUN, versions, write_text
from mimir_jax.report.summary import auc_cell
from mimir_jax.report.terminal import bars, silent
from mimir_jax.report.written import write_report
from mimir_jax.shelf import Shelf

PYTHIA = ("pythia-160m", "pythia-1.4b", "pythia-2.8b", "pythia-6.9b", "pythia-12b")
DEDUPED = tuple(f"{name}-deduped" for name in PYTHIA)
DOMAINS = ("wikipedia_(en)", "github", "pile_cc", "pubmed_central", "arxiv", "dm_mathematics", "hackernews")
STEP = "step99000"
REFERENCES = ("stabilityai/stablelm-base-alpha-3b-v2", "gpt2")
ATTACKS = ("loss", "ref", "min_k", "zlib")
PUBLISHED = Path(__file__).parent / "published"
Z = 1.96  # of a 95% interval

# Of the embedded example: the checkpoints stand for models, its two sources for domains.
SMALL_MODELS = ("demo/epoch1", "demo/epoch4", "demo/epoch16")
SMALL_REFERENCES = ("demo/epoch2",)
SMALL_DOCUMENTS = 100


class Key(NamedTuple):
    """Where a run's published values are: names of experiments/published/mimir_results.csv."""

    experiments: tuple[str, ...]
    dataset: str
    model: str


@dataclass(frozen=True)
class Entry:
    """One run: a row of the table.

    Attributes:
        model: what the table calls it.
        data: likewise.
        config: of the run, but for its name and folders.
        published: where the literature's values are; None where there are none.
    """

    model: str
    data: str
    config: RunConfig
    published: Key | None = None


@dataclass(frozen=True)
class Trend:
    """A figure of the AUCs of one attack.

    Attributes:
        attack: by the name of its column.
        what: the horizontal axis is; logarithmic.
        position: of a run on it.
        line: which line a run's point is on.
    """

    attack: str
    what: str
    position: Callable[[Entry], float]
    line: Callable[[Entry], str]


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        name: of its file here and of its results folder.
        title: what it is in the paper, and of what.
        full: its runs at full scale; what they need beside what is published is written into the folder that it gets.
        small: its runs at small scale, likewise.
        notes: what a reader must know.
        trend: the figure, where there is one.
    """

    name: str
    title: str
    full: Callable[[Path], list[Entry]]
    small: Callable[[Path], list[Entry]]
    notes: tuple[str, ...] = ()
    trend: Trend | None = None


@dataclass(frozen=True)
class Options:
    """How to run: the same for every experiment."""

    small: bool = False
    """On the embedded example, in minutes on a CPU."""
    models: tuple[str, ...] = ()
    """Only runs on these models, by the names that the tables use (pythia-160m-deduped)."""
    data: tuple[str, ...] = ()
    """Only runs on these data, by the names that the tables use (arxiv)."""
    results: Path = Path("results/paper")
    """Folder of all results; what is there is not computed again."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and products."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices."""
    hosts: HostsConfig = field(default_factory=HostsConfig)
    """Processes that run it together."""
    batch_tokens: int = 2048
    """Token positions a device computes at a time."""
    keep_models: int = 2
    """Models that stay loaded from run to run: a target, and references."""


class Outcome(NamedTuple):
    """What became of an entry: its metrics, or why there are none."""

    entry: Entry
    metrics: dict[str, Metrics | None] | None
    reason: str = ""


def mimir_data(domain: str, split: str | None = None) -> DataConfig:
    """MIMIR's published sample of a domain, both sides."""
    return DataConfig(documents="/".join(filter(None, ["mimir", domain, split])))


def pythia(model: str, data: DataConfig, *, references: Sequence[str] = REFERENCES) -> RunConfig:
    """A run of the paper's black-box attacks on a Pythia model."""
    return RunConfig(
        model=f"EleutherAI/{model}", revision=STEP, data=data, references=tuple(references), attacks=ATTACKS
    )


def small_data(source: str | None = None, documents: int = SMALL_DOCUMENTS) -> DataConfig:
    """Members and non-members of the embedded example, of one of its sources or of both."""
    part = "" if source is None else f"#{source}"
    return DataConfig(f"demo/members{part}", f"demo/nonmembers{part}", max_documents=documents)


def small_run(model: str, data: DataConfig, *, references: Sequence[str] = SMALL_REFERENCES) -> RunConfig:
    """A run of the same attacks on an embedded checkpoint."""
    return RunConfig(model=model, data=data, references=tuple(references), attacks=ATTACKS, audit=False)


def domain_runs(
    models: Sequence[str], domains: Sequence[str], splits: Sequence[str], experiments: tuple[str, ...]
) -> list[Entry]:
    """Pythia models on MIMIR's samples of domains, at some n-gram overlaps of the non-members."""
    found = []
    for model in models:
        for domain in domains:
            for split in splits:
                data = f"{domain} {split}" if len(splits) > 1 else domain
                _, n, below = split.split("_")
                key = Key(experiments, f"{domain}_ngram_{n}_<{below}_truncated", f"EleutherAI/{model}")
                found.append(Entry(model, data, pythia(model, mimir_data(domain, split)), key))
    return found


def small_domains(models: Sequence[str] = SMALL_MODELS) -> list[Entry]:
    """Checkpoints of the embedded example on each of its sources and on both together."""
    sources = dict.fromkeys(document.source for document in demo_documents())
    return [
        Entry(model.partition("/")[2], source or "both", small_run(model, small_data(source)))
        for model in models
        for source in (*sources, None)
    ]


def entries_of(one: Experiment, options: Options) -> list[Entry]:
    """The runs that are asked for, those of one model together so that it is loaded once.

    Raises:
        ConfigError: a name that no run has.
    """
    build = one.small if options.small else one.full
    found = build(options.results / one.name / "material")
    for what, asked in (("model", options.models), ("data", options.data)):
        there = list(dict.fromkeys(getattr(entry, what) for entry in found))
        if unknown := [name for name in asked if name not in there]:
            raise ConfigError(f"{one.name}: no run has {what} {', '.join(unknown)}; there are: {', '.join(there)}")
        found = [entry for entry in found if not asked or getattr(entry, what) in asked]
    order = {entry.config.model: i for i, entry in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda entry: order[entry.config.model])


def configured(one: Experiment, entry: Entry, options: Options) -> RunConfig:
    """The run of an entry with its name, its folders and the machine's settings."""
    name = re.sub(r"[^\w.()+-]+", "-", f"{entry.model}-{entry.data}")
    return replace(
        entry.config,
        experiment=name,
        results=str(options.results / one.name),
        store=str(options.results / "store"),
        dtype=options.dtype,
        mesh=options.mesh,
        batch_tokens=options.batch_tokens,
    )


def run_entry(one: Experiment, entry: Entry, options: Options, shelf: Shelf, errors: Console) -> Outcome:
    """Run one; why it cannot be run is told, so that the others go on."""
    try:
        shown = bars(errors) if hosts.leads() else silent
        found = experiment.run(configured(one, entry, options), shelf=shelf, bars=shown, patience=options.hosts.timeout)
    except hosts.HostLostError as error:
        errors.print(Text(visible(str(error))), soft_wrap=True)
        hosts.leave(hosts.RESUME)
        raise
    except (ValueError, RuntimeError) as error:
        if not type(error).__module__.startswith("mimir_jax."):
            raise  # not an error of ours: a defect, whose traceback is wanted
        errors.print(Text(f"{one.name}: {entry.model} on {entry.data}: {visible(str(error))}"), soft_wrap=True)
        return Outcome(entry, None, str(error))
    if hosts.leads():
        keep_published(entry.published, found)
    return Outcome(entry, found.metrics)


def keep_published(key: Key | None, found: Results) -> None:
    """published.json in a results folder, and its report again: the literature's values stand beside ours there too."""
    known = {column: value for column in found.metrics if (value := published_auc(key, column)) is not None}
    if known and not (found.folder / PUBLISHED_VALUES).exists():
        rows = {column: {"auc_roc": auc, "source": "arXiv:2402.07841"} for column, (auc, _) in known.items()}
        write_text(found.folder / PUBLISHED_VALUES, json.dumps(rows, indent=2))
        write_report(found.folder)


@cache
def published() -> dict[tuple[str, str, str, str], tuple[float, float | None]]:
    """AUC and its standard deviation by experiment, dataset, model and attack."""
    sides = {}
    with (PUBLISHED / "experiments.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            sides[row["experiment"]] = int(row["documents_per_side"])
    found = {}
    with (PUBLISHED / "mimir_results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            value, n = float(row["auc_roc"]), sides[row["experiment"]]
            deviation = float(row["bootstrap_std"]) if row["bootstrap_std"] else hanley_mcneil(value, n, n)
            found[row["experiment"], row["dataset"], row["model"], row["attack"]] = value, deviation
    return found


def hanley_mcneil(auc: float, members: int, nonmembers: int) -> float | None:
    """The standard error of an AUC by the numbers of documents alone (Hanley and McNeil 1982); None without any."""
    if not members or not nonmembers:
        return None
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    var = auc * (1 - auc) + (members - 1) * (q1 - auc**2) + (nonmembers - 1) * (q2 - auc**2)
    return float((var / (members * nonmembers)) ** 0.5)


def published_auc(key: Key | None, column: str) -> tuple[float, float | None] | None:
    """The literature's AUC of an attack, by the name of our column, and its standard deviation."""
    if key is None:
        return None
    for name in key.experiments:
        if found := published().get((name, key.dataset, key.model, column)):
            return found
    return None


def differs(ours: Estimate, theirs: tuple[float, float | None]) -> bool:
    """Whether two AUCs are further apart than their joint interval allows; errors taken as independent."""
    value, deviation = theirs
    if deviation is None:
        return False
    own = (ours.high - ours.low) / (2 * Z)
    return bool(abs(ours.value - value) > Z * (own**2 + deviation**2) ** 0.5)


def grid_of(one: Experiment, outcomes: Iterable[Outcome]) -> Grid:
    """The table: a row a run, for each attack our AUC with its interval and the published one beside it."""
    outcomes = list(outcomes)
    ran = [outcome for outcome in outcomes if outcome.metrics is not None]
    attacks = list(dict.fromkeys(name for outcome in ran for name in outcome.metrics or {}))
    known = [a for a in attacks if any(published_auc(outcome.entry.published, a) for outcome in ran)]
    columns, flagged = [Column("model"), Column("data")], 0
    for name in attacks:
        columns.append(Column(name, (name, f"{name}_low", f"{name}_high")))
        columns += [Column(f"{name}, published", (f"{name}_published",))] if name in known else []
    rows = []
    for entry, metrics, _ in outcomes:
        cells = [Cell(entry.model), Cell(entry.data)]
        for name in attacks:
            row = (metrics or {}).get(name)
            auc = None if row is None else row.auc_roc
            cells.append(auc_cell(auc))
            theirs = published_auc(entry.published, name)
            if name in known and theirs is None:
                cells.append(Cell("–"))
            elif theirs is not None:
                apart = auc is not None and differs(auc, theirs)
                flagged += apart
                cells.append(Cell(f"{theirs[0]:.3f}".removeprefix("0") + " ≠" * apart, (theirs[0],), bold=apart))
        rows.append(cells)
    notes = ["AUC-ROC, in brackets 95% intervals.", *one.notes]
    if known:
        said = f"≠: further apart than the joint 95% interval ({flagged} of the cells)"
        notes.append(f"{said}. Published: see experiments/published/README.md for their cautions.")
    if missing := len(outcomes) - len(ran):
        notes.append(f"{missing} of {len(outcomes)} runs could not be run.")
    return Grid(one.name, one.title, columns, rows, notes)


def print_grid(grid: Grid, console: Console) -> None:
    """The table in the terminal."""
    table = RichTable(title=Text(grid.title), caption=Text("\n".join(grid.notes)))
    for column in grid.columns:
        table.add_column(Text(column.title), justify="left" if column in grid.columns[:2] else "right", overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in row))
    console.print(table)


def draw_trend(trend: Trend, outcomes: Sequence[Outcome], path: Path) -> None:
    """The figure of a trend."""
    from mimir_jax.report.figures import save, trend_panel  # matplotlib takes half a second to import

    points: dict[str, dict[float, Estimate]] = {}
    for entry, metrics, _ in outcomes:
        row = (metrics or {}).get(trend.attack)
        if row is not None:
            points.setdefault(trend.line(entry), {})[trend.position(entry)] = row.auc_roc
    at = sorted({position for line in points.values() for position in line})
    lines = {f"{trend.attack}, {name}": [line.get(position) for position in at] for name, line in points.items()}
    save(trend_panel(trend.what, at, [f"{position:g}" for position in at], True, lines), path)


def report_outcomes(one: Experiment, outcomes: Sequence[Outcome], options: Options, console: Console) -> bool:
    """Print and write an experiment's table; whether every run could be run."""
    folder = options.results / one.name
    if hosts.leads() and any(outcome.metrics is not None for outcome in outcomes):
        grid = grid_of(one, outcomes)
        print_grid(grid, console)
        write_tables(folder, [grid])
        if one.trend is not None:
            draw_trend(one.trend, outcomes, folder / "trend.png")
        write_text(folder / RUN, json.dumps(provenance(one, outcomes, options), indent=2))
        console.print(f"written: {folder}/{one.name}.csv, .tex and .md", soft_wrap=True)
    return all(outcome.metrics is not None for outcome in outcomes)


def provenance(one: Experiment, outcomes: Sequence[Outcome], options: Options) -> dict[str, object]:
    """What the table was made of: run.json; each run's own says more."""
    runs = []
    for outcome in outcomes:
        told: dict[str, object] = {"model": outcome.entry.model, "data": outcome.entry.data}
        if outcome.metrics is None:
            told["reason"] = outcome.reason
        else:
            config = configured(one, outcome.entry, options)
            run = json.loads((options.results / one.name / str(config.experiment) / RUN).read_text(encoding="utf-8"))
            told |= {name: run[name] for name in ("identity", "device", "documents")}
            told["seconds"] = round(sum(stage.get("seconds", 0) for stage in run["stages"].values()), 1)
        runs.append(told)
    scale = "--small" if options.small else "full scale"
    return {"experiment": one.name, "scale": scale, "versions": versions(), "runs": runs}


def main(one: Experiment) -> None:
    """The command line of an experiment's file."""
    options = tyro.cli(Options, description=f"{one.title}.")
    try:
        hosts.connect(options.hosts)
        shelf, errors = Shelf(options.keep_models), Console(stderr=True)
        outcomes = [run_entry(one, entry, options, shelf, errors) for entry in entries_of(one, options)]
        complete = report_outcomes(one, outcomes, options, Console(highlight=False))
    except (ConfigError, DataError) as error:
        Console(stderr=True).print(Text(str(error)), soft_wrap=True)
        complete = False
    sys.exit(0 if complete else 2)

"""report.html: one file that a reviewer can be sent, of one run or of several side by side.

The page fetches nothing and runs nothing. Whatever comes from documents, models and files is escaped by the template
engine, with control and bidirectional characters written out.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mimir_jax.config import RunConfig, to_json
from mimir_jax.metrics import roc_curve
from mimir_jax.report import figures
from mimir_jax.report.blind import blind_grids
from mimir_jax.report.escape import visible
from mimir_jax.report.exports import Cell, Column, Grid, write_tables
from mimir_jax.report.exposure import ExposedDocument, best_column
from mimir_jax.report.findings import (
    Groups,
    Trend,
    cautions,
    command,
    decimal,
    groupings,
    trend,
    verdict,
)
from mimir_jax.report.finished import Finished
from mimir_jax.report.results import FIGURES, REPORT, TABLES, write_text
from mimir_jax.report.summary import (
    Entry,
    auc_cell,
    auc_of,
    entries,
    groups_grid,
    metrics_grid,
    paired_grid,
    side_by_side,
)

MOST_DRAWN = 12
"""Columns that are drawn, the best first: more lines than that nobody tells apart."""
MOST_COMPARED = 5
"""Columns in figures of groups."""

LEVELS = (
    (-7.0, "below −7"),
    (-4.0, "−7 to −4"),
    (-2.0, "−4 to −2"),
    (-1.0, "−2 to −1"),
    (-0.5, "−1 to −.5"),
    (-0.1, "−.5 to −.1"),
    (0.0, "above −.1"),
)
"""Upper ends of the heat map's levels, in nats."""


@dataclass(frozen=True)
class Drawn:
    """A figure of the page: under what name it is saved, what it shows, and the figure itself."""

    name: str
    caption: str
    figure: Any

    @property
    def svg(self) -> Markup:
        """For the page; `inline_svg` escapes what it holds."""
        return Markup(figures.inline_svg(self.figure, self.name.replace("_", ""), self.caption))


@dataclass(frozen=True)
class Token:
    """A token of a heat map, as text that is escaped by the template."""

    text: str
    written: str
    level: int | None
    window: int | None
    values: str
    log_prob: str
    z: str
    rank: str


def write_report(run: Finished, papers: bool = False) -> Path:
    """Write report.html and the tables of a run into its folder; and the figures as SVG and PDF, for `papers`.

    Returns:
        the page's path.
    """
    drawn = _figures_of(run)
    grids = [metrics_grid(run), *(groups_grid(one) for one, _ in drawn.groups)]
    if drawn.trend is not None:
        grids.append(trend_grid(drawn.trend))
    if run.audit is not None:
        grids += blind_grids(run.audit)
    write_tables(run.folder / TABLES, grids)
    if papers:
        _save(run.folder / FIGURES, drawn.for_papers(run))
    path = run.folder / REPORT
    write_text(path, _page("run.html", _context(run, drawn)))
    return path


def write_comparison(runs: Sequence[Finished], folder: Path, papers: bool = False) -> Path:
    """Write report.html and tables of several runs side by side into a folder, which is made.

    Models are compared by paired tests where the documents are the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, grids, drawn = [], [], []
    for number, (name, found) in enumerate(entries(runs).items(), start=1):
        grid, paired = side_by_side(name, found, number), paired_grid(name, found, number)
        over = _trend_of(found)
        figure = None if over is None else _drawn_trend(over, f"trend_{number}")
        grids += [one for one in (grid, paired) if one is not None]
        drawn += [figure] if figure else []
        data.append({"name": name, "grid": grid, "paired": paired, "trend": figure})
    write_tables(folder / TABLES, grids)
    if papers:
        _save(folder / FIGURES, drawn)
    answer, kind = _joint_answer(runs)
    said = [
        {"name": run.name, "answer": verdict(run.metrics, run.audit).answer, "command": command(run.config)}
        for run in runs
    ]
    context = {"title": f"{len(runs)} runs", "count": len(runs), "answer": answer, "kind": kind, "data": data}
    path = folder / REPORT
    write_text(path, _page("comparison.html", {**context, "runs": said}))
    return path


def _joint_answer(runs: Sequence[Finished]) -> tuple[str, str]:
    """One sentence of all runs, and its kind."""
    found = [verdict(run.metrics, run.audit) for run in runs]
    leaks = [run.name for run, one in zip(runs, found) if one.kind == "leak"]
    if not leaks:
        return f"In none of {len(runs)} runs does an attack show membership.", "nothing"
    if len(leaks) == len(runs):
        return f"In each of {len(runs)} runs an attack separates members from non-members.", "leak"
    return f"In {len(leaks)} of {len(runs)} runs an attack separates members: {', '.join(leaks)}.", "leak"


@dataclass(frozen=True)
class _Figures:
    shown: list[str]
    roc: list[Drawn]
    distributions: list[Drawn]
    groups: list[tuple[Groups, Drawn]]
    trend: Trend | None
    over_models: Drawn | None
    not_drawn: list[str]

    def for_papers(self, run: Finished) -> list[Drawn]:
        """The figures with all distributions on one."""
        scores = {name: run.scores[name] for name in self.shown}
        one = [Drawn("scores", "", figures.scores_figure(scores, run.is_member))] if scores else []
        over = [] if self.over_models is None else [self.over_models]
        return [*self.roc, *one, *(figure for _, figure in self.groups), *over]


def _figures_of(run: Finished) -> _Figures:
    best = best_column(run.metrics)
    model = None if best is None else run.split(best)[0]
    # Of several models the one that gives away most is drawn in full; the trend shows the others.
    known = [name for name, row in run.metrics.items() if row is not None and run.split(name)[0] == model]
    ranked = sorted(known, key=lambda name: -_auc(run, name))
    shown = [name for name in known if name in ranked[:MOST_DRAWN]]
    curves = {name: roc_curve(run.scores[name], run.is_member) for name in shown}
    roc = []
    for logarithmic in (False, True) if curves else ():
        axes = "logarithmic axes, where few false alarms are allowed" if logarithmic else "linear axes"
        names = ", ".join(f"{name} {decimal(_auc(run, name))}" for name in shown)
        caption = f"ROC curves on {axes}. AUC: {names}."
        name = f"roc_{'log' if logarithmic else 'linear'}"
        roc.append(Drawn(name, caption, figures.roc_panel(curves, logarithmic)))
    distributions = [
        Drawn(
            f"scores_{i}",
            f"{name}: AUC {decimal(_auc(run, name))}",
            figures.scores_panel(name, run.scores[name], run.is_member),
        )
        for i, name in enumerate(shown, start=1)
    ]
    groups: list[tuple[Groups, Drawn]] = []
    for one in groupings(run):
        some = {name: one.aucs[name] for name in known if name in ranked[:MOST_COMPARED]}
        caption = (
            f"AUC by {one.what}, of the {len(some)} attacks with the highest AUC; the figures are in the table below."
        )
        name = f"auc_by_{len(groups) + 1}"
        groups.append((one, Drawn(name, caption, figures.groups_panel(one.names, some))))
    over = trend({run.split(name): auc_of(row) for name, row in run.metrics.items()})
    return _Figures(
        shown=shown,
        roc=roc,
        distributions=distributions,
        groups=groups,
        trend=over,
        over_models=None if over is None else _drawn_trend(over, "trend"),
        not_drawn=[name for name in run.metrics if name not in shown],
    )


def _auc(run: Finished, name: str) -> float:
    row = run.metrics[name]
    return float("nan") if row is None else row.auc_roc.value


def _drawn_trend(over: Trend, name: str) -> Drawn:
    caption = f"AUC by {over.what}, a line an attack, with 95% intervals; the figures are in the table."
    shown = dict(list(over.aucs.items())[:MOST_DRAWN])
    figure = figures.trend_panel(over.what, over.positions, over.names, over.logarithmic, shown)
    return Drawn(name, caption, figure)


def _trend_of(found: Sequence[Entry]) -> Trend | None:
    return trend(
        {
            (entry.model, attack): auc_of(entry.run.metrics[column])
            for entry in found
            for attack, column in entry.columns.items()
        }
    )


def trend_grid(over: Trend) -> Grid:
    """AUC by attack and model."""
    columns = [Column("attack")]
    columns += [
        Column(name, tuple(f"auc_roc_{i}{end}" for end in ("", "_low", "_high"))) for i, name in enumerate(over.names)
    ]
    rows = [[Cell(attack), *(auc_cell(auc) for auc in found)] for attack, found in over.aucs.items()]
    return Grid("auc_by_model", f"AUC-ROC by {over.what}", columns, rows, ["In brackets: 95% intervals."])


def _save(folder: Path, drawn: Sequence[Drawn]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for one in drawn:
        for suffix in (".svg", ".pdf"):
            figures.save(one.figure, folder / f"{one.name}{suffix}")


def _context(run: Finished, drawn: _Figures) -> dict[str, Any]:
    over = None
    if drawn.trend is not None:
        over = {"grid": trend_grid(drawn.trend), "figure": drawn.over_models}
    groups = [{"grid": groups_grid(one), "figure": figure} for one, figure in drawn.groups]
    sections = [("metrics", "Metrics")]
    sections += [("roc", "ROC curves"), ("scores", "Scores")] if drawn.roc else []
    sections += [(f"by-{i}", f"By {one.what}") for i, (one, _) in enumerate(drawn.groups, start=1)]
    sections += [("trend", "Over models")] if over else []
    sections += [("documents", "Documents"), ("provenance", "Configuration and provenance")]
    asked = run.config.endpoint.base_url is not None
    return {
        "title": f"{run.name}: membership inference report",
        "run": run,
        "verdict": verdict(run.metrics, run.audit),
        "subject": _subject(run),
        "cautions": list(cautions(run)),
        "sections": sections,
        "metrics": metrics_grid(run),
        "blind": [] if run.audit is None else list(blind_grids(run.audit)),
        "roc": drawn.roc,
        "distributions": drawn.distributions,
        "not_drawn": ", ".join(drawn.not_drawn) if len(drawn.not_drawn) <= 2 * MOST_DRAWN else "the other models'",
        "groups": groups,
        "trend": over,
        "exposure": run.exposure,
        "tokens": lambda document: list(_tokens(document)),
        "levels": [(i, name) for i, (_, name) in enumerate(LEVELS)],
        "no_tokens": "an endpoint does not tell which tokens a text has." if asked else "none were kept by this run.",
        "command": command(run.config),
        "settings": list(_settings(run.config, RunConfig())),
        "provenance": list(_provenance(run)),
        "config_json": to_json(run.config),
        "run_json": json.dumps(run.run, indent=2, ensure_ascii=False),
    }


def _subject(run: Finished) -> str:
    models = run.models
    who = models[0] if len(models) == 1 else f"{len(models)} models ({', '.join(models)})"
    members = int(run.is_member.sum())
    return (
        f"{who} on {run.data}: {members} members and {len(run.is_member) - members} non-members. "
        "A higher score means: more likely a member."
    )


def _tokens(document: ExposedDocument) -> Iterator[Token]:
    window = {start: number for number, start in enumerate(document.windows, start=2)}
    for i, (piece, log_prob, z, rank) in enumerate(zip(document.pieces, document.log_prob, document.z, document.rank)):
        level = None if log_prob is None else next((n for n, (end, _) in enumerate(LEVELS) if log_prob < end), 6)
        numbers = [_number(log_prob), _number(z), "–" if rank is None else str(rank)]
        values = f"log-prob {numbers[0]} nats · z {numbers[1]} · rank {numbers[2]}"
        yield Token(
            text=piece,
            written=f"“{visible(piece)}”",
            level=level,
            window=window.get(i),
            values="not predicted" if log_prob is None else values,
            log_prob=numbers[0],
            z=numbers[1],
            rank=numbers[2],
        )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _settings(config: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, usual, f"{prefix}{field.name}.")
        elif value != usual:
            yield prefix + field.name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _provenance(run: Finished) -> Iterator[tuple[str, str]]:
    facts = run.run
    for kind in ("targets", "references"):
        for one in facts.get(kind, []):
            digests = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted((one.get("files") or {}).items()))
            where = one.get("folder") or one.get("endpoint", "")
            revision = f" at {one['revision']}" if one.get("revision") else ""
            yield kind.removesuffix("s"), f"{one.get('name', '')}{revision}: {where} ({digests or 'no files'})"
    yield "documents", f"fingerprint {run.fingerprint}"
    versions = facts.get("versions", {})
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    device = facts.get("device", {})
    mesh = " x ".join(f"{name} {size}" for name, size in facts.get("mesh", {}).items())
    yield "devices", f"{device.get('count', '?')} of kind {device.get('kind', '?')}, mesh {mesh}"
    for name, stage in facts.get("stages", {}).items():
        rate = f", {stage['tokens_per_second']:,.0f} tokens/s" if stage.get("tokens_per_second") else ""
        yield f"time: {name}", f"{stage.get('seconds', 0):.1f} s{rate}"


def _page(template: str, context: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mimir_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else _shown(str(value)),
    )
    return environment.get_template(template).render(**context)


def _shown(text: str) -> str:
    """Any text, with the characters written out that would act on the page, or that UTF-8 cannot hold."""
    return "".join(c if c in "\n\t" else visible(c) for c in text)

"""Which figures a report has, and what each shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mimir_jax.metrics import roc_curve
from mimir_jax.report import figures
from mimir_jax.report.exports import Cell, Column, Grid
from mimir_jax.report.exposure import best_column
from mimir_jax.report.findings import Groups, Trend, decimal, groupings, trend
from mimir_jax.report.finished import Finished
from mimir_jax.report.summary import Entry, auc_cell, auc_of

MOST_DRAWN = 12
"""Columns that are drawn, the best first: more lines than that nobody tells apart."""
MOST_COMPARED = 5
"""Columns in figures of groups."""


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
class Figures:
    """Of one run.

    Attributes:
        shown: columns that are drawn; of several models, those of the one that gives away most.
        roc: curves on linear and on logarithmic axes.
        distributions: of the scores, a figure a column.
        groups: AUC in groups of documents.
        trend: AUC over models, where there are several.
        over_models: its figure.
        not_drawn: the other columns.
    """

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


def figures_of(run: Finished) -> Figures:
    """The figures of a run's report."""
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
        caption = f"AUC by {one.what}, of the {len(some)} attacks with the highest AUC; the figures are in the table."
        groups.append((one, Drawn(one.name, caption, figures.groups_panel(one.names, some))))
    over = trend({run.split(name): auc_of(row) for name, row in run.metrics.items()})
    return Figures(
        shown=shown,
        roc=roc,
        distributions=distributions,
        groups=groups,
        trend=over,
        over_models=None if over is None else drawn_trend(over, "trend"),
        not_drawn=[name for name in run.metrics if name not in shown],
    )


def _auc(run: Finished, name: str) -> float:
    row = run.metrics[name]
    return float("nan") if row is None else row.auc_roc.value


def drawn_trend(over: Trend, name: str) -> Drawn:
    """The figure of a trend."""
    caption = f"AUC by {over.what}, a line an attack, with 95% intervals; the figures are in the table."
    shown = dict(list(over.aucs.items())[:MOST_DRAWN])
    figure = figures.trend_panel(over.what, over.positions, over.names, over.logarithmic, shown)
    return Drawn(name, caption, figure)


def trend_of(found: Sequence[Entry]) -> Trend | None:
    """AUCs over models that were attacked on the same documents; None of a single one."""
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


def save_figures(folder: Path, drawn: Sequence[Drawn]) -> None:
    """Write each figure as SVG and PDF into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in drawn:
        for suffix in (".svg", ".pdf"):
            figures.save(one.figure, folder / f"{one.name}{suffix}")

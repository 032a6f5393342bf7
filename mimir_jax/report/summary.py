"""The tables of the report: of one run, and of several side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

from mimir_jax.metrics import Estimate, Metrics, MetricsError
from mimir_jax.metrics.comparison import benjamini_hochberg, compare
from mimir_jax.report.exports import Cell, Column, Grid
from mimir_jax.report.findings import Groups, decimal, interval, percent
from mimir_jax.report.finished import Finished

SIGNIFICANT = 0.05
BOLD = f"Bold: the highest AUC, where it differs from every other (paired DeLong test, p < {SIGNIFICANT} each)."


def best_by_test(scores: Mapping[str, Float[np.ndarray, " doc"]], is_member: Bool[np.ndarray, " doc"]) -> str | None:
    """The name with the highest AUC, where it differs significantly from each other; None where it does not.

    All of the tests must reject, so that the level needs no adjustment for their number (Berger, "Multiparameter
    hypothesis testing and acceptance sampling", Technometrics 24, 1982).
    """
    names = list(scores)
    if len(names) < 2:
        return None
    best = names[0]
    for name in names[1:]:
        if _difference(scores[name], scores[best], is_member)[0] > 0:
            best = name
    others = [_difference(scores[best], scores[name], is_member) for name in names if name != best]
    return best if all(apart > 0 and p < SIGNIFICANT for apart, p in others) else None


def _difference(
    one: Float[np.ndarray, " doc"], other: Float[np.ndarray, " doc"], is_member: Bool[np.ndarray, " doc"]
) -> tuple[float, float]:
    """The difference of AUCs and its p-value; 0 and 1 where no documents have both scores."""
    try:
        found = compare(one, other, is_member)
    except MetricsError:
        return 0.0, 1.0
    return found.difference, found.p_value


def metrics_grid(run: Finished) -> Grid:
    """One row a column of scores: AUC and TPRs with intervals, PR-AUC, counts, the best blind baseline, published."""
    rows = {name: row for name, row in run.metrics.items() if row is not None}
    fprs = list(dict.fromkeys(fpr for row in rows.values() for fpr in row.tpr_at_fpr))
    confidence = sorted({row.confidence for row in rows.values()})
    columns = [Column("attack"), Column("AUC-ROC", ("auc_roc", "auc_roc_low", "auc_roc_high"))]
    columns += [Column(f"TPR at {100 * fpr:g}% FPR", _tpr_fields(fpr)) for fpr in fprs]
    columns += [Column("PR-AUC", ("pr_auc", "pr_auc_low", "pr_auc_high"))]
    columns += [Column("members + non-members", ("n_members", "n_nonmembers", "n_unscored"))]
    if run.blind is not None:
        columns.append(Column("best blind baseline", ("blind_auc_roc", "blind_low", "blind_high")))
    if run.published:
        columns.append(Column("published AUC", ("published_auc_roc",)))
    bold = _leaders(run)
    notes = [f"In brackets: {100 * one:g}% intervals." for one in confidence]
    if len(rows) > 1:
        notes.append(BOLD)
    if any(not tpr.resolvable for row in rows.values() for tpr in row.tpr_at_fpr.values()):
        notes.append("* too few non-members to resolve this FPR: TPR at no false positive.")
    table = [_metrics_row(run, name, row, fprs, name in bold) for name, row in run.metrics.items()]
    return Grid("metrics", f"{run.name}: how well each attack tells members from non-members", columns, table, notes)


def _tpr_fields(fpr: float) -> tuple[str, ...]:
    name = f"tpr_at_fpr_{fpr:g}"
    return name, f"{name}_low", f"{name}_high"


def _leaders(run: Finished) -> set[str]:
    """Of each model, the column that is best by test."""
    of_model: dict[str, dict[str, np.ndarray]] = {}
    for column, scores in run.scores.items():
        if run.metrics[column] is not None:
            of_model.setdefault(run.split(column)[0], {})[column] = scores
    return {best for scores in of_model.values() if (best := best_by_test(scores, run.is_member)) is not None}


def _metrics_row(run: Finished, name: str, row: Metrics | None, fprs: Sequence[float], bold: bool) -> list[Cell]:
    if row is None:
        empty = 3 + len(fprs) + (run.blind is not None) + bool(run.published)
        return [Cell(name), *[Cell("–")] * empty]
    cells = [Cell(name, bold=bold), auc_cell(row.auc_roc, bold)]
    for fpr in fprs:
        tpr = row.tpr_at_fpr.get(fpr)
        if tpr is None:
            cells.append(Cell("–"))
            continue
        star = "" if tpr.resolvable else "*"
        text = f"{percent(tpr.value)}{star} [{percent(tpr.low).rstrip('%')}, {percent(tpr.high).rstrip('%')}]"
        cells.append(Cell(text, (tpr.value, tpr.low, tpr.high)))
    area = row.pr_auc
    cells.append(Cell(f"{decimal(area.value)} {interval(area.low, area.high)}", (area.value, area.low, area.high)))
    unscored = row.n_unscored_members + row.n_unscored_nonmembers
    text = f"{row.n_members} + {row.n_nonmembers}" + (f" [{unscored} unscored]" if unscored else "")
    cells.append(Cell(text, (row.n_members, row.n_nonmembers, unscored)))
    if (best := run.blind) is not None:
        blind = f"{decimal(best.auc_roc)} {interval(best.low, best.high)}"
        cells.append(Cell(blind, (best.auc_roc, best.low, best.high)))
    if run.published:
        known = run.published.get(name)
        cells.append(Cell("–") if known is None else Cell(decimal(known.auc_roc), (known.auc_roc,)))
    return cells


def auc_of(row: Metrics | None) -> Estimate | None:
    """The AUC, where there are metrics."""
    return None if row is None else row.auc_roc


def auc_cell(auc: Estimate | None, bold: bool = False) -> Cell:
    """AUC with its interval."""
    if auc is None:
        return Cell("–")
    return Cell(f"{decimal(auc.value)} {interval(auc.low, auc.high)}", (auc.value, auc.low, auc.high), bold)


def signed(difference: float) -> str:
    """A difference with its sign, to three digits: +.012, −.120."""
    text = f"{abs(difference):.3f}"
    return ("−" if difference < 0 and float(text) else "+") + text.removeprefix("0")


def p_text(p_value: float) -> str:
    """A p-value as it is written: p = .012, p < .001."""
    return "p < .001" if p_value < 0.001 else f"p = {decimal(p_value)}"


def groups_grid(groups: Groups) -> Grid:
    """AUC by column and group."""
    columns = [Column("attack")]
    for i, (group, (members, others)) in enumerate(zip(groups.names, groups.counts)):
        fields = tuple(f"auc_roc_{i}{end}" for end in ("", "_low", "_high"))
        columns.append(Column(f"{group} ({members} + {others})", fields))
    rows = [[Cell(column), *(auc_cell(auc) for auc in found)] for column, found in groups.aucs.items()]
    notes = ["In parentheses: members + non-members. In brackets: 95% intervals."]
    if groups.left_out:
        notes.append(f"{groups.left_out} documents are in groups too small for an AUC of their own.")
    return Grid(groups.name, f"AUC-ROC by {groups.what}", columns, rows, notes)


def transfer_grids(run: Finished) -> Iterator[Grid]:
    """Of each set of further non-members: AUC against them, and what thresholds chosen on the main ones do there."""
    for number, (group, rows) in enumerate(run.transfer.items(), start=1):
        fprs = list(dict.fromkeys(fpr for one in rows.values() for fpr in one.fpr))
        columns = [Column("attack"), Column("AUC-ROC against them", ("auc_roc",))]
        columns += [Column(f"FPR here at {100 * fpr:g}% FPR there", (f"fpr_at_{fpr:g}",)) for fpr in fprs]
        table = []
        for name, one in rows.items():
            shares = [Cell(percent(one.fpr[fpr]), (one.fpr[fpr],)) if fpr in one.fpr else Cell("–") for fpr in fprs]
            table.append([Cell(name), Cell(decimal(one.auc_roc), (one.auc_roc,)), *shares])
        count = max((one.n_nonmembers for one in rows.values()), default=0)
        notes = [
            f"{count} further non-members, which the metrics above know nothing of. FPR: the share of them that the "
            "thresholds of the main non-members call members."
        ]
        yield Grid(f"transfer_{number}", f"On other non-members: {group}", columns, table, notes)


@dataclass(frozen=True)
class Entry:
    """One model on one set of documents: attacks with their metrics and scores."""

    model: str
    run: Finished
    columns: dict[str, str]
    """By attack, its column in the run."""


def entries(runs: Sequence[Finished]) -> dict[str, list[Entry]]:
    """By data set, the models that were attacked on it, in the runs' order; models called alike get their run's name.

    Documents are the same where their fingerprints are; the data set is called by what the first run says of it.
    """
    by_data: dict[str, list[Entry]] = {}
    title: dict[str, str] = {}
    for run in runs:
        models: dict[str, dict[str, str]] = {}
        for column in run.metrics:
            model, attack = run.split(column)
            models.setdefault(model, {})[attack] = column
        name = title.setdefault(run.fingerprint, _distinct(run.data, set(title.values())))
        for model, columns in models.items():
            by_data.setdefault(name, []).append(Entry(model, run, columns))
    return {data: _told_apart(found) for data, found in by_data.items()}


def _distinct(name: str, taken: set[str]) -> str:
    number, distinct = 1, name
    while distinct in taken:
        number += 1
        distinct = f"{name} ({number})"
    return distinct


def _told_apart(found: list[Entry]) -> list[Entry]:
    names = [entry.model for entry in found]
    taken: set[str] = set()
    apart = []
    for entry in found:
        name = entry.model if names.count(entry.model) == 1 else f"{entry.model} ({entry.run.name})"
        name = _distinct(name, taken)
        taken.add(name)
        apart.append(Entry(name, entry.run, entry.columns))
    return apart


def side_by_side(data: str, found: Sequence[Entry], number: int = 1) -> Grid:
    """AUC of attacks (rows) on models (columns) over one set of documents; bold is the best attack of a model."""
    attacks = list(dict.fromkeys(attack for entry in found for attack in entry.columns))
    best = {
        entry.model: best_by_test(
            {
                attack: entry.run.scores[column]
                for attack, column in entry.columns.items()
                if entry.run.metrics[column] is not None
            },
            entry.run.is_member,
        )
        for entry in found
    }
    columns = [Column("attack")]
    for i, entry in enumerate(found):
        columns.append(Column(entry.model, tuple(f"auc_roc_{i}{end}" for end in ("", "_low", "_high"))))
    rows = []
    for attack in attacks:
        cells = [Cell(attack)]
        for entry in found:
            row = entry.run.metrics[entry.columns[attack]] if attack in entry.columns else None
            cells.append(auc_cell(auc_of(row), best[entry.model] == attack))
        rows.append(cells)
    if any(entry.run.blind is not None for entry in found):
        cells = [Cell("best blind baseline")]
        for entry in found:
            best_blind = entry.run.blind
            cells.append(
                Cell("–")
                if best_blind is None
                else Cell(
                    f"{decimal(best_blind.auc_roc)} {interval(best_blind.low, best_blind.high)}",
                    (best_blind.auc_roc, best_blind.low, best_blind.high),
                )
            )
        rows.append(cells)
    return Grid(f"auc_{number}", f"AUC-ROC on {data}", columns, rows, ["In brackets: 95% intervals.", BOLD])


def paired_grid(data: str, found: Sequence[Entry], number: int = 1) -> Grid | None:
    """Paired tests of models on the same documents, attack by attack; None of a single model."""
    tests = []
    for one, other in combinations(found, 2):
        for attack in one.columns:
            if attack not in other.columns:
                continue
            scores = one.run.scores[one.columns[attack]], other.run.scores[other.columns[attack]]
            if len(scores[0]) != len(scores[1]):
                continue  # fingerprints are of texts; documents of sub-texts may be joined in one run only
            try:
                tests.append((attack, one.model, other.model, compare(*scores, one.run.is_member)))
            except MetricsError:
                continue
    if not tests:
        return None
    adjusted = benjamini_hochberg([test.p_value for *_, test in tests])
    columns = [
        Column("attack"),
        Column("model"),
        Column("compared with"),
        Column("difference of AUC", ("difference", "low", "high")),
        Column("p", ("p_value",)),
        Column("adjusted p", ("adjusted_p_value",)),
    ]
    rows = [
        [
            Cell(attack),
            Cell(one),
            Cell(other),
            Cell(
                f"{signed(test.difference)} [{signed(test.low)}, {signed(test.high)}]",
                (test.difference, test.low, test.high),
                bool(p < SIGNIFICANT),
            ),
            Cell(p_text(test.p_value).removeprefix("p "), (test.p_value,)),
            Cell(p_text(float(p)).removeprefix("p "), (float(p),)),
        ]
        for (attack, one, other, test), p in zip(tests, adjusted)
    ]
    notes = [
        "Paired DeLong tests on the documents that both models score; p adjusted over this table after Benjamini and "
        f"Hochberg. Bold: adjusted p < {SIGNIFICANT}."
    ]
    return Grid(f"paired_{number}", f"Models compared on {data}", columns, rows, notes)

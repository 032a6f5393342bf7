"""The report's tables of what can be told without the model."""

from collections.abc import Iterator

from mimir_jax.report.exports import Cell, Column, Grid
from mimir_jax.report.findings import decimal, interval
from mimir_jax.report.finished import Audit, Baseline
from mimir_jax.report.summary import auc_cell, p_text, signed

TELLING = 3.0
"""Standard deviations from which a word is said to tell the sides apart."""


def blind_grids(audit: Audit) -> Iterator[Grid]:
    """Attacks against the best baseline, the baselines, what the sides differ in, and words that only one side has."""
    if audit.comparisons:
        yield comparisons_grid(audit)
    if audit.best is not None:
        yield baselines_grid(audit)
    if audit.shift:
        yield shift_grid(audit)
    if any(abs(word.z) >= TELLING for word in audit.telling_words):
        yield words_grid(audit)


def comparisons_grid(audit: Audit) -> Grid:
    """Each attack against the best baseline, on the same documents, and among documents that look alike."""
    columns = [
        Column("attack"),
        Column("attack minus baseline", ("difference", "low", "high")),
        Column("adjusted p", ("p_adjusted",)),
        Column("beats it", ("beats",)),
        Column("AUC among documents that look alike", ("alike_auc_roc", "alike_low", "alike_high")),
    ]
    rows = []
    for name, one in audit.comparisons.items():
        apart = f"{signed(one.difference)} [{signed(one.low)}, {signed(one.high)}]"
        rows.append(
            [
                Cell(name),
                Cell(apart, (one.difference, one.low, one.high)),
                Cell(_p(one.p_adjusted), (one.p_adjusted,)),
                Cell("yes" if one.beats else "no", (int(one.beats),), one.beats),
                auc_cell(one.among_alike),
            ]
        )
    notes = [
        "Paired DeLong tests, adjusted for the number of attacks after Benjamini and Hochberg; an attack beats the "
        "baseline where it is above it, and above chance, beyond doubt at .05. The last column is of documents that "
        "the baseline does not tell apart."
    ]
    return Grid("against_blind", "Attacks against the best blind baseline", columns, rows, notes)


def baselines_grid(audit: Audit) -> Grid:
    """What each baseline reaches, and how many folds chose it."""
    assert audit.best is not None
    columns = [
        Column("baseline"),
        Column("AUC-ROC", ("auc_roc", "auc_roc_low", "auc_roc_high")),
        Column("folds that chose it", ("chosen",)),
    ]
    folds = sum(audit.best.chosen.values())
    rows = [[Cell("the best, chosen within nested folds"), _auc(audit.best, True), Cell(str(folds), (folds,))]]
    for name, one in sorted(audit.baselines.items(), key=lambda pair: -pair[1].auc_roc):
        count = audit.best.chosen.get(name, 0)
        rows.append([Cell(name), _auc(one), Cell(str(count), (count,))])
    return Grid("blind", "Blind baselines, cross-validated", columns, rows)


def _auc(one: Baseline, bold: bool = False) -> Cell:
    text = f"{decimal(one.auc_roc)} {interval(one.low, one.high)}"
    return Cell(text, (one.auc_roc, one.low, one.high), bold)


def shift_grid(audit: Audit) -> Grid:
    """Medians of both sides, and how far their distributions are apart."""
    columns = [
        Column("of a text"),
        Column("members, median", ("members",)),
        Column("non-members, median", ("nonmembers",)),
        Column("distance", ("distance",)),
        Column("adjusted p", ("p_adjusted",)),
    ]
    rows = []
    for name, one in audit.shift.items():
        numbers = [Cell("–") if x is None else Cell(f"{x:.4g}", (x,)) for x in (one.members, one.nonmembers)]
        apart = Cell("–") if one.distance is None else Cell(decimal(one.distance), (one.distance,))
        p = Cell("–") if one.p_adjusted is None else Cell(_p(one.p_adjusted), (one.p_adjusted,))
        rows.append([Cell(name), *numbers, apart, p])
    notes = ["Distance: Kolmogorov and Smirnov's, 0 where both sides are alike and 1 where they do not overlap."]
    return Grid("shift", "What members and non-members differ in", columns, rows, notes)


def _p(value: float) -> str:
    return p_text(value).removeprefix("p ").removeprefix("= ")


def words_grid(audit: Audit) -> Grid:
    """Words that one side has more often than chance would have it."""
    columns = [
        Column("word"),
        Column("members with it", ("members",)),
        Column("non-members with it", ("nonmembers",)),
        Column("z", ("z",)),
    ]
    rows = [
        [
            Cell(word.word),
            Cell(str(word.members), (word.members,)),
            Cell(str(word.nonmembers), (word.nonmembers,)),
            Cell(f"{word.z:+.1f}".replace("-", "−"), (word.z,)),
        ]
        for word in audit.telling_words
        if abs(word.z) >= TELLING
    ]
    notes = ["z: of the log-odds ratio of documents with the word; positive where members have it more often."]
    return Grid("telling_words", "Words that give a side away", columns, rows, notes)

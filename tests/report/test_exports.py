"""Tables as files: every number, escaped texts, and formats that their readers take."""

import csv
import io
from pathlib import Path

from finished import HOSTILE

from mimir_jax.report.exports import Cell, Column, Grid, to_csv, to_latex, to_markdown, write_tables

GRID = Grid(
    "metrics",
    f"title {HOSTILE}",
    [Column("attack"), Column("AUC", ("auc", "low", "high")), Column("n", ("n",))],
    [
        [Cell(f"=1+1{HOSTILE}", bold=True), Cell(".714 [.68, .74]", (0.7140001, 0.68, 0.74), True), Cell("3", (3,))],
        [Cell("loss"), Cell("–"), Cell("4", (4,))],
    ],
    [f"a note {HOSTILE}"],
)


def test_csv_has_all_digits_and_no_formula() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(GRID))))
    assert rows[0] == ["attack", "auc", "low", "high", "n"]
    assert rows[1][0].startswith("'=1+1<script>")
    assert rows[1][1:] == ["0.7140001", "0.68", "0.74", "3"]
    assert rows[2] == ["loss", "", "", "", "4"]
    assert to_csv(GRID).isascii() or "\x1b" not in to_csv(GRID)


def test_latex() -> None:
    text = to_latex(GRID)
    assert r"\textbf{.714 [.68, .74]}" in text
    assert r"\begin{tabular}{lrr}" in text
    assert text.count(r"\\") == 3
    assert r"\input" not in text
    assert r"\textbackslash{}input\{x\}\$\textbackslash{}frac\_\%\#" in text
    assert text.count("{") == text.count("}")
    assert text.count("&") - text.count(r"\&") == 2 * 3


def test_markdown() -> None:
    lines = to_markdown(GRID).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert all(line.replace(r"\|", "").count("|") == 4 for line in table)
    assert "**.714 \\[.68, .74\\]**" in table[2]
    assert "<" not in "".join(lines)
    assert r"\[l\]\(javascript:x\)" in table[2]


def test_files(tmp_path: Path) -> None:
    written = write_tables(tmp_path / "tables", [GRID])
    assert sorted(path.name for path in written) == ["metrics.csv", "metrics.md", "metrics.tex"]
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert text.replace("\n", "").isprintable()

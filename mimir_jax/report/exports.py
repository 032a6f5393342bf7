"""Tables as files: CSV with every digit, LaTeX and Markdown as they are read."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mimir_jax.report.escape import csv_cell, latex, markdown
from mimir_jax.report.results import write_text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: as it is read.
        fields: names of the numbers behind its cells, which are columns of the CSV file; none where the text is all.
    """

    title: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """What stands in a table; the text is untrusted.

    Attributes:
        text: as it is read.
        numbers: behind it, as the column's fields name them; none where there are none.
        bold: whether it stands out.
    """

    text: str
    numbers: tuple[float | int | None, ...] = ()
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        name: of its files.
        title: a sentence above it.
        columns: the first one names the rows.
        rows: of as many cells.
        notes: sentences below it.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def to_csv(grid: Grid) -> str:
    """A CSV file's text: numbers with all their digits, nothing for what is not known, no text that is computed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([csv_cell(name) for column in grid.columns for name in column.fields or (column.title,)])
    for row in grid.rows:
        cells: list[str | float | int | None] = []
        for column, cell in zip(grid.columns, row):
            blank = (None,) * len(column.fields)
            cells += (cell.numbers or blank) if column.fields else [csv_cell(cell.text)]
        writer.writerow(cells)
    return out.getvalue()


def to_latex(grid: Grid) -> str:
    r"""A LaTeX `table` of the package booktabs; \textquotedbl and \textquotesingle need T1 and textcomp."""
    lines = [
        r"\begin{table}",
        rf"  \caption{{{latex(grid.title)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(grid.columns) - 1)}}}",
        r"    \toprule",
        "    " + " & ".join(latex(column.title) for column in grid.columns) + r" \\",
        r"    \midrule",
    ]
    for row in grid.rows:
        cells = [rf"\textbf{{{latex(cell.text)}}}" if cell.bold else latex(cell.text) for cell in row]
        lines.append("    " + " & ".join(cells) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  \par\footnotesize {latex(note)}" for note in grid.notes]
    return "\n".join([*lines, r"\end{table}"])


def to_markdown(grid: Grid) -> str:
    """A table as GitHub and most others read it."""
    lines = [
        markdown(grid.title),
        "",
        "| " + " | ".join(markdown(column.title) for column in grid.columns) + " |",
        "|" + "|".join(["---", *["---:"] * (len(grid.columns) - 1)]) + "|",
    ]
    for row in grid.rows:
        cells = [f"**{markdown(cell.text)}**" if cell.bold else markdown(cell.text) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    if grid.notes:
        lines += ["", *[markdown(note) + "  " for note in grid.notes]]
    return "\n".join(lines)


def write_tables(folder: Path, grids: Sequence[Grid]) -> list[Path]:
    """Write each table as .csv, .tex and .md; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for grid in grids:
        for suffix, text in (("csv", to_csv(grid)), ("tex", to_latex(grid)), ("md", to_markdown(grid))):
            path = folder / f"{grid.name}.{suffix}"
            write_text(path, text.rstrip("\n"))
            written.append(path)
    return written

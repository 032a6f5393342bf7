"""`mimir-jax report`: the page, figures and tables of finished runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from mimir_jax.cli.shared import parse, say
from mimir_jax.config import ConfigError


@dataclass(frozen=True)
class Options:
    """Write report.html, figures (SVG, PDF) and tables (CSV, LaTeX, Markdown) of finished runs; no model is loaded.

    One folder gets its own report; several are set side by side, with paired tests where documents are the same.
    """

    results: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders that mimir-jax run wrote."""
    output: Path | None = None
    """Folder for the report of several runs; by default `comparison` beside the first of them."""
    texts: bool = True
    """Whether to show tokens of the most and least exposed documents; without, the page has no text of any."""
    quiet: bool = False
    """Print nothing but errors."""


def main(arguments: list[str], console: Console, errors: Console) -> None:
    options = parse(Options, "report", arguments)
    if not options.results:
        raise ConfigError("report: name at least one results folder")
    from mimir_jax.report.finished import read_finished
    from mimir_jax.report.page import write_comparison, write_report

    runs = [read_finished(folder) for folder in options.results]
    try:
        if len(runs) == 1 and options.output is None:
            run = runs[0] if options.texts else replace(runs[0], exposure=None)
            path = write_report(run, papers=True)
        else:
            output = options.output or options.results[0].resolve().parent / "comparison"
            path = write_comparison(runs, output, papers=True)
    except OSError as error:
        raise ConfigError(f"report: cannot be written: {error}") from error
    if not options.quiet:
        say(console, f"written to {path}, with tables/ and figures/ beside it")

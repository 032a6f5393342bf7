"""What commands share: how options are read and lines printed, and the scores of a finished run."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import tyro
from rich.console import Console
from rich.text import Text

from mimir_jax.config import ConfigError
from mimir_jax.report.escape import visible  # paths and fields of files are untrusted text

T = TypeVar("T")


def parse(form: type[T], command: str, arguments: Sequence[str], default: T | None = None) -> T:
    """Options as a dataclass lists them: its docstring is the help, and those of its fields are the options'.

    Raises:
        SystemExit: help was asked for, or an argument means nothing; then stderr says so.
    """
    flags = (tyro.conf.FlagCreatePairsOff,)
    known = tyro.MISSING_NONPROP if default is None else default
    return tyro.cli(form, args=arguments, prog=f"mimir-jax {command}", config=flags, default=known)


def take_config(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The file of --config, and the other arguments.

    Raises:
        ConfigError: no file follows.
    """
    arguments = [part for one in arguments for part in (one.split("=", 1) if one.startswith("--config=") else [one])]
    if "--config" not in arguments:
        return None, arguments
    at = arguments.index("--config")
    if at + 1 == len(arguments):
        raise ConfigError("--config needs a file")
    return arguments[at + 1], arguments[:at] + arguments[at + 2 :]


def say(console: Console, line: str) -> None:
    """Print a line, however long, with nothing in it that acts on the terminal."""
    console.print(Text(visible(line)), soft_wrap=True)


def complain(errors: Console, problem: str) -> None:
    """Say what is wrong, in one line."""
    say(errors, "mimir-jax: " + problem.replace("\n", " "))


def finished_scores(folder: Path) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Ids, labels and scores by column of a finished run, without further non-members.

    Raises:
        ConfigError: the folder holds no finished results.
    """
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet as pq

    from mimir_jax.report.results import METRICS, SCORES

    try:
        names = list(json.loads((folder / METRICS).read_text(encoding="utf-8")))
        table = pq.read_table(folder / SCORES)
        if "group" in table.column_names:
            table = table.filter(pa.compute.equal(table["group"], ""))
        scores = {name: table[name].to_numpy().astype(float) for name in names}
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise ConfigError(f"{folder}: no finished results: {str(error).partition(chr(10))[0]}") from error
    return table["id"].to_pylist(), table["is_member"].to_numpy(), scores


def file_name(column: str) -> str:
    """A column's name as part of a file's.

    >>> file_name("ref-a/b")
    'ref-a_b'
    """
    return re.sub(r"[^\w.+@=,-]+", "_", column)

"""The report of a results folder that is otherwise complete: above all that reads the folder and draws its page."""

from pathlib import Path

from mimir_jax.config import ConfigError


def write_report(folder: Path) -> None:
    """report.html and its tables.

    Raises:
        ConfigError: they cannot be written.
    """
    from mimir_jax.report.finished import read_finished
    from mimir_jax.report.page import write_report  # imports matplotlib

    try:
        write_report(read_finished(folder))
    except OSError as error:
        again = f"the results are complete: make room and run `mimir-jax report {folder}`"
        raise ConfigError(f"{folder}: its report cannot be written: {error}; {again}") from error

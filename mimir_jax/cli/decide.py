"""`mimir-jax decide`: a threshold picked on a share of the non-members, its rates on the rest, and all decisions."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console

from mimir_jax.cli.shared import file_name, finished_scores, parse, say
from mimir_jax.config import ConfigError


@dataclass(frozen=True)
class Options:
    """Who is called a member at a false-positive rate."""

    results: Annotated[Path, tyro.conf.Positional]
    """Results folder of a finished run."""
    attack: str = "loss"
    """Column of its scores."""
    fpr: float = 0.01
    """Target false-positive rate."""
    share: float = 0.5
    """Of the non-members, to pick the threshold on."""
    keep_with: float | None = None
    """Keep the target with this probability, rather than on average."""
    seed: int = 0
    """Of the split."""
    out: Path | None = None
    """File of the decisions; by default decisions-<attack>.csv in the folder."""


def main(arguments: list[str], console: Console, errors: Console) -> None:
    options = parse(Options, "decide", arguments)
    import pyarrow as pa
    import pyarrow.csv

    from mimir_jax.metrics.decisions import calibrate
    from mimir_jax.report.results import write_text

    ids, is_member, columns = finished_scores(options.results)
    if options.attack not in columns:
        raise ConfigError(f"attack: {options.attack} is no column of the scores; there are {', '.join(columns)}")
    scores = columns[options.attack]
    found = calibrate(
        scores, is_member, options.fpr, share=options.share, keep_with=options.keep_with, seed=options.seed
    )
    out = options.out or options.results / f"decisions-{file_name(options.attack)}.csv"
    rows = {
        "id": ids,
        "score": pa.array(scores, mask=np.isnan(scores)),
        "predicted_member": pa.array(found.predicted, mask=np.isnan(scores)),
        "is_member": is_member,
        "split": np.where(found.calibrating, "calibration", "report"),
    }
    said = {
        "attack": options.attack,
        "threshold": found.threshold.value if np.isfinite(found.threshold.value) else None,
        "target_fpr": options.fpr,
        "kept_with": options.keep_with,
        "seed": options.seed,
        "fpr": asdict(found.fpr),
        "tpr": asdict(found.tpr),
    }
    try:
        pyarrow.csv.write_csv(pa.table(rows), out)
        write_text(out.with_suffix(".json"), json.dumps(said, indent=2, allow_nan=False))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error}") from error
    for name, rate in (("false", found.fpr), ("true", found.tpr)):
        interval = f"{100 * rate.value:.2f}% [{100 * rate.low:.2f}, {100 * rate.high:.2f}]"
        say(console, f"{name}-positive rate on the other documents: {interval}")
    say(console, f"{found.predicted.sum()} called members; written to {out}")

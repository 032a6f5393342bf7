"""`mimir-jax compare`: DeLong's paired tests, with p-values after Benjamini and Hochberg."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mimir_jax.cli.shared import finished_scores, parse
from mimir_jax.config import ConfigError
from mimir_jax.report.escape import visible


@dataclasses.dataclass(frozen=True)
class Options:
    """Paired tests of AUCs on the same documents, corrected for their number."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Results folders: of one, its attacks are compared with each other; of several, each attack between them."""
    attacks: tuple[str, ...] = ()
    """Columns to compare; by default all."""
    confidence: float = 0.95
    """Of the intervals."""
    out: Path | None = None
    """JSON file of all figures."""
    figure: Path | None = None
    """Of a single pair, a point a document; of loss and ref-NAME, the log-likelihoods of target and reference."""


def main(arguments: list[str], console: Console, errors: Console) -> None:
    options = parse(Options, "compare", arguments)
    from mimir_jax.metrics.comparison import benjamini_hochberg, compare
    from mimir_jax.report.results import write_text

    runs = {str(folder): finished_scores(folder) for folder in options.results}
    if len(runs) < len(options.results):
        raise ConfigError("results: a folder is given twice")
    columns: dict[tuple[str, str], dict[str, float]] = {}
    label: dict[str, bool] = {}
    for folder, (ids, is_member, scores) in runs.items():
        if missing := [name for name in options.attacks if name not in scores]:
            raise ConfigError(f"{folder}: no column {', '.join(missing)}; there are {', '.join(scores)}")
        for name, member in zip(ids, is_member.tolist()):
            if label.setdefault(name, member) != member:
                raise ConfigError(f"{folder}: {name} is a member in one run and none in another")
        columns |= {(folder, name): dict(zip(ids, scores[name])) for name in options.attacks or scores}
    pairs = [
        (one, other)
        for one, other in itertools.combinations(columns, 2)
        if len(runs) == 1 or (one[0] != other[0] and one[1] == other[1])
    ]
    if not pairs:
        raise ConfigError("nothing to compare: name one run with several attacks, or several runs with the same ones")
    ids = list(label)
    is_member = np.array([label[name] for name in ids], bool)
    aligned = {key: np.array([scores.get(name, np.nan) for name in ids]) for key, scores in columns.items()}
    tested = [compare(aligned[one], aligned[other], is_member, options.confidence) for one, other in pairs]
    adjusted = benjamini_hochberg([one.p_value for one in tested]).tolist()
    table = Table("first", "second", "difference of AUC", "p", "adjusted p")
    plain = []
    for (one, other), test, p in zip(pairs, tested, adjusted):
        names = [visible(key[1] if len(runs) == 1 else "/".join(key)) for key in (one, other)]
        interval = f"{test.difference:+.3f} [{test.low:+.3f},{test.high:+.3f}]"
        table.add_row(*map(Text, names), interval, f"{test.p_value:.2g}", f"{p:.2g}")
        plain.append({"first": list(one), "second": list(other), **dataclasses.asdict(test), "p_adjusted": p})
    console.print(table)
    if options.figure is not None:
        if len(pairs) != 1:
            raise ConfigError(f"figure: shows one pair, and there are {len(pairs)}; name two --attacks")
        _draw(*pairs[0], aligned, is_member, options.figure)
    if options.out is not None:
        write_text(options.out, json.dumps(plain, indent=2, allow_nan=False))


def _draw(
    one: tuple[str, str],
    other: tuple[str, str],
    scores: dict[tuple[str, str], np.ndarray],
    is_member: np.ndarray,
    path: Path,
) -> None:
    from mimir_jax.report.audit_figures import scatter

    x, y, labels = scores[one], scores[other], ["/".join(one), "/".join(other)]
    both_models = one[0] == other[0] and one[1] == "loss" and other[1].startswith("ref-")
    if both_models:  # ref is the target's log-likelihood minus the reference's
        y, labels = x - y, ["log-likelihood, target", f"log-likelihood, {other[1].removeprefix('ref-')}"]
    scatter(x, y, is_member, (labels[0], labels[1]), path, diagonal=both_models or one[1] == other[1])

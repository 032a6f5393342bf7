"""`mimir-jax overlap`: per-document n-gram overlaps, their histograms, and how many documents MIMIR's filters keep."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mimir_jax.cli.shared import file_name, finished_scores, parse, say
from mimir_jax.config import ConfigError, DataConfig
from mimir_jax.report.escape import encodable

if TYPE_CHECKING:
    from mimir_jax.data.documents import Document

BELOW = (0.2, 0.8)
"""MIMIR's thresholds."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How many of the documents' n-grams occur in a corpus; by default, of the embedded example in its members."""

    out: Path
    """Folder for overlap.parquet and histogram figures."""
    corpus: tuple[str, ...] = ()
    """Sources of texts, as in --members; by default the members themselves, each without itself."""
    words: tuple[int, ...] = (7, 13)
    """Words in an n-gram."""
    positions: int = 200
    """First n-grams of a document that its overlap is the mean of."""
    bloom_ngrams: int | None = None
    """Hold the corpus in a Bloom filter for so many different n-grams; by default exactly."""
    false_positive_rate: float = 0.001
    """Of the filter."""
    processes: int = 1
    """That split and hash the corpus."""
    results: Path | None = None
    """Results folder of a run on these documents: its scores against the overlap, in figures and overlap.json."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=DataConfig)


def main(arguments: list[str], console: Console, errors: Console) -> None:
    options = parse(Options, "overlap", arguments)
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mimir_jax.data.documents import load_documents
    from mimir_jax.data.ngram_index import within
    from mimir_jax.report.audit_figures import histogram
    from mimir_jax.report.results import write_text

    if not options.corpus and options.bloom_ngrams is not None:
        raise ConfigError("bloom_ngrams: a filter cannot tell a member's own n-grams; name a --corpus")
    if wrong := [n for n in (*options.words, options.positions, options.processes) if n < 1]:
        raise ConfigError(f"words, positions and processes must be at least 1, not {wrong[0]}")
    documents = load_documents(options.data)
    is_member = np.array([document.is_member for document in documents], bool)
    columns: dict[str, Any] = {"id": [encodable(d.id) for d in documents], "is_member": is_member}
    against: dict[str, Any] = {}
    table = Table("n-gram", "documents", "mean", "below .2", "below .8", title=Text("overlap with the corpus"))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{options.out}: cannot be written: {error}") from error
    for n in options.words:
        values = _overlaps(options, documents, is_member, n, console)
        columns[f"overlap_{n}"] = pa.array(values, mask=np.isnan(values))
        sides = {"members": values[is_member], "non-members": values[~is_member]}
        histogram(sides, options.out / f"overlap_{n}.png", n)
        for name, some in sides.items():
            known = some[~np.isnan(some)]
            mean = f"{known.mean():.3f}" if len(known) else "-"
            below = [f"{np.count_nonzero(within(some, 0.0, high))}" for high in BELOW]
            table.add_row(str(n), f"{len(some)} {name}", mean, *below)
        if options.results is not None:
            against[f"{n}-gram"] = _against_scores(options.results, documents, is_member, values, n, options.out)
    pq.write_table(pa.table(columns), options.out / "overlap.parquet")
    console.print(table)
    if options.results is not None:
        write_text(options.out / "overlap.json", json.dumps(against, indent=2, allow_nan=False))
        for name, rows in against.items():
            console.print(_quantiles(name, rows))
    say(console, f"written to {options.out}")


def _overlaps(
    options: Options, documents: "Sequence[Document]", is_member: np.ndarray, n: int, console: Console
) -> np.ndarray:
    """Of each document, with the corpus or with the other members."""
    from mimir_jax.data.documents import read_texts
    from mimir_jax.data.ngram_index import BloomIndex, ExactIndex, Index, fill, member_overlaps, overlaps

    texts = [document.text for document in documents]
    if not options.corpus:
        return member_overlaps(texts, is_member, n, options.positions)
    index: Index = ExactIndex(n)
    if options.bloom_ngrams is not None:
        index = BloomIndex(n, options.bloom_ngrams, options.false_positive_rate)
    for source in options.corpus:
        fill(index, read_texts(source, options.data.text_field), options.processes)
    if isinstance(index, BloomIndex):
        rate = index.measured_false_positive_rate()
        say(console, f"{n}-grams: the filter's false-positive rate is {rate:.2g}")
    return overlaps(index, texts, options.positions)


def _against_scores(
    results: Path, documents: "Sequence[Document]", is_member: np.ndarray, values: np.ndarray, n: int, out: Path
) -> dict[str, Any]:
    """By attack: its AUC by quarter of the non-members' overlap and below MIMIR's thresholds; a figure each."""
    from mimir_jax.audit.overlap import association, auc_by_overlap, evaluate_below
    from mimir_jax.report.audit_figures import scatter

    ids, _, columns = finished_scores(results)
    place = {name: i for i, name in enumerate(ids)}
    names = [encodable(document.id) for document in documents]
    if missing := [name for name in names if name not in place]:
        count = len(missing)
        raise ConfigError(
            f"{results}: is no run on these documents: it has no score of {count}, such as {missing[0]!r}"
        )
    rows = [place[name] for name in names]
    found = {}
    for name, scores in columns.items():
        of_these = scores[rows]
        known = np.isfinite(of_these)
        if not (known & is_member).any() or not (known & ~is_member & np.isfinite(values)).any():
            continue
        below = evaluate_below(of_these, is_member, values, BELOW, n_bootstrap=200)
        found[name] = {
            "quantiles": [dataclasses.asdict(one) for one in auc_by_overlap(of_these, is_member, values)],
            "below": {str(high): None if one is None else dataclasses.asdict(one) for high, one in below.items()},
            "correlation": {
                side: dataclasses.asdict(association(of_these[is_member == label], values[is_member == label]))
                for side, label in (("members", True), ("nonmembers", False))
            },
        }
        scatter(values, of_these, is_member, (f"share of {n}-grams", name), out / f"{file_name(name)}_overlap_{n}.png")
    return found


def _quantiles(name: str, rows: dict[str, Any]) -> Table:
    table = Table("attack", title=Text(f"AUC-ROC by {name} overlap of the non-members"))
    for quarter in range(4):
        edges = [one["quantiles"][quarter] for one in rows.values()]
        table.add_column(f"{edges[0]['low']:.3f} to {edges[0]['high']:.3f}" if edges else "-", justify="right")
    for attack, row in rows.items():
        aucs = [one["auc_roc"] for one in row["quantiles"]]
        table.add_row(attack, *("-" if auc is None else f"{auc['value']:.3f}" for auc in aucs))
    return table

"""Commands about documents and finished results, without a model: overlap, construct, decide."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mimir_jax.config import ConfigError, DataConfig
from mimir_jax.data.construct import Recipe

if TYPE_CHECKING:
    from mimir_jax.data.ngram_index import Index

FLAGS = (tyro.conf.FlagCreatePairsOff,)


@dataclasses.dataclass(frozen=True)
class OverlapOptions:
    """How many of the documents' n-grams occur in a corpus."""

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


def overlap(arguments: list[str], console: Console, errors: Console) -> None:
    """Per-document overlaps, their histograms, and how many documents each of MIMIR's filters keeps."""

    def command(
        options: Annotated[OverlapOptions, tyro.conf.arg(name="")],
        data: Annotated[DataConfig, tyro.conf.arg(name="")] = DataConfig(),  # noqa: B008
    ) -> tuple[OverlapOptions, DataConfig]:
        """How many of the documents' n-grams occur in a corpus; by default, of the embedded example in its members."""
        return options, data

    options, data = tyro.cli(command, args=arguments, prog="mimir-jax overlap", config=FLAGS)
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mimir_jax.data.documents import load_documents, read_texts
    from mimir_jax.data.ngram_index import BloomIndex, ExactIndex, fill, member_overlaps, overlaps, within
    from mimir_jax.report.audit_figures import histogram
    from mimir_jax.report.tables import visible

    if not options.corpus and options.bloom_ngrams is not None:
        raise ConfigError("bloom_ngrams: a filter cannot tell a member's own n-grams; name a --corpus")
    documents = load_documents(data)
    is_member = np.array([document.is_member for document in documents], bool)
    columns: dict[str, Any] = {"id": [d.id for d in documents], "is_member": is_member}
    table = Table("n-gram", "documents", "mean", "below .2", "below .8", title=Text("overlap with the corpus"))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{options.out}: cannot be written: {error}") from error
    for n in options.words:
        index: Index
        if options.bloom_ngrams is None:
            index = ExactIndex(n)
        else:
            index = BloomIndex(n, options.bloom_ngrams, options.false_positive_rate)
        for source in options.corpus:
            fill(index, read_texts(source, data.text_field), options.processes)
        texts = [document.text for document in documents]
        if options.corpus:
            values = overlaps(index, texts, options.positions)
        else:
            values = member_overlaps(texts, is_member, n, options.positions)
        if isinstance(index, BloomIndex):
            rate = index.measured_false_positive_rate()
            console.print(Text(f"{n}-grams: the filter's false-positive rate is {rate:.2g}"), soft_wrap=True)
        columns[f"overlap_{n}"] = pa.array(values, mask=np.isnan(values))
        sides = {"members": values[is_member], "non-members": values[~is_member]}
        histogram(sides, options.out / f"overlap_{n}.png", n)
        for name, some in sides.items():
            known = some[~np.isnan(some)]
            mean = f"{known.mean():.3f}" if len(known) else "-"
            below = [f"{np.count_nonzero(within(some, 0.0, high))}" for high in (0.2, 0.8)]
            table.add_row(str(n), f"{len(some)} {name}", mean, *below)
    pq.write_table(pa.table(columns), options.out / "overlap.parquet")
    console.print(table)
    console.print(Text(f"written to {visible(str(options.out))}"), soft_wrap=True)


def construct(arguments: list[str], console: Console, errors: Console) -> None:
    """Members and non-members out of a corpus, with a manifest."""

    def command(
        out: Path,
        recipe: Annotated[Recipe, tyro.conf.arg(name="")] = Recipe(),  # noqa: B008
    ) -> tuple[Path, Recipe]:
        """Make members and non-members out of a corpus whose training and held-out parts are known.

        Args:
            out: Folder for members.jsonl, nonmembers.jsonl and manifest.json.
            recipe: how.
        """
        return out, recipe

    out, recipe = tyro.cli(command, args=arguments, prog="mimir-jax construct", config=FLAGS)
    from mimir_jax.data.construct import MANIFEST, write
    from mimir_jax.data.construct import construct as make
    from mimir_jax.data.documents import token_ends, token_ids
    from mimir_jax.data.readers import DataError
    from mimir_jax.report.tables import visible

    if (out / MANIFEST).exists():  # before hours of reading
        raise DataError(f"{out}: holds a data set already; choose another folder")
    counts = recipe.max_tokens is not None and recipe.tokenizer is not None
    made = make(
        recipe,
        token_ends(recipe.tokenizer) if counts and recipe.tokenizer else None,
        token_ids(recipe.ids_tokenizer) if recipe.ids_tokenizer else None,
    )
    manifest = write(made, out)
    for side, steps in manifest["steps"].items():
        console.print(Text(f"{side}: " + ", ".join(f"{n} {step}" for step, n in steps.items())), soft_wrap=True)
    taken = ", ".join(f"{n} {name}" for name, n in manifest["documents"].items())
    console.print(Text(f"{taken}; written to {visible(str(out))}"), soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class DecideOptions:
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


def decide(arguments: list[str], console: Console, errors: Console) -> None:
    """Pick a threshold on a share of the non-members, report its rates on the rest, and write all decisions."""
    options = tyro.cli(DecideOptions, args=arguments, prog="mimir-jax decide", config=FLAGS)
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    from mimir_jax.metrics.decisions import calibrate
    from mimir_jax.report.results import METRICS, SCORES, write_text
    from mimir_jax.report.tables import visible

    try:
        columns = list(json.loads((options.results / METRICS).read_text(encoding="utf-8")))
        table = pq.read_table(options.results / SCORES)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"{options.results}: no finished results: {str(error).partition(chr(10))[0]}") from error
    if options.attack not in columns:
        raise ConfigError(f"attack: {options.attack} is no column of the scores; there are {', '.join(columns)}")
    if "group" in table.column_names:
        table = table.filter(pa.compute.equal(table["group"], ""))  # without further non-members
    scores = table[options.attack].to_numpy().astype(float)
    is_member = table["is_member"].to_numpy()
    found = calibrate(
        scores, is_member, options.fpr, share=options.share, keep_with=options.keep_with, seed=options.seed
    )
    out = options.out or options.results / f"decisions-{options.attack.replace('/', '_')}.csv"
    rows = {
        "id": table["id"],
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
        "fpr": dataclasses.asdict(found.fpr),
        "tpr": dataclasses.asdict(found.tpr),
    }
    try:
        pyarrow.csv.write_csv(pa.table(rows), out)
        write_text(out.with_suffix(".json"), json.dumps(said, indent=2, allow_nan=False))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error}") from error
    for name, rate in (("false", found.fpr), ("true", found.tpr)):
        interval = f"{100 * rate.value:.2f}% [{100 * rate.low:.2f}, {100 * rate.high:.2f}]"
        console.print(Text(f"{name}-positive rate on the other documents: {interval}"), soft_wrap=True)
    console.print(Text(f"{found.predicted.sum()} called members; written to {visible(str(out))}"), soft_wrap=True)

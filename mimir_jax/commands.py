"""Commands about documents and finished results, without a model: overlap, construct, decide, compare."""

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
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
    from mimir_jax.data.documents import Document
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
    results: Path | None = None
    """Results folder of a run on these documents: its scores against the overlap, in figures and overlap.json."""


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
    from mimir_jax.report.results import write_text
    from mimir_jax.report.tables import visible

    if not options.corpus and options.bloom_ngrams is not None:
        raise ConfigError("bloom_ngrams: a filter cannot tell a member's own n-grams; name a --corpus")
    if wrong := [n for n in (*options.words, options.positions, options.processes) if n < 1]:
        raise ConfigError(f"words, positions and processes must be at least 1, not {wrong[0]}")
    documents = load_documents(data)
    is_member = np.array([document.is_member for document in documents], bool)
    columns: dict[str, Any] = {"id": [_encodable(d.id) for d in documents], "is_member": is_member}
    against: dict[str, Any] = {}
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
        if options.results is not None:
            against[f"{n}-gram"] = _scores_against(options.results, documents, is_member, values, n, options.out)
    pq.write_table(pa.table(columns), options.out / "overlap.parquet")
    console.print(table)
    if options.results is not None:
        write_text(options.out / "overlap.json", json.dumps(against, indent=2, allow_nan=False))
        for name, rows in against.items():
            console.print(_quantiles(name, rows))
    console.print(Text(f"written to {visible(str(options.out))}"), soft_wrap=True)


def _scores_against(
    results: Path, documents: "Sequence[Document]", is_member: np.ndarray, values: np.ndarray, n: int, out: Path
) -> dict[str, Any]:
    """By attack: its AUC by quarter of the non-members' overlap and below MIMIR's thresholds; a figure each."""
    from mimir_jax.audit.overlap import association, auc_by_overlap, evaluate_below
    from mimir_jax.report.audit_figures import scatter

    ids, _, columns = _scores(results)
    place = {name: i for i, name in enumerate(ids)}
    names = [_encodable(document.id) for document in documents]
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
        below = evaluate_below(of_these, is_member, values, (0.2, 0.8), n_bootstrap=200)
        found[name] = {
            "quantiles": [dataclasses.asdict(one) for one in auc_by_overlap(of_these, is_member, values)],
            "below": {str(high): None if one is None else dataclasses.asdict(one) for high, one in below.items()},
            "correlation": {
                side: dataclasses.asdict(association(of_these[is_member == label], values[is_member == label]))
                for side, label in (("members", True), ("nonmembers", False))
            },
        }
        scatter(values, of_these, is_member, (f"share of {n}-grams", name), out / f"{_file(name)}_overlap_{n}.png")
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


def _encodable(name: str) -> str:
    """An id as results have it: what UTF-8 cannot hold is written out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _file(name: str) -> str:
    """A column's name as part of a file's."""
    return re.sub(r"[^\w.+@=,-]+", "_", name)


def _scores(folder: Path) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
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


@dataclasses.dataclass(frozen=True)
class CompareOptions:
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


def compare(arguments: list[str], console: Console, errors: Console) -> None:
    """DeLong's paired tests, with p-values after Benjamini and Hochberg."""
    options = tyro.cli(CompareOptions, args=arguments, prog="mimir-jax compare", config=FLAGS)
    from mimir_jax.metrics.comparison import benjamini_hochberg
    from mimir_jax.metrics.comparison import compare as paired
    from mimir_jax.report.results import write_text
    from mimir_jax.report.tables import visible

    runs = {str(folder): _scores(folder) for folder in options.results}
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
    tested = [paired(aligned[one], aligned[other], is_member, options.confidence) for one, other in pairs]
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
        _pair_figure(*pairs[0], aligned, is_member, options.figure)
    if options.out is not None:
        write_text(options.out, json.dumps(plain, indent=2, allow_nan=False))


def _pair_figure(
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

    from mimir_jax.metrics.decisions import calibrate
    from mimir_jax.report.results import write_text
    from mimir_jax.report.tables import visible

    ids, is_member, columns = _scores(options.results)
    if options.attack not in columns:
        raise ConfigError(f"attack: {options.attack} is no column of the scores; there are {', '.join(columns)}")
    scores = columns[options.attack]
    found = calibrate(
        scores, is_member, options.fpr, share=options.share, keep_with=options.keep_with, seed=options.seed
    )
    out = options.out or options.results / f"decisions-{_file(options.attack)}.csv"
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

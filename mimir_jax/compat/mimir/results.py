"""MIMIR's results folder: written as MIMIR writes it, and read again.

Arrays in memory are ours, higher = member; files hold MIMIR's, lower = member: minus ours.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mimir_jax.compat.mimir import metrics
from mimir_jax.compat.mimir.config import HIDDEN, RETIRED, MimirConfig
from mimir_jax.config import ConfigError
from mimir_jax.data.documents import Document
from mimir_jax.metrics import Metrics, MetricsError, evaluate

CONFIG, RAW_DATA, RAW_DATA_LENS, RESULTS = "config.json", "raw_data.json", "raw_data_lens.json", "_results.json"

FPRS = (0.001, 0.01)
"""At which MIMIR's script of averages reports."""

Rows = Float[np.ndarray, " row"]
Members = Float[np.ndarray, " member"]
Nonmembers = Float[np.ndarray, " nonmember"]


def refuse_existing(folder: Path) -> None:
    """MIMIR runs no experiment whose folder exists; to be called before the expensive part, and by `write`.

    Raises:
        ConfigError: the folder exists.
    """
    if folder.exists():
        raise ConfigError(
            f"{folder}: exists, and MIMIR overwrites no results (its folders have no revision and no output_name); "
            "move it away, or choose another experiment_name or results"
        )


def write(
    folder: Path,
    config: MimirConfig,
    documents: Sequence[Document],
    scores: Mapping[str, Rows],
    names: Mapping[str, str] | None = None,
    lengths: Sequence[tuple[int, int]] | None = None,
    figures: bool = True,
) -> list[str]:
    """MIMIR's files: <attack>_results.json, raw_data.json, raw_data_lens.json, config.json and figures.

    The folder appears when it is complete. With full_doc, the score of a document is that of the sub-text with the
    lowest value in MIMIR's orientation. Bootstrap numbers are MIMIR's to the bit where the scores are.

    Args:
        folder: `Translation.folder`; must not exist.
        config: of the experiment.
        documents: the rows: texts, sub-texts of full_doc (with their parent), or beginnings of tok_by_tok.
        scores: by column, one score a row, higher = member, NaN where there is none.
        names: what MIMIR calls each column, in its order; columns that it does not have keep their names, and come
            after these.
        lengths: words of each member and non-member, where they cannot be told from the rows, as with tok_by_tok.
        figures: whether they are drawn.

    Returns:
        What a reader must know: columns for which no file could be written.

    Raises:
        ConfigError: the folder exists or cannot be written, or two columns would have one file.
    """
    refuse_existing(folder)
    order = {column: name for column, name in (names or {}).items() if column in scores}
    order |= {column: column for column in scores if column not in order}
    files = [_file(name) for name in order.values()]
    if twice := sorted({file for file in files if files.count(file) > 1}):
        raise ConfigError(f"{folder}: {', '.join(twice)} would be written twice")
    samples = _samples(config, documents)
    notes, outputs = [], {}
    random = np.random.RandomState(config.random_seed)
    for column, name in order.items():
        try:
            outputs[name] = _output(name, config, samples, scores[column], random)
        except MetricsError as error:
            notes.append(f"{folder / _file(name)}: not written: {error}")
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if not config.pretokenized:
            data = {side: samples.whole(side) for side in ("nonmember", "member")}
            _dump(partial / RAW_DATA, data)
            _dump(partial / RAW_DATA_LENS, _lengths(config, data) if lengths is None else [list(x) for x in lengths])
        (partial / CONFIG).write_text(config_json(config), encoding="utf-8")
        for name, output in outputs.items():
            _dump(partial / _file(name), output)
        if figures:
            _figures(partial, config, outputs)
        os.replace(partial, folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error}") from error
    return notes


def config_json(config: MimirConfig) -> str:
    """config.json: every key in MIMIR's order, but for a key of an API, which is left out of files."""
    plain = config.model_dump(mode="json", exclude={*RETIRED})
    if config.openai_config:
        plain["openai_config"] = {"key": HIDDEN, "model": config.openai_config.model}
    return json.dumps(plain, indent=4)


def _file(name: str) -> str:
    return name.replace("/", "_") + RESULTS


@dataclass(frozen=True)
class _Samples:
    """Rows of each side, in groups: the sub-texts of one document, or one row.

    Attributes:
        rows: by side, one list of row numbers a document.
        texts: of all rows.
        full_doc: whether a document is a list of texts.
    """

    rows: Mapping[str, list[list[int]]]
    texts: Sequence[str]
    full_doc: bool

    def whole(self, side: str) -> list[str] | list[list[str]]:
        """The documents."""
        groups = self.lists(side)
        return groups if self.full_doc else [group[0] for group in groups]

    def lists(self, side: str) -> list[list[str]]:
        """The documents, each as a list of texts."""
        return [[self.texts[row] for row in group] for group in self.rows[side]]

    def lowest(self, side: str, values: Rows) -> Float[np.ndarray, " doc"]:
        """A value a document: its lowest, NaN where one is NaN."""
        return np.array([np.min(values[group]) for group in self.rows[side]])


def _samples(config: MimirConfig, documents: Sequence[Document]) -> _Samples:
    rows: dict[str, dict[object, list[int]]] = {"member": {}, "nonmember": {}}
    for row, document in enumerate(documents):
        whole = (document.parent or document.id) if config.full_doc else row
        rows["member" if document.is_member else "nonmember"].setdefault(whole, []).append(row)
    texts = [document.text for document in documents]
    return _Samples({side: list(groups.values()) for side, groups in rows.items()}, texts, config.full_doc)


def _output(
    name: str, config: MimirConfig, samples: _Samples, scores: Rows, random: np.random.RandomState
) -> dict[str, Any]:
    """What <name>_results.json holds."""
    values = -np.asarray(scores, np.float64)
    member, nonmember = (samples.lowest(side, values) for side in ("member", "nonmember"))
    roc = metrics.roc(member, nonmember)
    resampled = metrics.bootstrap_auc(member, nonmember, random)
    curve = metrics.precision_recall(member, nonmember)
    return {
        "name": f"{name}_threshold",
        "predictions": {"member": member.tolist(), "nonmember": nonmember.tolist()},
        "info": {"n_samples": len(nonmember)},
        "raw_results": []
        if config.pretokenized
        else {"member": samples.lists("member"), "nonmember": samples.lists("nonmember")},
        "metrics": {
            "roc_auc": roc.auc,
            "fpr": roc.fpr.tolist(),
            "tpr": roc.tpr.tolist(),
            "bootstrap_roc_auc_mean": float(np.mean(resampled)),
            "bootstrap_roc_auc_std": float(np.std(resampled, ddof=1)),
            "tpr_at_low_fpr": metrics.tpr_below_fpr(roc.fpr, roc.tpr, config.fpr_list),
            "thresholds": roc.thresholds.tolist(),
        },
        "pr_metrics": {
            "pr_auc": curve.auc,
            "precision": curve.precision.tolist(),
            "recall": curve.recall.tolist(),
        },
        "loss": 1 - curve.auc,
    }


def _lengths(config: MimirConfig, data: Mapping[str, Any]) -> list[list[int]]:
    """Words of each member, between single spaces, and of the non-member beside it, between any white space."""
    if config.full_doc:
        return []
    return [[len(m.split(" ")), len(n.split())] for m, n in zip(data["member"], data["nonmember"])]


def _figures(folder: Path, config: MimirConfig, outputs: Mapping[str, dict[str, Any]]) -> None:
    from mimir_jax.compat.mimir.figures import histograms, roc_figures  # matplotlib takes half a second to import

    target = f"openai-{config.openai_config.model}" if config.openai_config else config.base_model
    title = target.replace("/", "_") + (f" - {config.neighborhood_config.model}" if config.neighborhood_config else "")
    curves = {}
    for name, output in outputs.items():
        found = output["metrics"]
        curves[output["name"]] = found["fpr"], found["tpr"], found["roc_auc"]
        # MIMIR means to draw both kinds for every attack and fails at it. They exist where a score is one of them.
        kind, label = ("ll", "log likelihood") if name == "loss" else ("llr", "log likelihood ratio")
        if name == "loss" or name.startswith(("ref-", "ne-")):
            member, nonmember = (-np.array(output["predictions"][side]) for side in ("member", "nonmember"))
            file = f"{kind}_histograms_{output['name']}.png".replace("/", "_")
            histograms(folder / file, member, nonmember, label)
    roc_figures(folder, curves, title)


def _dump(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True, eq=False)
class StoredResult:
    """One <attack>_results.json.

    Attributes:
        attack: its name in MIMIR.
        members: a score each, higher = member.
        nonmembers: as members.
        stored: the file's content, in MIMIR's orientation.
    """

    attack: str
    members: Members
    nonmembers: Nonmembers
    stored: Mapping[str, Any]


def read_results(folder: str | Path) -> dict[str, StoredResult]:
    """Every <attack>_results.json of a folder that MIMIR or `write` made, by attack.

    Raises:
        ConfigError: no such folder, no such file in it, or one that cannot be read.
    """
    paths = sorted(Path(folder).glob(f"*{RESULTS}"))
    if not paths:
        raise ConfigError(f"{folder}: no <attack>{RESULTS} is there")
    return {result.attack: result for result in map(read_result, paths)}


def read_result(path: str | Path) -> StoredResult:
    """One <attack>_results.json, of MIMIR or of `write`; files of older versions say members and nonmembers.

    Raises:
        ConfigError: the file cannot be read, or has no predictions of both sides.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        found = stored["predictions"]
        sides = [found[side] if side in found else found[f"{side}s"] for side in ("member", "nonmember")]
        members, nonmembers = (-np.array(side, np.float64) for side in sides)
        if members.ndim != 1 or nonmembers.ndim != 1:
            raise ValueError("predictions must be lists of numbers")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a result of MIMIR's ({type(error).__name__}: {error})") from error
    return StoredResult(Path(path).name.removesuffix(RESULTS), members, nonmembers, stored)


@dataclass(frozen=True, eq=False)
class Average:
    """The mean score over several result files, such as those of one target and several references.

    Attributes:
        members: a score each, higher = member.
        nonmembers: as members.
        metrics: of these scores.
        mimir: what MIMIR's script prints: the AUC, and the TPR below each FPR with *non-members* positive.
    """

    members: Members
    nonmembers: Nonmembers
    metrics: Metrics
    mimir: Mapping[str, Any]


def average_references(paths: Iterable[str | Path]) -> Average:
    """Average result files of the same documents: `ref-<name>_results.json` of several references.

    Raises:
        ConfigError: no file, one that cannot be read, or other documents in one.
        MetricsError: no document of a side has a score in every file.
    """
    paths = list(paths)
    results = [read_result(path) for path in paths]
    if not results:
        raise ConfigError("no result files to average are named")
    first = results[0]
    for path, other in zip(paths, results):
        same = other.members.shape == first.members.shape and other.nonmembers.shape == first.nonmembers.shape
        texts = [result.stored.get("raw_results") for result in (first, other)]  # empty where they were token ids
        if not same or (all(texts) and texts[0] != texts[1]):
            raise ConfigError(f"{path} is of other documents than {paths[0]}")
    members = np.mean([result.members for result in results], axis=0)
    nonmembers = np.mean([result.nonmembers for result in results], axis=0)
    is_member = np.repeat([True, False], [len(members), len(nonmembers)])
    found = evaluate(np.concatenate([members, nonmembers]), is_member)
    # Seen from the non-members: each side's scores with the other sign, in the other's place.
    curve = metrics.roc(nonmembers, members)
    mimir = {"roc_auc": curve.auc, "tpr_at_low_fpr": metrics.tpr_below_fpr(curve.fpr, curve.tpr, FPRS)}
    return Average(members, nonmembers, found, mimir)

"""The privacy of a fine-tuned checkpoint: train a base on documents, then tell which of them it gives away.

The base is the reference of attack `ref`: what the checkpoint finds more likely than the base does, it has from the
documents. Documents that were held out of training say how large such a score is by chance, which makes of a
document's score a p-value: the share of held-out documents, itself included, whose score is as high.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mimir_jax import experiment
from mimir_jax.config import ConfigError, DataConfig, MeshConfig, RunConfig
from mimir_jax.data.documents import DataError, Document, fingerprint, unique_ids
from mimir_jax.data.sources import read_source
from mimir_jax.models.checkpoint import read_config
from mimir_jax.outcome import Results
from mimir_jax.parallel.mesh import configured_mesh
from mimir_jax.report.escape import csv_cell
from mimir_jax.report.results import versions, write_text
from mimir_jax.report.terminal import Bars, silent
from mimir_jax.scoring.model import find_source, load_source
from mimir_jax.scoring.tokens import tokenize
from mimir_jax.training.checkpoints import write_checkpoint
from mimir_jax.training.loop import TrainConfig, train

ATTACKS = ("ref", "loss", "min_k++")
MOST_DOCUMENTS = 1 << 18


@dataclass(frozen=True)
class PrivacyConfig:
    """Fine-tune a base on documents, and say what leaked; without any option, a demonstration."""

    base: str = "demo/epoch1"
    """Folder, hub id or demo/epoch1: what is fine-tuned, and the reference afterwards."""
    documents: str = "demo/nonmembers"
    """Source of the documents to train on, as --data.members of `mimir-jax run`."""
    held_out: str | None = None
    """Source of documents of the same kind that are not trained on; by default a share of the documents, at random."""
    share: float = 0.5
    """Of the documents that is held out, where held_out is not given."""
    model: str | None = None
    """A checkpoint that was already fine-tuned, on all of the documents: nothing is trained, and held_out is needed."""
    text_field: str = "text"
    """Field that holds the text."""
    max_documents: int | None = 400
    """The first so many documents; none is all."""
    fpr: float = 0.05
    """Documents are called exposed where at most this share of held-out ones would be."""
    recipe: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=4, batch_tokens=2048, learning_rate=1e-3))
    """Of fine-tuning."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices."""
    batch_tokens: int = 2048
    """Token positions a device scores at a time."""
    out: str = "results/privacy"
    """Folder for the checkpoint, risk.csv and report."""


@dataclass(frozen=True)
class Risk:
    """What leaked.

    Attributes:
        documents: that were trained on.
        score: [doc], of `ref` in nats per token; NaN for none.
        p_value: [doc], NaN where there is no score.
        exposed: [doc], p_value <= the false-positive rate.
        results: of the run; its folder has report.html with the heat maps of the most exposed documents.
        path: of risk.csv.
    """

    documents: Sequence[Document]
    score: Float[np.ndarray, " doc"]
    p_value: Float[np.ndarray, " doc"]
    exposed: Bool[np.ndarray, " doc"]
    results: Results
    path: Path


def audit_checkpoint(config: PrivacyConfig, bars: Bars = silent) -> Risk:
    """Fine-tune where that is asked for, attack, and write risk.csv; an interrupted job goes on.

    Raises:
        ConfigError: settings that mean nothing, or an `out` that holds another job.
        DataError: documents that cannot be read, or too few.
        CheckpointError, TokenizerError: a base that cannot be loaded.
    """
    if not 0 < config.fpr < 1:
        raise ConfigError(f"fpr: {config.fpr}, must be between 0 and 1")
    out = Path(config.out)
    members, held_out = _split(config)
    try:
        for name, documents in (("members", members), ("held_out", held_out)):
            _write_documents(out / f"{name}.jsonl", documents)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error}") from error
    model = config.model or str(_fine_tuned(config, members, out, bars))
    base = find_source(config.base)
    run = RunConfig(
        experiment="attack",
        model=model,
        references=(config.base,),
        attacks=ATTACKS,
        data=DataConfig(str(out / "members.jsonl"), str(out / "held_out.jsonl")),
        mesh=config.mesh,
        batch_tokens=config.batch_tokens,
        results=config.out,
    )
    found = experiment.run(run, bars=bars)
    column = next(name for name in found.scores if name.startswith(f"ref-{base.name.partition('@')[0]}"))
    is_member = np.array([document.is_member for document in found.documents], bool)
    score = found.scores[column]
    p_value = p_values(score[is_member], score[~is_member])
    trained = [document for document in found.documents if document.is_member]
    risk = Risk(trained, score[is_member], p_value, p_value <= config.fpr, found, out / "risk.csv")
    _write_risk(risk)
    return risk


def p_values(scores: Float[np.ndarray, " doc"], held_out: Float[np.ndarray, " other"]) -> Float[np.ndarray, " doc"]:
    """(1 + held-out documents with at least this score) / (1 + held-out documents), NaN where there is no score.

    Vovk et al., Algorithmic Learning in a Random World, 2005: of documents that are exchangeable with the held-out
    ones, a share of at most alpha has a p-value of at most alpha.
    """
    others = np.sort(held_out[~np.isnan(held_out)])
    as_high = len(others) - np.searchsorted(others, scores, side="left")
    return np.where(np.isnan(scores), np.nan, (1 + as_high) / (1 + len(others)))


def _split(config: PrivacyConfig) -> tuple[list[Document], list[Document]]:
    """What is trained on, and what is held out."""
    found = _read(config, config.documents, config.max_documents)
    if config.held_out is not None:
        return found, _read(config, config.held_out, None)
    if config.model is not None:
        raise ConfigError("held_out: give documents that the checkpoint was not trained on; --held-out FILE")
    count = round(config.share * len(found))
    if not 0 < count < len(found):
        raise ConfigError(f"share: {config.share} of {len(found)} documents leaves nothing to train on or to hold out")
    order = np.random.default_rng(config.recipe.seed).permutation(len(found))
    held = {int(i) for i in order[:count]}
    return [d for i, d in enumerate(found) if i not in held], [d for i, d in enumerate(found) if i in held]


def _read(config: PrivacyConfig, source: str, most: int | None) -> list[Document]:
    limit = MOST_DOCUMENTS if most is None else most
    read = read_source(source, text_field=config.text_field, max_rows=limit)
    found = unique_ids(read)
    if not found:
        raise DataError(f"{source}: holds no documents")
    if ids := [document.id for document in found if document.token_ids is not None]:
        raise DataError(f"{ids[0]}: holds token ids; fine-tuning takes texts")
    return found


def _write_documents(path: Path, documents: Sequence[Document]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": d.id, "text": d.text, "source": d.source}) for d in documents]
    write_text(path, "\n".join(lines))


def _fine_tuned(config: PrivacyConfig, documents: Sequence[Document], out: Path, bars: Bars) -> Path:
    """The folder of the checkpoint, trained unless it is there."""
    folder, record = out / "model", out / "training.json"
    base = find_source(config.base)
    made = {"base": base.checkpoint, "documents": fingerprint(documents), "recipe": asdict(config.recipe)}
    if folder.is_dir():
        if _made_of(record) != made:
            raise ConfigError(f"{folder}: was trained otherwise; remove it, or give another --out")
        return folder
    mesh = configured_mesh(config.mesh)
    model = load_source(base, mesh, "float32")
    _, shape = read_config(base.folder)
    texts, ids = [d.text for d in documents], [d.id for d in documents]
    tokens = [np.array(one.text_ids, np.int32) for one in tokenize(model.tokenizer, texts, ids, shape.vocab, None)]
    try:
        with bars("fine-tune", "epochs") as bar:
            bar.start(config.recipe.epochs)
            trained = train(
                shape,
                tokens,
                config.recipe,
                mesh,
                lambda epoch, decoder, curve: bar.advance(1),
                initial=model.decoder,
                state_folder=out / "state",
            )
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise DataError(f"{config.documents}: {error}") from error
    trained.curve.write(out / "loss.csv")
    losses = [round(float(trained.curve.of_epoch(epoch + 1)), 5) for epoch in range(config.recipe.epochs)]
    write_text(record, json.dumps({"made_of": made, "mean_loss_by_epoch": losses, "versions": versions()}, indent=2))
    hf = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    write_checkpoint(trained.decoder, hf, base.tokenizer_folder, folder)
    return folder


def _made_of(record: Path) -> Mapping[str, Any] | None:
    try:
        made: Mapping[str, Any] = json.loads(record.read_text(encoding="utf-8"))["made_of"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made


def _write_risk(risk: Risk) -> None:
    """risk.csv: the documents that were trained on, the most exposed first."""
    order = np.argsort(np.where(np.isnan(risk.score), -np.inf, risk.score), kind="stable")[::-1]
    with risk.path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "source", "score", "p_value", "exposed"])
        for i in order.tolist():
            document = risk.documents[i]
            known = not np.isnan(risk.score[i])
            numbers = (
                [f"{risk.score[i]:.6g}", f"{risk.p_value[i]:.6g}", int(risk.exposed[i])] if known else ["", "", ""]
            )
            rows.writerow([csv_cell(document.id), csv_cell(document.source), *numbers])

"""The privacy job: what is trained on, what is held out, what a document's risk is, and what is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mimir_jax import privacy
from mimir_jax.cli import main
from mimir_jax.config import ConfigError
from mimir_jax.data.documents import DataError
from mimir_jax.privacy import PrivacyConfig, audit_checkpoint, p_values
from mimir_jax.report import results
from mimir_jax.report.tables import risk_table
from mimir_jax.scoring import score
from mimir_jax.scoring.model import load_model
from mimir_jax.testing import write_checkpoint
from mimir_jax.training.loop import TrainConfig

pytestmark = pytest.mark.slow  # as a whole

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
WORDS = "the quick brown fox jumps over lazy dog and other books than one reader would think"
RECIPE = TrainConfig(epochs=12, batch_tokens=256, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def promotion():
    """optax itself raises floats to the number of the step, an integer."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "base", seed=1, **TINY)


@pytest.fixture
def documents(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps({"id": f"d{i}", "text": " ".join(rng.choice(WORDS.split(), 8))}) for i in range(16)]
    path.write_text("\n".join(lines))
    return str(path)


def test_what_was_trained_on_is_found(
    base: Path, documents: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)
    out = tmp_path / "out"
    config = PrivacyConfig(str(base), documents, out=str(out), recipe=RECIPE, fpr=0.2)
    risk = audit_checkpoint(config)
    assert len(risk.documents) == 8
    held = [json.loads(line)["id"] for line in (out / "held_out.jsonl").read_text().splitlines()]
    assert not {*held} & {document.id for document in risk.documents}
    # The score is what the checkpoint gains over its base.
    texts = [document.text for document in risk.documents]
    lls = [np.mean(s, axis=1, where=m) for s, m in (_stats(folder, texts) for folder in (out / "model", base))]
    np.testing.assert_allclose(risk.score, lls[0] - lls[1], rtol=1e-3, atol=1e-4)
    assert risk.results.metrics["ref-base"].auc_roc.value > 0.9
    with risk.path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    assert {row["id"]: row["exposed"] == "1" for row in rows} == {
        document.id: bool(flag) for document, flag in zip(risk.documents, risk.exposed)
    }
    assert (out / "loss.csv").exists()
    assert json.loads((out / "training.json").read_text())["mean_loss_by_epoch"][-1] < 3
    assert (risk.results.folder / results.EXPOSED).exists()  # what the report's heat maps are made of
    # Once more: neither trained nor attacked again; and through the command line.
    monkeypatch.setattr(privacy, "train", lambda *_, **__: pytest.fail("trained again"))
    assert not audit_checkpoint(config).results.computed
    arguments = ["privacy", "--base", str(base), "--documents", documents, "--out", str(out), "--fpr", "0.2"]
    settings = {"epochs": 12, "batch-tokens": 256, "learning-rate": 1e-2}
    assert main([*arguments, *(f"--recipe.{name}={value}" for name, value in settings.items())]) == 0
    assert "documents are exposed" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="was trained otherwise; remove it, or give another --out"):
        audit_checkpoint(replace(config, recipe=replace(RECIPE, epochs=1)))
    # A checkpoint that is there already.
    given = replace(config, model=str(out / "model"), out=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="held_out: give documents that the checkpoint was not trained on"):
        audit_checkpoint(given)
    given = replace(given, documents=str(out / "members.jsonl"), held_out=str(out / "held_out.jsonl"))
    np.testing.assert_allclose(audit_checkpoint(given).score, risk.score, rtol=1e-5)


def _stats(folder: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    stats = score(load_model(folder), texts)
    return np.asarray(stats.log_prob), np.asarray(stats.mask)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9), st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_p_values_count(scores: list[int], held_out: list[int]) -> None:
    found = p_values(np.array([*scores, np.nan], float), np.array([*held_out, np.nan], float))
    expected = [(1 + sum(other >= one for other in held_out)) / (1 + len(held_out)) for one in scores]
    np.testing.assert_allclose(found[:-1], expected)
    assert np.isnan(found[-1])


def test_the_table_shows_the_most_exposed_first() -> None:
    console = Console(width=80, record=True)
    score = np.array([0.1, np.nan, 0.9, -0.2])
    console.print(
        risk_table(["a", "b", "c\x1b[2J", "d"], score, np.array([0.3, np.nan, 0.01, 0.9]), score > 0.5, 0.05, 2)
    )
    text = console.export_text()
    rows = [line.split() for line in text.splitlines() if "+" in line or "-0" in line]
    assert rows == [["c\\x1b[2J", "+0.900", ".010"], ["a", "+0.100", ".300"]]
    assert "1 of 3 documents are exposed; 0.2 would be by chance" in " ".join(text.split())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fpr": 1.0}, ConfigError, "fpr: 1.0, must be between 0 and 1"),
        ({"share": 0.0}, ConfigError, "share: 0.0 of 16 documents leaves nothing"),
        ({"share": 1.0}, ConfigError, "leaves nothing to train on or to hold out"),
        ({"documents": "nowhere.jsonl"}, DataError, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be(
    base: Path, documents: str, tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        audit_checkpoint(replace(PrivacyConfig(str(base), documents, out=str(tmp_path / "out")), **change))

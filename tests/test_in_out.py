"""Runs with references whose training sets are known: what lira and rmia get, and what a batch of runs shares."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_hand import Model

from mimir_jax import attacks, experiment, job
from mimir_jax.config import ConfigError, DataConfig, InOutConfig, MetricsConfig, RunConfig
from mimir_jax.report import results, written
from mimir_jax.shelf import Shelf
from mimir_jax.testing import tiny_tokenizer, write_checkpoint
from mimir_jax.training.membership import MEMBERSHIP, text_key

pytestmark = pytest.mark.slow  # as a whole

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}
MEMBERS = [f"the quick brown fox number {i}" for i in range(4)]
NONMEMBERS = [f"another lazy dog, that is {i}" for i in range(4)]
POPULATION = [f"there is more in book {i}" for i in range(5)]
TEXTS = [*MEMBERS, *NONMEMBERS]
IN = np.array([[i & 1 << r > 0 for i in range(len(TEXTS))] for r in range(2)] * 2)
IN[2:] = ~IN[:2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)
    monkeypatch.setattr(written, "write_report", lambda folder: None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "target", seed=9, **TINY)
    for r in range(4):
        write_checkpoint(folder / "references" / f"r{r}", seed=r, **TINY)
    write_table(folder / "references", TEXTS, IN)
    return folder


def write_table(folder: Path, texts: list[str], membership: np.ndarray) -> None:
    with (folder / MEMBERSHIP).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text_sha256", "id", *(f"r{r}" for r in range(len(membership)))])
        rows.writerows([text_key(t), i, *column.astype(int)] for i, (t, column) in enumerate(zip(texts, membership.T)))


@pytest.fixture
def configure(models: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    def write(name: str, texts: list[str]) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return str(path)

    def configure(population: list[str] | None = None, folder: Path | None = None, **changes: Any) -> RunConfig:
        place = None if population is None else write("population", population)
        settings: dict[str, Any] = {
            "model": str(models / "target"),
            "data": DataConfig(members=write("in", MEMBERS), nonmembers=write("out", NONMEMBERS)),
            "attacks": ("lira", "lira_online@pooled=1", "rmia@a=1.0"),
            "in_out": InOutConfig(str(folder or models / "references"), population=place),
            "experiment": "tiny",
            "batch_tokens": 128,
            "metrics": MetricsConfig(fprs=(0.5,), n_bootstrap=5),
            "results": str(tmp_path / "results"),
            "audit": False,
        }
        return RunConfig(**settings | changes)

    return configure


@pytest.fixture(scope="module")
def by_hand(models: Path) -> dict[str, Callable[[str], float]]:
    """LL of a text under each model."""
    loaded = {path.name: Model(path) for path in [models / "target", *sorted((models / "references").glob("r*"))]}
    return {name: lambda text, model=model: model.ll(model.ids(text)) for name, model in loaded.items()}


def lls(by_hand: dict[str, Callable[[str], float]], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    found = np.array([[of(text) for text in texts] for of in by_hand.values()], np.float32)
    return found[0], found[1:]


@pytest.mark.parametrize("population", [None, POPULATION])
def test_scores_are_those_of_the_arrays_by_hand(configure, by_hand, population):
    config = configure(population)
    found = experiment.run(config)
    target, references = lls(by_hand, TEXTS)
    theirs = (target, references, IN) if population is None else (*lls(by_hand, POPULATION), np.zeros((4, 5), bool))
    expected = {
        "lira": attacks.lira(target, references, IN),
        "lira_online@pooled=1": attacks.lira_online(target, references, IN, pooled=1),
        "rmia@a=1.0": attacks.rmia(target, references, IN, *theirs, a=1),
    }
    for name, scores in expected.items():
        np.testing.assert_allclose(found.scores[name], scores, rtol=2e-3, atol=2e-4, err_msg=name)
    assert ("rmia compares documents with each other" in " ".join(found.notes)) is (population is None)
    assert len(json.loads((found.folder / "run.json").read_text())["references"]) == 4
    assert not experiment.run(config).computed


def test_the_first_references_and_texts_that_are_not_listed(configure, models, by_hand, tmp_path):
    folder = tmp_path / "references"
    folder.mkdir()
    for r in range(4):
        (folder / f"r{r}").symlink_to(models / "references" / f"r{r}")
    write_table(folder, TEXTS[:-1], IN[:, :-1])
    config = configure(folder=folder, attacks=("lira@pooled=1",))
    found = experiment.run(replace(config, in_out=replace(config.in_out, count=2)))
    assert any("1 documents are not in membership.csv" in note for note in found.notes)
    target, references = lls(by_hand, TEXTS)
    known = IN[:2].copy()
    known[:, -1] = False
    expected = np.asarray(attacks.lira(target, references[:2], known, pooled=1))
    np.testing.assert_allclose(found.scores["lira@pooled=1"], expected, rtol=2e-3, atol=2e-4)
    assert np.isnan(expected[3])  # both references have it
    # Another table makes another run of it.
    write_table(folder, TEXTS, IN)
    with pytest.raises(ConfigError, match="holds the results of another run"):
        experiment.run(replace(config, in_out=replace(config.in_out, count=2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_out": InOutConfig()}, "lira lacks an input: give references whose training sets are known: --in-out"),
        ({"in_out": InOutConfig("nowhere")}, "nowhere/membership.csv: cannot be read"),
    ],
)
def test_what_is_missing_is_said_early(configure, change, message):
    with pytest.raises(ConfigError, match=message):
        experiment.run(configure(**change))


def test_a_table_of_other_texts_is_refused(configure, models, tmp_path, monkeypatch):
    folder = tmp_path / "references"
    folder.mkdir()
    for r in range(4):
        (folder / f"r{r}").symlink_to(models / "references" / f"r{r}")
    write_table(folder, [text + " " for text in TEXTS], IN)
    with pytest.raises(ConfigError, match="lists none of the documents; are the texts the very same"):
        experiment.run(configure(folder=folder))
    write_table(folder, TEXTS, IN)
    (folder / "r3").unlink()
    write_checkpoint(folder / "r3", tokenizer=tiny_tokenizer(vocab=260), **TINY)
    monkeypatch.setattr(job, "load_source", lambda *_: pytest.fail("weights are read"))
    with pytest.raises(ConfigError, match="differ in shape or vocabulary"):
        experiment.run(replace(configure(folder=folder), experiment="other"))


def test_a_batch_of_runs_loads_a_model_once(configure, tmp_path, monkeypatch):
    """And reads its documents' statistics once, whatever runs ask for them."""
    loaded = []
    load = job.load_source
    monkeypatch.setattr(job, "load_source", lambda source, *rest: loaded.append(source.name) or load(source, *rest))
    shelf, store = Shelf(models=2), str(tmp_path / "stats")
    plain = experiment.run(configure(attacks=("loss",), experiment="first", store=store), shelf=shelf)
    again = experiment.run(configure(attacks=("loss", "lira"), experiment="second", store=store), shelf=shelf)
    experiment.run(configure(attacks=("lira",), experiment="third", store=store), shelf=shelf)
    assert sorted(loaded) == ["r0", "r1", "r2", "r3", "target"]
    np.testing.assert_array_equal(plain.scores["loss"], again.scores["loss"])
    stages = json.loads((again.folder / "run.json").read_text())["stages"]
    assert stages["score target"]["tokens"] == 0
    # What is stored suffices for the attacks, without weights.
    stored = experiment.run(configure(attacks=("lira",), experiment="fourth", store=store), stage="attack")
    np.testing.assert_array_equal(stored.scores["lira"], again.scores["lira"])


def test_the_shelf_lets_the_oldest_go():
    shelf, loads = Shelf(models=2), []

    def load(name):
        return shelf.model(name, lambda: loads.append(name) or name)

    for name in ("a", "b", "a", "c", "a", "b"):
        assert load(name) == name
    assert loads == ["a", "b", "c", "b"]
    assert [shelf.remember("x", lambda: 1), shelf.remember("x", lambda: 2)] == [1, 1]
    nothing = Shelf()
    assert [nothing.remember("x", lambda: 1), nothing.remember("x", lambda: 2)] == [1, 2]

"""The controlled studies: draws, means over seeds, what an interrupted study keeps, and one study end to end."""

import csv
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import controlled, strong_attacks
from experiments.controlled import Pool, Study, auc, auc_grid, command, over_seeds
from mimir_jax.data.documents import Document
from mimir_jax.metrics import Estimate


@pytest.fixture(autouse=True)
def promotion():
    """optax itself raises floats to the number of the step, an integer."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_draws_depend_on_the_seed_and_begin_alike() -> None:
    texts = Pool([Document(str(i), "", None, "") for i in range(50)], [], None)
    first = texts.draw(20, 3)
    np.testing.assert_array_equal(first, texts.draw(50, 3)[:20])
    assert len({*first.tolist()}) == 20
    assert first.tolist() != texts.draw(20, 4).tolist()


def test_copies_are_of_each_model() -> None:
    texts = Pool([Document(str(i), "", None, "") for i in range(4)], [], None)
    found = texts.copies({1: [np.array([0]), np.array([3])], 4: [np.array([2]), np.array([], int)]})
    assert found.tolist() == [[1, 0, 4, 0], [0, 0, 0, 1]]
    with pytest.raises(ValueError, match="shorter"):
        texts.copies({1: [np.array([0])] * 2, 2: [np.array([0])]})


def test_the_mean_over_seeds_has_the_interval_of_a_mean() -> None:
    found = over_seeds([Estimate(0.6, 0.56, 0.64), Estimate(0.7, 0.67, 0.73)])
    assert found.value == pytest.approx(0.65)
    # Halves of the widths .04 and .03, so .05 together, over two.
    assert (found.low, found.high) == pytest.approx((0.625, 0.675))
    assert over_seeds([Estimate(1.0, 0.9, 1.0)]).high == 1


def test_auc_is_of_the_documents_that_are_named() -> None:
    scores = np.array([5, 0, 4, 1, 3, np.nan], np.float32)
    assert auc(scores, np.array([0, 2]), np.array([1, 3])).value == 1
    assert auc(scores, np.array([0, 3]), np.array([2, 4])).value == 0.5


def test_the_table_of_a_study() -> None:
    one, two = Estimate(0.6, 0.5, 0.7), Estimate(0.8, 0.7, 0.9)
    grid = auc_grid("name", "Title", "epochs", {"1": {"loss": [one, two]}, "2": {"loss": [two, two]}}, ["more"])
    assert [column.title for column in grid.columns] == ["epochs", "loss"]
    assert [row[0].text for row in grid.rows] == ["1", "2"]
    assert [round(row[1].numbers[0], 6) for row in grid.rows] == [0.7, 0.8]  # type: ignore[arg-type]
    assert "over 2 seeds" in grid.notes[0]
    assert "differ by at most 0.200" in grid.notes[0]


def test_an_interrupted_study_keeps_what_it_found(tmp_path: Path) -> None:
    study = Study.at(tmp_path, "name", {"seeds": 1})
    study.record("1", {"loss": [Estimate(0.6, 0.5, 0.7)]})
    study.state("training").mkdir()
    again = Study.at(tmp_path, "name", {"seeds": 1})
    assert again.rows == study.rows
    assert again.seconds > 0
    other = Study.at(tmp_path, "name", {"seeds": 2})
    assert other.rows == {}
    assert not other.state("training").exists()


def test_a_study_takes_the_flags_of_hosts_and_refuses_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = []

    def study(seeds: int = 2) -> None:
        """A study."""
        given.append(seeds)

    monkeypatch.setattr(sys, "argv", ["study", "--seeds", "3", "--hosts.count", "1"])
    command(study)
    assert given == [3]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(SystemExit) as ended:
        command(study)
    assert ended.value.code == 2
    assert given == [3]
    assert "hosts: a study trains its models, which one process does: start it on one host" in capsys.readouterr().err


@pytest.mark.slow
def test_strong_attacks_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mimir_jax.report import results

    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)
    monkeypatch.setattr(controlled, "TOKENS", 32)
    strong_attacks.main(tmp_path, documents=16, counts=(4,))
    folder = tmp_path / "strong_attacks"
    with (folder / "auc_by_references.csv").open() as file:
        rows = {row["attack"]: row for row in csv.DictReader(file)}
    assert {*rows} >= {"loss", "min_k++", "ref-other", "lira@pooled=1", "rmia@a=1.0"}
    assert all(0 <= float(row["4_low"]) <= float(row["4"]) <= 1 for row in rows.values() if row["4"])
    run = json.loads((folder / "run.json").read_text())
    assert run["command"] == "python -m experiments.strong_attacks"
    assert run["settings"]["counts"] == [4]
    assert str(tmp_path) not in json.dumps(run)
    assert not (folder / "state").exists()

"""The paper's experiments: every configuration at full scale, the published column, and small runs end to end."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
from finished import write_finished
from rich.console import Console

from experiments import paper, run_all
from experiments.paper import DEDUPED, DOMAINS, Entry, Experiment, Key, Options, Outcome
from mimir_jax import experiment
from mimir_jax.config import ConfigError, MetricsConfig
from mimir_jax.metrics import Estimate, Metrics
from mimir_jax.outcome import Results
from mimir_jax.report.finished import read_finished

EXPERIMENTS = Path(paper.__file__).parent


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Entry]]:
    """The runs of every experiment at full scale; what reads members from the hub has a stand-in."""
    from experiments import edited_members
    from mimir_jax.data.documents import Document

    texts = [Document(str(i), "some words of a member", True, "arxiv") for i in range(3)]
    monkeypatch.setattr(edited_members, "read_source", lambda source, side: iter(texts))
    return {name: run_all.find(name).full(tmp_path) for name in run_all.NAMES}


def test_every_run_is_a_valid_configuration(built: dict[str, list[Entry]]) -> None:
    options = Options()
    for name, entries in built.items():
        one = run_all.find(name)
        assert entries, name
        configs = [paper.configured(one, entry, options) for entry in entries]
        names = [config.experiment or "" for config in configs]
        assert len({*names}) == len(names), name
        assert all(re.fullmatch(r"[\w.()+-]+", experiment) for experiment in names), names
        for config in {(c.attacks, c.references, c.neighbors is None): c for c in configs}.values():
            experiment.resolve(config)


def test_table_1_is_the_papers(built: dict[str, list[Entry]]) -> None:
    entries = built["table1"]
    assert {(entry.model, entry.data) for entry in entries} == {
        (model, data) for model in DEDUPED for data in (*DOMAINS, "full_pile")
    }
    first = entries[0].config
    assert (first.model, first.revision) == ("EleutherAI/pythia-160m-deduped", "step99000")
    assert first.attacks == ("loss", "ref", "min_k", "zlib", "ne")
    assert len(built["table8"]) == len(entries)
    assert not any(entry.model.endswith("deduped") for entry in built["table8"])
    assert len(built["table3"]) == 10
    assert len(built["table11"]) == 3 * 8
    assert len(built["figure2"]) == 4 * 21


def test_published_values_are_found(built: dict[str, list[Entry]]) -> None:
    """Of each experiment that the published files have, as many cells as there are rows for its attacks."""
    cells = {
        name: sum(
            paper.published_auc(entry.published, column) is not None
            for entry in entries
            for column in ("loss", "zlib", "min_k", "ref-gpt2", "max_norm")
        )
        for name, entries in built.items()
    }
    assert cells["table1"] == 5 * 8 * 4
    assert cells["table8"] == 5 * 7 * 4
    assert cells["table3"] == 10 * 4
    assert cells["figure2"] == 336
    assert cells["silo"] == 168
    assert cells["wikimia"] == 4 * 5 * 4
    assert cells["datablations"] == 5 * 4 + 4 * 3
    assert cells["temporal"] == 6 * 4
    assert cells["full_documents"] == 8 * 3 * 5
    assert cells["max_norm"] == 20
    assert cells["table11"] == cells["edited_members"] == 0
    key = built["table1"][0].published
    assert key == Key(("main",), "wikipedia_(en)_ngram_13_<0.8_truncated", "EleutherAI/pythia-160m-deduped")
    value, deviation = paper.published_auc(key, "loss") or (0, None)
    assert 0.45 < value < 0.6
    assert deviation == pytest.approx(0.013, abs=0.003)
    assert paper.published_auc(key, "ne") is None
    assert paper.published_auc(None, "loss") is None


def test_the_report_of_a_run_has_the_published_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    monkeypatch.setattr(paper, "write_report", written.append)
    key = Key(("full_pile",), "full_pile", "EleutherAI/pythia-1.4b-deduped")
    folder = write_finished(tmp_path / "one", {"loss": 0.1, "entropy": 0.1})
    found = read_finished(folder)
    for _ in range(2):
        paper.keep_published(key, Results(folder, [], {}, found.metrics, []))
    assert written == [folder]
    assert read_finished(folder).published["loss"].auc_roc == 0.50406
    assert list(read_finished(folder).published) == ["loss"]
    paper.keep_published(None, Results(tmp_path, [], {}, found.metrics, []))
    assert not (tmp_path / "published.json").exists()


def test_every_published_experiment_is_described() -> None:
    with (paper.PUBLISHED / "mimir_results.csv").open(encoding="utf-8") as file:
        there = {row["experiment"] for row in csv.DictReader(file)}
    with (paper.PUBLISHED / "experiments.csv").open(encoding="utf-8") as file:
        described = list(csv.DictReader(file))
    assert {row["experiment"] for row in described} == there
    assert {name for row in described for name in row["file"].split()} <= {*run_all.NAMES}


def test_the_standard_error_of_an_auc() -> None:
    assert paper.hanley_mcneil(0.5, 1000, 1000) == pytest.approx(0.0129, abs=1e-4)
    # .09 + 49 (.81818 - .81) + 99 (.85263 - .81) = 4.7114 over 5,000
    assert paper.hanley_mcneil(0.9, 50, 100) == pytest.approx(0.030697, abs=1e-6)
    assert paper.hanley_mcneil(0.5, 0, 0) is None


def metrics(auc: float, half: float) -> Metrics:
    estimate = Estimate(auc, auc - half, auc + half)
    return Metrics(estimate, estimate, {}, 1000, 1000, 0, 0, 0.95)


def test_cells_beyond_the_joint_interval_are_flagged() -> None:
    theirs = (0.500, 0.013)
    assert not paper.differs(Estimate(0.535, 0.510, 0.560), theirs)  # .035 against 1.96 x .018
    assert paper.differs(Estimate(0.537, 0.512, 0.562), theirs)
    assert not paper.differs(Estimate(0.9, 0.89, 0.91), (0.5, None))
    key = Key(("main",), "github_ngram_13_<0.8_truncated", "EleutherAI/pythia-160m-deduped")
    known = paper.published_auc(key, "loss")
    assert known is not None
    one = Experiment("table1", "Title", lambda folder: [], lambda folder: [])
    entries = [dataclasses.replace(run_all.find("table1").full(Path())[0], published=key)] * 3
    outcomes = [
        Outcome(entries[0], {"loss": metrics(known[0], 0.02), "ne": metrics(0.5, 0.02)}),
        Outcome(entries[1], {"loss": metrics(known[0] + 0.1, 0.02), "ne": None}),
        Outcome(entries[2], None, "no hub"),
    ]
    grid = paper.grid_of(one, outcomes)
    assert [column.title for column in grid.columns] == ["model", "data", "loss", "loss, published", "ne"]
    flags = ["≠" in row[3].text for row in grid.rows]
    assert flags == [False, True, False]
    assert [row[2].text for row in grid.rows][2] == "–"
    assert grid.rows[2][3].numbers == (known[0],)
    assert any("(1 of the cells)" in note for note in grid.notes)
    assert any("1 of 3 runs could not be run" in note for note in grid.notes)


def test_without_the_hub_it_is_said_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = run_all.Batch(only=("table1",), models=("pythia-160m-deduped",), data=("arxiv",), results=tmp_path)
    assert not run_all.main(options, Console())
    told = " ".join(capsys.readouterr().err.split())
    assert "table1: pythia-160m-deduped on arxiv: mimir/arxiv/ngram_13_0.8: the hub cannot be reached" in told
    assert not (tmp_path / "table1").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (run_all.Batch(only=("table2",)), "no experiment table2; there are: table1, table3"),
        (run_all.Batch(only=("table1",), models=("gpt5",)), "no run has model gpt5; there are: pythia-160m-deduped"),
        (run_all.Batch(only=("table1",), data=("xsum",)), "no run has data xsum; there are: wikipedia_"),
    ],
)
def test_unknown_names(options: run_all.Batch, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_all.main(options, Console())


def test_the_list_of_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of one model follow each other, whatever the experiment; those without the model are left out."""
    names = ("pythia-160m-deduped", "pythia-1.4b-deduped")
    options = run_all.Batch(only=("table1", "max_norm"), models=names, list=True)
    assert run_all.main(options, Console(width=200))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (8 + 4)
    models = [line.split(" ")[1] for line in lines]
    assert models == sorted(models, key=names.index)


@pytest.mark.slow
def test_small_runs_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch of two experiments: tables in four forms, a figure, provenance; and nothing is computed twice."""
    from mimir_jax.report import results, written

    monkeypatch.setattr(written, "write_report", lambda folder: None)
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)
    models = ("demo/epoch1", "demo/epoch2", "demo/epoch4")
    for name in ("table1", "figure2"):
        one = run_all.find(name)

        def few(folder: Path, one: Experiment = one) -> list[Entry]:
            chosen = [entry for entry in one.small(folder) if entry.config.model in models]
            quick = MetricsConfig(n_bootstrap=5)
            return [
                dataclasses.replace(
                    entry,
                    config=dataclasses.replace(
                        entry.config, data=dataclasses.replace(entry.config.data, max_documents=8), metrics=quick
                    ),
                )
                for entry in chosen[-4:]
            ]

        monkeypatch.setattr(f"experiments.{name}.EXPERIMENT", dataclasses.replace(one, small=few))
    options = run_all.Batch(small=True, only=("table1", "figure2"), results=tmp_path)
    assert run_all.main(options, Console(width=200))
    out = capsys.readouterr().out
    assert "Table 1: AUC-ROC on Pythia-deduped" in out
    for name in ("table1", "figure2"):
        assert {f"{name}.csv", f"{name}.tex", f"{name}.md", "run.json"} <= {p.name for p in (tmp_path / name).iterdir()}
    assert (tmp_path / "figure2" / "trend.png").stat().st_size > 1000
    with (tmp_path / "table1" / "table1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"epoch1", "epoch4"}
    assert all(
        0 <= float(row["loss"]) <= 1 and float(row["ref-epoch2_low"]) <= float(row["ref-epoch2"]) for row in rows
    )
    run = json.loads((tmp_path / "figure2" / "run.json").read_text())
    assert [one["data"] for one in run["runs"]] == ["epoch1", "epoch2", "epoch4"]  # though 4 ran first
    assert all(one["identity"]["documents"] for one in run["runs"])
    assert str(tmp_path) not in json.dumps(run)

    def called(*arguments: object) -> None:
        raise AssertionError("a model is run again")

    monkeypatch.setattr("mimir_jax.job.score_parts", called)
    assert run_all.main(options, Console(width=200))


def test_every_experiment_has_a_file() -> None:
    for name in run_all.NAMES:
        assert (EXPERIMENTS / f"{name}.py").is_file()
        assert run_all.find(name).name == name

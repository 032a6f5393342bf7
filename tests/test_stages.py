"""`score` fills a store, and `attack` works from it alone: without weights, from a results folder or a store's path."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mimir_jax import cli
from mimir_jax.scoring import engine
from mimir_jax.testing import write_checkpoint

pytestmark = pytest.mark.slow  # as a whole

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}
WORDS = "the quick brown Fox jumps over THE lazy dog and there is more in these books than one reader would think"
OPTIONS = ["--model", "tiny", "--references", "other", "--data.members", "members.jsonl"]
OPTIONS += ["--data.nonmembers", "nonmembers.jsonl", "--metrics.n-bootstrap", "10", "--experiment", "x"]
ATTACKS = ["--attacks", "loss", "min_k@k=0.3", "ref", "lowercase", "recall", "--shots.count", "1"]

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "tiny", **TINY)
    write_checkpoint(tmp_path / "other", seed=1, **TINY)
    rng = random.Random(0)
    for name in ("members", "nonmembers"):
        rows = [{"text": " ".join(rng.choices(WORDS.split(), k=12))} for _ in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def scores(experiment: str) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = pq.read_table(f"results/{experiment}/scores.parquet").to_pydict()
    return table


def without_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the models' folders nor the function that runs them."""
    for name in ("tiny", "other"):
        shutil.rmtree(folder / name)

    def refused(*arguments: Any) -> Any:
        raise AssertionError("the model was run")

    for name in ("score_batch", "score_batch_models"):
        monkeypatch.setattr(engine, name, refused)


def test_score_then_attack(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert cli.main(["run", *OPTIONS, *ATTACKS, "--experiment", "run"]) == 0
    capsys.readouterr()
    assert cli.main(["score", *OPTIONS, *ATTACKS]) == 0
    out = capsys.readouterr().out
    assert "note: the statistics of 24 documents are in results/x/stats" in out
    assert "AUC" not in out
    assert {path.name for path in Path("results/x").iterdir()} == {"config.json", "run.json", "stats"}
    without_weights(folder, monkeypatch)
    assert cli.main(["attack", "results/x"]) == 0
    assert scores("x") == scores("run")
    facts = [json.loads(Path(f"results/{name}/run.json").read_text()) for name in ("x", "run")]
    for same in ("identity", "targets", "references"):  # the folders, too: not those that the store is unpacked to
        assert facts[0][same] == facts[1][same]
    assert facts[0]["stages"]["score tiny"]["tokens"] == 0

    # Other attacks on the same statistics, in a folder of their own.
    assert cli.main(["attack", "results/x", "--attacks", "min_k++", "rank", "--experiment", "y"]) == 0
    assert set(scores("y")) >= {"min_k++", "rank"}
    assert not Path("results/y/stats").exists()
    capsys.readouterr()
    assert cli.main(["attack", "results/x", "--attacks", "rank"]) == 2
    assert "another run's" not in capsys.readouterr().err


def test_models_of_one_name(folder: Path) -> None:
    """Columns are called by the folders that the models were in."""
    (folder / "deep").mkdir()
    (folder / "other").rename(folder / "deep/tiny")
    two = ["--attacks", "loss", "--checkpoints", "deep/tiny", "--references"]
    assert cli.main(["score", *OPTIONS, *two]) == 0
    shutil.rmtree(folder / "deep")
    shutil.rmtree(folder / "tiny")
    assert cli.main(["attack", "results/x"]) == 0
    assert [name for name in scores("x") if name.endswith("/loss")] == ["tiny/loss", "deep_tiny/loss"]


def test_a_store_that_runs_share(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More documents compute only the new ones; then attacks need neither models nor the results folder."""
    shared = ["--store", "shared", "--attacks", "loss", "--experiment"]
    few = ["--data.max-documents", "5"]
    tokens = []
    for name, more in (("a", few), ("b", []), ("c", [])):
        assert cli.main(["score", *OPTIONS, *shared, name, *more]) == 0
        tokens.append(json.loads(Path(f"results/{name}/run.json").read_text()))
    shards = sorted(Path("shared").glob("*.parquet"))
    assert [pq.read_metadata(path).num_rows for path in shards] == [10, 14]
    shutil.rmtree("results")
    without_weights(folder, monkeypatch)
    assert cli.main(["attack", *OPTIONS, *shared, "d"]) == 0
    assert len(scores("d")["loss"]) == 24
    assert [path.name for path in Path("results").iterdir()] == ["d"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--attacks", "gradnorm"], "gradnorm: run the model themselves: `mimir-jax run` has its weights"),
        (["--attacks", "lowercase"], "x/stats: lacks the statistics of "),
        (["--model", "another"], "x/stats: holds nothing of another; `mimir-jax score` with these options fills it"),
        (["--dtype", "bfloat16"], "x/stats: lacks the statistics of "),
        (["--store", "nowhere"], "nowhere: no such store of token statistics; `mimir-jax score` makes one"),
        (["--endpoint.base-url", "http://localhost:1"], "endpoint: `mimir-jax run` asks it"),
    ],
)
def test_what_the_store_lacks(
    scored: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, more: list[str], said: str
) -> None:
    monkeypatch.chdir(scored)
    assert cli.main(["attack", "results/x", *more]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_checkpoint(folder / "tiny", **TINY)
        for name in ("members", "nonmembers"):
            rows = [{"text": f"The {name} number {i} of SOME"} for i in range(4)]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = ["--model", "tiny", *OPTIONS[4:], "--attacks", "loss"]
        assert cli.main(["score", *options]) == 0
    return folder


def test_a_folder_that_holds_no_run(tmp_path: Path, capsys: Captured) -> None:
    assert cli.main(["attack", str(tmp_path)]) == 2
    assert f"{tmp_path}/config.json: cannot be read" in capsys.readouterr().err


def test_configurations_of_mimir_are_run_first(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "mi.json"
    path.write_text(json.dumps({"base_model": "m", "dataset_member": "d", "dataset_nonmember": "e"}))
    assert cli.main(["score", "--config", str(path)]) == 2
    assert "is MIMIR's; `mimir-jax run` writes ours" in capsys.readouterr().err

"""The benchmarks run from end to end on a tiny checkpoint; what they measure there means nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mimir_jax.testing import write_checkpoint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With documents of its own beside it, as the golden checkpoints have them."""
    folder = tmp_path_factory.mktemp("material")
    texts = [f"It is only in the {word} that one looks for another way." for word in ("books", "words", "dogs", "jump")]
    scores = {"documents": [{"text": text} for text in [*texts, "too long " * 200]]}
    (folder / "mimir_scores.json").write_text(json.dumps(scores))
    return write_checkpoint(folder / "tiny")


def run(script: str, *arguments: str | Path, results: Path) -> Any:
    """What the script writes for `--json`. The simulated devices of the tests are none of its business."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    command = [sys.executable, BENCHMARKS / script, *arguments, "--json", results]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(results.read_text())
    return json.loads(results.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_throughput(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    arguments = ["--checkpoint", checkpoint, "--repeats", "1", "--dtype", dtype]
    results = run("throughput.py", *arguments, results=tmp_path / "results.json")
    ways = results["ways"]
    assert set(ways) == {"ours", "torch@1", "torch@4", "torch@16", "mimir", "products"}
    compared = [way for way, row in ways.items() if "ours_over_this" in row]
    assert [way.split("@")[0] for way in compared] == ["torch", "mimir", "products"]
    assert all(row["tokens_per_second"] > 0 for row in ways.values())
    assert results["documents"] == 4
    assert results["compiled_shapes"] == len(results["shapes"])
    assert ("effect" in results) == (dtype == "bfloat16")


@pytest.mark.slow
def test_loading(checkpoint: Path, tmp_path: Path) -> None:
    results = run("loading.py", checkpoint, results=tmp_path / "results.json")
    assert [(row["data"], row["model"]) for row in results] == [(1, 1), (2, 4)]
    assert all(row["peak"] > 0 and row["parameters"] > 0 for row in results)


@pytest.mark.slow
def test_the_arithmetic_of_12b() -> None:
    command = [sys.executable, "-c", "import loading; print(loading.whole('bfloat16', devices=8))"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=120, check=True)
    assert "all 36 layers: 22.1 GiB of parameters in bfloat16, 2.76 on each of 8 devices" in done.stdout


@pytest.mark.slow
def test_precision(checkpoint: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"It is only in the {word} that one looks for them."}) for word in "abcdefgh"]
    for name, some in (("members", lines[:4]), ("nonmembers", lines[4:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(some))
    files = ["--members", tmp_path / "members.jsonl", "--nonmembers", tmp_path / "nonmembers.jsonl"]
    chosen = ["loss", "min_k++", "ref", "ne"]
    other = write_checkpoint(tmp_path / "other", seed=1)
    options = ["--model", checkpoint, "--references", other, *files, "--attacks", *chosen]
    rows = run("precision.py", *options, results=tmp_path / "results.json")
    assert [row["attack"].partition("-")[0] for row in rows] == chosen
    for row in rows:
        assert row["documents"] == 8
        assert 0 <= row["median_move"] <= row["largest_move"]
        assert 0 <= row["auc_float32"] <= 1
    assert rows[0]["largest_move"] > 0

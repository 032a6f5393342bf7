"""Runs that are ended before their time: by a signal in order, by kill -9 at any moment, by a full disk."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from processes import ROOT, environment

from mimir_jax import cli
from mimir_jax.parallel.hosts import RESUME
from mimir_jax.parallel.preemption import Preempted, Preemption
from mimir_jax.scoring import engine, gradients, sampling, store
from mimir_jax.testing import write_checkpoint

pytestmark = pytest.mark.slow  # as a whole

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}
WORDS = "the quick brown Fox jumps over THE lazy dog and there is more in these books than one reader would think"
RUN = ["run", "--model", "tiny", "--data.members", "members.jsonl", "--data.nonmembers", "nonmembers.jsonl"]
RUN += ["--metrics.n-bootstrap", "10", "--attacks", "loss", "min_k", "--batch-tokens", "128", "--no-audit"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "tiny", **TINY)
    rng = random.Random(0)
    for name in ("members", "nonmembers"):
        rows = [{"text": " ".join(rng.choices(WORDS.split(), k=12))} for _ in range(100)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def scores(experiment: str) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = pq.read_table(f"results/{experiment}/scores.parquet").to_pydict()
    return table


def signal_after(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    """The signal comes when so many passes are done."""
    checked, done = engine._checked, 0

    def counted(number: int, stats: Any) -> Any:
        nonlocal done
        done += 1
        if done == passes:
            os.kill(os.getpid(), signal.SIGTERM)
        return checked(number, stats)

    monkeypatch.setattr(engine, "_checked", counted)


def test_a_signal_while_scoring(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert cli.main([*RUN, "--experiment", "whole"]) == 0
    with monkeypatch.context() as patch:
        signal_after(patch, 3)
        assert cli.main([*RUN, "--experiment", "parts"]) == RESUME == 75
    assert "asked to end (SIGTERM); what was computed is stored" in capsys.readouterr().err
    assert not (folder / "results/parts/metrics.json").exists()
    stored = store.Store("results/parts/stats")
    assert 3 <= len(stored._shards) < 200
    assert cli.main([*RUN, "--experiment", "parts"]) == 0
    assert scores("parts") == scores("whole")
    facts = {name: json.loads(Path(f"results/{name}/run.json").read_text()) for name in ("parts", "whole")}
    assert 0 < facts["parts"]["stages"]["score tiny"]["tokens"] < facts["whole"]["stages"]["score tiny"]["tokens"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_elsewhere_raises_at_once() -> None:
    preemption = Preemption()

    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)

    with preemption.listening(), pytest.raises(Preempted):
        work()
    assert preemption.asked


def test_a_signal_after_the_last_look_is_not_forgotten() -> None:
    preemption = Preemption()
    done = []

    def work() -> None:
        with preemption.in_order():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(preemption.asked)

    with preemption.listening(), pytest.raises(Preempted):
        work()
    assert done == [True]


def test_a_signal_while_gradients_are_computed_or_texts_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done is stored, and not computed again."""
    monkeypatch.setattr(gradients, "CPU_CACHE", 1)  # a batch of few documents
    calls: dict[str, int] = {}
    signal_at = {"batch_norms": 0, "write_batch": 0}

    def count(module: Any, name: str) -> None:
        work = getattr(module, name)

        def counted(*given: Any, **more: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            if calls[name] == signal_at[name]:
                os.kill(os.getpid(), signal.SIGTERM)
            return work(*given, **more)

        monkeypatch.setattr(module, name, counted)

    count(gradients, "batch_norms")
    count(sampling, "write_batch")

    def run(experiment: str, gradient: int, sample: int) -> tuple[int, dict[str, int]]:
        signal_at.update(batch_norms=gradient, write_batch=sample)
        calls.clear()
        more = ["--attacks", "gradnorm", "samia", "--samples.count", "2", "--data.max-documents", "40"]
        return cli.main([*RUN, *more, "--experiment", experiment]), dict(calls)

    code, whole = run("whole", 0, 0)
    assert code == 0
    assert min(whole.values()) > 2
    assert run("parts", 4, 0) == (RESUME, {"batch_norms": 4})
    code, second = run("parts", 0, 2)
    assert code == RESUME
    assert 0 < second["batch_norms"] < whole["batch_norms"]
    assert second["write_batch"] == 2
    code, third = run("parts", 0, 0)
    assert (code, third) == (0, {"write_batch": whole["write_batch"] - 1})
    assert scores("parts") == scores("whole")


@pytest.mark.slow
def test_twenty_kills(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    env = environment(tmp_path_factory.mktemp("compiled"))
    helper = str(ROOT / "tests" / "killed.py")

    def killed(kills: int, experiment: str) -> str:
        command = [sys.executable, helper, str(kills), "7", *RUN, "--experiment", experiment]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    killed(0, "whole")
    assert "killed 20" in killed(20, "parts")
    assert len(list((folder / "results/parts/stats").glob("*.parquet"))) > 5
    assert scores("parts") == scores("whole")


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """What could be written before is there; the rest is computed when there is room."""
    monkeypatch.setattr(store, "SECONDS", 0.0)
    pipe, written = LocalFileSystem.pipe_file, 0

    def full(self: LocalFileSystem, path: str, data: bytes) -> None:
        nonlocal written
        written += ".parquet" in path
        if written > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        pipe(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "pipe_file", full)
        assert cli.main([*RUN, "--experiment", "x"]) == 2
    err = capsys.readouterr().err
    assert "results/x/stats: cannot be written: [Errno 28] No space left on device; what is in it stays" in err
    assert len(list(Path("results/x/stats").glob("*.parquet"))) == 5
    assert cli.main([*RUN, "--experiment", "x"]) == 0
    assert np.isfinite(np.array(scores("x")["loss"])).all()

"""Real processes that make one run: the same numbers as one process, and a clear end where one of them fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from processes import ROOT, Ended, ends, free_port, start, start_together, wait_for
from processes import environment as whole_environment
from sharing import IDS, TEXTS, tokenizer

from mimir_jax.config import ConfigError, HostsConfig
from mimir_jax.parallel import hosts
from mimir_jax.scoring.tokens import tokenize
from mimir_jax.testing import write_checkpoint

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}
WORDS = "the quick brown Fox jumps over THE lazy dog and there is more in these books than one reader would think"
DATA = ["--data.members", "members.jsonl", "--data.nonmembers", "nonmembers.jsonl"]
RUN = ["run", "--model", "tiny", *DATA, "--metrics.n-bootstrap", "10", "--experiment", "x", "--batch-tokens", "128"]
RUN += ["--no-audit"]  # which is process 0's alone, and takes as long as all that is tested here
SCORES = ["--attacks", "loss", "min_k++"]


def environment(cache: Path, devices: int = 2, **more: str) -> dict[str, str]:
    """Of a process whose compiler makes little effort, as it does in all other tests."""
    return whole_environment(cache, devices, JAX_DISABLE_MOST_OPTIMIZATIONS="1", **more)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "tiny", **TINY)
    rng = np.random.default_rng(0)
    for name in ("members", "nonmembers"):
        texts = [" ".join(rng.choice(WORDS.split(), 12)) for _ in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tmp_path


def scores(results: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(results / "x" / "scores.parquet")
    return {
        name: np.array(table[name].to_pylist(), float) for name in table.column_names if table[name].type == "float"
    }


def assert_alike(some: Path, all_of_it: Path, tolerance: float) -> None:
    """Every column of the one is in the other, which may have more."""
    ours, theirs = scores(some), scores(all_of_it)
    assert ours
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=tolerance, atol=tolerance, err_msg=name)


def assert_fine(ended: list[Ended]) -> None:
    assert [one.code for one in ended] == [0] * len(ended), [one.err for one in ended]


@pytest.mark.slow
def test_two_processes_a_signal_and_the_same_run_again(folder: Path, cache: Path) -> None:
    """Either result, whole or in two parts, is that of one process; process 0 alone prints and writes."""
    whole = start_together(2, [*RUN, *SCORES], environment(cache), folder)
    ended = ends(whole)
    assert_fine(ended)
    assert "written to results/0/x" in ended[0].out
    assert "written" not in ended[1].out
    assert not (folder / "results" / "1").exists()
    facts = json.loads((folder / "results/0/x/run.json").read_text())
    assert facts["processes"] == 2
    assert facts["mesh"] == {"data": 4, "model": 1}
    (folder / "results/0").rename(folder / "whole")

    parts = start_together(2, [*RUN, *SCORES], environment(cache, SLOW="0.1", SHARD="0"), folder)
    shards = folder / "results/0/x/stats"
    wait_for("a shard", lambda: len(list(shards.glob("*.parquet"))) > 1, parts[0])
    parts[1].send_signal(signal.SIGTERM)  # to one of them: both end
    ended = ends(parts)
    assert [one.code for one in ended] == [hosts.RESUME] * 2
    assert "asked to end (SIGTERM); what was computed is stored" in ended[0].err
    assert not (folder / "results/0/x/metrics.json").exists()
    assert_fine(ends(start_together(2, [*RUN, *SCORES], environment(cache), folder)))
    assert_alike(folder / "results/0", folder / "whole", 0)
    stages = json.loads((folder / "results/0/x/run.json").read_text())["stages"]
    assert 0 < stages["score tiny"]["tokens"] < facts["stages"]["score tiny"]["tokens"]

    one = start([*RUN, *SCORES, "--results", "one"], environment(cache, devices=1), folder)
    assert_fine(ends([one]))
    assert_alike(folder / "whole", folder / "one", 1e-5)


@pytest.mark.slow
def test_four_processes_split_the_model_too(folder: Path, cache: Path) -> None:
    """So do two, which compute gradients and sample: what compiles longest."""
    few = [*RUN, "--data.max-documents", "8", "--shots.count", "1", "--samples.count", "2", "--attacks"]
    split = ["--mesh.model", "2", "--mesh.weights", "sharded"]
    for count, attacks in (4, ["loss", "recall"]), (2, ["gradnorm", "samia"]):
        assert_fine(ends(start_together(count, [*few, *attacks, *split], environment(cache), folder)))
        facts = json.loads((folder / "results/0/x/run.json").read_text())
        assert (facts["processes"], facts["mesh"]) == (count, {"data": count, "model": 2})
        (folder / "results/0").rename(folder / f"{count}")
    one = start([*few, "loss", "recall", "gradnorm", "samia", "--results", "one"], environment(cache, 1), folder)
    assert_fine(ends([one]))
    assert scores(folder / "one").keys() == scores(folder / "4").keys() | scores(folder / "2").keys()
    assert_alike(folder / "4", folder / "one", 1e-5)
    assert_alike(folder / "2", folder / "one", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_ends_the_others(folder: Path, cache: Path, end: signal.Signals) -> None:
    run = start_together(2, [*RUN, *SCORES], environment(cache, SLOW="0.1", SHARD="0"), folder, timeout=10)
    shards = folder / "results/0/x/stats"
    wait_for("a shard", lambda: bool(list(shards.glob("*.parquet"))), run[0])
    run[1].send_signal(end)
    try:
        (first,) = ends(run[:1], timeout=60)
    finally:
        run[1].kill()
        run[1].communicate()
    assert first.code not in (0, 2)
    assert (
        "another process hangs or is gone" in first.err
        or "because one of them ended" in first.err
        or ("another task died" in first.err)
    )
    stored = len(list(shards.glob("*.parquet")))
    assert stored
    assert_fine(ends([start([*RUN, *SCORES, "--results", "results/0"], environment(cache), folder)]))


@pytest.mark.slow
def test_a_process_that_is_stuck_before_its_first_batch(folder: Path, cache: Path) -> None:
    """The others wait for as long as they are told, not for as long as compiling may take."""
    run = start_together(2, [*RUN, *SCORES], environment(cache, HANG="1"), folder, timeout=8)
    try:
        (first,) = ends(run[:1], timeout=90)
    finally:
        run[1].kill()
        run[1].communicate()
    assert first.code == hosts.RESUME
    assert "score tiny: nothing has moved for 8 seconds: another process hangs or is gone" in first.err


@pytest.mark.slow
def test_a_process_with_other_files_or_none_is_named_by_all(folder: Path, cache: Path) -> None:
    for what, said in (
        ("", "process 1 of 2 failed: DataError: "),
        ('{"text": "another"}\n', "documents, checkpoints or files: process 1 has others than process 0"),
    ):
        second = folder / "second"
        shutil.rmtree(second, ignore_errors=True)
        second.mkdir()
        for name in ("tiny", "members.jsonl"):
            os.symlink(folder / name, second / name)
        if what:
            (second / "nonmembers.jsonl").write_text(what)
        env = environment(cache)
        run = start_together(2, [*RUN, *SCORES], env, folder)
        run[1].kill()
        run[1].communicate()
        arguments = list(run[1].args)[3:]  # type: ignore[arg-type]
        run[1] = start(arguments, env, second)
        ended = ends(run)
        assert [one.code for one in ended] == [2, 2], ended
        assert said in ended[0].err


@pytest.mark.slow
def test_processes_share_the_tokenizing_and_all_hear_of_an_error(cache: Path) -> None:
    """Ids are those of one process; a document that cannot be tokenized is named by all, whoever had it."""
    address, program = f"localhost:{free_port()}", str(ROOT / "tests/parallel/sharing.py")
    run = [
        subprocess.Popen(
            [sys.executable, program, address, "2", str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(cache, devices=1),
        )
        for index in range(2)
    ]
    ended = ends(run, timeout=120)
    assert_fine(ended)
    found = [json.loads(one.out.splitlines()[-1]) for one in ended]  # after what gloo says
    alone = [list(one) for one in tokenize(tokenizer(), TEXTS, IDS, 10**6)]
    for index, one in enumerate(found):
        assert one["processes"] == 2
        assert one["tokens"] == alone
        assert one["encoded"] == TEXTS[index::2]
        assert one["one text"] == alone[:1]
        assert one["none"] == []
        assert one["bytes"] == [0, 5]
        assert one["long"] == [True, True]
        assert one["vocab"] == found[0]["vocab"]
        assert one["still"] == ""
    assert "10 documents have token ids beyond the model's 1 embeddings" in found[0]["vocab"]
    for index in range(2):
        other = found[1 - index]
        named = f"TokenizerError: document {2 + index}: cannot be tokenized"
        assert found[index][f"bad in {index}"].startswith(named)
        assert other[f"bad in {index}"].startswith(f"HostsError: tokenize: process {index} of 2 failed: {named}")
    assert found[0]["outside"] == "HostsError: tokenize: process 1 of 2 failed: ValueError: no such file"
    assert found[1]["outside"] == "ValueError: no such file"


def test_alone_where_nothing_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    hosts.connect(HostsConfig())
    hosts.connect(HostsConfig(count=1, coordinator="localhost:1"))
    assert hosts.leads()
    assert hosts.broadcast(b"data") == b"data"
    with hosts.together("nothing"):
        pass
    hosts.check_equal("nothing", "00")


@pytest.mark.parametrize(
    ("config", "variables", "said"),
    [
        (HostsConfig(coordinator="localhost:1", count=2, index=2), {}, "hosts.index: 2, must be at least 0 and less"),
        (HostsConfig(count=2), {}, "hosts: "),
        (HostsConfig(count=2, timeout=0.0), {}, "hosts.timeout: 0"),
        (HostsConfig(), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES: 'two' is no number"),
        (HostsConfig(), {"JAX_COORDINATOR_ADDRESS": "localhost:1"}, "hosts: "),
    ],
)
def test_what_cannot_be(
    monkeypatch: pytest.MonkeyPatch, config: HostsConfig, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        hosts.connect(config)

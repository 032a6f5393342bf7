"""Runs the command line in processes of its own, several of which make one run."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Scoring in slow motion: SLOW seconds a pass; shards are written after SHARD seconds; process HANG is stuck before its
# first batch.
# Torch is not there, as where users have installed the package: to import it takes half of a process's start. As in all
# other tests, runs write no report.html; nor do they draw.
MAIN = """
import importlib.util, os, sys, time
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "torch" else find(name, *more)
from mimir_jax.report import results, written
from mimir_jax.scoring import engine, store
written.write_report = lambda folder: None
results.write_roc = lambda path, scores, is_member: None
store.SECONDS = float(os.environ.get("SHARD", store.SECONDS))
checked = engine._checked
def slow(*arguments):
    time.sleep(float(os.environ.get("SLOW", 0)))
    return checked(*arguments)
engine._checked = slow
if sys.argv[-3] == os.environ.get("HANG"):
    engine.plan_batches = lambda *arguments: time.sleep(600)
from mimir_jax.cli import main
sys.exit(main())
"""


@dataclass
class Ended:
    code: int
    out: str
    err: str


def environment(cache: Path, devices: int = 2, **more: str) -> dict[str, str]:
    """Of a process; what one compiles the next ones find in `cache`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "JAX_", "SLURM", "XLA_"))}
    return clean | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "HF_HUB_OFFLINE": "1",
        **more,
    }


def start(arguments: Sequence[str], env: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=folder,
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port: int = found.getsockname()[1]
        return port


def start_together(
    count: int, arguments: Sequence[str], env: dict[str, str], folder: Path, timeout: float = 60
) -> list[subprocess.Popen[str]]:
    """`count` processes of one run; each has a results folder of its own, results/0, results/1, ..."""
    port = free_port()
    hosts = ["--hosts.coordinator", f"localhost:{port}", "--hosts.count", str(count), "--hosts.timeout", str(timeout)]
    return [
        start([*arguments, *hosts, "--hosts.index", str(index), "--results", f"results/{index}"], env, folder)
        for index in range(count)
    ]


def ends(processes: Sequence[subprocess.Popen[str]], timeout: float = 240) -> list[Ended]:
    """How they end; those that do not are killed, and the test fails."""
    limit = time.monotonic() + timeout
    ended = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=max(limit - time.monotonic(), 0.1))
            ended.append(Ended(process.returncode, out, err))
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
    return ended


def wait_for(what: str, there: Callable[[], bool], process: subprocess.Popen[str], timeout: float = 120) -> None:
    """Until something is there, while the process runs."""
    limit = time.monotonic() + timeout
    while not there():
        if process.poll() is not None or time.monotonic() > limit:
            process.kill()
            raise AssertionError(f"{what} was not seen: {process.communicate()}")
        time.sleep(0.02)

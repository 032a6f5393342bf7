"""What people read of the code: the help of every option, the reference, examples in docstrings, and the tour."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mimir_jax
from mimir_jax.cli import COMMANDS, main

MODULES = [module.name for module in pkgutil.walk_packages(mimir_jax.__path__, "mimir_jax.")]
ROOT = Path(__file__).parents[1]


def options(text: str) -> dict[str, str]:
    """By option, the rest of its line and the lines up to the next option or group, in one."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        start = re.match(r"[\s│|]*(--?[a-z][\w.-]*)(?=[\s,])(.*)", line)
        if start:
            name = start.group(1)
            found[name] = start.group(2)
        elif re.fullmatch(r"\W*|.* options\W*", line):
            name = ""
        elif name:
            found[name] += " " + line.strip("│| ")
    return found


@pytest.mark.parametrize("command", [one.name for one in COMMANDS if one.options])
def test_every_option_is_explained(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    found = options(capsys.readouterr().out)
    assert len(found) >= 3
    for name, text in found.items():
        if name not in ("-h", "--config"):  # the latter is described above them all: it is read before the others
            # A sentence, and then the default, or that there is none.
            assert re.search(r"[A-Za-z.].{8,}\.\s+\((default: .*|required)\)\W*$", text), (name, text)


def test_the_usage_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    usage = capsys.readouterr().err
    for code in ("0", "2", "75", "130", "1"):
        assert re.search(rf"\b{code} [a-z]", usage)


def test_examples_in_docstrings() -> None:
    results = [doctest.testmod(importlib.import_module(name)) for name in MODULES]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 8


@pytest.mark.slow
def test_the_reference_builds_without_warnings(tmp_path: Path) -> None:
    # The package's __all__ names attacks and metrics, which are found from it; the others are what a user may import.
    parts = [f"mimir_jax.{name}" for name in ("arrays", "audit", "config", "data", "parallel", "report", "scoring")]
    command = [sys.executable, "-W", "error", "-m", "pdoc", "-o", str(tmp_path), "mimir_jax", *parts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "load_model" in (tmp_path / "mimir_jax.html").read_text(encoding="utf-8")
    assert (tmp_path / "mimir_jax" / "attacks" / "min_k.html").exists()


@pytest.mark.slow
def test_the_tour() -> None:
    environment = os.environ | {"MIMIR_JAX_QUICKSTART": "12", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::DeprecationWarning:mimir_jax", str(ROOT / "experiments" / "quickstart.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    aucs = dict(re.findall(r"^loss after +(\d+) epochs: AUC ([\d.]+)$", done.stdout, re.MULTILINE))
    assert list(aucs) == ["1", "4", "16"]
    assert float(aucs["16"]) > 0.9 > float(aucs["1"])
    assert "min_k++, AUC" in done.stdout

"""`mimir-jax models` and `mimir-jax convert`."""

from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from mimir_jax.cli import main
from mimir_jax.models.checkpoint import SINGLE, TORCH_SINGLE
from mimir_jax.models.coverage import COVERAGE
from mimir_jax.models.families import REFUSED
from mimir_jax.testing import write_checkpoint

Captured = pytest.CaptureFixture[str]


def test_models(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(f" {kind} " in out for kind in COVERAGE)
    assert "Pythia" in out
    assert "Adding a model family" in out
    assert all(f"{kind} is refused: " in out for kind in REFUSED)
    assert max(map(len, out.partition("is refused")[0].splitlines()[:-1])) <= 100
    assert main(["models", "extra"]) == 2
    assert capsys.readouterr().err.startswith("mimir-jax: models takes no arguments")


def test_convert(tmp_path: Path, capsys: Captured) -> None:
    folder = write_checkpoint(tmp_path / "in")
    tensors = {name: torch.from_numpy(array) for name, array in load_file(folder / SINGLE).items()}
    torch.save(tensors, folder / TORCH_SINGLE)
    (folder / SINGLE).unlink()
    out = str(tmp_path / "out")
    assert main(["convert", str(folder), out]) == 0
    assert capsys.readouterr().out == f"written to {out}\n"
    assert load_file(tmp_path / "out" / SINGLE).keys() == tensors.keys()
    assert main(["convert", str(folder), out]) == 2
    assert capsys.readouterr().err == f"mimir-jax: {out}: exists; name a folder that does not\n"


@pytest.mark.parametrize("arguments", [[], ["one"], ["one", "two", "three"], ["--help", "x"]])
def test_convert_takes_two_paths(capsys: Captured, arguments: list[str]) -> None:
    assert main(["convert", *arguments]) == 2
    assert "convert takes two paths, IN and OUT" in capsys.readouterr().err

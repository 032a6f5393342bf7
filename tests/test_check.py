"""mimir-jax check: everything that is wrong at once, before anything is computed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mimir_jax import experiment, job
from mimir_jax.check import check
from mimir_jax.cli import main
from mimir_jax.config import ConfigError, DataConfig, EndpointConfig, MeshConfig, RunConfig, TokenCountsConfig, to_json
from mimir_jax.models.checkpoint import SINGLE
from mimir_jax.testing import tiny_tokenizer, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    write_checkpoint(folder / "tiny", hidden_size=32)
    for name in ("in", "out"):
        rows = [json.dumps({"text": f"{name} text number {i}, of some words"}) for i in range(3)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def config(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run that is in order; weights that are loaded are an error."""

    def loaded(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("a check loads no weights")

    monkeypatch.setattr(job, "load_source", loaded)
    return RunConfig(
        model=str(folder / "tiny"),
        data=DataConfig(members=str(folder / "in.jsonl"), nonmembers=str(folder / "out.jsonl")),
        attacks=("loss", "lowercase", "gradnorm"),
        references=(str(folder / "tiny"),),
        results=str(tmp_path / "results"),
    )


def test_a_run_in_order(config: RunConfig, tmp_path: Path) -> None:
    found = check(config)
    assert found.problems == []
    assert "documents: 3 members, 3 non-members" in found.facts
    assert "mesh: data 8 x model 1" in found.facts
    assert f"model tiny: {config.model}" in found.facts
    assert any(fact.startswith("tokens: ") for fact in found.facts)
    assert not (tmp_path / "results").exists()


def test_all_that_is_wrong_is_named_at_once(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = replace(
        config,
        mesh=MeshConfig(data=3),
        data=replace(config.data, members="none.jsonl"),
        model=str(tmp_path / "no" / "such" / "model"),
        references=(str(tmp_path),),
        results=str(tmp_path / "file"),
    )
    found = check(wrong).problems
    for part in ("mesh: data x model", "none.jsonl", "no such folder", "config.json", "cannot be written"):
        assert sum(part in problem for problem in found) == 1, part
    assert len(found) == 5


def test_a_kernel_that_is_not_for_these_devices(config: RunConfig) -> None:
    """Named by the check, and by a run before any model is read."""
    wrong = replace(config, head="pallas")
    assert check(wrong).problems == ["head: pallas is a kernel for TPUs, and the devices are cpu: use xla"]
    with pytest.raises(ConfigError, match="head: pallas is a kernel for TPUs"):
        experiment.run(wrong)
    assert not Path(wrong.results).exists()


def test_weights_that_do_not_fit_their_config(config: RunConfig, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "cut", hidden_size=32)
    fields = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**fields, "num_hidden_layers": 3}))
    (problem,) = check(replace(config, model=str(model))).problems
    assert "missing" in problem
    (model / SINGLE).unlink()
    assert len(check(replace(config, model=str(model))).problems) == 1


def test_inputs_of_attacks(config: RunConfig, folder: Path, tmp_path: Path) -> None:
    counts = TokenCountsConfig(source=str(folder / "in.jsonl"), folder=str(tmp_path / "tables"))
    counted = replace(config, attacks=("dc_pdd",), token_counts=counts)
    assert check(counted).problems == []
    assert not (tmp_path / "tables").exists()
    (problem,) = check(replace(counted, token_counts=replace(counts, source="none.jsonl"))).problems
    assert "none.jsonl" in problem
    far = check(replace(counted, token_counts=TokenCountsConfig()))
    assert "token counts: auto (not read)" in far.facts

    other = write_checkpoint(tmp_path / "other", tokenizer=tiny_tokenizer(290), hidden_size=32)
    (problem,) = check(replace(config, attacks=("wbc",), references=(str(other),))).problems
    assert "another tokenizer" in problem


def test_an_attack_that_is_not_there(config: RunConfig) -> None:
    found = check(replace(config, attacks=("los",), data=replace(config.data, members="none.jsonl")))
    assert len(found.problems) == 2
    assert "loss" in found.problems[0]


def test_an_endpoint_is_not_asked(config: RunConfig) -> None:
    endpoint = EndpointConfig(base_url="http://nowhere.invalid/v1")
    found = check(replace(config, model="m", endpoint=endpoint, attacks=("loss",), references=()))
    assert found.problems == []
    assert "endpoint: http://nowhere.invalid/v1 (not asked)" in found.facts
    assert check(replace(config, endpoint=endpoint, attacks=("gradnorm",))).problems


def test_the_command(config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(to_json(config))
    assert main(["check", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "documents: 3 members, 3 non-members\n" in out
    assert err == ""
    assert main(["check", "--config", str(path), "--mesh.data", "3", "--data.members", "none\x1b.jsonl"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert all(line.startswith("mimir-jax: ") for line in err.splitlines())
    assert r"none\x1b.jsonl" in err


def test_a_defect_is_not_a_problem_of_the_input(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise ValueError("not ours")

    monkeypatch.setattr("mimir_jax.check.load_all", broken)
    with pytest.raises(ValueError, match="not ours"):
        check(config)

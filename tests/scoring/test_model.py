"""Where a model is found: folders and hub ids, revisions, the files of a repository, and another's tokenizer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub import errors

from mimir_jax.models.checkpoint import CheckpointError
from mimir_jax.scoring.model import equal_weights, find_source, hub_files, load_model, remarks, split_revision
from mimir_jax.scoring.tokens import TokenizerError
from mimir_jax.testing import tiny_tokenizer, write_checkpoint, write_tokenizer


@pytest.mark.parametrize(
    ("name", "revision", "expected"),
    [
        ("o/n", None, ("o/n", None)),
        ("o/n", "r", ("o/n", "r")),
        ("o/n@step1", None, ("o/n", "step1")),
        ("o/n:step1", None, ("o/n", "step1")),
        ("gpt2@refs/pr/1", None, ("gpt2", "refs/pr/1")),
        ("o/n@", None, ("o/n@", None)),
        ("/nowhere/n@r", None, ("/nowhere/n", "r")),
        ("o/n:r", "s", ("o/n:r", "s")),
    ],
)
def test_names(name: str, revision: str | None, expected: tuple[str, str | None]) -> None:
    assert split_revision(name, revision) == expected


@pytest.mark.parametrize("separator", ["@", ":"])
def test_a_path_that_exists_is_one_whole(tmp_path: Path, separator: str) -> None:
    folder = write_checkpoint(tmp_path / f"model{separator}step1")
    write_checkpoint(tmp_path / "model")
    assert find_source(str(folder)).folder == folder
    with pytest.raises(CheckpointError, match=f"{tmp_path}/model: a local folder has no revision 'step2'"):
        find_source(str(tmp_path / f"model{separator}step2"))


# Of the files of a repository.

PYTHIA = [".gitattributes", "README.md", "config.json", "tokenizer.json", "special_tokens_map.json"]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], ["pytorch_model.bin"]),
        (
            [
                "model.safetensors.index.json",
                "model-1-of-2.safetensors",
                "model-2-of-2.safetensors",
                "other.safetensors",
            ],
            ["model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"],
        ),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin", "x.bin"],
            ["pytorch_model.bin.index.json", "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"],
        ),
        (
            ["model.safetensors", "pytorch_model.bin.index.json", "pytorch_model-1-of-1.bin", "onnx/model.onnx"],
            ["model.safetensors"],
        ),
        (["tf_model.h5", "sub/model.safetensors", "sub/config.json"], []),
    ],
)
def test_files(weights: list[str], expected: list[str]) -> None:
    small = ["config.json", "tokenizer.json", "special_tokens_map.json"]
    assert hub_files([*PYTHIA, *weights]) == [*small, *expected]
    assert hub_files([*PYTHIA, *weights], weights=False) == small


class Hub:
    """A hub with some repositories, and what was downloaded from it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.cached: dict[str, Path] = {}
        self.fault: Exception | None = None
        self.downloaded: list[tuple[str, str | None, list[str]]] = []

    def list_repo_files(self, repository: str, *, revision: str | None = None) -> list[str]:
        if self.fault is not None:
            raise self.fault
        return sorted(path.name for path in self.repositories[repository].iterdir())

    def snapshot_download(
        self, repository: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        if local_files_only:
            if repository not in self.cached:
                raise errors.LocalEntryNotFoundError("not there")
            return str(self.cached[repository])
        self.downloaded.append((repository, revision, allow_patterns))
        return str(self.repositories[repository])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["owner/model@step1", "owner/model:step1"])
def test_a_revision_of_the_hub(tmp_path: Path, hub: Hub, name: str) -> None:
    hub.repositories["owner/model"] = write_checkpoint(tmp_path / COMMIT)
    source = find_source(name)
    assert (source.name, source.revision, source.folder.name) == ("model@step1", COMMIT, COMMIT)
    files = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    assert hub.downloaded == [("owner/model", "step1", files)]
    assert find_source("owner/model", "step1").checkpoint == source.checkpoint


def test_offline_the_cache_will_do(tmp_path: Path, hub: Hub) -> None:
    hub.fault = errors.OfflineModeIsEnabled("offline")
    hub.cached["owner/model"] = write_checkpoint(tmp_path / COMMIT)
    assert find_source("owner/model@step1").revision == COMMIT
    assert hub.downloaded == []


class NetworkError(Exception):
    """Of the library below the hub's."""


def response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda: errors.GatedRepoError("x", response=response(403)), "access is gated"),
        (lambda: errors.RevisionNotFoundError("x", response=response(404)), "the hub has no such revision"),
        (
            lambda: errors.RepositoryNotFoundError("x", response=response(404)),
            "neither a local folder nor a repository",
        ),
        (lambda: errors.OfflineModeIsEnabled("offline"), r"the hub cannot be reached \(offline\)"),
        (lambda: NetworkError("no route"), r"the hub cannot be reached \(no route\)"),
        (lambda: errors.HFValidationError("no id"), r"the hub cannot be reached \(no id\)"),
    ],
)
def test_faults_of_the_hub(hub: Hub, fault: Callable[[], Exception], message: str) -> None:
    hub.fault = fault()
    with pytest.raises(CheckpointError, match=f"owner/model at revision step1: .*{message}"):
        find_source("owner/model", "step1")


def test_a_download_that_fails(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["owner/model"] = write_checkpoint(tmp_path / COMMIT)

    def fail(*arguments: Any, **options: Any) -> str:
        raise NetworkError("too slow")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="owner/model: the download failed: too slow"):
        find_source("owner/model")


# Tokenizers of others.


def test_another_tokenizer(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    model, other = write_checkpoint(tmp_path / "model"), tmp_path / "other"
    write_tokenizer(other, tiny_tokenizer(280, bos=True))
    source = find_source(str(model), tokenizer=str(other))
    assert source.tokenizer_folder == other
    assert source.folder == model
    assert source.files["tokenizer.json"] != find_source(str(model)).files["tokenizer.json"]
    assert find_source(str(model), tokenizer=str(model)) == find_source(str(model))
    loaded = load_model(model, mesh=one_device, tokenizer=other, add_bos=False)
    assert len(loaded.tokenizer) == 280
    assert loaded.add_bos is False


def test_mimirs_substitute_where_a_model_has_none(tmp_path: Path, hub: Hub) -> None:
    folder = write_checkpoint(tmp_path / "silo-pd-1.3b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    write_tokenizer(tmp_path / COMMIT, tiny_tokenizer())
    hub.repositories["EleutherAI/gpt-neox-20b"] = tmp_path / COMMIT
    source = find_source(str(folder))
    assert source.tokenizer_folder == tmp_path / COMMIT
    assert hub.downloaded == [("EleutherAI/gpt-neox-20b", None, ["tokenizer.json", "tokenizer_config.json"])]
    own = write_checkpoint(tmp_path / "silo-own")
    assert find_source(str(own)).tokenizer_folder == own


def test_no_tokenizer_at_all(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    folder = write_checkpoint(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(TokenizerError, match="no tokenizer"):
        load_model(folder, mesh=one_device)


# Revisions that hold each other's weights.


def test_equal_weights(tmp_path: Path) -> None:
    """What counts is the weights, not the name, the tokenizer or the config."""
    one = find_source(str(write_checkpoint(tmp_path / "step1", files=2)))
    twin_folder = write_checkpoint(tmp_path / "step2", files=2)
    write_tokenizer(twin_folder, tiny_tokenizer(280))
    twin = find_source(str(twin_folder))
    other = find_source(str(write_checkpoint(tmp_path / "step3", seed=1, files=2)))
    assert one.checkpoint != twin.checkpoint
    assert equal_weights([one, other]) == []
    assert equal_weights([]) == []
    assert equal_weights([one, other, twin, replace(other, name="step4")]) == [("step1", "step2"), ("step3", "step4")]


def test_remarks(tmp_path: Path) -> None:
    """What is said of checkpoints beside their scores."""
    one = find_source(str(write_checkpoint(tmp_path / "step1", dtype=np.float16)))
    twin = find_source(str(write_checkpoint(tmp_path / "step2", dtype=np.float16)))
    wide = find_source(str(write_checkpoint(tmp_path / "wide", seed=1)))
    assert (one.stored, wide.stored) == (("float16",), ("float32",))
    assert remarks([one, wide], "float32") == []
    said = remarks([one, twin, wide], "bfloat16")
    assert said[0].startswith("step1, step2: equal weights")
    assert [sentence.partition(",")[0] for sentence in said[1:]] == ["step1: float16 weights", "step2: float16 weights"]
    alpha = {"model_type": "stablelm_alpha", "num_heads": 4, "rotary_pct": 0.25, "norm_eps": 1e-5}
    unlike = ("num_attention_heads", "intermediate_size", "layer_norm_eps", "use_parallel_residual", "attention_bias")
    write_checkpoint(tmp_path / "alpha", **alpha, hidden_act="silu", **dict.fromkeys((*unlike, "rope_parameters")))
    assert "never compared with its own implementation" in remarks([find_source(str(tmp_path / "alpha"))], "float32")[0]

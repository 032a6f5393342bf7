"""`convert`: what comes out loads to the same weights, and what cannot be converted says why and leaves nothing."""

import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mimir_jax.config import ConfigError
from mimir_jax.models import convert as module
from mimir_jax.models.checkpoint import INDEX, SINGLE, TORCH_INDEX, TORCH_SINGLE, CheckpointError, load_decoder
from mimir_jax.models.convert import convert, write_safetensors
from mimir_jax.parallel.mesh import sharding_of
from mimir_jax.scoring.tokens import load_tokenizer
from mimir_jax.testing import write_checkpoint


def bin_checkpoint(folder: Path, files: int = 1, **options: Any) -> dict[str, np.ndarray]:
    """A tiny checkpoint in torch's files; returns its tensors."""
    write_checkpoint(folder, **options)
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    parts = [sorted(tensors)[number::files] for number in range(files)]
    where = {}
    for number, names in enumerate(parts):
        file = TORCH_SINGLE if files == 1 else f"pytorch_model-{number + 1:05d}-of-{files:05d}.bin"
        torch.save({name: torch.from_numpy(tensors[name]) for name in names}, folder / file)
        where |= dict.fromkeys(names, file)
    if files > 1:
        (folder / TORCH_INDEX).write_text(json.dumps({"weight_map": where}))
    return tensors


def leaves(folder: Path, mesh: jax.sharding.Mesh) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_decoder(folder, sharding_of(mesh)))]


@pytest.mark.parametrize("files", [1, 3])
def test_bin_to_safetensors(tmp_path: Path, one_device: jax.sharding.Mesh, files: int) -> None:
    tensors = bin_checkpoint(tmp_path / "in", files, dtype=np.float16)
    (tmp_path / "in" / "README.md").write_text("not taken along")
    convert(tmp_path / "in", tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    weights = sorted(path.name for path in out.iterdir() if path.suffix == ".safetensors")
    assert (out / INDEX).is_file() is (files > 1)
    assert len(weights) == files
    got = {name: array for file in weights for name, array in load_file(out / file).items()}
    assert got.keys() == tensors.keys()
    for name, array in tensors.items():
        assert got[name].dtype == np.float16
        np.testing.assert_array_equal(got[name], array)
    for one, other in zip(leaves(out, one_device), leaves(tmp_path / "in", one_device)):
        np.testing.assert_array_equal(one, other)
    assert load_tokenizer(out).get_vocab() == load_tokenizer(tmp_path / "in").get_vocab()
    assert not (out / "README.md").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_written_as_the_library_reads(tmp_path: Path, dtype: Any) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    tensors = {"a": values, "turned": values.transpose(2, 0, 1), "é": values[0, 0, 0:1], "none": values[:0]}
    tensors["scalar"] = np.array(3, dtype)
    write_safetensors(tmp_path / SINGLE, tensors)
    got = load_file(tmp_path / SINGLE)
    assert got.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got[name], array)


def assert_refused(source: Path, target: Path, message: str, kind: type[Exception] = CheckpointError) -> None:
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(kind, match=message):
        convert(source, target)
    assert sorted(source.parent.rglob("*")) == before


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_refused(write_checkpoint(tmp_path / "done"), out, "holds safetensors, which need no conversion")
    assert_refused(tmp_path / "nowhere", out, "neither a .gguf file nor a folder")
    bin_checkpoint(tmp_path / "in")
    assert_refused(tmp_path / "in", tmp_path / "done", "exists; name a folder that does not")
    assert_refused(tmp_path / "in", tmp_path / "in" / TORCH_SINGLE, "exists")
    (tmp_path / "in" / TORCH_SINGLE).write_bytes(b"damaged")
    assert_refused(tmp_path / "in", out, f"{TORCH_SINGLE}: ")
    (tmp_path / "in" / "config.json").write_text('{"model_type": "t5"}')
    assert_refused(tmp_path / "in", out, "model_type 't5' is not supported", ConfigError)


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    tensors = bin_checkpoint(tmp_path / "in")
    del tensors["embed_out.weight"]
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, tmp_path / "in" / TORCH_SINGLE)
    assert_refused(tmp_path / "in", tmp_path / "out", "embed_out.weight is missing")


def test_gguf_needs_its_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "gguf" else object())
    assert_refused(tmp_path / "model.gguf", tmp_path / "out", r"not installed: gguf \(`pip install gguf`")

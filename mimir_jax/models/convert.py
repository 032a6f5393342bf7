"""Other formats as Hugging Face folders with safetensors: torch's .bin, and GGUF by transformers' own reader."""

import json
import shutil
import struct
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import (
    DTYPES,
    INDEX,
    LAYOUTS,
    SINGLE,
    CheckpointError,
    map_tensors,
    match,
    read_config,
    weight_files,
)

SMALL = (".json", ".model", ".txt", ".jinja")
"""Files with these endings are configuration and tokenizer; they are taken along."""


def convert(source: Path, target: Path) -> None:
    """Write a checkpoint as a Hugging Face folder that `load_model` reads.

    Args:
        source: a .gguf file, or a folder with pytorch_model*.bin.
        target: a folder that does not exist or is empty; it appears when it is complete.

    Raises:
        CheckpointError: files that are missing, damaged or do not fit the config; nothing to convert; or what reads
            GGUF is not installed.
        ConfigError: a model family or config field that is not modelled.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target}: exists; name a folder that does not")
    if source.is_file() and source.suffix == ".gguf":
        write = _write_gguf
    elif source.is_dir():
        write = _write_torch
    else:
        raise CheckpointError(f"{source}: neither a .gguf file nor a folder of a checkpoint")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as unfinished:
            made = Path(unfinished) / "made"
            made.mkdir()
            write(source, made)
            try:
                check(made)
            except (CheckpointError, ConfigError) as error:
                raise type(error)(str(error).replace(str(made), str(source))) from error
            made.replace(target)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written: {error}") from error


def check(folder: Path) -> None:
    """Whether a folder holds every tensor of its config, in its shape; no values are read.

    Raises:
        CheckpointError, ConfigError: see `load_decoder`.
    """
    family, config = read_config(folder)
    tensors, problems = map_tensors(weight_files(folder), family.ignored)
    problems += match(family, config, tensors)[1]
    if problems:
        raise CheckpointError(f"{folder}: " + "; ".join(problems))


def _write_torch(source: Path, target: Path) -> None:
    """One safetensors file for each of torch's, with the tensors that are weights."""
    check(source)
    family, _ = read_config(source)
    files = weight_files(source)
    if files[0].suffix != ".bin":
        raise CheckpointError(f"{source}: holds safetensors, which need no conversion")
    where: dict[str, str] = {}
    for number, path in enumerate(files, start=1):
        name = SINGLE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors, _ = map_tensors([path], family.ignored)
        write_safetensors(target / name, tensors)
        where |= dict.fromkeys(tensors, name)
    if len(files) > 1:
        (target / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}), encoding="utf-8")
    for path in source.iterdir():
        if path.is_file() and path.name.endswith(SMALL) and path.name not in LAYOUTS:
            shutil.copyfile(path, target / path.name)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors one after the other; the library's own writer would hold copies of all of them."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


def _write_gguf(source: Path, target: Path) -> None:
    """Weights in float32 and the tokenizer, as transformers reads them."""
    missing = [name for name in ("torch", "gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise CheckpointError(
            f"{source}: transformers reads GGUF with torch, gguf and accelerate; not installed: {', '.join(missing)} "
            f"(`pip install {' '.join(missing)}`, for this command only)"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        where: dict[str, Any] = {"gguf_file": source.name, "trust_remote_code": False}
        model = AutoModelForCausalLM.from_pretrained(source.parent, dtype="float32", **where)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **where)
    except Exception as error:  # whatever its readers raise
        raise CheckpointError(f"{source}: transformers cannot read it: {error}") from error
    # It has values by now, but calls itself quantized, and its own save_pretrained refuses that.
    fields = {
        name: value
        for name, value in model.config.to_dict().items()
        if name != "quantization_config" and not name.startswith("_")
    }
    (target / "config.json").write_text(json.dumps(fields, indent=2, default=str), encoding="utf-8")
    places = {tensor.data_ptr(): name for name, tensor in reversed(model.state_dict().items())}  # tied ones once
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name in places.values()}
    write_safetensors(target / SINGLE, weights)
    tokenizer.save_pretrained(target)

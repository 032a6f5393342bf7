"""From the files of a Hugging Face folder to a sharded Decoder; no process holds bytes that it does not own."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder import Decoder, DecoderConfig, parameter_axes
from mimir_jax.models.families import FAMILIES
from mimir_jax.models.family import Family, Row

ShardingOf = Callable[[tuple[str, ...], tuple[int, ...]], jax.sharding.Sharding]

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message lists everything that is wrong with it."""


def read_config(folder: Path) -> tuple[Family, DecoderConfig]:
    """Family and shape of the checkpoint in a folder.

    Raises:
        CheckpointError: no config.json, or not JSON.
        ConfigError: a family or a field that is not modelled.
    """
    path = folder / "config.json"
    try:
        hf = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    kind = hf.get("model_type") if isinstance(hf, dict) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(f"{path}: model_type {kind!r} is not supported; supported: {', '.join(FAMILIES)}")
    try:
        return FAMILIES[kind], FAMILIES[kind].config(hf)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or all that its index names.

    Raises:
        CheckpointError: none there, an unreadable index, or files of the index that are missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        raise CheckpointError(f"{folder}: holds neither {SINGLE} nor {INDEX}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: no valid index: {error!r}") from error
    if missing:
        raise CheckpointError(f"{index}: names files that are not there: {', '.join(missing)}")
    return [folder / name for name in names]


def map_tensors(files: list[Path], ignored: Sequence[str] = ()) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every tensor as a read-only array over the mapped file, and what is wrong with the files.

    Tensors whose names match one of `ignored` (regular expressions) are left out, whatever dtype they have: masks
    are often booleans.
    """
    tensors: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for path in files:
        try:
            with safe_open(path, framework="numpy"):  # the library's checks: header, overlaps, truncation
                pass
        except (SafetensorError, OSError) as error:
            problems.append(f"{path.name}: damaged or truncated: {error}")
            continue
        data = np.memmap(path, np.uint8, mode="r")
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        for name, entry in header.items():
            if name == "__metadata__" or any(re.fullmatch(pattern, name) for pattern in ignored):
                continue
            if entry["dtype"] not in DTYPES:
                problems.append(f"{path.name}: {name} has dtype {entry['dtype']}; known: {', '.join(DTYPES)}")
                continue
            if name in tensors:
                problems.append(f"{path.name}: {name} is in an earlier file too")
            low, high = entry["data_offsets"]
            flat = data[start + low : start + high].view(DTYPES[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors, problems


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)


def load_decoder(
    folder: Path,
    sharding_of: ShardingOf,
    dtype: Any = jnp.float32,
    on_start: Callable[[int], None] = lambda total: None,
    on_bytes: Callable[[int], None] = lambda done: None,
) -> Decoder:
    """The Decoder in a folder, its parameters cast to `dtype` and laid out by `sharding_of(axes, shape)`.

    Each process reads the parts of the mapped files that its devices hold, a shard at a time. `on_start` is told
    the number of published bytes, and `on_bytes` those of each parameter that is done.

    Raises:
        CheckpointError: lists every unknown, missing, misshapen or truncated tensor, or every parameter with
            NaN or infinite values.
        ConfigError: see `read_config`.
    """
    family, config = read_config(folder)
    tensors, problems = map_tensors(weight_files(folder), family.ignored)
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(abstract)
    shapes = {_dotted(path): leaf.shape for path, leaf in nnx.to_flat_state(state)}
    sources, more = match(family, config, tensors)
    if tensors or not problems:  # where no file can be read, every tensor would be listed as missing
        problems += more
    if problems:
        raise CheckpointError(f"{folder}: " + "; ".join(problems))
    loaded, bad = {}, []
    sizes = {path: sum(view.nbytes for view in views) for path, views in sources.items()}
    on_start(sum(sizes.values()))
    for path, shape in shapes.items():
        sharding = sharding_of(parameter_axes(path), shape)
        loaded[path], finite = _place(sources[path], shape, sharding, dtype)
        bad += [] if finite else [path]
        on_bytes(sizes[path])
    if bad:
        raise CheckpointError(f"{folder}: NaN or infinite values in {', '.join(bad)}")
    flat = [(path, leaf.replace(loaded[_dotted(path)])) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def match(
    family: Family, config: DecoderConfig, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, list[np.ndarray]], list[str]]:
    """For each parameter the published arrays (one a layer) viewed as ours, and what does not fit."""
    sources: dict[str, list[np.ndarray]] = {}
    problems: set[str] = set()
    used: set[str] = set()
    bare = not any(name.startswith(family.prefix) for name in tensors)
    for row in family.rows(config):
        names = _names(row, config)
        if bare:
            names = [name.removeprefix(family.prefix) for name in names]
        used.update(names)
        found = {name: tensors[name] for name in names if name in tensors}
        if row.copy is not None and row.copy in tensors:
            used.add(row.copy)
            if not _equal(found.setdefault(names[0], tensors[row.copy]), tensors[row.copy]):
                problems.add(f"{row.copy} differs from {names[0]}, which config.json ties it to")
        problems.update(f"{name} is missing" for name in names if name not in found)
        problems.update(
            f"{name} has shape {list(tensor.shape)}, not {list(row.shape)}"
            for name, tensor in found.items()
            if tensor.shape != row.shape
        )
        sources[row.path] = [row.view(tensor) for tensor in found.values() if tensor.shape == row.shape]
    problems.update(f"{name} is unknown" for name in tensors if name not in used)
    return sources, sorted(problems)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tensors have the same bytes, compared a row at a time."""
    if one is other:
        return True
    alike = one.ndim > 0 and one.shape == other.shape and one.dtype == other.dtype
    return alike and all(map(np.array_equal, one.view(np.uint8), other.view(np.uint8)))


def _names(row: Row, config: DecoderConfig) -> list[str]:
    """The published tensors of a row: one a layer, or one."""
    return [row.name.format(i) for i in range(config.layers)] if row.path.startswith("blocks.") else [row.name]


def save_tensors(decoder: Decoder, family: Family, path: Path, dtype: Any = np.float32) -> None:
    """Write a Decoder's parameters as `path` (safetensors), under the names and in the shapes of its family."""
    tensors: dict[str, np.ndarray] = {}
    parameters = {_dotted(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(decoder))}
    for row in family.rows(decoder.config):
        ours = np.asarray(parameters[row.path], dtype)
        names = _names(row, decoder.config)
        for name, values in zip(names, ours if row.path.startswith("blocks.") else [ours]):
            row.view(tensors.setdefault(name, np.empty(row.shape, dtype)))[...] = values
    save_file(tensors, path, metadata={"format": "pt"})


def _place(
    sources: list[np.ndarray], shape: tuple[int, ...], sharding: jax.sharding.Sharding, dtype: Any
) -> tuple[jax.Array, bool]:
    """One parameter on its devices, and whether this process's part of it is finite.

    `sources` has one array, or one a layer when the parameter is stacked.
    """
    stacked = sources[0].ndim < len(shape)
    finite = True

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        nonlocal finite
        assert index is not None  # None is for processes without a part of it, which are not asked
        sizes = tuple(len(range(*part.indices(size))) for part, size in zip(index, shape))
        out = _aligned_empty(sizes, dtype)
        if stacked:
            for row, source in zip(out, sources[index[0]]):
                row[...] = source[index[1:]]
        else:
            out[...] = sources[0][index]
        finite = finite and _all_finite(out)
        return out

    array = jax.make_array_from_callback(shape, sharding, shard)
    return array, finite


def _aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """np.empty on a 64-byte boundary, which the CPU backend can adopt instead of copying."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8)
    offset = -buffer.ctypes.data % 64
    return buffer[offset : offset + size].view(dtype).reshape(shape)


def _all_finite(x: np.ndarray, chunk: int = 1 << 20) -> bool:
    """In chunks, so that no temporary has the array's size."""
    flat = x.reshape(-1)
    return all(np.isfinite(flat[start : start + chunk]).all() for start in range(0, flat.size, chunk))

"""From the files of a Hugging Face folder to a sharded Decoder; no process holds bytes that it does not own."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
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
from mimir_jax.models.decoder import AXES, Decoder, parameter_axes
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.encoder import AXES as ENCODER_AXES
from mimir_jax.models.encoder import Encoder, EncoderConfig
from mimir_jax.models.families import FAMILIES, MASKED, REFUSED, SEQ2SEQ
from mimir_jax.models.family import Family, Row
from mimir_jax.models.seq2seq import AXES as SEQ2SEQ_AXES
from mimir_jax.models.seq2seq import Seq2Seq, Seq2SeqConfig
from mimir_jax.models.torch_files import TorchFileError, read_torch_file

NetworkConfig = DecoderConfig | EncoderConfig | Seq2SeqConfig
ShardingOf = Callable[[tuple[str, ...], tuple[int, ...]], jax.sharding.Sharding]

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_SINGLE, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
READERS = 8  # threads; more than there are processors, as most of them wait for the disk
PIECE = 1 << 22  # elements of a tensor that a thread reads at a time, where it has no layers
LAYOUTS = {SINGLE: False, INDEX: True, TORCH_SINGLE: False, TORCH_INDEX: True}
"""Files that hold the weights or, where true, an index of those that do; the first one there is read."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message lists everything that is wrong with it."""


def read_config(folder: Path) -> tuple[Family, DecoderConfig]:
    """Family and shape of the checkpoint of a causal model in a folder.

    Raises:
        CheckpointError: no config.json, or not JSON.
        ConfigError: a family or a field that is not modelled.
    """
    return _read_config(folder, FAMILIES)


def read_mask_config(folder: Path) -> tuple[Family, EncoderConfig]:
    """As `read_config`, of a masked model."""
    return _read_config(folder, MASKED)


def read_seq2seq_config(folder: Path) -> tuple[Family, Seq2SeqConfig]:
    """As `read_config`, of a text-to-text model."""
    return _read_config(folder, SEQ2SEQ)


def read_filling_config(folder: Path) -> tuple[Family, EncoderConfig | Seq2SeqConfig]:
    """As `read_config`, of a model that fills masks."""
    return _read_config(folder, {**MASKED, **SEQ2SEQ})


def _read_config(folder: Path, families: Mapping[str, Family]) -> tuple[Family, Any]:
    path = folder / "config.json"
    try:
        hf = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    kind = hf.get("model_type") if isinstance(hf, dict) else None
    if not isinstance(kind, str) or kind not in families:
        other = ""
        if isinstance(kind, str) and kind in {**FAMILIES, **MASKED, **SEQ2SEQ}:
            causal = "a causal model, which can be attacked"
            other = f", but it is {causal if kind in FAMILIES else 'a mask-filling model, for --neighbors.model'}"
        elif kind in REFUSED:
            other = f" ({REFUSED[kind]})"
        raise ConfigError(
            f"{path}: model_type {kind!r} is not supported{other}; supported: {', '.join(families)} (`mimir-jax "
            "models` says more). A family is one file in mimir_jax/models/families: see `Adding a model family` in the "
            "README"
        )
    try:
        return families[kind], families[kind].config(hf)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a checkpoint: safetensors or else torch's, one or all that an index names.

    Raises:
        CheckpointError: none there, an unreadable index, or files of the index that are missing.
    """
    first = next((name for name in LAYOUTS if (folder / name).is_file()), None)
    if first is None:
        raise CheckpointError(f"{folder}: holds none of {', '.join(LAYOUTS)}")
    if not LAYOUTS[first]:
        return [folder / first]
    index = folder / first
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        elsewhere = [name for name in names if Path(name).name != name or "\0" in name]
        missing = [name for name in names if name not in elsewhere and not (folder / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: no valid index: {error!r}") from error
    problems = ["no valid index: it names no file"] if not names else []
    problems += [f"names files outside its folder: {', '.join(elsewhere)}"] if elsewhere else []
    problems += [f"names files that are not there: {', '.join(missing)}"] if missing else []
    if problems:
        raise CheckpointError(f"{index}: " + "; ".join(problems))
    return [folder / name for name in names]


def map_tensors(files: list[Path], ignored: Sequence[str] = ()) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every tensor as a read-only array over the mapped file, and what is wrong with the files.

    Tensors whose names match one of `ignored` (regular expressions) are left out, whatever dtype they have: masks
    are often booleans.
    """

    def wanted(name: str) -> bool:
        return not any(re.fullmatch(pattern, name) for pattern in ignored)

    tensors: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for path in files:
        read = _map_torch if path.suffix == ".bin" else _map_safetensors
        try:
            found, more = read(path, wanted)
        except TorchFileError as error:
            problems.append(f"{path.name}: {error}")
            continue
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            problems.append(f"{path.name}: damaged or truncated: {error}")
            continue
        problems += [f"{path.name}: {problem}" for problem in more]
        problems += [f"{path.name}: {name} is in an earlier file too" for name in found if name in tensors]
        tensors |= found
    return tensors, problems


def _map_torch(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, np.ndarray], list[str]]:
    tensors = read_torch_file(path, wanted)
    known = [np.dtype(dtype) for dtype in DTYPES.values()]
    names = ", ".join(dtype.name for dtype in known)
    problems = [
        f"{name} has dtype {x.dtype.name}; known: {names}" for name, x in tensors.items() if x.dtype not in known
    ]
    return {name: x for name, x in tensors.items() if x.dtype in known}, problems


def _map_safetensors(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, np.ndarray], list[str]]:
    with safe_open(path, framework="numpy"):  # the library's checks: header, overlaps, truncation
        pass
    data = np.memmap(path, np.uint8, mode="r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    tensors, problems = {}, []
    for name, entry in header.items():
        if name == "__metadata__" or not wanted(name):
            continue
        if entry["dtype"] not in DTYPES:
            problems.append(f"{name} has dtype {entry['dtype']}; known: {', '.join(DTYPES)}")
            continue
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

    Each process reads the parts of the mapped files that its devices hold, a shard at a time, its layers in parallel.
    `on_start` is told the number of published bytes, and `on_bytes` as many in all, while they are read.

    Raises:
        CheckpointError: lists every unknown, missing, misshapen or truncated tensor, or every parameter with
            NaN or infinite values.
        ConfigError: see `read_config`.
    """
    family, config = read_config(folder)
    return _load(folder, family, config, Decoder, AXES, sharding_of, dtype, on_start, on_bytes)


def load_encoder(
    folder: Path,
    sharding_of: ShardingOf,
    dtype: Any = jnp.float32,
    on_start: Callable[[int], None] = lambda total: None,
    on_bytes: Callable[[int], None] = lambda done: None,
) -> Encoder:
    """The masked model in a folder, as `load_decoder` does it.

    Raises:
        CheckpointError: a checkpoint without its masked-model head, or whatever `load_decoder` raises.
        ConfigError: see `read_mask_config`.
    """
    family, config = read_mask_config(folder)
    return _load(folder, family, config, Encoder, ENCODER_AXES, sharding_of, dtype, on_start, on_bytes)


def load_seq2seq(
    folder: Path,
    sharding_of: ShardingOf,
    dtype: Any = jnp.float32,
    on_start: Callable[[int], None] = lambda total: None,
    on_bytes: Callable[[int], None] = lambda done: None,
) -> Seq2Seq:
    """The text-to-text model in a folder, as `load_decoder` does it."""
    family, config = read_seq2seq_config(folder)
    return _load(folder, family, config, Seq2Seq, SEQ2SEQ_AXES, sharding_of, dtype, on_start, on_bytes)


def _load(
    folder: Path,
    family: Family,
    config: Any,
    network: Any,
    axes: Mapping[str, tuple[str, ...]],
    sharding_of: ShardingOf,
    dtype: Any,
    on_start: Callable[[int], None],
    on_bytes: Callable[[int], None],
) -> Any:
    sources = _views(folder, family, config)
    abstract = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(abstract)
    shapes = {_dotted(path): leaf.shape for path, leaf in nnx.to_flat_state(state)}
    loaded, bad = {}, []
    on_start(sum(view.nbytes for views in sources.values() for view in views))
    with ThreadPoolExecutor(READERS) as pool:
        for path, shape in shapes.items():
            sharding = sharding_of(parameter_axes(path, axes), shape)
            loaded[path], finite = _place(sources[path], shape, sharding, dtype, pool, on_bytes)
            bad += [] if finite else [path]
    if bad:
        raise CheckpointError(f"{folder}: NaN or infinite values in {', '.join(bad)}")
    flat = [(path, leaf.replace(loaded[_dotted(path)])) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def check_weights(folder: Path) -> None:
    """Whether a folder's files have the tensors that its config asks for, by their headers; no values are read.

    Raises:
        CheckpointError, ConfigError: as `load_decoder`, but for values.
    """
    _views(folder, *read_config(folder))


def _views(folder: Path, family: Family, config: Any) -> dict[str, list[np.ndarray]]:
    """Mapped views of the published tensors of each parameter."""
    tensors, problems = map_tensors(weight_files(folder), family.ignored)
    tensors = renamed(tensors, family)
    views, more = match(family, config, tensors)
    if tensors or not problems:  # where no file can be read, every tensor would be listed as missing
        problems += more
    if problems:
        raise CheckpointError(f"{folder}: " + "; ".join(problems))
    return views


def renamed(tensors: Mapping[str, np.ndarray], family: Family) -> dict[str, np.ndarray]:
    """Tensors under the names that the family's table has."""

    def name_of(name: str) -> str:
        return next((re.sub(old, new, name) for old, new in family.renamed if re.fullmatch(old, name)), name)

    return {name_of(name): tensor for name, tensor in tensors.items()}


def match(
    family: Family, config: NetworkConfig, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, list[np.ndarray]], list[str]]:
    """For each parameter the published arrays (one a layer) viewed as ours, and what does not fit."""
    if config.layers > len(tensors):  # before a list is made that is as long as config.json says
        return {}, [f"config.json has {config.layers} layers, and the files hold {len(tensors)} tensors"]
    sources: dict[str, list[np.ndarray]] = {}
    problems: set[str] = set()
    used: set[str] = set()
    bare = not any(name.startswith(family.prefix) for name in tensors)
    if family.head is not None and not any(name.startswith(family.head) for name in tensors):
        return {}, [
            f"holds no head: none of its tensors is named {family.head}*; give the model with its language-model head"
        ]
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

    def same(row: Any, another: Any) -> bool:
        return np.ascontiguousarray(row).tobytes() == np.ascontiguousarray(another).tobytes()

    return alike and all(map(same, one, other))


def _names(row: Row, config: NetworkConfig) -> list[str]:
    """The published tensors of a row: one a layer, or one."""
    if "{}" not in row.name:
        return [row.name]
    layers = config.layers
    if isinstance(config, Seq2SeqConfig) and row.path.startswith("decoder."):
        layers = config.decoder_layers
    return [row.name.format(i) for i in range(layers)]


def save_tensors(decoder: Decoder | Encoder | Seq2Seq, family: Family, path: Path, dtype: Any = np.float32) -> None:
    """Write a network's parameters as `path` (safetensors), under the names and in the shapes of its family."""
    tensors: dict[str, np.ndarray] = {}
    parameters = {_dotted(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(decoder))}
    for row in family.rows(decoder.config):
        ours = np.asarray(parameters[row.path], dtype)
        names = _names(row, decoder.config)
        for name, values in zip(names, ours if "{}" in row.name else [ours]):
            row.view(tensors.setdefault(name, np.zeros(row.shape, dtype)))[...] = values
    save_file(tensors, path, metadata={"format": "pt"})


def _place(
    sources: list[np.ndarray],
    shape: tuple[int, ...],
    sharding: jax.sharding.Sharding,
    dtype: Any,
    pool: ThreadPoolExecutor,
    on_bytes: Callable[[int], None],
) -> tuple[jax.Array, bool]:
    """One parameter on its devices, and whether this process's part of it is finite.

    One shard at a time is on the host, its layers, or blocks of rows, read at once by the threads of the pool.
    `sources` has one array, or one a layer when the parameter is stacked; `on_bytes` is told, all in all, their bytes.
    """
    stacked = sources[0].ndim < len(shape)
    indices = sharding.addressable_devices_indices_map(shape)
    part = prod(sharding.shard_shape(shape)) * len(indices)  # elements that this process reads, replicas and all
    size = sum(source.nbytes for source in sources)
    read = told = 0
    finite = True

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        nonlocal read, told, finite
        out = _aligned_empty(tuple(len(range(*at.indices(n))) for at, n in zip(index, shape)), dtype)
        if stacked:
            pieces = list(zip(out, (source[index[1:]] for source in sources[index[0]])))
        else:
            wanted, rows = sources[0][index], max(PIECE // max(prod(out.shape[1:]), 1), 1)
            pieces = [(out[i : i + rows], wanted[i : i + rows]) for i in range(0, len(out), rows)]
        for elements, fine in pool.map(_copy, pieces):
            read, finite = read + elements, finite and fine
            done = size * read // part
            on_bytes(done - told)
            told = done
        return out

    held: tuple[Any, Any] = None, None  # replicas that follow one another are read once
    arrays: list[jax.Array] = []
    for device, index in indices.items():
        assert index is not None  # as it is for devices of other processes
        if held[0] != index:
            jax.block_until_ready(arrays)
            held = None, None  # what is on its devices leaves the host before more comes
            held = index, shard(index)
        else:
            read += held[1].size
        arrays.append(jax.device_put(held[1], device))
    on_bytes(size - told)
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays), finite


def _copy(piece: tuple[np.ndarray, np.ndarray]) -> tuple[int, bool]:
    """Read a piece; how many elements it has, and whether all are finite."""
    out, source = piece
    out[...] = source
    return out.size, _all_finite(out)


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

"""Checkpoints from disk: bytes to shards exactly, and one error that lists everything that is wrong."""

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import (
    INDEX,
    SINGLE,
    CheckpointError,
    load_decoder,
    map_tensors,
    match,
    read_config,
    save_tensors,
    weight_files,
)
from mimir_jax.models.decoder import Decoder, parameter_axes
from mimir_jax.models.families import FAMILIES, REFUSED
from mimir_jax.parallel.mesh import make_mesh, partition, sharding_of
from mimir_jax.testing import split_weights, write_checkpoint

NEOX = FAMILIES["gpt_neox"]
BFLOAT16 = ml_dtypes.bfloat16
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": BFLOAT16}
QKV = "gpt_neox.layers.{}.attention.query_key_value.weight"


def parameters(decoder: Decoder) -> dict[str, jax.Array]:
    return {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(decoder))}


def published(folder: Path) -> dict[str, np.ndarray]:
    """What the file says, by parameter of ours, worked out here by hand: (heads, 3, head_dim) and so on."""
    files = weight_files(folder)
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    _, config = read_config(folder)
    layers = range(config.layers)
    heads, width = config.heads, config.head_dim

    def stacked(end: str, change: Callable[[np.ndarray], np.ndarray] = lambda tensor: tensor) -> np.ndarray:
        return np.stack([change(tensors[f"gpt_neox.layers.{i}.{end}"]) for i in layers])

    expected = {
        "embedding": tensors["gpt_neox.embed_in.weight"],
        "head": tensors["embed_out.weight"],
        "final_norm.scale": tensors["gpt_neox.final_layer_norm.weight"],
        "final_norm.shift": tensors["gpt_neox.final_layer_norm.bias"],
        "blocks.attention_norm.scale": stacked("input_layernorm.weight"),
        "blocks.attention_norm.shift": stacked("input_layernorm.bias"),
        "blocks.mlp_norm.scale": stacked("post_attention_layernorm.weight"),
        "blocks.mlp_norm.shift": stacked("post_attention_layernorm.bias"),
        "blocks.mlp.up.kernel": stacked("mlp.dense_h_to_4h.weight"),
        "blocks.mlp.up.bias": stacked("mlp.dense_h_to_4h.bias"),
        "blocks.mlp.down.kernel": stacked("mlp.dense_4h_to_h.weight"),
        "blocks.mlp.down.bias": stacked("mlp.dense_4h_to_h.bias"),
        "blocks.attention.out.kernel": stacked("attention.dense.weight", lambda t: t.reshape(-1, heads, width)),
        "blocks.attention.out.bias": stacked("attention.dense.bias"),
    }
    for i, part in enumerate(("query", "key", "value")):
        # Rows of the fused tensor: head 0's query, key and value, then head 1's.
        rows = np.concatenate([np.arange(width) + (3 * head + i) * width for head in range(heads)])
        for kind in ("weight", "bias"):
            name = f"blocks.attention.{part}.{'kernel' if kind == 'weight' else 'bias'}"
            fused = stacked(f"attention.query_key_value.{kind}")[:, rows]
            expected[name] = fused.reshape(config.layers, heads, width, *fused.shape[2:])
    return expected


def assert_same(decoder: Decoder, expected: dict[str, np.ndarray], dtype: Any = np.float32) -> None:
    got = parameters(decoder)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.dtype == dtype
        np.testing.assert_array_equal(np.asarray(value), expected[name].astype(dtype), err_msg=name)


@pytest.mark.parametrize("ours", ["float32", "bfloat16"])
@pytest.mark.parametrize("theirs", DTYPES)
def test_values_are_exact(tmp_path: Path, one_device: jax.sharding.Mesh, theirs: str, ours: str) -> None:
    write_checkpoint(tmp_path, dtype=DTYPES[theirs])
    decoder = load_decoder(tmp_path, sharding_of(one_device), jnp.dtype(ours))
    assert_same(decoder, published(tmp_path), DTYPES[ours])


@pytest.mark.parametrize("files", [2, 5])
def test_several_files_equal_one(tmp_path: Path, one_device: jax.sharding.Mesh, files: int) -> None:
    write_checkpoint(tmp_path)
    expected = published(tmp_path)
    split_weights(tmp_path, files)
    assert len(weight_files(tmp_path)) == files
    assert_same(load_decoder(tmp_path, sharding_of(one_device)), expected)


@pytest.fixture(scope="module")
def eight_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that eight devices divide, but for its vocabulary: 4 divides 324."""
    folder = tmp_path_factory.mktemp("eight")
    return write_checkpoint(folder, num_attention_heads=8, vocab_size=324, files=2, dtype=np.float16)


@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_devices_hold_their_shards_only(eight_heads: Path, data: int, model: int) -> None:
    mesh = make_mesh(data, model)
    decoder = load_decoder(eight_heads, sharding_of(mesh))
    assert_same(decoder, published(eight_heads))
    split = 0
    for name, value in parameters(decoder).items():
        spec = partition(mesh, parameter_axes(name), value.shape)
        wanted = tuple(size // (model if axis == "model" else 1) for size, axis in zip(value.shape, spec))
        assert len(value.addressable_shards) == 8
        for shard in value.addressable_shards:
            assert shard.data.shape == wanted, name
        split += wanted != value.shape
    assert split == {1: 0, 2: 12, 4: 12, 8: 10}[model]


def test_each_device_reads_its_own_bytes(eight_heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing as large as a whole tensor is made on the host when the tensor is split."""
    from mimir_jax.models import checkpoint

    largest = []
    make = checkpoint._aligned_empty

    def watched(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        largest.append(int(np.prod(shape)))
        return make(shape, dtype)

    monkeypatch.setattr(checkpoint, "_aligned_empty", watched)
    decoder = load_decoder(eight_heads, sharding_of(make_mesh(2, 4)))
    assert max(largest) <= max(value.size for value in parameters(decoder).values()) // 4


@pytest.mark.parametrize(("data", "model"), [(8, 1), (2, 4)])
def test_progress_is_told_in_published_bytes(eight_heads: Path, data: int, model: int) -> None:
    """All of them, once, whatever the devices read; and while they are read, not at the end."""
    told: list[int] = []
    load_decoder(eight_heads, sharding_of(make_mesh(data, model)), on_start=told.append, on_bytes=told.append)
    total, *pieces = told
    assert total == sum(tensor.nbytes for tensor in map_tensors(weight_files(eight_heads))[0].values())
    assert sum(pieces) == total
    assert min(pieces) >= 0
    assert max(pieces) < total / 4


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True, "attention_bias": False}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_is_what_was_loaded(
    tmp_path: Path, one_device: jax.sharding.Mesh, dtype: str, options: dict[str, Any]
) -> None:
    write_checkpoint(tmp_path, dtype=DTYPES[dtype], **options)
    before = load_file(tmp_path / SINGLE)
    decoder = load_decoder(tmp_path, sharding_of(one_device))
    save_tensors(decoder, NEOX, tmp_path / "again.safetensors", DTYPES[dtype])
    after = load_file(tmp_path / "again.safetensors")
    assert before.keys() == after.keys()
    assert ("embed_out.weight" in before) is not options.get("tie_word_embeddings", False)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        np.testing.assert_array_equal(after[name], tensor, err_msg=name)


# Everything that can be wrong.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)


def edit(folder: Path, change: Callable[[dict[str, np.ndarray]], None], file: str = SINGLE) -> None:
    """Rewrite a weight file with changed tensors."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)


def error_of(folder: Path, mesh: jax.sharding.Mesh, kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as error:
        load_decoder(folder, sharding_of(mesh))
    return str(error.value)


def test_all_tensors_that_do_not_fit_are_listed(folder: Path, one_device: jax.sharding.Mesh) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        del tensors[QKV.format(1)]
        del tensors["embed_out.weight"]
        tensors["gpt_neox.layers.7.mlp.dense_h_to_4h.weight"] = np.zeros((2, 2), np.float32)
        tensors["adapter.weight"] = np.zeros(3, np.float32)
        tensors["gpt_neox.embed_in.weight"] = tensors["gpt_neox.embed_in.weight"][:-1]
        tensors[QKV.format(0)] = np.ascontiguousarray(tensors[QKV.format(0)].T)

    edit(folder, change)
    message = error_of(folder, one_device)
    for problem in (
        f"{QKV.format(1)} is missing",
        "embed_out.weight is missing",
        "gpt_neox.layers.7.mlp.dense_h_to_4h.weight is unknown",
        "adapter.weight is unknown",
        "gpt_neox.embed_in.weight has shape [319, 64], not [320, 64]",
        f"{QKV.format(0)} has shape [64, 192], not [192, 64]",
        str(folder),
    ):
        assert message.count(problem) == 1
    assert message.count(";") == 5


def test_a_config_of_another_shape(folder: Path, one_device: jax.sharding.Mesh) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": 1, "tie_word_embeddings": True}))
    message = error_of(folder, one_device)
    assert "embed_out.weight is unknown" in message
    assert message.count("gpt_neox.layers.1.") == 12


def test_buffers_are_ignored(folder: Path, one_device: jax.sharding.Mesh) -> None:
    expected = published(folder)

    def change(tensors: dict[str, np.ndarray]) -> None:
        layer = "gpt_neox.layers.0.attention."
        tensors[layer + "bias"] = np.zeros((1, 1, 4, 4), np.float32)
        tensors[layer + "masked_bias"] = np.array(-1e9, np.float32)
        tensors[layer + "rotary_emb.inv_freq"] = np.zeros(2, np.float32)

    edit(folder, change)
    assert_same(load_decoder(folder, sharding_of(one_device)), expected)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float16])
def test_buffers_of_any_dtype_are_ignored(folder: Path, one_device: jax.sharding.Mesh, dtype: Any) -> None:
    """Published files keep their causal masks as booleans or bytes."""
    expected = published(folder)
    name = "gpt_neox.layers.0.attention.bias"
    edit(folder, lambda tensors: tensors.update({name: np.ones((1, 1, 4, 4), dtype)}))
    assert_same(load_decoder(folder, sharding_of(one_device)), expected)


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int8])
def test_dtypes_that_are_not_weights(folder: Path, one_device: jax.sharding.Mesh, dtype: Any) -> None:
    name = "gpt_neox.final_layer_norm.bias"
    edit(folder, lambda tensors: tensors.update({name: tensors[name].astype(dtype)}))
    message = error_of(folder, one_device)
    assert f"{SINGLE}: {name} has dtype {np.dtype(dtype).kind.upper()}{8 * np.dtype(dtype).itemsize}" in message
    assert "known: F32, F16, BF16" in message


def test_truncated(folder: Path, one_device: jax.sharding.Mesh) -> None:
    weights = (folder / SINGLE).read_bytes()
    for length in (0, 4, 8, 300, len(weights) // 2, len(weights) - 1):
        (folder / SINGLE).write_bytes(weights[:length])
        assert f"{SINGLE}: damaged or truncated" in error_of(folder, one_device)


@pytest.mark.parametrize(
    "content",
    [
        b"not safetensors, but a text that is longer than a header's length field",
        b"\x80\x04\x95" + bytes(200),  # a pickle's first bytes
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 20) + b'{"a": {"dtype": "F3"',
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 59) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4000000]}}',
    ],
    ids=["text", "pickle", "huge header", "cut header", "no object", "beyond the end"],
)
def test_garbage(folder: Path, one_device: jax.sharding.Mesh, content: bytes) -> None:
    (folder / SINGLE).write_bytes(content)
    assert f"{SINGLE}: damaged or truncated" in error_of(folder, one_device)


def test_one_of_several_files_is_damaged(folder: Path, one_device: jax.sharding.Mesh) -> None:
    split_weights(folder, 3)
    broken = folder / "model-00002-of-00003.safetensors"
    lost = sorted(load_file(broken))
    broken.write_bytes(broken.read_bytes()[:-8])
    message = error_of(folder, one_device)
    assert f"{broken.name}: damaged or truncated" in message
    assert all(f"{name} is missing" in message for name in lost)  # nothing else holds them


def test_all_files_that_are_wrong_are_told_at_once(folder: Path, one_device: jax.sharding.Mesh) -> None:
    """One cut short, one swapped for another, one with a tensor of another shape and dtype, one with a flipped bit."""
    split_weights(folder, 4)
    cut, swapped, edited, flipped = sorted(folder.glob("model-*"))
    held = sorted(load_file(cut)), sorted(load_file(swapped))
    bias, kernel = "gpt_neox.final_layer_norm.bias", "gpt_neox.layers.0.attention.dense.weight"

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[bias] = np.zeros(64, np.int32)
        tensors[kernel] = np.zeros((64, 3), np.float32)

    edit(folder, change, edited.name)
    cut.write_bytes(cut.read_bytes()[:-1])
    swapped.write_bytes(flipped.read_bytes())
    content = bytearray(flipped.read_bytes())
    content[9] ^= 0x80  # in the header
    flipped.write_bytes(bytes(content))
    message = error_of(folder, one_device)
    assert f"{cut.name}: damaged or truncated" in message
    assert f"{flipped.name}: damaged or truncated" in message
    assert f"{edited.name}: {bias} has dtype I32" in message
    assert f"{kernel} has shape [64, 3], not [64, 64]" in message
    gone = {*held[0], *held[1]} - {bias, kernel}
    assert all(f"{name} is missing" in message for name in gone)


def test_index_names_missing_files(folder: Path, one_device: jax.sharding.Mesh) -> None:
    split_weights(folder, 4)
    gone = [f"model-0000{i}-of-00004.safetensors" for i in (2, 4)]
    for name in gone:
        (folder / name).unlink()
    assert f"{INDEX}: names files that are not there: {', '.join(gone)}" in error_of(folder, one_device)


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "null", '{"weight_map": {}}', "[" * 100_000,
        '{"weight_map": {"a": ["x"]}}', '{"weight_map": {"a": "' + "x" * 9000 + '"}}',
    ],
)  # fmt: skip
def test_invalid_index(folder: Path, one_device: jax.sharding.Mesh, content: str) -> None:
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(content)
    assert f"{INDEX}: no valid index" in error_of(folder, one_device)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "a\0b", "."])
def test_an_index_names_files_of_its_own_folder_only(folder: Path, one_device: jax.sharding.Mesh, name: str) -> None:
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name, "b": "gone.safetensors"}}))
    message = error_of(folder, one_device)
    assert f"{INDEX}: names files outside its folder: {name}; names files that are not there: gone.safetens" in message


def test_a_config_of_a_billion_layers(folder: Path) -> None:
    """It is refused before anything as long is made."""
    tensors, _ = map_tensors(weight_files(folder))
    family, config = read_config(folder)
    problems = match(family, dataclasses.replace(config, layers=10**9), tensors)[1]
    assert problems == [f"config.json has 1000000000 layers, and the files hold {len(tensors)} tensors"]


def test_unsupported_families_say_what_there_is(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(
        ConfigError, match=r"'t5' is not supported.*; supported: .*gpt_neox.*Adding a model family"
    ) as error:
        read_config(folder)
    assert all(kind in str(error.value) for kind in FAMILIES)


@pytest.mark.parametrize("kind", REFUSED)
def test_forms_that_need_remote_code_are_refused_by_name(folder: Path, kind: str) -> None:
    """Nothing that a config.json names is imported or run: auto_map is of no consequence."""
    code = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    (folder / "modeling.py").write_text("raise SystemExit('this was run')")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **code}))
    assert read_config(folder)[0] is NEOX
    (folder / "config.json").write_text(json.dumps({**fields, **code, "model_type": kind}))
    with pytest.raises(ConfigError) as error:
        read_config(folder)
    assert f"model_type {kind!r} is not supported ({REFUSED[kind]})" in str(error.value)


# Anything in the place of a file: an error of ours, and soon.


def header_of(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "BF16"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "F8_E4M3", "BOOL", "?"]),
        "shape": st.lists(st.integers(0, 5) | st.integers(2**31, 2**65), max_size=3),
        "data_offsets": st.lists(st.integers(0, 64) | st.integers(-(2**63), 2**65), min_size=1, max_size=3),
    }
)
HEADERS = JSON | st.dictionaries(st.text(max_size=3), ENTRIES | JSON, max_size=3)


@given(header=HEADERS, data=st.binary(max_size=64), cut=st.integers(-4, 4))
def test_headers(tmp_path_factory: pytest.TempPathFactory, header: Any, data: bytes, cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", max(len(encoded) + cut, 0)) + encoded + data)
    tensors, problems = map_tensors([path])
    assert all(problem.startswith("fuzz.safetensors: ") for problem in problems)
    assert sum(tensor.nbytes for tensor in tensors.values()) <= len(data)


@given(data=st.data())
def test_flipped_bytes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(5, BFLOAT16)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    tensors, problems = map_tensors([path])
    assert all(problem.startswith("flipped.safetensors: ") for problem in problems)
    assert sum(tensor.nbytes for tensor in tensors.values()) <= len(content)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"shape":[4]}}',
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[NaN,4]}}',
    ],
)
def test_hostile_headers(tmp_path: Path, header: bytes) -> None:
    (tmp_path / SINGLE).write_bytes(header_of(header) + bytes(4))
    tensors, problems = map_tensors([tmp_path / SINGLE])
    assert tensors == {}
    assert [problem.partition(":")[0] for problem in problems] == [SINGLE]


@given(content=st.binary(max_size=100) | HEADERS.map(lambda value: json.dumps({"weight_map": value}).encode()))
def test_indices(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "indices"
    folder.mkdir(exist_ok=True)
    (folder / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError):
        weight_files(folder)


def test_a_tensor_in_two_files(folder: Path, one_device: jax.sharding.Mesh) -> None:
    split_weights(folder, 2)
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    twice = next(iter(load_file(folder / first)))
    edit(folder, lambda tensors: tensors.update({twice: np.zeros(1, np.float32)}), second)
    assert f"{second}: {twice} is in an earlier file too" in error_of(folder, one_device)


def test_no_weights(folder: Path, one_device: jax.sharding.Mesh) -> None:
    (folder / SINGLE).unlink()
    assert f"{folder}: holds none of {SINGLE}, {INDEX}, pytorch_model.bin" in error_of(folder, one_device)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(folder: Path, one_device: jax.sharding.Mesh, bad: float) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][5, 7] = bad
        tensors[QKV.format(0)][16, 3] = bad  # the first key of head 0

    edit(folder, change)
    message = error_of(folder, one_device)
    assert message.endswith("NaN or infinite values in blocks.attention.key.kernel, blocks.mlp.down.kernel")


def test_values_beyond_the_wanted_dtype_are_named(folder: Path, one_device: jax.sharding.Mesh) -> None:
    """Close to float32's largest value: bfloat16 rounds it to infinity."""
    name = "gpt_neox.final_layer_norm.bias"
    edit(folder, lambda tensors: tensors[name].fill(np.finfo(np.float32).max))
    load_decoder(folder, sharding_of(one_device))
    with pytest.raises(CheckpointError, match=r"final_norm\.shift"):
        load_decoder(folder, sharding_of(one_device), jnp.bfloat16)


def test_no_config(folder: Path, one_device: jax.sharding.Mesh) -> None:
    (folder / "config.json").unlink()
    assert f"{folder / 'config.json'}: cannot be read as JSON" in error_of(folder, one_device)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_config_is_no_json(folder: Path, one_device: jax.sharding.Mesh, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert "config.json: cannot be read as JSON" in error_of(folder, one_device)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"gpt_neox"'])
def test_config_is_no_object(folder: Path, one_device: jax.sharding.Mesh, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "model_type None is not supported" in error_of(folder, one_device, ConfigError)


def test_arrays_are_views_of_the_file(folder: Path) -> None:
    """No tensor is read before it is placed, and none can be written to."""
    tensors, problems = map_tensors(weight_files(folder))
    assert problems == []
    expected = load_file(folder / SINGLE)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert isinstance(tensor, np.memmap)
        assert not tensor.flags.writeable
        np.testing.assert_array_equal(tensor, expected[name])

"""pytorch_model*.bin: every format that torch writes is read exactly, and nothing that a file says is run."""

import collections
import io
import json
import os
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mimir_jax.models.checkpoint import (
    SINGLE,
    TORCH_INDEX,
    TORCH_SINGLE,
    CheckpointError,
    load_decoder,
    map_tensors,
    weight_files,
)
from mimir_jax.models.torch_files import LARGEST_PICKLE, MAGIC, TorchFileError, read_torch_file
from mimir_jax.parallel.mesh import sharding_of
from mimir_jax.testing import write_checkpoint

TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def as_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def save(path: Path, tensors: Any, zipped: bool = True, **options: Any) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped, **options)


def assert_read(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    got = read_torch_file(path)
    assert list(got) == list(tensors)
    for name, tensor in tensors.items():
        expected = as_numpy(tensor)
        assert got[name].dtype == expected.dtype
        assert not got[name].flags.writeable
        np.testing.assert_array_equal(got[name], expected, err_msg=name)


# What torch writes.


@ZIPPED
@pytest.mark.parametrize("dtype", TORCH)
def test_dtypes(tmp_path: Path, dtype: str, zipped: bool) -> None:
    values = torch.arange(-3, 9).reshape(3, 4).to(TORCH[dtype])
    tensors = {"a.weight": values, "b": values[1].clone(), "scalar": values[0, 1].clone(), "none": values[:0].clone()}
    save(tmp_path / "x.bin", tensors, zipped)
    assert_read(tmp_path / "x.bin", tensors)


@ZIPPED
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(tmp_path: Path, protocol: int, zipped: bool) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    save(tmp_path / "x.bin", tensors, zipped, pickle_protocol=protocol)
    assert_read(tmp_path / "x.bin", tensors)


@ZIPPED
def test_strides_and_offsets(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(60.0).reshape(3, 4, 5)
    views = {
        "transposed": base.permute(2, 0, 1),
        "row": base[1],
        "column": base[:, 2, 3],
        "stepped": base[::2, 1::2, 1:4],
        "scalar": base[2, 3, 4],
        "empty": base[:, :0],
        "whole": base,
    }
    save(tmp_path / "x.bin", views, zipped)
    assert_read(tmp_path / "x.bin", views)


@ZIPPED
def test_shared_storages_are_shared(tmp_path: Path, zipped: bool) -> None:
    embedding = torch.randn(50, 40)
    save(tmp_path / "x.bin", {"embed.weight": embedding, "head.weight": embedding, "rows": embedding[3:5]}, zipped)
    assert (tmp_path / "x.bin").stat().st_size < 2 * embedding.nbytes
    got = read_torch_file(tmp_path / "x.bin")
    np.testing.assert_array_equal(got["embed.weight"], embedding.numpy())
    assert np.shares_memory(got["embed.weight"], got["head.weight"])
    assert np.shares_memory(got["embed.weight"], got["rows"])


@ZIPPED
def test_state_dict_of_a_module(tmp_path: Path, zipped: bool) -> None:
    """An ordered dictionary with attributes; and parameters, where someone saved them as such."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    save(tmp_path / "x.bin", module.state_dict(), zipped)
    assert_read(tmp_path / "x.bin", dict(module.state_dict()))
    save(tmp_path / "y.bin", dict(module.named_parameters()), zipped)
    assert_read(tmp_path / "y.bin", {name: one.detach() for name, one in module.named_parameters()})


def test_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    save(tmp_path / "x.bin", {"a": torch.zeros(1 << 20)})
    tracemalloc.start()
    array = read_torch_file(tmp_path / "x.bin")["a"]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert array.nbytes == 4 << 20
    assert most < 1 << 20


@ZIPPED
def test_only_what_is_wanted_is_looked_at(tmp_path: Path, zipped: bool) -> None:
    save(tmp_path / "x.bin", {"a": torch.ones(3), "epoch": 3, "mask": torch.ones(2, dtype=torch.bool)}, zipped)
    assert list(read_torch_file(tmp_path / "x.bin", lambda name: name == "a")) == ["a"]
    with pytest.raises(TorchFileError, match=r"^epoch is no tensor but int$"):
        read_torch_file(tmp_path / "x.bin")


# A checkpoint in these files is the checkpoint.


def to_bin(folder: Path, zipped: bool = True, files: int = 1) -> None:
    """A checkpoint's safetensors as torch's files."""
    tensors = {name: as_torch(array) for name, array in load_file(folder / SINGLE).items()}
    (folder / SINGLE).unlink()
    if files == 1:
        return save(folder / TORCH_SINGLE, tensors, zipped)
    where = {}
    for number in range(files):
        file = f"pytorch_model-{number + 1:05d}-of-{files:05d}.bin"
        names = sorted(tensors)[number::files]
        save(folder / file, {name: tensors[name] for name in names}, zipped)
        where |= dict.fromkeys(names, file)
    (folder / TORCH_INDEX).write_text(json.dumps({"weight_map": where}))


def leaves(folder: Path, mesh: jax.sharding.Mesh) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_decoder(folder, sharding_of(mesh)))]


@ZIPPED
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("files", [1, 3])
def test_a_checkpoint_equals_its_safetensors(
    tmp_path: Path, one_device: jax.sharding.Mesh, dtype: Any, files: int, zipped: bool
) -> None:
    write_checkpoint(tmp_path, dtype=dtype)
    expected = leaves(tmp_path, one_device)
    to_bin(tmp_path, zipped, files)
    got = leaves(tmp_path, one_device)
    assert len(weight_files(tmp_path)) == files
    assert len(got) == len(expected) > 10
    for one, other in zip(got, expected):
        np.testing.assert_array_equal(one, other)


@ZIPPED
def test_a_tied_checkpoint_with_both_names(tmp_path: Path, one_device: jax.sharding.Mesh, zipped: bool) -> None:
    """As torch saves GPT-2: the head is the embedding's storage; its causal masks are of bytes."""
    config: dict[str, Any] = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    write_checkpoint(tmp_path, **config, rope_parameters=None, **dict.fromkeys(NOT_GPT2))
    expected = leaves(tmp_path, one_device)
    tensors = {name: as_torch(array) for name, array in load_file(tmp_path / SINGLE).items()}
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    # A transposed view is another layout of the same values.
    name = "transformer.h.0.mlp.c_fc.weight"
    tensors[name] = tensors[name].t().contiguous().t()
    (tmp_path / SINGLE).unlink()
    save(tmp_path / TORCH_SINGLE, tensors, zipped)
    for one, other in zip(leaves(tmp_path, one_device), expected):
        np.testing.assert_array_equal(one, other)


NOT_GPT2 = [
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
    "hidden_act", "layer_norm_eps", "use_parallel_residual", "attention_bias", "tie_word_embeddings",
]  # fmt: skip


def test_safetensors_come_first(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / TORCH_SINGLE).write_bytes(b"not looked at")
    assert weight_files(tmp_path) == [tmp_path / SINGLE]


def test_all_that_is_wrong_is_listed(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    write_checkpoint(tmp_path)
    tensors = {name: as_torch(array) for name, array in load_file(tmp_path / SINGLE).items()}
    (tmp_path / SINGLE).unlink()
    del tensors["embed_out.weight"]
    tensors["adapter"] = torch.ones(2)
    tensors["gpt_neox.final_layer_norm.bias"] = tensors["gpt_neox.final_layer_norm.bias"].double()
    save(tmp_path / TORCH_SINGLE, tensors)
    with pytest.raises(CheckpointError) as error:
        load_decoder(tmp_path, sharding_of(one_device))
    for problem in (
        f"{TORCH_SINGLE}: gpt_neox.final_layer_norm.bias has dtype float64; known: float32, float16, bfloat16",
        "adapter is unknown",
        "embed_out.weight is missing",
    ):
        assert problem in str(error.value)


# What an attacker writes. `RAN` would say that something ran.

RAN: list[str] = []


def ran(*arguments: Any) -> Any:
    RAN.append("ran")
    return collections.OrderedDict()


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class WithState:
    def __reduce__(self) -> Any:
        return collections.OrderedDict, (), {"x": Calls(os.system, "exit 3")}


HOSTILE = {
    "os.system": (Calls(os.system, "exit 3"), f"{os.system.__module__}.system"),
    "eval": (Calls(eval, "1/0"), "builtins.eval"),
    "exec": (Calls(exec, "1/0"), "builtins.exec"),
    "getattr": (Calls(getattr, "os", "system"), "builtins.getattr"),
    "import": (Calls(__import__, "os"), "builtins.__import__"),
    "this test": (Calls(ran, 1), f"{__name__}.ran"),
    "nested": ({"a": [({"b": Calls(os.system, "exit 3")},)]}, f"{os.system.__module__}.system"),
    "in a tensor's arguments": (
        Calls(torch._utils._rebuild_tensor_v2, Calls(eval, "1/0"), 0, (1,), (1,), False, None),
        "builtins.eval",
    ),
    "in a state": (WithState(), f"{os.system.__module__}.system"),
    "torch.load": (Calls(torch.load, "x"), "torch.serialization.load"),
    "a function of torch": (Calls(torch._utils._rebuild_sparse_tensor, 1, 2), "torch._utils._rebuild_sparse_tensor"),
}


def archive_of(path: Path, pickled: bytes, members: dict[str, bytes] | None = None, compress: int = 0) -> Path:
    """An archive as torch's, with any pickle and any storages."""
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in (members or {}).items():
            archive.writestr(f"archive/{name}", content)
    return path


def legacy_of(path: Path, pickled: bytes, keys: list[str], storages: bytes) -> Path:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(one, 2) for one in (MAGIC, 1001, system))
    path.write_bytes(head + pickled + pickle.dumps(keys, 2) + storages)
    return path


def error_of(path: Path) -> str:
    with pytest.raises(TorchFileError) as error:
        read_torch_file(path)
    assert RAN == []
    return str(error.value)


@ZIPPED
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("case", HOSTILE)
def test_calls_are_refused_by_name(tmp_path: Path, case: str, protocol: int, zipped: bool) -> None:
    value, name = HOSTILE[case]
    if protocol == 2:  # which has Python 2's names
        name = name.replace("builtins.", "__builtin__.")
    save(tmp_path / "x.bin", {"weight": torch.ones(3), "more": value}, zipped, pickle_protocol=protocol)
    assert error_of(tmp_path / "x.bin") == (
        f"refused: it would call {name}, which no list of tensors needs; nothing was run"
    )


GLOBAL = {"os": b"cos\nsystem\n", "dict": b"ccollections\nOrderedDict\n", "tensor": b"ctorch\nFloatStorage\n"}


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"(S'exit 3'\nios\nsystem\n.", "the operation STRING"),
        (b"(X\x06\x00\x00\x00exit 3ios\nsystem\n.", "would call os.system"),
        (b"(icollections\nOrderedDict\n.", "would make an object of collections.OrderedDict"),
        (b"(" + GLOBAL["os"] + b"X\x01\x00\x00\x00ao.", "would call os.system"),
        (b"(" + GLOBAL["dict"] + b"o.", "would make an object of collections.OrderedDict"),
        (GLOBAL["tensor"] + b")\x81.", "would make an object of torch.FloatStorage"),
        (b"\x80\x04" + GLOBAL["tensor"] + b")}\x92.", "would make an object of torch.FloatStorage"),
        (GLOBAL["tensor"] + b"}b.", "would set the state of torch.FloatStorage"),
        (GLOBAL["tensor"] + b"(tR.", "would call torch.FloatStorage in a way"),
        (b"X\x01\x00\x00\x00a(tR.", "would call str"),
        (GLOBAL["dict"] + b"K\x01R.", "would call collections.OrderedDict"),
        (GLOBAL["dict"] + b"K\x01K\x02\x86R.", "would call collections.OrderedDict in a way"),
        (b"\x82\x01.", "the operation EXT1"),
        (b"I1\n.", "the operation INT"),
        (b"Pabc\n.", "the operation PERSID"),
        (b"X\x01\x00\x00\x00aQ.", "something outside that is no storage"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "would call os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x0dgetattr.__cal\x93.", "would call builtins.getattr.__cal"),
        (b"\x80\x04K\x01K\x02\x93.", "int in the place of a str"),
        (b"\x80\x05\x97.", "the operation NEXT_BUFFER"),
        (b"\x8f.", "the operation EMPTY_SET"),
        (b"\xff.", "byte"),
        (b"}K\x01K\x02s.", "keys that are no names"),
        (b"}(X\x01\x00\x00\x00au.", "damaged"),
        (b"]X\x01\x00\x00\x00aK\x01s.", "list in the place of a dict"),
        (b"}K\x01a.", "dictionary in the place of a list"),
        (b".", "lacks its operands"),
        (b"s.", "lacks its operands"),
        (b"K\x01(\x85.", "lacks its operands"),
        (b"t.", "damaged"),
        (b"h\x07.", "damaged"),
        (b"q\x07.", "damaged"),
        (b"", "has no end"),
        (b"}", "has no end"),
        (b"cos", "a name has no end"),
        (b"c\xff\n\xff\n.", "damaged"),
        (b"K\x01.", "holds no dictionary"),
        (b"].", "holds no dictionary"),
    ],
)
def test_operations(tmp_path: Path, pickled: bytes, message: str) -> None:
    assert message in error_of(archive_of(tmp_path / "zip.bin", pickled))
    if message != "has no end":  # the next pickle is its end
        assert message in error_of(legacy_of(tmp_path / "legacy.bin", pickled, [], b""))


def test_what_pickle_can_do_and_tensors_need(tmp_path: Path) -> None:
    """No operation is left out by mistake: each is known, or in this list of what is refused."""
    refused = {
        "INT", "LONG", "STRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "NEXT_BUFFER",
        "READONLY_BUFFER", "UNICODE", "FLOAT", "LIST", "EMPTY_SET", "ADDITEMS", "FROZENSET", "DICT", "POP", "DUP",
        "POP_MARK", "GET", "PUT", "EXT1", "EXT2", "EXT4", "PERSID",
    }  # fmt: skip
    for operation in pickletools.opcodes:
        message = error_of(archive_of(tmp_path / "x.bin", operation.code.encode("latin-1") + bytes(64)))
        assert (f"holds the operation {operation.name}" in message) is (operation.name in refused)


# What is damaged, or lies about sizes.


def tensor_pickle(
    kind: str = "FloatStorage",
    key: Any = "0",
    size: Any = 6,
    offset: Any = 0,
    shape: Any = (2, 3),
    strides: Any = (3, 1),
    legacy: bool = False,
    **changes: Any,
) -> bytes:
    """The pickle of {"w": tensor} with any numbers in it."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                return ("storage", getattr(torch, kind), key, "cpu", size, *([changes.get("view")] if legacy else []))
            return None

    arguments = (Storage(), offset, shape, strides, False, collections.OrderedDict(), *changes.get("extra", ()))
    file = io.BytesIO()
    Pickler(file, 2).dump({"w": Calls(torch._utils._rebuild_tensor_v2, *arguments)})
    return file.getvalue()


SIX = np.arange(6, dtype=np.float32).tobytes()


def test_crafted_files_are_read(tmp_path: Path) -> None:
    """What the tests below change is fine before the change."""
    for path in (
        archive_of(tmp_path / "x.bin", tensor_pickle(), {"data/0": SIX}),
        legacy_of(tmp_path / "y.bin", tensor_pickle(legacy=True), ["0"], struct.pack("<Q", 6) + SIX),
    ):
        np.testing.assert_array_equal(read_torch_file(path)["w"], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 1}, "w goes beyond its storage of 6 elements"),
        ({"shape": (3, 3)}, "w goes beyond its storage"),
        ({"strides": (4, 1)}, "w goes beyond its storage"),
        ({"strides": (1, 3)}, "w goes beyond its storage"),
        ({"shape": (2**40, 2**40), "strides": (0, 0)}, "w goes beyond its storage"),
        ({"shape": (7,), "strides": (0,)}, "w goes beyond its storage"),
        ({"shape": (2**40, 0, 2**40), "strides": (1, 1, 1)}, "w has an impossible shape"),
        ({"size": 7}, "w lies in a storage of 7 elements, of which the file holds fewer"),
        ({"size": 2**61}, "of which the file holds fewer"),
        ({"kind": "DoubleStorage"}, "of which the file holds fewer"),
        ({"key": "1"}, "w lies in a storage that is not in the file"),
        ({"key": "../../0"}, "w lies in a storage that is not in the file"),
        ({"key": 0}, "a storage without dtype or key"),
        ({"size": -6}, "a size, offset or stride that is none"),
        ({"size": 2**62}, "a size, offset or stride that is none"),
        ({"size": 10**5000}, "a size, offset or stride that is none"),
        ({"size": True}, "a size, offset or stride that is none"),
        ({"size": None}, "a size, offset or stride that is none"),
        ({"offset": -1}, "a size, offset or stride that is none"),
        ({"strides": (-3, 1)}, "a size, offset or stride that is none"),
        ({"shape": (2, 3.0)}, "a size, offset or stride that is none"),
        ({"shape": (2,)}, "not of one length"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "not of one length"),
        ({"shape": [2, 3]}, "not of one length"),
        ({"extra": ({"conj": True},)}, "negated or conjugated"),
        ({"extra": (None, 1)}, "in a way that no tensor needs"),
    ],
)
def test_tensors_that_lie(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in error_of(archive_of(tmp_path / "x.bin", tensor_pickle(**changes), {"data/0": SIX}))


@pytest.mark.parametrize("declared", [7, 2**40, 2**63, 2**64 - 1])
def test_legacy_storages_that_lie(tmp_path: Path, declared: int) -> None:
    head = struct.pack("<Q", declared)
    assert "holds fewer" in error_of(legacy_of(tmp_path / "x.bin", tensor_pickle(size=7), ["0"], head + SIX))
    other = legacy_of(tmp_path / "y.bin", tensor_pickle(), ["0", "0"], head + SIX)
    assert "ends before its storages do" in error_of(other)


def test_legacy_storages(tmp_path: Path) -> None:
    good = struct.pack("<Q", 6) + SIX
    assert "not in the file" in error_of(legacy_of(tmp_path / "x.bin", tensor_pickle(), [], good))
    assert "no tensor's" in error_of(legacy_of(tmp_path / "x.bin", tensor_pickle(), ["1"], good))
    assert "no list of storages" in error_of(legacy_of(tmp_path / "x.bin", tensor_pickle(), [0], good))  # type: ignore[list-item]
    part = tensor_pickle(legacy=True, view=("0", 1, 2))
    assert "part of another" in error_of(legacy_of(tmp_path / "x.bin", part, ["0"], good))


def test_several_tensors_that_lie_are_all_named(tmp_path: Path) -> None:
    save(tmp_path / "x.bin", {"a": torch.ones(3), "b": torch.ones(2), "c": torch.ones(4)})
    with zipfile.ZipFile(tmp_path / "x.bin") as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    pickled = members.pop("data.pkl")
    members["data/0"], members["data/2"] = b"", b"\0" * 15
    message = error_of(archive_of(tmp_path / "y.bin", pickled, members))
    assert message == (
        "a lies in a storage of 3 elements, of which the file holds fewer; "
        "c lies in a storage of 4 elements, of which the file holds fewer"
    )


def test_huge_declared_sizes_take_no_memory(tmp_path: Path) -> None:
    """Lengths of strings, places of the memo, numbers of storages: files of a few bytes that name terabytes."""
    pickles = [
        b"X\xff\xff\xff\xff" + b"a.",
        b"\x8d" + struct.pack("<Q", 2**62) + b"a.",
        b"T\xff\xff\xff\x7fa.",
        b"\x8b\xff\xff\xff\x7fa.",
        b"K\x01r\xff\xff\xff\xff.",
        b"\x95" + struct.pack("<Q", 2**62) + b"K\x01.",
        b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b".",  # a tuple of tuples: 2**100 leaves
    ]
    tracemalloc.start()
    for pickled in pickles:
        for path in (archive_of(tmp_path / "x.bin", pickled), legacy_of(tmp_path / "y.bin", pickled, [], b"")):
            with pytest.raises(TorchFileError):
                read_torch_file(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 << 20


def test_long_pickles_are_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "x.bin", b"N" * (LARGEST_PICKLE + 1))
    assert f"its pickle has {LARGEST_PICKLE + 1} bytes" in error_of(path)


@pytest.mark.parametrize("compress", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_compressed_archives_are_refused(tmp_path: Path, compress: int) -> None:
    path = archive_of(tmp_path / "x.bin", tensor_pickle(), {"data/0": SIX}, compress)
    assert "archive/data.pkl is compressed or encrypted" in error_of(path)


def test_archives_of_another_kind(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "x.bin", tensor_pickle(), {"data/0": SIX, "byteorder": b"big"})
    assert "not little-endian" in error_of(path)
    path = archive_of(tmp_path / "x.bin", tensor_pickle(), {"more/data.pkl": b"", "data/0": SIX})
    assert "without the data.pkl" in error_of(path)
    with zipfile.ZipFile(tmp_path / "y.bin", "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    assert "without the data.pkl" in error_of(tmp_path / "y.bin")


@pytest.mark.parametrize("content", [b"", b"\0", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"text", bytes(1000)])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    error_of(tmp_path / "x.bin")


@ZIPPED
def test_every_truncation_is_an_error(tmp_path: Path, zipped: bool) -> None:
    save(tmp_path / "x.bin", {"a": torch.arange(100.0), "b": torch.ones(7, 3)}, zipped)
    whole = (tmp_path / "x.bin").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "y.bin").write_bytes(whole[:length])
        error_of(tmp_path / "y.bin")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("samples")
    tensors = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}
    contents = []
    for zipped in (True, False):
        for protocol in (2, 4):
            save(folder / "x.bin", tensors, zipped, pickle_protocol=protocol)
            contents.append((folder / "x.bin").read_bytes())
    return contents


@given(data=st.data())
def test_flipped_bytes(tmp_path_factory: pytest.TempPathFactory, samples: list[bytes], data: st.DataObject) -> None:
    """Values may change, which no reader can see; anything else is an error of ours."""
    content = bytearray(data.draw(st.sampled_from(samples)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.bin"
    path.write_bytes(bytes(content))
    tensors, problems = map_tensors([path])
    assert all(problem.startswith("flipped.bin: ") for problem in problems)
    assert sum(tensor.nbytes for tensor in tensors.values()) <= 2 * len(content)


OPERATIONS = st.sampled_from([operation.code.encode("latin-1") for operation in pickletools.opcodes])


@given(parts=st.lists(OPERATIONS | st.binary(max_size=6) | st.sampled_from(list(GLOBAL.values()))))
def test_random_pickles(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    folder = tmp_path_factory.getbasetemp()
    pickled = b"".join(parts) + b"."
    for path in (
        archive_of(folder / "fuzz.bin", pickled, {"data/0": SIX}),
        legacy_of(folder / "old.bin", pickled, ["0"], SIX),
    ):
        tensors, problems = map_tensors([path])
        assert tensors == {} or not problems


@given(content=st.binary(max_size=300), zipped=st.booleans())
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes, zipped: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "random.bin"
    path.write_bytes(b"PK\x03\x04" + content if zipped else content)
    assert map_tensors([path])[0] == {}


def test_the_same_flips_in_safetensors(tmp_path: Path) -> None:
    """The error of a damaged file names it, whatever its format."""
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "x.safetensors")
    (tmp_path / "x.bin").write_bytes((tmp_path / "x.safetensors").read_bytes())
    _, problems = map_tensors([tmp_path / "x.bin", tmp_path / "x.safetensors"])
    assert len(problems) == 1
    assert problems[0].startswith("x.bin: ")


def test_torch_would_have_run_it(tmp_path: Path) -> None:
    """The crafted files are real: Python's own machine does what they say."""
    pickled = pickle.dumps({"w": Calls(ran, 1)}, 2)
    archive_of(tmp_path / "x.bin", pickled)
    pickle.loads(pickled)
    assert RAN == ["ran"]
    RAN.clear()
    assert f"{__name__}.ran" in error_of(tmp_path / "x.bin")

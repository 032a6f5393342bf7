"""Tensors of files that torch.save wrote, `pytorch_model*.bin`, as views of the mapped file; nothing in them is run.

Such a file is a pickle, a program for a small stack machine, beside raw bytes. Python's own machine can be made to
call anything. The one here knows the operations that make up a dictionary of tensors, reads each argument only after
the operation is known to be one of these, and calls nothing: what torch would call becomes a record of ours.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np


class TorchFileError(ValueError):
    """A file that is not a dictionary of tensors as torch.save writes it."""


STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
"""The dtype of each of torch's storages, by its name in `torch`."""

ORDERED_DICT = ("collections", "OrderedDict")
REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = ("torch._utils", "_rebuild_parameter")
KNOWN = {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER}
KNOWN |= {(module, name) for module in ("torch", "torch.cuda") for name in STORAGES}

# A pickle takes some hundred bytes a tensor; more than this is no list of tensors.
LARGEST_PICKLE = 1 << 24
LONGEST_NAME = 1000
MOST_AXES = 8

# What torch.save puts in front of files of its old format.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
ZIP = b"PK\x03\x04"


@dataclass(frozen=True, eq=False)
class _Global:
    """The name of something of Python's; never the thing itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


@dataclass(frozen=True, eq=False)
class _Storage:
    """Raw bytes in the file.

    Attributes:
        dtype: of their elements.
        key: where they are.
        size: how many elements.
    """

    dtype: np.dtype
    key: str
    size: int


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """The tensors of a file, as read-only views of its mapped bytes.

    Args:
        path: of either format, the zip archive that torch has written since 1.6 or the one before it.
        wanted: whether a tensor of this name is looked at.

    Raises:
        TorchFileError: damaged or truncated, or what would run code: the message names what it would call. Every
            tensor whose bytes are not all in the file is named.
        OSError: the file cannot be read.
    """
    if not path.stat().st_size:
        raise TorchFileError("damaged or truncated: it is empty")
    data = np.memmap(path, np.uint8, mode="r")
    try:
        entries, storages = (_read_zip if data[:4].tobytes() == ZIP else _read_legacy)(path, data)
    except TorchFileError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, EOFError, NotImplementedError) as error:
        raise TorchFileError(f"damaged or truncated: {_short(error)}") from error
    except (zipfile.BadZipFile, struct.error, OverflowError, MemoryError) as error:
        raise TorchFileError(f"damaged or truncated: {_short(error)}") from error
    tensors, problems = {}, []
    for name, entry in entries.items():
        if wanted(name):
            try:
                tensors[name] = _view(entry, storages)
            except TorchFileError as error:
                problems.append(f"{name[:200]} {error}")
    if problems:
        raise TorchFileError("; ".join(problems))
    return tensors


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _read_zip(path: Path, data: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the pickle of an archive says, and the bytes of each storage."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise TorchFileError("a zip archive without the data.pkl that torch.save writes")
    prefix = pickles[0].removesuffix("data.pkl")
    order = members.get(prefix + "byteorder")
    if order is not None and _member(data, order).tobytes() != b"little":
        raise TorchFileError("its numbers are not little-endian; save it again where they are")
    pickle = _member(data, members[pickles[0]])
    if pickle.size > LARGEST_PICKLE:
        raise TorchFileError(f"its pickle has {pickle.size} bytes, which no list of tensors needs")
    entries = _dictionary(_run(io.BytesIO(pickle.tobytes())))
    keys = {entry.storage.key for entry in entries.values() if isinstance(entry, _Tensor)}
    names = {key: f"{prefix}data/{key}" for key in keys}
    return entries, {key: _member(data, members[name]) for key, name in names.items() if name in members}


def _member(data: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of a member, which lie in the archive as they are."""
    name = info.filename[:200]
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
        raise TorchFileError(f"{name} is compressed or encrypted, which torch.save does not do; save it again")
    start = info.header_offset
    header = data[start : start + 30].tobytes()
    if start < 0 or len(header) < 30 or header[:4] != ZIP:
        raise TorchFileError(f"damaged or truncated: {name} is not where its archive says")
    start += 30 + sum(struct.unpack_from("<HH", header, 26))
    if start + info.file_size > data.size:
        raise TorchFileError(f"damaged or truncated: {name} ends beyond the file")
    return data[start : start + info.file_size]


def _read_legacy(path: Path, data: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The same of the format before torch 1.6: pickles one after the other, then the storages."""
    file = io.BytesIO(data[:LARGEST_PICKLE].tobytes())
    if _run(file) != MAGIC or _run(file) != PROTOCOL:
        raise TorchFileError("not a file of torch.save")
    system = _run(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise TorchFileError("its numbers are not little-endian; save it again where they are")
    entries = _dictionary(_run(file))
    dtypes: dict[str, np.dtype] = {}
    for entry in entries.values():
        if isinstance(entry, _Tensor):
            storage = entry.storage
            if dtypes.setdefault(storage.key, storage.dtype) != storage.dtype:
                raise TorchFileError("one storage has two dtypes")
    keys = _run(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise TorchFileError("damaged or truncated: no list of storages")
    storages = {}
    start = file.tell()
    for key in keys:
        if key not in dtypes:
            raise TorchFileError("damaged or truncated: a storage that is no tensor's")
        if start + 8 > data.size:
            raise TorchFileError("damaged or truncated: it ends before its storages do")
        size = int.from_bytes(data[start : start + 8].tobytes(), "little") * dtypes[key].itemsize
        start += 8
        # A storage that is cut short shows in the tensors that lie in it.
        storages[key] = data[start : start + size]
        start += size
    return entries, storages


def _dictionary(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise TorchFileError("holds no dictionary of tensors")
    return found


def _view(entry: Any, storages: dict[str, np.ndarray]) -> np.ndarray:
    """A tensor as an array over the bytes of its storage."""
    if not isinstance(entry, _Tensor):
        raise TorchFileError(f"is no tensor but {_kind(entry)}")
    storage, shape, strides = entry.storage, entry.shape, entry.strides
    raw = storages.get(storage.key)
    if raw is None:
        raise TorchFileError("lies in a storage that is not in the file")
    if storage.size * storage.dtype.itemsize > raw.size:
        raise TorchFileError(f"lies in a storage of {storage.size} elements, of which the file holds fewer")
    elements = 1
    for size in shape:
        elements *= size
    last = entry.offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    # Elements that lie on each other would make a small file a large array.
    if elements > storage.size or (elements and last >= storage.size):
        raise TorchFileError(f"goes beyond its storage of {storage.size} elements")
    width = storage.dtype.itemsize
    try:
        if elements:
            steps = tuple(stride * width for stride in strides)
            view = np.ndarray(shape, storage.dtype, raw, entry.offset * width, steps)
        else:
            view = np.empty(shape, storage.dtype)
    except (ValueError, OverflowError) as error:
        raise TorchFileError(f"has an impossible shape: {_short(error)}") from error
    view.flags.writeable = False
    return view


def _kind(value: Any) -> str:
    return {_Global: "a name", _Storage: "a storage", dict: "a dictionary"}.get(type(value), type(value).__name__)


_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}
# Operations that put their argument on the stack, and those that do nothing here.
_CONSTANTS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_VALUES: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SILENT = {"PROTO", "FRAME"}
_STACK = {
    "MARK", "EMPTY_LIST", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM",
    "SETITEMS", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
    "STACK_GLOBAL", "STOP",
}  # fmt: skip
# These make objects of classes; here they are read only to say of which.
_OBJECTS = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"}
_KNOWN_OPERATIONS = _CONSTANTS | _VALUES.keys() | _SILENT | _STACK | _OBJECTS | {"GLOBAL"}


def _run(file: io.BytesIO) -> Any:
    """The value of the pickle at the place of `file`, which then is at its end."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop(count: int) -> list[Any]:
        """The last so many values."""
        if len(stack) - (marks[-1] if marks else 0) < count:
            raise TorchFileError("damaged or truncated: an operation lacks its operands")
        found = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return found

    def pop_marked() -> list[Any]:
        """The values since the last mark."""
        start = marks.pop()
        found = stack[start:]
        del stack[start:]
        return found

    while True:
        byte = file.read(1)
        if not byte:
            raise TorchFileError("damaged or truncated: its pickle has no end")
        operation = _OPERATIONS.get(byte.decode("latin-1"))
        if operation is None or operation.name not in _KNOWN_OPERATIONS:
            name = f"byte {byte!r}" if operation is None else operation.name
            raise TorchFileError(f"refused: its pickle holds the operation {name}, which no list of tensors needs")
        name = operation.name
        if name in ("GLOBAL", "INST"):
            known = _known(_line(file), _line(file))
            if name == "INST":
                raise TorchFileError(f"refused: it would make an object of {known}; nothing was run")
            stack.append(known)
            continue
        argument: Any = operation.arg.reader(file) if operation.arg is not None else None
        if name in _CONSTANTS:
            stack.append(argument)
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "TUPLE":
            stack.append(tuple(pop_marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(pop(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            values = pop(1) if name == "APPEND" else pop_marked()
            _expect(stack[-1], list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = pop(2) if name == "SETITEM" else pop_marked()
            _set_items(_expect(stack[-1], dict), values[::2], values[1::2])
        elif name == "STACK_GLOBAL":
            stack.append(_known(*(_expect(one, str) for one in pop(2))))
        elif name == "REDUCE":
            stack.append(_call(*pop(2)))
        elif name == "BUILD":
            pop(1)  # the attributes of a dictionary, such as _metadata, say nothing of its tensors
            if not isinstance(stack[-1], dict):
                raise TorchFileError(f"refused: it would set the state of {_described(stack[-1])}; nothing was run")
        elif name == "BINPERSID":
            stack.append(_storage(pop(1)[0]))
        elif name in _OBJECTS:
            what = pop_marked()[0] if name == "OBJ" else pop(2 if name == "NEWOBJ" else 3)[0]
            raise TorchFileError(f"refused: it would make an object of {_described(what)}; nothing was run")
        elif name == "STOP":
            return pop(1)[0]


def _line(file: io.BytesIO) -> str:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise TorchFileError("damaged or truncated: a name has no end")
    return line[:-1].decode("utf-8")


def _known(module: str, name: str) -> _Global:
    if (module, name) not in KNOWN:
        wanted = _Global(module, name)
        raise TorchFileError(f"refused: it would call {wanted}, which no list of tensors needs; nothing was run")
    return _Global(module, name)


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TorchFileError(f"damaged: {_kind(value)} in the place of a {kind.__name__}")
    return value


def _described(value: Any) -> str:
    return str(value) if isinstance(value, _Global) else _kind(value)


def _set_items(target: dict[str, Any], keys: Sequence[Any], values: Sequence[Any]) -> None:
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, str) or len(key) > LONGEST_NAME:
            raise TorchFileError("holds a dictionary with keys that are no names of tensors")
        target[key] = value


def _call(function: Any, arguments: Any) -> Any:
    """What torch's function makes of its arguments, as a record of ours."""
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise TorchFileError(f"refused: it would call {_described(function)}; nothing was run")
    which = (function.module, function.name)
    if which == ORDERED_DICT and len(arguments) <= 1:
        pairs = _expect(arguments[0], list) if arguments else []
        made: dict[str, Any] = {}
        for pair in pairs:
            key, value = pair if type(pair) in (list, tuple) and len(pair) == 2 else (None, None)
            _set_items(made, [key], [value])
        return made
    if which == REBUILD_PARAMETER and len(arguments) == 3 and isinstance(arguments[0], _Tensor):
        return arguments[0]
    if which == REBUILD_TENSOR and len(arguments) in (6, 7) and isinstance(arguments[0], _Storage):
        storage, offset, shape, strides = arguments[:4]
        if len(arguments) == 7 and arguments[6]:
            raise TorchFileError("holds a tensor whose values are negated or conjugated on reading")
        for sizes in (shape, strides):
            if type(sizes) is not tuple or len(sizes) != len(shape) or len(sizes) > MOST_AXES:
                raise TorchFileError("damaged: a tensor's shape and strides are not of one length")
        return _Tensor(storage, _size(offset), tuple(map(_size, shape)), tuple(map(_size, strides)))
    raise TorchFileError(f"refused: it would call {function} in a way that no tensor needs; nothing was run")


def _storage(identity: Any) -> _Storage:
    """The storage that a persistent id stands for: ("storage", class, key, device, size[, view])."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise TorchFileError("refused: it refers to something outside that is no storage; nothing was loaded")
    _, kind, key, _, size, *view = identity
    if (
        not isinstance(kind, _Global)
        or kind.name not in STORAGES
        or not isinstance(key, str)
        or view not in ([], [None])
    ):
        raise TorchFileError("damaged: a storage without dtype or key, or one that is part of another")
    return _Storage(np.dtype(STORAGES[kind.name]), key, _size(size))


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise TorchFileError("damaged: a size, offset or stride that is none")
    return value

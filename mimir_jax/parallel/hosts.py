"""Many processes that run one program: how they find each other, what they agree on, and how they end.

Every process runs the same steps on the same documents. Each reads all texts, which takes a twentieth of the time that
tokenizing them does, and knows so that it was given what the others were; but it tokenizes a share of them, and lays
out the rows that its own devices compute. It gets all token ids and all results. Process 0 alone prints, and reads and
writes the results folder and the store.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mimir_jax.config import ConfigError, HostsConfig

RESUME = 75
"""Exit code of a run that ended before its time and that the same command resumes (EX_TEMPFAIL of sysexits.h)."""

MESSAGE = 4096  # bytes of a message between processes
CHUNK = 1 << 24  # bytes that are sent at once
DAY = 24 * 3600
COMPILING = 10.0  # times as long as usual may pass before the first sign of life: models are read, programs compiled
TOLD = "told_to_all"  # attribute of an error that every process knows of
LEAVE = 10.0  # seconds that a process that ends waits for the others to end with it

Tree = TypeVar("Tree")

_patience: float | None = None  # what `connect` was told, seconds


class HostsError(RuntimeError):
    """Another process failed or was told something else; the message says which one."""


class HostLostError(HostsError):
    """Another process is gone or never came; the same command goes on from what is stored."""


def connect(config: HostsConfig) -> None:
    """Join the other processes, before anything runs on a device; alone where nothing says that there are any.

    What `config` leaves open is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, then from
    what JAX knows of TPU pods, GKE, Slurm and Open MPI.

    Raises:
        ConfigError: some of what is needed is missing, or JAX was used before.
        HostLostError: the others did not come.
    """
    coordinator = config.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = config.count if config.count is not None else _number("JAX_NUM_PROCESSES")
    index = config.index if config.index is not None else _number("JAX_PROCESS_ID")
    if count == 1 or jax.distributed.is_initialized():
        return
    asked = coordinator is not None or count is not None or index is not None
    given = coordinator is not None and count is not None and index is not None
    if config.timeout <= 0:
        raise ConfigError(f"hosts.timeout: {config.timeout}, must be above 0 seconds")
    if given and not 0 <= index < count:  # type: ignore[operator]
        raise ConfigError(f"hosts.index: {index}, must be at least 0 and less than hosts.count, {count}")
    global _patience
    _patience = config.timeout
    # A signal that ends one process is dealt with here and in `preemption`, not by JAX's own service.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            cluster_detection_method="deactivate" if given else None,
            initialization_timeout=int(config.timeout),
            heartbeat_timeout_seconds=max(int(config.timeout), 1),
            shutdown_timeout_seconds=DAY,  # process 0 may have metrics to compute; see `leave`
        )
    except (ValueError, TypeError) as error:  # no cluster that JAX knows, or less than it must be told
        if asked:
            raise ConfigError(
                f"hosts: {error} Give --hosts.coordinator HOST:PORT, --hosts.count and --hosts.index"
            ) from error
    except jax.errors.JaxRuntimeError as error:
        where = f" at {coordinator}" if coordinator else ""
        raise HostLostError(
            f"the other processes did not come together{where} within {config.timeout:.0f} seconds: start all of "
            f"them, with one coordinator that each can reach ({str(error).splitlines()[0]})"
        ) from error
    except RuntimeError as error:
        if asked:  # else a notebook or a test, which used JAX before
            raise ConfigError(f"hosts: {error}") from error


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    if value is None:
        return None
    if not value.isdecimal():
        raise ConfigError(f"{name}: {value!r} is no number of processes")
    return int(value)


def leads() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def leave(code: int, error: Exception | None = None) -> None:
    """End this process where others run, too: with them if they end as well, and without them if they do not.

    A process that ends by itself would wait for all others, who may wait for it in the middle of a computation.

    Args:
        code: exit code.
        error: whose traceback is wanted.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    if error is not None:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    together = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    together.start()
    together.join(LEAVE)
    os._exit(code)


def place(arrays: Tree, sharding: NamedSharding) -> Tree:
    """Host arrays, of which every process has at least its own part, on the devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(arrays, sharding)

    def placed(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(placed, arrays)


def own_rows(mesh: Mesh, rows: int) -> slice:
    """Of rows split over `data`, those that this process's devices compute."""
    sharding = NamedSharding(mesh, P("data"))
    if sharding.is_fully_addressable:
        return slice(0, rows)
    own = [index[0].indices(rows) for index in sharding.addressable_devices_indices_map((rows,)).values() if index]
    return slice(min(start for start, _, _ in own), max(stop for _, stop, _ in own))


def gather(arrays: Tree, mesh: Mesh) -> Tree:
    """Device arrays that this process can read whole; a copy between processes is put behind what computes them."""
    everywhere = NamedSharding(mesh, P())
    return arrays if everywhere.is_fully_addressable else _copy(everywhere, arrays)


@partial(jax.jit, static_argnums=0)
def _copy(everywhere: NamedSharding, arrays: Any) -> Any:
    return jax.lax.with_sharding_constraint(arrays, everywhere)


def vote(mesh: Mesh, yes: bool) -> bool | jax.Array:
    """Whether any process says yes, as a value that is there once all have said something."""
    everywhere = NamedSharding(mesh, P())
    if everywhere.is_fully_addressable:
        return yes
    split = NamedSharding(mesh, P(mesh.axis_names))
    votes = jax.make_array_from_callback((mesh.size,), split, lambda index: np.full((1,), yes, np.int32))
    return _most(everywhere, votes)


@partial(jax.jit, static_argnums=0)
def _most(everywhere: NamedSharding, votes: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(jnp.max(votes), everywhere)


def broadcast(data: bytes) -> bytes:
    """Process 0's bytes, in every process."""
    if jax.process_count() == 1:
        return data
    size = int.from_bytes(_send(len(data).to_bytes(8, "little"), 8), "little")
    return b"".join(_send(data[at : at + CHUNK], min(size - at, CHUNK)) for at in range(0, size, CHUNK))


def _send(data: bytes, size: int) -> bytes:
    room = _room(size)
    if leads():
        room[:size] = np.frombuffer(data, np.uint8)
    with others_may_fail(), watch(_patience, "wait for process 0"):
        return np.asarray(multihost_utils.broadcast_one_to_all(room))[:size].tobytes()


def _room(size: int) -> np.ndarray:
    # Few lengths, each a compiled program: rounded up to a power of two.
    return np.zeros(1 << (size - 1).bit_length(), np.uint8)


def own_share() -> slice:
    """Of a list that all processes have, what this one works on: every so manieth, so that shares are about equal."""
    return slice(jax.process_index(), None, jax.process_count())


def exchange(data: bytes) -> list[bytes]:
    """What every process has, in every process, in their order; of different lengths. All must call it."""
    count = jax.process_count()
    if count == 1:
        return [data]
    said = _gathered(np.frombuffer(len(data).to_bytes(8, "little"), np.uint8))
    sizes = [int.from_bytes(row.tobytes(), "little") for row in said]
    step, found = max(CHUNK // count, 1), [bytearray() for _ in sizes]
    for at in range(0, max(sizes), step):
        room, own = _room(min(max(sizes) - at, step)), data[at : at + step]
        room[: len(own)] = np.frombuffer(own, np.uint8)
        for whole, size, row in zip(found, sizes, _gathered(room)):
            whole += row[: min(max(size - at, 0), step)].tobytes()
    return [bytes(whole) for whole in found]


@contextmanager
def together(what: str, here: bool = True) -> Iterator[None]:
    """All processes get through this block, or none does: an error of one is an error of all.

    Blocks may be within each other. A process that fails outside an inner block says so at the end of the outer one,
    where the others, at the end of the inner one, hear it: an error is said once, and takes all out of both.

    Args:
        what: is done, for the message in the processes whose own part went well.
        here: whether this process does anything; else it only waits for those that do.

    Raises:
        HostsError: another process failed; HostLostError: it was asked to end.
    """
    if jax.process_count() == 1:
        yield
        return
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    if failed is not None and getattr(failed, TOLD, False):
        raise failed
    message = "" if failed is None else f"{type(failed).__name__}: {failed}"
    room = np.zeros(MESSAGE, np.uint8)
    told = np.frombuffer(message.encode("utf-8", "replace")[:MESSAGE], np.uint8)
    room[: len(told)] = told
    said = _gathered(room)
    if failed is not None:
        setattr(failed, TOLD, True)
        raise failed
    for index, row in enumerate(said):
        if row.any():
            reason = row.tobytes().rstrip(b"\0").decode("utf-8", "replace")
            lost = reason.startswith(("Preempted", "HostLostError"))  # nothing is wrong with what was asked
            heard = (HostLostError if lost else HostsError)(f"{what}: process {index} of {len(said)} failed: {reason}")
            setattr(heard, TOLD, True)
            raise heard


@contextmanager
def others_may_fail() -> Iterator[None]:
    """A computation across processes: where it fails, it says so.

    Raises:
        HostLostError: it failed, and there are other processes.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise HostLostError(
            f"process {jax.process_index()} of {jax.process_count()}: a computation with the others failed, most "
            f"likely because one of them ended ({str(error).splitlines()[0]}). What is stored stays, and the same "
            "command goes on from there"
        ) from error


def _gathered(row: np.ndarray) -> np.ndarray:
    with others_may_fail(), watch(_patience, "wait for the other processes"):
        return np.asarray(multihost_utils.process_allgather(row))


def check_equal(what: str, digest: str) -> None:
    """Refuse processes that were told different things.

    Raises:
        HostsError: in every process; it names those that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    said = _gathered(np.frombuffer(bytes.fromhex(digest), np.uint8))
    other = [str(index) for index, row in enumerate(said) if (row != said[0]).any()]
    if other:
        raise HostsError(
            f"{what}: process {', '.join(other)} has others than process 0; all must run one command on the same files"
        )


@contextmanager
def watch(seconds: float | None, what: str) -> Iterator[Callable[[], None]]:
    """End this process where nothing moves for so long, because another one hangs or is gone.

    A process that is stopped or unreachable is noticed within as long, at any time, by JAX's own heartbeats; this is
    for one that is alive and stuck.

    Args:
        seconds: without a sign of life; COMPILING times as many before the first one, which says that this process
            has done its own part and waits. None is for ever.
        what: is done.

    Yields:
        A function to call as a sign of life.
    """
    if seconds is None or jax.process_count() == 1:
        yield lambda: None
        return
    moved, done = threading.Event(), threading.Event()

    def look() -> None:
        patience = COMPILING * seconds  # until the first sign of life
        while moved.wait(patience):
            if done.is_set():
                return
            moved.clear()
            patience = seconds
        sys.stderr.write(
            f"mimir-jax: {what}: nothing has moved for {patience:.0f} seconds: another process hangs or is gone. What "
            "is stored stays, and the same command goes on from there\n"
        )
        sys.stderr.flush()
        os._exit(RESUME)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield moved.set
    finally:
        done.set()
        moved.set()

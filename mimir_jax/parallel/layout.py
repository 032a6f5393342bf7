"""Which mesh: how devices are shared between batch and weights, by arithmetic of memory and time."""

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax

from mimir_jax.config import ConfigError, MeshConfig
from mimir_jax.parallel.chips import CHIPS, Topology, chip_of_kind
from mimir_jax.parallel.mesh import configured_mesh

FILL = 0.9  # of a device's memory that weights and temporaries may take
REACHED = 0.4  # of a device's peak, where nothing better is known
SUMS = 2  # a layer, over devices that share it: of attention and of the MLP
FLOAT = 4  # bytes: activations and their sums over `model` are float32


@runtime_checkable
class Weights(Protocol):
    """What is asked of a model's shape; see `models.cost.Cost`."""

    @property
    def parameters(self) -> int: ...
    @property
    def layer(self) -> int: ...
    @property
    def flops(self) -> float: ...
    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def mlp(self) -> int: ...


class Device(NamedTuple):
    """What a layout is chosen for: operations a second that are reached, bytes, and bytes a second from the others."""

    flops: float
    memory: float
    bandwidth: float


class Layout(NamedTuple):
    """A mesh, and what it costs.

    Attributes:
        data: ways to split the batch.
        model: ways to split heads, MLP and vocabulary.
        sharded: whether weights are split over `data`, too, and gathered layer by layer (as in FSDP, Zhao et al. 2023).
        weights: bytes on each device.
        temporaries: bytes on each device, about.
        compute: seconds of a step.
        traffic: bytes that a device takes from others in a step.
        exchange: seconds that this takes.
    """

    data: int
    model: int
    sharded: bool
    weights: float
    temporaries: float
    compute: float
    traffic: float
    exchange: float

    @property
    def bytes(self) -> float:
        return self.weights + self.temporaries

    @property
    def seconds(self) -> float:
        """For the tokens of one row slice, for comparisons: a step's time over the ways that it is split."""
        return (self.compute + self.exchange) / self.data

    @property
    def share(self) -> float:
        """Of a step's time that is exchange, if none of it is hidden behind computing."""
        return self.exchange / (self.compute + self.exchange)

    def __str__(self) -> str:
        return f"data={self.data}, model={self.model}" + (", weights sharded over data" if self.sharded else "")


def layouts(cost: Weights, itemsize: int, count: int, device: Device, batch_tokens: int) -> list[Layout]:
    """All ways to use `count` devices, the quickest first; those that do not fit the memory last.

    Args:
        cost: of the model.
        itemsize: bytes of a parameter.
        count: of devices.
        device: each of them.
        batch_tokens: positions that one way of `data` computes in a step.
    """
    found = []
    for model in range(1, count + 1):
        if count % model or cost.heads % model or cost.mlp % model:
            continue
        data = count // model
        for sharded in (False, True) if data > 1 else (False,):
            whole = cost.parameters * itemsize / model
            live = cost.layer * itemsize / model
            activations = batch_tokens * FLOAT * (8 * cost.width + 2 * (cost.mlp + 3 * cost.width) / model)
            gathered = 2 * live if sharded else 0.0
            traffic = whole * (data - 1) / data if sharded else 0.0
            layers = (cost.parameters // cost.layer) if cost.layer else 0
            sums = layers * SUMS * batch_tokens * cost.width * FLOAT
            traffic += 2 * sums * (model - 1) / model
            found.append(
                Layout(
                    data,
                    model,
                    sharded,
                    weights=whole / (data if sharded else 1),
                    temporaries=activations + gathered,
                    compute=batch_tokens * cost.flops / model / device.flops,
                    traffic=traffic,
                    exchange=traffic / device.bandwidth,
                )
            )
    return sorted(found, key=lambda one: (one.bytes > FILL * device.memory, one.seconds, one.model, one.sharded))


def choose(config: MeshConfig, ranked: Sequence[Layout], device: Device) -> tuple[Layout, str]:
    """The quickest layout that fits and that the configuration allows, and why it is that one.

    Raises:
        ConfigError: it allows none.
    """
    allowed = [
        one
        for one in ranked
        if config.data in (-1, one.data)
        and config.model in ("auto", one.model)
        and (config.weights == "auto" or one.sharded == (config.weights == "sharded"))
    ]
    if not allowed:
        sizes = ", ".join(sorted({f"{one.data} x {one.model}" for one in ranked}))
        raise ConfigError(f"mesh: no layout is data={config.data}, model={config.model}; possible: {sizes}")
    best = allowed[0]
    need = f"{_gib(best.weights)} of weights and about {_gib(best.temporaries)} of temporaries"
    room = f"of {_gib(device.memory)} on each device"
    if best.bytes > FILL * device.memory:
        return best, f"{best}: no layout fits: this one needs {need} {room}; use more devices or smaller batches"
    others = [one for one in allowed if one.bytes <= FILL * device.memory and (one.model, one.sharded) != best[1:3]]
    why = f"{best}: {need} {room}; exchange is {best.share:.1%} of a step"
    if others:
        why += f" (next: {others[0]}, {others[0].share:.1%})"
    return best, why


def settle(
    config: MeshConfig, cost: Weights, itemsize: int, batch_tokens: int, devices: Sequence[jax.Device]
) -> tuple[int, int, bool, str]:
    """Ways of data and of model, whether weights are split over data, and why, on devices that are here.

    What the configuration says counts, whether or not the arithmetic likes it.

    Args:
        config: what is asked.
        cost: of the model, of all its checkpoints together.
        itemsize: bytes of a parameter.
        batch_tokens: positions that one way of data computes in a step.
        devices: all of the mesh.
    """
    count, device = len(devices), device_here(devices)
    ranked = layouts(cost, itemsize, count, device, batch_tokens)
    if config.model == "auto" and config.data == -1:
        best, why = choose(config, ranked, device)
        return best.data, best.model, best.sharded, why
    mesh = configured_mesh(config)
    data, model = mesh.shape["data"], mesh.shape["model"]
    possible = [one for one in ranked if (one.data, one.model) == (data, model)]
    sharded = config.weights == "sharded" or (config.weights == "auto" and bool(possible) and possible[0].sharded)
    return data, model, sharded, f"data={data}, model={model}: as configured"


def device_here(devices: Sequence[jax.Device]) -> Device:
    """What one of the devices can do, as far as it says so."""
    first = next(one for one in devices if one.process_index == jax.process_index())
    chip = chip_of_kind(first.device_kind) or CHIPS["cpu"]
    stats = first.memory_stats()
    if stats and "bytes_limit" in stats:
        memory = float(stats["bytes_limit"])
    else:  # a CPU's devices share the machine
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()
    coordinates = [getattr(one, "coords", None) for one in devices]
    lengths: tuple[int, ...] = (len(devices),)
    if chip.torus and all(coordinates):
        axes = list(zip(*(c for c in coordinates if c)))[: chip.torus]
        lengths = tuple(max(axis) - min(axis) + 1 for axis in axes)
    return Device(REACHED * chip.flops, memory, Topology(chip, lengths).bandwidth)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"

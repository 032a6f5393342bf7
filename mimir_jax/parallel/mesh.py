"""Which device holds what: logical axes of arrays to axes of the mesh, as a table."""

from collections.abc import Callable, Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mimir_jax.config import ConfigError, MeshConfig

# Logical axis -> mesh axis. An axis that is not here, or that the mesh axis does not divide, is replicated.
RULES: dict[str, str] = {
    "batch": "data",
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
}

# Parameters that are split over `data`, too (FSDP): gathered where they are used.
SHARDED_RULES = RULES | {"embed": "data"}


def make_mesh(data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh [data, model].

    Args:
        data: ways to split the batch; -1 takes what `model` leaves.
        model: ways to split weights and vocabulary.
        devices: all by default.

    Raises:
        ConfigError: data x model is not the number of devices.
    """
    used = jax.devices() if devices is None else list(devices)
    count = len(used)
    if model < 1 or (data < 1 and data != -1) or count % model or (data != -1 and data * model != count):
        wanted = f"{'all' if data == -1 else data} x {model}"
        sizes = [f"{count // m} x {m}" for m in range(1, count + 1) if count % m == 0]
        raise ConfigError(f"mesh: data x model = {wanted} does not fit {count} devices; possible: {', '.join(sizes)}")
    # Auto axes: the compiler places collectives; explicit ones refuse gathers over a sharded vocabulary.
    return jax.make_mesh((count // model, model), ("data", "model"), (AxisType.Auto,) * 2, devices=used)


def configured_mesh(config: MeshConfig) -> Mesh:
    """The mesh that a configuration asks for, where `auto` is as few ways of `model` as it allows.

    Raises:
        ConfigError: see `make_mesh`.
    """
    count = jax.device_count()
    fits = config.data > 0 and count % config.data == 0
    fewest = count // config.data if fits else 1
    return make_mesh(config.data, fewest if config.model == "auto" else config.model)


def partition(mesh: Mesh, axes: tuple[str, ...], shape: tuple[int, ...], rules: Mapping[str, str] = RULES) -> P:
    """The rules applied to one array; an axis of the mesh splits the first axis that it can."""
    spec: list[str | None] = []
    for axis, size in zip(axes, shape):
        target = rules.get(axis)
        possible = target is not None and target not in spec and size % mesh.shape[target] == 0
        spec.append(target if possible else None)
    return P(*spec)


def sharding_of(mesh: Mesh, sharded: bool = False) -> Callable[[tuple[str, ...], tuple[int, ...]], NamedSharding]:
    """(logical axes, shape) -> sharding of a parameter on this mesh; `sharded` ones are split over `data`, too.

    Vectors are not: there is nothing to save.
    """

    def place(axes: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        matrix = len([axis for axis in axes if axis != "layers"]) > 1
        return NamedSharding(mesh, partition(mesh, axes, shape, SHARDED_RULES if sharded and matrix else RULES))

    return place

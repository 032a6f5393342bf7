"""Meshes and the table of rules."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mimir_jax.config import ConfigError
from mimir_jax.models.decoder import AXES
from mimir_jax.parallel.mesh import RULES, make_mesh, partition, sharding_of


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (8, 1)),
        ({"data": 8}, (8, 1)),
        ({"data": 4, "model": 2}, (4, 2)),
        ({"model": 8}, (1, 8)),
        ({"data": -1, "model": 4}, (2, 4)),
        ({"data": 1, "model": 8}, (1, 8)),
    ],
)
def test_sizes(arguments: dict[str, int], shape: tuple[int, int]) -> None:
    mesh = make_mesh(**arguments)
    assert mesh.axis_names == ("data", "model")
    assert mesh.devices.shape == shape
    assert mesh.axis_types == (AxisType.Auto,) * 2
    assert set(mesh.devices.flat) == set(jax.devices())


def test_some_devices() -> None:
    mesh = make_mesh(model=2, devices=jax.devices()[2:6])
    assert dict(mesh.shape) == {"data": 2, "model": 2}
    assert set(mesh.devices.flat) == set(jax.devices()[2:6])


@pytest.mark.parametrize(
    "arguments",
    [
        {"data": 3},
        {"data": 4},
        {"data": 16},
        {"data": 4, "model": 4},
        {"model": 3},
        {"model": 16},
        {"data": 0},
        {"model": 0},
        {"data": -2},
        {"model": -1},
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="does not fit 8 devices; possible: 8 x 1, 4 x 2, 2 x 4, 1 x 8"):
        make_mesh(**arguments)


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (("vocab", "embed"), (320, 64), P("model", None)),
        (("vocab", "embed"), (321, 64), P(None, None)),  # 2 does not divide it
        (("heads", "head_dim", "embed"), (4, 16, 64), P("model", None, None)),
        (("heads", "head_dim", "embed"), (3, 16, 64), P(None, None, None)),
        (("kv_heads", "head_dim"), (1, 16), P(None, None)),
        (("embed", "heads", "head_dim"), (64, 4, 16), P(None, "model", None)),
        (("layers", "mlp", "embed"), (2, 128, 64), P(None, "model", None)),
        (("batch", "time"), (8, 100), P("data", None)),
        (("batch", "time"), (6, 100), P(None, None)),  # nor 4 this
        (("no such axis",), (8,), P(None)),
        ((), (), P()),
    ],
)
def test_partition(axes: tuple[str, ...], shape: tuple[int, ...], expected: P) -> None:
    mesh = make_mesh(4, 2)
    assert partition(mesh, axes, shape) == expected
    assert sharding_of(mesh)(axes, shape) == NamedSharding(mesh, expected)


def test_no_parameter_is_split_twice_over_an_axis() -> None:
    """Which no sharding allows."""
    for name, axes in AXES.items():
        targets = [RULES[axis] for axis in axes if axis in RULES]
        assert len(targets) == len(set(targets)), name


@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2), (1, 8)])
def test_arrays_lie_as_the_table_says(data: int, model: int) -> None:
    place: Any = sharding_of(make_mesh(data, model))
    x = np.arange(16 * 8, dtype=np.float32).reshape(16, 8)
    weights = jax.device_put(x, place(("vocab", "embed"), x.shape))
    assert {shard.data.shape for shard in weights.addressable_shards} == {(16 // model, 8)}
    rows = jax.device_put(x, place(("batch", "time"), x.shape))
    assert {shard.data.shape for shard in rows.addressable_shards} == {(16 // data, 8)}
    np.testing.assert_array_equal(weights, x)

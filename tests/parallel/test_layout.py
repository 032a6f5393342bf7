"""Which mesh: by arithmetic that can be followed by hand."""

import jax
import pytest

from mimir_jax.config import ConfigError, MeshConfig
from mimir_jax.models.cost import Cost, decoder_cost
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.chips import CHIPS, chip_of_kind, parse_topology
from mimir_jax.parallel.layout import Device, choose, layouts, settle
from mimir_jax.testing import TINY

# Of 12 billion parameters, about Pythia's.
LARGE = Cost(11_800_000_000, 314_572_800, 2.4e10, 5120, 40, 20480)
SMALL = Cost(160_000_000, 7_000_000, 3e8, 768, 12, 3072)


def test_cost_by_hand() -> None:
    cost = decoder_cost(FAMILIES["gpt_neox"].config(TINY), 10)
    layer = 64 * 64 * 4 + 2 * 64 * 128
    assert cost.layer == layer
    assert cost.parameters == 2 * layer + 2 * 320 * 64
    assert cost.flops == 2 * (2 * layer + 320 * 64) + 2 * 4 * 64 * 5  # two layers: q.k and p.v of 5 keys


def test_a_small_model_splits_the_batch_alone() -> None:
    ranked = layouts(SMALL, 4, 8, Device(1e14, 16e9, 9e10), 4096)
    best, why = choose(MeshConfig(), ranked, Device(1e14, 16e9, 9e10))
    assert (best.data, best.model, best.sharded) == (8, 1, False)
    assert best.exchange == 0
    assert why.startswith("data=8, model=1: ")


def test_a_model_that_does_not_fit_is_sharded() -> None:
    v5e = Device(0.4 * 197e12, 16.0 * 2**30, 9e10)
    best, why = choose(MeshConfig(), layouts(LARGE, 2, 16, v5e, 16384), v5e)
    assert best.sharded
    assert best.weights < 0.9 * v5e.memory
    assert "weights sharded over data" in why
    # By hand: all weights but the own part, over the links.
    assert best.traffic >= 2 * LARGE.parameters / best.model * (best.data - 1) / best.data
    small, _ = choose(MeshConfig(), layouts(LARGE, 2, 16, v5e, 256), v5e)
    assert small.model > 1  # few tokens a step: to gather all weights for them costs more than to split layers


def test_what_is_configured_is_kept() -> None:
    device = Device(1e14, 16e9, 9e10)
    ranked = layouts(SMALL, 4, 8, device, 4096)
    best, _ = choose(MeshConfig(data=2, weights="sharded"), ranked, device)
    assert (best.data, best.model, best.sharded) == (2, 4, True)
    with pytest.raises(ConfigError, match="no layout is data=3, model=auto; possible: 2 x 4, 4 x 2, 8 x 1"):
        choose(MeshConfig(data=3), ranked, device)


def test_nothing_fits() -> None:
    device = Device(1e14, 1e9, 9e10)
    best, why = choose(MeshConfig(), layouts(LARGE, 2, 4, device, 1024), device)
    assert "no layout fits" in why
    assert best.bytes > device.memory


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MeshConfig(), (8, 1, False)),
        (MeshConfig(model=2), (4, 2, False)),
        (MeshConfig(data=2), (2, 4, False)),
        (MeshConfig(model=8), (1, 8, False)),  # 12 heads: they stay whole, the vocabulary is split
        (MeshConfig(weights="sharded"), (8, 1, True)),
        (MeshConfig(data=4, model=2, weights="sharded"), (4, 2, True)),
    ],
)
def test_on_the_devices_that_are_here(config: MeshConfig, expected: tuple[int, int, bool]) -> None:
    assert settle(config, SMALL, 4, 1024, jax.devices())[:3] == expected


def test_topologies() -> None:
    assert parse_topology("v5e:4x4").size == 16
    assert parse_topology("v4:2x2x4").lengths == (2, 2, 4)
    assert parse_topology("h100:8").name == "h100:8"
    assert parse_topology("v5e:4x4").bandwidth == 2 * 4.5e10  # no rings: one way on each of two axes
    assert parse_topology("v5e:16x16").bandwidth == 4 * 4.5e10
    assert parse_topology("v4:4x4x4").bandwidth == 6 * 4.5e10
    assert chip_of_kind("TPU v5 lite") == CHIPS["v5e"]
    assert chip_of_kind("TPU v5") == CHIPS["v5p"]
    assert chip_of_kind("NVIDIA H100 80GB HBM3") == CHIPS["h100"]
    assert chip_of_kind("abacus") is None


@pytest.mark.parametrize("text", ["", "v5e", "v5e:4", "v5e:4x4x4", "v4:4x4", "h100:2x4", "v5e:0x4", "v9:4x4", "cpu:x"])
def test_no_topologies(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^topology: "):
        parse_topology(text)

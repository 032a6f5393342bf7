"""Plans: compiled for TPU topologies that are not here, by arithmetic for other devices."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mimir_jax import cli
from mimir_jax.config import ConfigError, MeshConfig
from mimir_jax.models.cost import decoder_cost
from mimir_jax.models.families import FAMILIES
from mimir_jax.plan import Plan, PlanConfig, PlanError, describe, plan
from mimir_jax.testing import TINY

needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="the extra `tpu` is not installed")

SMALL = {**TINY, "hidden_size": 256, "intermediate_size": 1024, "vocab_size": 2048, "num_hidden_layers": 5}


def small(topology: str, **fields: object) -> Plan:
    job = PlanConfig("small", topology, documents=1000, tokens=64, batch_tokens=512, **fields)  # type: ignore[arg-type]
    return plan(job, FAMILIES["gpt_neox"].config(SMALL))


@needs_libtpu
@pytest.mark.slow
def test_weights_sharded_over_data_are_gathered_layer_by_layer() -> None:
    found = small("v5e:2x2", mesh=MeshConfig(weights="sharded"))
    assert found.compiled
    assert (found.layout.data, found.layout.model, found.layout.sharded) == (4, 1, True)
    cost = decoder_cost(FAMILIES["gpt_neox"].config(SMALL), 64)
    assert found.layout.weights == cost.parameters * 2 / 4
    # The batch's arrays, norms and biases come on top of the weights.
    assert found.layout.weights < found.arguments < 1.1 * found.layout.weights + 1e6
    assert 0 < found.temporaries < found.headroom
    gathered = sum(one.traffic for one in found.collectives if one.kind == "all-gather")
    layers = 5 * cost.layer * 2 * 3 / 4
    assert layers <= gathered < 1.5 * (layers + 2 * 2048 * 256 * 2)
    assert found.traffic < 1.5 * gathered  # and not activations, but for some of the embedding


@needs_libtpu
@pytest.mark.slow
def test_a_split_model_sums_twice_a_layer() -> None:
    found = small("v5e:2x2", mesh=MeshConfig(data=1, model=4))
    sums = [one for one in found.collectives if one.kind == "all-reduce" and one.times == 5]
    positions = found.batch.rows * found.batch.time
    assert sum(one.size * one.times for one in sums) == pytest.approx(5 * 2 * positions * 256 * 4, rel=0.01)
    assert found.traffic == pytest.approx(found.layout.traffic, rel=0.2)  # as the choice of a mesh reckons


@needs_libtpu
def test_topologies_that_do_not_exist() -> None:
    with pytest.raises(PlanError, match="v5e:3x3: no such TPU topology"):
        small("v5e:3x3")


def test_by_arithmetic() -> None:
    found = small("h100:8")
    assert not found.compiled
    assert found.collectives == []
    rows = dict(describe(found, PlanConfig("small", "h100:8")))
    assert "by arithmetic" in rows["figures"]
    positions = found.batch.rows * found.batch.time
    assert found.compute == pytest.approx(positions * found.cost.flops / 8 / (0.4 * 989e12))
    assert found.device_hours == 8 * found.hours
    assert small("h100:4").hours == pytest.approx(2 * found.hours, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"utilization": 0.0}, "utilization: 0.0"),
        ({"utilization": 1.5}, "utilization: 1.5"),
        ({"dtype": "float16"}, "dtype 'float16'"),
        ({"mesh": MeshConfig(data=3)}, "mesh: no layout is data=3"),
        ({"head": "pallas"}, "head: pallas is a kernel for TPUs"),
    ],
)
def test_what_cannot_be_planned(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small("cpu:2", **fields)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(SMALL))
    assert cli.main(["plan", "--model", str(path), "--topology", "cpu:2", "--documents", "10", "--tokens", "100"]) == 0
    out = capsys.readouterr().out
    assert "on cpu:2" in out
    assert "10 documents of 100 tokens" in out
    assert cli.main(["plan", "--model", str(path), "--topology", "cpu"]) == 2
    assert "topology: 'cpu': write the number of devices" in capsys.readouterr().err


def test_the_command_takes_no_accelerator() -> None:
    """An environment variable would be too late: the package has imported jax."""
    arguments = ["plan", "--model", "demo/epoch1", "--topology", "cpu:2"]
    code = f"""
import jax
from mimir_jax.cli import main
assert main({arguments}) == 0
print(jax.config.jax_platforms)
"""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    assert done.stdout.splitlines()[-1] == "cpu"

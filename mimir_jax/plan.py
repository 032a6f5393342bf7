"""What a job will need, before any device is rented: its scoring program, compiled ahead of time for a topology.

TPUs have a compiler that runs on any machine (libtpu, the extra `tpu`): memory and collectives are read from the
compiled program. For other devices both are estimated from the model's shape. Times are always estimates: of float
operations, counted from the shape, at a stated share of what the device can do, and of bytes over the links' speed.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mimir_jax.config import ConfigError, Head, MeshConfig
from mimir_jax.models.abstract import abstract_decoder
from mimir_jax.models.cost import Cost, decoder_cost
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.parallel.chips import Topology, parse_topology
from mimir_jax.parallel.collectives import Collective, collectives
from mimir_jax.parallel.layout import Device, Layout, choose, layouts
from mimir_jax.parallel.mesh import make_mesh, sharding_of
from mimir_jax.scoring.batching import Batch, batch_arrays, padding_share, plan_batches
from mimir_jax.scoring.engine import score_batch
from mimir_jax.scoring.model import DTYPES
from mimir_jax.scoring.passes import Pass, document_passes

# v4's two cores work as one device.
TOPOLOGY_OPTIONS = {"v4": {"chip_config_name": "megacore"}}

# libtpu asks a cloud's metadata server who it is, and locks the devices; here it is nobody, and there are none.
NOWHERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class PlanError(RuntimeError):
    """A job that cannot be compiled for its topology; the message says what to change."""


@dataclass(frozen=True)
class PlanConfig:
    """A job: a model, devices and documents."""

    model: str
    """Hugging Face folder, config.json or hub id; weights are not needed."""
    topology: str
    """Devices: v5e:4x4, v4:2x2x4, v5p:4x4x4, v6e:8x8, or by number h100:8, a100:16, cpu:2."""
    documents: int = 1000
    """How many."""
    tokens: int = 512
    """Of each document, on average."""
    dtype: str = "bfloat16"
    """Of weights and matrix products: float32 or bfloat16."""
    batch_tokens: int = 16384
    """Token positions a device computes at a time, or those that share a split model together."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    head: Head = "xla"
    """How statistics of the vocabulary are computed on TPUs: by XLA or by a kernel of ours."""
    utilization: float = 0.4
    """Share of the device's peak that products are assumed to reach."""
    revision: str | None = None
    """Hub branch, tag or commit of the model."""


@dataclass(frozen=True)
class Plan:
    """What the job needs.

    Attributes:
        topology: the devices.
        layout: the mesh.
        why: it was chosen.
        compiled: whether memory and collectives are those of the compiled program, or estimates.
        cost: of the model.
        batch: of a step.
        arguments: bytes on each device: weights and a batch.
        temporaries: bytes on each device.
        headroom: bytes that are left.
        collectives: of a step; none where nothing was compiled.
        traffic: bytes that a device takes from others in a step.
        compute: seconds of a step.
        exchange: seconds that the traffic takes, if none of it is hidden behind computing.
        tokens_per_second: of all devices together.
        hours: of the job.
        compile_seconds: that the compiler took.
    """

    topology: Topology
    layout: Layout
    why: str
    compiled: bool
    cost: Cost
    batch: Batch
    arguments: float
    temporaries: float
    headroom: float
    collectives: list[Collective]
    traffic: float
    compute: float
    exchange: float
    tokens_per_second: float
    hours: float
    compile_seconds: float

    @property
    def share(self) -> float:
        """Of a step's time that is exchange."""
        return self.exchange / (self.compute + self.exchange)

    @property
    def device_hours(self) -> float:
        return self.hours * self.topology.size


def plan(job: PlanConfig, config: DecoderConfig) -> Plan:
    """Plan a job.

    Args:
        job: what is asked.
        config: the model's shape.

    Raises:
        ConfigError: a topology, mesh or number that cannot be.
        PlanError: no layout fits, or the compiler is not there.
    """
    if job.dtype not in DTYPES:
        raise ConfigError(f"dtype {job.dtype!r} is not supported; supported: {', '.join(DTYPES)}")
    for name, number in (("documents", job.documents), ("tokens", job.tokens), ("batch_tokens", job.batch_tokens)):
        if number < 1:
            raise ConfigError(f"{name}: {number}, must be at least 1")
    if not 0 < job.utilization <= 1:
        raise ConfigError(f"utilization: {job.utilization}, must be a share above 0 and at most 1")
    topology = parse_topology(job.topology)
    chip = topology.chip
    if job.head == "pallas" and not chip.torus:
        raise ConfigError(f"head: pallas is a kernel for TPUs, which {topology.name} has not: use xla")
    cost = decoder_cost(config, min(job.tokens, config.context))
    peak = chip.flops * (chip.float32 if job.dtype == "float32" else 1)
    device = Device(job.utilization * peak, chip.memory, topology.bandwidth)
    itemsize = jnp.dtype(DTYPES[job.dtype]).itemsize
    ranked = layouts(cost, itemsize, topology.size, device, job.batch_tokens)
    passes = document_passes([], [0] * job.tokens, config.context)
    tried = []
    while True:
        layout, why = choose(job.mesh, ranked, device)
        step = _Step(job, topology, layout, why, cost, *_batch(passes, job, layout.data), passes)
        if not chip.torus:
            return _planned(step, layout.weights, layout.temporaries, chip.memory - layout.bytes, layout.traffic)
        try:
            return _compiled(step, config)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise PlanError(f"{topology.name}: the compiler refuses: {str(error).splitlines()[0]}") from error
            tried.append(str(layout))
            ranked = [one for one in ranked if one != layout]
            allowed = [one for one in ranked if one.bytes < 2 * layout.bytes]
            if not allowed:
                raise PlanError(
                    f"{topology.name}: {'; '.join(tried)}: the program does not fit the memory of a device; use more "
                    "devices, or a smaller --batch-tokens"
                ) from error


def _batch(passes: Sequence[Pass], job: PlanConfig, data: int) -> tuple[Batch, float]:
    """A step's batch, and the share of it that is padding, where documents are many."""
    needed = 50 * job.batch_tokens * data // sum(map(len, passes)) + 1
    some = list(passes) * min(needed, job.documents)
    batches = plan_batches(some, job.batch_tokens * data, data)
    if not batches:
        raise ConfigError("tokens: documents of one token have nothing to score")
    return batches[0], padding_share(batches[:1], some)


@dataclass(frozen=True)
class _Step:
    """What a step computes for the job, and on what."""

    job: PlanConfig
    topology: Topology
    layout: Layout
    why: str
    cost: Cost
    batch: Batch
    padding: float
    passes: Sequence[Pass]


def _planned(
    step: _Step,
    arguments: float,
    temporaries: float,
    headroom: float,
    traffic: float,
    found: Sequence[Collective] = (),
    compile_seconds: float | None = None,
) -> Plan:
    """The plan, with the times of a step and of the job; without seconds of a compiler, it is an estimate."""
    job, topology, batch = step.job, step.topology, step.batch
    peak = topology.chip.flops * (topology.chip.float32 if job.dtype == "float32" else 1)
    positions = batch.rows * batch.time
    compute = positions * step.cost.flops / topology.size / (job.utilization * peak)
    exchange = traffic / topology.bandwidth
    steps = job.documents * sum(map(len, step.passes)) / (positions * (1 - step.padding))
    seconds = steps * (compute + exchange)
    return Plan(
        topology=topology,
        layout=step.layout,
        why=step.why,
        compiled=compile_seconds is not None,
        cost=step.cost,
        batch=batch,
        arguments=arguments,
        temporaries=temporaries,
        headroom=headroom,
        collectives=list(found),
        traffic=traffic,
        compute=compute,
        exchange=exchange,
        tokens_per_second=job.documents * job.tokens / seconds,
        hours=seconds / 3600,
        compile_seconds=compile_seconds or 0.0,
    )


def _compiled(step: _Step, config: DecoderConfig) -> Plan:
    """What the compiler says of memory and collectives."""
    layout, topology = step.layout, step.topology
    mesh = make_mesh(layout.data, layout.model, topology_devices(topology))
    start = time.perf_counter()
    program = compile_scoring(config, mesh, layout.sharded, step.job.dtype, step.batch, step.job.head)
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    assert memory is not None
    found = collectives(program.as_text() or "", topology.size)
    arguments = float(memory.argument_size_in_bytes)
    temporaries = float(memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes)
    headroom = topology.chip.memory - arguments - temporaries - memory.generated_code_size_in_bytes
    return _planned(step, arguments, temporaries, headroom, sum(one.traffic for one in found), found, seconds)


def compile_scoring(
    config: DecoderConfig, mesh: Mesh, sharded: bool, dtype: str, batch: Batch, head: Head = "xla"
) -> jax.stages.Compiled:
    """The engine's own function, compiled for a mesh of devices that need not be there."""
    decoder = abstract_decoder(config, sharding_of(mesh, sharded), DTYPES[dtype])
    rows = NamedSharding(mesh, P("data"))

    def abstract(x: np.ndarray) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)

    # Arrays of this shape; what they hold does not matter.
    arrays = jax.tree.map(abstract, batch_arrays(batch, [], slice(0, 0)))
    return score_batch.lower(decoder, arrays, None, mesh, batch.reach, head).compile()


def topology_devices(topology: Topology) -> Sequence[jax.Device]:
    """The devices of a TPU topology, for a compiler; none of them is here.

    Raises:
        PlanError: libtpu is not installed, or knows no such topology.
    """
    from jax.experimental import topologies

    for name, value in NOWHERE.items():
        os.environ.setdefault(name, value)
    options = dict(TOPOLOGY_OPTIONS.get(topology.chip.name, {}))
    if topology.size < 4:
        options["chips_per_host_bounds"] = [*topology.lengths, 1, 1][:3]  # type: ignore[assignment]
    try:
        found = topologies.get_topology_desc(topology.name, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise PlanError(f"{topology.name}: no such TPU topology: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        raise PlanError(
            f"{topology.name}: compiling for TPUs needs libtpu: pip install 'mimir_jax[tpu]' ({error})"
        ) from error
    return found.devices


def describe(found: Plan, job: PlanConfig) -> list[tuple[str, str]]:
    """A plan in words: what, and how much."""
    chip, batch, layout = found.topology.chip, found.batch, found.layout
    positions = batch.rows * batch.time // layout.data
    peak = f"{job.utilization:.0%} of {chip.flops / 1e12:.0f} TFLOP/s"
    how = (
        f"compiled for {found.topology.name} in {found.compile_seconds:.0f} s"
        if found.compiled
        else ("by arithmetic: there is no ahead-of-time compiler for this device here")
    )
    rows = [
        ("mesh", found.why),
        ("figures", how),
        (
            "weights",
            f"{layout.weights / 2**30:.2f} GiB a device: {found.cost.parameters / 1e9:.2f} G parameters in {job.dtype}",
        ),
        ("arguments", f"{found.arguments / 2**30:.2f} GiB a device: weights and a batch"),
        ("temporaries", f"{found.temporaries / 2**30:.2f} GiB a device"),
        ("headroom", f"{found.headroom / 2**30:.2f} of {chip.memory / 2**30:.0f} GiB a device"),
        (
            "step",
            f"{batch.rows} rows of {batch.time} positions: {positions} a way of data",
        ),
        ("operations", f"{found.cost.flops / 1e9:.2f} GFLOP a token"),
        (
            "compute",
            f"{found.compute * 1e3:.1f} ms a step, if products reach {peak}",
        ),
        (
            "exchange",
            f"{found.traffic / 2**20:.1f} MiB a device and step, {found.exchange * 1e3:.1f} ms at "
            f"{found.topology.bandwidth / 1e9:.0f} GB/s: {found.share:.1%} of a step, if none of it is hidden",
        ),
    ]
    for kind in dict.fromkeys(one.kind for one in found.collectives):
        some = [one for one in found.collectives if one.kind == kind]
        size = sum(one.traffic for one in some)
        rows.append(("", f"{kind}: {sum(one.times for one in some)} a step, {size / 2**20:.1f} MiB"))
    rows += [
        ("speed", f"{found.tokens_per_second:,.0f} tokens a second"),
        (
            "job",
            f"{job.documents:,} documents of {job.tokens:,} tokens: {found.hours:.2f} hours, "
            f"{found.device_hours:.1f} device-hours",
        ),
    ]
    return rows

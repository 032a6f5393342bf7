"""Collectives are read from compiled programs, with the trips of the loops that they are in."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mimir_jax.parallel.collectives import Collective, collectives
from mimir_jax.parallel.mesh import make_mesh

# ruff: noqa: E501
TPU = """HloModule jit_f, is_scheduled=true

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}

%async.2 (p: bf16[8,64]) -> bf16[64,64] {
  ROOT %all-gather.9 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=3, replica_groups=[2,8]<=[16], dimensions={0}
}

%body.3 (t: (s32[], f32[8,64])) -> (s32[], f32[8,64]) {
  %ar = f32[8,64]{1,0:T(8,128)} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%region_0.1
  %start = (bf16[8,64]{1,0}, bf16[64,64]{1,0}) all-gather-start(%w), channel_id=2, replica_groups=[2,8]<=[16], dimensions={0}
  %done = bf16[64,64]{1,0} all-gather-done(%start)
  %as = ((bf16[8,64]), bf16[64,64], u32[]) async-start(%w), calls=%async.2
  %step = (bf16[8,64]{1,0}, bf16[64,64]{1,0}) fusion(%w), kind=kLoop, calls=%async.2
  %named = bf16[64,64]{1,0} all-gather(%v), channel_id=9, replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}, dimensions={0}
}

%cond.4 (t: (s32[], f32[8,64])) -> pred[] {
  %n = s32[]{:T(128)} constant(36), metadata={op_name="jit(f)/while/cond/lt"}
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT, metadata={op_name="jit(f)/while/cond/lt"}
}

ENTRY %main.5 (p0: f32[8,64]) -> f32[8,64] {
  %while.6 = (s32[], f32[8,64]) while(%t), condition=%cond.4, body=%body.3
  %rs = f32[2,64]{1,0} reduce-scatter(f32[8,64]{1,0} %y), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%region_0.1
  %cp = bf16[8,64]{1,0} collective-permute(%z), channel_id=5, source_target_pairs={{0,1},{1,0}}
  %alone = f32[8,64]{1,0} all-reduce(%v), replica_groups={{0},{1}}, to_apply=%region_0.1
}
"""


def test_text_of_a_tpu_program() -> None:
    assert sorted(collectives(TPU, 16)) == [
        Collective("all-gather", 8, 64 * 64 * 2, 36),
        Collective("all-gather", 8, 64 * 64 * 2, 36),
        Collective("all-gather", 8, 64 * 64 * 2, 36),
        Collective("all-reduce", 4, 8 * 64 * 4, 36),
        Collective("collective-permute", 2, 8 * 64 * 2, 1),
        Collective("reduce-scatter", 4, 8 * 64 * 4, 1),
    ]


@pytest.mark.parametrize(
    ("one", "traffic"),
    [
        (Collective("all-gather", 8, 800, 3), 3 * 700),
        (Collective("all-reduce", 8, 800, 1), 1400),
        (Collective("reduce-scatter", 4, 800, 1), 600),
        (Collective("all-to-all", 4, 800, 1), 600),
        (Collective("collective-permute", 2, 800, 2), 1600),
    ],
)
def test_traffic(one: Collective, traffic: float) -> None:
    assert one.traffic == traffic


def test_of_a_program_compiled_here() -> None:
    """Weights split over `data` are gathered in each of five layers."""
    mesh = make_mesh()
    split, rows = NamedSharding(mesh, P(None, None, "data")), NamedSharding(mesh, P("data"))
    whole = NamedSharding(mesh, P())

    def run(weights: jax.Array, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, None]:
            return x @ jax.lax.with_sharding_constraint(kernel, whole), None

        return jax.lax.scan(layer, x, weights)[0]

    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=split)
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=rows)
    found = collectives(jax.jit(run).lower(weights, x).compile().as_text() or "", 8)
    assert {(one.kind, one.group) for one in found} == {("all-gather", 8)}
    assert sum(one.traffic for one in found) == 5 * 64 * 64 * 4 * 7 / 8

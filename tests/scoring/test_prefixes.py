"""Passes that go on from a shared prefix: equal to reading prefix and text at once, whatever shares a row."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mimir_jax.arrays import TokenStats
from mimir_jax.models.decoder import Decoder
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.models.rope import RopeScaling
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring import batching, engine
from mimir_jax.scoring.batching import GRAIN, batch_arrays, padding_share, plan_batches, prefix_tokens, spans
from mimir_jax.scoring.engine import run_passes
from mimir_jax.scoring.passes import Part, Pass, conditional_parts, document_passes, join, pass_key, variant_parts

pytestmark = pytest.mark.slow  # as a whole

CONFIG = DecoderConfig(
    vocab=50, layers=3, embed=32, heads=4, head_dim=8, mlp=64, context=400, rotary_dim=4, parallel_residual=True
)
CONFIGS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "windows": {"rotary_dim": 0, "learned_positions": True, "windows": (None, 20, None), "parallel_residual": False},
    "grouped": {"rotary_dim": 8, "kv_heads": 2, "norm": "rms", "gated_mlp": True, "activation": "silu"},
    "some_rotated": {"rotary_dim": 8, "rotary_layers": (True, False, True)},
    "gemma": {
        "rotary_dim": 8,
        "rope_scaling": RopeScaling("linear", 4.0),
        "local_rope_theta": 100.0,
        "windows": (20, None, 20),
        "norm": "rms",
        "norm_offset": 1.0,
        "norm_place": "both",
        "qk_norm": "head",
        "embedding_scale": 5.0,
        "attention_softcap": 2.0,
        "logit_softcap": 10.0,
        "parallel_residual": False,
    },
    # Norms of queries and keys make scores 25 times as large here.
    "gptj_stablelm": {
        "rotary_interleaved": True,
        "shared_norm": True,
        "head_bias": True,
        "qk_norm": "heads",
        "attention_scale": 0.02,
        "gated_mlp": True,
        "kv_heads": 2,
    },
    "opt_biomedlm": {
        "rotary_dim": 0,
        "learned_positions": True,
        "inverse_layer_scale": True,
        "norm_place": "sum",
        "final_norm": False,
        "token_embed": 24,
        "parallel_residual": False,
    },
    "olmo": {
        "norm": "rms",
        "norm_place": "after",
        "qk_norm": "all",
        "attention_scale": 0.02,
        "clip_qkv": 2.0,
        "kv_heads": 2,
        "parallel_residual": False,
    },
}


def make(**options: Any) -> Decoder:
    decoder = Decoder(replace(CONFIG, **options), rngs=nnx.Rngs(0))
    return jax.tree.map(lambda x: 5 * x, decoder)  # so that attention is not uniform


def ids(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab, length).astype(np.int32)


def whole(one: Pass) -> Pass:
    """The same statistics without a shared prefix."""
    return Pass(one.read, one.seen + one.start)


def mixture() -> list[Pass]:
    """Conditional documents and variants, over prefixes of different lengths; some share all but one token."""
    passes = []
    for i in range(6):
        for context_ids in ([], [3]):
            document = ids(i, 30 + 9 * i).tolist()
            prefix = np.concatenate([np.array(context_ids, np.int32), ids(99, 150)])
            passes += [part.one for part in conditional_parts(prefix, 100 + i, context_ids, document)]
            passes += document_passes(context_ids, document, CONFIG.context)
            for place in (0, len(document) // 3, len(document) // 2, len(document) - 1):
                variant = [*document]
                variant[place] = (variant[place] + 1) % CONFIG.vocab
                passes += [part.one for part in variant_parts(context_ids, document, variant, CONFIG.context)]
    assert sum(one.prefix is not None for one in passes) > 30
    return passes


def largest_difference(got: list[TokenStats], expected: list[TokenStats]) -> float:
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        np.testing.assert_array_equal(a.mask, b.mask)
    return max(float(np.abs(a.log_prob - b.log_prob).max(initial=0)) for a, b in zip(got, expected))


@pytest.mark.parametrize("options", CONFIGS)
def test_equal_to_reading_all_at_once(options: str, one_device: jax.sharding.Mesh) -> None:
    decoder, passes = make(**CONFIGS[options]), mixture()
    shared = run_passes(decoder, passes, one_device, 512)
    alone = run_passes(decoder, [whole(one) for one in passes], one_device, 512)
    assert max(float(-one.log_prob.min(initial=0)) for one in alone) > 5  # there is something to tell apart
    assert largest_difference(shared, alone) < 3e-5


@pytest.mark.parametrize("options", ["rotary", pytest.param("gptj_stablelm", marks=pytest.mark.slow)])
def test_on_many_devices_and_over_stacked_models(one_device: jax.sharding.Mesh, options: str) -> None:
    decoder, passes = make(**CONFIGS[options]), mixture()
    alone = run_passes(decoder, [whole(one) for one in passes], one_device, 512)
    mesh = make_mesh(4, 2)
    placed = jax.tree.map(lambda x: jax.device_put(x, jax.NamedSharding(mesh, jax.P())), decoder)
    assert largest_difference(run_passes(placed, passes, mesh, 256), alone) < 3e-5
    stacked = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x]), decoder)
    both = run_passes(stacked, passes, one_device, 512)
    first = [TokenStats(*(field[0] for field in one)) for one in both]
    assert largest_difference(first, alone) < 3e-5
    assert all(one.log_prob.shape[0] == 2 for one in both)


def test_a_prefix_that_all_share_is_read_once(monkeypatch: pytest.MonkeyPatch, one_device: jax.sharding.Mesh) -> None:
    reads = []
    monkeypatch.setattr(engine, "read_batch", lambda decoder, tokens: reads.append(tokens) or READ(decoder, tokens))
    prefix = ids(0, 200)
    documents = [ids(i, 60).tolist() for i in range(1, 41)]
    passes = [part.one for d in documents for part in conditional_parts(prefix, 200, [], d)]
    run_passes(make(), passes, one_device, 256)
    assert [x.shape for x in reads] == [(1, 256)]


READ = engine.read_batch


def test_keys_are_those_of_plain_passes() -> None:
    for one in mixture():
        assert pass_key(one, "checkpoint", "float32") == pass_key(whole(one), "checkpoint", "float32")
    prefix = ids(0, 9)
    keys = {pass_key(Pass(ids(1, 5), 1, prefix, seen), "checkpoint", "float32") for seen in range(1, 10)}
    assert len(keys) == 9


@settings(max_examples=200)
@given(
    document=st.lists(st.integers(0, 3), max_size=12),
    variant=st.lists(st.integers(0, 3), max_size=12),
    bos=st.booleans(),
    context=st.sampled_from([4, 8, 100]),
)
def test_variants_are_made_of_what_they_share_and_their_own(
    document: list[int], variant: list[int], bos: bool, context: int
) -> None:
    context_ids = [9] if bos else []

    def spans_of(parts: list[Part]) -> list[tuple[list[int], int]]:
        """Each token of the span with all that predicts it; -1 stands for no prediction."""
        tokens = []
        for one, keep in parts:
            read = one.read.tolist()
            places = range(one.seen + one.start, len(read))
            tokens += [(read[:place] if place else [-1], read[place]) for place in places][keep]
        return tokens

    got = spans_of(variant_parts(context_ids, document, variant, context))
    assert got == spans_of([Part(one) for one in document_passes(context_ids, variant, context)])


def test_conditional_parts_score_what_a_plain_pass_scores(one_device: jax.sharding.Mesh) -> None:
    decoder, prefix, document = make(), ids(0, 50), ids(1, 20)
    for context_ids in ([], [int(prefix[0])]):
        plain = run_passes(decoder, document_passes(context_ids, document.tolist(), 400), one_device, 512)
        parts = conditional_parts(prefix, 50, context_ids, document.tolist())
        stats = join(run_passes(decoder, [part.one for part in parts], one_device, 512))
        np.testing.assert_array_equal(stats.mask, plain[0].mask)
        np.testing.assert_array_equal(stats.token_ids, document)


GROUPS = st.lists(
    st.tuples(st.integers(2, 400), st.lists(st.integers(2, 120), min_size=1, max_size=8)), min_size=1, max_size=8
)


@settings(max_examples=50)
@given(groups=GROUPS, batch_tokens=st.sampled_from([128, 1024]), ways=st.sampled_from([1, 4]))
def test_plans_keep_prefixes_apart(groups: list[tuple[int, list[int]]], batch_tokens: int, ways: int) -> None:
    """Prefixes that are no passes of their own are read: one for each batch."""
    passes = [
        Pass(ids(i, n), 1, ids(1000 + i, past), past) for i, (past, lengths) in enumerate(groups) for n in lengths
    ]
    plan = plan_batches(passes, batch_tokens, ways)
    placed = []
    for batch in plan:
        assert batch.rows % ways == 0
        assert batch.past % GRAIN == 0
        arrays = batch_arrays(batch, passes)
        assert arrays.seen is not None
        assert arrays.trunks is None
        tokens = prefix_tokens(batch, passes)[0]
        for number, row, offset, *_ in batch.pieces:
            one = passes[number]
            assert one.prefix is not None
            stop = offset + len(one)
            np.testing.assert_array_equal(tokens[: one.seen], one.prefix[: one.seen])
            assert (arrays.seen[row, offset:stop] == one.seen).all()
            np.testing.assert_array_equal(arrays.positions[row, offset:stop], one.seen + np.arange(len(one)))
            placed.append(number)
        for number, row, place in spans(batch, passes):
            np.testing.assert_array_equal(arrays.targets[row, place], passes[number].ids[1:])
    assert sorted(placed) == list(range(len(passes)))


@settings(max_examples=50)
@given(
    groups=GROUPS,
    alone=st.lists(st.integers(2, 300), max_size=5),
    batch_tokens=st.sampled_from([128, 4096]),
    ways=st.sampled_from([1, 4]),
    limit=st.sampled_from([1, 8]),
)
def test_plans_of_trees(
    groups: list[tuple[int, list[int]]], alone: list[int], batch_tokens: int, ways: int, limit: int
) -> None:
    """Each pass is wanted once; what goes on from another stands behind it, or behind a copy of it, in its row."""
    passes = [Pass(ids(500 + i, length)) for i, length in enumerate(alone)]
    for i, (past, lengths) in enumerate(groups):
        trunk = ids(1000 + i, past)
        passes += [Pass(trunk), *(Pass(ids(j, n), 1, trunk, 1 + j % past) for j, n in enumerate(lengths))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "LONGEST_ROW", 640)
        patch.setattr(batching, "TREE", limit)
        plan = plan_batches(passes, batch_tokens, ways)
    wanted = [piece.number for batch in plan for piece in batch.wanted]
    assert sorted(wanted) == list(range(len(passes)))
    for batch in plan:
        assert batch.rows % ways == 0
        arrays = batch_arrays(batch, passes)
        used = np.zeros((batch.rows, batch.time), int)
        at = {(piece.row, piece.offset): piece.number for piece in batch.pieces}
        for number, row, offset, trunk, _ in batch.pieces:
            one = passes[number]
            place = slice(offset, offset + len(one))
            used[row, place] += 1
            if batch.tree:
                assert arrays.trunks is not None
                assert (arrays.trunks[row, place] == trunk).all()
                assert trunk <= offset
                below = passes[at[row, trunk]].ids
                np.testing.assert_array_equal(below, one.ids if one.prefix is None else one.prefix)
        assert used.max() <= 1


def test_trees_are_one_shape_and_compute_less() -> None:
    """Thirty documents with 25 neighbors each, which differ anywhere."""
    random, passes = np.random.default_rng(0), []
    for i in range(30):
        document = ids(i, int(random.integers(200, 400)))
        passes.append(Pass(document))
        for _ in range(25):
            seen = int(random.integers(1, len(document)))
            passes.append(Pass(ids(7, len(document) - seen + 1), 1, document, seen))
    plan = plan_batches(passes, 2048)
    assert len({(batch.rows, batch.time, batch.tree) for batch in plan}) == 1
    computed = sum(batch.rows * batch.time for batch in plan)
    assert computed < 0.7 * sum(len(one.read) for one in passes)
    assert padding_share(plan, passes) < 0.3  # most of it copies of documents

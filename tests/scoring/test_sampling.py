"""Sampled continuations: the tokens that plain decoding would give, whatever they are computed with."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from mimir_jax.config import ConfigError, SamplesConfig
from mimir_jax.models.decoder import Decoder
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.scoring import sampling
from mimir_jax.scoring.engine import ScoringError
from mimir_jax.scoring.model import Model, load_model, stack_models
from mimir_jax.scoring.sampling import (
    CACHED,
    GRAIN,
    check_samples,
    cut,
    draw_tokens,
    plan_prompts,
    sample_continuations,
)
from mimir_jax.scoring.store import Store
from mimir_jax.scoring.tokens import Tokens
from mimir_jax.testing import TINY, write_checkpoint

pytestmark = pytest.mark.slow  # as a whole

VOCAB = 300  # of the tiny tokenizer, and of these models but for one
NEOX: dict[str, Any] = {"vocab_size": VOCAB}
LESS = dict.fromkeys(TINY)  # none of GPT-NeoX's fields
GPT_NEO: dict[str, Any] = LESS | {
    "model_type": "gpt_neo", "vocab_size": VOCAB, "hidden_size": 64, "num_layers": 4, "num_heads": 4,
    "intermediate_size": 96, "max_position_embeddings": 192, "attention_types": [[["global", "local"], 2]],
    "window_size": 9,
}  # fmt: skip
GPT2: dict[str, Any] = LESS | {
    "model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96,
    "n_positions": 160,
}  # fmt: skip
LLAMA: dict[str, Any] = LESS | {
    "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 160,
}  # fmt: skip
GEMMA2: dict[str, Any] = LLAMA | {
    "model_type": "gemma2", "head_dim": 16, "sliding_window": 9, "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0, "layer_types": ["sliding_attention", "full_attention"],
    "tie_word_embeddings": False,  # a tied one repeats itself
}  # fmt: skip
GEMMA3: dict[str, Any] = LLAMA | {
    "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 9, "rope_local_base_freq": 100.0,
    "layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": False,
}  # fmt: skip
GPTJ: dict[str, Any] = GPT2 | {"model_type": "gptj", "rotary_dim": 8}
OPT: dict[str, Any] = LESS | {
    "model_type": "opt", "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "ffn_dim": 96, "max_position_embeddings": 160, "do_layer_norm_before": False, "word_embed_proj_dim": 32,
    "tie_word_embeddings": False,
}  # fmt: skip
KINDS = {
    "gpt_neox": NEOX, "gpt_neo": GPT_NEO, "gpt2": GPT2, "llama": LLAMA, "gemma2": GEMMA2, "gemma3_text": GEMMA3,
    "gptj": GPTJ, "opt": OPT,
}  # fmt: skip

RNG = np.random.default_rng(0)
SIZES = (1, 40, 7, 64, 33)
LENGTHS = (30, 64, 12, 1, 40)
PROMPTS = [RNG.integers(1, VOCAB, size).tolist() for size in SIZES]


class Vocabulary:
    """As much of a tokenizer as sampling asks for."""

    def __init__(self, size: int = VOCAB, eos: int | None = None):
        self.size, self.eos_token_id = size, eos

    def __len__(self) -> int:
        return self.size


def with_eos(model: Model, eos: int | None, size: int = VOCAB) -> Model:
    return replace(model, tokenizer=Vocabulary(size, eos))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def folder(kind: str, seed: int = 0) -> Path:
        return write_checkpoint(tmp_path_factory.mktemp(kind), seed, **KINDS[kind])

    return folder


@pytest.fixture(scope="module")
def model(folders: Any, one_device: jax.sharding.Mesh) -> Model:
    """Without an end of text, unless a test sets it."""
    return with_eos(load_model(folders("gpt_neox"), mesh=one_device), None)


def shown(model: Model, **options: Any) -> Any:
    return sample_continuations(model, PROMPTS, LENGTHS, **{"count": 3, "top_k": 50} | options)


@pytest.fixture(scope="module")
def sampled(model: Model) -> list[list[list[int]]]:
    return shown(model)


@jax.jit
def _logits(decoder: Decoder, tokens: Any, positions: Any, segments: Any) -> jax.Array:
    return decoder.logits(tokens, positions, segments)


def plain_logits(decoder: Decoder, ids: Sequence[int]) -> np.ndarray:
    """[time, vocab] of one text, read anew."""
    tokens = np.zeros((1, decoder.config.context), np.int32)
    tokens[0, : len(ids)] = ids
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
    return np.asarray(_logits(decoder, tokens, positions, np.zeros_like(tokens)))[0, : len(ids)]


# What is written.


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_argmax_and_hugging_faces(folders: Any, one_device: jax.sharding.Mesh, kind: str) -> None:
    model = with_eos(load_model(folders(kind), mesh=one_device), None)
    some = slice(None) if kind == "gpt_neox" else slice(1, None, 3)
    found = sample_continuations(model, PROMPTS[some], LENGTHS[some], count=2, top_k=1)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders(kind), attn_implementation="eager").eval()
    theirs.generation_config.eos_token_id = None
    for prompt, length, samples in zip(PROMPTS[some], LENGTHS[some], found):
        one = samples[0]
        assert one == samples[1]
        assert len(one) == length
        logits = plain_logits(model.decoder, [*prompt, *one])[len(prompt) - 1 : -1]
        assert one == logits.argmax(axis=-1).tolist()
        written = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=length,
            pad_token_id=0,
        )
        assert one == written[0, len(prompt) :].tolist()
    assert len({token for samples in found for token in samples[0]}) > 10


def test_a_continuation_ends_before_the_end_of_text(model: Model) -> None:
    endless = shown(model)
    eos = endless[1][0][30]
    ended = shown(with_eos(model, eos))
    for samples, whole, length in zip(ended, endless, LENGTHS):
        for one, other in zip(samples, whole):
            assert len(other) == length
            assert one == (other[: other.index(eos)] if eos in other else other)
    assert len(ended[1][0]) <= 30


def test_an_end_of_text_at_once(model: Model, sampled: list[list[list[int]]]) -> None:
    ended = shown(with_eos(model, sampled[0][1][0]))
    assert ended[0][1] == []
    assert ended[0][0] == sampled[0][0][: len(ended[0][0])] != []


def test_the_tokenizers_own_end_of_text(model: Model, folders: Any, one_device: jax.sharding.Mesh) -> None:
    loaded = load_model(folders("gpt_neox"), mesh=one_device)
    assert loaded.tokenizer.eos_token_id == 0
    assert shown(loaded) == shown(with_eos(model, 0))


def test_without_a_prompt_or_anything_to_write(model: Model) -> None:
    found = sample_continuations(model, [[], [5, 6], [5, 6]], [4, 0, 4], count=2)
    assert [len(samples) for samples in found] == [0, 0, 2]
    assert sample_continuations(model, [], []) == []
    assert sample_continuations(model, [[]], [3]) == [[]]


def test_the_whole_context(model: Model) -> None:
    context = model.decoder.config.context
    prompt = RNG.integers(1, VOCAB, context - 10).tolist()
    ((one,),) = sample_continuations(model, [prompt], [10], count=1, top_k=1)
    assert one == plain_logits(model.decoder, [*prompt, *one])[context - 11 : -1].argmax(axis=-1).tolist()
    with pytest.raises(ValueError, match=f"prompt 1: {context - 10} \\+ 11 tokens exceed the context of {context}"):
        sample_continuations(model, [[1], prompt], [1, 11])


def test_no_token_that_the_tokenizer_has_not(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """Twenty of 320 logits are padding: as probable as others in a random model, and no text."""
    padded = with_eos(load_model(write_checkpoint(tmp_path), mesh=one_device), None)
    (samples,) = sample_continuations(padded, [[5]], [20], count=50, top_k=1000, temperature=3.0)
    drawn = np.array(samples)
    assert drawn.max() < VOCAB
    assert len(np.unique(drawn)) > 200


# What it depends on.


def test_samples_differ_and_repeat(model: Model, sampled: list[list[list[int]]]) -> None:
    assert shown(model) == sampled
    for samples in (sampled[0], sampled[1], sampled[2]):
        assert len({tuple(one) for one in samples}) == 3
    other = shown(model, seed=1)
    assert all(a != b for a, b in zip(other[0], sampled[0]))


def test_batch_mates_do_not_matter(model: Model, sampled: list[list[list[int]]]) -> None:
    for i in (0, 4):
        assert sample_continuations(model, [PROMPTS[i]], [LENGTHS[i]], count=3) == [sampled[i]]
    order = [2, 0, 1, 4, 3]
    found = sample_continuations(model, [PROMPTS[i] for i in order], [LENGTHS[i] for i in order], count=3)
    assert found == [sampled[i] for i in order]


def test_batch_tokens_do_not_matter(model: Model, sampled: list[list[list[int]]]) -> None:
    assert shown(model, batch_tokens=100) == sampled


def test_equal_prompts_have_equal_samples(model: Model, sampled: list[list[list[int]]]) -> None:
    found = sample_continuations(model, [PROMPTS[1], PROMPTS[1]], [64, 5], count=3)
    assert found == [sampled[1], [one[:5] for one in sampled[1]]]


def test_a_sample_does_not_depend_on_their_number(model: Model, sampled: list[list[list[int]]]) -> None:
    (found,) = sample_continuations(model, [PROMPTS[2]], [LENGTHS[2]], count=130)  # more than a block of queries
    assert found[:3] == sampled[2]
    assert len(found) == 130


def test_devices_do_not_matter(folders: Any, sampled: list[list[list[int]]]) -> None:
    assert shown(with_eos(load_model(folders("gpt_neox"), mesh=make_mesh(2, 4)), None)) == sampled


@pytest.mark.slow
def test_devices_do_not_matter_to_grouped_queries(folders: Any, one_device: jax.sharding.Mesh) -> None:
    one, split = (
        sample_continuations(with_eos(load_model(folders("llama"), mesh=mesh), None), PROMPTS[:2], LENGTHS[:2], count=3)
        for mesh in (one_device, make_mesh(2, 4))
    )
    assert one == split


def test_stacked_models_equal_one_by_one(
    folders: Any, model: Model, one_device: jax.sharding.Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a store keeps of them is not sampled again, unless with another seed."""
    other = with_eos(load_model(folders("gpt_neox", 1), mesh=one_device), None)
    stacked = with_eos(stack_models([load_model(folders("gpt_neox", i), mesh=one_device) for i in (0, 1)]), None)
    started, done = [], []
    found = shown(stacked, on_start=started.append, on_batch=done.append, store=Store(tmp_path))

    def refused(*given: Any, **more: Any) -> Any:
        raise AssertionError("sampled again")

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write_batch", refused)
        assert shown(stacked, store=Store(tmp_path)) == found
        with pytest.raises(AssertionError, match="sampled again"):
            shown(stacked, store=Store(tmp_path), seed=1)
    assert found == [shown(model), shown(other)]
    assert started == [2 * (sum(SIZES) + 3 * sum(LENGTHS))]
    assert sum(done) == started[0]


def test_bfloat16(folders: Any, one_device: jax.sharding.Mesh) -> None:
    """Rounding may choose between near equals; the tokens are the best ones but for that."""
    model = with_eos(load_model(folders("gpt_neo"), mesh=one_device, dtype="bfloat16"), None)
    found = sample_continuations(model, PROMPTS[:2], LENGTHS[:2], count=1, top_k=1)
    for prompt, (one,) in zip(PROMPTS, found):
        logits = plain_logits(model.decoder, [*prompt, *one])[len(prompt) - 1 : -1]
        behind = logits.max(axis=-1) - logits[np.arange(len(one)), one]
        assert behind.max() < 0.1
        assert (behind == 0).mean() > 0.9


# Of what distribution.


def expected_shares(logits: np.ndarray, top_k: int, temperature: float) -> np.ndarray:
    top = np.sort(logits.astype(np.float64))[-top_k]
    weights = np.where(logits >= top, np.exp((logits - logits.max()) / np.float64(temperature)), 0.0)
    return weights / weights.sum()


def assert_drawn_from(drawn: np.ndarray, shares: np.ndarray) -> None:
    """A chi-square test at one in a thousand; those hardly ever expected are taken together."""
    counts = np.bincount(drawn, minlength=len(shares))
    assert counts[shares == 0].sum() == 0
    rare = shares * len(drawn) < 5
    found = np.append(counts[~rare], counts[rare].sum())
    expected = len(drawn) * np.append(shares[~rare], shares[rare].sum())
    keep = expected > 0
    assert keep.sum() > 2
    assert chisquare(found[keep], expected[keep]).pvalue > 1e-3


@pytest.mark.parametrize(("top_k", "temperature"), [(8, 1.0), (5, 1.0), (5, 0.5), (8, 3.0), (2, 1.0)])
def test_the_distribution_of_a_draw(top_k: int, temperature: float) -> None:
    logits = np.array([0.3, -1.0, 2.0, 0.0, 1.2, -3.0, 1.9, 0.5], np.float32)
    seed = np.random.default_rng(3).integers(0, 1 << 32, (20, 1000, 2), np.uint32)
    logits = np.broadcast_to(logits, (20, 1000, 8))
    drawn = draw_tokens(jnp.asarray(logits), seed, jnp.int32(4), top_k, jnp.float32(temperature))
    assert drawn.shape == (20, 1000)
    if top_k > 2:
        assert_drawn_from(np.asarray(drawn).ravel(), expected_shares(logits[0, 0], top_k, temperature))
    else:
        share = (np.asarray(drawn) == 2).mean()
        assert share == pytest.approx(1 / (1 + np.exp(-0.1)), abs=4 * (0.25 / 20000) ** 0.5)


def test_a_swap_of_near_equals_changes_no_other_draw() -> None:
    """Noise is the id's: rounding that swaps two ranks leaves the choice alone, but where these two are the best."""
    logits = np.linspace(1, 0, 8, dtype=np.float32)
    logits[6] = logits[5]
    swapped = logits.copy()
    swapped[6] = np.nextafter(logits[6], np.float32(2))
    seed = np.random.default_rng(0).integers(0, 1 << 32, (1, 2000, 2), np.uint32)
    one, other = (
        draw_tokens(jnp.broadcast_to(x, (1, 2000, 8)), seed, jnp.int32(0), 8, jnp.float32(1)) for x in (logits, swapped)
    )
    np.testing.assert_array_equal(one, other)


def test_the_distribution_of_two_steps(model: Model) -> None:
    """The second token's, given the first: steps share no randomness, and neither do samples."""
    prompt = PROMPTS[2]
    drawn = np.concatenate(
        [sample_continuations(model, [prompt], [2], 100, top_k=20, temperature=1.5, seed=seed)[0] for seed in range(40)]
    )
    logits = plain_logits(model.decoder, prompt)[-1]
    assert_drawn_from(drawn[:, 0], expected_shares(logits, 20, 1.5))
    for first in np.argsort(-np.bincount(drawn[:, 0]))[:3]:
        logits = plain_logits(model.decoder, [*prompt, int(first)])[-1]
        assert_drawn_from(drawn[drawn[:, 0] == first, 1], expected_shares(logits, 20, 1.5))


# How it is computed.


def test_few_shapes_and_nothing_is_compiled_twice(
    tmp_path: Path, one_device: jax.sharding.Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    # A shape of its own, so that no other test has compiled it.
    model = load_model(write_checkpoint(tmp_path, num_hidden_layers=1, intermediate_size=24), mesh=one_device)

    def compiled(prompts: list[list[int]], lengths: list[int], **options: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jax"), jax.log_compiles():
            sample_continuations(model, prompts, lengths, count=2, **options)
        messages = [record.getMessage() for record in caplog.records]
        return [m for m in messages if m.startswith("Compiling") and "write_batch" in m]

    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, VOCAB, n).tolist() for n in rng.integers(1, 65, 50)]
    lengths = [len(prompt) for prompt in prompts]
    assert len(compiled(prompts, lengths)) == 2  # up to 32 tokens, and up to 64
    assert compiled(prompts[::-1], lengths[::-1], seed=5, temperature=0.5) == []


@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 300)), max_size=40),
    st.integers(1, 20),
    st.integers(1, 5000),
    st.integers(1, 8),
)
def test_the_plan(documents: list[tuple[int, int]], count: int, batch_tokens: int, ways: int) -> None:
    sizes, lengths = [size for size, _ in documents], [length for _, length in documents]
    plan = plan_prompts(sizes, lengths, count, 1000, batch_tokens, ways)
    placed = [i for batch in plan for i in batch.documents]
    assert sorted(placed) == [i for i, (size, length) in enumerate(documents) if size and length]
    assert len({(batch.rows, batch.width, batch.steps) for batch in plan}) <= 6
    for batch in plan:
        assert 0 < len(batch.documents) <= batch.rows
        assert batch.rows % ways == 0
        assert max(sizes[i] for i in batch.documents) <= batch.width <= 1000
        assert max(lengths[i] for i in batch.documents) <= batch.steps
        assert batch.width <= max(2 * max(sizes[i] for i in batch.documents), GRAIN)
        rows = batch.rows // ways
        if rows > 1:
            assert rows * (batch.width + count * batch.steps) <= CACHED * batch_tokens
            assert rows * max(batch.width, count) <= batch_tokens


def test_progress(model: Model) -> None:
    started, done = [], []
    shown(model, batch_tokens=128, on_start=started.append, on_batch=done.append)
    assert started == [sum(SIZES) + 3 * sum(LENGTHS)]
    assert sum(done) == started[0]
    assert len(done) > 2


# What is refused.


def test_logits_that_are_not_finite(model: Model) -> None:
    decoder = jax.tree.map(lambda x: x, model.decoder)
    decoder.final_norm.scale[...] = decoder.final_norm.scale[...].at[3].set(jnp.nan)
    with pytest.raises(ScoringError, match="logits that are not finite"):
        sample_continuations(replace(model, decoder=decoder), PROMPTS[:1], [3], count=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "samples.count: 0, must be at least 1"),
        ({"top_k": 0}, "samples.top_k: 0, must be at least 1"),
        ({"prefix": 0.0}, "samples.prefix: 0.0, must be a share between 0 and 1"),
        ({"prefix": 1.0}, "samples.prefix: 1.0"),
        ({"temperature": 0.0}, "samples.temperature: 0.0, must be above 0; top_k=1 is greedy"),
        ({"temperature": float("nan")}, "samples.temperature: nan"),
        ({"temperature": float("inf")}, "samples.temperature: inf"),
    ],
)
def test_configurations(fields: dict[str, Any], message: str) -> None:
    check_samples(SamplesConfig())
    with pytest.raises(ConfigError) as caught:
        check_samples(SamplesConfig(**fields))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "share", "expected"),
    [
        (Tokens([], [1, 2, 3, 4, 5]), 0.5, ([1, 2], [3, 4, 5])),
        (Tokens([9], [1, 2, 3, 4]), 0.5, ([9, 1, 2], [3, 4])),
        (Tokens([9], [1]), 0.5, ([9], [1])),
        (Tokens([], [1]), 0.5, ([], [1])),
        (Tokens([9], []), 0.5, ([9], [])),
        (Tokens([], list(range(20))), 0.5, ([0, 1, 2, 3], [4, 5, 6, 7])),
        (Tokens([9], list(range(20))), 0.5, ([9, 0, 1, 2], [3, 4, 5, 6])),
    ],
)
def test_cutting_documents(tokens: Tokens, share: float, expected: tuple[list[int], list[int]]) -> None:
    assert cut(tokens, share, context=8) == expected

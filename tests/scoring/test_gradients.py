"""Gradient norms equal those of torch's autograd, tensor by tensor, and the original's; nothing else moves them."""

import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.models.checkpoint import load_decoder, read_config
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.mesh import make_mesh, sharding_of
from mimir_jax.scoring import gradient_moments, gradients
from mimir_jax.scoring.engine import ScoringError
from mimir_jax.scoring.gradients import choose_sizes, gradient_norms, plan_documents
from mimir_jax.scoring.model import DTYPES, Model, Source, load_model
from mimir_jax.scoring.passes import Pass, document_passes
from mimir_jax.scoring.store import Store
from mimir_jax.scoring.tokens import tokenize

pytestmark = pytest.mark.slow  # as a whole

torch.set_num_threads(1)  # its threads wait for one another where other tests use the cores

CONTEXT = 160
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
CLASSES = {
    "gpt_neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM),
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
    "gpt_neo": (transformers.GPTNeoConfig, transformers.GPTNeoForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    "gemma3_text": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    "gptj": (transformers.GPTJConfig, transformers.GPTJForCausalLM),
    "opt": (transformers.OPTConfig, transformers.OPTForCausalLM),
    "phi": (transformers.PhiConfig, transformers.PhiForCausalLM),
    "stablelm": (transformers.StableLmConfig, transformers.StableLmForCausalLM),
    "olmo": (transformers.OlmoConfig, transformers.OlmoForCausalLM),
    "olmo2": (transformers.Olmo2Config, transformers.Olmo2ForCausalLM),
}
COMMON = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0}
WIDE = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": CONTEXT}
LLAMA = {**WIDE, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LOCAL_FIRST = {
    "head_dim": 8,
    "sliding_window": 9,
    "layer_types": ["sliding_attention", "full_attention"],
    "pad_token_id": None,  # torch leaves its embedding out of the gradient, and here it is a token like others
}
TINY: dict[str, dict[str, Any]] = {
    "gpt_neox": {
        **WIDE,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "rope_parameters": {**ROPE, "partial_rotary_factor": 0.25},
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": CONTEXT},
    "gpt_neo": {
        **WIDE,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 9,
    },
    "llama": LLAMA,
    "gemma2": {**LLAMA, **LOCAL_FIRST, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {**LLAMA, **LOCAL_FIRST},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": CONTEXT, "rotary_dim": 4},
    # torch has no gradient of the embedding of padding, which is an id like any other in a document
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "max_position_embeddings": CONTEXT,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "pad_token_id": None,
    },
    "phi": LLAMA,
    "stablelm": LLAMA,
    "olmo": {**LLAMA, "pad_token_id": None},
    "olmo2": {**LLAMA, "pad_token_id": None},
}
# What decides which tensors there are and which of ours make one of them.
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox_one_after_the_other": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt_neox_tied_without_biases": ("gpt_neox", {"tie_word_embeddings": True, "attention_bias": False}),
    "gpt2": ("gpt2", {}),
    "gpt2_untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt_neo": ("gpt_neo", {}),
    "llama": ("llama", {}),
    "llama_tied_with_biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "gemma2": ("gemma2", {}),
    "gemma2_untied": ("gemma2", {"tie_word_embeddings": False}),
    "gemma3": ("gemma3_text", {}),
    "gpt2_inverse_layers": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gptj": ("gptj", {}),
    "opt": ("opt", {}),
    "opt_350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "opt_projected_untied": ("opt", {"word_embed_proj_dim": 24, "tie_word_embeddings": False}),
    "phi_tied_norms_of_heads": ("phi", {"qk_layernorm": True, "tie_word_embeddings": True}),
    "stablelm_12b": ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True}),
    "olmo": ("olmo", {"clip_qkv": 0.5}),
    "olmo2": ("olmo2", {}),
}
# The rest have what these have between them; they take a while.
LONG = frozenset(["gpt2_inverse_layers", "gptj", "opt", "opt_projected_untied", "olmo", "olmo2"])
CASES = [pytest.param(option, marks=[pytest.mark.slow] * (option in LONG)) for option in OPTIONS]
LENGTHS = (2, 40, 7, 131, 33, 40)
MEMORIES = (1, gradients.DEFAULT_MEMORY)  # products computed again and one document at a time; kept, all at once


def torch_model(kind: str, overrides: dict[str, Any], seed: int = 0) -> Any:
    """A tiny torch model in which no weight is neutral."""
    config_class, model_class = CLASSES[kind]
    config = config_class(attn_implementation="eager", **{**COMMON, **TINY[kind], **overrides})
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            values = 0.3 * values
        elif weight.ndim == 1:
            values = 1 + 0.3 * values
        else:
            values = values / 32**0.5
        weight.data.copy_(values)
    return model


def our_model(folder: Path, mesh: jax.sharding.Mesh, dtype: str = "float32") -> Model:
    """A model without a tokenizer, from files."""
    decoder = load_decoder(folder, sharding_of(mesh), DTYPES[dtype])
    return Model(decoder, None, mesh, (Source(folder, folder.name, None, {}),), dtype)


def write(folder: Path, kind: str = "gpt_neox", seed: int = 0, **overrides: Any) -> Path:
    torch_model(kind, overrides, seed).save_pretrained(folder)
    return folder


def random_passes(length: int, seed: int, bos: bool = False, context: int = CONTEXT) -> list[Pass]:
    ids = np.random.default_rng(seed).integers(0, COMMON["vocab_size"], length).tolist()
    return document_passes(ids[:1], ids[1:], context) if bos else document_passes([], ids, context)


DOCUMENTS = [random_passes(length, seed, bos=seed % 2 == 1) for seed, length in enumerate(LENGTHS)]


def torch_gradients(model: Any, passes: Sequence[Pass]) -> dict[str, np.ndarray]:
    """The gradient of the nll, the mean over all scored tokens of all windows, by parameter."""
    model.zero_grad()
    log_probs = []
    for one in passes:
        ids = torch.tensor(one.ids, dtype=torch.long)
        predicted = torch.log_softmax(model(ids[None], use_cache=False).logits[0, :-1], dim=-1)
        log_probs.append(predicted.gather(-1, ids[1:, None])[len(one) - 1 - one.sources :, 0])
    torch.cat(log_probs).mean().neg().backward()
    return {name: weight.grad.numpy() for name, weight in model.named_parameters() if weight.grad is not None}


def torch_norms(model: Any, documents: Sequence[Sequence[Pass]]) -> np.ndarray:
    """[norm, doc]."""
    columns = []
    for passes in documents:
        flat = [gradient.ravel().astype(np.float64) for gradient in torch_gradients(model, passes).values()]
        columns.append([np.mean([np.linalg.norm(g, p) for g in flat]) for p in (1, 2, np.inf)])
    return np.array(columns).T


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gradients"))


@pytest.fixture(scope="module")
def model(folder: Path, one_device: jax.sharding.Mesh) -> Model:
    return our_model(folder, one_device)


@pytest.fixture(scope="module")
def norms(model: Model) -> np.ndarray:
    return gradient_norms(model, DOCUMENTS)


# What is computed.


@pytest.mark.parametrize("option", ["gpt_neox", "gpt2", "llama_tied_with_biases", "gemma2"])  # the others: below
def test_norms_are_those_of_torch(tmp_path: Path, one_device: jax.sharding.Mesh, option: str) -> None:
    kind, overrides = OPTIONS[option]
    theirs = torch_model(kind, overrides)
    theirs.save_pretrained(tmp_path)
    ours = our_model(tmp_path, one_device)
    expected = torch_norms(theirs, DOCUMENTS)
    got = gradient_norms(ours, DOCUMENTS, memory=1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("option", CASES)
def test_each_tensor_is_one_of_torch(tmp_path: Path, one_device: jax.sharding.Mesh, option: str) -> None:
    """A mean over tensors hides the small ones: each published tensor has its own norms."""
    kind, overrides = OPTIONS[option]
    theirs = torch_model(kind, overrides)
    theirs.save_pretrained(tmp_path)
    ours = our_model(tmp_path, one_device)
    family, config = read_config(tmp_path)
    (shape, members), *_ = plan_documents([DOCUMENTS[3]], config, 2**30, 1)
    assert members == [0]
    arrays = gradients.document_arrays([DOCUMENTS[3]], shape)
    found = jax.jit(lambda decoder, arrays: gradient_moments.document_moments(decoder, arrays, one_device, shape.keep))(
        ours.decoder, jax.tree.map(lambda x: x[0], arrays)
    )
    expected = torch_gradients(theirs, DOCUMENTS[3])
    if "lm_head.weight" in expected and kind == "gpt_neox":  # transformers 5 renames what files call embed_out
        expected["embed_out.weight"] = expected.pop("lm_head.weight")
    names = {row.path: row.name for row in family.rows(config)}
    seen = set()
    for paths in gradients.tensor_groups(family, config):
        together = np.asarray(gradient_moments.add_moments(*(found[path] for path in paths))).reshape(-1, 3)
        for layer, (total, squares, largest) in enumerate(together):
            name = names[paths[0]].format(layer)
            seen.add(name)
            gradient = expected[name].astype(np.float64)
            wanted = [np.abs(gradient).sum(), (gradient**2).sum(), np.abs(gradient).max()]
            # the gradient of a key's bias is 0 but for rounding: softmax does not see it
            floor = 1e-5 if name.endswith("k_proj.bias") else 0
            np.testing.assert_allclose([total, squares, largest], wanted, rtol=2e-4, atol=floor, err_msg=name)
    assert seen == set(expected)


@pytest.mark.parametrize(
    ("option", "bos"), [("gpt_neox", False), ("gpt2", True), ("gpt_neo", False), ("llama", True), ("gemma3", True)]
)
def test_windows_are_summed(tmp_path: Path, one_device: jax.sharding.Mesh, option: str, bos: bool) -> None:
    kind, overrides = OPTIONS[option]
    size = "n_positions" if kind == "gpt2" else "max_position_embeddings"
    theirs = torch_model(kind, {**overrides, size: 48})
    theirs.save_pretrained(tmp_path)
    documents = [random_passes(length, length, bos, context=48) for length in (49, 48, 100, 130, 20, 97)]
    assert [len(passes) for passes in documents] == [2, 1, 4, 5, 1, 4]
    got = gradient_norms(our_model(tmp_path, one_device), documents)
    np.testing.assert_allclose(got, torch_norms(theirs, documents), rtol=1e-4)


def test_documents_without_a_scored_token(model: Model, norms: np.ndarray) -> None:
    empty, one_token = Pass(np.zeros(0, np.int32)), Pass(np.array([5], np.int32))
    only_bos = Pass(np.array([0], np.int32), 1)
    got = gradient_norms(model, [[empty], DOCUMENTS[1], [one_token], [], [only_bos]])
    assert got.shape == (3, 5)
    assert np.isnan(got).tolist() == [[True, False, True, True, True]] * 3
    np.testing.assert_allclose(got[:, 1], norms[:, 1], rtol=1e-5)
    assert gradient_norms(model, []).shape == (3, 0)
    started: list[int] = []
    assert np.isnan(gradient_norms(model, [[empty]], on_start=started.append)).all()
    assert started == [0]


def test_a_prefix_is_read_by_the_pass_itself(model: Model, norms: np.ndarray) -> None:
    """Gradients go through a prefix whose keys and values others may share."""
    ids = DOCUMENTS[3][0].ids
    shared = Pass(ids[18:], 2, ids[:60], 18)
    np.testing.assert_array_equal(gradient_norms(model, [[shared]]), gradient_norms(model, [[Pass(ids, 20)]]))


# What it does not depend on.


def test_batch_mates_and_padding_do_not_matter(model: Model, norms: np.ndarray) -> None:
    for index in (0, 3):
        np.testing.assert_allclose(gradient_norms(model, [DOCUMENTS[index]])[:, 0], norms[:, index], rtol=1e-5)


def test_what_is_on_padding_does_not_matter(model: Model, one_device: jax.sharding.Mesh) -> None:
    groups = gradients.tensor_groups(*read_config(model.sources[0].folder))
    shape = gradients.Shape(2, 2, 64, False)
    arrays = gradients.document_arrays([DOCUMENTS[1], DOCUMENTS[4]], shape)
    rng = np.random.default_rng(0)
    padding = arrays.segments == 1
    tokens = np.where(padding, rng.integers(0, 300, padding.shape, np.int32), arrays.tokens)
    positions = np.where(padding, rng.integers(0, 50, padding.shape, np.int32), arrays.positions)
    targets = np.where(arrays.weights == 0, rng.integers(0, 300, padding.shape, np.int32), arrays.targets)
    slots = np.stack([np.unique(ids, return_inverse=True)[1].reshape(2, 64) for ids in tokens]).astype(np.int32)
    filled = arrays._replace(tokens=tokens, positions=positions, targets=targets, slots=slots)
    one, other = (
        np.asarray(gradient_moments.batch_norms(model.decoder, a, one_device, groups, False)) for a in (arrays, filled)
    )
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_order_does_not_matter(model: Model, norms: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(DOCUMENTS))
    np.testing.assert_allclose(gradient_norms(model, [DOCUMENTS[i] for i in order]), norms[:, order], rtol=1e-5)


@pytest.mark.parametrize("memory", [1, 2**20, 2**22])
def test_memory_does_not_matter(model: Model, norms: np.ndarray, memory: int) -> None:
    np.testing.assert_allclose(gradient_norms(model, DOCUMENTS, memory=memory), norms, rtol=1e-5)


@pytest.mark.parametrize("option", ["gpt_neox", "gpt2"])
def test_tiles_do_not_matter(
    tmp_path: Path, one_device: jax.sharding.Mesh, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """300 columns in tiles of which the last begins within the one before it, or in one."""
    kind, overrides = OPTIONS[option]
    model = our_model(write(tmp_path, kind, **overrides), one_device)
    whole = gradient_norms(model, DOCUMENTS)
    monkeypatch.setattr(gradient_moments, "TILE", 70 if option == "gpt2" else 97)
    jax.clear_caches()
    for memory in MEMORIES:
        np.testing.assert_allclose(gradient_norms(model, DOCUMENTS, memory=memory), whole, rtol=1e-5)
    jax.clear_caches()


@pytest.mark.parametrize(
    ("option", "data", "ways", "memory"),
    [
        ("gpt_neox", 2, 4, 1),
        ("gpt2", 4, 2, gradients.DEFAULT_MEMORY),
        pytest.param("phi_tied_norms_of_heads", 2, 4, gradients.DEFAULT_MEMORY, marks=pytest.mark.slow),
        pytest.param("opt_projected_untied", 4, 2, 1, marks=pytest.mark.slow),
        pytest.param("gpt_neox", 8, 1, gradients.DEFAULT_MEMORY, marks=pytest.mark.slow),
        pytest.param("llama", 1, 8, 1, marks=pytest.mark.slow),
        pytest.param("gpt2", 1, 2, gradients.DEFAULT_MEMORY, marks=pytest.mark.slow),
    ],
)
def test_devices_do_not_matter(
    tmp_path: Path, one_device: jax.sharding.Mesh, option: str, data: int, ways: int, memory: int
) -> None:
    kind, overrides = OPTIONS[option]
    write(tmp_path, kind, vocab_size=304, **overrides)  # a vocabulary that splits
    documents = [*DOCUMENTS, random_passes(CONTEXT + 5, 0)][1 if memory == 1 else 2 :]
    expected = gradient_norms(our_model(tmp_path, one_device), documents)
    mesh = make_mesh(data, ways, jax.devices()[: data * ways])
    np.testing.assert_allclose(gradient_norms(our_model(tmp_path, mesh), documents, memory), expected, rtol=1e-4)


def test_a_vocabulary_that_does_not_split(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    write(tmp_path, vocab_size=301)
    expected = gradient_norms(our_model(tmp_path, one_device), DOCUMENTS[:3])
    got = gradient_norms(our_model(tmp_path, make_mesh(1, 2, jax.devices()[:2])), DOCUMENTS[:3])
    np.testing.assert_allclose(got, expected, rtol=1e-4)


# Further models and dtypes.


def test_stacked_models_equal_one_by_one(
    tmp_path: Path, model: Model, norms: np.ndarray, one_device: jax.sharding.Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a store keeps of them is not computed again."""
    other = our_model(write(tmp_path, seed=1), one_device)
    decoder = jax.tree.map(lambda *leaves: jnp.stack(leaves), model.decoder, other.decoder)
    sources = (*model.sources, replace(other.sources[0], files={"model.safetensors": "another"}))
    stacked = Model(decoder, None, one_device, sources, "float32")
    got = gradient_norms(stacked, [*DOCUMENTS, []], store=Store(tmp_path / "store"))
    with monkeypatch.context() as patch:
        patch.setattr(gradients, "batch_norms_of_models", None)
        started: list[int] = []
        kept = gradient_norms(stacked, [[], *DOCUMENTS], store=Store(tmp_path / "store"), on_start=started.append)
    assert started == [0]
    np.testing.assert_array_equal(kept[..., 1:], got[..., :-1])
    assert got.shape == (2, 3, len(DOCUMENTS) + 1)
    assert np.isnan(got[..., -1]).all()
    np.testing.assert_allclose(got[0, :, :-1], norms, rtol=1e-5)
    np.testing.assert_allclose(got[1, :, :-1], gradient_norms(other, DOCUMENTS), rtol=1e-5)
    assert np.abs(got[0, :, 1] / got[1, :, 1] - 1).min() > 1e-3


@pytest.mark.parametrize(("option", "memory"), [("gpt_neox", 1), ("gpt2", gradients.DEFAULT_MEMORY)])
def test_bfloat16_is_float32_of_the_rounded_weights(
    tmp_path: Path, one_device: jax.sharding.Mesh, option: str, memory: int
) -> None:
    kind, overrides = OPTIONS[option]
    write(tmp_path, kind, **overrides)
    narrow = our_model(tmp_path, one_device, "bfloat16")
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), narrow.decoder)
    expected = gradient_norms(Model(widened, None, one_device, narrow.sources, "float32"), DOCUMENTS, memory)
    np.testing.assert_allclose(gradient_norms(narrow, DOCUMENTS, memory), expected, rtol=1e-5)


def test_a_model_that_overflows(model: Model) -> None:
    decoder = nnx.clone(model.decoder)
    decoder.final_norm.scale[...] = decoder.final_norm.scale[...] * 1e30
    decoder.head[...] = decoder.head[...] * 1e30
    with pytest.raises(ScoringError, match=r"2 documents got gradients that are not finite \(first: document 1\)"):
        gradient_norms(Model(decoder, None, model.mesh, model.sources, "float32"), [[], *DOCUMENTS[:2]])


# How it is computed.


def test_no_gradient_of_the_model_exists(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """What a micro-batch of one short document needs is far below the size of the weights."""
    folder = write(tmp_path, num_hidden_layers=24, intermediate_size=256, vocab_size=5000)
    model = our_model(folder, one_device)
    groups = gradients.tensor_groups(*read_config(folder))
    arrays = gradients.document_arrays([DOCUMENTS[0]], gradients.Shape(1, 1, 16, False))
    compiled = gradient_moments.batch_norms.lower(model.decoder, arrays, one_device, groups, False).compile()
    weights = sum(x.nbytes for x in jax.tree.leaves(model.decoder))
    assert compiled.memory_analysis().temp_size_in_bytes < weights / 2


def test_callbacks(model: Model) -> None:
    started: list[int] = []
    done: list[int] = []
    gradient_norms(model, DOCUMENTS, 1, started.append, done.append)
    assert started == [sum(LENGTHS)]
    assert sum(done) == sum(LENGTHS)
    assert sum(map(bool, done)) == len(DOCUMENTS)  # beside what is sent off


def test_equal_documents_are_computed_once(model: Model, norms: np.ndarray) -> None:
    started: list[int] = []
    got = gradient_norms(model, [DOCUMENTS[1], DOCUMENTS[4], [], DOCUMENTS[1]], on_start=started.append)
    assert started == [LENGTHS[1] + LENGTHS[4]]
    np.testing.assert_array_equal(got[:, 0], got[:, 3])
    np.testing.assert_allclose(got[:, [0, 1, 3]], norms[:, [1, 4, 1]], rtol=1e-5)


def test_nothing_is_compiled_twice(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    def compiled(documents: list[list[Pass]]) -> int:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jax"), jax.log_compiles():
            gradient_norms(model, documents)
        return sum("Compiling" in record.getMessage() for record in caplog.records)

    compiled(DOCUMENTS)
    assert compiled(DOCUMENTS) == 0
    assert compiled(DOCUMENTS[::-1]) == 0


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12), further=st.floats(0, 30), most=st.integers(1, 4))
def test_sizes_are_chosen_as_by_trying_all(sizes: list[int], further: float, most: int) -> None:
    padded = choose_sizes(sizes, further, most)
    distinct = sorted(set(sizes))

    def cost(chosen: Sequence[int]) -> float:
        return sum(min(c for c in chosen if c >= size) for size in sizes) + further * len(chosen)

    assert sorted(padded) == distinct
    used = sorted(set(padded.values()))
    assert len(used) <= most
    assert all(padded[size] == min(c for c in used if c >= size) for size in distinct)
    options = [
        chosen
        for count in range(1, most + 1)
        for chosen in itertools.combinations(distinct, count)
        if chosen[-1] == distinct[-1]
    ]
    assert cost(used) == pytest.approx(min(map(cost, options)))


@given(
    lengths=st.lists(st.integers(0, 500), max_size=30),
    memory=st.sampled_from([1, 2**20, 2**24, 2**30]),
    ways=st.sampled_from([1, 2, 8]),
)
def test_every_document_is_planned_once(lengths: list[int], memory: int, ways: int) -> None:
    config = FAMILIES["gpt_neox"].config({**COMMON, **TINY["gpt_neox"]})
    documents = [
        [one for one in document_passes([], list(range(length)), CONTEXT) if one.sources] for length in lengths
    ]
    plan = plan_documents(documents, config, memory, ways)
    assert sorted(i for _, members in plan for i in members) == [i for i, passes in enumerate(documents) if passes]
    for shape, members in plan:
        assert shape.docs % ways == 0
        assert 0 < len(members) <= shape.docs
        for i in members:
            assert len(documents[i]) <= shape.windows
            assert (len(documents[i]) == 1) == (shape.windows == 1)
            assert max(len(one) for one in documents[i]) <= shape.time
        needed = gradients.document_bytes(config, shape.windows, shape.time, shape.keep)
        assert shape.docs == ways or shape.docs // ways * needed <= memory
    assert len({shape for shape, _ in plan}) <= 2 * gradients.MOST_SHAPES


# The original's numbers.


def test_golden(golden: Path, one_device: jax.sharding.Mesh) -> None:
    """MIMIR's value is minus the norm."""
    documents = json.loads((golden / "mimir_scores.json").read_text())["documents"]
    chosen = [d for d in documents if "gradnorm@2" in d["scores"]][::6]
    assert len(chosen) == 16
    model = load_model(golden / "target", mesh=one_device)
    names = [d["source"] for d in chosen]
    tokens = tokenize(model.tokenizer, [d["text"] for d in chosen], names, model.decoder.config.vocab)
    got = gradient_norms(model, [document_passes(t.context_ids, t.text_ids, 1024) for t in tokens])
    for row, p in enumerate(("1", "2", "inf")):
        theirs = np.array([d["scores"][f"gradnorm@{p}"] for d in chosen])
        np.testing.assert_allclose(-got[row], theirs, rtol=1e-3)

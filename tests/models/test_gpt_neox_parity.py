"""GPT-NeoX equals Hugging Face's torch model: logits over its options, and module by module."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.activations import ACT2FN

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import load_decoder, read_config
from mimir_jax.models.decoder import Block, Decoder, rotary_tables
from mimir_jax.models.families import FAMILIES
from mimir_jax.models.fields import ACTIVATION_NAMES
from mimir_jax.models.layers import ACTIVATIONS
from mimir_jax.models.rope import rotate
from mimir_jax.parallel.mesh import sharding_of
from mimir_jax.testing import TINY, write_checkpoint

TOLERANCE = 1e-5
NEW_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}


def torch_model(seed: int = 0, **overrides: Any) -> GPTNeoXForCausalLM:
    """A tiny torch model in which no weight is neutral: a bias left out or a norm skipped moves the logits."""
    fields = {name: value for name, value in {**TINY, **overrides}.items() if name != "model_type"}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(attn_implementation="eager", **fields)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            values = 1 + 0.3 * values
        elif name.endswith("bias"):
            values = 0.3 * values
        elif "embed_in" not in name or model.config.tie_word_embeddings:
            values = values / weight.shape[1] ** 0.5
        weight.data.copy_(values)
    return model


def ours(model: GPTNeoXForCausalLM, folder: Path, mesh: jax.sharding.Mesh) -> Decoder:
    """The same model, by way of the files that Hugging Face writes."""
    model.save_pretrained(folder)
    return load_decoder(folder, sharding_of(mesh))


@jax.jit
def _logits(decoder: Decoder, tokens: Any, positions: Any, segments: Any) -> jax.Array:
    return decoder.logits(tokens, positions, segments)


def logits(decoder: Decoder, tokens: np.ndarray, positions: np.ndarray, segments: np.ndarray) -> np.ndarray:
    return np.asarray(_logits(decoder, tokens, positions, segments))


def one_document(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arguments of a Decoder for rows of one document each."""
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return tokens, positions, np.zeros_like(tokens)


def torch_logits(model: GPTNeoXForCausalLM, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.long), use_cache=False).logits.numpy()


def random_tokens(rows: int, time: int, vocab: int = TINY["vocab_size"], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, (rows, time), np.int32)


def assert_close(actual: Any, expected: Any) -> None:
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=TOLERANCE)


# Every option on its own, and some together, at lengths about the blocks of 128 queries.
OPTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "parallel": (50, {}),
    "sequential": (50, {"use_parallel_residual": False}),
    "one_token": (1, {}),
    "exactly_one_block": (128, {}),
    "one_more_than_a_block": (129, {"use_parallel_residual": False}),
    "three_blocks": (300, {"max_position_embeddings": 512}),
    "rotary_half": (140, {"rope_parameters": {**NEW_ROPE, "partial_rotary_factor": 0.5}}),
    "rotary_whole": (140, {"rope_parameters": {**NEW_ROPE, "partial_rotary_factor": 1.0}}),
    "theta_small": (140, {"rope_parameters": {**NEW_ROPE, "rope_theta": 100.0, "partial_rotary_factor": 1.0}}),
    "theta_large": (140, {"rope_parameters": {**NEW_ROPE, "rope_theta": 1e6, "partial_rotary_factor": 1.0}}),
    "gelu_new": (40, {"hidden_act": "gelu_new"}),
    "relu": (40, {"hidden_act": "relu"}),
    "silu": (40, {"hidden_act": "silu"}),
    "large_eps": (40, {"layer_norm_eps": 1e-2}),
    "large_eps_sequential": (40, {"layer_norm_eps": 0.1, "use_parallel_residual": False}),
    "no_attention_bias": (40, {"attention_bias": False}),
    "tied": (40, {"tie_word_embeddings": True}),
    "one_head": (40, {"num_attention_heads": 1}),
    "heads_of_12": (40, {"hidden_size": 96, "num_attention_heads": 8, "intermediate_size": 200}),
    "one_layer_narrow_mlp": (40, {"num_hidden_layers": 1, "intermediate_size": 8}),
    "four_layers": (40, {"num_hidden_layers": 4, "vocab_size": 257}),
    "all_together": (
        200,
        {
            "use_parallel_residual": False,
            "rope_parameters": {**NEW_ROPE, "rope_theta": 500.0, "partial_rotary_factor": 0.5},
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-3,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "num_attention_heads": 2,
        },
    ),
}


QUICK = {
    "parallel",
    "sequential",
    "one_more_than_a_block",
    "rotary_half",
    "large_eps_sequential",
    "no_attention_bias",
    "all_together",
}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS]
)
def test_logits(tmp_path: Path, one_device: jax.sharding.Mesh, name: str) -> None:
    time, overrides = OPTIONS[name]
    model = torch_model(**overrides)
    decoder = ours(model, tmp_path, one_device)
    tokens = random_tokens(2, time, model.config.vocab_size)
    expected = torch_logits(model, tokens)
    assert expected.std() > 0.5  # logits near 0 would agree whatever is computed
    assert_close(logits(decoder, *one_document(tokens)), expected)


def test_options_differ(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """The weights make every option visible: none of the comparisons above can pass by accident."""
    model = torch_model()
    weights = model.state_dict()
    tokens = random_tokens(1, 60)
    base = torch_logits(model, tokens)
    for overrides in (
        {"use_parallel_residual": False},
        {"rope_parameters": {**NEW_ROPE, "partial_rotary_factor": 0.5}},
        {"rope_parameters": {**NEW_ROPE, "rope_theta": 500.0}},
        {"layer_norm_eps": 1e-3},
        {"hidden_act": "gelu_new"},
    ):
        other = torch_model(**overrides)
        other.load_state_dict(weights)
        difference = np.abs(torch_logits(other, tokens) - base).max()
        assert difference > 10 * TOLERANCE, overrides


def test_torch_reads_what_we_write(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    write_checkpoint(tmp_path, vocab_size=330, files=2)
    model = GPTNeoXForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens = random_tokens(2, 50, 330)
    decoder = load_decoder(tmp_path, sharding_of(one_device))
    assert_close(logits(decoder, *one_document(tokens)), torch_logits(model, tokens))


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_activations(name: str) -> None:
    x = np.linspace(-12, 12, 4001, dtype=np.float32)
    assert_close(ACTIVATIONS[ACTIVATION_NAMES[name]](jnp.asarray(x)), ACT2FN[name](torch.tensor(x)))


@pytest.fixture(scope="module", params=[True, False], ids=["parallel", "sequential"])
def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_device: jax.sharding.Mesh
) -> tuple[GPTNeoXForCausalLM, Decoder, dict[str, list[torch.Tensor]]]:
    """A torch model, ours, and what went in and came out of each torch submodule for 140 tokens."""
    model = torch_model(
        use_parallel_residual=request.param,
        layer_norm_eps=1e-3,
        rope_parameters={**NEW_ROPE, "partial_rotary_factor": 0.5},
    )
    decoder = ours(model, tmp_path_factory.mktemp("traced"), one_device)
    seen: dict[str, list[torch.Tensor]] = {}

    def record(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            first = args[0] if args else kwargs["hidden_states"]
            seen[name] = [first, output[0] if isinstance(output, tuple) and name != "rotary_emb" else output]

        return hook

    for name, module in model.gpt_neox.named_modules():
        module.register_forward_hook(record(name), with_kwargs=True)
    torch_logits(model, random_tokens(2, 140))
    return model, decoder, seen


@jax.jit
def take_layer(blocks: Block, index: int) -> Block:
    return jax.tree.map(lambda stacked: stacked[index], blocks)


@jax.jit
def call(module: Any, *args: Any) -> jax.Array:
    """One compilation instead of one an operation."""
    return module(*args)


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def rotary(decoder: Decoder) -> tuple[jax.Array, jax.Array]:
    positions = np.tile(np.arange(140, dtype=np.int32), (2, 1))
    return rotary_tables(jnp.asarray(positions), decoder.config)


def test_embedding(traced: Any) -> None:
    _, decoder, seen = traced
    ids, expected = seen["embed_in"]
    assert_close(decoder.embedding[...][numpy(ids.int())], expected)


def test_rotary_tables(traced: Any) -> None:
    _, decoder, seen = traced
    for table, expected in zip(rotary(decoder), seen["rotary_emb"][1]):
        half = table[:1, :, 0]  # torch repeats the angles for both halves and has one row for all
        assert_close(jnp.concatenate([half, half], axis=-1), expected)


def test_rotate(traced: Any) -> None:
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    _, decoder, seen = traced
    x = np.random.default_rng(0).standard_normal((2, 140, 4, 16), np.float32)  # b t h k
    query = torch.tensor(x).transpose(1, 2)
    expected, _ = apply_rotary_pos_emb(query, query, *seen["rotary_emb"][1])
    assert_close(rotate(jnp.asarray(x), *rotary(decoder)), expected.transpose(1, 2))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("theirs", "our"), [("input_layernorm", "attention_norm"), ("post_attention_layernorm", "mlp_norm"), ("mlp", "mlp")]
)
def test_norms_and_mlp(traced: Any, index: int, theirs: str, our: str) -> None:
    _, decoder, seen = traced
    x, expected = seen[f"layers.{index}.{theirs}"]
    assert_close(call(getattr(take_layer(decoder.blocks, index), our), numpy(x)), expected)


@pytest.mark.parametrize("index", [0, 1])
def test_attention(traced: Any, index: int) -> None:
    _, decoder, seen = traced
    x, expected = seen[f"layers.{index}.attention"]
    segments = np.zeros((2, 140), np.int32)
    mixed, _ = call(take_layer(decoder.blocks, index).attention, numpy(x), rotary(decoder), segments, None)
    assert_close(mixed, expected)


@pytest.mark.parametrize("index", [0, 1])
def test_block(traced: Any, index: int) -> None:
    _, decoder, seen = traced
    x, expected = seen[f"layers.{index}"]
    segments = np.zeros((2, 140), np.int32)
    assert_close(call(take_layer(decoder.blocks, index), numpy(x), rotary(decoder), segments, None), expected)


def test_final_norm(traced: Any) -> None:
    _, decoder, seen = traced
    x, expected = seen["final_layer_norm"]
    assert_close(call(decoder.final_norm, numpy(x)), expected)


TIME = 160  # of packed rows: two blocks of queries


@pytest.fixture(scope="module")
def packed_pair(
    tmp_path_factory: pytest.TempPathFactory, one_device: jax.sharding.Mesh
) -> tuple[GPTNeoXForCausalLM, Decoder]:
    model = torch_model(rope_parameters={**NEW_ROPE, "partial_rotary_factor": 1.0})
    return model, ours(model, tmp_path_factory.mktemp("packed"), one_device)


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6), seed=st.integers(0, 100))
@example(lengths=[TIME], seed=0)
@example(lengths=[128, 32], seed=0)
@example(lengths=[127, 2, 31], seed=0)
@example(lengths=[1] * 6, seed=0)
def test_packed_documents_are_alone(
    packed_pair: tuple[GPTNeoXForCausalLM, Decoder], lengths: list[int], seed: int
) -> None:
    """Each document of a row has the logits that torch gives it alone, whatever lies before and behind it."""
    model, decoder = packed_pair
    tokens = random_tokens(1, TIME, seed=seed)  # padding holds tokens, too: nothing may read them
    positions, segments = np.zeros_like(tokens), np.full_like(tokens, TIME)
    starts, start = [], 0
    for length in lengths:
        length = min(length, TIME - start)
        if length:
            span = slice(start, start + length)
            positions[0, span], segments[0, span] = np.arange(length), start
            starts.append(span)
            start += length
    got = logits(decoder, tokens, positions, segments)
    for span in starts:
        assert_close(got[:, span], torch_logits(model, tokens[:, span]))


def test_padding_has_no_influence(packed_pair: tuple[GPTNeoXForCausalLM, Decoder]) -> None:
    _, decoder = packed_pair
    tokens, positions, segments = one_document(random_tokens(1, 100))
    alone = logits(decoder, tokens, positions, segments)
    for fill, place in [(0, 0), (7, 5000)]:
        padded = np.full((3, TIME), fill, np.int32), np.full((3, TIME), place, np.int32), np.full((3, TIME), TIME)
        for wide, narrow in zip(padded, (tokens, positions, segments)):
            wide[1, :100] = narrow[0]
        got = logits(decoder, padded[0], padded[1], padded[2].astype(np.int32))
        assert np.isfinite(got).all()  # rows and positions of padding as well
        assert_close(got[1:2, :100], alone)


# What a config.json may say.


def write_config(folder: Path, fields: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_old_configs_equal_new_ones(share: float) -> None:
    config = FAMILIES["gpt_neox"].config
    rest = {name: value for name, value in TINY.items() if name != "rope_parameters"}
    new = config({**rest, "rope_parameters": {**NEW_ROPE, "rope_theta": 500.0, "partial_rotary_factor": share}})
    assert config({**rest, "rotary_pct": share, "rotary_emb_base": 500}) == new
    # transformers 4.46 and later wrote both under two names
    doubled = {"rotary_pct": share, "partial_rotary_factor": share, "rotary_emb_base": 500, "rope_theta": 500}
    assert config({**rest, **doubled, "rope_scaling": None}) == new
    assert new.rotary_dim == int(16 * share)
    assert new.rope_theta == 500


@pytest.mark.parametrize("fields", [{"partial_rotary_factor": 0.5}, {"rope_theta": 500.0}])
def test_doubled_names_that_disagree_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        FAMILIES["gpt_neox"].config({**TINY, **fields})


def test_defaults_are_those_of_hugging_face() -> None:
    """A config.json that leaves out all that may be left out means what transformers takes it for."""
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    fields = {name: TINY[name] for name in required}
    theirs = json.loads(GPTNeoXConfig(**fields).to_json_string())
    assert FAMILIES["gpt_neox"].config(fields) == FAMILIES["gpt_neox"].config(theirs)


def test_everything_that_transformers_writes_is_understood(tmp_path: Path) -> None:
    GPTNeoXConfig().save_pretrained(tmp_path)
    family, config = read_config(tmp_path)
    assert family.model_type == "gpt_neox"
    assert (config.vocab, config.layers, config.embed, config.heads) == (50432, 44, 6144, 64)
    assert (config.head_dim, config.mlp, config.context, config.rotary_dim) == (96, 24576, 2048, 24)


def test_irrelevant_fields_are_accepted() -> None:
    fields = {
        "attention_dropout": 0.1,
        "hidden_dropout": 0.1,
        "classifier_dropout": 0.5,
        "initializer_range": 1.0,
        "torch_dtype": "float16",
        "dtype": "bfloat16",
        "bos_token_id": 5,
        "eos_token_id": 6,
        "use_cache": False,
        "is_decoder": True,
        "architectures": ["Anything"],
        "transformers_version": "4.24.0",
        "_name_or_path": "x",
    }
    assert FAMILIES["gpt_neox"].config({**TINY, **fields}) == FAMILIES["gpt_neox"].config(TINY)


def test_fields_that_are_not_modelled_are_all_named(tmp_path: Path) -> None:
    folder = write_config(
        tmp_path, {**TINY, "sliding_window": 4, "logit_scale": 2.0, "quantization_config": {"bits": 4}}
    )
    with pytest.raises(ConfigError, match="not modelled") as error:
        read_config(folder)
    for name in ("sliding_window=4", "logit_scale=2.0", "quantization_config", str(folder)):
        assert name in str(error.value)


def test_missing_fields_are_all_named() -> None:
    with pytest.raises(ConfigError) as error:
        FAMILIES["gpt_neox"].config({"model_type": "gpt_neox", "hidden_size": 32, "vocab_size": 7})
    for name in ("num_hidden_layers", "num_attention_heads", "intermediate_size"):
        assert f"{name} is missing" in str(error.value)
    assert "hidden_size" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_parameters": {**NEW_ROPE, "rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    ],
)
def test_rope_scaling_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        FAMILIES["gpt_neox"].config({**TINY, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu' is not modelled; modelled: gelu"),
        ({"num_attention_heads": 5}, "hidden_size=64 is no multiple of num_attention_heads=5"),
    ],
)
def test_values_that_are_not_modelled(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FAMILIES["gpt_neox"].config({**TINY, **fields})


@pytest.mark.parametrize("kind", ["t5", None])
def test_unknown_model_types_list_the_supported_ones(tmp_path: Path, kind: str | None) -> None:
    with pytest.raises(ConfigError, match=f"model_type {kind!r} is not supported.*; supported: .*gpt_neox"):
        read_config(write_config(tmp_path, {"model_type": kind}))

"""GPT-2, GPT-Neo and Llama equal Hugging Face's torch models over their options, from files and to files."""

import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import SINGLE, CheckpointError, load_decoder, read_config, save_tensors
from mimir_jax.models.decoder import Decoder
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.mesh import make_mesh, sharding_of
from mimir_jax.testing import tiny_decoder

TOLERANCE = 1e-5
CLASSES = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
    "gpt_neo": (transformers.GPTNeoConfig, transformers.GPTNeoForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
TINY: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, "n_positions": 512},
    "gpt_neo": {
        "vocab_size": 320,
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
    },
    "llama": {
        "vocab_size": 320,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
    },
}
# Special tokens of the published vocabularies, which the tiny ones do not hold.
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0}


def fields_of(kind: str, overrides: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": kind, **TINY[kind], **SPECIAL, **overrides}


def torch_model(kind: str, overrides: dict[str, Any], seed: int = 0) -> Any:
    """A tiny torch model in which no weight is neutral: a bias left out or a norm skipped moves the logits."""
    config_class, model_class = CLASSES[kind]
    fields = {name: value for name, value in fields_of(kind, overrides).items() if name != "model_type"}
    model = model_class(config_class(attn_implementation="eager", **fields)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            values = 0.3 * values
        elif weight.ndim == 1:
            values = 1 + 0.3 * values
        elif ".wpe." in name:
            values = 0.5 * values
        elif not ("wte" in name or "embed_tokens" in name):
            inputs = weight.shape[0] if kind == "gpt2" and "lm_head" not in name else weight.shape[1]
            values = values / inputs**0.5
        elif model.config.tie_word_embeddings:
            values = values / weight.shape[1] ** 0.5
        # scores that are not scaled by head_dim ** -0.5 make softmax amplify rounding: keep them as large as others
        if kind == "gpt_neo" and "q_proj" in name:
            values = values / 2
        weight.data.copy_(values)
    return model


@jax.jit
def logits(decoder: Decoder, tokens: Any, positions: Any, segments: Any) -> jax.Array:
    return decoder.logits(tokens, positions, segments)


def one_document(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arguments of a Decoder for rows of one document each."""
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return tokens, positions, np.zeros_like(tokens)


def torch_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.long), use_cache=False).logits.numpy()


def random_tokens(rows: int, time: int, vocab: int = 320, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, (rows, time), np.int32)


def assert_close(actual: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=TOLERANCE)


GLOBAL, LOCAL = [["global"], 1], [["local"], 1]
# Every option on its own, and some together, at lengths about the blocks of 128 queries.
OPTIONS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "gpt2": ("gpt2", 50, {}),
    "gpt2_one_token": ("gpt2", 1, {}),
    "gpt2_one_block": ("gpt2", 128, {}),
    "gpt2_two_blocks": ("gpt2", 129, {}),
    "gpt2_three_blocks": ("gpt2", 300, {}),
    "gpt2_whole_context": ("gpt2", 512, {"n_layer": 1}),
    "gpt2_untied": ("gpt2", 40, {"tie_word_embeddings": False}),
    "gpt2_default_inner": ("gpt2", 40, {"n_inner": None}),
    "gpt2_unscaled": ("gpt2", 140, {"scale_attn_weights": False}),
    "gpt2_upcast": ("gpt2", 140, {"reorder_and_upcast_attn": True}),
    "gpt2_relu": ("gpt2", 40, {"activation_function": "relu"}),
    "gpt2_gelu": ("gpt2", 40, {"activation_function": "gelu"}),
    "gpt2_large_eps": ("gpt2", 40, {"layer_norm_epsilon": 0.1}),
    "gpt2_one_head": ("gpt2", 40, {"n_head": 1}),
    "gpt2_heads_of_12": ("gpt2", 40, {"n_embd": 96, "n_head": 8, "n_layer": 4}),
    "gpt_neo": ("gpt_neo", 50, {}),
    "gpt_neo_one_token": ("gpt_neo", 1, {}),
    "gpt_neo_window_is_one": ("gpt_neo", 40, {"window_size": 1}),
    "gpt_neo_window_is_the_length": ("gpt_neo", 40, {"window_size": 40}),
    "gpt_neo_window_one_less": ("gpt_neo", 40, {"window_size": 39}),
    "gpt_neo_two_blocks": ("gpt_neo", 129, {}),
    "gpt_neo_three_blocks": ("gpt_neo", 300, {}),
    "gpt_neo_window_across_blocks": ("gpt_neo", 300, {"window_size": 200}),
    "gpt_neo_whole_context": ("gpt_neo", 512, {"window_size": 256}),
    "gpt_neo_all_global": ("gpt_neo", 140, {"attention_types": [[["global"], 2]]}),
    "gpt_neo_all_local": ("gpt_neo", 140, {"attention_types": [[["local"], 2]]}),
    "gpt_neo_local_first": ("gpt_neo", 140, {"attention_types": [LOCAL, GLOBAL]}),
    "gpt_neo_irregular": ("gpt_neo", 140, {"attention_types": [LOCAL, [["local", "global"], 1]], "num_layers": 3}),
    "gpt_neo_untied": ("gpt_neo", 40, {"tie_word_embeddings": False}),
    "gpt_neo_default_inner": ("gpt_neo", 40, {"intermediate_size": None}),
    "gpt_neo_silu_large_eps": ("gpt_neo", 40, {"activation_function": "silu", "layer_norm_epsilon": 0.1}),
    "llama": ("llama", 50, {}),
    "llama_one_token": ("llama", 1, {}),
    "llama_one_block": ("llama", 128, {}),
    "llama_three_blocks": ("llama", 300, {}),
    "llama_one_key_head": ("llama", 140, {"num_key_value_heads": 1}),
    "llama_own_key_heads": ("llama", 140, {"num_key_value_heads": None}),
    "llama_groups_of_3": ("llama", 40, {"hidden_size": 96, "num_attention_heads": 6}),
    "llama_attention_bias": ("llama", 40, {"attention_bias": True}),
    "llama_mlp_bias": ("llama", 40, {"mlp_bias": True}),
    "llama_tied": ("llama", 40, {"tie_word_embeddings": True}),
    "llama_wide_heads": ("llama", 140, {"head_dim": 24}),
    "llama_narrow_heads": ("llama", 140, {"head_dim": 8}),
    "llama_theta": ("llama", 140, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama_large_eps": ("llama", 40, {"rms_norm_eps": 0.1}),
    "llama_gelu": ("llama", 40, {"hidden_act": "gelu_pytorch_tanh"}),
    "llama_all_together": (
        "llama",
        200,
        {
            "head_dim": 24,
            "num_key_value_heads": 1,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
}


# Those that between them use every option; the rest, one by one, take a while.
# fmt: off
QUICK = frozenset([
    "gpt2", "gpt2_unscaled", "gpt2_large_eps", "gpt_neo", "gpt_neo_window_across_blocks", "gpt_neo_irregular", "llama",
    "llama_large_eps", "llama_all_together",
])
# fmt: on


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in OPTIONS])
def test_logits(tmp_path: Path, one_device: jax.sharding.Mesh, name: str) -> None:
    kind, time, overrides = OPTIONS[name]
    model = torch_model(kind, overrides)
    model.save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path, sharding_of(one_device))
    tokens = random_tokens(2, time)
    expected = torch_logits(model, tokens)
    assert expected.std() > 0.5  # logits near 0 would agree whatever is computed
    assert_close(logits(decoder, *one_document(tokens)), expected)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"activation_function": "gelu"}),
        ("gpt2", {"layer_norm_epsilon": 1e-3}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),  # why it is refused
        ("gpt_neo", {"window_size": 17}),
        ("gpt_neo", {"attention_types": [LOCAL, GLOBAL]}),
        ("llama", {"rope_parameters": {**ROPE, "rope_theta": 500.0}}),
        ("llama", {"rms_norm_eps": 1e-3}),
        ("llama", {"hidden_act": "gelu"}),
    ],
)
def test_options_differ(kind: str, overrides: dict[str, Any]) -> None:
    """The weights make every option visible: none of the comparisons above can pass by accident."""
    model, other = torch_model(kind, {}), torch_model(kind, overrides)
    tokens = random_tokens(1, 60)
    assert np.abs(torch_logits(other, tokens) - torch_logits(model, tokens)).max() > 10 * TOLERANCE


def write(folder: Path, kind: str, overrides: dict[str, Any], dtype: Any = np.float32) -> Decoder:
    """A random decoder of ours, written as Hugging Face has it."""
    fields = fields_of(kind, overrides)
    decoder = tiny_decoder(fields)
    (folder / "config.json").write_text(json.dumps(fields))
    save_tensors(decoder, FAMILIES[kind], folder / SINGLE, dtype)
    return decoder


ROUND_TRIPS = [
    pytest.param("gpt2", {}, marks=pytest.mark.slow),
    ("gpt2", {"tie_word_embeddings": False, "n_layer": 3}),
    ("gpt_neo", {}),
    pytest.param("gpt_neo", {"tie_word_embeddings": False}, marks=pytest.mark.slow),
    pytest.param("llama", {"head_dim": 24}, marks=pytest.mark.slow),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
]


@pytest.mark.parametrize(("kind", "overrides"), ROUND_TRIPS)
def test_torch_reads_what_we_write(
    tmp_path: Path, one_device: jax.sharding.Mesh, kind: str, overrides: dict[str, Any]
) -> None:
    decoder = write(tmp_path, kind, overrides)
    model, info = CLASSES[kind][1].from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not any(info.values())
    tokens = random_tokens(2, 50)
    expected = torch_logits(model.eval(), tokens)
    assert_close(logits(decoder, *one_document(tokens)), expected)
    again = load_decoder(tmp_path, sharding_of(one_device))
    jax.tree.map(np.testing.assert_array_equal, again, decoder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files(tmp_path: Path, one_device: jax.sharding.Mesh, dtype: Any) -> None:
    decoder = write(tmp_path, "gpt2", {}, dtype)
    again = load_decoder(tmp_path, sharding_of(one_device))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(dtype).astype(np.float32)), again, decoder)


@pytest.mark.parametrize("kind", TINY)
def test_sharded(tmp_path: Path, kind: str) -> None:
    """Shards of transposed, fused and grouped tensors; two key-value heads do not divide four devices."""
    model = torch_model(kind, {})
    model.save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path, sharding_of(make_mesh(2, 4)))
    kernel = decoder.blocks.attention.query.kernel[...]
    assert kernel.addressable_shards[0].data.shape[1] == 1  # one head of four a device
    tokens = random_tokens(2, 140)
    assert_close(logits(decoder, *one_document(tokens)), torch_logits(model, tokens))


LENGTHS = [[130, 30], [1, 127, 2, 20], [17, 16, 15, 80]]  # of 160: two blocks of queries, with padding behind


@pytest.mark.parametrize("kind", TINY)
def test_packed_documents_are_alone(tmp_path: Path, one_device: jax.sharding.Mesh, kind: str) -> None:
    """Each document of a row has the logits that torch gives it alone, whatever lies before and behind it."""
    model = torch_model(kind, {})
    model.save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path, sharding_of(one_device))
    tokens = random_tokens(len(LENGTHS), 160)
    positions, segments = np.zeros_like(tokens), np.full_like(tokens, 160)
    spans = []
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            span = slice(start, start + length)
            positions[row, span], segments[row, span] = np.arange(length), start
            spans.append((row, span))
            start += length
    got = logits(decoder, tokens, positions, segments)
    for row, span in spans:
        assert_close(got[row, span], torch_logits(model, tokens[row : row + 1, span])[0])


# Names and tensors that published files have beside, or in place of, what transformers writes now.


def rewrite(folder: Path, change: Any) -> None:
    tensors = change(load_file(folder / SINGLE))
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


@pytest.mark.parametrize(("kind", "attention"), [("gpt2", "attn"), ("gpt_neo", "attn.attention")])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_prefix_and_buffers(
    tmp_path: Path, one_device: jax.sharding.Mesh, kind: str, attention: str, prefix: str
) -> None:
    decoder = write(tmp_path, kind, {})

    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {name.replace("transformer.", prefix): tensor for name, tensor in tensors.items()}
        for layer, dtype in enumerate((np.float32, np.bool_)):
            tensors[f"{prefix}h.{layer}.{attention}.bias"] = np.tril(np.ones((1, 1, 8, 8), dtype))
            tensors[f"{prefix}h.{layer}.{attention}.masked_bias"] = np.array(-1e4, np.float32)
        return tensors

    rewrite(tmp_path, change)
    again = load_decoder(tmp_path, sharding_of(one_device))
    jax.tree.map(np.testing.assert_array_equal, again, decoder)


def test_problems_are_told_in_the_names_of_the_file(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    write(tmp_path, "gpt2", {})

    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        del tensors["h.1.attn.c_attn.bias"]
        tensors["wpe.weight"] = tensors["wpe.weight"][:7].copy()
        tensors["h.2.ln_1.weight"] = tensors["ln_f.weight"]
        return tensors

    rewrite(tmp_path, change)
    with pytest.raises(CheckpointError) as error:
        load_decoder(tmp_path, sharding_of(one_device))
    problems = str(error.value).removeprefix(f"{tmp_path}: ").split("; ")
    assert problems == [
        "h.1.attn.c_attn.bias is missing",
        "h.2.ln_1.weight is unknown",
        "wpe.weight has shape [7, 64], not [512, 64]",
    ]


EMBEDDINGS = {
    "gpt2": "transformer.wte.weight",
    "gpt_neo": "transformer.wte.weight",
    "llama": "model.embed_tokens.weight",
}


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("both", [True, False])
def test_tied_tensor_under_its_other_name(tmp_path: Path, one_device: jax.sharding.Mesh, kind: str, both: bool) -> None:
    decoder = write(tmp_path, kind, {"tie_word_embeddings": True})

    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors["lm_head.weight"] = tensors[EMBEDDINGS[kind]].copy()
        if not both:
            del tensors[EMBEDDINGS[kind]]
        return tensors

    rewrite(tmp_path, change)
    again = load_decoder(tmp_path, sharding_of(one_device))
    jax.tree.map(np.testing.assert_array_equal, again, decoder)


@pytest.mark.parametrize("kind", TINY)
def test_tied_tensors_that_differ_are_refused(tmp_path: Path, one_device: jax.sharding.Mesh, kind: str) -> None:
    write(tmp_path, kind, {"tie_word_embeddings": False})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match=f"lm_head.weight differs from {EMBEDDINGS[kind]}"):
        load_decoder(tmp_path, sharding_of(one_device))


def test_old_rotary_buffers_are_ignored(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    write(tmp_path, "llama", {})
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    rewrite(tmp_path, lambda tensors: {**tensors, name: np.ones(8, np.float32)})
    load_decoder(tmp_path, sharding_of(one_device))


# What a config.json may say.

PUBLISHED: dict[str, dict[str, Any]] = {
    # openai-community/gpt2, as it has stood since 2019
    "gpt2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    },
    "gpt_neo": {
        "activation_function": "gelu_new",
        "architectures": ["GPTNeoForCausalLM"],
        "attention_dropout": 0,
        "attention_layers": ["global", "local"] * 6,
        "attention_types": [[["global", "local"], 6]],
        "bos_token_id": 50256,
        "embed_dropout": 0,
        "eos_token_id": 50256,
        "gradient_checkpointing": False,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neo",
        "num_heads": 12,
        "num_layers": 12,
        "resid_dropout": 0,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "transformers_version": "4.9.0.dev0",
        "use_cache": True,
        "vocab_size": 50257,
        "window_size": 256,
    },
    # HuggingFaceTB/SmolLM2-135M
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": 576,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "vocab_size": 49152,
    },
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_configs(kind: str) -> None:
    """An old config.json means what transformers takes it for, and what it writes in its place."""
    ours = FAMILIES[kind].config(PUBLISHED[kind])
    theirs = CLASSES[kind][0].from_dict(PUBLISHED[kind])
    assert FAMILIES[kind].config(json.loads(theirs.to_json_string())) == ours
    assert ours.heads * ours.head_dim == ours.embed
    if kind == "gpt_neo":
        assert ours.windows == (None, 256) * 6
    if kind == "llama":
        assert (ours.key_heads, ours.rope_theta, ours.rotary_dim) == (3, 100000.0, 64)


REQUIRED = {
    "gpt2": ("vocab_size", "n_embd", "n_layer", "n_head"),
    "gpt_neo": ("vocab_size", "hidden_size", "num_layers", "num_heads"),
    "llama": ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
}


@pytest.mark.parametrize("kind", TINY)
def test_defaults_are_those_of_hugging_face(tmp_path: Path, kind: str) -> None:
    """A config.json that leaves out all that may be left out means what transformers takes it for."""
    fields = {name: TINY[kind][name] for name in REQUIRED[kind]}
    if kind == "gpt_neo":
        fields["num_layers"] = 24
    CLASSES[kind][0](**fields).save_pretrained(tmp_path)
    family, config = read_config(tmp_path)
    ours = family.config(fields)
    # Hugging Face writes what is None here as the value that it stands for
    assert (ours.key_heads, ours.head_dim) == (config.key_heads, config.head_dim)
    assert ours.__class__(**{**vars(ours), "kv_heads": config.kv_heads}) == config


@pytest.mark.parametrize("kind", TINY)
def test_missing_fields_are_all_named(kind: str) -> None:
    with pytest.raises(ConfigError) as error:
        FAMILIES[kind].config({"model_type": kind})
    for name in REQUIRED[kind]:
        assert f"{name} is missing" in str(error.value)


REFUSED = [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx=True is not modelled"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True is not modelled"),
    ("gpt2", {"sliding_window": 5}, "sliding_window=5 is not modelled"),
    ("gpt2", {"activation_function": "tanh"}, "activation_function='tanh' is not modelled; modelled: gelu"),
    ("gpt2", {"n_head": 5}, "n_embd=64 is no multiple of n_head=5"),
    ("gpt2", {"n_head": 0}, "n_head=0 must be a number above 0"),
    ("gpt_neo", {"num_heads": 5}, "hidden_size=64 is no multiple of num_heads=5"),
    ("gpt_neo", {"num_layers": 3}, "attention_types has 2 layers, num_layers=3"),
    ("gpt_neo", {"attention_types": [[["global", "sparse"], 1]]}, "attention_types='sparse' is not modelled"),
    ("gpt_neo", {"attention_types": ["global", "local"]}, "attention_types=.* is not"),
    ("gpt_neo", {"attention_types": [[[["global"]], 2]]}, "attention_types=.* is not modelled"),
    ("gpt_neo", {"attention_types": 5}, "attention_types=5 is not"),
    ("gpt_neo", {"attention_layers": ["local", "global"]}, "attention_layers=.* contradicts attention_types"),
    ("gpt_neo", {"rope_theta": 5}, "rope_theta=5 is not modelled"),
    (
        "llama",
        {"rope_parameters": {**ROPE, "rope_type": "llama3", "factor": 8.0}},
        "rope_type='llama3' is not modelled",
    ),
    ("llama", {"rope_parameters": {"type": "linear", "factor": 2.0}}, "rope_type='linear' is not modelled"),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling=.*llama3.* is not modelled"),
    ("llama", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not modelled"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not modelled"),
    ("llama", {"rope_parameters": ROPE, "rope_theta": 500.0}, "rope_theta=500.0 contradicts the 10000.0"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved=True is not modelled"),
    ("llama", {"sliding_window": 5}, "sliding_window=5 is not modelled"),
    ("llama", {"num_key_value_heads": 3}, "num_attention_heads=4 is no multiple of num_key_value_heads=3"),
    (
        "llama",
        {"num_attention_heads": 3, "num_key_value_heads": 3},
        "hidden_size=64 is no multiple of num_attention_heads=3",
    ),
    ("llama", {"hidden_act": "mish"}, "hidden_act='mish' is not modelled; modelled: gelu"),
]


@pytest.mark.parametrize(("kind", "overrides", "message"), REFUSED)
def test_refused(kind: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FAMILIES[kind].config(fields_of(kind, overrides))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gpt2", {"attn_pdrop": 0.5, "summary_type": "x", "reorder_and_upcast_attn": True, "_num_labels": 1}),
        ("gpt_neo", {"attention_dropout": 0.5, "classifier_dropout": 0.5, "attention_layers": ["global", "local"]}),
        ("llama", {"pretraining_tp": 2, "rope_theta": 10000.0, "rope_scaling": None, "rope_interleaved": False}),
        ("llama", {"rope_parameters": ROPE, "rope_theta": 10000}),
    ],
)
def test_accepted(kind: str, fields: dict[str, Any]) -> None:
    common = {"torch_dtype": "float16", "use_cache": False, "architectures": ["Any"], "id2label": {"0": "A"}}
    assert FAMILIES[kind].config(fields_of(kind, {**fields, **common})) == FAMILIES[kind].config(fields_of(kind, {}))

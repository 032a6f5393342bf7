"""Every family but GPT-NeoX equals Hugging Face's torch model over its options, from files and to files."""

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
    "smollm3": (transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "gemma": (transformers.GemmaConfig, transformers.GemmaForCausalLM),
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    "gemma3_text": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    "gptj": (transformers.GPTJConfig, transformers.GPTJForCausalLM),
    "opt": (transformers.OPTConfig, transformers.OPTForCausalLM),
    "phi": (transformers.PhiConfig, transformers.PhiForCausalLM),
    "stablelm": (transformers.StableLmConfig, transformers.StableLmForCausalLM),
    "olmo": (transformers.OlmoConfig, transformers.OlmoForCausalLM),
    "olmo2": (transformers.Olmo2Config, transformers.Olmo2ForCausalLM),
    "olmo3": (transformers.Olmo3Config, transformers.Olmo3ForCausalLM),
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
}
# Caps that bend all scores and logits, and a window in the first of two layers.
GEMMA2 = {"query_pre_attn_scalar": 10, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
LOCAL_FIRST = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
ROPES = {"full_attention": {**ROPE, "rope_theta": 1e6}, "sliding_attention": {**ROPE, "rope_theta": 100.0}}
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
    "llama": LLAMA,
    "smollm3": {**LLAMA, "no_rope_layers": [1, 0], "pad_token_id": 0},
    "mistral": {**LLAMA, "sliding_window": 16},
    "qwen2": {**LLAMA, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "qwen3": {**LLAMA, "head_dim": 24},
    "gemma": {**LLAMA, "head_dim": 24},
    "gemma2": {**LLAMA, **GEMMA2, "head_dim": 16, "sliding_window": 16},
    "gemma3_text": {**LLAMA, **LOCAL_FIRST, "head_dim": 24, "rope_parameters": ROPES},
    "gptj": {
        "vocab_size": 320,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 96,
        "n_positions": 512,
        "rotary_dim": 8,
    },
    "opt": {
        "vocab_size": 320,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 96,
        "max_position_embeddings": 512,
    },
    "phi": LLAMA,
    "stablelm": LLAMA,
    "olmo": LLAMA,
    "olmo2": LLAMA,
    "olmo3": {**LLAMA, **LOCAL_FIRST},
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
            values = (not kind.startswith("gemma")) + 0.3 * values
        elif ".wpe." in name or "embed_positions" in name:
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
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3: dict[str, Any] = {
    **ROPE,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN: dict[str, Any] = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
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
    "llama_rope_linear": ("llama", 140, {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 3.0}}),
    "llama_rope_dynamic": ("llama", 512, {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 3.0}}),
    "llama_rope_llama3": ("llama", 300, {"rope_parameters": LLAMA3}),
    "llama_rope_llama3_wide": ("llama", 140, {"head_dim": 64, "rope_parameters": {**LLAMA3, "rope_theta": 5e5}}),
    "llama_rope_yarn": ("llama", 300, {"rope_parameters": YARN}),
    "llama_rope_yarn_wide": ("llama", 140, {"head_dim": 64, "rope_parameters": {**YARN, "truncate": False}}),
    "llama_rope_yarn_turns": ("llama", 140, {"rope_parameters": {**YARN, "beta_fast": 6.0, "beta_slow": 2.0}}),
    "llama_rope_yarn_scales": ("llama", 140, {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 2.0}}),
    "llama_rope_yarn_tables": ("llama", 140, {"rope_parameters": {**YARN, "attention_factor": 0.6}}),
    "smollm3": ("smollm3", 140, {}),
    "smollm3_interval": ("smollm3", 140, {"no_rope_layers": None, "no_rope_layer_interval": 1}),
    "smollm3_windows": ("smollm3", 140, {"use_sliding_window": True, "sliding_window": 16}),
    "smollm3_layer_types": ("smollm3", 140, {"use_sliding_window": True, **LOCAL_FIRST}),
    "smollm3_all_rotated": ("smollm3", 140, {"no_rope_layers": [1, 1], "tie_word_embeddings": False}),
    "smollm3_yarn_biases": ("smollm3", 140, {"rope_parameters": YARN, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", 140, {}),
    "mistral_no_window": ("mistral", 140, {"sliding_window": None}),
    "mistral_wide_heads": ("mistral", 200, {"head_dim": 24, "sliding_window": 130}),
    "mistral_tied": ("mistral", 40, {"tie_word_embeddings": True}),
    "mistral_yarn": ("mistral", 140, {"rope_parameters": YARN}),
    "qwen2": ("qwen2", 140, {}),
    "qwen2_no_window": ("qwen2", 140, {"use_sliding_window": False}),
    "qwen2_layer_types": ("qwen2", 140, LOCAL_FIRST),
    "qwen2_tied_yarn": ("qwen2", 140, {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen2_own_key_heads": ("qwen2", 40, {"num_key_value_heads": None}),
    "qwen3": ("qwen3", 140, {}),
    "qwen3_windows": ("qwen3", 140, {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen3_layer_types": ("qwen3", 140, {"use_sliding_window": True, **LOCAL_FIRST}),
    "qwen3_biases_large_eps": ("qwen3", 40, {"attention_bias": True, "rms_norm_eps": 0.1}),
    "qwen3_one_key_head": ("qwen3", 40, {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "gemma": ("gemma", 140, {}),
    "gemma_first_files": ("gemma", 40, {"hidden_act": "gelu"}),
    "gemma_untied_biases": ("gemma", 40, {"tie_word_embeddings": False, "attention_bias": True}),
    "gemma_large_eps": ("gemma", 40, {"rms_norm_eps": 0.1, "num_key_value_heads": 1}),
    "gemma2": ("gemma2", 140, {}),
    "gemma2_three_blocks": ("gemma2", 300, {"sliding_window": 200}),
    "gemma2_published_caps": ("gemma2", 140, {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    "gemma2_no_caps": ("gemma2", 140, {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma2_layer_types": ("gemma2", 140, {"layer_types": ["full_attention", "sliding_attention"]}),
    "gemma2_biases_untied": ("gemma2", 40, {"attention_bias": True, "tie_word_embeddings": False}),
    "gemma2_gelu_large_eps": ("gemma2", 40, {"hidden_activation": "gelu", "rms_norm_eps": 0.1}),
    "gemma2_scaled_rope": ("gemma2", 140, {"rope_parameters": LLAMA3}),
    "gemma3": ("gemma3_text", 140, {}),
    "gemma3_three_blocks": ("gemma3_text", 300, {"sliding_window": 200}),
    "gemma3_all_local": ("gemma3_text", 140, {"layer_types": ["sliding_attention"] * 2}),
    "gemma3_all_global": ("gemma3_text", 140, {"layer_types": ["full_attention"] * 2}),
    "gemma3_scaled_rope": (
        "gemma3_text",
        140,
        {"rope_parameters": {**ROPES, "full_attention": {**ROPES["full_attention"], **LINEAR}}},
    ),
    "gemma3_biases_cap": ("gemma3_text", 40, {"attention_bias": True, "final_logit_softcapping": 3.0}),
    "gemma3_gelu_scale": ("gemma3_text", 40, {"hidden_activation": "gelu", "query_pre_attn_scalar": 10}),
    "gemma3_pattern_untied": (
        "gemma3_text",
        140,
        {"sliding_window_pattern": 2, "layer_types": None, "tie_word_embeddings": False, "num_hidden_layers": 3},
    ),
    "gpt2_inverse_layers": ("gpt2", 140, {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3}),
    "gpt2_inverse_layers_unscaled": (
        "gpt2",
        140,
        {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "reorder_and_upcast_attn": True},
    ),
    "gptj": ("gptj", 140, {}),
    "gptj_whole_heads": ("gptj", 140, {"rotary_dim": 16}),
    "gptj_default_inner": ("gptj", 40, {"n_inner": None}),
    "gptj_tied": ("gptj", 40, {"tie_word_embeddings": True}),
    "gptj_relu_large_eps": ("gptj", 40, {"activation_function": "relu", "layer_norm_epsilon": 0.1}),
    "opt": ("opt", 140, {}),
    "opt_whole_context": ("opt", 512, {"num_hidden_layers": 1}),
    "opt_norm_of_the_sum": ("opt", 140, {"do_layer_norm_before": False}),
    "opt_projected": ("opt", 140, {"word_embed_proj_dim": 32}),
    "opt_350m": ("opt", 140, {"do_layer_norm_before": False, "word_embed_proj_dim": 48}),
    "opt_projected_untied": ("opt", 40, {"word_embed_proj_dim": 32, "tie_word_embeddings": False}),
    "opt_no_final_norm": ("opt", 40, {"_remove_final_layer_norm": True}),
    "opt_no_final_norm_projected": ("opt", 40, {"_remove_final_layer_norm": True, "word_embed_proj_dim": 32}),
    "opt_no_biases": ("opt", 40, {"enable_bias": False}),
    "opt_bare_norms": ("opt", 40, {"layer_norm_elementwise_affine": False}),
    "opt_gelu_untied": ("opt", 40, {"activation_function": "gelu", "tie_word_embeddings": False}),
    "phi": ("phi", 140, {}),
    "phi_share": ("phi", 140, {"rope_parameters": {**ROPE, "rope_theta": 500.0, "partial_rotary_factor": 0.4}}),
    "phi_norms_of_heads": ("phi", 140, {"qk_layernorm": True}),
    "phi_own_key_heads": ("phi", 40, {"num_key_value_heads": None, "tie_word_embeddings": True}),
    "phi_relu_large_eps": ("phi", 40, {"hidden_act": "relu", "layer_norm_eps": 0.1}),
    "stablelm": ("stablelm", 140, {}),
    "stablelm_share": ("stablelm", 140, {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}),
    "stablelm_biases": ("stablelm", 40, {"use_qkv_bias": True}),
    "stablelm_parallel": ("stablelm", 40, {"use_parallel_residual": True}),
    "stablelm_norms_of_heads": ("stablelm", 140, {"qk_layernorm": True}),
    "stablelm_12b": (
        "stablelm",
        140,
        {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": True, "layer_norm_eps": 1e-2},
    ),
    "stablelm_tied_gelu": ("stablelm", 40, {"tie_word_embeddings": True, "hidden_act": "gelu"}),
    "olmo": ("olmo", 140, {}),
    "olmo_clip": ("olmo", 140, {"clip_qkv": 0.5}),
    "olmo_biases_tied": ("olmo", 40, {"attention_bias": True, "tie_word_embeddings": True}),
    "olmo_own_key_heads": ("olmo", 40, {"num_key_value_heads": None, "rope_parameters": {**ROPE, "rope_theta": 5e5}}),
    "olmo_rope_linear": ("olmo", 140, {"rope_parameters": {**ROPE, **LINEAR}}),
    "olmo2": ("olmo2", 140, {}),
    "olmo2_large_eps": ("olmo2", 40, {"rms_norm_eps": 0.1}),
    "olmo2_biases_tied": ("olmo2", 40, {"attention_bias": True, "tie_word_embeddings": True}),
    "olmo2_own_key_heads": ("olmo2", 40, {"num_key_value_heads": None, "rope_parameters": {**ROPE, "rope_theta": 5e5}}),
    "olmo3": ("olmo3", 140, {}),
    "olmo3_default_layers": ("olmo3", 140, {"num_hidden_layers": 5, "layer_types": None}),
    "olmo3_all_local": ("olmo3", 140, {"layer_types": ["sliding_attention"] * 2}),
    "olmo3_all_global": ("olmo3", 140, {"layer_types": ["full_attention"] * 2}),
    "olmo3_two_thetas": ("olmo3", 140, {"rope_parameters": ROPES}),
    "olmo3_yarn": ("olmo3", 300, {"rope_parameters": {"full_attention": YARN, "sliding_attention": ROPE}}),
}


# Those that between them use every option; the rest, one by one, take a while.
# fmt: off
QUICK = frozenset([
    "gpt2", "gpt2_unscaled", "gpt2_large_eps", "gpt_neo", "gpt_neo_window_across_blocks", "gpt_neo_irregular", "llama",
    "llama_large_eps", "llama_all_together", "llama_rope_llama3", "llama_rope_yarn_scales", "mistral", "qwen2", "qwen3",
    "gemma_large_eps", "gemma2", "gemma3", "gemma3_scaled_rope", "gpt2_inverse_layers", "gptj", "opt", "opt_350m",
    "opt_no_final_norm_projected", "phi", "phi_norms_of_heads", "stablelm", "stablelm_12b", "olmo_clip", "olmo2",
    "olmo3_yarn",
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
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt_neo", {"window_size": 17}),
        ("gpt_neo", {"attention_types": [LOCAL, GLOBAL]}),
        ("llama", {"rope_parameters": {**ROPE, "rope_theta": 500.0}}),
        ("llama", {"rms_norm_eps": 1e-3}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_parameters": {**ROPE, **LINEAR}}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": YARN}),
        ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.0}}),
        ("smollm3", {"no_rope_layers": [0, 1]}),
        ("smollm3", {"no_rope_layers": [1, 1]}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 17}),
        ("qwen2", {"max_window_layers": 2}),
        ("qwen2", LOCAL_FIRST),
        ("qwen3", {"rms_norm_eps": 1e-3}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma2", {"query_pre_attn_scalar": 16}),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("gemma3_text", {"rope_parameters": {**ROPES, "sliding_attention": ROPES["full_attention"]}}),
        ("gemma3_text", {"rope_parameters": {**ROPES, "full_attention": ROPES["sliding_attention"]}}),
        ("gemma3_text", {"final_logit_softcapping": 3.0}),
        ("gptj", {"rotary_dim": 10}),
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"activation_function": "gelu"}),
        ("phi", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.4}}),
        ("stablelm", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}),
        ("stablelm", {"layer_norm_eps": 1e-3}),
        ("olmo", {"clip_qkv": 0.5}),
        ("olmo2", {"rms_norm_eps": 1e-3}),
        ("olmo3", {"sliding_window": 17}),
        ("olmo3", {"rope_parameters": {"full_attention": YARN, "sliding_attention": ROPE}}),
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
    pytest.param("mistral", {}, marks=pytest.mark.slow),
    pytest.param("qwen2", {}, marks=pytest.mark.slow),
    pytest.param("qwen3", {}, marks=pytest.mark.slow),
    pytest.param("gemma", {}, marks=pytest.mark.slow),
    ("gemma2", {}),
    pytest.param("gemma3_text", {}, marks=pytest.mark.slow),
    ("gptj", {}),
    ("opt", {"word_embed_proj_dim": 32}),
    pytest.param("opt", {"do_layer_norm_before": False}, marks=pytest.mark.slow),
    pytest.param("phi", {"qk_layernorm": True}, marks=pytest.mark.slow),
    ("stablelm", {"qk_layernorm": True}),
    pytest.param("olmo", {}, marks=pytest.mark.slow),
    pytest.param("olmo2", {}, marks=pytest.mark.slow),
    pytest.param("olmo3", {}, marks=pytest.mark.slow),
]


# All kinds; those that share a table of tensors and their modules with Llama, which is tested, take a while.
LIKE_LLAMA = frozenset(["smollm3", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "olmo", "olmo2", "olmo3"])
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] * (kind in LIKE_LLAMA)) for kind in TINY]


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


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
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


def test_opt_without_its_prefix(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """As the published files of OPT have it; the first rows of the positions are of no position."""
    decoder = write(tmp_path, "opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32})

    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        tensors["decoder.embed_positions.weight"][:2] = np.nan
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
    "gptj": "transformer.wte.weight",
    "opt": "model.decoder.embed_tokens.weight",
    **dict.fromkeys(("llama", *LIKE_LLAMA, "gemma3_text", "phi", "stablelm"), "model.embed_tokens.weight"),
}


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
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
    # as of meta-llama/Llama-3.2-1B
    "llama_3": {
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    },
    # as of HuggingFaceTB/SmolLM3-3B
    "smollm3": {
        "model_type": "smollm3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 11008,
        "layer_types": ["full_attention"] * 36,
        "max_position_embeddings": 65536,
        "max_window_layers": 28,
        "mlp_bias": False,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0] * 9,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 4,
        "pretraining_tp": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 128256,
    },
    # as of mistralai/Mistral-7B-v0.1
    "mistral": {
        "model_type": "mistral",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 32000,
    },
    # as of Qwen/Qwen2.5-0.5B
    "qwen2": {
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "hidden_size": 896,
        "initializer_range": 0.02,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    # as of Qwen/Qwen3-0.6B
    "qwen3": {
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    # as of google/gemma-2b
    "gemma": {
        "model_type": "gemma",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 256,
        "hidden_act": "gelu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 16384,
        "max_position_embeddings": 8192,
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "vocab_size": 256000,
    },
    # as of google/gemma-2-2b
    "gemma2": {
        "model_type": "gemma2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304,
        "initializer_range": 0.02,
        "intermediate_size": 9216,
        "max_position_embeddings": 8192,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    # as of google/gemma-3-1b-pt
    "gemma3_text": {
        "model_type": "gemma3_text",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "initializer_range": 0.02,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    # stanford-crfm/BioMedLM
    "biomedlm": {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "bos_token_id": 28895,
        "eos_token_id": 28895,
        "gradient_checkpointing": False,
        "n_ctx": 1024,
        "n_embd": 2560,
        "n_head": 20,
        "n_inner": None,
        "n_layer": 32,
        "n_positions": 1024,
        "pad_token_id": 28895,
        "reorder_and_upcast_attn": False,
        "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": True,
        "summary_type": "cls_index",
        "torch_dtype": "float32",
        "use_cache": False,
        "vocab_size": 28896,
    },
    # as of EleutherAI/gpt-j-6b
    "gptj": {
        "model_type": "gptj",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "gradient_checkpointing": False,
        "layer_norm_epsilon": 1e-05,
        "n_embd": 4096,
        "n_head": 16,
        "n_inner": None,
        "n_layer": 28,
        "n_positions": 2048,
        "rotary": True,
        "rotary_dim": 64,
        "scale_attn_weights": True,
        "summary_type": "cls_index",
        "tie_word_embeddings": False,
        "tokenizer_class": "GPT2Tokenizer",
        "use_cache": True,
        "vocab_size": 50400,
    },
    # as of facebook/opt-350m
    "opt": {
        "model_type": "opt",
        "_remove_final_layer_norm": False,
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "do_layer_norm_before": False,
        "dropout": 0.1,
        "eos_token_id": 2,
        "ffn_dim": 4096,
        "hidden_size": 1024,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "pad_token_id": 1,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": 50272,
        "word_embed_proj_dim": 512,
    },
    # as of microsoft/phi-2
    "phi": {
        "model_type": "phi",
        "attention_dropout": 0.0,
        "bos_token_id": 50256,
        "embd_pdrop": 0.0,
        "eos_token_id": 50256,
        "hidden_act": "gelu_new",
        "hidden_size": 2560,
        "initializer_range": 0.02,
        "intermediate_size": 10240,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "partial_rotary_factor": 0.4,
        "qk_layernorm": False,
        "resid_pdrop": 0.1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": 51200,
    },
    # as of stabilityai/stablelm-2-12b
    "stablelm": {
        "model_type": "stablelm",
        "attention_dropout": 0.0,
        "bos_token_id": 100257,
        "eos_token_id": 100257,
        "hidden_act": "silu",
        "hidden_dropout": 0.0,
        "hidden_size": 5120,
        "initializer_range": 0.02,
        "intermediate_size": 13824,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "partial_rotary_factor": 0.25,
        "qk_layernorm": True,
        "rope_scaling": None,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "use_qkv_bias": False,
        "vocab_size": 100352,
    },
    # as of stabilityai/stablelm-base-alpha-7b
    "stablelm_alpha": {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 4096,
        "num_attention_heads": 48,
        "num_hidden_layers": 16,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "vocab_size": 50432,
    },
    # as of EleutherAI/gpt-neox-20b
    "gpt_neox_20b": {
        "model_type": "gpt_neox",
        "attention_probs_dropout_prob": 0,
        "hidden_act": "gelu_fast",
        "hidden_dropout_prob": 0,
        "hidden_size": 6144,
        "initializer_range": 0.02,
        "intermediate_size": 24576,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "num_attention_heads": 64,
        "num_hidden_layers": 44,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "vocab_size": 50432,
    },
    # as of allenai/OLMo-7B-hf
    "olmo": {
        "model_type": "olmo",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": None,
        "eos_token_id": 50279,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "pad_token_id": 1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": 50304,
    },
    # as of allenai/OLMo-2-1124-7B
    "olmo2": {
        "model_type": "olmo2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": 100257,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "pad_token_id": 100277,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 500000,
        "tie_word_embeddings": False,
        "vocab_size": 100352,
    },
    # as of allenai/Olmo-3-1025-7B
    "olmo3": {
        "model_type": "olmo3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": 100257,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 8,
        "max_position_embeddings": 65536,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "pad_token_id": 100277,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "attention_factor": 1.2079441541679836,
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "yarn",
        },
        "rope_theta": 500000,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 100278,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str) -> None:
    """An old config.json means what transformers takes it for, and what it writes in its place."""
    kind = PUBLISHED[name]["model_type"]
    ours = FAMILIES[kind].config(PUBLISHED[name])
    theirs = transformers.AutoConfig.for_model(kind).from_dict(PUBLISHED[name])
    assert FAMILIES[kind].config(json.loads(theirs.to_json_string())) == ours
    assert ours.heads * ours.head_dim == ours.embed or "head_dim" in PUBLISHED[name]
    if kind == "gpt_neo":
        assert ours.windows == (None, 256) * 6
    if kind == "gemma3_text":
        assert ours.windows == ((512,) * 5 + (None,)) * 4 + (512, 512)
    if name == "llama":
        assert (ours.key_heads, ours.rope_theta, ours.rotary_dim) == (3, 100000.0, 64)


def test_ropes_of_older_files() -> None:
    """rope_scaling and rope_theta are what transformers 5 writes as rope_parameters."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    config = FAMILIES["llama"].config
    old = config(fields_of("llama", {"rope_scaling": scaling, "rope_theta": 10000.0}))
    assert old == config(fields_of("llama", {"rope_parameters": YARN}))
    assert old.rope_scaling is not None
    fields = {"rope_theta": 1e6, "rope_local_base_freq": 100.0, "rope_parameters": None, "rope_scaling": LINEAR}
    new = {**ROPES, "full_attention": {**ROPES["full_attention"], **LINEAR}}
    config = FAMILIES["gemma3_text"].config
    old = config(fields_of("gemma3_text", fields))
    assert old == config(fields_of("gemma3_text", {"rope_parameters": new}))
    assert (old.rope_theta, old.local_rope_theta) == (1e6, 100.0)
    assert old.rope_scaling == config(fields_of("gemma3_text", {"rope_parameters": new})).rope_scaling


REQUIRED = {
    "gpt2": ("vocab_size", "n_embd", "n_layer", "n_head"),
    "gpt_neo": ("vocab_size", "hidden_size", "num_layers", "num_heads"),
    **dict.fromkeys(
        ("llama", *LIKE_LLAMA, "gemma3_text", "phi", "stablelm"),
        ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    ),
    "gptj": ("vocab_size", "n_embd", "n_layer", "n_head"),
    "opt": ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim"),
}


@pytest.mark.parametrize("kind", TINY)
def test_defaults_are_those_of_hugging_face(tmp_path: Path, kind: str) -> None:
    """A config.json that leaves out all that may be left out means what transformers takes it for."""
    fields = {name: TINY[kind][name] for name in REQUIRED[kind]}
    if kind == "gpt_neo":
        fields["num_layers"] = 24
    if kind == "gptj":
        fields["n_embd"] = 256  # heads of the default rotary_dim
    if "num_key_value_heads" in TINY[kind] and kind != "llama":  # whose default does not divide four heads
        fields["num_key_value_heads"] = 2
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
        "rope_parameters.low_freq_factor=None",
    ),
    ("llama", {"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "low_freq_factor=1.0 is not below"),
    ("llama", {"rope_parameters": {**LLAMA3, "factor": "8"}}, "rope_parameters.factor='8' must be a number above 0"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor=0 must be a number above 0"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor=None must be a number above 0"),
    (
        "llama",
        {"rope_scaling": {"type": "longrope", "factor": 2.0}},
        "rope_scaling.rope_type='longrope' is not modelled",
    ),
    ("llama", {"rope_scaling": {**LINEAR, "type": "yarn"}}, "rope_scaling.type contradicts its rope_type='linear'"),
    ("llama", {"rope_scaling": LINEAR, "rope_parameters": YARN}, "rope_scaling=.* contradicts rope_parameters"),
    ("llama", {"rope_scaling": "linear"}, "rope_scaling='linear' contradicts .*, or is no object"),
    ("llama", {"rope_parameters": {**ROPE, "mrope_section": [8]}}, "rope_parameters.mrope_section=.* is not modelled"),
    (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 256}},
        "rope_type='dynamic' is modelled only up to the original length",
    ),
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
    ("llama", {"head_dim": 15}, "head_dim=15 is odd"),
    ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers=.* is no list of 0 or 1 for num_hidden_layers=2"),
    ("smollm3", {"no_rope_layers": [1, 2]}, "no_rope_layers=.* is no list of 0 or 1"),
    ("mistral", {"sliding_window": 0}, "sliding_window=0 must be a number above 0"),
    ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types=.* is not modelled"),
    ("mistral", {"attention_bias": True}, "attention_bias=True is not modelled"),
    ("qwen2", {"layer_types": ["full_attention"]}, "layer_types=.* is no list of num_hidden_layers=2"),
    ("qwen2", {"layer_types": ["chunked_attention"] * 2}, "layer_types='chunked_attention' is not modelled"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2, "use_sliding_window": False}, "there is no sliding_window"),
    ("qwen2", {"dual_chunk_attention_config": {"chunk_size": 8}}, "dual_chunk_attention_config=.* is not modelled"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is not modelled"),
    ("gemma", {"hidden_activation": "silu"}, "hidden_activation='silu' is not modelled"),
    ("gemma2", {"final_logit_softcapping": -1.0}, "final_logit_softcapping=-1.0 must be a number above 0"),
    ("gemma2", {"sliding_window_size": 5}, "sliding_window_size and sliding_window contradict"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0 is not modelled"),
    ("gemma3_text", {"rope_parameters": ROPE}, "rope_parameters=.* must be of full_attention and sliding_attention"),
    (
        "gemma3_text",
        {"rope_parameters": {"sliding_attention": {**ROPE, **LINEAR}}},
        "rope_parameters.sliding_attention.rope_type is not modelled",
    ),
    ("llama", {"hidden_act": "mish"}, "hidden_act='mish' is not modelled; modelled: gelu"),
    ("gptj", {"rotary_dim": 18}, "rotary_dim=18 is no even number up to a head's 16"),
    ("gptj", {"rotary_dim": 7}, "rotary_dim=7 is no even number"),
    ("gptj", {"rotary_dim": None}, "rotary_dim=None must be a number above 0"),
    ("gptj", {"rotary": False}, "rotary=False is not modelled"),
    ("opt", {"num_attention_heads": 5}, "hidden_size=64 is no multiple of num_attention_heads=5"),
    ("opt", {"word_embed_proj_dim": 0}, "word_embed_proj_dim=0 must be a number above 0"),
    ("opt", {"enable_bias": None}, "enable_bias=None must be true or false"),
    ("phi", {"rope_scaling": LINEAR}, "rope_scaling=.* is not modelled"),
    ("phi", {"partial_rotary_factor": 0.2}, "partial_rotary_factor=0.2 gives heads of 16 an odd rotary_dim=3"),
    ("phi", {"num_key_value_heads": 3}, "num_attention_heads=4 is no multiple of num_key_value_heads=3"),
    ("stablelm", {"rope_parameters": YARN}, "rope_type='yarn' is not modelled"),
    ("stablelm", {"partial_rotary_factor": 1.5}, "partial_rotary_factor=1.5 gives heads of 16 a rotary_dim=24"),
    ("stablelm", {"head_dim": 24}, "head_dim=24 is not modelled"),
    ("olmo", {"clip_qkv": -1.0}, "clip_qkv=-1.0 must be a number above 0"),
    ("olmo2", {"clip_qkv": 8.0}, "clip_qkv=8.0 is not modelled"),
    ("olmo3", {"rope_parameters": ROPE}, "rope_parameters=.* must be of full_attention and sliding_attention"),
    (
        "olmo3",
        {"rope_parameters": {"sliding_attention": {**ROPE, **LINEAR}}},
        "rope_parameters.sliding_attention.rope_type is not modelled",
    ),
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
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0}}),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 512}}),
        ("mistral", {"num_key_value_heads": 2, "attention_bias": False}),
        ("qwen2", {"use_mrope": False, "layer_types": ["full_attention", "sliding_attention"]}),
        ("gemma", {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu"}),
        ("gemma2", {"cache_implementation": "hybrid", "hidden_act": "gelu", "use_bidirectional_attention": False}),
        ("gemma3_text", {"sliding_window_pattern": 2, "layer_types": None}),
        ("gemma3_text", {"_sliding_window_pattern": 6, "rope_local_base_freq": 100, "rope_theta": 1000000}),
        ("llama", {"rope_parameters": ROPE, "rope_theta": 10000}),
        ("gptj", {"rotary": True, "scale_attn_weights": True, "attn_pdrop": 0.5, "summary_type": "x"}),
        ("opt", {"word_embed_proj_dim": 64, "activation_dropout": 0.5, "layerdrop": 0.5, "prefix": "</s>"}),
        ("phi", {"resid_pdrop": 0.5, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_scaling": None}),
        ("stablelm", {"hidden_dropout": 0.5, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.25}}),
        ("olmo", {"clip_qkv": None, "rope_scaling": None}),
        ("olmo2", {"rope_parameters": ROPE}),
        ("olmo3", {"rope_theta": 500000}),
    ],
)
def test_accepted(kind: str, fields: dict[str, Any]) -> None:
    common = {"torch_dtype": "float16", "use_cache": False, "architectures": ["Any"], "id2label": {"0": "A"}}
    assert FAMILIES[kind].config(fields_of(kind, {**fields, **common})) == FAMILIES[kind].config(fields_of(kind, {}))

"""GGUF by transformers' reader: a file that is written here, as llama.cpp writes it, becomes the model that it was."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from mimir_jax.models.checkpoint import SINGLE, CheckpointError, load_decoder
from mimir_jax.models.convert import convert
from mimir_jax.parallel.mesh import sharding_of
from mimir_jax.scoring.tokens import load_tokenizer
from mimir_jax.testing import tiny_tokenizer, write_checkpoint

gguf = pytest.importorskip("gguf", reason="gguf reads and writes GGUF; `pip install -e '.[test]'` brings it")
pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate; `pip install -e '.[test]'`")

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    **dict.fromkeys(("layer_norm_eps", "use_parallel_residual", "attention_bias", "tie_word_embeddings")),
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}


def interleaved(kernel: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head as llama.cpp rotates them: dimensions i and i + half become neighbors."""
    return np.ascontiguousarray(kernel.reshape(heads, 2, -1, kernel.shape[1]).swapaxes(1, 2).reshape(kernel.shape))


def write_gguf(path: Path, tensors: dict[str, np.ndarray]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_vocab_size(300)
    model = json.loads(tiny_tokenizer(300).to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(model["vocab"], key=lambda token: model["vocab"][token]))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(model["vocab"]) - 1)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for theirs, name in NAMES.items():
        for layer in range(2) if "{}" in theirs else [0]:
            tensor = tensors[theirs.format(layer) + ".weight"]
            if theirs.endswith(("q_proj", "k_proj")):
                tensor = interleaved(tensor, 4 if theirs.endswith("q_proj") else 2)
            writer.add_tensor(name.format(layer) + ".weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
def test_gguf_to_safetensors(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    original = write_checkpoint(tmp_path / "original", tokenizer=tiny_tokenizer(300), **LLAMA)
    write_gguf(tmp_path / "tiny.gguf", load_file(original / SINGLE))
    convert(tmp_path / "tiny.gguf", tmp_path / "converted")
    before, after = (load_decoder(folder, sharding_of(one_device)) for folder in (original, tmp_path / "converted"))
    assert after.config.rope_theta == before.config.rope_theta == 500.0
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(after), jax.tree.leaves(before))
    text = "The quick brown fox, and the other dog: là-bas."
    one, other = (load_tokenizer(folder)(text)["input_ids"] for folder in (original, tmp_path / "converted"))
    assert one == other


def test_damaged(tmp_path: Path) -> None:
    original = write_checkpoint(tmp_path / "original", tokenizer=tiny_tokenizer(300), **LLAMA)
    write_gguf(tmp_path / "tiny.gguf", load_file(original / SINGLE))
    content = (tmp_path / "tiny.gguf").read_bytes()
    for damaged in (content[: len(content) // 2], b"GGUF" + bytes(20)):
        (tmp_path / "tiny.gguf").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"tiny\.gguf: transformers cannot read it"):
            convert(tmp_path / "tiny.gguf", tmp_path / "converted")
        assert not (tmp_path / "converted").exists()

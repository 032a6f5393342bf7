"""Gemma 3 of the sizes that read images: their text equals Hugging Face's torch model, images left out."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import SINGLE, load_decoder, read_config
from mimir_jax.models.families import FAMILIES
from mimir_jax.models.rope import RopeScaling
from mimir_jax.parallel.mesh import sharding_of

TEXT = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


@pytest.mark.slow
def test_logits(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    config = Gemma3Config(text_config=TEXT, vision_config=VISION, attn_implementation="eager", mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        values = torch.randn(weight.shape, generator=generator)
        weight.data.copy_(0.3 * values if weight.ndim == 1 else values / weight.shape[1] ** 0.5)
    model.save_pretrained(tmp_path)
    assert any(name.startswith("vision_tower.") for name in load_file(tmp_path / SINGLE))
    decoder = load_decoder(tmp_path, sharding_of(one_device))
    tokens = np.random.default_rng(0).integers(0, 320, (2, 140), np.int32)
    with torch.no_grad():
        expected = model(torch.tensor(tokens, dtype=torch.long), use_cache=False).logits.numpy()
    assert expected.std() > 0.5
    positions = np.broadcast_to(np.arange(140, dtype=np.int32), tokens.shape)
    got = jax.jit(type(decoder).logits)(decoder, tokens, positions, np.zeros_like(tokens))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    # under the names that transformers 5 has in memory
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path / SINGLE)
    assert any(name.startswith("model.language_model.") for name in load_file(tmp_path / SINGLE))
    again = load_decoder(tmp_path, sharding_of(one_device))
    jax.tree.map(np.testing.assert_array_equal, again, decoder)


# google/gemma-3-4b-pt, as published
PUBLISHED: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


def test_what_published_files_leave_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    family, ours = read_config(tmp_path)
    theirs = Gemma3Config.from_dict(PUBLISHED).text_config
    assert family.model_type == "gemma3"
    assert (ours.vocab, ours.heads, ours.key_heads) == (262208, 8, 4)
    assert ours == FAMILIES["gemma3_text"].config(json.loads(theirs.to_json_string()))
    assert ours.rope_scaling == RopeScaling("linear", 8.0)
    assert ours.windows == ((1024,) * 5 + (None,)) * 5 + (1024,) * 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": None}, "text_config=None must be an object"),
        ({"text_config": {**TEXT, "head_dim": 15}}, "config.json: text_config: head_dim=15 is odd"),
        ({"text_config": {**TEXT, "tie_word_embeddings": False}}, "contradicts the one of its text_config"),
        ({"text_config": TEXT, "audio_config": {}}, "audio_config={} is not modelled"),
    ],
)
def test_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FAMILIES["gemma3"].config({"model_type": "gemma3", **fields})

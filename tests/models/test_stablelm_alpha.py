"""StableLM-Base-Alpha v2 equals a restatement in torch, out of the pieces of Hugging Face's that its code used.

Its own implementation lies beside its weights and is not run; these tests cannot say that the restatement is it.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention, GPTNeoXRotaryEmbedding

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import SINGLE, load_decoder
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.mesh import sharding_of

FIELDS: dict[str, Any] = {
    "model_type": "stablelm_alpha",
    "auto_map": {"AutoModelForCausalLM": "modeling_stablelm_alpha.StableLMAlphaForCausalLM"},
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "max_position_embeddings": 512,
    "norm_eps": 1e-3,
    "rotary_pct": 0.25,
    "rotary_emb_base": 500,
    "rotary_scaling_factor": 1.0,
}
WIDTH = 256  # 8 / 3 of 64, up to a multiple of 256


class Layer(nn.Module):
    def __init__(self, config: GPTNeoXConfig, index: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.norm = nn.LayerNorm(size, eps=FIELDS["norm_eps"])
        self.attention = GPTNeoXAttention(config, index)  # query, key and value of each head are together
        self.mlp = nn.ModuleDict(
            {"gate_proj": nn.Linear(size, 2 * WIDTH, bias=False), "out_proj": nn.Linear(WIDTH, size, bias=False)}
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor, rotary: Any) -> torch.Tensor:
        read = self.norm(x)
        mixed = self.attention(read, attention_mask=mask, position_embeddings=rotary)[0]
        up, gate = self.mlp["gate_proj"](read).chunk(2, dim=-1)
        return x + mixed + self.mlp["out_proj"](up * nn.functional.silu(gate))


def restated(tokens: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Random weights under their published names, and the logits of the tokens."""
    torch.manual_seed(0)
    size, time = FIELDS["hidden_size"], tokens.shape[1]
    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25}
    config = GPTNeoXConfig(
        hidden_size=size, num_attention_heads=4, attention_bias=False, rope_parameters=rope, attn_implementation="eager"
    )
    embed, norm, head = nn.Embedding(320, size), nn.LayerNorm(size, eps=FIELDS["norm_eps"]), nn.Linear(size, 320, False)
    layers = nn.ModuleList([Layer(config, index) for index in range(2)]).eval()
    for weight in [*layers.parameters(), *norm.parameters()]:
        values = torch.randn_like(weight)
        weight.data.copy_(1 + 0.3 * values if weight.ndim == 1 else values / weight.shape[1] ** 0.5)
    with torch.no_grad():
        x = embed(tokens)
        rotary = GPTNeoXRotaryEmbedding(config)(x, torch.arange(time)[None])
        mask = torch.full((time, time), torch.finfo(torch.float32).min).triu(1)[None, None]
        for layer in layers:
            x = layer(x, mask, rotary)
        logits = head(norm(x))
    named = {"embed": embed, "final_norm": norm, "layers": layers}
    tensors = {f"transformer.{at}.{n}": t for at, module in named.items() for n, t in module.state_dict().items()}
    tensors = {
        name.replace("query_key_value", "qkv_proj").replace("attention.dense", "attention.out_proj"): tensor
        for name, tensor in tensors.items()
    }
    return {**tensors, "lm_head.weight": head.weight.detach()}, logits


@pytest.mark.slow
def test_logits(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    tokens = np.random.default_rng(0).integers(0, 320, (2, 140), np.int32)
    tensors, expected = restated(torch.tensor(tokens, dtype=torch.long))
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / SINGLE)
    decoder = load_decoder(tmp_path, sharding_of(one_device))
    positions = np.broadcast_to(np.arange(140, dtype=np.int32), tokens.shape)
    got = jax.jit(type(decoder).logits)(decoder, tokens, positions, np.zeros_like(tokens))
    assert expected.std() > 0.5
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-5)


def test_the_published_shape() -> None:
    """stablelm-base-alpha-3b-v2 has 2.8 billion parameters, 7b-v2 6.9."""
    published = {"model_type": "stablelm_alpha", "vocab_size": 50432, "num_hidden_layers": 32, "num_heads": 32}
    for size, billions in ((2560, 2.8), (4096, 6.9)):
        config = FAMILIES["stablelm_alpha"].config({**published, "hidden_size": size})
        rows = {
            (row.name, row.shape, row.path.startswith("blocks.")) for row in FAMILIES["stablelm_alpha"].rows(config)
        }
        count = sum(int(np.prod(shape)) * (32 if stacked else 1) for _, shape, stacked in rows)
        assert round(count / 1e9, 1) == billions
        assert (config.context, config.rotary_dim) == (4096, size // 32 // 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotary_scaling_factor": 2.0}, "rotary_scaling_factor=2.0 is not modelled"),
        ({"num_heads": 5}, "hidden_size=64 is no multiple of num_heads=5"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2 is not modelled"),
    ],
)
def test_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FAMILIES["stablelm_alpha"].config({**FIELDS, **fields})

"""T5 equals Hugging Face's torch model: its encoder, its decoder at once and step by step, over its options."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.models.t5.modeling_t5 import T5Attention

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import SINGLE, load_seq2seq, read_seq2seq_config, save_tensors
from mimir_jax.models.seq2seq import Seq2Seq, distance_buckets
from mimir_jax.parallel.mesh import make_mesh, sharding_of

torch.set_num_threads(1)

TOLERANCE = 1e-5
TINY: dict[str, Any] = {
    "vocab_size": 320,
    "d_model": 48,
    "d_kv": 12,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "first": {},
    "gated": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3},
    "few_buckets": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
    "large_eps_silu": {"layer_norm_epsilon": 0.1, "feed_forward_proj": "gated-silu"},
}
QUICK = {"first", "gated"}
SIZES = np.array([70, 3], np.int32)
WRITTEN = 20


def torch_model(seed: int = 0, **overrides: Any) -> Any:
    """A tiny torch model in which no weight is neutral."""
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**TINY, **overrides})).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        if name.endswith("norm.weight"):
            values = 1 + 0.3 * values
        elif "relative" not in name:
            values = values / weight.shape[1] ** 0.5
            if name.endswith(".q.weight"):  # scores are not scaled
                values = values / model.config.d_kv**0.5
        weight.data.copy_(values)
    return model


def given() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Padded sources, what is real of them, and what is written."""
    rng = np.random.default_rng(0)
    source = rng.integers(2, 320, (len(SIZES), SIZES.max()), np.int32)
    written = rng.integers(2, 320, (len(SIZES), WRITTEN), np.int32)
    written[:, 0] = 0
    return source, np.arange(SIZES.max()) < SIZES[:, None], written


def by_torch(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states of the encoder, and logits."""
    source, real, written = given()
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor(source, dtype=torch.long),
            attention_mask=torch.tensor(real),
            decoder_input_ids=torch.tensor(written, dtype=torch.long),
        )
    return found.encoder_last_hidden_state.numpy(), found.logits.numpy()


@jax.jit
def at_once(model: Seq2Seq, source: Any, real: Any, written: Any) -> tuple[jax.Array, jax.Array]:
    encoded = model.encode(source, real)
    room = model.empty(written.shape[0], written.shape[1])
    hidden, _ = model.write(written, jnp.int32(0), room, model.cross(encoded), real)
    return encoded, model.to_logits(hidden)


def close(actual: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS]
)
def test_logits(tmp_path: Path, one_device: jax.sharding.Mesh, name: str) -> None:
    model = torch_model(**OPTIONS[name])
    model.save_pretrained(tmp_path)
    ours = load_seq2seq(tmp_path, sharding_of(one_device))
    source, real, written = given()
    encoded, logits = at_once(ours, source, real, written)
    expected = by_torch(model)
    close(np.asarray(encoded)[real], expected[0][real])
    close(logits, expected[1])


def test_step_by_step_and_sharded(tmp_path: Path) -> None:
    """A token at a time with the keys and values of those before, over 4 x 2 devices."""
    model = torch_model()
    model.save_pretrained(tmp_path)
    ours = load_seq2seq(tmp_path, sharding_of(make_mesh(4, 2)))
    source, real, written = given()
    seen = jax.jit(Seq2Seq.read)(ours, source, real)
    room = ours.empty(len(SIZES), 32)
    step = jax.jit(Seq2Seq.write)
    for place in range(WRITTEN):
        hidden, room = step(ours, written[:, place : place + 1], np.int32(place), room, seen, real)
        close(ours.to_logits(hidden)[:, 0], by_torch(model)[1][:, place])


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 20)])
def test_buckets(both_ways: bool, buckets: int, farthest: int) -> None:
    folder = {**TINY, "relative_attention_num_buckets": buckets, "relative_attention_max_distance": farthest}
    from mimir_jax.models.families.t5 import config

    ours = distance_buckets(600, both_ways, config(folder))
    theirs = T5Attention._relative_position_bucket(torch.arange(-600, 601), both_ways, buckets, farthest)
    assert ours.tolist() == theirs.tolist()


def test_files_of_the_first_checkpoints_and_back(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """Copies of the words, and a bias that nothing uses; a head of its own; the same tensors are written."""
    torch_model(feed_forward_proj="gated-gelu").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    head = np.random.default_rng(1).standard_normal((320, 48)).astype(np.float32)
    old = {
        **tensors,
        "encoder.embed_tokens.weight": tensors["shared.weight"],
        "decoder.embed_tokens.weight": tensors["shared.weight"],
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.zeros((32, 4), np.float32),
        "lm_head.weight": head,
    }
    save_file(old, tmp_path / SINGLE)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields.pop("scale_decoder_outputs")
    path.write_text(json.dumps({**fields, "tie_word_embeddings": False}))  # as version 1.1 is published
    ours = load_seq2seq(tmp_path, sharding_of(one_device))
    x = np.random.default_rng(2).standard_normal((1, 2, 48)).astype(np.float32)
    close(ours.to_logits(jnp.asarray(x)), x @ head.T)
    save_tensors(ours, read_seq2seq_config(tmp_path)[0], tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == {*tensors, "lm_head.weight"}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feed_forward_proj": "other-gelu"}, "feed_forward_proj='other-gelu'"),
        ({"feed_forward_proj": "tanh"}, "feed_forward_proj='tanh'"),
        ({"d_kv": 0}, "d_kv=0 must be a number above 0"),
        ({"new": 1}, "new=1 is not modelled"),
        ({"model_type": "bert"}, "a mask-filling model"),
    ],
)
def test_configs_that_are_not_modelled(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "model_type": "t5", **fields}))
    with pytest.raises(ConfigError, match=message):
        read_seq2seq_config(tmp_path)

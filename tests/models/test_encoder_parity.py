"""BERT, DistilBERT and RoBERTa equal Hugging Face's torch models: logits over options, padding, and each module."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from mimir_jax.config import ConfigError
from mimir_jax.models.checkpoint import (
    SINGLE,
    CheckpointError,
    load_decoder,
    load_encoder,
    read_mask_config,
    save_tensors,
)
from mimir_jax.models.encoder import Encoder
from mimir_jax.models.layers import ACTIVATIONS
from mimir_jax.parallel.mesh import make_mesh, sharding_of
from mimir_jax.testing import write_checkpoint

pytestmark = pytest.mark.slow  # as a whole

torch.set_num_threads(1)

TOLERANCE = 1e-5
CLASSES: dict[str, tuple[Any, Any]] = {
    "bert": (transformers.BertConfig, transformers.BertForMaskedLM),
    "roberta": (transformers.RobertaConfig, transformers.RobertaForMaskedLM),
    "distilbert": (transformers.DistilBertConfig, transformers.DistilBertForMaskedLM),
}
BERT: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}
TINY: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": {**BERT, "max_position_embeddings": 258, "type_vocab_size": 1},
    "distilbert": {
        "vocab_size": 320,
        "dim": 64,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 96,
        "max_position_embeddings": 256,
    },
}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "roberta": ("roberta", {}),
    "distilbert": ("distilbert", {}),
    "bert_relu_large_eps": ("bert", {"hidden_act": "relu", "layer_norm_eps": 0.1}),
    "roberta_silu_head_gelu": ("roberta", {"hidden_act": "silu"}),
    "distilbert_relu_one_layer": ("distilbert", {"activation": "relu", "n_layers": 1}),
}
QUICK = {"bert", "roberta", "distilbert"}
SIZES = np.array([150, 31, 1], np.int32)
"""About the blocks of 128 queries."""


def torch_model(kind: str, seed: int = 0, **overrides: Any) -> Any:
    """A tiny torch model in which no weight is neutral."""
    config, model = CLASSES[kind]
    made = model(config(attn_implementation="eager", **{**TINY[kind], **overrides})).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in made.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            values = 0.3 * values + ("norm" in name.lower() and name.endswith("weight"))
        else:  # tied words are the head, too
            values = values / weight.shape[1] ** 0.5
        weight.data.copy_(values)
    return made


def tokens_of(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a padded batch, none of them that of padding (RoBERTa takes positions from those), and what is real."""
    tokens = np.random.default_rng(0).integers(3, model.config.vocab_size, (len(SIZES), SIZES.max()), np.int32)
    return tokens, np.arange(SIZES.max()) < SIZES[:, None]


def torch_logits(model: Any, tokens: np.ndarray, real: np.ndarray) -> np.ndarray:
    given = np.where(real, tokens, model.config.pad_token_id)
    with torch.no_grad():
        return model(torch.tensor(given, dtype=torch.long), attention_mask=torch.tensor(real)).logits.numpy()


@jax.jit
def logits(encoder: Encoder, tokens: Any, size: Any) -> jax.Array:
    return encoder.to_logits(encoder(tokens, size))


@jax.jit
def logits_at(encoder: Encoder, tokens: Any, size: Any, place: Any) -> jax.Array:
    return encoder.to_logits(encoder.encode(encoder.embed(encoder.words(tokens)), size, place))


def assert_close(actual: Any, expected: Any) -> None:
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS]
)
def test_logits(tmp_path: Path, one_device: jax.sharding.Mesh, name: str) -> None:
    kind, overrides = OPTIONS[name]
    model = torch_model(kind, **overrides)
    model.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path, sharding_of(one_device))
    tokens, real = tokens_of(model)
    expected = torch_logits(model, tokens, real)
    assert_close(np.asarray(logits(encoder, tokens, SIZES))[real], expected[real])
    # At one place of each row, whatever stands on padding.
    place = np.array([140, 30, 0], np.int32)
    assert_close(logits_at(encoder, np.where(real, tokens, 7), SIZES, place)[:, 0], expected[range(3), place])


def test_sharded(tmp_path: Path) -> None:
    """Over 4 x 2 devices."""
    model = torch_model("bert")
    model.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path, sharding_of(make_mesh(4, 2)))
    assert len(encoder.blocks.mlp.up.kernel[...].sharding.device_set) == 8
    tokens, real = tokens_of(model)
    assert_close(np.asarray(logits(encoder, tokens, SIZES))[real], torch_logits(model, tokens, real)[real])


BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
PLACES: dict[str, tuple[str, str, dict[str, str], str, str]] = {
    "bert": ("bert.embeddings", "bert.encoder.layer", BERT_LAYER, "cls.predictions.transform", "cls.predictions"),
    "roberta": ("roberta.embeddings", "roberta.encoder.layer", BERT_LAYER, "lm_head.layer_norm", "lm_head"),
    "distilbert": (
        "distilbert.embeddings",
        "distilbert.transformer.layer",
        {
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention": "attention.out_lin",
            "attention_norm": "sa_layer_norm",
            "mlp": "ffn.lin2",
            "mlp_norm": "output_layer_norm",
        },
        "vocab_layer_norm",
        "vocab_projector",
    ),
}
"""Where torch has each module: embeddings, layers, what a layer consists of, the head before its product, the head."""


@pytest.mark.parametrize("kind", CLASSES)
def test_modules(tmp_path: Path, one_device: jax.sharding.Mesh, kind: str) -> None:
    """Each module of ours, given what torch's got in a padded batch, returns what torch's did on all that is real."""
    model = torch_model(kind)
    model.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path, sharding_of(one_device))
    embeddings, layers, inside, before_head, head = PLACES[kind]
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                seen[name] = output.numpy()

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(keep(name))
    tokens, real = tokens_of(model)
    torch_logits(model, tokens, real)

    def compare(module: Any, expected: str, *inputs: Any) -> None:
        actual = np.asarray(jax.jit(lambda *arrays: module(*arrays))(*inputs))
        assert_close(actual.reshape(*real.shape, -1)[real], seen[expected][real])

    compare(lambda ids: encoder.embed(encoder.words(ids)), embeddings, jnp.asarray(tokens))
    x = seen[embeddings]
    for index in range(encoder.config.layers):
        block = encoder._block(index)
        names = {ours: f"{layers}.{index}.{theirs}" for ours, theirs in inside.items()}
        for name in ("query", "key", "value"):
            compare(getattr(block.attention, name), names[name], x)
        compare(lambda x, real, block=block: block.attention(x, x, real), names["attention"], x, real)
        compare(block.attention_norm, names["attention_norm"], x + seen[names["attention"]])
        attended = seen[names["attention_norm"]]
        compare(block.mlp, names["mlp"], attended)
        compare(block.mlp_norm, names["mlp_norm"], attended + seen[names["mlp"]])
        compare(lambda x, real, block=block: block(x, x, real), names["mlp_norm"], x, real)
        x = seen[names["mlp_norm"]]
    activation = ACTIVATIONS[encoder.config.head_activation]
    compare(lambda x: encoder.head_norm(activation(encoder.transform(x))), before_head, x)
    compare(encoder.to_logits, head, x)


def test_files_of_the_first_checkpoints(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """Norms called gamma and beta, a pooler, the sentence head, the tied product a second time, in two dtypes."""
    model = torch_model("bert")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    old |= {
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        "bert.pooler.dense.weight": np.zeros((64, 64), np.float32),
        "cls.seq_relationship.bias": np.zeros(2, np.float32),
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "bert.embeddings.position_ids": np.zeros((1, 256), np.int64),
    }
    save_file(old, tmp_path / SINGLE)
    encoder = load_encoder(tmp_path, sharding_of(one_device), ml_dtypes.bfloat16)
    assert encoder.embedding[...].dtype == jnp.bfloat16
    tokens, real = tokens_of(model)
    expected = torch_logits(model, tokens, real)[real]
    np.testing.assert_allclose(np.asarray(logits(encoder, tokens, SIZES))[real], expected, rtol=0, atol=0.05)
    # And back, under today's names.
    family, _ = read_mask_config(tmp_path)
    save_tensors(load_encoder(tmp_path, sharding_of(one_device)), family, tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    for name, tensor in tensors.items():
        if "token_type" not in name:  # of which only the first is ours
            np.testing.assert_array_equal(again[name], tensor)


@pytest.mark.parametrize("kind", CLASSES)
def test_without_its_head(tmp_path: Path, one_device: jax.sharding.Mesh, kind: str) -> None:
    base = {"bert": "bert", "roberta": "roberta", "distilbert": "distilbert"}[kind]
    getattr(torch_model(kind), base).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds no head: none of its tensors is named"):
        load_encoder(tmp_path, sharding_of(one_device))


def test_missing_and_unknown_tensors(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    torch_model("distilbert").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    tensors["extra"] = tensors.pop("vocab_transform.bias")
    save_file(tensors, tmp_path / SINGLE)
    with pytest.raises(CheckpointError, match=r"extra is unknown; vocab_transform\.bias is missing"):
        load_encoder(tmp_path, sharding_of(one_device))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("bert", {"is_decoder": True}, "is_decoder=True is not modelled"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ("bert", {"embedding_size": 32}, "embedding_size=32 is not modelled"),
        ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings=False is not modelled"),
        ("roberta", {"pad_token_id": 0}, "pad_token_id=0 is not modelled"),
        ("roberta", {"max_position_embeddings": 2}, "leaves no position"),
        ("distilbert", {"n_heads": 5}, "dim=64 is no multiple of n_heads=5"),
        ("gpt_neox", {}, "a causal model, which can be attacked"),
        ("t4", {}, "supported: bert"),
    ],
)
def test_configs_that_are_not_modelled(tmp_path: Path, kind: str, fields: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**TINY.get(kind, {}), "model_type": kind, **fields}))
    with pytest.raises(ConfigError, match=message):
        read_mask_config(tmp_path)


def test_a_masked_model_cannot_be_attacked(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**BERT, "model_type": "bert"}))
    with pytest.raises(ConfigError, match=r"a mask-filling model, for --neighbors\.model"):
        load_decoder(tmp_path, sharding_of(one_device))

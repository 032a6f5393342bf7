"""Tiny checkpoints and tokenizers for tests and examples, made on the spot without torch and without a network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mimir_jax.models.checkpoint import INDEX, SINGLE, save_tensors
from mimir_jax.models.decoder import Decoder
from mimir_jax.models.encoder import Encoder
from mimir_jax.models.families import FAMILIES, MASKED, SEQ2SEQ
from mimir_jax.models.seq2seq import Seq2Seq

END_OF_TEXT = "<|endoftext|>"

TINY: dict[str, Any] = {
    "model_type": "gpt_neox",
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
}
"""The config.json of `write_checkpoint`; the vocabulary is padded beyond the tokenizer's, as published ones are."""

# What the tiny tokenizer learns its merges from.
_TEXT = (
    "The quick brown fox jumps over the lazy dog, and the other dog looks at them without a word. "
    "There is more in these books than the reader of one of them would think; that is why we read others."
)


def tiny_tokenizer(vocab: int = 300, bos: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer: any text can be encoded, common English words are a few tokens.

    Args:
        vocab: its size, at least 257: the special token and 256 bytes; the rest are merges.
        bos: put `END_OF_TEXT` before every text, as the tokenizers of Llama and its kin do with theirs.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{END_OF_TEXT} $A",
            special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
        )
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write a tokenizer as `AutoTokenizer` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")


def tiny_decoder(hf: Mapping[str, Any] = TINY, seed: int = 0) -> Decoder:
    """The random decoder that a config.json describes.

    Nothing in it is neutral: biases are not 0, norms not 1, and matrices keep the size of what they multiply, so
    that a bias left out or a norm skipped shows in the logits.
    """
    config = FAMILIES[hf["model_type"]].config(hf)
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    filled = []
    for path, leaf in nnx.to_flat_state(state):
        values = rng.standard_normal(leaf.shape, np.float32)
        if path[-1] == "scale":
            values = 1 - config.norm_offset + 0.2 * values
        elif path[-1] in ("shift", "bias"):
            values = 0.2 * values
        elif path[-1] == "kernel":
            width = config.heads * config.head_dim if path[-2] == "out" else leaf.shape[-1]
            values = values / np.float32(width**0.5)
        elif path[-1] == ("embedding" if config.tied_head else "head"):
            values = 2 * values / np.float32(config.embed**0.5)
        filled.append((path, leaf.replace(jnp.asarray(values, jnp.float32))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def write_checkpoint(
    folder: Path,
    seed: int = 0,
    *,
    dtype: Any = np.float32,
    files: int = 1,
    tokenizer: Tokenizer | None = None,
    **overrides: Any,
) -> Path:
    """Write a tiny random checkpoint as a Hugging Face folder: config.json, weights and tokenizer.

    Args:
        folder: made where it does not exist.
        seed: of the weights.
        dtype: of the file's tensors: np.float32, np.float16 or ml_dtypes.bfloat16.
        files: how many the weights are spread over; more than one have an index.
        tokenizer: `tiny_tokenizer()` by default.
        **overrides: fields of config.json that differ from `TINY`; None leaves a field out.

    Returns:
        The folder.
    """
    hf = {name: value for name, value in {**TINY, **overrides}.items() if value is not None}
    write_tokenizer(folder, tiny_tokenizer() if tokenizer is None else tokenizer)
    (folder / "config.json").write_text(json.dumps(hf, indent=2), encoding="utf-8")
    save_tensors(tiny_decoder(hf, seed), FAMILIES[hf["model_type"]], folder / SINGLE, dtype)
    if files > 1:
        split_weights(folder, files)
    return folder


def split_weights(folder: Path, files: int) -> None:
    """Spread a checkpoint's one weight file over several with an index."""
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    where: dict[str, str] = {}
    for number in range(files):
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        part = names[number::files]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}), encoding="utf-8")
    (folder / SINGLE).unlink()


TINY_BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "hidden_act": "gelu",
}
"""The config.json of `write_mask_model`."""


def tiny_wordpiece(vocab: int = 250) -> Tokenizer:
    """An uncased WordPiece tokenizer as BERT's, of a few English words and all their letters."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([_TEXT, "a b c d e f g h i j k l m n o p q r s t u v w x y z"], trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def tiny_encoder(hf: Mapping[str, Any] = TINY_BERT, seed: int = 0) -> Encoder:
    """The random masked model that a config.json describes; nothing in it is neutral, as in `tiny_decoder`."""
    config = MASKED[hf["model_type"]].config(hf)
    graph, state = nnx.split(nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    filled = []
    for path, leaf in nnx.to_flat_state(state):
        values = rng.standard_normal(leaf.shape, np.float32)
        if path[-1] in ("scale", "shift", "bias", "head_bias"):
            values = 0.2 * values + (path[-1] == "scale")
        else:
            values = values / np.float32(config.embed**0.5)
        filled.append((path, leaf.replace(jnp.asarray(values, jnp.float32))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def write_mask_model(folder: Path, seed: int = 0, *, tokenizer: Tokenizer | None = None, **overrides: Any) -> Path:
    """Write a tiny random masked model as a Hugging Face folder; see `write_checkpoint`."""
    hf = {name: value for name, value in {**TINY_BERT, **overrides}.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (tiny_wordpiece() if tokenizer is None else tokenizer).save(str(folder / "tokenizer.json"))
    names = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    if tokenizer is not None:
        names = {"bos": END_OF_TEXT, "eos": END_OF_TEXT}
    fields = {f"{name}_token": token for name, token in names.items()}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **fields}
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(hf, indent=2), encoding="utf-8")
    save_tensors(tiny_encoder(hf, seed), MASKED[hf["model_type"]], folder / SINGLE)
    return folder


TINY_T5: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": 480,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 1,
    "num_heads": 4,
}
"""The config.json of `write_span_model`."""


def tiny_sentinels(vocab: int = 450) -> Tokenizer:
    """A byte-level tokenizer with T5's special tokens: padding, the end of a text, which follows it, and masks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", *(f"<extra_id_{number}>" for number in range(100))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def write_span_model(folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny random T5 as a Hugging Face folder; see `write_checkpoint`."""
    hf = {**TINY_T5, **overrides}
    folder.mkdir(parents=True, exist_ok=True)
    tiny_sentinels().save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(hf, indent=2), encoding="utf-8")
    config = SEQ2SEQ[hf["model_type"]].config(hf)
    graph, state = nnx.split(nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    filled = []
    for path, leaf in nnx.to_flat_state(state):
        values = rng.standard_normal(leaf.shape, np.float32)
        if path[-1] == "scale":
            values = 1 + 0.2 * values
        elif path[-1] == "kernel":
            values = values / np.float32(config.embed**0.5)
        filled.append((path, leaf.replace(jnp.asarray(values, jnp.float32))))
    save_tensors(nnx.merge(graph, nnx.from_flat_state(filled)), SEQ2SEQ[hf["model_type"]], folder / SINGLE)
    return folder

"""What the benchmarks work on: a random checkpoint of Pythia-160M's shape, and real documents."""

import json
import math
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mimir_jax.data.embedded import demo_documents
from mimir_jax.data.readers import read_documents
from mimir_jax.models.checkpoint import SINGLE
from mimir_jax.models.families.gpt_neox import FAMILY
from mimir_jax.testing import split_weights

SHARED = Path(__file__).parents[2] / "shared"
TOKENIZER = SHARED / "tokenizers" / "gpt-neox-20b"
PILE = SHARED / "data" / "pile_test_nonmembers"

PYTHIA_160M: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 50304,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 2048,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
}


PYTHIA_12B: dict[str, Any] = {
    **PYTHIA_160M,
    "vocab_size": 50688,
    "hidden_size": 5120,
    "num_hidden_layers": 36,
    "num_attention_heads": 40,
    "intermediate_size": 20480,
}


def write_sparse(folder: Path, hf: dict[str, Any]) -> Path:
    """Write a checkpoint in float16 whose tensors begin with random numbers and go on with 0, which take no disk.

    Args:
        folder: made where it does not exist.
        hf: the config.json of a GPT-NeoX.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf, indent=2), encoding="utf-8")
    config = FAMILY.config(hf)
    shapes = {row.name.format(i): row.shape for row in FAMILY.rows(config) for i in range(config.layers)}
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    rng = np.random.default_rng(0)
    with (folder / SINGLE).open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
        for entry in header.values():
            start, end = entry["data_offsets"]
            file.seek(8 + len(encoded) + start)
            file.write((0.02 * rng.standard_normal(min((end - start) // 2, 1024))).astype(np.float16).tobytes())
    return folder


def write_weights(folder: Path, hf: dict[str, Any] = PYTHIA_160M, dtype: Any = np.float32, files: int = 1) -> Path:
    """Write config.json and random weights, the same ones every time, as a Hugging Face folder.

    Args:
        folder: made where it does not exist.
        hf: the config.json of a GPT-NeoX.
        dtype: of the file's tensors.
        files: how many the weights are spread over; more than one have an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf, indent=2), encoding="utf-8")
    config = FAMILY.config(hf)
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    for row in FAMILY.rows(config):
        for name in dict.fromkeys(row.name.format(layer) for layer in range(config.layers)):
            if name in tensors:  # query, key and value are rows of one tensor
                continue
            if name.endswith(".bias"):
                tensors[name] = np.zeros(row.shape, dtype)
            elif row.path.endswith(".scale"):
                tensors[name] = np.ones(row.shape, dtype)
            else:
                tensors[name] = (0.02 * rng.standard_normal(row.shape, np.float32)).astype(dtype)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    if files > 1:
        split_weights(folder, files)
    return folder


def copy_tokenizer(folder: Path) -> None:
    """Put the tokenizer of Pythia into a checkpoint's folder."""
    for path in TOKENIZER.iterdir():
        shutil.copy(path, folder)


def real_documents(count: int) -> list[str]:
    """Documents of 100 to 200 words: the Pile's test split, domains in turn, or the embedded example's passages."""
    domains = [path / "shard0.jsonl.gz" for path in sorted(PILE.iterdir())] if PILE.is_dir() else []
    if not domains:
        return [document.text for document in demo_documents()][:count]
    # Some documents are shorter than 100 words.
    wanted = 4 * -(-count // len(domains))
    cut = [
        [
            first_words(document.text, 200)
            for document in read_documents(path, text_field="original", max_documents=wanted)
        ]
        for path in domains
    ]
    kept = [[text for text in texts if len(text.split()) >= 100] for texts in cut]
    in_turn = [text for texts in zip(*kept) for text in texts]
    return list(dict.fromkeys(in_turn))[:count]


def first_words(text: str, count: int) -> str:
    """The text up to its count-th word, its white space as it is."""
    words = list(re.finditer(r"\S+", text))
    return text[: words[min(count, len(words)) - 1].end()] if words else ""

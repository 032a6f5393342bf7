"""Material of the small runs: models that are trained on the spot, and sets made of the embedded example."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from experiments.controlled import hugging_face_config
from mimir_jax.data.documents import Document
from mimir_jax.data.embedded import demo_documents, demo_path
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.training.checkpoints import write_checkpoint
from mimir_jax.training.loop import TrainConfig, train

RECIPE = TrainConfig(epochs=3, batch_tokens=1024, learning_rate=3e-3, weight_decay=0.01)
WORDS = 50  # as many first words of a passage are a document

GPT_NEO = {
    "architectures": ["GPTNeoForCausalLM"],
    "model_type": "gpt_neo",
    "vocab_size": 2048,
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 64,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def passages(is_member: bool) -> list[Document]:
    """One side of the embedded example."""
    return [document for document in demo_documents() if document.is_member is is_member]


def beginning(text: str, words: int = WORDS) -> str:
    """The first words of a text."""
    return " ".join(text.split()[:words])


def trained(folder: Path, documents: int, *, width: int = 64, family: str = "gpt_neox") -> str:
    """A checkpoint trained on the beginnings of the first members; one that is there is not trained again."""
    target = folder / f"{family}-{width}-{documents}"
    if not target.is_dir():
        hf = GPT_NEO if family == "gpt_neo" else {**hugging_face_config(width), "max_position_embeddings": 256}
        tokenizer = AutoTokenizer.from_pretrained(demo_path("tokenizer"))
        texts = [beginning(document.text) for document in passages(True)[:documents]]
        ids = [np.array(one, np.int32) for one in tokenizer(texts)["input_ids"]]
        decoder = train(FAMILIES[family].config(hf), ids, RECIPE, make_mesh()).decoder
        write_checkpoint(decoder, hf, demo_path("tokenizer"), target)
    return str(target)


def write(path: Path, documents: Iterable[tuple[str, str, str]]) -> str:
    """A JSONL file of id, text and source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": name, "text": text, "source": source}) for name, text, source in documents]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)

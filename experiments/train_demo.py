"""Train the model of the embedded example, mimir_jax/data/demo/epoch{1,2,4,8,16}, on its members only.

From the root of the repository (13 minutes on 2 idle cores by the speed of short runs):

    python experiments/train_demo.py

One run of 16 epochs gives all five checkpoints, as Hugging Face folders in float16, and `training.json`, which says
how it went. The recipe was chosen by the training loss of short runs and by time; nothing here reads a non-member.
The shipped checkpoints come from an earlier form of the trainer that rounds differently: see the data card.
"""

import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import optax
import tyro
from jaxtyping import Int
from transformers import AutoTokenizer

from mimir_jax.data.embedded import demo_documents, demo_path
from mimir_jax.models.decoder import Decoder
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.training.checkpoints import write_checkpoint
from mimir_jax.training.loop import TrainConfig, train
from mimir_jax.training.progress import Curve

SAVED_EPOCHS = (1, 2, 4, 8, 16)
RECIPE = TrainConfig(epochs=16, batch_tokens=2560, learning_rate=3e-3, weight_decay=0.01, seed=0)

HUGGING_FACE_CONFIG: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "classifier_dropout": 0.1,
    "dtype": "float16",
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_dropout": 0.0,
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "is_decoder": False,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 1024,
    "model_type": "gpt_neox",
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "pad_token_id": None,
    "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "transformers_version": "5.23.0",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 2048,
}
FAMILY = FAMILIES["gpt_neox"]
DEMO = demo_path("")


def main(output: Path = DEMO) -> None:
    """Train, and write the checkpoints and training.json.

    Args:
        output: folder to write to.
    """
    documents = member_ids()
    tokens = sum(map(len, documents))
    losses: list[float] = []
    start = time.perf_counter()

    def on_epoch(epoch: int, decoder: Decoder, curve: Curve) -> None:
        mean_loss = float(curve.of_epoch(epoch))
        seconds = time.perf_counter() - start
        print(f"epoch {epoch}: loss {mean_loss:.4f}, {epoch * tokens / seconds:.0f} tokens a second", flush=True)
        losses.append(mean_loss)
        if epoch in SAVED_EPOCHS:
            tokenizer = demo_path("tokenizer")
            write_checkpoint(decoder, HUGGING_FACE_CONFIG, tokenizer, output / f"epoch{epoch}", np.float16)

    train(FAMILY.config(HUGGING_FACE_CONFIG), documents, RECIPE, make_mesh(), on_epoch)
    record = {
        "recipe": asdict(RECIPE),
        "documents": len(documents),
        "tokens": tokens,
        "mean_loss_by_epoch": [round(loss, 5) for loss in losses],
        "seconds": round(time.perf_counter() - start),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (jax, flax, optax, np)},
        },
    }
    (output / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def member_ids() -> list[Int[np.ndarray, " time"]]:
    """Token ids of the members, as scoring has them: without special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(demo_path("tokenizer"))
    texts = [document.text for document in demo_documents() if document.is_member]
    return [np.array(ids, np.int32) for ids in tokenizer(texts)["input_ids"]]


if __name__ == "__main__":
    tyro.cli(main)

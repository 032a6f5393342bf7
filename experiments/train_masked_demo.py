"""Train the masked model of the embedded example, mimir_jax/data/demo/masked, on its members only.

From the root of the repository (7 minutes on 2 cores that other jobs used, too):

    python experiments/train_masked_demo.py

It makes neighbors of the embedded documents where no BERT is at hand: `--neighbors.model demo/masked`. The folder is of
Hugging Face's form, in float16, with the embedded tokenizer and BERT's special tokens. Nothing here reads a non-member.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from mimir_jax.data.embedded import demo_documents, demo_path
from mimir_jax.models.encoder import Encoder
from mimir_jax.models.families import MASKED
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.training.checkpoints import write_checkpoint
from mimir_jax.training.loop import TrainConfig
from mimir_jax.training.masked import Masking, train_masked
from mimir_jax.training.progress import Curve

RECIPE = TrainConfig(epochs=16, batch_tokens=1408, learning_rate=4e-3, weight_decay=0.01, seed=0)
DEMO = demo_path("")
SPECIAL = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}

HUGGING_FACE_CONFIG: dict[str, Any] = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 704,
    "model_type": "bert",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "pad_token_id": 2048,
    "type_vocab_size": 1,
    "vocab_size": 2048 + len(SPECIAL),
}


def main(output: Path = DEMO / "masked", epochs: int = RECIPE.epochs) -> None:
    """Train, and write the checkpoint.

    Args:
        output: folder to write.
        epochs: times that every member is read.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer_folder = write_tokenizer(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        texts = [document.text for document in demo_documents() if document.is_member]
        documents = [np.array(ids, np.int32) for ids in tokenizer(texts)["input_ids"]]
        masking = Masking(tokenizer.mask_token_id, tuple(tokenizer.all_special_ids))
        start = time.perf_counter()

        def on_epoch(epoch: int, encoder: Encoder, curve: Curve) -> None:
            seconds = time.perf_counter() - start
            print(f"epoch {epoch}: loss {float(curve.of_epoch(epoch)):.4f} after {seconds:.0f} s", flush=True)

        recipe = replace(RECIPE, epochs=epochs)
        config = MASKED["bert"].config(HUGGING_FACE_CONFIG)
        trained = train_masked(config, documents, masking, recipe, make_mesh(), on_epoch)
        write_checkpoint(trained.decoder, HUGGING_FACE_CONFIG, tokenizer_folder, output, np.float16)


def write_tokenizer(folder: Path) -> Path:
    """The embedded tokenizer with BERT's special tokens, which stand around every text."""
    tokenizer = Tokenizer.from_file(str(demo_path("tokenizer") / "tokenizer.json"))
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    described = {"clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    tyro.cli(main)

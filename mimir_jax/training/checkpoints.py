"""A trained network as a Hugging Face folder, which `load_model` or `load_mask_model` and transformers read."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mimir_jax.models.checkpoint import SINGLE, save_tensors
from mimir_jax.models.decoder import Decoder
from mimir_jax.models.encoder import Encoder
from mimir_jax.models.families import FAMILIES, MASKED
from mimir_jax.scoring.model import TOKENIZER_FILES


def write_checkpoint(
    decoder: Decoder | Encoder, hf: Mapping[str, Any], tokenizer: Path, folder: Path, dtype: Any = np.float32
) -> None:
    """Write config.json, the weights and the tokenizer; the folder appears when it is complete.

    Args:
        decoder: of one model.
        hf: the fields of its config.json.
        tokenizer: folder with the tokenizer's files.
        folder: to write; one that is there is replaced.
        dtype: of the weights in the file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as unfinished:
        made = Path(unfinished) / "made"
        made.mkdir()
        # Hugging Face's own, from when the weights had another dtype: `dtype`, and before transformers 5 `torch_dtype`.
        fields = {name: value for name, value in hf.items() if name != "torch_dtype"}
        fields["dtype"] = np.dtype(dtype).name
        (made / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        save_tensors(decoder, {**FAMILIES, **MASKED}[hf["model_type"]], made / SINGLE, dtype)
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, made / name)
        if folder.exists():
            shutil.rmtree(folder)
        made.replace(folder)

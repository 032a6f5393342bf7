"""A real language model: SmolLM2-135M-Instruct, its log-probs equal to Hugging Face torch's, its losses sane.

SMOLLM2 names the folder that experiments/convert_smollm2.py wrote; without it these tests are skipped.
"""

import os
import random
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from mimir_jax.config import DataConfig
from mimir_jax.data.documents import load_documents
from mimir_jax.scoring import score
from mimir_jax.scoring.model import Model, load_model

pytestmark = pytest.mark.slow

# Written for this test, in the manner of an encyclopedia.
ENCYCLOPEDIC = (
    "The Danube is the second-longest river in Europe, after the Volga in Russia. It flows through Central and "
    "Southeastern Europe, from the Black Forest in Germany to the Black Sea. Its drainage basin extends into nine "
    "more countries. The largest cities on the river are Vienna, Budapest and Belgrade, all of which are the capitals "
    "of their respective countries. In ancient times it was one of the frontiers of the Roman Empire."
)


@pytest.fixture(scope="module")
def folder() -> Path:
    name = os.environ.get("SMOLLM2")
    if not name:
        pytest.skip("SMOLLM2 does not name the folder that experiments/convert_smollm2.py writes")
    return Path(name)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    from mimir_jax.parallel.mesh import make_mesh

    return load_model(folder, mesh=make_mesh(1, 1, jax.devices()[:1]))


def passages() -> list[str]:
    return [document.text for document in load_documents(DataConfig(max_documents=3))]


def salad(text: str) -> str:
    words = sorted({word for passage in (text, *passages()) for word in passage.split()})
    return " ".join(random.Random(0).choices(words, k=80))


def test_log_probs_equal_torch(folder: Path, model: Model) -> None:
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = [ENCYCLOPEDIC, *passages()]
    stats = score(model, texts)
    for row, text in enumerate(texts):
        ids = model.tokenizer(text)["input_ids"]
        with torch.no_grad():
            logits = reference(torch.tensor([ids])).logits[0, :-1].double()
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()
        mask = np.asarray(stats.mask[row])
        assert mask.sum() == len(ids) - 1 > 50
        np.testing.assert_allclose(np.asarray(stats.log_prob[row])[mask], expected, atol=3e-4, rtol=0)
        assert abs(np.asarray(stats.log_prob[row])[mask].mean() - expected.mean()) < 1e-5


def test_losses_are_sane(model: Model) -> None:
    stats = score(model, [ENCYCLOPEDIC, salad(ENCYCLOPEDIC)])
    losses = [-np.asarray(stats.log_prob[row])[np.asarray(stats.mask[row])].mean() for row in range(2)]
    assert 1.0 < losses[0] < 3.5
    assert losses[1] > 6.0

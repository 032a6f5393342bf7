"""What runs are compared with: log-probs from all logits of one text at a time, without passes, batches, prefixes."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from mimir_jax import load_model
from mimir_jax.models.decoder import Decoder
from mimir_jax.parallel.mesh import make_mesh


@jax.jit
def _log_softmax(decoder: Decoder, ids: jax.Array) -> jax.Array:
    positions = jax.numpy.arange(ids.shape[1])[None]
    return jax.nn.log_softmax(decoder.logits(ids, positions, jax.numpy.zeros_like(ids))[0])


class Model:
    """A tiny checkpoint, read once, on one device."""

    def __init__(self, folder: Path):
        loaded = load_model(folder, mesh=make_mesh(1, 1, jax.devices()[:1]))
        self.decoder, self.tokenizer = loaded.decoder, loaded.tokenizer
        self.context = loaded.decoder.config.context

    def ids(self, text: str, special: bool = True) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]

    def vocab_log_probs(self, ids: Sequence[int]) -> np.ndarray:
        """[time, vocab]: what the model says of the token after each of the ids."""
        assert 0 < len(ids) <= self.context
        filled = np.zeros((1, self.context), np.int32)  # one shape; nothing sees what follows it
        filled[0, : len(ids)] = ids
        return np.asarray(_log_softmax(self.decoder, filled), np.float64)[: len(ids)]

    def log_probs(self, ids: Sequence[int]) -> np.ndarray:
        """l_t of all ids but the first."""
        return self.vocab_log_probs(ids)[np.arange(len(ids) - 1), list(ids[1:])]

    def ll(self, ids: Sequence[int], given: Sequence[int] = ()) -> float:
        """Mean l_t of the ids after others; of the first one only where something is before it."""
        log_probs = self.log_probs([*given, *ids])
        return float(log_probs[max(len(given) - 1, 0) :].mean())

"""From texts and a model to token statistics."""

from collections.abc import Sequence

from mimir_jax.arrays import TokenStats, pad_documents
from mimir_jax.scoring.documents import DEFAULT_BATCH_TOKENS, score_documents
from mimir_jax.scoring.model import Model


def score(model: Model, texts: Sequence[str], batch_tokens: int = DEFAULT_BATCH_TOKENS) -> TokenStats:
    """Token statistics of each text, padded to [doc, time], as NumPy arrays on the host.

    Texts longer than the model's context are scored in windows; an empty text is a row without any True in `mask`.

    Args:
        model: from `load_model`; stacked models give [model, doc, time].
        texts: one row each, in this order.
        batch_tokens: token positions that a device computes at a time.

    Raises:
        TokenizerError: a text has ids beyond the model's embedding.
        ScoringError: the model gave statistics that are not finite.
    """
    return pad_documents(score_documents(model, texts, batch_tokens=batch_tokens))

"""TokenStats, the arrays that pass between scoring and attacks, and the masked reductions over them.

Legend of axis names, used in every annotation of the package:

    doc     documents               time    token positions of one document
    model   checkpoints             vocab   entries of the vocabulary
    batch   rows of a device batch  *batch  any leading axes
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

AnyArray = Array | np.ndarray

SHOWN = 8
"""Documents that a notebook shows of TokenStats."""


class TokenStats(NamedTuple):
    """What a model says of each token of each document; every field has shape [..., doc, time].

    Position t describes token x_t under the model's prediction from x_<t. `mask` is False where nothing was
    predicted (a first token without a BOS before it) and on padding; the other fields are 0 there, but for
    `token_ids`, which keeps the document's tokens. Leading axes are free: `[model, doc, time]` after `stack`.

    Attributes:
        token_ids: int32, the scored tokens (0 on padding).
        log_prob: float32, log p(x_t | x_<t) in nats.
        mean: float32, mu_t = sum_v p_v log p_v in nats: minus the entropy of the prediction.
        var: float32, sum_v p_v (log p_v)^2 - mu_t^2 in nats^2, never negative.
        max_log_prob: float32, max_v log p_v in nats.
        rank: int32, 1 + the number of vocabulary entries more probable than x_t.
        mask: bool, True where the token was predicted.
    """

    token_ids: Int[AnyArray, "*batch doc time"]
    log_prob: Float[AnyArray, "*batch doc time"]
    mean: Float[AnyArray, "*batch doc time"]
    var: Float[AnyArray, "*batch doc time"]
    max_log_prob: Float[AnyArray, "*batch doc time"]
    rank: Int[AnyArray, "*batch doc time"]
    mask: Bool[AnyArray, "*batch doc time"]

    def _repr_html_(self) -> str:
        """For a notebook: the first documents' numbers of tokens, mean log-probs, and a cell a token."""
        mask = np.asarray(self.mask)
        shape = " x ".join(map(str, mask.shape))
        if mask.ndim < 1 or not mask.size:
            return f"<p>TokenStats [{shape}]</p>"
        time = mask.shape[-1]
        masks, log_probs = mask.reshape(-1, time)[:SHOWN], np.asarray(self.log_prob).reshape(-1, time)[:SHOWN]
        rows = []
        for i, (known, log_prob) in enumerate(zip(masks, log_probs)):
            # The likelier the token, the darker its cell.
            cells = "".join(
                f'<span title="token {t}: {log_prob[t]:.2f} nats" style="display:inline-block;width:6px;height:14px;'
                f'background:#0072B2;opacity:{np.exp(log_prob[t] / 4):.2f}"></span>'
                for t in np.flatnonzero(known)[:80].tolist()
            )
            mean = f"{log_prob[known].mean():.3f}" if known.any() else "-"
            rows.append(f'<tr><th scope="row">{i}</th><td>{known.sum()}</td><td>{mean}</td><td>{cells}</td></tr>')
        head = "".join(
            f'<th scope="col">{title}</th>' for title in ("row", "scored", "mean log-prob", "the first 80 tokens")
        )
        return (
            f"<p>TokenStats [{shape}], {np.count_nonzero(mask):,} tokens scored</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )


DTYPES = TokenStats(np.int32, np.float32, np.float32, np.float32, np.float32, np.int32, np.bool_)  # type: ignore[arg-type]


def pad_documents(ragged: Sequence[TokenStats], time: int | None = None) -> TokenStats:
    """One padded TokenStats [*batch, doc, time] (NumPy) from one TokenStats [*batch, time] a document.

    `time` is the longest document's length where it is not given.
    """
    lengths = [stats.mask.shape[-1] for stats in ragged]
    time = max(lengths, default=0) if time is None else time
    leading = ragged[0].mask.shape[:-1] if ragged else ()
    fields = []
    for name, dtype in zip(TokenStats._fields, DTYPES):
        padded = np.zeros((*leading, len(ragged), time), dtype)
        for row, (stats, length) in enumerate(zip(ragged, lengths)):
            padded[..., row, :length] = getattr(stats, name)
        fields.append(padded)
    return TokenStats(*fields)


def stack(models: Sequence[TokenStats]) -> TokenStats:
    """[model, doc, time] from one TokenStats [doc, time] a model; all must score the same tokens."""
    return TokenStats(*(np.stack([np.asarray(x) for x in field]) for field in zip(*models)))


def masked_count(mask: Bool[AnyArray, "*batch time"]) -> Int[Array, "*batch"]:
    """The number of scored tokens, n."""
    return jnp.sum(jnp.asarray(mask), axis=-1, dtype=jnp.int32)


def masked_mean(x: Float[AnyArray, "*batch time"], mask: Bool[AnyArray, "*batch time"]) -> Float[Array, "*batch"]:
    """Mean over the positions where `mask` is True; NaN where there is none."""
    mask = jnp.asarray(mask)
    total = jnp.sum(jnp.where(mask, x, 0.0), axis=-1)
    n = masked_count(mask)
    return jnp.where(n > 0, total / jnp.maximum(n, 1).astype(total.dtype), jnp.nan)

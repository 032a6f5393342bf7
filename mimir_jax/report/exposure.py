"""The documents that a model gives away most and least, token by token: what the report's heat maps show."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from pydantic import TypeAdapter

from mimir_jax.arrays import AnyArray, TokenStats
from mimir_jax.metrics import Metrics
from mimir_jax.report.escape import encodable
from mimir_jax.report.results import write_text

MOST_TOKENS = 512
"""As many of a document's first tokens are kept: a page with all of long documents would be too large to open."""
MIN_VAR = 1e-12
"""In nats^2; as in min_k++, keeps z finite where the prediction is uniform or certain."""
PER_KIND = 4

KINDS = ("most exposed", "least exposed", "false alarm")
"""Members with the highest and with the lowest scores, and non-members with the highest."""


@dataclass(frozen=True)
class ExposedDocument:
    """A document and what the model says of each of its tokens.

    Attributes:
        kind: one of KINDS.
        id: of the document.
        is_member: whether the model was trained on it.
        source: its domain or file.
        score: its membership score; higher is more likely a member.
        n_tokens: of the whole document; the lists below have the first MOST_TOKENS.
        pieces: the tokens' texts, whose concatenation is the document's text.
        log_prob: in nats; None where nothing was predicted.
        z: (log_prob - mean) / sd of the model's prediction, as in min_k++; None where it is not known.
        rank: 1 for the likeliest token; None where it is not known.
        windows: indices of tokens before which another window of the model's context begins.
    """

    kind: str
    id: str
    is_member: bool
    source: str
    score: float
    n_tokens: int
    pieces: list[str]
    log_prob: list[float | None]
    z: list[float | None]
    rank: list[int | None]
    windows: list[int]


@dataclass(frozen=True)
class Exposure:
    """The chosen documents, and the column of scores that chose them."""

    column: str
    documents: list[ExposedDocument]


_Exposure = TypeAdapter(Exposure)


def best_column(metrics: Mapping[str, Metrics | None]) -> str | None:
    """The column with the highest AUC; None where none has one."""
    known = {name: row.auc_roc.value for name, row in metrics.items() if row is not None}
    return max(known, key=lambda name: known[name]) if known else None


def choose(
    scores: Float[np.ndarray, " doc"], is_member: Bool[np.ndarray, " doc"], count: int = PER_KIND
) -> Iterator[tuple[str, int]]:
    """A few documents of each of KINDS, the extreme one first; none twice, and none without a score."""
    chosen: set[int] = set()
    for kind, side, sign in zip(KINDS, (True, True, False), (-1, 1, -1)):
        order = np.argsort(sign * scores, kind="stable")
        some = [i for i in order.tolist() if is_member[i] == side and np.isfinite(scores[i]) and i not in chosen]
        chosen.update(some[:count])
        yield from ((kind, i) for i in some[:count])


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, such that together they are the text of all.

    A character that several tokens make up belongs to the last of them; the others are empty.

    Args:
        tokenizer: a Hugging Face tokenizer.
        ids: of its vocabulary.
    """
    pieces: list[str] = []
    names = tokenizer.convert_ids_to_tokens(list(ids))
    start = 0
    for i, name in enumerate(names):
        piece = tokenizer.decode(list(ids[start : i + 1]), clean_up_tokenization_spaces=False)
        if piece.endswith("\ufffd") and i - start < 3:  # UTF-8 has at most four bytes a character
            pieces.append("")
            continue
        # SentencePiece's mark of a space, which decoding drops at the beginning of a text.
        mark = start == i and isinstance(name, str) and name.startswith("\u2581") and not piece.startswith(" ")
        pieces.append(" " + piece if mark else piece)
        start = i + 1
    if start < len(pieces):  # the text ends within a character
        pieces[-1] = tokenizer.decode(list(ids[start:]), clean_up_tokenization_spaces=False)
    return pieces


def write_exposure(
    path: Path,
    column: str,
    chosen: Sequence[tuple[str, int]],
    documents: Sequence[Any],
    scores: Float[np.ndarray, " doc"],
    stats: Callable[[int], TokenStats],
    pieces: Callable[[Sequence[int]], list[str]],
    windows: Callable[[int], list[int]],
) -> None:
    """Write the chosen documents' tokens, from which the report is drawn without a model.

    Args:
        path: file to write.
        column: of the scores.
        chosen: kinds and indices of documents, from `choose`.
        documents: with `id`, `is_member` and `source`.
        scores: [doc] of the column.
        stats: of a document by its index, fields [time].
        pieces: texts of token ids.
        windows: of a document by its index, where further windows begin.
    """
    rows = []
    for kind, i in chosen:
        document, every = documents[i], stats(i)
        first = TokenStats(*(np.asarray(x)[:MOST_TOKENS] for x in every))
        with np.errstate(invalid="ignore"):
            z = (first.log_prob - first.mean) / np.sqrt(np.maximum(first.var, MIN_VAR))
        known = np.asarray(first.mask)
        rows.append(
            ExposedDocument(
                kind=kind,
                id=encodable(document.id),
                is_member=bool(document.is_member),
                source=encodable(document.source),
                score=float(scores[i]),
                n_tokens=len(every.mask),
                pieces=[encodable(piece) for piece in pieces(first.token_ids.tolist())],
                log_prob=_rounded(first.log_prob, known),
                z=_rounded(z, known),
                rank=[int(r) if k and r > 0 else None for r, k in zip(first.rank, known)],
                windows=[start for start in windows(i) if start < MOST_TOKENS],
            )
        )
    write_text(path, json.dumps(asdict(Exposure(column, rows)), ensure_ascii=False, allow_nan=False))


def read_exposure(path: Path) -> Exposure | None:
    """What `write_exposure` wrote; None where it wrote nothing.

    Raises:
        ValueError, OSError: a file that cannot be read, or is something else.
    """
    return _Exposure.validate_json(path.read_text(encoding="utf-8")) if path.exists() else None


def _rounded(values: Float[AnyArray, " time"], known: Bool[np.ndarray, " time"]) -> list[float | None]:
    return [round(float(x), 3) if k and np.isfinite(x) else None for x, k in zip(values, known)]

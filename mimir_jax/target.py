"""A model to be attacked, before its weights are read: its documents in tokens and passes, for providers of inputs."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mimir_jax.arrays import TokenStats, pad_documents
from mimir_jax.config import RunConfig
from mimir_jax.data.documents import DataError, Document, fingerprint
from mimir_jax.data.edits import lowercase, word_swaps
from mimir_jax.models.decoder_config import DecoderConfig
from mimir_jax.neighbors import neighbors_of
from mimir_jax.report.terminal import Bars, silent
from mimir_jax.scoring.passes import Part, document_passes, variant_parts
from mimir_jax.scoring.tokens import Tokens, tokenize_together

SWAPS = 5  # versions of a document that pac compares it with
SWAPPED = 0.3  # share of their words that are swapped
MOST_TEXTS = 100_000  # of sources of shots and known non-members: some are endless


Note = Callable[[str], None]
Texts = Callable[[RunConfig, Sequence[Document], Bars, Note], list[list[str]]]

TEXTS: dict[str, Texts] = {
    "lowercase_stats": lambda run, documents, bars, note: [[lowercase(d.text)] for d in documents],
    "swap_stats": lambda run, documents, bars, note: [word_swaps(d.text, SWAPS, SWAPPED, run.seed) for d in documents],
    "neighbor_stats": neighbors_of,
}
"""Versions of each document that an input is made of."""


@dataclass(frozen=True)
class Target:
    """A model to be attacked, before its weights are read, and what to attack it with.

    Attributes:
        run: the configuration.
        documents: the texts to score.
        tokenizer: the model's own.
        tokenizer_digest: of its files.
        config: of the model.
        note: keeps a sentence that a reader of the results must know.
        main: how many first documents are the main ones; further non-members come after them.
        texts: versions of the documents, by the rules of the run.
        bars: progress of what takes long before weights are read.
        remember: gives the value that an earlier run has computed under a key, or computes it.
    """

    run: RunConfig
    documents: list[Document]
    tokenizer: Any
    tokenizer_digest: str
    config: DecoderConfig
    note: Callable[[str], None]
    main: int
    texts: Mapping[str, Texts] = field(default_factory=lambda: TEXTS)
    bars: Bars = silent
    remember: Callable[[Hashable, Callable[[], Any]], Any] = lambda key, compute: compute()

    @cached_property
    def tokens(self) -> list[Tokens]:
        """Of the documents themselves."""
        key = ("tokens", self.tokenizer_digest, self.run.add_bos, fingerprint(self.documents))
        tokens: list[Tokens] = self.remember(key, self._tokens)
        # Models of one tokenizer may have embeddings of different sizes.
        known = max((max(one.text_ids, default=0) for one in tokens), default=0) < self.config.vocab
        return tokens if known else self._tokens()

    def _tokens(self) -> list[Tokens]:
        plain = {d.id: d.text for d in self.documents if d.token_ids is None}
        texts, ids = list(plain.values()), list(plain)
        tokens = iter(tokenize_together(self.tokenizer, texts, ids, self.config.vocab, self.run.add_bos))
        for document in self.documents:
            if max(document.token_ids or (), default=0) >= self.config.vocab:
                raise DataError(f"{document.id}: has token ids beyond the model's {self.config.vocab} embeddings")
        return [next(tokens) if d.token_ids is None else Tokens([], list(d.token_ids)) for d in self.documents]

    def tokenize(self, texts: Sequence[str], what: str) -> list[Tokens]:
        """Of any texts; `what` they are, for messages."""
        names = [f"{what} {i}" for i in range(len(texts))]
        return tokenize_together(self.tokenizer, texts, names, self.config.vocab, self.run.add_bos)

    def plain(self, tokens: Tokens) -> list[Part]:
        """A text on its own, in windows where it exceeds the context."""
        return [Part(one) for one in document_passes(tokens.context_ids, tokens.text_ids, self.config.context)]

    def variant(self, document: int, text: Tokens) -> list[Part]:
        """A version of a document, which shares what comes before the first difference."""
        own = self.tokens[document]
        return variant_parts(own.context_ids, own.text_ids, text.text_ids, self.config.context)


@dataclass(frozen=True)
class Passes:
    """Passes of an input.

    Attributes:
        parts: of each document the parts of each of its variants; an empty list is a variant without a score.
        variants: whether the input has an axis of variants; else each document has one.
        reasons: why documents have no score of the attacks that take the input.
    """

    parts: list[list[list[Part]]]
    variants: bool = False
    reasons: Mapping[int, str] = field(default_factory=dict)

    def gather(self, results: Iterator[TokenStats]) -> list[TokenStats]:
        """Statistics [model, time] or [model, variant, time] of each document, from those of its variants in order."""
        gathered = []
        for variants in self.parts:
            stats = [next(results) for _ in variants]
            gathered.append(pad_documents(stats) if self.variants else stats[0])
        return gathered

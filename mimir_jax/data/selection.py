"""Which documents, and how much of each: the steps between what a source holds and what is scored.

Each step takes documents one at a time and gives those that it keeps, so that a file is read only as far as needed.
The steps, their order and their bounds are MIMIR's (Duan et al. 2024, arXiv:2402.07841), whose published samples
were made with them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from mimir_jax.data.readers import DataError, Document, FullDocument

WORD = re.compile(r"\S+")
BATCH = 64  # texts that a tokenizer gets at a time

TokenEnds = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""Of each text, where its tokens end, in characters; special tokens, which stand for no text, end at 0."""


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words, which white space parts, start and end."""
    return [match.span() for match in WORD.finditer(text)]


def cut_words(text: str, max_words: int) -> str:
    """The text up to the end of its max_words-th word; white space within it stays as it is."""
    ends = [match.end() for match in islice(WORD.finditer(text), max_words)]
    return text[: ends[-1]] if ends else ""


def cut_tokens(text: str, max_tokens: int, token_ends: TokenEnds) -> str | None:
    """The text up to the end of its last whole word within max_tokens tokens; None where no word fits.

    As the last token within the limit may be part of a word, the word that it ends in goes, even if it is whole.
    """
    while len(ends := token_ends([text])[0]) > max_tokens:
        spans = word_spans(text[: ends[max_tokens - 1]])
        if len(spans) < 2:
            return None
        text = text[: spans[-2][1]]
    return text


def windows(text: str, words: int, min_words: int = 1) -> list[str]:
    """The text in pieces of so many words; what is left at the end is one too where it has min_words."""
    spans = word_spans(text)
    starts = range(0, len(spans) - max(min_words, 1) + 1, words)
    return [text[spans[i][0] : spans[min(i + words, len(spans)) - 1][1]] for i in starts]


def word_prefixes(text: str, count: int | None = None) -> list[str]:
    """The beginnings of a text with 1, 2, ... words, parted by single spaces; the last is the whole text.

    Args:
        text: the document.
        count: how many, whatever its number of words; where it has fewer, the whole text is repeated.
    """
    ends = [match.start() for match in re.finditer(" ", text)] + [len(text)]
    return [text[: ends[min(i, len(ends) - 1)]] for i in range(len(ends) if count is None else count)]


def distinct(documents: Iterable[Document]) -> Iterator[Document]:
    """Each text of a side once, where it comes first; a text of both sides stays on both."""
    seen: set[object] = set()
    for document in documents:
        content = (document.is_member, content_of(document))
        if content not in seen:
            seen.add(content)
            yield document


def content_of(document: Document) -> object:
    """What makes two documents equal: text, sub-texts or token ids."""
    parts = document.parts if isinstance(document, FullDocument) else None
    return document.text, parts, document.token_ids


def with_words(
    documents: Iterable[Document], min_words: int, max_words: int | None, cutoff: bool = True
) -> Iterator[Document]:
    """The documents of at least min_words words, cut after max_words of them, or only those of fewer.

    Pretokenized documents and lists of sub-texts pass as they are.

    Args:
        documents: read one at a time.
        min_words: counted before the text is cut.
        max_words: None is any number.
        cutoff: cut longer texts; otherwise texts of max_words words or more are left out.
    """
    for document in documents:
        if document.token_ids is not None or isinstance(document, FullDocument):
            yield document
            continue
        if not has_words(document.text, min_words):
            continue
        if max_words is None:
            yield document
        elif cutoff:
            yield replace(document, text=cut_words(document.text, max_words))
        elif not has_words(document.text, max_words):
            yield document


def has_words(text: str, count: int) -> bool:
    """Whether a text has at least so many words."""
    return sum(1 for _ in islice(WORD.finditer(text), count)) == count


def within_tokens(documents: Iterable[Document], max_tokens: int, token_ends: TokenEnds) -> Iterator[Document]:
    """The documents, cut to whole words of at most max_tokens tokens, see `cut_tokens`.

    Those of which no word fits are left out; pretokenized documents and lists of sub-texts pass as they are.
    """
    remaining = iter(documents)
    while batch := list(islice(remaining, BATCH)):
        ends = token_ends([document.text for document in batch])
        for document, tokens in zip(batch, ends):
            if len(tokens) <= max_tokens or document.token_ids is not None or isinstance(document, FullDocument):
                yield document
            elif (text := cut_tokens(document.text, max_tokens, token_ends)) is not None:
                yield replace(document, text=text)


def with_parts(
    documents: Iterable[Document], words: int | None, min_words: int, max_substrs: int | None
) -> Iterator[Document]:
    """The documents as lists of at most max_substrs sub-texts: as given, or windows of so many words.

    Texts without a single window are left out.

    Raises:
        DataError: a text that is no list, where the windows have no size.
    """
    for document in documents:
        if isinstance(document, FullDocument):
            parts: Sequence[str] = document.parts
        elif words is None:
            raise DataError(f"{document.id}: a text, not a list of sub-texts; give max_words to cut it into windows")
        else:
            parts = windows(document.text, words, min_words)
        if parts:
            yield FullDocument(
                document.id,
                "",
                document.is_member,
                document.source,
                row=document.row,
                parts=tuple(parts[:max_substrs]),
            )


def sub_texts(documents: Iterable[Document]) -> Iterator[Document]:
    """Each sub-text as a document of its own, with the whole one as its parent."""
    for document in documents:
        for i, text in enumerate(document.parts if isinstance(document, FullDocument) else ()):
            yield Document(
                f"{document.id}/{i + 1}",
                text,
                document.is_member,
                document.source,
                parent=document.id,
                row=document.row,
            )


def beginnings(documents: Sequence[Document], paired: bool = False) -> Iterator[Document]:
    """Each document's beginnings, word by word, as documents of their own; see `word_prefixes`.

    Args:
        documents: of both sides.
        paired: a member has as many beginnings as the non-member of its place has, as in MIMIR.
    """
    nonmembers = [document for document in documents if not document.is_member]
    place = {True: 0, False: 0}
    for document in documents:
        side = bool(document.is_member)
        count = len(nonmembers[place[side]].text.split(" ")) if paired else None
        place[side] += 1
        for i, text in enumerate(word_prefixes(document.text, count)):
            yield replace(document, id=f"{document.id}/{i + 1}", text=text)


def pair(documents: Sequence[Document]) -> list[Document]:
    """The documents without those of the longer side's end that have no counterpart on the other."""
    sides = [[document for document in documents if bool(document.is_member) is side] for side in (True, False)]
    count = min(map(len, sides))
    kept = {id(document) for side in sides for document in side[:count]}
    return [document for document in documents if id(document) in kept]

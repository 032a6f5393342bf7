"""The documents of a run, and what can be said of them before any model is loaded."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from mimir_jax.config import DataConfig
from mimir_jax.data import selection
from mimir_jax.data.embedded import demo_path
from mimir_jax.data.readers import DataError, Document, first, read_documents
from mimir_jax.data.sources import on_hub, read_source, read_texts

__all__ = [
    "DataError",
    "Document",
    "fingerprint",
    "load_documents",
    "load_other_nonmembers",
    "overlapping_texts",
    "read_documents",
    "read_texts",
    "token_ends",
    "token_ids",
    "unique_ids",
]

HUB_DOCUMENTS = 1 << 18
"""As many are taken of a hub's data set at most: some have hundreds of millions, which nobody means to have."""

SIDES = {True: "members", False: "non-members"}


def load_documents(data: DataConfig) -> list[Document]:
    """The labelled documents that a configuration names, with unique ids.

    Two sources give the members first, then the non-members; one source with labels keeps its order. Sources
    are files, folders and data sets (see `read_source`); a configuration without sources means the embedded
    example. From each source: rows are read, those of another source and repetitions go, words are counted and cut,
    the first max_data are cut to tokens, the first max_documents are taken; then come sub-texts or beginnings.

    Raises:
        DataError: settings or a combination of sources that mean nothing, no members or no non-members, or a
            fault in a source.
    """
    _check(data)
    ends = None if data.tokenizer is None else token_ends(data.tokenizer)
    if data.documents is not None:
        documents = _read(data, data.documents, None, ends)
    else:
        documents = [
            *_read(data, data.members or "demo/members", True, ends),
            *_read(data, data.nonmembers or "demo/nonmembers", False, ends),
        ]
    if data.paired:
        documents = selection.pair(documents)
    return _expand(data, unique_ids(documents))


def load_other_nonmembers(data: DataConfig) -> dict[str, list[Document]]:
    """By name, the further non-members of a configuration, selected as the main ones are.

    Raises:
        DataError: as `load_documents`.
    """
    _check(data)
    ends = None if data.tokenizer is None else token_ends(data.tokenizer)
    others = {}
    for name in data.other_nonmembers:
        others[name] = _expand(replace(data, paired=False), unique_ids(_read(data, name, False, ends)))
    return others


def _check(data: DataConfig) -> None:
    """Whether the settings make sense together.

    Raises:
        DataError: they do not.
    """
    for name in "max_documents", "max_rows", "max_words", "max_data", "max_tokens", "max_substrs":
        value = getattr(data, name)
        if value is not None and value < 1:
            raise DataError(f"{name} is {value}, expected at least 1, or none for all")
    if data.min_words < 0:
        raise DataError(f"min_words is {data.min_words}, expected 0 or more")
    if data.max_words is not None and not data.max_words_cutoff and data.min_words >= data.max_words:
        raise DataError(f"no text has at least {data.min_words} and fewer than {data.max_words} words (max_words)")
    if (data.max_tokens is None) != (data.tokenizer is None):
        raise DataError("max_tokens and tokenizer go together: the limit, and what counts the tokens")
    for other in "tok_by_tok", "max_tokens":
        if data.full_doc and getattr(data, other):
            raise DataError(f"full_doc and {other} cannot be combined")
    if data.documents is not None:
        if data.members is not None or data.nonmembers is not None:
            raise DataError("documents holds both sides already: give either documents, or members and nonmembers")
    elif (data.members is None) != (data.nonmembers is None):
        given, missing = ("members", "nonmembers") if data.nonmembers is None else ("nonmembers", "members")
        raise DataError(f"{given} is given but {missing} is not: give both, or neither for the example")
    twice = [name for name, count in Counter(data.other_nonmembers).items() if count > 1]
    if twice:
        raise DataError(f"other_nonmembers: given twice: {', '.join(twice)}")


def _read(data: DataConfig, source: str, side: bool | None, token_ends: selection.TokenEnds | None) -> list[Document]:
    """The selected documents of one source: of one side, or of both where side is None."""
    steps: dict[str, Counter[bool | None]] = {}  # how many documents of each side every step leaves

    def counted(step: str, documents: Iterable[Document]) -> Iterator[Document]:
        steps[step] = Counter()  # now, so that the steps are named in their order
        return _counted(steps[step], documents)

    read = read_source(
        source,
        text_field=data.text_field,
        label_field=data.label_field if side is None else None,
        side=side,
        full_doc=data.full_doc,
        max_rows=data.max_rows,
    )
    documents = counted("read", read)
    if data.dedupe:
        documents = counted("different", selection.distinct(documents))
    if data.full_doc:
        parts = selection.with_parts(documents, data.max_words, data.min_words, data.max_substrs)
        documents = counted("with sub-texts", parts)
    elif data.min_words or data.max_words is not None:
        words = selection.with_words(documents, data.min_words, data.max_words, data.max_words_cutoff)
        below = "" if data.max_words is None or data.max_words_cutoff else f" and fewer than {data.max_words}"
        documents = counted(f"of at least {data.min_words}{below} words", words)
    labels = (True, False) if side is None else (side,)
    documents = first(documents, data.max_data, labels)
    if data.max_tokens is not None and token_ends is not None:
        fitting = selection.within_tokens(documents, data.max_tokens, token_ends)
        documents = counted(f"within {data.max_tokens} tokens", fitting)
    found = list(islice(first(documents, data.max_documents, labels), HUB_DOCUMENTS + 1 if on_hub(source) else None))
    if on_hub(source) and len(found) > HUB_DOCUMENTS:
        raise DataError(f"{source}: more than {HUB_DOCUMENTS} documents, held in memory; give max_documents")
    for label in labels:
        if any(document.is_member is label for document in found):
            continue
        if not sum(steps["read"].values()):
            raise DataError(f"{source}: holds no documents")
        if not steps["read"][label]:
            raise DataError(f"{source}: holds no {SIDES[label]} by its field {data.label_field!r}")
        trace = ", ".join(f"{count[label]} {step}" for step, count in steps.items())
        raise DataError(f"{source}: no {SIDES[label]} are left: {trace}")
    if data.tok_by_tok and any(document.token_ids is not None for document in found):
        raise DataError(f"{source}: holds token ids, of which tok_by_tok makes no beginnings")
    return found


def _counted(count: Counter[bool | None], documents: Iterable[Document]) -> Iterator[Document]:
    for document in documents:
        count[document.is_member] += 1
        yield document


def _expand(data: DataConfig, documents: list[Document]) -> list[Document]:
    if data.full_doc:
        return unique_ids(selection.sub_texts(documents))
    if data.tok_by_tok:
        return unique_ids(selection.beginnings(documents, data.paired))
    return documents


def token_ends(name: str) -> selection.TokenEnds:
    """What a Hugging Face tokenizer says of where the tokens of texts end.

    Raises:
        DataError: it cannot be loaded, or does not know where its tokens are in the text.
    """
    tokenizer = _tokenizer(name)
    if not tokenizer.is_fast:
        raise DataError(f"tokenizer {name}: has no fast form, which max_tokens needs")

    def ends(texts: Sequence[str]) -> list[list[int]]:
        encoded = tokenizer(list(texts), return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        return [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]

    return ends


def token_ids(name: str) -> Callable[[str], Sequence[int]]:
    """The ids that a Hugging Face tokenizer makes of a text, without special tokens.

    Raises:
        DataError: it cannot be loaded.
    """
    tokenizer = _tokenizer(name)
    return lambda text: list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer  # two seconds of imports

    place: Any = demo_path("tokenizer") if name == "demo/tokenizer" else name
    try:
        return AutoTokenizer.from_pretrained(place)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise DataError(f"tokenizer {name}: cannot be loaded: {str(error).strip().partition(chr(10))[0]}") from error


def unique_ids(documents: Iterable[Document]) -> list[Document]:
    """The same documents; an id that an earlier document has gets #2, #3, ...

    Members and non-members are often numbered from 0 each, so that a repeated id is no fault of the data.
    """
    documents = list(documents)
    given = {document.id for document in documents}
    used: set[str] = set()
    count: dict[str, int] = {}
    unique = []
    for document in documents:
        name = document.id
        while name in used or (name != document.id and name in given):
            count[document.id] = count.get(document.id, 1) + 1
            name = f"{document.id}#{count[document.id]}"
        used.add(name)
        unique.append(document if name == document.id else replace(document, id=name))
    return unique


def overlapping_texts(documents: Iterable[Document]) -> list[str]:
    """The texts that are both a member's and a non-member's, each once, in the order of the members.

    Token ids, where documents have those instead, are written out as text.
    """
    documents = list(documents)
    nonmembers = {_written(document) for document in documents if document.is_member is False}
    members = dict.fromkeys(_written(document) for document in documents if document.is_member)
    return [text for text in members if text in nonmembers]


def _written(document: Document) -> str:
    return document.text if document.token_ids is None else " ".join(map(str, document.token_ids))


def fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 (hex) of ids, texts and labels in their order, of parents and token ids where documents have them.

    Equal for equal data only.
    """
    digest = hashlib.sha256()
    for document in documents:
        # A JSON list a line: no two sequences of documents have the same encoding.
        fields: list[object] = [document.id, document.text, document.is_member]
        if document.parent is not None or document.token_ids is not None:
            fields += [document.parent, document.token_ids]
        digest.update(json.dumps(fields).encode() + b"\n")
    return digest.hexdigest()

"""From texts to token ids, with each model's own tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimir_jax.parallel import hosts


class TokenizerError(ValueError):
    """A tokenizer that cannot be loaded or does not fit its model."""


SUBSTITUTES = {
    "silo": "EleutherAI/gpt-neox-20b",
    "balanced": "EleutherAI/gpt-neox-20b",
    "datablations": "gpt2",
    "pubmedgpt": "stanford-crfm/BioMedLM",
}
"""Whose tokenizer MIMIR takes for models with these words in their names."""

PROBES = ("a", "the", "0", "\n")
"""Texts to find special tokens around; the first that has tokens is taken."""


class Tokens(NamedTuple):
    """One text.

    Attributes:
        context_ids: what the tokenizer puts before the text, such as a BOS; read by the model, never scored.
        text_ids: the text's own tokens.
    """

    context_ids: list[int]
    text_ids: list[int]


def substitute(model: str) -> str | None:
    """The hub id of the tokenizer that MIMIR takes for a model of this name; None where it is the model's own."""
    return next((tokenizer for word, tokenizer in SUBSTITUTES.items() if word in model), None)


def load_tokenizer(folder: Path) -> Any:
    """The Hugging Face tokenizer in a folder, fast or slow.

    Raises:
        TokenizerError: there is none that transformers can read.
    """
    from transformers import AutoTokenizer  # two seconds of imports that only scoring needs

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise TokenizerError(f"{folder}: no tokenizer can be loaded: {error}") from error
    files = sorted(set(tokenizer.vocab_files_names.values()))
    if files and not any((folder / name).is_file() for name in files):
        # Transformers then makes an empty tokenizer, to which every text is empty.
        raise TokenizerError(f"{folder}: no tokenizer: none of {', '.join(files)} is there")
    return tokenizer


def tokenize(
    tokenizer: Any, texts: Sequence[str], ids: Sequence[str], vocab: int, add_bos: bool | None = None
) -> list[Tokens]:
    """Tokenize all texts at once, with the special tokens that the tokenizer itself puts before them.

    Args:
        tokenizer: from `load_tokenizer`.
        texts: the documents.
        ids: their names, for messages.
        vocab: rows of the model's embedding.
        add_bos: put a BOS before each text, or none; by default as the tokenizer does.

    Raises:
        TokenizerError: a text has ids beyond the embedding, of which the message names the first such documents, or
            cannot be tokenized; or the tokenizer has no BOS to add.
    """
    if not texts:
        return []
    return _fitting(context_ids(tokenizer, add_bos), _encode_named(tokenizer, texts, ids), ids, vocab)


def tokenize_together(
    tokenizer: Any, texts: Sequence[str], ids: Sequence[str], vocab: int, add_bos: bool | None = None
) -> list[Tokens]:
    """`tokenize`, of which each of several processes does a share; all of them call it with the same, and get all.

    Args:
        tokenizer, texts, ids, vocab, add_bos: see `tokenize`.

    Raises:
        TokenizerError: see `tokenize`.
        HostsError: another process failed; the message says of which text.
    """
    if not texts:
        return []
    with hosts.together("tokenize"):
        own = hosts.own_share()
        context = context_ids(tokenizer, add_bos)
        done = _encode_named(tokenizer, texts[own], ids[own])
        parts = [[len(one) for one in done], *done]
        packed = b"".join(np.array(part, np.int32).tobytes() for part in parts)
    shares = hosts.exchange(packed)
    bare: list[list[int]] = [[] for _ in texts]
    for number, share in enumerate(shares):
        numbers = range(number, len(texts), len(shares))
        ends = np.cumsum(np.frombuffer(share, np.int32, len(numbers)))
        flat = np.frombuffer(share, np.int32)[len(numbers) :]
        for i, one in zip(numbers, np.split(flat, ends[:-1])):
            bare[i] = one.tolist()
    return _fitting(context, bare, ids, vocab)


def _fitting(context: list[int], bare: list[list[int]], ids: Sequence[str], vocab: int) -> list[Tokens]:
    beyond = [name for name, text in zip(ids, bare) if max([*context, *text], default=0) >= vocab]
    if beyond:
        raise TokenizerError(
            f"{len(beyond)} documents have token ids beyond the model's {vocab} embeddings (first: "
            f"{', '.join(beyond[:3])}); the tokenizer belongs to another model"
        )
    return [Tokens(list(context), text) for text in bare]


def context_ids(tokenizer: Any, add_bos: bool | None = None) -> list[int]:
    """What stands before every text: the tokenizer's own special tokens, with or without its BOS as `add_bos` says.

    It is found by encoding a text with and without special tokens. Their mask would tell as well, but tokenizers
    without a fast form may have none or a wrong one. What follows the text, such as an EOS, predicts nothing of it
    and is left out.

    Raises:
        TokenizerError: there is no BOS to add, no text has tokens, or special tokens change the text's own.
    """
    probe = next((text for text in PROBES if _encode(tokenizer, [text], special=False)[0]), None)
    if probe is None:
        raise TokenizerError(f"the tokenizer {type(tokenizer).__name__} makes no token of any text")
    bare, whole = (_encode(tokenizer, [probe], special)[0] for special in (False, True))
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
    if start is None:
        raise TokenizerError(f"the tokenizer {type(tokenizer).__name__} encodes a text otherwise with special tokens")
    found = whole[:start]
    if add_bos is None:
        return found
    bos = tokenizer.bos_token_id
    if add_bos and bos is None:
        raise TokenizerError("add_bos: the tokenizer has no BOS token")
    if add_bos:
        return found if bos in found else [bos, *found]
    return [token for token in found if token != bos]


def _encode_named(tokenizer: Any, texts: Sequence[str], ids: Sequence[str]) -> list[list[int]]:
    """Of each text its tokens; an error names the text that it is about."""
    try:
        return _encode(tokenizer, texts, special=False) if texts else []
    except Exception:  # whatever the tokenizer raises: it does not say of which text
        for name, text in zip(ids, texts):
            try:
                _encode(tokenizer, [text], special=False)
            except Exception as error:
                raise TokenizerError(f"{name}: cannot be tokenized: {error}") from error
        raise


def _encode(tokenizer: Any, texts: Sequence[str], special: bool) -> list[list[int]]:
    # Quietly: it would warn of documents beyond the context, which are cut into windows later.
    encoded = tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]

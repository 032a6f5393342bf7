"""From texts to token ids, with each model's own tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class TokenizerError(ValueError):
    """A tokenizer that cannot be loaded or does not fit its model."""


class Tokens(NamedTuple):
    """One text.

    Attributes:
        context_ids: what the tokenizer puts before the text, such as a BOS; read by the model, never scored.
        text_ids: the text's own tokens.
    """

    context_ids: list[int]
    text_ids: list[int]


def load_tokenizer(folder: Path) -> Any:
    """The Hugging Face tokenizer in a folder.

    Raises:
        TokenizerError: there is none that transformers can read.
    """
    from transformers import AutoTokenizer  # two seconds of imports that only scoring needs

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise TokenizerError(f"{folder}: no tokenizer can be loaded: {error}") from error
    files = sorted(set(tokenizer.vocab_files_names.values()))
    if files and not any((folder / name).is_file() for name in files):
        # Transformers then makes an empty tokenizer, to which every text is empty.
        raise TokenizerError(f"{folder}: no tokenizer: none of {', '.join(files)} is there")
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str], ids: Sequence[str], vocab: int) -> list[Tokens]:
    """Tokenize all texts at once, with the special tokens that the tokenizer itself adds.

    Args:
        tokenizer: from `load_tokenizer`.
        texts: the documents.
        ids: their names, for messages.
        vocab: rows of the model's embedding.

    Raises:
        TokenizerError: a text has ids beyond the embedding; the message names the first such documents.
    """
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,  # it would warn of documents beyond the context, which are cut into windows later
    )
    all_tokens = [_split(*pair) for pair in zip(encoded["input_ids"], encoded["special_tokens_mask"])]
    beyond = [
        name for name, tokens in zip(ids, all_tokens) if max(tokens.context_ids + tokens.text_ids, default=0) >= vocab
    ]
    if beyond:
        raise TokenizerError(
            f"{len(beyond)} documents have token ids beyond the model's {vocab} embeddings (first: "
            f"{', '.join(beyond[:3])}); the tokenizer belongs to another model"
        )
    return all_tokens


def _split(ids: list[int], special: list[int]) -> Tokens:
    """Leading special tokens are context; trailing ones (an EOS) predict nothing of the text and are dropped."""
    start = next((i for i, flag in enumerate(special) if not flag), len(ids))
    stop = next((i for i in range(len(ids), start, -1) if not special[i - 1]), start)
    return Tokens(ids[:start], ids[start:stop])

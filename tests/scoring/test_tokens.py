"""Texts to ids: special tokens as each tokenizer adds them, forced, or left out, and never scored as text."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from mimir_jax.scoring.model import load_model
from mimir_jax.scoring.tokens import (
    SUBSTITUTES,
    TokenizerError,
    Tokens,
    context_ids,
    load_tokenizer,
    substitute,
    tokenize,
)
from mimir_jax.testing import END_OF_TEXT, tiny_tokenizer, write_checkpoint, write_tokenizer

TEXTS = ["The quick brown fox", "", " over the lazy dog", END_OF_TEXT, f"{END_OF_TEXT}a{END_OF_TEXT}", "a"]
IDS = [f"text {i}" for i in range(len(TEXTS))]


def fast(template: str | None = None) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with a template such as "<bos> $A"."""
    tokenizer = tiny_tokenizer()
    bos = tokenizer.token_to_id(END_OF_TEXT)
    if template:
        pieces = template.replace("<bos>", END_OF_TEXT)
        tokenizer.post_processor = processors.TemplateProcessing(single=pieces, special_tokens=[(END_OF_TEXT, bos)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


class Slow(PreTrainedTokenizer):
    """A tokenizer without a fast form: a letter is a token; its BOS comes by a method of its own."""

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        self.letters = ["<s>", "</s>", "?", *map(chr, range(32, 127))]
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="?", **options)

    @property
    def vocab_size(self) -> int:
        return len(self.letters)

    def get_vocab(self) -> dict[str, int]:
        return {letter: i for i, letter in enumerate(self.letters)}

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.letters.index(token) if token in self.letters else 2

    def _convert_id_to_token(self, index: int) -> str:
        return self.letters[index]

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: Any = None) -> list[int]:
        return [0, *token_ids_0, 1]

    def get_special_tokens_mask(self, *arguments: Any, **options: Any) -> list[int]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("template", "context"),
    [(None, []), ("<bos> $A", [0]), ("<bos> $A <bos>", [0]), ("$A <bos>", []), ("<bos> <bos> $A", [0, 0])],
)
def test_as_the_tokenizer_does(template: str | None, context: list[int]) -> None:
    tokenizer = fast(template)
    bare = [fast()(text)["input_ids"] for text in TEXTS]
    assert tokenize(tokenizer, TEXTS, IDS, 300) == [Tokens(context, ids) for ids in bare]


@pytest.mark.parametrize("template", [None, "<bos> $A", "<bos> $A <bos>"])
@pytest.mark.parametrize(("add_bos", "context"), [(True, [0]), (False, [])])
def test_forced(template: str | None, add_bos: bool, context: list[int]) -> None:
    tokens = tokenize(fast(template), TEXTS, IDS, 300, add_bos)
    assert [one.context_ids for one in tokens] == [context] * len(TEXTS)
    assert [one.text_ids for one in tokens] == [one.text_ids for one in tokenize(fast(), TEXTS, IDS, 300)]


def test_no_bos_to_add() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer())
    with pytest.raises(TokenizerError, match="add_bos: the tokenizer has no BOS token"):
        tokenize(tokenizer, TEXTS, IDS, 300, add_bos=True)
    assert context_ids(tokenizer, add_bos=False) == []


@pytest.mark.parametrize(("add_bos", "context"), [(None, [0]), (True, [0]), (False, [])])
def test_without_a_fast_form(add_bos: bool | None, context: list[int]) -> None:
    """Its mask of special tokens cannot be had."""
    tokenizer = Slow()
    assert not tokenizer.is_fast
    texts = ["ab", "", "<s>", "a<s>b"]
    tokens = tokenize(tokenizer, texts, texts, 200, add_bos)
    letters = [[tokenizer.letters.index(letter) for letter in text] for text in (["a", "b"], [], ["<s>"])]
    assert tokens[:3] == [Tokens(context, ids) for ids in letters]
    assert tokens[3].text_ids[1] == 0


@given(st.lists(st.text(max_size=20), max_size=5))
def test_a_text_does_not_depend_on_others(texts: list[str]) -> None:
    tokenizer = fast("<bos> $A")
    together = tokenize(tokenizer, texts, texts, 300)
    assert together == [tokenize(tokenizer, [text], [text], 300)[0] for text in texts]


def test_ids_beyond_the_embedding() -> None:
    with pytest.raises(TokenizerError, match=r"1 documents .* beyond the model's 1 embeddings \(first: text 1\)"):
        tokenize(fast(), [END_OF_TEXT, "a"], IDS, 1)
    with pytest.raises(TokenizerError, match="2 documents"):
        tokenize(fast("<bos> $A"), ["", END_OF_TEXT], IDS, 0)
    assert tokenize(fast(), [], [], 1) == []


def test_a_tokenizer_that_encodes_nothing(tmp_path: Path) -> None:
    from tokenizers import models

    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(TokenizerError, match="no token of any text"):
        tokenize(empty, ["a text"], IDS, 300)


@pytest.mark.parametrize("files", [{}, {"tokenizer.json": "{"}, {"tokenizer_config.json": "{}"}])
def test_no_tokenizer(tmp_path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError, match=f"{tmp_path}: no tokenizer"):
        load_tokenizer(tmp_path)


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    """Nor is anybody asked whether it may be."""
    (tmp_path / "tokenization.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    fields = {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["tokenization.Theirs", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    with pytest.raises(TokenizerError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_substitutes() -> None:
    assert substitute("owner/silo-pd-1.3b") == SUBSTITUTES["silo"] == "EleutherAI/gpt-neox-20b"
    assert substitute("datablations/lm1-2b8-55b") == "gpt2"
    assert substitute("owner/pubmedgpt") == "stanford-crfm/BioMedLM"
    assert substitute("EleutherAI/pythia-160m") is None


def test_bos_shifts_no_array(tmp_path: Path, one_device: jax.sharding.Mesh) -> None:
    """Position t is token t of the text, with a BOS and without; with one the first is predicted, too."""
    from mimir_jax.scoring import score

    folder = write_checkpoint(tmp_path / "m")
    write_tokenizer(folder, tiny_tokenizer(bos=True))
    texts = ["The quick brown fox jumps", END_OF_TEXT, ""]
    with_bos = score(load_model(folder, mesh=one_device), texts)
    write_tokenizer(folder, tiny_tokenizer())
    without = score(load_model(folder, mesh=one_device), texts)
    np.testing.assert_array_equal(with_bos.token_ids, without.token_ids)
    np.testing.assert_array_equal(with_bos.mask.sum(-1), without.mask.sum(-1) + np.array([1, 1, 0]))
    assert not without.mask[1].any()  # only special tokens, of which the first has nothing before it


def test_a_text_that_cannot_be_tokenized_is_named() -> None:
    with pytest.raises(TokenizerError, match="second: cannot be tokenized: "):
        tokenize(fast(), ["a", "a lone \ud800 surrogate", "b"], ["first", "second", "third"], 10**6)

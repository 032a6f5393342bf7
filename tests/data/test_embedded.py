"""What the data card of the embedded example promises."""

import json
import re
import shutil
from collections import Counter

import pytest
from transformers import AutoTokenizer

from mimir_jax.data.documents import DataError, overlapping_texts
from mimir_jax.data.embedded import demo_documents, demo_path
from mimir_jax.models.checkpoint import read_mask_config


@pytest.fixture(scope="module")
def sets():
    documents = demo_documents()
    return {
        "members": [d for d in documents if d.is_member],
        "nonmembers": [d for d in documents if not d.is_member],
        "shifted": [d for d in demo_documents(shifted=True) if not d.is_member],
    }


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo_path("tokenizer"))


def test_sizes(sets):
    main = {"shakespeare": 500, "python_docs": 500}
    assert {name: Counter(d.source for d in documents) for name, documents in sets.items()} == {
        "members": main,
        "nonmembers": main,
        "shifted": {"shakespeare_folio": 500},
    }


def test_sources_are_mixed(sets):
    for name in "members", "nonmembers":
        assert 30 <= sum(d.source == "shakespeare" for d in sets[name][:100]) <= 70


def test_passages(sets):
    documents = [d for documents in sets.values() for d in documents]
    assert all(100 <= len(d.text.split()) <= 200 and len(d.text) <= 1500 for d in documents)
    assert all(d.text == d.text.strip("\n") for d in documents)
    assert all("gutenberg" not in d.text.lower() for d in documents)
    assert len({d.text for d in documents}) == len({d.id for d in documents}) == 2500
    assert overlapping_texts(documents) == []


def test_no_13_words_occur_in_two_passages(sets):
    def ngrams(text):
        words = re.findall(r"\w+", text.lower())
        return set(zip(*(words[i:] for i in range(13)), strict=False))

    counts = Counter(ngram for documents in sets.values() for d in documents for ngram in ngrams(d.text))
    assert max(counts.values()) == 1


def test_shifted_plays_are_in_no_other_set(sets):
    plays = {d.id.split("/")[1] for d in sets["shifted"]}
    assert plays == {"as_you_like_it", "coriolanus", "macbeth", "richard_ii", "twelfe-night"}
    others = {d.id.split("/")[1] for name in ("members", "nonmembers") for d in sets[name]}
    assert others.isdisjoint(plays | {"twelfth_night"})


def test_tokenizer(sets, tokenizer):
    texts = [d.text for documents in sets.values() for d in documents]
    texts += ["", " leading  and trailing ", "\x00\t\r\n", "漢字 🦊 é", "don 't . , !"]
    encoded = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(encoded) == texts
    assert len(tokenizer) == tokenizer.vocab_size == 2048
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    assert not any(0 in ids for ids in encoded)
    assert all(max(ids, default=0) < 2048 for ids in encoded)


def test_tokenizer_beside_a_model_config(tmp_path, tokenizer):
    shutil.copytree(demo_path("tokenizer"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}), encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("To be, or not")["input_ids"] == tokenizer("To be, or not")["input_ids"]


def test_licenses_ship():
    assert sorted(path.name for path in demo_path("LICENSES").iterdir()) == [
        "python_docs.txt",
        "shakespeare.txt",
    ]


def test_unknown_part():
    with pytest.raises(DataError, match=r"epoch99: not part of the embedded example; there are: .*tokenizer"):
        demo_path("epoch99")


def test_the_masked_model_reads_every_document(sets):
    """Its tokenizer is the embedded one with ends around a text, and no document exceeds its context."""
    masked = AutoTokenizer.from_pretrained(demo_path("masked"))
    plain = AutoTokenizer.from_pretrained(demo_path("tokenizer"))
    _, config = read_mask_config(demo_path("masked"))
    texts = [d.text for documents in sets.values() for d in documents]
    found = masked(texts, return_offsets_mapping=True)
    assert max(map(len, found["input_ids"])) <= config.context
    rows = zip(texts, found["input_ids"], found["offset_mapping"], plain(texts)["input_ids"])
    for text, ids, spans, expected in rows:
        assert ids == [masked.cls_token_id, *expected, masked.sep_token_id]
        assert spans[0] == spans[-1] == (0, 0)
        assert (spans[1][0], spans[-2][1]) == (0, len(text))

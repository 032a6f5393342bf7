"""MIMIR's documents: its cache and its hub files as they are, its selection against a restatement, its raw Pile."""

import json
from dataclasses import replace

import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.compat.mimir.config import DataSettings, NeighborSettings
from mimir_jax.compat.mimir.data import (
    cache_file,
    data_config,
    dump_documents,
    dump_neighbors,
    neighbors_configs,
    notes,
)
from mimir_jax.config import ConfigError, DataConfig, NeighborsConfig
from mimir_jax.data.documents import load_documents, load_other_nonmembers
from mimir_jax.data.neighbors import read_neighbors
from mimir_jax.data.readers import DataError

HUB = DataSettings(specific_source="Github_ngram_13_<0.8_truncated", n_samples=2)
LOCAL = replace(HUB, load_from_hf=False, load_from_cache=True)
RAW = DataSettings(load_from_hf=False, min_words=3, max_words=5, max_data=6, n_samples=4)


def write_lines(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(value) + "\n" for value in values).encode()
    path.write_bytes(pa.Codec("zstd").compress(data) if path.suffix == ".zst" else data)
    return str(path)


def texts(documents, side):
    return [d.text for d in documents if d.is_member is side]


@pytest.mark.parametrize(
    ("specific", "name"),
    [
        ("Github_ngram_13_<0.8_truncated", "mimir/github/ngram_13_0.8"),
        ("wikipedia_(en)_ngram_7_<0.2_truncated", "mimir/wikipedia_(en)/ngram_7_0.2"),
        ("DM Mathematics_ngram_13_<0.2_truncated", "mimir/dm_mathematics/ngram_13_0.2"),
        ("pile-cc_ngram_13_0.8", "mimir/pile_cc/ngram_13_0.8"),
        ("full_pile", "mimir/full_pile"),
        ("c4", "mimir/c4"),
        ("temporal_arxiv_2020-08", "mimir/temporal_arxiv/2020_08"),
        ("arxiv_2021-01", "mimir/temporal_arxiv/2021_01"),
        ("temporal_wiki", "mimir/temporal_wiki"),
    ],
)
def test_samples_on_the_hub(specific, name):
    data = data_config(DataSettings(specific_source=specific, n_samples=1000))
    assert data == DataConfig(members=name, nonmembers=name, max_documents=1000, paired=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DataSettings(specific_source="Github"), "specific_source 'Github': mimir/github: no such split; there are"),
        (DataSettings(specific_source="books3"), "the hub has no sample of 'books3'; there are: arxiv, dm_mathematics"),
        (DataSettings(specific_source="githubs_x"), "the hub has no sample of 'githubs_x'"),
        (DataSettings(), "load_from_hf: the hub has sources of the_pile alone, not the_pile; set it to false"),
        (DataSettings("xsum", "xsum"), "load_from_hf: the hub has sources of the_pile alone, not xsum"),
        (replace(HUB, full_doc=True), "load_from_hf: full_doc needs lists of sub-texts, and the hub has texts"),
        (DataSettings(load_from_hf=False), "set MIMIR_DATA_SOURCE, or give env_config.data_source"),
        (replace(HUB, load_from_hf=False, load_from_cache=True), "set MIMIR_CACHE_PATH, or give env_config.cache_dir"),
        (replace(RAW, pretokenized=True), "pretokenized: give presampled_dataset_member"),
        (replace(RAW, full_doc=True), "full_doc: give presampled_dataset_member, a file of lists of sub-texts"),
        (DataSettings("o/n", "o/n", load_from_hf=False), "dataset_key: give the field of o/n that holds the text"),
        (
            replace(RAW, presampled_dataset_member="a.jsonl", dataset_nonmember="xsum",
                    presampled_dataset_nonmember="b.jsonl"),
            "dataset_key: members would have field text, non-members document; give one",
        ),
    ],
)  # fmt: skip
def test_settings_that_name_no_data(settings, message):
    with pytest.raises(ConfigError) as caught:
        data_config(settings)
    assert message in str(caught.value)


def test_what_the_settings_do_not_say_is_kept():
    assert data_config(HUB, DataConfig(aggregate="max", documents="x")).aggregate == "max"
    assert data_config(HUB, DataConfig(documents="x")).documents is None


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """MIMIR's files of github/ngram_13_0.8: three members, two non-members, flat neighbors."""
    sample = "github_ngram_13_0.8"
    sides = {"train": ["in 1", "in 2", "in 3"], "test": ["out 1", "out 2"]}
    for side, found in sides.items():
        write_lines(tmp_path / f"cache_100_200_1000_512/{side}/{sample}.jsonl", found)
        near = [[f"{text} {j}" for j in range(25)] for text in found]
        write_lines(
            tmp_path / f"cache_100_200_1000_512/{side}_neighbors/{sample}_neighbors_25_bert_in_place_swap.jsonl", near
        )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, filename, **__: str(tmp_path / filename))
    return tmp_path


def test_the_hub_gives_pairs(hub):
    found = load_documents(data_config(HUB))
    assert texts(found, True) == ["in 1", "in 2"]
    assert texts(found, False) == ["out 1", "out 2"]
    assert notes(HUB, found) == []
    more = replace(HUB, n_samples=1000)
    found = load_documents(data_config(more))
    assert len(found) == 4
    assert notes(more, found) == [
        "n_samples: 1000, but the hub has 2 pairs of members and non-members; all are taken (MIMIR would stop)"
    ]


def test_neighbors_on_the_hub(hub):
    settings = replace(HUB, n_samples=1, neighbors=NeighborSettings((5, 25), "bert"))
    name = "mimir/github/ngram_13_0.8"
    assert neighbors_configs(settings) == {n: NeighborsConfig(members=name, nonmembers=name) for n in (5, 25)}
    found = load_documents(data_config(settings))
    assert read_neighbors(name, found, 5) == [
        [f"in 1 {j}" for j in range(5)],
        [f"out 1 {j}" for j in range(5)],
    ]
    with pytest.raises(ConfigError, match="n_perturbation_list: 50, but the hub has 25"):
        neighbors_configs(replace(settings, neighbors=NeighborSettings((50,))))
    assert neighbors_configs(HUB) == {}


def test_local_cache(tmp_path):
    settings = replace(LOCAL, cache_path=str(tmp_path), neighbors=NeighborSettings((2,), "t5-small", False))
    folder = tmp_path / "cache_100_200_2_512"
    stem = "the_pile_github_ngram_13_<0.8_truncated"
    write_lines(folder / f"train/{stem}.jsonl", ["in 1", "in 2"])
    write_lines(folder / f"test/{stem}.jsonl", ["out 1", "out 2"])
    write_lines(folder / f"train_neighbors/{stem}_neighbors_2_t5-small.jsonl", [[["in 1 a", "in 1 b"]], [["x", "y"]]])
    write_lines(folder / f"test_neighbors/{stem}_neighbors_2_t5-small.jsonl", [[["z", "w"]], [["x", "y"]]])
    found = load_documents(data_config(settings))
    assert [(d.text, d.is_member) for d in found] == [
        ("in 1", True), ("in 2", True), ("out 1", False), ("out 2", False),
    ]  # fmt: skip
    near = neighbors_configs(settings)[2]
    assert read_neighbors(near.members, [d for d in found if d.is_member]) == [["in 1 a", "in 1 b"], ["x", "y"]]
    assert read_neighbors(near.nonmembers, [d for d in found if not d.is_member]) == [["z", "w"], ["x", "y"]]


def test_names_of_the_cache():
    settings = replace(LOCAL, cache_path="c", specific_source="DM Mathematics", neighbors=NeighborSettings())
    assert str(cache_file(settings, True)) == "c/cache_100_200_2_512/train/the_pile_dm_mathematics.jsonl"
    assert str(cache_file(settings, False, neighbors=10)) == (
        "c/cache_100_200_2_512/test_neighbors/the_pile_dm_mathematics_neighbors_10_bert_in_place_swap.jsonl"
    )
    assert cache_file(replace(settings, specific_source=None), True).name == "the_pile.jsonl"
    assert cache_file(replace(settings, dataset_member="xsum"), True).name == "xsum.jsonl"


def test_the_hub_goes_before_the_cache_where_it_has_the_sample(tmp_path):
    both = DataSettings(specific_source="arxiv_ngram_13_<0.8_truncated", load_from_cache=True, cache_path=str(tmp_path))
    write_lines(cache_file(both, True), ["x"])
    assert data_config(both).members == "mimir/arxiv/ngram_13_0.8"
    own = replace(both, specific_source="dolma_wikipedia")
    with pytest.raises(ConfigError, match="the hub has no sample of 'dolma_wikipedia'"):
        data_config(own)
    for is_member in True, False:
        write_lines(cache_file(own, is_member), [f"text {is_member}"])
    found = load_documents(data_config(own))
    assert [d.text for d in found] == ["text True", "text False"]
    assert notes(own, found) == ["load_from_hf: the hub has no such sample; the local cache is read (MIMIR would stop)"]


def test_a_cache_of_sub_texts(tmp_path):
    settings = replace(LOCAL, cache_path=str(tmp_path), full_doc=True, max_substrs=2)
    write_lines(cache_file(settings, True), [["a", "b", "c"], ["d"], ["cut off"]])
    write_lines(cache_file(settings, False), [["e"], ["f", "g"]])
    found = load_documents(data_config(settings))
    assert [d.text for d in found] == ["a", "b", "d", "e", "f", "g"]
    assert len({d.parent for d in found}) == 4
    write_lines(cache_file(settings, True), ["no list"])
    with pytest.raises(DataError, match="a text, not a list of sub-texts"):
        load_documents(data_config(settings))


def test_a_cache_that_is_not_there(tmp_path):
    settings = replace(LOCAL, cache_path=str(tmp_path))
    with pytest.raises(DataError, match=r"the_pile_github_ngram_13_<0\.8_truncated\.jsonl: no such file"):
        load_documents(data_config(settings))


def row(text, source):
    return {"text": text, "meta": {"pile_set_name": source}}


@pytest.fixture
def pile(tmp_path):
    """A raw Pile of two sources; texts of 0 to 9 words."""
    for name, mark in ("00", "in"), ("test", "out"):
        rows = [row(" ".join([f"{mark}{source[0]}"] * i), source) for i in range(10) for source in ("ArXiv", "Pile-CC")]
        write_lines(tmp_path / f"pile/{name}.jsonl.zst", rows)
    return str(tmp_path)


def test_the_raw_pile(pile):
    settings = replace(RAW, data_source=pile, specific_source="ArXiv")
    found = load_documents(data_config(settings))
    assert texts(found, True) == [" ".join(["inA"] * n) for n in (3, 4, 5, 5)]
    assert texts(found, False) == [" ".join(["outA"] * n) for n in (3, 4, 5, 5)]
    assert {d.source for d in found} == {"ArXiv"}
    both = load_documents(data_config(replace(settings, specific_source=None, max_words_cutoff=False)))
    assert [len(text.split()) for text in texts(both, True)] == [3, 3, 4, 4]
    with pytest.raises(DataError, match="holds no documents of source 'arxiv'; there are: ArXiv, Pile-CC"):
        load_documents(data_config(replace(settings, specific_source="arxiv")))


def test_other_sources_of_non_members(pile, hub):
    settings = replace(RAW, data_source=pile, specific_source="ArXiv", other_nonmember_sources=("Pile-CC",))
    others = load_other_nonmembers(data_config(settings))
    assert {name.partition("#")[2]: [d.text for d in found] for name, found in others.items()} == {
        "Pile-CC": [" ".join(["outP"] * n) for n in (3, 4, 5, 5)]
    }
    assert notes(settings, []) == [
        "dataset_nonmember_other_sources: read by their own names (MIMIR's code for them cannot run)"
    ]
    on_hub = replace(HUB, other_nonmember_sources=("arxiv_ngram_13_0.8", "arxiv_2020-08"))
    assert data_config(on_hub).other_nonmembers == ("mimir/arxiv/ngram_13_0.8", "mimir/temporal_arxiv/2020_08")
    cached = replace(on_hub, load_from_hf=False, load_from_cache=True, cache_path="c")
    assert data_config(cached).other_nonmembers[0].endswith("test/the_pile_arxiv_ngram_13_0.8.jsonl")


def test_as_many_rows_of_the_pile_as_mimir_reads():
    assert data_config(replace(RAW, data_source="d")).max_rows == 10_000
    assert data_config(replace(RAW, data_source="d", max_data=20_000)).max_rows == 20_000
    named = replace(RAW, dataset_member="xsum", dataset_nonmember="xsum")
    assert data_config(named).max_rows is None


words = st.lists(st.sampled_from(["a", "bb", "a\n", " "]), max_size=7).map(" ".join)


@given(
    st.lists(words, max_size=8),
    st.lists(words, max_size=8),
    st.integers(1, 3),
    st.integers(1, 6),
    st.booleans(),
    st.integers(1, 5),
    st.integers(1, 5),
    st.booleans(),
)
def test_selection_is_mimirs(
    tmp_path_factory, members, nonmembers, min_words, max_words, cutoff, max_data, n_samples, tok_by_tok
):
    def select(found):
        found = [text for text in dict.fromkeys(found) if len(text.split()) >= min_words]
        if cutoff:
            ends = [
                [i for i in range(1, len(text) + 1) if text[:i].split() == text.split()[:max_words]] for text in found
            ]
            found = [text[: positions[0]] for text, positions in zip(found, ends)]
        else:
            found = [text for text in found if len(text.split()) < max_words]
        return found[:max_data][:n_samples]

    pairs = list(zip(select(members), select(nonmembers)))
    if tok_by_tok:
        pairs = [
            (" ".join(member.split(" ")[: i + 1]), " ".join(nonmember.split(" ")[: i + 1]))
            for member, nonmember in pairs
            for i in range(len(nonmember.split(" ")))
        ]
    folder = tmp_path_factory.getbasetemp() / "selected"
    settings = DataSettings(
        load_from_hf=False,
        presampled_dataset_member=write_lines(folder / "in.jsonl", [{"text": text} for text in members]),
        presampled_dataset_nonmember=write_lines(folder / "out.jsonl", [{"text": text} for text in nonmembers]),
        min_words=min_words,
        max_words=max_words,
        max_words_cutoff=cutoff,
        max_data=max_data,
        n_samples=n_samples,
        tok_by_tok=tok_by_tok,
    )
    try:
        found = load_documents(data_config(settings))
    except DataError:
        assert not pairs  # MIMIR stops too, or has nothing to compare
    else:
        assert list(zip(texts(found, True), texts(found, False), strict=True)) == pairs


def test_presampled_files_and_their_field(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"text": "x", "substr_samples": ["a b", "c"], "raw": "one two three"}])
    settings = replace(RAW, presampled_dataset_member=path, presampled_dataset_nonmember=path, dataset_key="raw")
    assert texts(load_documents(data_config(settings)), True) == ["one two three"]
    whole = replace(settings, full_doc=True, dataset_key="substr_samples")
    assert texts(load_documents(data_config(whole)), True) == ["a b", "c"]


def test_pretokenized(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12).reshape(4, 3))
    path = str(tmp_path / "a.npy")
    settings = replace(
        HUB, pretokenized=True, presampled_dataset_member=path, presampled_dataset_nonmember=path, n_samples=2
    )
    found = load_documents(data_config(settings))  # all rows, whatever n_samples
    assert [d.token_ids for d in found if d.is_member] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)]
    assert notes(settings, found) == []
    with pytest.raises(ConfigError, match="dump_cache: pretokenized documents have no cache"):
        dump_documents(settings)


@pytest.mark.parametrize(
    ("name", "key", "source", "field"),
    [
        ("xsum", None, "xsum", "text"),
        ("xsum", "summary", "hub:EdinburghNLP/xsum:train", "summary"),
        ("writing", "text", "writing", "text"),
        ("english", None, "english", "text"),
        ("german", "text", "german", "text"),
        ("pubmed", "text", "pubmed", "text"),
        ("pubmed_qa", None, "pubmed_qa", "text"),
        ("o/n", "body", "hub:o/n:train", "body"),
        ("openai_humaneval", "prompt", "hub:openai_humaneval:train[:100]", "prompt"),
        ("nthngdy/oscar-mini", "text", "hub:nthngdy/oscar-mini:test", "text"),
    ],
)
def test_data_sets_by_mimirs_names(name, key, source, field):
    data = data_config(DataSettings(name, name, dataset_key=key, load_from_hf=False))
    assert (data.members, data.nonmembers, data.text_field) == (source, source, field)
    assert (data.dedupe, data.min_words, data.max_words, data.max_data, data.max_documents) == (
        True, 100, 200, 5000, 200,
    )  # fmt: skip


def test_a_local_file_by_name(tmp_path):
    path = write_lines(tmp_path / "own.jsonl", [{"body": "one two three"}])
    data = data_config(replace(RAW, dataset_member=path, dataset_nonmember=path, dataset_key="body"))
    assert texts(load_documents(data), True) == ["one two three"]


def test_max_tokens_matters_where_neighbors_are_generated():
    settings = replace(RAW, data_source="d")
    assert data_config(settings).max_tokens is None
    data = data_config(settings, tokenizer="bert-base-uncased")
    assert (data.max_tokens, data.tokenizer) == (512, "bert-base-uncased")


@pytest.mark.parametrize("full_doc", [False, True])
def test_dumped_documents_are_read_again(tmp_path, full_doc):
    rows = [{"text": ["one two\n three", "四 五"] if full_doc else "one two\n three"}, {"text": ["x"] * 30}]
    settings = replace(
        RAW,
        cache_path=str(tmp_path / "cache"),
        specific_source="own",
        full_doc=full_doc,
        dump_cache=True,
        presampled_dataset_member=write_lines(tmp_path / "in.jsonl", rows if full_doc else rows[:1]),
        presampled_dataset_nonmember=write_lines(tmp_path / "out.jsonl", rows[:1]),
    )
    paths = dump_documents(settings)
    assert paths == [cache_file(settings, True), cache_file(settings, False)]
    written = [json.loads(line) for line in paths[0].read_text(encoding="utf-8").splitlines()]
    assert written == [row["text"] for row in (rows if full_doc else rows[:1])]  # neither paired nor cut
    again = replace(settings, dump_cache=False, load_from_cache=True)
    found = load_documents(data_config(again))
    assert texts(found, False) == (["one two\n three", "四 五"] if full_doc else ["one two\n three"])
    assert len(texts(found, True)) == len(texts(found, False))


def test_dumped_neighbors_are_mimirs_and_are_read_again(tmp_path):
    settings = replace(LOCAL, cache_path=str(tmp_path), full_doc=True, neighbors=NeighborSettings((2,)))
    for is_member in True, False:
        write_lines(cache_file(settings, is_member), [["a", "b"], ["c"]])
    members = [d for d in load_documents(data_config(settings)) if d.is_member]
    near = [["a1", "a2"], ["b1", "b2"], ["c1", "c2"]]
    path = dump_neighbors(settings, members, near, 2)
    assert str(path) == neighbors_configs(settings)[2].members
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [near[:2], near[2:]]
    assert read_neighbors(path, members) == near
    plain = [replace(d, parent=None) for d in members]
    dump_neighbors(settings, plain, near, 2)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [[texts] for texts in near]
    with pytest.raises(DataError, match="expected those of one side"):
        dump_neighbors(settings, [*members[:2], replace(members[2], is_member=False)], near, 2)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    path = write_lines(tmp_path / "in.jsonl", [{"text": "one two three"}])
    settings = replace(
        RAW,
        cache_path=str(tmp_path / "file"),
        presampled_dataset_member=path,
        presampled_dataset_nonmember=path,
    )
    with pytest.raises(DataError, match=r"the_pile\.jsonl: cannot be written"):
        dump_documents(settings)

"""Sources by name: the table of benchmarks, MIMIR's samples, names of other packages, parts of a file; no network."""

import json
import random
from importlib import metadata
from importlib.metadata import EntryPoint
from itertools import islice

import huggingface_hub
import pytest

from mimir_jax.data import benchmarks, sources
from mimir_jax.data.benchmarks import BENCHMARKS, MIMIR_SPLITS, find, mimir_sample
from mimir_jax.data.hub import HubData, HubError
from mimir_jax.data.readers import DataError, Document, Row
from mimir_jax.data.sources import on_hub, read_source, read_texts, short_name


@pytest.fixture
def hub(monkeypatch):
    """Rows by data set; what is asked is put into `asked`."""

    class Hub(dict):
        asked: list

    data = Hub()
    data.asked = []

    def rows(source, which, wanted, stream=None):
        data.asked.append((source, which, stream))
        for number, values in enumerate(data[which.repository], start=1):
            kept = {name: value for name, value in values.items() if name in wanted}
            yield Row(f"row {number}", f"{source}:{number}", kept, list(values))

    monkeypatch.setattr(benchmarks, "hub_rows", rows)
    monkeypatch.setattr(sources.hub, "hub_rows", rows)
    return data


@pytest.fixture
def mimir(monkeypatch, tmp_path):
    """MIMIR's repository on the hub: a function that puts a file there; and the names of those asked for."""
    asked = []

    def download(repository, filename, *, repo_type):
        assert (repository, repo_type) == ("iamgroot42/mimir", "dataset")
        asked.append(filename)
        path = tmp_path / filename
        if not path.exists():
            raise huggingface_hub.errors.GatedRepoError.__new__(huggingface_hub.errors.GatedRepoError, "403")
        return str(path)

    def put(filename, *values):
        path = tmp_path / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    put.asked = asked
    return put


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("wikimia/64", HubData("swj0419/WikiMIA", split="WikiMIA_length64"), "input"),
        ("wikimia-24/256", HubData("wjfu99/WikiMIA-24", split="WikiMIA_length256"), "input"),
        ("bookmia", HubData("swj0419/BookMIA"), "snippet"),
    ],
)
def test_labelled_benchmarks(hub, name, data, text):
    hub[data.repository] = [{text: "old", "label": 1}, {text: "new", "label": 0}, {text: "also old", "label": 1}]
    member, nonmember = Document(f"{name}:1", "old", True, name), Document(f"{name}:2", "new", False, name)
    other = Document(f"{name}:3", "also old", True, name)
    assert list(read_source(name, label_field="label")) == [member, nonmember, other]
    assert list(read_source(name, side=True)) == [member, other]
    assert list(read_source(name, side=False)) == [nonmember]
    assert [d.row for d in read_source(name, side=True)] == [0, 2]
    assert list(read_texts(name)) == ["old", "new", "also old"]
    assert {asked[1] for asked in hub.asked} == {data}


@pytest.mark.parametrize(
    ("name", "data", "row", "text"),
    [
        ("c4", HubData("allenai/c4", "en"), {"text": "x", "url": "u"}, "x"),
        ("c4/validation", HubData("allenai/c4", "en", "validation"), {"text": "x"}, "x"),
        ("xsum", HubData("EdinburghNLP/xsum"), {"document": "x", "summary": "s"}, "x"),
        ("xsum/test", HubData("EdinburghNLP/xsum", split="test"), {"document": "x"}, "x"),
        (
            "pubmed_qa",
            HubData("qiaojin/PubMedQA", "pqa_labeled"),
            {"question": "Why?", "long_answer": "So."},
            "Question: Why? Answer:<<<SEP>>>So.",
        ),
    ],
)
def test_benchmarks_without_labels(hub, name, data, row, text):
    hub[data.repository] = [row]
    for side in True, False:
        assert [(d.text, d.is_member) for d in read_source(name, side=side)] == [(text, side)]
    assert hub.asked[0][1] == data
    with pytest.raises(DataError, match=f"{name}: says nothing of membership; give it as members or as nonmembers"):
        list(read_source(name, label_field="label"))


@pytest.mark.parametrize(("name", "language"), [("english", "en"), ("german", "de")])
def test_languages_have_101_to_149_words(hub, name, language):
    hub["wmt/wmt16"] = [
        {"translation": {language: " ".join(["w"] * n), "other": "short"}} for n in (100, 101, 149, 150)
    ]
    assert [len(d.text.split()) for d in read_source(name, side=True)] == [101, 149]


def test_a_data_set_that_has_changed(hub):
    hub["wmt/wmt16"] = [{"translations": {}}]
    with pytest.raises(DataError, match="english, row 1: field 'translation' is missing; has the data set changed"):
        list(read_source("english", side=True))
    hub["swj0419/WikiMIA"] = [{"text": "x", "label": 1}]
    with pytest.raises(DataError, match="wikimia/32, row 1: field 'input' is missing; there are: text, label"):
        list(read_source("wikimia/32", side=True))


@pytest.mark.parametrize("name", ["wikimia", "wikimia/16", "xsum/dev", "bookmia/1"])
def test_parts_that_a_data_set_lacks(name):
    with pytest.raises(
        DataError, match=rf"{name}: no such data set; there are: .*{name.split('/')[0]}.*\./{name} is a"
    ):
        find(name)


def test_c4_is_streamed_and_small_ones_are_not():
    assert BENCHMARKS["c4"].stream is True
    assert BENCHMARKS["wikimia/32"].stream is False


def test_any_hub_data_set(hub):
    hub["o/n"] = [{"body": "x", "y": "member", "id": 7, "source": "web"}, {"body": "z", "y": "nonmember", "id": 8}]
    found = list(read_source("hub:o/n/c:test", text_field="body", label_field="y"))
    assert found == [Document("7", "x", True, "web"), Document("8", "z", False, "hub:o/n/c:test")]
    assert [d.row for d in found] == [0, 1]
    assert hub.asked == [("hub:o/n/c:test", HubData("o/n", "c", "test"), None)]
    assert list(read_texts("hub:o/n", "body", 1)) == ["x"]
    with pytest.raises(DataError, match="hub:o/n, row 1: field 'text' is missing; there are: body, y, id, source"):
        list(read_source("hub:o/n"))


@pytest.mark.parametrize(
    ("name", "stem", "count"),
    [
        ("mimir/arxiv/ngram_13_0.8", "arxiv_ngram_13_0.8", 1000),
        ("mimir/wikipedia_(en)/ngram_7_0.2", "wikipedia_(en)_ngram_7_0.2", 1000),
        ("mimir/wikipedia/ngram_7_0.2", "wikipedia_(en)_ngram_7_0.2", 1000),
        ("mimir/DM Mathematics/ngram_13_<0.8", "dm_mathematics_ngram_13_0.8", 1000),
        ("mimir/full_pile", "full_pile", 10000),
        ("mimir/full_pile/none", "full_pile", 10000),
        ("mimir/c4", "c4", 1000),
        ("temporal_arxiv/2020-08", "temporal_arxiv_2020_08", 1000),
        ("temporal_wiki", "temporal_wiki", 1000),
    ],
)
def test_mimirs_samples(mimir, name, stem, count):
    folder = f"cache_100_200_{count}_512"
    mimir(f"{folder}/train/{stem}.jsonl", "in\n1", "in 2")
    mimir(f"{folder}/test/{stem}.jsonl", "out 1")
    sample = mimir_sample(name)
    expected = [
        Document(f"{sample.name}/member:1", "in\n1", True, sample.source),
        Document(f"{sample.name}/member:2", "in 2", True, sample.source),
        Document(f"{sample.name}/nonmember:1", "out 1", False, sample.source),
    ]
    assert list(read_source(name, label_field="label")) == expected
    assert list(read_source(name, side=False)) == expected[2:]
    assert mimir.asked == [f"{folder}/{side}/{stem}.jsonl" for side in ("train", "test", "test")]
    assert [d.row for d in read_source(name)] == [0, 1, 0]
    assert sample.filename(True, neighbors=True) == (
        f"{folder}/train_neighbors/{stem}_neighbors_25_bert_in_place_swap.jsonl"
    )


def test_every_sample_has_a_name_of_its_own():
    names = [f"mimir/{source}/{split}" for source, splits in MIMIR_SPLITS.items() for split in splits or ("none",)]
    assert len(names) == 31
    files = {mimir_sample(name).filename(True) for name in names}
    assert len(files) == len(names)
    assert {mimir_sample(mimir_sample(name).name) for name in names} == {mimir_sample(name) for name in names}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mimir", "mimir: no such source; there are: mimir/arxiv, "),
        ("mimir/wiki", "mimir/wiki: no such source; there are: mimir/arxiv, "),
        ("mimir/github", "mimir/github: no such split; there are: mimir/github/ngram_7_0.2, mimir/github/ngram_13_0.2"),
        ("mimir/github/ngram_13_0.4", "mimir/github/ngram_13_0.4: no such split; there are: mimir/github/ngram_7"),
        ("mimir/c4/ngram_13_0.8", "mimir/c4/ngram_13_0.8: no such split; there are: mimir/c4 alone"),
        ("temporal_arxiv", "temporal_arxiv: no such split; there are: mimir/temporal_arxiv/2020_08"),
    ],
)
def test_samples_that_there_are_not(name, message):
    with pytest.raises(DataError) as caught:
        read_source(name)
    assert str(caught.value).startswith(message)


def test_a_gated_sample(mimir):
    with pytest.raises(HubError, match="mimir/c4: the data set iamgroot42/mimir is gated: accept its terms"):
        list(read_source("mimir/c4", side=True))


def test_writing(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "writingPrompts"
    folder.mkdir(parents=True)
    prompts = [f"[ WP ] Prompt {i} .\n" for i in range(6)]
    stories = [f"He said `` it 's {i} '' . <newline> i do n't ( ever ) know\n" for i in range(5)] + ["NSFW\n"]
    (folder / "valid.wp_source").write_text("".join(prompts), encoding="utf-8")
    (folder / "valid.wp_target").write_text("".join(stories), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    texts = [d.text for d in read_source("writing", side=True)]
    expected = [f"Prompt {i}.\nHe said \"it's {i}\". \nI don't (ever) know" for i in range(5)]
    random.seed(0)
    random.shuffle(expected)
    assert texts == expected
    assert list(read_texts(f"writing/{folder}")) == texts
    with pytest.raises(DataError, match=r"writing: nowhere/valid\.wp_source: cannot be read: .*; writing/FOLDER"):
        list(read_source("writing/nowhere"))


def register(monkeypatch, *values):
    entries = [EntryPoint("mine", value, sources.GROUP) for value in values]

    def entry_points(*, group, name):
        assert group == "mimir_jax.datasets"
        return [entry for entry in entries if entry.name == name]

    monkeypatch.setattr(metadata, "entry_points", entry_points)


def all_of_mine():
    yield Document("a", "x", True, "mine")
    yield Document("b", "y", False, "mine")


def part_of_mine(part=""):
    return [Document(f"{part}:1", f"text of {part or 'all'}", None, "mine")]


def broken():
    yield Document("a", "x", True, "mine")
    raise KeyError("oops")


def no_documents():
    return ["x"]


def test_data_sets_of_other_packages(monkeypatch):
    register(monkeypatch, f"{__name__}:all_of_mine")
    assert [(d.id, d.is_member, d.row) for d in read_source("mine", label_field="y")] == [
        ("a", True, 0),
        ("b", False, 1),
    ]
    assert [d.id for d in read_source("mine", side=False)] == ["b"]
    assert list(read_texts("mine")) == ["x", "y"]


def test_a_data_set_of_another_package_in_parts(monkeypatch):
    register(monkeypatch, f"{__name__}:part_of_mine")
    assert [(d.text, d.is_member) for d in read_source("mine/2021/a", side=True)] == [("text of 2021/a", True)]
    assert [d.text for d in read_source("mine", side=True)] == ["text of all"]


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (["broken"], "mine: .*:broken failed: KeyError: 'oops'"),
        (["no_documents"], "mine: .*:no_documents gave a str, expected a Document"),
        (["missing"], "mine: .*:missing failed: AttributeError"),
        (["broken", "no_documents"], "mine: more than one package registers a data set mine: "),
    ],
)
def test_faults_of_other_packages(monkeypatch, functions, message):
    register(monkeypatch, *(f"{__name__}:{function}" for function in functions))
    with pytest.raises(DataError, match=message):
        list(read_source("mine", side=True))


def test_the_real_table_of_entry_points_is_asked():
    with pytest.raises(DataError, match="nobody_registers_this: no such file or folder"):
        list(read_source("nobody_registers_this"))


@pytest.fixture
def pile(tmp_path):
    path = tmp_path / "pile.jsonl"
    rows = [{"text": str(i), "meta": {"pile_set_name": ["ArXiv", "Wikipedia (en)"][i % 2]}} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_one_source_of_a_file(pile):
    found = list(read_source(f"{pile}#Wikipedia (en)", side=True))
    assert [(d.text, d.source, d.row) for d in found] == [(i, "Wikipedia (en)", int(i)) for i in "135"]
    assert [d.text for d in read_source(f"{pile}#ArXiv", side=True, max_rows=3)] == ["0", "2"]
    assert list(read_texts(f"{pile}#ArXiv", max_texts=2)) == ["0", "2"]


def test_a_source_that_a_file_lacks(pile):
    with pytest.raises(DataError, match=r"#arxiv: holds no documents of source 'arxiv'; there are: ArXiv, Wikipedia"):
        list(read_source(f"{pile}#arxiv"))


def test_a_file_with_the_mark_in_its_name(tmp_path):
    path = tmp_path / "c#1.jsonl"
    path.write_text('{"text": "x"}', encoding="utf-8")
    assert list(read_texts(str(path))) == ["x"]


def test_texts_of_a_file_and_of_the_example(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x"}\n{"body": "y"}\nno JSON', encoding="utf-8")
    assert list(read_texts(str(path), "body", 2)) == ["x", "y"]
    assert list(islice(read_texts(str(path), "body"), 1)) == ["x"]
    assert len(list(read_texts("demo"))) == 2500
    assert len(list(read_texts("demo/shifted", "body", 7))) == 7
    assert list(read_texts("demo", max_texts=0)) == []


def test_no_texts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.touch()
    with pytest.raises(DataError, match=r"a\.jsonl: holds no documents"):
        list(read_texts(str(path)))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("x/in.jsonl.gz", "in"),
        ("demo/shifted", "shifted"),
        ("mimir/arxiv/ngram_13_0.8", "mimir-arxiv-ngram_13_0.8"),
        ("temporal_arxiv/2020_08", "temporal_arxiv-2020_08"),
        ("wikimia/64", "wikimia-64"),
        ("hub:o/n/c:train[:100]", "o-n-c-train-100"),
        ("/pile/00.jsonl.zst#Wikipedia (en)", "00-Wikipedia-(en)"),
    ],
)
def test_what_results_call_a_source(source, name):
    assert short_name(source) == name


def test_what_is_on_the_hub():
    assert [on_hub(name) for name in ("c4", "hub:o/n", "c4#x", "./c4", "mimir/c4", "demo/members")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip

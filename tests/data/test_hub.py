"""Data sets of the hub: what is asked of its libraries, and a message for each way in which they refuse."""

from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from huggingface_hub import errors

from mimir_jax.data import hub
from mimir_jax.data.hub import HubData, HubError, hub_file, hub_rows, parse
from mimir_jax.data.readers import DataError

ROWS = [{"text": "x", "label": 1, "other": None}, {"text": "y", "label": 0, "other": None}]


@pytest.fixture
def asked(monkeypatch):
    """A hub with one data set; the list of what was asked of it."""
    calls = []

    def load_dataset(path, name, *, split, revision, streaming):
        calls.append((path, name, split, revision, streaming))
        found = datasets.Dataset.from_list(ROWS)
        return found.to_iterable_dataset() if streaming else found

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return calls


def sized(monkeypatch, download_size, dataset_size=None):
    info = SimpleNamespace(download_size=download_size, dataset_size=dataset_size)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: SimpleNamespace(info=info))


@pytest.mark.parametrize(
    ("source", "data"),
    [
        ("hub:o/n", HubData("o/n", None, "train", None)),
        ("hub:o/n:test", HubData("o/n", None, "test")),
        ("hub:o/n/c", HubData("o/n", "c")),
        ("hub:o/n/c:train[:100]", HubData("o/n", "c", "train[:100]")),
        ("hub:o/n@v1/c:test", HubData("o/n", "c", "test", "v1")),
        ("hub:n", HubData("n")),
        ("hub:n:test", HubData("n", None, "test")),
    ],
)
def test_names(source, data):
    assert parse(source) == data


@pytest.mark.parametrize("source", ["hub:", "hub:/n", "hub:o/", "hub::test", "hub:o/n@", "hub:o/n:"])
def test_bad_names(source):
    with pytest.raises(DataError, match=r"expected hub:owner/name\[@revision\]\[/config\]\[:split\]"):
        parse(source)


@pytest.mark.parametrize("stream", [True, False])
def test_rows(asked, stream):
    data = HubData("o/n", "c", "test", "v1")
    rows = list(hub_rows("hub:o/n/c:test", data, ["text", "label", "id"], stream))
    assert asked == [("o/n", "c", "test", "v1", stream)]
    assert [row.values for row in rows] == [{"text": "x", "label": 1}, {"text": "y", "label": 0}]
    assert [(row.place, row.default_id) for row in rows] == [
        ("row 1", "hub:o/n/c:test:1"),
        ("row 2", "hub:o/n/c:test:2"),
    ]
    assert list(rows[0].fields) == ["text", "label", "other"]


def test_without_a_wanted_column_the_message_can_name_the_others(asked):
    rows = list(hub_rows("hub:o/n", HubData("o/n"), ["body"], stream=False))
    assert [set(row.values) for row in rows] == [{"text", "label", "other"}] * 2


@pytest.mark.parametrize(
    ("sizes", "streamed"),
    [
        ((1000,), False),
        ((1 << 31,), True),
        ((None, 1000), False),
        ((None, 1 << 31), True),
        ((None, None), True),
    ],
)
def test_large_data_sets_are_streamed(monkeypatch, asked, sizes, streamed):
    sized(monkeypatch, *sizes)
    assert len(list(hub_rows("s", HubData("o/n"), ["text"]))) == 2
    assert asked[0][-1] is streamed


def test_slices_are_not_streamed(monkeypatch, asked):
    sized(monkeypatch, 1 << 31)
    list(hub_rows("s", HubData("o/n", split="train[:1]"), ["text"]))
    assert asked[0][-1] is False


def test_offline_the_cache_is_read(monkeypatch, asked):
    sized(monkeypatch, None)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    list(hub_rows("s", HubData("o/n"), ["text"]))
    assert asked[0][-1] is False


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, asked):
    """Its libraries would try again and again: they are told to look in their caches only."""
    heads = []

    def head(*_, **settings):
        heads.append(settings)
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=head))
    hub._probe.cache_clear()
    for _ in range(2):
        list(hub_rows("s", HubData("o/n"), ["text"], stream=False))
    hub._probe.cache_clear()
    assert heads == [{"timeout": hub.PATIENCE}]
    assert huggingface_hub.constants.is_offline_mode()
    assert datasets.config.HF_HUB_OFFLINE


def refuse(error):
    def call(*_, **__):
        raise error

    return call


def http_error(kind):
    return kind.__new__(kind, "said")  # their constructors want a response


REFUSALS = [
    (http_error(errors.GatedRepoError), "the data set o/n is gated: accept its terms on its page of the hub, then log"),
    (datasets.exceptions.DatasetNotFoundError("'o/n' is a gated dataset on the Hub."), "the data set o/n is gated"),
    (datasets.exceptions.DatasetNotFoundError("aggregated?"), "there is no data set o/n on the hub, or it is private"),
    (http_error(errors.RepositoryNotFoundError), "there is no data set o/n on the hub, or it is private"),
    (ConnectionError("said"), "the hub cannot be reached, and o/n is not in the local cache (said)"),
    (TimeoutError(), "the hub cannot be reached, and o/n is not in the local cache"),
    (http_error(errors.LocalEntryNotFoundError), "the hub cannot be reached, and o/n is not in the local cache"),
    (ValueError("Unknown split\nmore"), "o/n cannot be read from the hub: ValueError: Unknown split"),
    (RuntimeError("Dataset scripts are no longer supported"), "o/n cannot be read from the hub: RuntimeError: Data"),
]


@pytest.mark.parametrize(("error", "message"), REFUSALS, ids=lambda value: getattr(type(value), "__name__", ""))
def test_refusals(monkeypatch, error, message):
    monkeypatch.setattr(datasets, "load_dataset", refuse(error))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse(error))
    with pytest.raises(HubError) as caught:
        list(hub_rows("mine", HubData("o/n"), ["text"], stream=True))
    assert str(caught.value).startswith(f"mine: {message}")
    assert "\n" not in str(caught.value)
    with pytest.raises(HubError) as caught:
        hub_file("mine", "o/n", "a.jsonl")
    assert str(caught.value).startswith(f"mine: {message}")


def test_an_error_of_the_http_library_by_whatever_package(monkeypatch):
    class TransportError(Exception):
        pass

    class ConnectTimeout(TransportError):
        pass

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse(ConnectTimeout("slow")))
    with pytest.raises(HubError, match="cannot be reached"):
        hub_file("mine", "o/n", "a.jsonl")


def test_a_connection_that_breaks_while_rows_arrive(monkeypatch):
    def rows():
        yield {"text": "x"}
        raise ConnectionError("gone")

    broken = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: broken)
    stream = hub_rows("mine", HubData("o/n"), ["text"], stream=True)
    assert next(stream).values == {"text": "x"}
    with pytest.raises(HubError, match="mine: the hub cannot be reached"):
        next(stream)


@pytest.mark.parametrize("stream", [None, True, False])
def test_offline_for_real(monkeypatch, tmp_path, stream):
    """The libraries themselves, told that there is no network (conftest), and with empty caches."""
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        pytest.skip("HF_HUB_OFFLINE is not set")
    with pytest.raises(HubError, match="cannot be reached, and nobody/nothing-of-the-kind is not in the local cache"):
        next(hub_rows("mine", HubData("nobody/nothing-of-the-kind"), ["text"], stream))


def test_offline_for_real_file():
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        pytest.skip("HF_HUB_OFFLINE is not set")
    with pytest.raises(HubError, match="mine: the hub cannot be reached, and nobody/nothing-of-the-kind is not in"):
        hub_file("mine", "nobody/nothing-of-the-kind", "a.jsonl")


def test_files_are_of_the_data_set(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path / "f"))
    assert hub_file("mine", "o/n", "a/b.jsonl") == tmp_path / "f"
    assert asked == [(("o/n", "a/b.jsonl"), {"repo_type": "dataset"})]

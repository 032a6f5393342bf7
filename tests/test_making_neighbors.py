"""Neighbors that a run makes: `mimir-jax neighbors`, on the fly, kept and found again, and how close they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import ends, environment, start_together
from safetensors.numpy import load_file, save_file

from mimir_jax import experiment, neighbors
from mimir_jax.cli import main
from mimir_jax.compat.mimir.attacks import RULES
from mimir_jax.compat.mimir.neighbors import NEIGHBORS
from mimir_jax.config import (
    ConfigError,
    DataConfig,
    MetricsConfig,
    NeighborsConfig,
    RunConfig,
    SpansConfig,
    SwapsConfig,
)
from mimir_jax.data.documents import load_documents
from mimir_jax.data.neighbor_closeness import closeness, edits
from mimir_jax.data.neighbor_store import NeighborStore
from mimir_jax.data.neighbors import read_neighbors, read_provenance
from mimir_jax.data.readers import DataError, Document
from mimir_jax.models.checkpoint import SINGLE, CheckpointError
from mimir_jax.report import results
from mimir_jax.report.terminal import silent
from mimir_jax.testing import write_checkpoint, write_mask_model, write_span_model

pytestmark = pytest.mark.slow  # as a whole

Captured = pytest.CaptureFixture[str]
MEMBERS = ["The quick brown fox jumps.", "There is more in these books.", "A word, and the other dog."]
NONMEMBERS = ["One of them would think.", "The lazy dog looks at others.", ""]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "target")
    write_mask_model(folder / "mask")
    return folder


@pytest.fixture
def config(tmp_path: Path, models: Path) -> Callable[..., RunConfig]:
    """A run of ne whose neighbors are made."""
    for name, texts in (("in", MEMBERS), ("out", NONMEMBERS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def config(
        attacks: tuple[str, ...] = ("ne", "ne_z"), near: dict[str, Any] | None = None, **fields: Any
    ) -> RunConfig:
        made = {"model": str(models / "mask"), "count": 4, "folder": str(tmp_path / "kept")}
        return RunConfig(
            **{
                "experiment": "x",
                "model": str(models / "target"),
                "data": DataConfig(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")),
                "attacks": attacks,
                "neighbors": NeighborsConfig(**{**made, **(near or {})}),
                "metrics": MetricsConfig(n_bootstrap=10),
                "results": str(tmp_path / "results"),
                **fields,
            }
        )

    return config


def test_a_run_makes_its_neighbors(
    tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a file of the same neighbors; they are kept, and a text without tokens has none."""
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)
    made = experiment.run(config())
    (kept,) = (tmp_path / "kept").iterdir()
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert (
        lines[0]["provenance"] | {"model": "mask", "strategy": "deterministic", "rules": "paper"}
        == lines[0]["provenance"]
    )
    assert sorted(len(line["neighbors"]) for line in lines[1:]) == [0, 4, 4, 4, 4, 4]
    assert any("made by mask, 0 of 6 documents' by an earlier run" in note for note in made.notes)
    assert any("1 documents have fewer than 4" in note for note in made.notes)

    by_text = {text: line["neighbors"] for text in [*MEMBERS, *NONMEMBERS] for line in lines[1:] if text_of(line, text)}
    for name, texts in (("near_in", MEMBERS), ("near_out", NONMEMBERS[:2])):
        (tmp_path / name).with_suffix(".jsonl").write_text("".join(json.dumps(by_text[t]) + "\n" for t in texts))
    (tmp_path / "out2.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in NONMEMBERS[:2]))
    given = experiment.run(
        config(
            near={
                "model": None,
                **{s: str(tmp_path / f"near_{f}.jsonl") for s, f in (("members", "in"), ("nonmembers", "out"))},
            },
            data=DataConfig(str(tmp_path / "in.jsonl"), str(tmp_path / "out2.jsonl")),
            experiment="given",
        )
    )
    for name in ("ne", "ne_z"):
        np.testing.assert_allclose(made.scores[name][:5], given.scores[name], rtol=1e-5)
        assert np.isnan(made.scores[name][5])


def text_of(line: dict[str, Any], text: str) -> bool:
    import hashlib

    return line["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_made_once(tmp_path: Path, config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was interrupted goes on, a torn line is made again, and what is known is not computed."""
    texts = [Document(str(i), text, i < 3, "s") for i, text in enumerate([*MEMBERS, *NONMEMBERS])]
    expected, store = neighbors.make_neighbors(config(), texts)
    data = store.path.read_bytes()
    store.path.write_bytes(b"".join(data.splitlines(keepends=True)[:4]) + b'{"id": "torn", "sha')
    computed: list[int] = []
    whole = neighbors.swap_neighbors

    def counted(model: Any, encoded: Any, *rest: Any) -> Any:
        computed.append(len(encoded))
        return whole(model, encoded, *rest)

    monkeypatch.setattr(neighbors, "swap_neighbors", counted)
    assert neighbors.make_neighbors(config(), texts)[0] == expected
    assert computed == [3]
    # Other ids, another order, a text twice: the same texts.
    renamed = [Document(f"n{i}", one.text, None, "s") for i, one in enumerate([*texts[::-1], texts[0]])]
    assert neighbors.make_neighbors(config(), renamed)[0] == [*expected[::-1], expected[0]]
    assert computed == [3]
    # Another seed is another file.
    other, elsewhere = neighbors.make_neighbors(config(seed=1), texts)
    assert other != expected
    assert elsewhere.path != store.path
    assert computed == [3, 6]


def test_a_store_of_other_neighbors(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    NeighborStore(path, {"model": "one"})
    with pytest.raises(DataError, match=r"made otherwise.*one.*name another file"):
        NeighborStore(path, {"model": "two"})
    path.write_text('{"provenance": {"model": "one"}}\n{"id": 3}\n')
    with pytest.raises(DataError, match=r"no file of neighbors that can be used.*remove it"):
        NeighborStore(path, {"model": "one"})
    with pytest.raises(DataError, match="no file of neighbors that can be used"):
        NeighborStore(tmp_path, {"model": "one"})


def test_by_the_rules_of_mimir(config: Callable[..., RunConfig]) -> None:
    """Runs by its rules have its neighbors, in a file of their own."""
    texts = [Document(str(i), text, i < 3, "s") for i, text in enumerate([*MEMBERS, *NONMEMBERS])]
    paper, mimir = (
        neighbors.neighbors_of(config(), texts),
        RULES.texts["neighbor_stats"](config(), texts, silent, print),
    )
    assert [len(some) for some in mimir] == [4, 4, 4, 4, 4, 4]  # of an empty text [SEP] is swapped
    assert mimir[:5] != paper[:5]
    assert mimir == neighbors.make_neighbors(config(), texts, rules=NEIGHBORS)[0]


def test_the_command(tmp_path: Path, config: Callable[..., RunConfig], models: Path, capsys: Captured) -> None:
    out = tmp_path / "near.jsonl.gz"
    run = config()
    arguments = [
        "neighbors", "--data.members", str(run.data.members), "--data.nonmembers", str(run.data.nonmembers),
        "--neighbors.model", str(models / "mask"), "--neighbors.count", "4",
        "--neighbors.folder", str(tmp_path / "kept"),
    ]  # fmt: skip
    assert main([*arguments, "--out", str(out), "--lists", "--judge", str(models / "target")]) == 0
    said = capsys.readouterr().out
    assert "20 neighbors" in said
    assert "tokens changed" in said
    assert "change of log-likelihood under" in said
    assert "0.0% are the document itself, 0.0% are another neighbor's text" in said
    members = [Document(f"in-{i}", text, True, "s") for i, text in enumerate(MEMBERS)]
    assert read_provenance(out)["count"] == 4  # type: ignore[index]
    lists = [json.loads(line) for line in (tmp_path / "near.members.jsonl").read_text().splitlines()]
    assert read_neighbors(tmp_path / "near.members.jsonl", members) == [one for (one,) in lists]
    # It is read again, the document without neighbors included.
    documents = load_documents(run.data)
    assert read_neighbors(out, documents) == neighbors.neighbors_of(run, documents)
    # What the command made is found where it is kept.
    assert main([*arguments, "--judge", "none"]) == 0
    assert "6 of 6 documents' by an earlier run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--neighbors.model", "None"], "name the mask-filling model that makes them"),
        (["--out", "near.txt"], "must end in .jsonl"),
        (["--lists"], "are written beside --out"),
        (["--neighbors.model", "nowhere/at/all"], "no such folder"),
        (["--neighbors.count", "0"], "neighbors.count: 0"),
        (["--neighbors.model", "demo/epoch1"], "a causal model, which can be attacked"),
    ],
)
def test_bad_commands(
    config: Callable[..., RunConfig], models: Path, capsys: Captured, changes: list[str], message: str
) -> None:
    run = config()
    data = ["--data.members", str(run.data.members), "--data.nonmembers", str(run.data.nonmembers)]
    assert main(["neighbors", *data, "--neighbors.model", str(models / "mask"), *changes]) == 2
    assert message in capsys.readouterr().err


def test_spans(tmp_path: Path, config: Callable[..., RunConfig], models: Path) -> None:
    """By a T5, of which a random one fills nothing; by random words of all documents; by random tokens."""
    texts = [Document(str(i), text, i < 3, "s") for i, text in enumerate([*MEMBERS, *NONMEMBERS])]
    notes: list[str] = []
    write_span_model(models / "t5")
    by_t5 = config(near={"model": str(models / "t5"), "spans": SpansConfig(max_tries=1)})
    found, store = neighbors.make_neighbors(by_t5, texts, note=notes.append)
    assert found == [[one.text] * 4 if one.text else [] for one in texts]
    assert any("20 of 20 are the document itself: their masks were not filled" in note for note in notes)
    assert read_provenance(store.path)["top_k"] == 50  # type: ignore[index]

    for random in ("words", "tokens"):
        run = config(near={"model": None, "spans": SpansConfig(share=0.9, buffer=0, random=random)})
        found, store = neighbors.make_neighbors(run, texts)
        assert [len(some) for some in found] == [4, 4, 4, 4, 4, 0]
        assert all(len(set(some)) > 1 for some in found[:5])
        assert neighbors.make_neighbors(run, texts[::-1])[0] == found[::-1]
    known = {word for text in texts for word in text.text.split()}
    words, _ = neighbors.make_neighbors(config(near={"model": None, "spans": SpansConfig(random="words")}), texts)
    assert {word for some in words for text in some for word in text.split()} <= known


def test_a_mask_model_without_its_head(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    folder = write_mask_model(tmp_path / "headless")
    tensors = load_file(folder / SINGLE)
    save_file({name: x for name, x in tensors.items() if not name.startswith("cls.")}, folder / SINGLE)
    with pytest.raises(CheckpointError, match="holds no head"):
        experiment.run(config(near={"model": str(folder)}))


def test_long_documents_are_refused_first(tmp_path: Path, config: Callable[..., RunConfig]) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "dog " * 100}) + "\n")
    with pytest.raises(ConfigError, match=r"1 documents exceed its context of 64 tokens, such as .*102 tokens"):
        experiment.run(config())
    with_beginning = config(near={"swaps": SwapsConfig(long="beginning")})
    assert len(neighbors.neighbors_of(with_beginning, load_documents(with_beginning.data))[0]) == 4


def test_nothing_makes_neighbors(config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=r"ne lacks an input: give --neighbors\.members.*--neighbors\.model"):
        experiment.run(config(near={"model": None}))


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_edits(one: list[str], other: list[str]) -> None:
    """By the definition, cell by cell."""
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    assert edits(one, other) == table[len(one), len(other)]


def test_closeness() -> None:
    found = closeness(
        ["a b c d", "x"], [["a b c d", "a q c", "a q c"], []], str.split, lambda texts: [-float(len(t)) for t in texts]
    )
    assert found.tokens.tolist() == [0, 2, 2]
    assert found.share.tolist() == [0, 0.5, 0.5]
    assert found.change is not None
    assert found.change.tolist() == [0, 2, 2]
    assert found.unchanged.tolist() == [True, False, False]
    assert found.repeated.tolist() == [False, False, True]


def test_two_processes(tmp_path: Path, config: Callable[..., RunConfig], models: Path) -> None:
    """They make what one makes, of which process 0 alone writes and prints; what is kept they find together."""
    run = config()
    texts = load_documents(run.data)
    arguments = [
        "neighbors", "--data.members", str(run.data.members), "--data.nonmembers", str(run.data.nonmembers),
        "--neighbors.model", str(models / "mask"), "--neighbors.count", "4", "--neighbors.folder", "together",
        "--out", "near.jsonl", "--batch-tokens", "64", "--judge", str(models / "target"),
    ]  # fmt: skip
    env = environment(tmp_path / "compiled")
    ended = ends(start_together(2, arguments, env, tmp_path))
    assert [one.code for one in ended] == [0, 0], [one.err for one in ended]
    assert "20 neighbors" in ended[0].out
    assert "change of log-likelihood under" in ended[0].out
    assert "neighbors" not in ended[1].out
    assert read_neighbors(tmp_path / "near.jsonl", texts) == neighbors.neighbors_of(run, texts)

    (kept,) = (tmp_path / "together").iterdir()
    kept.write_bytes(b"".join(kept.read_bytes().splitlines(keepends=True)[:4]))
    ended = ends(start_together(2, arguments, env, tmp_path))
    assert [one.code for one in ended] == [0, 0], [one.err for one in ended]
    assert "3 of 6 documents' by an earlier run" in ended[0].out
    assert read_neighbors(tmp_path / "near.jsonl", texts) == neighbors.neighbors_of(run, texts)


def test_processes_with_a_file_that_is_none(tmp_path: Path, config: Callable[..., RunConfig], models: Path) -> None:
    """Process 0 says it, and the other one, which does not read it, ends as well."""
    run = config()
    arguments = [
        "neighbors", "--data.members", str(run.data.members), "--data.nonmembers", str(run.data.nonmembers),
        "--neighbors.model", str(models / "mask"), "--neighbors.folder", "taken", "--judge", "none",
    ]  # fmt: skip
    (tmp_path / "taken").write_text("no folder")
    ended = ends(start_together(2, arguments, environment(tmp_path / "compiled"), tmp_path))
    assert all(one.code for one in ended)
    assert "no file of neighbors that can be used" in ended[0].err
    assert "process 0 of 2 failed" in ended[1].err

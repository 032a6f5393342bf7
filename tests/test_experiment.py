"""Whole runs on tiny checkpoints: what is written, what is refused, and that nothing is computed twice."""

import dataclasses
import hashlib
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from mimir_jax import attacks, experiment, job, load_model, metrics, outcome, score, scores, zlib_bytes
from mimir_jax.arrays import TokenStats
from mimir_jax.attacks import registry
from mimir_jax.attacks.registry import Attack, AttackError
from mimir_jax.config import (
    ConfigError,
    DataConfig,
    MeshConfig,
    MetricsConfig,
    NeighborsConfig,
    QuantileConfig,
    RunConfig,
    ShotsConfig,
    TokenCountsConfig,
    from_json,
    to_json,
)
from mimir_jax.data.documents import DataError, fingerprint, load_documents
from mimir_jax.identity import file_digests
from mimir_jax.metrics import MetricsError
from mimir_jax.models.checkpoint import SINGLE, CheckpointError
from mimir_jax.report import results
from mimir_jax.scoring import batching, engine
from mimir_jax.scoring.engine import ScoringError
from mimir_jax.scoring.store import StoreError
from mimir_jax.scoring.tokens import TokenizerError
from mimir_jax.testing import tiny_tokenizer, write_checkpoint

pytestmark = pytest.mark.slow  # as a whole

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}
WORDS = "the quick brown Fox jumps over THE lazy dog and there is more in these books than one reader would think"
FILES = {"audit.json", "config.json", "exposed.json", "metrics.json", "roc.png", "run.json", "scores.parquet", "stats"}
ONE_TOKEN = "one token, and nothing before it to predict it from"

Write = Callable[..., str]
Configure = Callable[..., RunConfig]


def text(seed: int, words: int = 12) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS.split(), words))


MEMBERS = [text(i) for i in range(10)]
NONMEMBERS = [text(100 + i) for i in range(9)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of one shape: `target`, `later` and `latest`; `small_vocab` has a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["target", "later", "latest"]):
        write_checkpoint(folder / name, seed=seed, **TINY)
    write_checkpoint(folder / "small_vocab", seed=9, tokenizer=tiny_tokenizer(vocab=260), **TINY)
    return folder


@pytest.fixture(autouse=True)
def few_compiled_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "GOOD_FILL", 0.0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for the figure, which takes most of a tiny run: the names of its curves."""
    curves: list[list[str]] = []
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: curves.append(list(scores)))
    return curves


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a JSONL file of texts, or of whole objects."""

    def write(name: str, *rows: str | dict[str, Any]) -> str:
        path = tmp_path / f"{name}.jsonl"
        objects = [row if isinstance(row, dict) else {"text": row} for row in rows]
        path.write_text("".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="module")
def basis(models: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """What all runs here have in common."""
    folder = tmp_path_factory.mktemp("data")
    for name, texts in (("in", MEMBERS), ("out", NONMEMBERS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    return RunConfig(
        experiment="tiny",
        model=str(models / "target"),
        data=DataConfig(members=str(folder / "in.jsonl"), nonmembers=str(folder / "out.jsonl")),
        attacks=("loss", "min_k"),
        metrics=MetricsConfig(fprs=(0.2,), n_bootstrap=20),
        batch_tokens=128,
        results=str(folder / "results"),
    )


@pytest.fixture
def configure(basis: RunConfig, models: Path, tmp_path: Path) -> Configure:
    """A configuration whose results go to a folder of their own; paths of models are relative to `models`."""

    def configure(**changes: Any) -> RunConfig:
        config = dataclasses.replace(basis, results=str(tmp_path / "results"), **changes)
        return dataclasses.replace(
            config,
            model=str(models / config.model),
            checkpoints=tuple(str(models / name) for name in config.checkpoints),
            references=None if config.references is None else tuple(str(models / name) for name in config.references),
        )

    return configure


@pytest.fixture(scope="module")
def one_run(basis: RunConfig) -> experiment.Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "write_roc", lambda path, scores, is_member: path.write_bytes(b"drawn"))
        return experiment.run(basis)


@pytest.fixture
def finished(one_run: experiment.Results, tmp_path: Path) -> experiment.Results:
    """The results of `configure()`, complete, in the folder where it would write them."""
    folder = tmp_path / "results" / "tiny"
    shutil.copytree(one_run.folder, folder)
    return dataclasses.replace(one_run, folder=folder)


@pytest.fixture
def sides(write: Write) -> Callable[..., DataConfig]:
    def sides(members: list[str], nonmembers: list[str]) -> DataConfig:
        return DataConfig(members=write("own_in", *members), nonmembers=write("own_out", *nonmembers))

    return sides


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make a function of the runner fail, if it is called."""

    def called(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("called")

    for name in names:
        modules = [module for module in (experiment, job, outcome) if hasattr(module, name)]
        assert modules, name
        for module in modules:
            monkeypatch.setattr(module, name, called)


def count_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each batch that goes to the devices."""
    batches: list[int] = []
    for name in ("score_batch", "score_batch_models"):
        compute = getattr(engine, name)

        def counted(*arguments: Any, compute: Any = compute) -> Any:
            batches.append(1)
            return compute(*arguments)

        monkeypatch.setattr(engine, name, counted)
    return batches


def table(found: experiment.Results) -> dict[str, list[Any]]:
    return pq.read_table(found.folder / "scores.parquet").to_pydict()


def run_json(found: experiment.Results) -> dict[str, Any]:
    return json.loads((found.folder / "run.json").read_text(encoding="utf-8"))


def direct(folder: Path, texts: list[str]) -> TokenStats:
    """The same statistics without the runner."""
    return score(load_model(folder), texts)


def assert_scores_equal(ours: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(expected), rtol=1e-5, atol=1e-6)


# What a run writes


@pytest.mark.slow
def test_every_file_of_a_run(configure: Configure, models: Path) -> None:
    config = configure(attacks=None, references=("later",))
    found = experiment.run(config)
    names = [*attacks.DEFAULT, "ref-later"]
    assert found.computed
    assert found.folder == Path(config.results) / "tiny"
    assert {path.name for path in found.folder.iterdir()} == FILES
    assert (found.folder / "roc.png").read_bytes().startswith(b"\x89PNG")

    stored = pq.read_table(found.folder / "scores.parquet")
    columns = {"id": pa.string(), "is_member": pa.bool_(), "source": pa.string(), "n_tokens": pa.int64()}
    columns |= {"ngram_overlap": pa.float64()}
    columns |= dict.fromkeys(names, pa.float32()) | {"reason": pa.string()}
    assert stored.schema.names == list(columns)
    assert stored.schema.types == list(columns.values())
    rows = stored.to_pydict()
    assert rows["id"] == [d.id for d in found.documents] == _ids()
    assert rows["is_member"] == [True] * 10 + [False] * 9
    assert rows["source"] == ["in"] * 10 + ["out"] * 9

    texts = [*MEMBERS, *NONMEMBERS]
    stats = direct(models / "target", texts)
    assert rows["n_tokens"] == (stats.mask.sum(axis=-1) + 1).tolist()
    assert_scores_equal(rows["loss"], attacks.loss(stats))
    assert_scores_equal(rows["zlib"], attacks.zlib(stats, zlib_bytes(texts)))
    assert_scores_equal(rows["min_k++"], attacks.min_k_plus_plus(stats))
    assert_scores_equal(rows["ref-later"], attacks.ref(stats, direct(models / "later", texts)))

    scores = {name: np.array(rows[name], np.float32) for name in names}
    for name in names:
        np.testing.assert_array_equal(found.scores[name], scores[name])
    scored = {name: row for name, row in scores.items() if np.isfinite(row).any()}
    expected = metrics.evaluate(scored, rows["is_member"], fprs=(0.2,), n_bootstrap=20)
    assert found.metrics == {name: expected.get(name) for name in names}
    plain = {name: dataclasses.asdict(row) if (row := expected.get(name)) else None for name in names}
    assert json.loads((found.folder / "metrics.json").read_text()) == json.loads(json.dumps(plain))

    assert from_json(found.folder / "config.json") == experiment.resolve(config)


def _out_ids() -> list[str]:
    return [f"out:{i}" for i in range(1, 10)]


def _ids() -> list[str]:
    return [*(f"in:{i}" for i in range(1, 11)), *_out_ids()]


@pytest.mark.slow
def test_provenance(configure: Configure, models: Path, drawn: list[list[str]]) -> None:
    config = configure(references=("later",), attacks=("loss", "ref"), mesh=MeshConfig(data=4, model=2))
    found = experiment.run(config)
    run = run_json(found)
    assert set(run) == {
        "identity",
        "versions",
        "device",
        "mesh",
        "layout",
        "processes",
        "targets",
        "references",
        "documents",
        "stages",
        "notes",
    }
    assert run["layout"] == "data=4, model=2: as configured"
    assert run["processes"] == 1
    assert run["device"] == {"kind": "cpu", "count": 8}
    assert run["mesh"] == {"data": 4, "model": 2}
    assert run["documents"] == {"members": 10, "nonmembers": 9, "unscored": 0, "overlapping": 0}
    assert run["notes"] == found.notes == []
    assert {"python", "mimir_jax", "jax", "flax", "transformers", "numpy"} <= set(run["versions"])
    assert run["versions"]["jax"] == jax.__version__
    for role, name in (("targets", "target"), ("references", "later")):
        (described,) = run[role]
        digests = {
            file: hashlib.sha256((models / name / file).read_bytes()).hexdigest() for file in ("config.json", SINGLE)
        }
        assert digests.items() <= described["files"].items()
        assert (described["name"], described["revision"]) == (name, None)
        assert (described["folder"], described["stored"]) == (str(models / name), ["float32"])
    assert run["identity"]["documents"] == fingerprint(load_documents(config.data))
    assert len(run["identity"]["checkpoints"]) == 2
    stages = run["stages"]
    assert {"load target", "score target", "load reference later", "score reference later"} <= set(stages)
    assert all(stage["seconds"] >= 0 for stage in stages.values())
    for stage in ("score target", "score reference later"):
        assert stages[stage]["tokens"] == sum(table(found)["n_tokens"])
        assert stages[stage]["tokens_per_second"] > 0


def test_metrics_json_keeps_its_form(configure: Configure, drawn: list[list[str]]) -> None:
    """Others read this file: a change here is a change for them."""
    config = configure(attacks=("loss", "min_k@k=0.1,window=2"), metrics=MetricsConfig(n_bootstrap=5))
    found = experiment.run(config)
    written = json.loads((found.folder / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert list(written) == ["loss", "min_k@k=0.1,window=2"]
    estimate = {"value", "low", "high"}
    for row in written.values():
        assert set(row) == {
            "auc_roc",
            "pr_auc",
            "tpr_at_fpr",
            "n_members",
            "n_nonmembers",
            "n_unscored_members",
            "n_unscored_nonmembers",
            "confidence",
            "notes",
        }
        assert set(row["auc_roc"]) == set(row["pr_auc"]) == estimate
        assert list(row["tpr_at_fpr"]) == ["0.001", "0.01", "0.05"]
        for tpr in row["tpr_at_fpr"].values():
            assert set(tpr) == estimate | {"resolvable"}
    assert results.read_metrics(found.folder / "metrics.json") == found.metrics


def test_progress_is_told(configure: Configure, drawn: list[list[str]]) -> None:
    steps: dict[str, list[int]] = {}

    @contextmanager
    def bars(description: str, unit: str = "") -> Iterator[Any]:
        counts = steps[description] = [0, 0]

        class Bar:
            def start(self, total: int) -> None:
                counts[0] = total

            def advance(self, units: int) -> None:
                counts[1] += units

        yield Bar()

    found = experiment.run(configure(references=("small_vocab",), attacks=("ref",)), bars=bars)
    assert {"load target", "score target", "load small_vocab", "score reference small_vocab"} <= set(steps)
    assert all(done == total for total, done in steps.values())
    assert steps["score target"] == [sum(table(found)["n_tokens"])] * 2


# Documents that cannot be scored


def test_documents_without_a_prediction_are_named_and_counted(
    configure: Configure, sides: Callable[..., DataConfig], drawn: list[list[str]]
) -> None:
    data = sides(["", *MEMBERS[:5]], [*NONMEMBERS[:5], "a", "\n"])
    found = experiment.run(configure(data=data, attacks=("loss", "min_k@window=20", "surp@max_entropy=99.0")))
    rows = table(found)
    assert len(rows["id"]) == 13
    assert rows["n_tokens"][0] == 0
    assert rows["n_tokens"][-2:] == [1, 1]
    assert (rows["reason"][0], rows["reason"][-2]) == ("empty document", ONE_TOKEN)
    for name in ("loss", "min_k@window=20", "surp@max_entropy=99.0"):
        assert [rows[name][i] for i in (0, -2, -1)] == [None] * 3
        assert np.isnan(found.scores[name][[0, -2, -1]]).all()
    for i in range(1, 11):
        assert (rows["reason"][i] is None) == (rows["min_k@window=20"][i] is not None)
        assert rows["reason"][i] in (None, "min_k@window=20: fewer scored tokens than one window")
    loss = found.metrics["loss"]
    assert loss is not None
    assert (loss.n_members, loss.n_unscored_members, loss.n_nonmembers, loss.n_unscored_nonmembers) == (5, 1, 5, 2)
    unscored = sum(reason is not None for reason in rows["reason"])
    assert run_json(found)["documents"]["unscored"] == unscored >= 3
    assert found.notes[-1].startswith(f"{unscored} documents have a null score")


def test_one_side_without_a_score_has_no_metrics(
    configure: Configure, sides: Callable[..., DataConfig], drawn: list[list[str]]
) -> None:
    found = experiment.run(configure(data=sides(["", "a", ""], NONMEMBERS)))
    assert found.metrics == {"loss": None, "min_k": None}
    assert json.loads((found.folder / "metrics.json").read_text()) == found.metrics
    assert found.notes[:2] == [f"{name}: one side has no score at all, so no metrics" for name in ("loss", "min_k")]
    assert drawn == [[]]
    again = experiment.run(configure(data=sides(["", "a", ""], NONMEMBERS)))
    assert (again.computed, again.metrics, again.notes) == (False, found.metrics, found.notes)


@pytest.mark.slow
def test_nothing_to_score_at_all(
    configure: Configure, sides: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = count_batches(monkeypatch)
    config = configure(data=sides(["", ""], [""]), attacks=None, references=("later",))
    found = experiment.run(config)
    assert batches == []
    assert set(found.metrics.values()) == {None}
    assert table(found)["reason"] == ["empty document"] * 3
    assert {path.name for path in found.folder.iterdir()} == FILES - {"exposed.json"}


def test_one_token_after_a_bos_is_scored(
    configure: Configure, sides: Callable[..., DataConfig], models: Path, tmp_path: Path, drawn: list[list[str]]
) -> None:
    folder = write_checkpoint(tmp_path / "bos", tokenizer=tiny_tokenizer(bos=True), **TINY)
    data = sides(["a", "", *MEMBERS[:3]], NONMEMBERS[:4])
    found = experiment.run(configure(model=str(folder), data=data, attacks=("loss", "surp@max_entropy=0.001")))
    rows = table(found)
    assert rows["n_tokens"][:2] == [1, 0]
    assert rows["loss"][0] is not None
    surp = registry.find("surp").null_reason
    assert rows["reason"][0] == f"surp@max_entropy=0.001: {surp}"  # not that it has but one token
    assert rows["reason"][1] == "empty document"


def test_a_reference_that_scores_nothing_is_the_reason(
    configure: Configure, sides: Callable[..., DataConfig], drawn: list[list[str]]
) -> None:
    target, reference = tiny_tokenizer(vocab=260), tiny_tokenizer()
    short = next(w for w in ("th", "he", "re", "er", "ou") if len(reference.encode(w).ids) < len(target.encode(w).ids))
    config = configure(
        model="small_vocab", references=("later",), attacks=("loss", "ref"), data=sides([short, *MEMBERS], NONMEMBERS)
    )
    rows = table(experiment.run(config))
    assert rows["n_tokens"][0] > 1
    assert rows["reason"][0] == "ref-later: the reference model could score no token"
    assert rows["loss"][0] is not None
    assert rows["ref-later"][0] is None


def test_texts_on_both_sides_are_noted_and_counted(
    configure: Configure, sides: Callable[..., DataConfig], drawn: list[list[str]]
) -> None:
    data = sides([*MEMBERS, MEMBERS[0]], [*NONMEMBERS, MEMBERS[0], MEMBERS[3]])
    found = experiment.run(configure(data=data))
    assert found.notes == ["2 texts are on both sides, member and non-member: the labels contradict"]
    assert run_json(found)["notes"] == found.notes
    assert len(table(found)["id"]) == 22
    loss = table(found)["loss"]
    assert loss[0] == loss[10] == loss[-2]


def test_names_that_utf8_cannot_hold_are_written_out(
    configure: Configure, write: Write, drawn: list[list[str]]
) -> None:
    rows = [{"text": one, "id": f"caf\udce9{i}", "source": "\ud800"} for i, one in enumerate(MEMBERS)]
    found = experiment.run(
        configure(data=DataConfig(members=write("odd", *rows), nonmembers=write("out", *NONMEMBERS)))
    )
    assert table(found)["id"][0] == r"caf\udce90"
    assert table(found)["source"][0] == r"\ud800"


# Nothing is computed twice


def test_the_same_configuration_again_computes_nothing(
    configure: Configure, finished: experiment.Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    forbid(monkeypatch, "load_source", "load_tokenizer", "score_parts", "Store", "scores", "_evaluate")
    again = experiment.run(configure(attacks=("loss", "min_k@k=0.20,window=1")))  # the same, spelled otherwise
    assert not again.computed
    for name in ("folder", "documents", "metrics", "notes", "texts", "text_groups", "audit"):
        assert getattr(again, name) == getattr(finished, name), name
    for ours, theirs in ((again.scores, finished.scores), (again.text_scores, finished.text_scores)):
        assert list(ours) == list(theirs)
        for name, row in theirs.items():
            assert ours[name].dtype == np.float32
            np.testing.assert_array_equal(ours[name], row)
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_the_written_configuration_runs_again(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    attacks = ("min_k@k=0.1", "surp@max_entropy=99", "ref")
    first = experiment.run(configure(attacks=attacks, experiment=None, references=("later",)))
    forbid(monkeypatch, "load_source")
    again = experiment.run(from_json(first.folder / "config.json"))
    assert (again.computed, again.folder, again.metrics) == (False, first.folder, first.metrics)


def _other_data(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, max_documents=5))


def _other_attacks(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, attacks=("loss", "rank"))


def _other_settings(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, batch_tokens=256, metrics=MetricsConfig(n_bootstrap=21))


def _other_model(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, model=str(Path(config.model).with_name("later")))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_other_attacks, "attacks"),
        (_other_settings, "metrics; batch_tokens"),
        (_other_data, "data; documents"),
        (_other_model, "model; checkpoints"),
    ],
)
def test_another_configuration_is_refused(
    configure: Configure,
    finished: experiment.Results,
    monkeypatch: pytest.MonkeyPatch,
    drawn: list[list[str]],
    change: Callable[[RunConfig], RunConfig],
    names: str,
) -> None:
    before = (finished.folder / "scores.parquet").read_bytes()
    changed = change(configure())
    with monkeypatch.context() as patch:
        forbid(patch, "load_source")
        with pytest.raises(ConfigError, match=rf"tiny holds the results of another run \({names} differ\); choose"):
            experiment.run(changed)
    assert (finished.folder / "scores.parquet").read_bytes() == before

    found = experiment.run(changed, overwrite=True)
    assert found.computed
    assert from_json(found.folder / "config.json") == experiment.resolve(changed)
    assert list(found.scores) == list(changed.attacks or ())
    assert {path.name for path in found.folder.iterdir()} == FILES - {"roc.png"}  # the other's figure is gone
    forbid(monkeypatch, "load_source")
    assert not experiment.run(changed).computed


def test_other_documents_in_the_same_file_are_refused(
    configure: Configure, write: Write, drawn: list[list[str]]
) -> None:
    config = configure(data=DataConfig(members=write("own", *MEMBERS), nonmembers=write("out", *NONMEMBERS)))
    experiment.run(config)
    write("own", *MEMBERS[:-1], "another text")
    with pytest.raises(ConfigError, match=r"\(documents differ\)"):
        experiment.run(config)


def test_another_checkpoint_under_the_same_name_is_refused(
    configure: Configure, tmp_path: Path, drawn: list[list[str]]
) -> None:
    config = configure(model=str(write_checkpoint(tmp_path / "own", seed=1, **TINY)))
    first = experiment.run(config)
    write_checkpoint(tmp_path / "own", seed=2, **TINY)
    with pytest.raises(ConfigError, match=r"\(checkpoints differ\)"):
        experiment.run(config)
    found = experiment.run(config, overwrite=True)
    assert not np.allclose(found.scores["loss"], first.scores["loss"], atol=1e-3)  # nothing of the other's store


def _named(source: str) -> list[RunConfig]:
    """Everything that may name a file beside documents and models."""
    return [
        RunConfig(shots=ShotsConfig(nonmembers=source)),
        RunConfig(shots=ShotsConfig(members=source)),
        RunConfig(neighbors=NeighborsConfig(members=source)),
        RunConfig(neighbors=NeighborsConfig(nonmembers=source)),
        RunConfig(neighbors=NeighborsConfig(documents=source)),
        RunConfig(quantile=QuantileConfig(nonmembers=source)),
        RunConfig(token_counts=TokenCountsConfig(source=source)),
    ]


@pytest.mark.parametrize("name", ["file.jsonl", "file.jsonl#ArXiv", "folder", "counts.npy", "none.jsonl"])
def test_files_that_change_are_noticed(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    files = [tmp_path / "file.jsonl", tmp_path / "folder" / "a.txt", tmp_path / "counts.npy"]
    for path in files:
        path.write_text("a")
    configs = _named(str(tmp_path / name))
    before = [file_digests(config, ()) for config in configs]
    assert before == [file_digests(config, ()) for config in configs]
    for path in files:
        path.write_text("another")
    assert all(
        (ours == theirs) is (name == "none.jsonl")
        for ours, theirs in zip(before, [file_digests(config, []) for config in configs])
    )


def test_another_file_of_shots_is_refused(configure: Configure, write: Write, drawn: list[list[str]]) -> None:
    config = configure(attacks=("recall",), shots=ShotsConfig(count=1, nonmembers=write("shots", "a dog")))
    experiment.run(config)
    write("shots", "another dog")
    with pytest.raises(ConfigError, match=r"\(files differ\)"):
        experiment.run(config)


def test_passes_of_every_kind_are_kept(
    configure: Configure, write: Write, monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    """Those after prefixes, too: what an interrupted run has computed, the next one finds."""
    near = [{"id": name, "neighbors": [f"A {one}", f"{one} dog"]} for name, one in zip(_ids(), [*MEMBERS, *NONMEMBERS])]
    config = configure(
        attacks=("recall", "con_recall", "ne", "pac", "lowercase", "em_mia"),
        shots=ShotsConfig(count=1),
        neighbors=NeighborsConfig(documents=write("near", *near)),
        prefixes=3,
    )
    found = experiment.run(config)
    (found.folder / "metrics.json").unlink()
    batches = count_batches(monkeypatch)
    again = experiment.run(config)
    assert (again.computed, batches) == (True, [])
    assert again.metrics == found.metrics


def test_a_second_run_compiles_nothing(
    configure: Configure, caplog: pytest.LogCaptureFixture, drawn: list[list[str]]
) -> None:
    config = configure(attacks=("recall", "pac", "min_k@k=0.3"), shots=ShotsConfig(count=1))
    compiled = []
    for name in ("first", "second"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jax"), jax.log_compiles():
            experiment.run(dataclasses.replace(config, experiment=name))
        compiled.append(sum("Compiling" in record.message for record in caplog.records))
    assert compiled[0] > 0
    assert compiled[1] == 0


def test_overwriting_reuses_the_statistics(
    configure: Configure, finished: experiment.Results, monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    batches = count_batches(monkeypatch)
    found = experiment.run(configure(attacks=("rank", "loss")), overwrite=True)
    assert found.computed
    assert batches == []
    np.testing.assert_array_equal(found.scores["loss"], finished.scores["loss"])


@pytest.mark.slow
def test_statistics_of_another_precision_are_not_reused(configure: Configure, drawn: list[list[str]]) -> None:
    first = experiment.run(configure(attacks=("loss",)))
    found = experiment.run(configure(attacks=("loss",), dtype="bfloat16"), overwrite=True)
    assert not np.array_equal(found.scores["loss"], first.scores["loss"])
    np.testing.assert_allclose(found.scores["loss"], first.scores["loss"], rtol=0.05)


def test_a_run_that_stops_after_the_target_goes_on_with_the_reference(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    config = configure(references=("later",), attacks=("loss", "ref"))
    load = job.load_source

    def interrupted(source: Any, *arguments: Any) -> Any:
        if source.name == "later":
            raise KeyboardInterrupt
        return load(source, *arguments)

    batches = count_batches(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(job, "load_source", interrupted)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config)
    folder = Path(config.results) / "tiny"
    assert not (folder / "metrics.json").exists()
    one_model = len(batches)
    found = experiment.run(config)
    assert found.computed
    assert len(batches) == 2 * one_model
    fresh = experiment.run(dataclasses.replace(config, experiment="fresh"))
    for name in ("loss", "ref-later"):
        np.testing.assert_array_equal(found.scores[name], fresh.scores[name])


@pytest.mark.slow
def test_a_run_that_stops_within_a_model_computes_only_the_rest(
    configure: Configure, sides: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    texts = [text(i, words=30) for i in range(120)]
    config = configure(data=sides(texts[:60], texts[60:]), attacks=("loss",))
    batches = count_batches(monkeypatch)
    whole = experiment.run(dataclasses.replace(config, experiment="whole"))
    n_batches = len(batches)
    assert n_batches > 3

    @contextmanager
    def stopping(description: str, unit: str = "") -> Iterator[Any]:
        class Bar:
            done = 0

            def start(self, total: int) -> None: ...

            def advance(self, units: int) -> None:
                self.done += units > 0  # 0 says that a batch is sent off
                if description.startswith("score") and self.done == 2:
                    raise KeyboardInterrupt

        yield Bar()

    with pytest.raises(KeyboardInterrupt):
        experiment.run(config, bars=stopping)
    batches.clear()
    found = experiment.run(config)
    assert len(batches) == n_batches - 2
    np.testing.assert_array_equal(found.scores["loss"], whole.scores["loss"])


def test_a_damaged_shard_is_noted_and_computed_again(
    configure: Configure, finished: experiment.Results, monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    (shard,) = (finished.folder / "stats").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-20])
    batches = count_batches(monkeypatch)
    found = experiment.run(configure(), overwrite=True)
    assert batches
    assert found.notes == [f"{shard}: damaged; its passes are computed again"]
    np.testing.assert_array_equal(found.scores["loss"], finished.scores["loss"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.parquet", None),
        ("scores.parquet", b""),
        ("scores.parquet", b"PAR1"),
        ("run.json", b'{"identity": '),
        ("metrics.json", b""),
        ("metrics.json", b'{"loss": {}}'),
        ("metrics.json", b'{"another": null}'),
    ],
)
def test_finished_results_that_cannot_be_read_are_named(
    configure: Configure,
    finished: experiment.Results,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes | None,
) -> None:
    forbid(monkeypatch, "load_source")
    if content is None:
        (finished.folder / name).unlink()
    else:
        (finished.folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"tiny.*--overwrite"):
        experiment.run(configure())


def test_results_without_metrics_are_unfinished(
    configure: Configure, finished: experiment.Results, monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    (finished.folder / "metrics.json").unlink()
    batches = count_batches(monkeypatch)
    found = experiment.run(configure())
    assert (found.computed, batches) == (True, [])
    assert found.metrics == finished.metrics


# Passes of other texts and other models


def test_lowercase(configure: Configure, models: Path, drawn: list[list[str]]) -> None:
    found = experiment.run(configure(attacks=("lowercase", "loss")))
    texts = [*MEMBERS, *NONMEMBERS]
    stats, lower = (direct(models / "target", some) for some in (texts, [one.lower() for one in texts]))
    assert_scores_equal(found.scores["lowercase"], attacks.lowercase(stats, lower))
    assert len(set(found.scores["lowercase"].tolist())) > 10
    assert_scores_equal(found.scores["loss"], attacks.loss(stats))


@pytest.mark.slow
def test_references_have_a_column_and_a_tokenizer_each(
    configure: Configure, models: Path, drawn: list[list[str]]
) -> None:
    found = experiment.run(configure(references=("small_vocab", "later"), attacks=("ref", "loss", "ref_ratio")))
    assert list(found.scores) == ["ref-small_vocab", "ref-later", "loss", "ref_ratio-small_vocab", "ref_ratio-later"]
    texts = [*MEMBERS, *NONMEMBERS]
    stats = direct(models / "target", texts)
    for name in ("small_vocab", "later"):
        reference = direct(models / name, texts)
        assert_scores_equal(found.scores[f"ref-{name}"], attacks.ref(stats, reference))
        assert_scores_equal(found.scores[f"ref_ratio-{name}"], attacks.ref_ratio(stats, reference))
    assert direct(models / "small_vocab", texts).mask.shape != stats.mask.shape


@pytest.mark.slow
def test_checkpoints_called_alike_are_told_apart_by_their_paths(
    configure: Configure, tmp_path: Path, drawn: list[list[str]]
) -> None:
    paths = [str(write_checkpoint(tmp_path / f"run{i}" / "hf", seed=i, **TINY)) for i in range(4)]
    config = configure(
        model=paths[0], checkpoints=(paths[1],), references=(paths[2], paths[3]), attacks=("loss", "ref")
    )
    found = experiment.run(config)
    names = [path.strip("/").replace("/", "_") for path in paths]
    assert list(found.scores) == [
        f"{target}/{attack}" for target in names[:2] for attack in ("loss", f"ref-{names[2]}", f"ref-{names[3]}")
    ]
    assert len({row.tobytes() for row in found.scores.values()}) == 6


def test_target_and_reference_called_alike_are_timed_apart(
    configure: Configure, tmp_path: Path, drawn: list[list[str]]
) -> None:
    target, reference = (str(write_checkpoint(tmp_path / f"run{i}" / "hf", seed=i, **TINY)) for i in range(2))
    found = experiment.run(configure(model=target, references=(reference,), attacks=("ref",)))
    assert list(found.scores) == ["ref-hf"]
    stages = run_json(found)["stages"]
    assert {"load hf", "score hf", "load reference hf", "score reference hf"} <= set(stages)
    assert stages["score hf"]["tokens"] == stages["score reference hf"]["tokens"]


def test_a_model_may_be_its_own_reference(configure: Configure, drawn: list[list[str]]) -> None:
    found = experiment.run(configure(references=("target",), attacks=("ref",)))
    np.testing.assert_array_equal(found.scores["ref-target"], 0)


@pytest.mark.parametrize("field", ["checkpoints", "references"])
def test_one_checkpoint_given_twice(configure: Configure, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    forbid(monkeypatch, "load_source")
    with pytest.raises(ConfigError, match=rf"^{field}: given twice: .*later$"):
        experiment.run(configure(**{field: ("later", "latest", "later/")}))


@pytest.mark.slow
def test_several_checkpoints_equal_one_by_one(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    chosen = (*attacks.DEFAULT, "lowercase", "ref", "surp@max_entropy=99.0")
    names = ["target", "later", "latest"]
    together = experiment.run(
        configure(attacks=chosen, checkpoints=("later", "latest"), references=("small_vocab",), experiment="together")
    )
    for name in names:
        alone = experiment.run(configure(model=name, attacks=chosen, references=("small_vocab",), experiment=name))
        for attack, row in alone.scores.items():
            np.testing.assert_allclose(together.scores[f"{name}/{attack}"], row, rtol=1e-5, atol=1e-5, err_msg=attack)
    columns = [attack if attack != "ref" else "ref-small_vocab" for attack in chosen]
    assert list(together.scores) == [f"{name}/{column}" for name in names for column in columns]
    assert list(table(together)) == [
        "id",
        "is_member",
        "source",
        "n_tokens",
        "ngram_overlap",
        *together.scores,
        "reason",
    ]
    assert [source["name"] for source in run_json(together)["targets"]] == names

    forbid(monkeypatch, "load_source")
    assert not experiment.run(from_json(together.folder / "config.json")).computed


@pytest.mark.slow
def test_the_store_is_shared_by_vmapped_and_single_runs(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    together = experiment.run(configure(checkpoints=("later",)))
    batches = count_batches(monkeypatch)
    alone = experiment.run(configure(model="later"), overwrite=True)
    assert batches == []
    np.testing.assert_array_equal(alone.scores["loss"], together.scores["later/loss"])


@pytest.mark.parametrize(
    "other",
    [{"num_hidden_layers": 1}, {"rope_parameters": None, "rotary_pct": 0.5}, {"tokenizer": tiny_tokenizer(265)}],
)
def test_checkpoints_that_differ_are_refused(configure: Configure, tmp_path: Path, other: dict[str, Any]) -> None:
    folder = write_checkpoint(tmp_path / "other", **{**TINY, **other})
    with pytest.raises(ConfigError, match="target and other differ in shape or vocabulary; run them one by one"):
        experiment.run(configure(checkpoints=(str(folder),)))


@pytest.mark.slow
@pytest.mark.parametrize("positions", [1, 300])
def test_attacks_in_groups_equal_all_at_once(
    configure: Configure,
    sides: Callable[..., DataConfig],
    monkeypatch: pytest.MonkeyPatch,
    drawn: list[list[str]],
    positions: int,
) -> None:
    lengths = [40, 0, 7, 90, 7]  # in words; 90 is more than the context
    texts = [text(i, words) for i, words in enumerate(lengths)]
    config = configure(
        data=sides(texts, texts[::-1]), attacks=("loss", "zlib", "lowercase", "ref"), references=("small_vocab",)
    )
    whole = experiment.run(config)
    monkeypatch.setattr(scores, "ATTACK_POSITIONS", positions)
    groups: list[int] = []
    call = scores._call

    def recorded(calls: Any, axes: Any, models: Any, inputs: Any) -> Any:
        groups.append(inputs["stats"].mask.shape[1])
        return call(calls, axes, models, inputs)

    monkeypatch.setattr(scores, "_call", recorded)
    grouped = experiment.run(config, overwrite=True)
    assert len(groups) == 10 if positions == 1 else 1 < len(groups) < 10
    assert sum(groups) == 10
    for name, row in whole.scores.items():
        np.testing.assert_allclose(grouped.scores[name], row, rtol=1e-5, atol=1e-5, err_msg=name)


def test_an_attack_that_takes_nothing_of_a_model(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, drawn: list[list[str]]
) -> None:
    def size(zlib_bytes: Any) -> Any:
        return -jnp.asarray(zlib_bytes, jnp.float32)

    monkeypatch.setitem(registry.ATTACKS, "size", Attack("size", size, ("zlib_bytes",), "ours"))  # type: ignore[arg-type]
    found = experiment.run(configure(attacks=("size",), checkpoints=("later",)))
    for name in ("target/size", "later/size"):
        np.testing.assert_array_equal(found.scores[name], -zlib_bytes([*MEMBERS, *NONMEMBERS]))


def test_one_source_with_labels(configure: Configure, write: Write, drawn: list[list[str]]) -> None:
    rows = [{"body": text(i), "y": i % 2, "id": i, "source": "abc"[i % 3]} for i in range(12)]
    data = DataConfig(documents=write("all", *rows), text_field="body", label_field="y")
    found = table(experiment.run(configure(data=data, experiment=None)))
    assert found["is_member"] == [bool(i % 2) for i in range(12)]
    assert found["id"] == [str(i) for i in range(12)]
    assert found["source"] == ["abc"[i % 3] for i in range(12)]


# Token frequencies


def counts_file(folder: Path, counts: Any) -> TokenCountsConfig:
    np.save(folder / "counts.npy", counts)
    return TokenCountsConfig(source=str(folder / "counts.npy"))


def test_token_counts(configure: Configure, models: Path, tmp_path: Path, drawn: list[list[str]]) -> None:
    counts = np.random.default_rng(0).integers(0, 1000, 300)
    config = configure(
        attacks=("max_norm_weighted", "dc_pdd", "dc_pdd@a=0.1"), token_counts=counts_file(tmp_path, counts)
    )
    found = experiment.run(config)
    stats = direct(models / "target", [*MEMBERS, *NONMEMBERS])
    assert_scores_equal(found.scores["max_norm_weighted"], attacks.max_norm(stats, counts))
    assert_scores_equal(found.scores["dc_pdd"], attacks.dc_pdd(stats, counts))
    assert_scores_equal(found.scores["dc_pdd@a=0.1"], attacks.dc_pdd(stats, counts, 0.1))
    counts_file(tmp_path, counts + 1)
    with pytest.raises(ConfigError, match=r"\(files differ\)"):
        experiment.run(config)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.ones((300, 3)), "the counts have 2 axes"),
        (np.ones(300, bool), "the counts are of type bool"),
        (np.full(300, -1), "the counts are not all 0 or more"),
        (np.full(300, np.nan), "the counts are not all finite"),
        (np.ones(299), "299 counts, but the target's tokenizer has 300 ids: they are another tokenizer's"),
        (b"not an array", "cannot be read as .npy"),
        (None, "cannot be read as .npy"),
    ],
)
def test_token_counts_that_are_none(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: Any, message: str
) -> None:
    forbid(monkeypatch, "load_source")
    path = tmp_path / "counts.npy"
    if isinstance(counts, bytes):
        path.write_bytes(counts)
    elif counts is not None:
        np.save(path, counts)
    config = configure(attacks=("max_norm_weighted",), token_counts=TokenCountsConfig(source=str(path)))
    with pytest.raises(ConfigError, match=rf"^token_counts.source: .*counts.npy: .*{message}"):
        experiment.run(config)
    assert not Path(config.results).exists()


# What is refused, and when


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attacks": ("los",)}, AttackError, "unknown attack 'los'; did you mean loss?"),
        ({"attacks": ("min_k@k=2",)}, AttackError, "min_k@k=2"),
        ({"attacks": ()}, ConfigError, "attacks: none are named"),
        ({"attacks": ("min_k", "loss", "min_k@k=0.20")}, ConfigError, "attacks: named twice: min_k$"),
        ({"attacks": ("loss", "ref")}, ConfigError, "attacks: ref lacks an input: give a reference model: --ref"),
        ({"attacks": ("ref_ratio",), "references": ()}, ConfigError, "ref_ratio lacks an input: give a reference"),
        ({"attacks": ("ref-mean",)}, ConfigError, "ref-mean lacks an input: give a reference"),
        ({"attacks": ("ne",)}, ConfigError, "ne lacks an input: give --neighbors.members and --neighbors.nonmembers"),
        ({"attacks": ("quantile",)}, ConfigError, "quantile lacks an input: give known non-members: --quantile.non"),
        ({"rules": "mimir"}, ConfigError, "rules: mimir is a set of rules that the runner must be given"),
        ({"seed": -1}, ConfigError, "seed: -1, must be 0 or more"),
        ({"mesh": MeshConfig(data=3)}, ConfigError, "mesh: data x model = 3 x 1 does not fit 8 devices; possible: 8"),
        ({"mesh": MeshConfig(model=3)}, ConfigError, "mesh: data x model = all x 3 does not fit 8 devices"),
        ({"mesh": MeshConfig(data=4, model=4)}, ConfigError, "4 x 4 does not fit 8 devices"),
        ({"mesh": MeshConfig(data=0)}, ConfigError, "0 x 1 does not fit 8 devices"),
        ({"batch_tokens": 0}, ConfigError, "batch_tokens: 0, must be at least 1"),
        ({"metrics": MetricsConfig(fprs=(0.0,))}, MetricsError, "false-positive rate must be above 0"),
        ({"metrics": MetricsConfig(n_bootstrap=0)}, MetricsError, "n_bootstrap must be at least 1"),
        ({"metrics": MetricsConfig(confidence=95.0)}, MetricsError, "confidence must be between 0 and 1"),
        ({"metrics": MetricsConfig(seed=-1)}, ConfigError, "metrics.seed: -1, must be 0 or more"),
        ({"data": DataConfig(members="none.jsonl", nonmembers="x")}, DataError, "none.jsonl: no such file"),
        ({"data": DataConfig(members="none.jsonl")}, DataError, "members is given but nonmembers is not"),
        ({"model": "nowhere"}, CheckpointError, "nowhere"),
        ({"model": "target", "revision": "step1"}, CheckpointError, "a local folder has no revision 'step1'"),
        ({"checkpoints": ("nowhere",)}, CheckpointError, "nowhere"),
        ({"references": ("nowhere",)}, CheckpointError, "nowhere"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_loaded(
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    forbid(monkeypatch, "load_source")
    config = configure(**changes)
    with pytest.raises(error, match=message):
        experiment.run(config)
    assert not Path(config.results).exists()


def test_weights_that_are_not_numbers(configure: Configure, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "nan", **TINY)
    tensors = load_file(folder / SINGLE)
    name = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    tensors[name][0, 0] = np.nan
    save_file(tensors, folder / SINGLE)
    with pytest.raises(CheckpointError, match=r"nan: NaN or infinite values in .*mlp"):
        experiment.run(configure(model=str(folder)))


def test_weights_that_overflow(configure: Configure, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "huge", **TINY)
    tensors = load_file(folder / SINGLE)
    save_file({name: tensor * np.float32(1e30) for name, tensor in tensors.items()}, folder / SINGLE)
    with pytest.raises(ScoringError, match="not finite"):
        experiment.run(configure(model=str(folder)))


def test_a_tokenizer_with_ids_beyond_the_embedding(configure: Configure, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "short", tokenizer=tiny_tokenizer(300), **{**TINY, "vocab_size": 264})
    with pytest.raises(
        TokenizerError, match=r"token ids beyond the model's 264 embeddings \(first: in:1, in:2, in:3\)"
    ):
        experiment.run(configure(model=str(folder)))


@pytest.mark.parametrize("blocked", ["results", "results/tiny", "results/tiny/stats", "results/tiny/config.json/x"])
def test_a_results_folder_that_cannot_be_written(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blocked: str
) -> None:
    forbid(monkeypatch, "load_source")
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("a file in the folder's place")
    with pytest.raises((ConfigError, StoreError), match=r"results/tiny.*: cannot be (written|read): "):
        experiment.run(configure())


def test_a_damaged_configuration_in_the_folder(
    configure: Configure, finished: experiment.Results, drawn: list[list[str]]
) -> None:
    (finished.folder / "config.json").write_text('{"model": ')
    with pytest.raises(ConfigError, match=r"tiny/config.json: the file: Invalid JSON"):
        experiment.run(configure())
    assert experiment.run(configure(), overwrite=True).computed


def test_an_error_leaves_what_was_there(configure: Configure, finished: experiment.Results) -> None:
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    for broken in (configure(attacks=("nothing",)), configure(model="nowhere"), configure(attacks=("rank",))):
        with pytest.raises(ValueError, match=r"nothing|nowhere|another run"):
            experiment.run(broken)
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


# Defaults


def test_defaults_spelled_out() -> None:
    resolved = experiment.resolve(RunConfig())
    assert resolved.attacks == attacks.DEFAULT
    assert resolved.experiment == "demo-epoch16"
    assert experiment.resolve(resolved) == resolved
    assert experiment.resolve(RunConfig(references=("demo/epoch1",))).attacks == (*attacks.DEFAULT, "ref")
    given = RunConfig(model="own", references=("a",), attacks=("min_k@stride=2,window=3,k=0.2",))
    assert experiment.resolve(given).attacks == ("min_k@window=3,stride=2",)
    json.loads(to_json(resolved))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (RunConfig(), "demo-epoch16"),
        (RunConfig(model="EleutherAI/pythia-160m", revision="step3"), "pythia-160m-step3"),
        (RunConfig(model="EleutherAI/pythia-160m@step3"), "pythia-160m@step3"),
        (RunConfig(model="/checkpoints/demo/mine/"), "mine"),
        (RunConfig(model="a/b", checkpoints=("c", "d")), "b-and-2-more"),
        (RunConfig(data=DataConfig(nonmembers="demo/shifted")), "demo-epoch16-vs-shifted"),
        (RunConfig(model="m", data=DataConfig(members="x/in.jsonl.gz", nonmembers="x/out.csv")), "m-in-vs-out"),
        (RunConfig(model="m", data=DataConfig(documents="x/all.parquet")), "m-all"),
        (RunConfig(model="m", experiment="own"), "own"),
    ],
)
def test_default_names(config: RunConfig, name: str) -> None:
    assert experiment.resolve(config).experiment == name


@pytest.mark.parametrize("model", [".", "./", "..", "sub/..", "sub/../.."])
def test_a_folder_without_a_name_is_called_by_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert experiment.resolve(RunConfig(model=model)).experiment == (tmp_path / model).resolve().name


# Versions


def test_versions_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = results.versions()
    assert "commit" not in found
    assert found["jax"] == jax.__version__


def test_the_commit_is_this_packages_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A virtual environment often lies within another project's checkout."""
    installed = tmp_path / ".venv" / "mimir_jax" / "report"
    installed.mkdir(parents=True)
    (tmp_path / "theirs.py").write_text("")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "theirs.py"], [*author, "commit", "-qm", "theirs"]):
        try:
            subprocess.run(["git", "-C", str(tmp_path), *command], check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("git is not installed")
    (installed / "results.py").write_text("")
    monkeypatch.setattr(results, "__file__", str(installed / "results.py"))
    assert "commit" not in results.versions()

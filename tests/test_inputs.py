"""What runs give to attacks, against log-probs by hand: prefixes, versions, references, counts, samples, documents."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from by_hand import Model

from mimir_jax import attacks, experiment, inputs, job, load_model, score, zlib_bytes
from mimir_jax.arrays import TokenStats
from mimir_jax.config import (
    ConfigError,
    DataConfig,
    MetricsConfig,
    NeighborsConfig,
    QuantileConfig,
    RunConfig,
    SamplesConfig,
    ShotsConfig,
    TokenCountsConfig,
)
from mimir_jax.data.documents import DataError, Document, load_documents
from mimir_jax.data.edits import word_swaps
from mimir_jax.data.text_features import rouge1_recall
from mimir_jax.metrics import evaluate
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.report import results
from mimir_jax.report.terminal import silent
from mimir_jax.scoring import batching
from mimir_jax.scoring.gradients import gradient_norms
from mimir_jax.scoring.model import find_source
from mimir_jax.scoring.passes import document_passes
from mimir_jax.shots import shots
from mimir_jax.table import wholes
from mimir_jax.target import Target
from mimir_jax.testing import tiny_tokenizer, write_checkpoint

pytestmark = pytest.mark.slow  # as a whole

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}
WORDS = "the quick brown Fox jumps over THE lazy dog and there is more in these books than one reader would think"


def text(seed: int, words: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS.split(), words))


# The first two non-members are the shots, of which one is the longest document but for those that do not fit.
MEMBERS = [text(0, 8), text(1, 5), text(2, 14), text(3, 30), text(4, 3), ""]
NONMEMBERS = [text(100, 7), text(101, 9), text(102, 6), text(103, 12), text(104, 4)]
TEXTS = [*MEMBERS, *NONMEMBERS]

Configure = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few compiled shapes, and no figure."""
    monkeypatch.setattr(batching, "GOOD_FILL", 0.0)
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["target", "later"]):
        write_checkpoint(folder / name, seed=seed, **TINY)
    write_checkpoint(folder / "bos", seed=2, tokenizer=tiny_tokenizer(bos=True), **TINY)
    write_checkpoint(folder / "small_vocab", seed=3, tokenizer=tiny_tokenizer(vocab=260), **TINY)
    return folder


@pytest.fixture(scope="module")
def by_hand(models: Path) -> Callable[[str], Model]:
    known: dict[str, Model] = {}

    def model(name: str) -> Model:
        if name not in known:
            known[name] = Model(models / name)
        return known[name]

    return model


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(name: str, *rows: Any) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def configure(models: Path, tmp_path: Path, write: Callable[..., str]) -> Configure:
    data = DataConfig(members=write("in", *MEMBERS), nonmembers=write("out", *NONMEMBERS))

    def configure(model: str = "target", **changes: Any) -> RunConfig:
        settings: dict[str, Any] = {"data": data, "experiment": "tiny", "batch_tokens": 128} | changes
        for field in ("references", "checkpoints"):
            settings[field] = tuple(str(models / name) for name in settings.get(field, ()))
        return RunConfig(
            model=str(models / model),
            metrics=MetricsConfig(fprs=(0.5,), n_bootstrap=5),
            results=str(tmp_path / "results"),
            **settings,
        )

    return configure


def refused_early(monkeypatch: pytest.MonkeyPatch, config: RunConfig, error: type[Exception], message: str) -> None:
    """The run is refused before weights are read, and leaves nothing behind."""

    def called(*arguments: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(job, "load_source", called)
    with pytest.raises(error, match=message):
        experiment.run(config)
    assert not Path(config.results).exists()


def reasons(found: experiment.Results) -> list[str | None]:
    return pq.read_table(found.folder / "scores.parquet").column("reason").to_pylist()


def close(ours: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(expected, np.float64), rtol, atol)


def target_of(config: RunConfig, main: int | None = None) -> Target:
    """What is known of the target before its weights are read."""
    return job.Job(config, make_mesh(), silent).target(load_documents(config.data), find_source(config.model), main)


# Prefixes


def fitting(model: Model, shots: Sequence[str], ids: Sequence[int]) -> list[int] | None:
    """The ids of as many first shots as fit, after a BOS where the model has one; None where not even one does."""
    start = model.ids("")
    for count in range(len(shots), 0, -1):
        prefix = start + [i for shot in shots[:count] for i in model.ids(shot, special=False)]
        if len(prefix) + len(ids) <= model.context:
            return prefix
    return None


def conditional(model: Model, shots: Sequence[str], document: str) -> tuple[float, float]:
    """LL(x given the shots) and LL(x), over the same tokens; NaN where no shot fits."""
    start, ids = model.ids(""), model.ids(document, special=False)
    prefix = fitting(model, shots, ids)
    if prefix is None or len(start) + len(ids) < 2:
        return np.nan, np.nan
    given, plain = model.log_probs([*prefix, *ids]), model.log_probs([*start, *ids])
    return given[len(given) - len(plain) :].mean(), plain.mean()


@pytest.mark.parametrize("name", ["target", "bos"])
def test_recall_and_con_recall(
    configure: Configure, by_hand: Callable[[str], Model], write: Callable[..., str], name: str
) -> None:
    members = write("member_shots", text(50, 4), text(51, 2))
    config = configure(name, attacks=("recall", "con_recall@gamma=0.3"), shots=ShotsConfig(count=2, members=members))
    found = experiment.run(config)
    model, shots = by_hand(name), NONMEMBERS[:2]
    of_non, plain = np.array([conditional(model, shots, one) for one in TEXTS]).T
    of_member, _ = np.array([conditional(model, [text(50, 4), text(51, 2)], one) for one in TEXTS]).T
    of_non[6:8] = np.nan
    close(found.scores["recall"], of_non / plain)
    close(found.scores["con_recall@gamma=0.3"], (of_non - 0.3 * of_member) / plain)
    assert np.isfinite(found.scores["recall"]).sum() == 7

    why = reasons(found)
    assert why[6:8] == ["it is one of the non-member shots"] * 2
    assert why[5] == "empty document"
    assert why[3] == "not even one non-member shot fits the context with it"
    assert [one for i, one in enumerate(why) if i not in (3, 5, 6, 7)] == [None] * 7
    counts = [len(fitting(model, shots, model.ids(one, False)) or ()) for one in TEXTS]
    fewer = sum(0 < n < max(counts) for i, n in enumerate(counts) if i not in (5, 6, 7))
    assert fewer >= 1
    assert f"{fewer} documents are scored after fewer than 2 non-member shots: more do not fit" in found.notes
    assert "2 non-member documents are shots, and have no score of what goes on from them" in found.notes


def test_member_shots_leave_con_recall_alone(configure: Configure, by_hand: Callable[[str], Model]) -> None:
    found = experiment.run(configure(attacks=("recall", "con_recall"), shots=ShotsConfig(count=1)))
    why = reasons(found)
    assert why[0] == "con_recall: it is one of the member shots"
    assert why[6] == "it is one of the non-member shots"
    assert np.isfinite(found.scores["recall"][0])
    of_non, plain = conditional(by_hand("target"), NONMEMBERS[:1], MEMBERS[1])
    of_member, _ = conditional(by_hand("target"), MEMBERS[:1], MEMBERS[1])
    close(found.scores["con_recall"][1], (of_non - 0.5 * of_member) / plain)


def prefix_of(target: Target, is_member: bool = False) -> list[int]:
    parts = shots(target, is_member).parts
    (prefix,) = {tuple(part.one.prefix) for one in parts for part in one[0] if part.one.prefix is not None}
    return list(prefix)


def test_which_shots(configure: Configure, by_hand: Callable[[str], Model], write: Callable[..., str]) -> None:
    model = by_hand("target")
    ids = [model.ids(one) for one in NONMEMBERS]
    assert prefix_of(target_of(configure(shots=ShotsConfig(count=2)))) == ids[0] + ids[1]

    drawn = set()
    for seed in range(8):
        config = configure(shots=ShotsConfig(count=2, choice="random"), seed=seed)
        prefix = prefix_of(target_of(config))
        assert prefix == prefix_of(target_of(config))
        assert any(prefix == one + other for one in ids for other in ids if one is not other)
        drawn.add(tuple(prefix))
    assert len(drawn) > 3

    given = ShotsConfig(count=2, nonmembers=write("shots", NONMEMBERS[3], "another dog", "unused"))
    target = target_of(configure(shots=given))
    assert prefix_of(target) == ids[3] + model.ids("another dog")
    # A given text that is evaluated, too, is a shot like any other.
    why = shots(target, False).reasons
    assert {i: one for i, one in why.items() if "one of" in one} == {9: "it is one of the non-member shots"}
    # The first empty document is no shot.
    data = DataConfig(members=write("in", *MEMBERS), nonmembers=write("own", "", *NONMEMBERS))
    assert prefix_of(target_of(configure(data=data, shots=ShotsConfig(count=1)))) == ids[0]
    # Further non-members are not drawn.
    for seed in range(5):
        some = target_of(configure(shots=ShotsConfig(count=2, choice="random"), seed=seed), main=9)
        assert set(prefix_of(some)) <= {*ids[0], *ids[1], *ids[2]}


def test_a_shots_whole_document_leaves(configure: Configure, write: Callable[..., str]) -> None:
    parts = [{"text": [text(row, 3), text(row + 10, 4)]} for row in range(3)]
    data = DataConfig(members=write("in", *parts), nonmembers=write("out", *parts[::-1]), full_doc=True)
    data = dataclasses.replace(data, members=write("other", {"text": ["a dog", "the books"]}))
    passes = shots(target_of(configure(data=data, shots=ShotsConfig(count=1))), False)
    assert dict(passes.reasons) == dict.fromkeys([2, 3], "it is one of the non-member shots")


@pytest.mark.parametrize(
    ("shots", "message"),
    [
        ({"count": 0}, "shots.count: 0, must be at least 1"),
        ({"count": 5}, "5 shots of nonmembers are asked for, and there are 5 to choose from, one of which at least"),
        ({"count": 3, "nonmembers": "FILE"}, "3 shots of nonmembers are asked for, and there are 2 to choose from in"),
    ],
)
def test_shots_that_there_are_not(
    configure: Configure, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, shots: Any, message: str
) -> None:
    if "nonmembers" in shots:
        shots |= {"nonmembers": write("shots", "a b", "c d")}
    config = configure(attacks=("recall",), shots=ShotsConfig(**shots))
    refused_early(monkeypatch, config, ConfigError, message)


def test_shots_that_nothing_fits_after(
    configure: Configure, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = ShotsConfig(count=1, nonmembers=write("shots", text(9, 60)))
    message = "shots: no document fits a context of 64 with even one non-member shot"
    refused_early(monkeypatch, configure(attacks=("recall",), shots=shots), ConfigError, message)


# Versions


NEIGHBORS = [[one.replace("the", "a"), one + " dog", "A " + one][: 1 + i % 3] for i, one in enumerate(TEXTS)]


def test_neighbors_by_side_and_by_id(
    configure: Configure, by_hand: Callable[[str], Model], write: Callable[..., str]
) -> None:
    by_side = NeighborsConfig(members=write("near_in", *NEIGHBORS[:6]), nonmembers=write("near_out", *NEIGHBORS[6:]))
    specs = ("ne", "ne@n=2", "ne_z")
    found = experiment.run(configure(attacks=specs, neighbors=by_side))
    model = by_hand("target")

    def ll(one: str) -> float:
        ids = model.ids(one)
        if len(ids) <= model.context:
            return model.ll(ids) if len(ids) > 1 else np.nan
        return np.nan

    for i, (one, near) in enumerate(zip(TEXTS, NEIGHBORS)):
        own, others = ll(one), np.array([ll(other) for other in near])
        if i == 3:  # beyond the context
            continue
        others = others[~np.isnan(others)]
        expected = [own - others.mean(), own - others[:2].mean(), (own - others.mean()) / (others.std() or 1.0)]
        close([found.scores[spec][i] for spec in specs], expected, atol=2e-5, rtol=1e-4)
    assert reasons(found)[5] == "empty document"
    (note,) = [note for note in found.notes if note.startswith("neighbor_stats: ")]
    assert 5 < int(note.split()[1].removesuffix("%")) < 90

    ids = [*(f"in:{i}" for i in range(1, 7)), *(f"out:{i}" for i in range(1, 6))]
    rows = [{"id": one, "neighbors": near} for one, near in zip(ids, NEIGHBORS)][::-1]
    by_id = configure(attacks=specs, neighbors=NeighborsConfig(documents=write("near", *rows)), experiment="by_id")
    again = experiment.run(by_id)
    for spec in specs:
        np.testing.assert_array_equal(again.scores[spec], found.scores[spec])


@pytest.mark.parametrize("count", [5, 7])
def test_neighbors_of_other_documents(
    configure: Configure, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    near = NeighborsConfig(members=write("near_in", *[["a b"]] * count), nonmembers=write("near_out", *NEIGHBORS[6:]))
    message = rf"near_in.jsonl: {count} lines of neighbors for 6 documents" if count < 6 else "near_in.jsonl"
    if count == 7:  # rows of the file that the documents are of
        near = dataclasses.replace(near, nonmembers=write("near_out", *NEIGHBORS[7:]))
        message = "near_out.jsonl: 4 lines of neighbors for 5 documents"
    refused_early(monkeypatch, configure(attacks=("ne",), neighbors=near), DataError, message)


def test_a_fault_of_the_input_leaves_finished_results(
    configure: Configure, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment.run(configure(attacks=("loss",)))
    folder = Path(configure().results) / "tiny"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    near = NeighborsConfig(members=write("near_in", ["a"]), nonmembers=write("near_out", ["b"]))
    for broken in (
        configure(attacks=("ne",), neighbors=near),
        configure(attacks=("recall",), shots=ShotsConfig(count=100)),
        configure(attacks=("samia",), samples=SamplesConfig(count=0)),
    ):
        with pytest.raises((ConfigError, DataError)):
            experiment.run(broken, overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_word_swaps_and_lower_case(configure: Configure, models: Path) -> None:
    found = experiment.run(configure(attacks=("pac", "lowercase"), seed=3))
    # One call: originals, lower-cased, and five times swapped.
    swaps = [word_swaps(one, 5, 0.3, seed=3) or [""] * 5 for one in TEXTS]
    texts = [*TEXTS, *(one.lower() for one in TEXTS), *(of_one[i] for i in range(5) for of_one in swaps)]
    scored = score(load_model(models / "target"), texts)
    versions = TokenStats(*(np.asarray(x).reshape(7, len(TEXTS), -1) for x in scored))
    stats, lower = (TokenStats(*(x[i] for x in versions)) for i in range(2))
    close(found.scores["pac"], attacks.pac(stats, TokenStats(*(x[2:] for x in versions))))
    close(found.scores["lowercase"], attacks.lowercase(stats, lower))
    assert np.isfinite(found.scores["pac"]).sum() == 10


# Other models


def test_the_mean_of_references_and_windows(configure: Configure, models: Path) -> None:
    both = configure(references=("later", "bos"), attacks=("ref-mean", "ref"))
    found = experiment.run(both)
    stats, later, bos = (score(load_model(models / name), TEXTS) for name in ("target", "later", "bos"))
    lls = np.stack([attacks.loss(one) for one in (later, bos)])
    close(found.scores["ref-mean"], np.asarray(attacks.loss(stats)) - lls.mean(axis=0))
    assert list(found.scores) == ["ref-mean", "ref-later", "ref-bos"]

    found = experiment.run(configure(references=("later",), attacks=("wbc",), experiment="wbc"))
    close(found.scores["wbc-later"], attacks.wbc(stats, later))


def test_windows_need_one_tokenizer(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(references=("later", "small_vocab"), attacks=("wbc", "ref"))
    message = "attacks: wbc compares models token by token, and small_vocab has another tokenizer"
    refused_early(monkeypatch, config, ConfigError, message)


def test_references_that_cannot_be_used(
    configure: Configure, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mean").symlink_to(models / "later")
    config = dataclasses.replace(configure(attacks=("ref",)), references=(str(tmp_path / "mean"),))
    refused_early(monkeypatch, config, ConfigError, "references: none can be called mean")
    missing = configure(references=("nowhere",), attacks=("ref",))
    refused_early(monkeypatch, missing, ValueError, "nowhere: ")


# Counts of tokens


def test_counts_in_a_corpus_are_kept(
    configure: Configure, models: Path, tmp_path: Path, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = [text(200, 40), "lazy dog", text(201, 1500)]
    counts = TokenCountsConfig(source=write("corpus", *corpus), folder=str(tmp_path / "tables"))
    found = experiment.run(configure(attacks=("dc_pdd",), token_counts=counts))
    model = load_model(models / "target")
    expected = np.zeros(300)
    for one in corpus:
        np.add.at(expected, model.tokenizer(one)["input_ids"][:1024], 1)
    close(found.scores["dc_pdd"], attacks.dc_pdd(score(model, TEXTS), expected))

    from mimir_jax.data import token_counts

    monkeypatch.setattr(token_counts, "count_tokens", lambda *arguments, **named: pytest.fail("counted again"))
    again = experiment.run(configure(attacks=("dc_pdd", "loss"), token_counts=counts, experiment="again"))
    np.testing.assert_array_equal(again.scores["dc_pdd"], found.scores["dc_pdd"])


def test_counts_of_another_tokenizer(
    configure: Configure, tmp_path: Path, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tables"
    counts = TokenCountsConfig(source=write("corpus", *TEXTS[:3]), folder=str(folder))
    inputs.token_counts(target_of(configure(token_counts=counts)))
    (table,) = folder.iterdir()
    config = configure("small_vocab", attacks=("dc_pdd",), token_counts=TokenCountsConfig(source=str(table)))
    message = r"token_counts.source: .*: counted with another tokenizer, of 300 ids, than the target's, of 260"
    refused_early(monkeypatch, config, ConfigError, message)


# Documents as prefixes of each other, samples, gradients


@pytest.mark.parametrize("name", ["target", "bos"])
def test_em_mia(
    configure: Configure, by_hand: Callable[[str], Model], models: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    captured: dict[str, Any] = {}

    def recorded(calls: Any, given: Any, *rest: Any, **named: Any) -> Any:
        captured.update(given)
        return experiment_scores(calls, given, *rest, **named)

    experiment_scores = experiment.scores
    monkeypatch.setattr(experiment, "scores", recorded)
    found = experiment.run(configure(name, attacks=("em_mia",), prefixes=4))
    prefixes = captured["prefix_index"].value
    assert len(set(prefixes.tolist())) == 4
    assert (prefixes != 3).all()
    assert (prefixes != 5).all()  # too long, and empty

    model = by_hand(name)
    start, ids = model.ids(""), [model.ids(one, special=False) for one in TEXTS]
    expected = np.full((4, len(TEXTS)), np.nan)
    for row, p in enumerate(prefixes):
        for i, own in enumerate(ids):
            if i != p and own and len(start) + len(ids[p]) + len(own) <= model.context:
                log_probs = model.log_probs([*start, *ids[p], *own])
                expected[row, i] = log_probs[len(log_probs) - (len(own) - (not start)) :].mean()
    (conditional,) = captured["conditional_log_likelihood"].value
    close(conditional, expected)
    assert np.isnan(expected[:, 3]).all()

    stats = score(load_model(models / name), TEXTS)
    close(captured["log_likelihood"].value[0], attacks.loss(stats))
    close(captured["min_k_plus_plus_score"].value[0], attacks.min_k_plus_plus(stats), rtol=1e-4)
    again = attacks.em_mia(attacks.loss(stats), attacks.min_k_plus_plus(stats), expected.astype(np.float32), prefixes)
    close(found.scores["em_mia"], again)
    assert any(note.startswith("em_mia takes 4 of 11 documents as prefixes") for note in found.notes)


def test_em_mia_needs_prefixes(
    configure: Configure, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_early(monkeypatch, configure(attacks=("em_mia",), prefixes=1), ConfigError, "prefixes: 1, must be at least")
    data = DataConfig(members=write("long", text(0, 40)), nonmembers=write("out", text(1, 4), text(2, 50)))
    refused_early(
        monkeypatch, configure(attacks=("em_mia",), data=data), ConfigError, "fewer than two documents are short"
    )


def test_samia_with_the_likeliest_tokens(configure: Configure, by_hand: Callable[[str], Model]) -> None:
    settings = SamplesConfig(count=2, top_k=1, prefix=0.4)
    found = experiment.run(configure(attacks=("samia", "samia@zlib=1"), samples=settings))
    model = by_hand("target")
    for i, one in enumerate(TEXTS):
        ids = model.ids(one)[: model.context]
        cut = int(0.4 * len(ids))
        written = ids[:cut]
        while cut and len(written) < len(ids):
            best = int(model.vocab_log_probs(written)[-1, :300].argmax())
            if best == model.tokenizer.eos_token_id:
                break
            written.append(best)
        if not cut:
            assert np.isnan(found.scores["samia"][i])
            continue
        sampled, truth = (model.tokenizer.decode(some[cut:], skip_special_tokens=True) for some in (written, ids))
        close(found.scores["samia"][i], rouge1_recall(sampled, truth))
        close(found.scores["samia@zlib=1"][i], rouge1_recall(sampled, truth) * zlib_bytes([sampled])[0])


@pytest.mark.slow
def test_gradients(configure: Configure, models: Path) -> None:
    found = experiment.run(configure(attacks=("gradnorm", "gradnorm@p=1", "gradnorm@p=2")))
    model = load_model(models / "target")
    passes = [document_passes([], model.tokenizer(one)["input_ids"], 64) for one in TEXTS]
    norms = gradient_norms(model, passes)
    close(np.stack([found.scores[f"gradnorm{p}"] for p in ("@p=1", "@p=2", "")]), -norms, rtol=1e-4)
    assert np.isnan(found.scores["gradnorm"][5])


class Fit(SimpleNamespace):
    """Stands in for the regression."""

    def predict(self, texts: list[str]) -> np.ndarray:
        return np.full((1, 10, len(texts)), -2.0) + np.linspace(0, 0.9, 10)[:, None]

    def notes(self) -> list[str]:
        return ["fitted"]


def test_known_nonmembers_are_scored_and_fitted(
    configure: Configure, by_hand: Callable[[str], Model], write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mimir_jax.training import quantile

    known = [text(i, 4) for i in range(1000, 1000 + quantile.NEEDED)]
    fitted: list[Any] = []

    def fit(texts: Any, log_likelihood: Any, seed: int) -> Fit:
        fitted[:] = [texts, log_likelihood, seed]
        return Fit()

    monkeypatch.setattr(quantile, "fit_quantiles", fit)
    settings = QuantileConfig(nonmembers=write("known", *known))
    found = experiment.run(configure(attacks=("quantile", "quantile@alpha=0.1"), quantile=settings, seed=5))
    assert fitted[0] == known
    assert fitted[2] == 5
    model = by_hand("target")
    close(fitted[1], [[model.ll(model.ids(one)) for one in known]])
    own = model.ll(model.ids(TEXTS[0]))
    close([found.scores["quantile"][0], found.scores["quantile@alpha=0.1"][0]], [own + 2 - 0.4, own + 2 - 0.9])
    assert "fitted" in found.notes


def test_known_nonmembers_that_cannot_be_used(
    configure: Configure, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = QuantileConfig(nonmembers=write("few", "a b"))
    refused_early(
        monkeypatch, configure(attacks=("quantile",), quantile=few), DataError, "few.jsonl: 1 texts; quantile"
    )
    both = QuantileConfig(nonmembers=write("both", *[f"a {i}" for i in range(200)], TEXTS[0]))
    message = "both.jsonl: 1 of its texts are evaluated, too"
    refused_early(monkeypatch, configure(attacks=("quantile",), quantile=both), DataError, message)


# Several checkpoints


@pytest.mark.slow
def test_every_attack_on_several_checkpoints_equals_one_by_one(
    configure: Configure, tmp_path: Path, write: Callable[..., str]
) -> None:
    settings: dict[str, Any] = {
        "attacks": tuple(name for name in attacks.ATTACKS if name not in ("quantile", "lira", "lira_online", "rmia")),
        "references": ("target",),
        "shots": ShotsConfig(count=2),
        "neighbors": NeighborsConfig(write("near_in", *NEIGHBORS[:6]), write("near_out", *NEIGHBORS[6:])),
        "token_counts": TokenCountsConfig(source=write("corpus", *TEXTS[:4]), folder=str(tmp_path / "tables")),
        "samples": SamplesConfig(count=2, top_k=5),
        "prefixes": 4,
    }
    together = experiment.run(configure("target", checkpoints=("later",), experiment="together", **settings))
    alone = experiment.run(configure("later", experiment="alone", **settings))  # the first one is tested all over here
    for column, row in alone.scores.items():
        np.testing.assert_allclose(together.scores[f"later/{column}"], row, rtol=1e-4, atol=1e-5, err_msg=column)
    assert len(alone.scores) == len(together.scores) / 2
    assert reasons(alone)[6] is not None


def test_checkpoints_that_differ_are_refused_early(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "wide", **{**TINY, "intermediate_size": 32})
    message = "checkpoints: target and wide differ in shape or vocabulary; run them one by one"
    refused_early(monkeypatch, configure(attacks=("loss",), checkpoints=(str(folder),)), ConfigError, message)


# Kinds of documents


@pytest.fixture
def nested(write: Callable[..., str]) -> tuple[list[list[str]], DataConfig]:
    """Documents of several sub-texts: members, then non-members."""
    parts = [[text(i, n) for i, n in enumerate(sizes, 300 + 10 * row)] for row, sizes in enumerate([[5, 9], [1, 2]])]
    parts += [[text(400, 6)], [text(401, 3), "", text(402, 8)], ["", ""]]
    sides = write("in", *({"text": one} for one in parts[:2])), write("out", *({"text": one} for one in parts[2:]))
    return parts, DataConfig(members=sides[0], nonmembers=sides[1], full_doc=True)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_documents_of_sub_texts(
    configure: Configure, by_hand: Callable[[str], Model], nested: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    parts, data = nested
    config = configure(data=dataclasses.replace(data, aggregate=how), attacks=("loss", "min_k@window=8"))
    found = experiment.run(config)
    model = by_hand("target")
    lls = [[model.ll(model.ids(one)) if one else np.nan for one in some] for some in parts]
    pooled = [{"mean": np.nanmean, "max": np.nanmax}[how](some) for some in lls[:-1]]
    close(found.scores["loss"], [*pooled, np.nan])
    assert [d.id for d in found.documents] == ["in:1", "in:2", "out:1", "out:2", "out:3"]
    assert [d.is_member for d in found.documents] == [True, True, False, False, False]
    assert found.documents[0].text == "\n\n".join(parts[0])

    rows = pq.read_table(found.folder / "text_scores.parquet").to_pydict()
    ids = ["in:1/1", "in:1/2", "in:2/1", "in:2/2", "out:1/1", "out:2/1", "out:2/2", "out:2/3", "out:3/1", "out:3/2"]
    assert rows["id"] == ids
    close([np.nan if value is None else value for value in rows["loss"]], [value for some in lls for value in some])
    table = pq.read_table(found.folder / "scores.parquet").to_pydict()
    assert table["n_tokens"] == [sum(len(model.ids(one)) for one in some) for some in parts]
    # A document's reason is of those attacks that have no score of any of its texts.
    short = [i for i, some in enumerate(parts) if all(len(model.ids(one)) < 9 for one in some)]
    assert 1 < len(short) < 5
    for i, why in enumerate(table["reason"]):
        if i == 4:
            assert why == "empty document"
        elif i in short:
            assert why == "min_k@window=8: fewer scored tokens than one window"
        else:
            assert why is None

    monkeypatch.setattr(job, "load_source", lambda *arguments: pytest.fail("computed again"))
    again = experiment.run(config)
    assert not again.computed
    for name in ("documents", "texts", "text_groups", "metrics"):
        assert getattr(again, name) == getattr(found, name), name
    for ours, theirs in ((again.scores, found.scores), (again.text_scores, found.text_scores)):
        assert list(ours) == list(theirs)
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_sub_texts_of_documents_called_alike_are_kept_apart(
    configure: Configure, nested: Any, write: Callable[..., str], by_hand: Callable[[str], Model]
) -> None:
    parts, data = nested
    further = write("further/out", {"text": [text(500, 5), text(501, 6)]}, {"text": [text(502, 7)]})
    found = experiment.run(configure(data=dataclasses.replace(data, other_nonmembers=(further,)), attacks=("loss",)))
    assert [d.id for d in found.documents] == ["in:1", "in:2", "out:1", "out:2", "out:3", "out:1#2", "out:2#2"]
    model = by_hand("target")
    close(found.scores["loss"][2], model.ll(model.ids(parts[2][0])))
    close(found.scores["loss"][5], np.mean([model.ll(model.ids(text(i, n))) for i, n in ((500, 5), (501, 6))]))
    assert found.text_groups == [""] * 10 + [further] * 3


def test_documents_of_token_ids(configure: Configure, by_hand: Callable[[str], Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 300, (8, 12))
    np.save(tmp_path / "in.npy", rows[:4])
    np.save(tmp_path / "out.npy", rows[4:])
    data = DataConfig(members=str(tmp_path / "in.npy"), nonmembers=str(tmp_path / "out.npy"))
    config = configure(data=data, attacks=("loss", "zlib", "recall"), shots=ShotsConfig(count=1))
    found = experiment.run(config)
    model = by_hand("target")
    lls = np.array([model.ll(row) for row in rows])
    close(found.scores["loss"], lls)
    close(found.scores["zlib"], lls / zlib_bytes([model.tokenizer.decode(row) for row in rows]))
    # The shot's own ids, not those of its text, which may be others.
    shot = rows[4]
    assert model.ids(model.tokenizer.decode(shot)) != shot.tolist()
    given = [model.log_probs([*shot, *row])[12:].mean() for row in rows]
    expected = np.array(given) / lls
    expected[4] = np.nan
    close(found.scores["recall"], expected)

    np.save(tmp_path / "out.npy", np.full((2, 3), 320))
    with pytest.raises(DataError, match="out:1: has token ids beyond the model's 320 embeddings"):
        experiment.run(dataclasses.replace(config, experiment="other"))


def test_beginnings_of_texts(configure: Configure, by_hand: Callable[[str], Model], write: Callable[..., str]) -> None:
    data = DataConfig(
        members=write("in", "the lazy dog"),
        nonmembers=write("out", "more books in there"),
        tok_by_tok=True,
        paired=True,
    )
    found = experiment.run(configure(data=data, attacks=("loss",)))
    texts = ["the", "the lazy", "the lazy dog", "the lazy dog"]
    texts += ["more", "more books", "more books in", "more books in there"]
    assert [d.text for d in found.documents] == texts
    model = by_hand("target")
    lls = [model.ll(ids) if len(ids := model.ids(one)) > 1 else np.nan for one in texts]
    close(found.scores["loss"], lls)


def test_thresholds_are_applied_to_further_nonmembers(configure: Configure, write: Callable[..., str]) -> None:
    others = [write("wiki", *(text(600 + i, 8) for i in range(4)), ""), write("news", text(700, 5))]
    config = configure(attacks=("loss", "recall"), shots=ShotsConfig(count=2))
    alone = experiment.run(dataclasses.replace(config, experiment="alone"))
    found = experiment.run(
        dataclasses.replace(config, data=dataclasses.replace(config.data, other_nonmembers=tuple(others)))
    )
    main = len(TEXTS)
    for name, row in alone.scores.items():
        close(found.scores[name][:main], row)
    groups = pq.read_table(found.folder / "scores.parquet").column("group").to_pylist()
    assert groups == [""] * main + [others[0]] * 5 + [others[1]] == found.text_groups

    moved = json.loads((found.folder / "transfer.json").read_text())
    assert list(moved) == others
    members, nonmembers = (alone.scores["loss"][part] for part in (slice(0, 6), slice(6, None)))
    members = members[~np.isnan(members)]
    # A false-positive rate of at most .5 of 5: at most two of them are at or above the threshold.
    candidates = [t for t in [*members, *nonmembers] if (nonmembers >= t).sum() <= 2]
    threshold = min(candidates)
    wiki = found.scores["loss"][main : main + 4]
    loss = moved[others[0]]["loss"]
    assert loss["n_nonmembers"] == 4
    assert loss["fpr"] == {"0.5": (wiki >= threshold).mean()}
    assert loss["tpr"] == {"0.5": pytest.approx((members >= threshold).mean())}
    pairs = [float(m > w) + float(m == w) / 2 for m in members for w in wiki]
    assert loss["auc_roc"] == pytest.approx(np.mean(pairs))
    assert moved[others[1]]["loss"]["n_nonmembers"] == 1
    assert run_documents(found) == {"members": 6, "nonmembers": 5, "unscored": 5, "overlapping": 1}
    evaluated = evaluate({"loss": found.scores["loss"][:main]}, [True] * 6 + [False] * 5, fprs=(0.5,), n_bootstrap=5)
    assert found.metrics["loss"] == evaluated["loss"]


def run_documents(found: experiment.Results) -> dict[str, int]:
    return json.loads((found.folder / "run.json").read_text())["documents"]


def test_a_document_is_of_one_group(configure: Configure) -> None:
    documents = [Document("a", "", True, "s"), Document("b", "", False, "s")]
    assert wholes(documents, ["", ""]) == (documents, ["", ""], [[0], [1]])

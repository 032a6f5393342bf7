"""MIMIR's defects, restated: on random arrays, and in whole runs against log-probs by hand. Signs are ours."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_hand import Model
from hypothesis import given, settings
from hypothesis import strategies as st

from mimir_jax import attacks, experiment, job
from mimir_jax.arrays import TokenStats, pad_documents
from mimir_jax.attacks.registry import AttackError
from mimir_jax.compat.mimir.attacks import (
    RULES,
    chunked,
    chunks,
    mimir_gradnorm,
    mimir_min_k,
    mimir_min_k_plus_plus,
    mimir_ne,
    mimir_recall,
)
from mimir_jax.config import (
    ConfigError,
    DataConfig,
    MetricsConfig,
    NeighborsConfig,
    RunConfig,
    ShotsConfig,
    TokenCountsConfig,
)
from mimir_jax.data.documents import load_documents
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.report import results
from mimir_jax.report.terminal import silent
from mimir_jax.scoring import batching
from mimir_jax.scoring.model import find_source
from mimir_jax.testing import tiny_tokenizer, write_checkpoint

pytestmark = pytest.mark.slow  # as a whole

CONTEXT = 32
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": CONTEXT}
WORDS = "the quick brown Fox jumps over THE lazy dog and there is more in these books than one reader would think"


def text(seed: int, words: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS.split(), words))


MEMBERS = [text(0, 9), text(1, 2), text(2, 17), text(3, 4)]
NONMEMBERS = [text(100, 3), text(101, 3), text(102, 12), "dog", text(104, 26)]
TEXTS = [*MEMBERS, *NONMEMBERS]
NEIGHBORS = [[one + " dog", "THE " + one, "a" + one] for one in TEXTS]


def stats(log_probs: Sequence[np.ndarray]) -> TokenStats:
    """[doc, time] with an unscored first token each."""
    rows = []
    for known in log_probs:
        padded = np.append(0, known).astype(np.float32)
        mask = np.arange(len(padded)) > 0
        rows.append(
            TokenStats(
                mask * np.arange(len(padded), dtype=np.int32), padded, padded, np.where(mask, 1 + padded**2, 0),
                padded, mask * np.int32(1), mask,
            )
        )  # fmt: skip
    return pad_documents(rows)


lengths = st.lists(st.integers(0, 40), min_size=5, max_size=5).map(lambda sizes: [40, *sizes])  # of one shape
few = settings(max_examples=15)


def drawn(sizes: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [-rng.uniform(0.1, 8, n).astype(np.float32) for n in sizes]


def close(ours: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(expected, np.float64), rtol, atol)


# Pure functions


@few
@given(lengths, st.sampled_from([0.05, 0.2, 0.3, 0.7, 1.0]), st.integers(1, 5), st.integers(1, 4))
def test_min_k_takes_the_mean_of_nothing(sizes: list[int], k: float, window: int, stride: int) -> None:
    documents = drawn(sizes)
    expected = []
    for known in documents:
        means = [known[i : i + window].mean() for i in range(0, len(known) - window + 1, stride)]
        chosen = sorted(means)[: int(len(means) * k)]
        expected.append(np.mean(chosen) if chosen else np.nan)
    close(mimir_min_k(stats(documents), k, window, stride), expected)


def test_a_window_longer_than_any_document() -> None:
    assert np.isnan(mimir_min_k(stats(drawn([5, 3])), 0.5, 10**12, 10**12)).all()


@few
@given(lengths, st.sampled_from([0.05, 0.2, 0.5, 1.0]))
def test_min_k_plus_plus_takes_the_mean_of_nothing(sizes: list[int], k: float) -> None:
    documents = drawn(sizes)
    given = stats(documents)
    expected = []
    for row, n in enumerate(sizes):
        span = slice(1, n + 1)
        z = (given.log_prob - given.mean)[row, span] / np.sqrt(given.var[row, span])
        chosen = np.sort(z)[: int(n * k)]
        expected.append(chosen.mean() if len(chosen) else np.nan)
    close(mimir_min_k_plus_plus(given, k), expected)


def test_ne_compares_with_the_least_likely_neighbor() -> None:
    documents = drawn([5, 7, 4])
    near = [drawn([6, 7, 5], seed) for seed in (1, 2, 3)]
    near[2][1] = near[2][1][:0]  # a neighbor that is missing
    variants = [stats(one) for one in near]
    time = max(one.mask.shape[-1] for one in variants)
    padded = TokenStats(
        *(np.stack([np.pad(x, [(0, 0), (0, time - x.shape[-1])]) for x in field]) for field in zip(*variants))
    )
    for n in (1, 2, 3):
        expected = []
        for i, known in enumerate(documents):
            # In its orientation: loss minus each neighbor's loss, and then the lowest.
            differences = [-known.mean() + of[i].mean() for of in near[:n] if len(of[i])]
            expected.append(-min(differences))
        close(mimir_ne(stats(documents), padded, n), expected)


def test_gradnorm_has_the_other_sign() -> None:
    norms = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]], np.float32)
    close(mimir_gradnorm(norms), [5.0, 6.0])
    close(mimir_gradnorm(norms, 2), [3.0, np.nan])
    close(mimir_gradnorm(norms), -attacks.gradnorm(norms))


def in_chunks(prefix: int, size: int, context: int) -> list[list[int]]:
    """The document's tokens in chunks of prefix + text: first of each chunk, and after it."""
    everything = [-1] * prefix + list(range(size))
    return [[i for i in everything[start : start + context] if i >= 0] for start in range(0, len(everything), context)]


@few
@given(st.integers(1, 12), st.integers(0, 40), st.integers(13, 20), st.integers(0, 99))
def test_recall_weighs_chunks_by_tokens_that_it_does_not_score(prefix: int, size: int, context: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = -rng.uniform(0.1, 8, size).astype(np.float32)
    loss_sum, weights, unscored = 0.0, 0, set()
    for number, chunk in enumerate(in_chunks(prefix, size, context)):
        scored = chunk if number == 0 else chunk[1:]
        unscored |= set(chunk) - set(scored)
        if scored:
            loss_sum += known[scored].mean() * len(chunk)
            weights += len(chunk)
    mask = np.array([i not in unscored for i in range(size)], bool)
    # Padding behind the document changes nothing.
    row = np.pad(np.where(mask, known, 0), (0, 43 - size)).astype(np.float32), np.pad(mask, (0, 43 - size))
    chunk_stats = TokenStats(*(np.zeros((1, 43), x.dtype) for x in stats(drawn([1]))))
    chunk_stats = chunk_stats._replace(log_prob=row[0][None], mask=row[1][None])
    plain = TokenStats(*(x[:1] for x in stats([known, *drawn([40])])))
    expected = loss_sum / weights / known.mean() if weights and size else np.nan
    close(mimir_recall(plain, chunk_stats), [expected], rtol=1e-4)


@given(st.integers(1, 12), st.integers(0, 40), st.integers(13, 20))
def test_chunks_hold_every_token_once(prefix: int, size: int, context: int) -> None:
    ids = np.arange(100, 100 + size, dtype=np.int32)
    shots = np.arange(prefix, dtype=np.int32)
    parts = chunked(shots, ids, context)
    spans = [part.one.ids[part.one.start :] if i == 0 else part.one.ids for i, part in enumerate(parts)]
    assert np.concatenate(spans).tolist() == ids.tolist()
    assert parts[0].one.read.tolist() == [*shots, *ids[: context - prefix]]
    for part, chunk in zip(parts[1:], in_chunks(prefix, size, context)[1:]):
        assert part.one.read.tolist() == [100 + i for i in chunk]


def test_parameters_are_those_of_the_authors() -> None:
    for name, row in RULES.attacks.items():
        ours = attacks.ATTACKS[name]
        assert row.parameters == ours.parameters, name
        assert (row.citation, row.log_prob_only, row.name) == (ours.citation, ours.log_prob_only, name)
        for key in row.parameters:
            with pytest.raises(AttackError):
                attacks.parse(f"{name}@{key}=-1")


# Whole runs


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "GOOD_FILL", 0.0)
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, bos in (("plain", False), ("bos", True)):
        write_checkpoint(folder / name, tokenizer=tiny_tokenizer(bos=bos), **TINY)
    rows = {"in": MEMBERS, "out": NONMEMBERS, "near_in": NEIGHBORS[:4], "near_out": NEIGHBORS[4:]}
    rows["corpus"] = [text(7, 30), "dog dog dog", text(8, 50)]
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    return folder


@pytest.fixture
def configure(folder: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    def file(name: str) -> str:
        return str(folder / f"{name}.jsonl")

    def configure(model: str = "plain", **changes: Any) -> RunConfig:
        settings = {
            "data": DataConfig(members=file("in"), nonmembers=file("out")),
            "neighbors": NeighborsConfig(file("near_in"), file("near_out")),
            "token_counts": TokenCountsConfig(source=file("corpus"), folder=str(tmp_path / "tables")),
            "shots": ShotsConfig(count=2),
            "metrics": MetricsConfig(fprs=(0.5,), n_bootstrap=5),
            "batch_tokens": 128,
            "experiment": "tiny",
            "results": str(tmp_path / "results"),
        }
        return RunConfig(model=str(folder / model), **(settings | changes))

    return configure


def windowed(model: Model, ids: Sequence[int]) -> np.ndarray:
    """l_t of all ids but the first, in windows half a context apart."""
    found: list[float] = []
    for start in range(0, len(ids), CONTEXT // 2):
        begin, end = max(start - CONTEXT // 2, 0), min(start + CONTEXT // 2, len(ids))
        known = model.log_probs(ids[begin:end])
        found += known[len(known) - (end - max(start, 1)) :].tolist()
    assert len(found) == len(ids) - 1
    return np.array(found)


def recalled(model: Model, shots: Sequence[str], document: str) -> float:
    """The conditional LL: shots joined as text, and a document with special tokens of its own."""
    prefix, ids = model.ids("".join(shots)), model.ids(document)
    both = [*prefix, *ids]
    total, weights = 0.0, 0
    for start in range(0, len(both), CONTEXT):
        chunk = both[start : start + CONTEXT]
        of_text = min(len(chunk), start + len(chunk) - len(prefix))
        if of_text <= 0:
            continue
        known = model.log_probs(chunk)[-of_text if start < len(prefix) else 0 :]
        if len(known):
            total += known.mean() * of_text
            weights += of_text
    return total / weights


@pytest.mark.parametrize("name", ["plain", "bos"])
def test_a_run_by_the_rules_of_mimir(configure: Callable[..., RunConfig], folder: Path, name: str) -> None:
    specs = ("loss", "min_k", "min_k++@k=0.1", "ne", "ne@n=2", "recall", "dc_pdd")
    found = experiment.run(configure(name, attacks=specs), rules=RULES)
    model = Model(folder / name)
    ids = [model.ids(one) for one in TEXTS]
    assert max(map(len, ids)) > 2 * CONTEXT - 10  # several windows and chunks
    known = [windowed(model, one) for one in ids]
    lls = np.array([one.mean() for one in known])
    close(found.scores["loss"], lls)
    counts = [int(0.2 * len(one)) for one in known]
    assert 0 in counts
    close(found.scores["min_k"], [np.sort(one)[:n].mean() if n else np.nan for one, n in zip(known, counts)])
    assert np.isnan(found.scores["min_k++@k=0.1"]).sum() == sum(int(0.1 * len(one)) == 0 for one in known) > 0
    near = np.array([[windowed(model, model.ids(other)).mean() for other in some] for some in NEIGHBORS])
    close(found.scores["ne"], lls - near.min(axis=1), atol=1e-4)
    close(found.scores["ne@n=2"], lls - near[:, :2].min(axis=1), atol=1e-4)

    # The first non-members are the shots, and stay. One fits with a member of average length: the last is taken.
    average = int(np.mean([len(one) for one in ids[:4]]))
    of_shots = [len(model.ids(one)) for one in NONMEMBERS[:2]]
    assert of_shots[0] + average <= CONTEXT < sum(of_shots) + average
    close(found.scores["recall"], [recalled(model, NONMEMBERS[1:2], one) for one in TEXTS] / lls, rtol=1e-4)
    assert any("only the last 1 of 2 shots fit" in note for note in found.notes)

    # Texts that have a token are counted, as MIMIR tokenizes them; [PAD] is an id, too.
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    documents = np.zeros(301)
    for one in corpus:
        documents[list(set(model.ids(one)[:1024]))] += 1
    frequency = (documents + 1) / (documents.sum() + 301)
    eos = model.tokenizer.eos_token_id
    expected = []
    for one in ids:
        probability = np.exp(windowed(model, [eos, *one]))
        first = [one.index(token) for token in dict.fromkeys(one)]
        values = probability[first] * np.log(1 / frequency[[one[i] for i in first]])
        expected.append(np.minimum(values, 0.01).mean())
    close(found.scores["dc_pdd"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_gradnorm_and_its_auc_are_turned_around(configure: Callable[..., RunConfig]) -> None:
    theirs = experiment.run(configure(attacks=("gradnorm",)), rules=RULES)
    ours = experiment.run(configure(attacks=("gradnorm",), experiment="paper"))
    close(theirs.scores["gradnorm"], -ours.scores["gradnorm"])
    assert theirs.metrics["gradnorm"].auc_roc.value == pytest.approx(1 - ours.metrics["gradnorm"].auc_roc.value)


def test_rules_are_part_of_the_configuration(configure: Callable[..., RunConfig]) -> None:
    config = configure(attacks=("min_k",))
    found = experiment.run(config, rules=RULES)
    assert json.loads((found.folder / "config.json").read_text())["rules"] == "mimir"
    assert not experiment.run(config, rules=RULES).computed
    with pytest.raises(ConfigError, match=r"\(rules differ\)"):
        experiment.run(config)
    assert (
        np.isfinite(experiment.run(config, overwrite=True).scores["min_k"]).sum()
        > np.isfinite(found.scores["min_k"]).sum()
    )


def test_shots_are_whole_texts_where_beginnings_are_scored(configure: Callable[..., RunConfig], folder: Path) -> None:
    data = replace(configure().data, tok_by_tok=True, paired=True)
    config = configure(data=data, shots=ShotsConfig(count=1))
    target = job.Job(config, make_mesh(), silent).target(load_documents(data), find_source(config.model))
    assert len(target.documents) > 20
    ids = target.tokenizer(NONMEMBERS[0])["input_ids"]
    assert {tuple(variants[0][0].one.prefix) for variants in chunks(target).parts} == {tuple(ids)}


@pytest.mark.parametrize(
    ("shots", "message"),
    [
        (ShotsConfig(count=0), "shots.count: 0, must be at least 1"),
        (ShotsConfig(count=6), "shots.count: 6 shots are asked for, and there are 5 non-members"),
        (ShotsConfig(count=5), r"shots: \d+ tokens of shots leave no room in a context of 32"),
    ],
)
def test_shots_that_there_are_not(
    configure: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, shots: ShotsConfig, message: str
) -> None:
    monkeypatch.setattr(job, "load_source", lambda *arguments: pytest.fail("weights are read"))
    with pytest.raises(ConfigError, match=message):
        experiment.run(configure(attacks=("recall",), shots=shots), rules=RULES)

"""Verdicts in words, groups of documents, models in a row, and the command that runs it again."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finished import write_finished

from mimir_jax.cli.run import read_options
from mimir_jax.config import DataConfig, MeshConfig, MetricsConfig, RunConfig
from mimir_jax.metrics import auc_roc
from mimir_jax.report.findings import Verdict, cautions, command, decimal, groupings, trend, verdict
from mimir_jax.report.finished import Finished, read_finished

Make = Callable[..., Finished]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(attacks: dict[str, float], **keywords: object) -> Finished:
        return read_finished(write_finished(tmp_path / "run", attacks, **keywords))  # type: ignore[arg-type]

    return make


def judged(run: Finished) -> Verdict:
    return verdict(run.metrics, run.audit)


def test_an_attack_that_beats_the_blind_baseline(make: Make) -> None:
    run = make({"loss": 0.2, "min_k": 2.0}, n=300)
    auc = run.metrics["min_k"].auc_roc  # type: ignore[union-attr]
    found = verdict(run.metrics, run.audit)
    assert found.kind == "leak"
    assert found.answer == (
        f"min_k separates members with AUC {decimal(auc.value)} [{decimal(auc.low)}, {decimal(auc.high)}]; "
        "the best blind baseline reaches .520 [.490, .550]."
    )
    assert "not above what needs no model: loss" in list(cautions(run))


def test_what_is_told_without_the_model(make: Make) -> None:
    found = judged(make({"loss": 0.8, "min_k": 1.0}, n=300, blind=0.97))
    assert found.kind == "blind"
    assert found.answer.startswith("No attack beats what can be told without the model: min_k, the best of 2, has AUC")
    assert "reaches .970 [.940, 1.00]." in found.answer


def test_above_the_blind_baseline_but_not_beyond_doubt(make: Make) -> None:
    run = make({"loss": 1.0}, n=100, blind=0.69)
    assert run.audit is not None
    against = run.audit.comparisons["loss"]
    assert against.difference > 0
    assert not against.beats
    found = judged(run)
    assert found.kind == "blind"
    assert found.answer.startswith("No attack is shown to beat what can be told without the model: loss has AUC")


def test_nothing(make: Make) -> None:
    found = judged(make({"loss": 0.0}, n=300))
    assert found.kind == "nothing"
    assert found.answer.startswith("No attack tells members from non-members: loss has AUC")


@pytest.mark.parametrize(("gap", "kind"), [(1.0, "leak"), (0.0, "nothing")])
def test_without_an_audit(make: Make, gap: float, kind: str) -> None:
    found = judged(make({"loss": gap}, n=300, blind=None))
    assert found.kind == kind
    assert "No blind baseline was computed" in found.details[0]


def test_no_metrics_at_all(make: Make) -> None:
    assert verdict({"loss": None}, None).kind == "unknown"


def test_cautions(make: Make) -> None:
    said = list(cautions(make({"loss": 0.5}, n=40, notes=["2 texts are on both sides"])))
    assert "2 texts are on both sides" in said
    assert any("fewer than 100 documents" in one for one in said)
    assert any("its TPR is that at no false positive" in one for one in said)


def test_groups_by_domain_and_length(make: Make) -> None:
    run = make({"loss": 0.5, "zlib": 1.0}, n=200, unscored=3)
    by_domain, by_length = groupings(run)
    assert (by_domain.what, by_domain.names, by_domain.left_out) == ("domain", ["verse", "prose"], 0)
    some = np.array(run.source) == "prose"
    auc = by_domain.aucs["zlib"][1]
    assert auc is not None
    assert auc.value == pytest.approx(auc_roc(run.scores["zlib"][some], run.is_member[some]))
    assert auc.low < auc.value < auc.high
    assert len(by_length.names) == 4
    assert sum(map(sum, by_length.counts)) == 400
    assert [int(name.split()[0]) for name in by_length.names] == sorted(int(n.split()[0]) for n in by_length.names)


def test_groups_that_are_too_small_are_counted(make: Make) -> None:
    run = make({"loss": 0.5}, n=100)
    run = replace(run, source=["rare" if i % 10 == 0 else name for i, name in enumerate(run.source)])
    (found, *_) = groupings(run)
    assert found.names == ["prose", "verse"]
    assert found.left_out == 20


def test_overlap_where_it_is_known(make: Make) -> None:
    run = make({"loss": 0.5}, n=200, sources=["one"])
    assert [one.what for one in groupings(run)] == ["length"]
    overlap = np.linspace(0, 1, 400)[np.random.default_rng(0).permutation(400)]
    found = list(groupings(replace(run, overlap=overlap)))
    assert [one.what for one in found] == ["length", "n-gram overlap"]
    assert found[1].names[0] == "0.00 to 0.25 overlap"


@pytest.mark.parametrize(
    ("models", "what", "order", "logarithmic"),
    [
        (["demo-epoch4", "demo-epoch1", "demo-epoch16"], "epoch", [1, 4, 16], True),
        (["p@step99000", "p@step1000"], "step", [1000, 99000], True),
        (["pythia-1.4b", "pythia-160m-deduped"], "parameters", [160e6, 1.4e9], True),
        (["gpt2", "pythia-160m"], "model", [0, 1], False),
        (["a-160m", "b-160m"], "model", [0, 1], False),
    ],
)
def test_trends_find_their_axis(models: list[str], what: str, order: list[float], logarithmic: bool) -> None:
    found = trend({(model, "loss"): None for model in models})
    assert found is not None
    assert (found.what, found.positions, found.logarithmic) == (what, order, logarithmic)
    assert sorted(found.names) == sorted(models)


def test_one_model_has_no_trend() -> None:
    assert trend({("a", "loss"): None, ("a", "zlib"): None}) is None


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(
            model="a b'c",
            attacks=("loss", "min_k@k=0.1,window=3"),
            references=("x", "y"),
            data=DataConfig(members="in.jsonl", nonmembers="$(rm -rf ~)", max_documents=7, dedupe=True),
            mesh=MeshConfig(4, 2),
            metrics=MetricsConfig(fprs=(0.1, 0.5), seed=3),
            add_bos=True,
        ),
        RunConfig(references=(), data=DataConfig(max_words_cutoff=False)),
    ],
)
def test_the_command_gives_the_configuration(config: RunConfig) -> None:
    words = shlex.split(command(config))
    assert words[:2] == ["mimir-jax", "run"]
    assert read_options(words[2:], RunConfig()).config == config

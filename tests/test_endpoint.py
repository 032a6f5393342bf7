"""Whole runs against a completions endpoint, a server in this process whose log-probs are known."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from completions import Server, log_probs, serving

from mimir_jax import experiment, job, load_model, score, zlib_bytes
from mimir_jax.attacks import loss
from mimir_jax.compat.mimir.attacks import RULES
from mimir_jax.config import (
    ConfigError,
    DataConfig,
    EndpointConfig,
    MetricsConfig,
    NeighborsConfig,
    RunConfig,
    from_json,
)
from mimir_jax.data.documents import DataError
from mimir_jax.data.edits import word_swaps
from mimir_jax.report import results
from mimir_jax.scoring.api import Endpoint
from mimir_jax.testing import write_checkpoint

MEMBERS = ["the cat sat on the mat", "a dog", "word", ""]
NONMEMBERS = ["more than one cat and more than one dog", "the Mat"]
TEXTS = [*MEMBERS, *NONMEMBERS]
NEIGHBORS = [["the dog sat on the mat", "a cat sat"], ["a cat"], ["other"], ["x y"], ["more than", "dog"], ["a Mat"]]

Configure = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def configure(server: Server, tmp_path: Path) -> Configure:
    def write(name: str, rows: list[Any]) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    settings = {
        "data": DataConfig(members=write("in", MEMBERS), nonmembers=write("out", NONMEMBERS)),
        "neighbors": NeighborsConfig(write("near_in", NEIGHBORS[:4]), write("near_out", NEIGHBORS[4:])),
        "metrics": MetricsConfig(fprs=(0.5,), n_bootstrap=5),
        "results": str(tmp_path / "results"),
        "experiment": "tiny",
        "model": "known",
    }

    def configure(**changes: Any) -> RunConfig:
        return RunConfig(**(settings | {"endpoint": EndpointConfig(server.url, concurrency=2)} | changes))

    return configure


def ll(text: str, prefix: str = "") -> float:
    known = log_probs(text, prefix)
    return known.mean() if len(known) else np.nan


def lowest(text: str, share: float) -> float:
    known = np.sort(log_probs(text))
    return known[: max(1, int(share * len(known)))].mean() if len(known) else np.nan


def close(ours: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(ours, np.float64), expected, rtol=1e-5, atol=1e-6)


def test_attacks_that_need_log_probs_alone(configure: Configure, server: Server) -> None:
    specs = ("loss", "zlib", "min_k", "min_k@k=0.5", "ne", "ne@n=1", "lowercase", "pac")
    found = experiment.run(configure(attacks=specs))
    own = np.array([ll(one) for one in TEXTS])
    close(found.scores["loss"], own)
    close(found.scores["zlib"], own / zlib_bytes(TEXTS))
    close(found.scores["min_k"], [lowest(one, 0.2) for one in TEXTS])
    close(found.scores["min_k@k=0.5"], [lowest(one, 0.5) for one in TEXTS])
    close(found.scores["lowercase"], np.array([ll(one.lower()) for one in TEXTS]) / own)
    # Documents have two neighbors or one, of which one has a token without a prediction alone.
    near = [np.nanmean(some) if np.isfinite(some := [ll(x) for x in of]).any() else np.nan for of in NEIGHBORS]
    close(found.scores["ne"], own - near)
    close(found.scores["ne@n=1"], own - [ll(of[0]) for of in NEIGHBORS])

    def spread(text: str) -> float:
        known = np.sort(log_probs(text))
        top, bottom = max(1, int(0.05 * len(known))), max(1, int(0.3 * len(known)))
        return known[len(known) - top :].mean() - known[:bottom].mean()

    swaps = [word_swaps(one, 5, 0.3) for one in TEXTS]
    expected = [np.mean([spread(x) for x in of]) - spread(one) if of else np.nan for one, of in zip(TEXTS, swaps)]
    close(found.scores["pac"], expected)
    assert set(server.prompts) == {text for some in ([*TEXTS], *NEIGHBORS, *swaps) for text in some if text} | {
        one.lower() for one in TEXTS if one
    }
    assert len(server.prompts) == len(set(server.prompts))  # nothing is asked for twice
    why = pq.read_table(found.folder / "scores.parquet").column("reason").to_pylist()
    assert why[3] == "empty document"
    assert why[2] == "one token, and nothing before it to predict it from"
    assert found.metrics["loss"] is not None


def test_default_attacks_are_those_that_are_possible(configure: Configure) -> None:
    assert experiment.resolve(configure(references=("r",))).attacks == ("loss", "zlib", "min_k", "ref")


def test_a_prefix_is_read_and_not_scored(configure: Configure, server: Server) -> None:
    there = EndpointConfig(server.url, prefix="<|endoftext|>")
    found = experiment.run(configure(attacks=("loss",), endpoint=there))
    close(found.scores["loss"], [ll(one, "<|endoftext|>") for one in TEXTS])
    assert np.isfinite(found.scores["loss"][2])
    assert all(prompt.startswith("<|endoftext|>") for prompt in server.prompts)


def test_references_beside_an_endpoint(configure: Configure, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "reference", hidden_size=32, intermediate_size=64, num_attention_heads=2)
    found = experiment.run(configure(attacks=("ref", "ref-mean"), references=(str(folder),)))
    reference = np.asarray(loss(score(load_model(folder), TEXTS)))
    close(found.scores["ref-reference"], np.array([ll(one) for one in TEXTS]) - reference)
    close(found.scores["ref-mean"], found.scores["ref-reference"])


def test_what_was_answered_is_kept(configure: Configure, server: Server) -> None:
    found = experiment.run(configure(attacks=("loss",)))
    asked = len(server.requests)
    again = experiment.run(configure(attacks=("loss",)))
    assert (again.computed, len(server.requests)) == (False, asked)
    more = experiment.run(configure(attacks=("loss", "lowercase")), overwrite=True)
    assert len(server.requests) == asked + 1  # one text has a capital
    close(more.scores["loss"], found.scores["loss"])
    changed = dataclasses.replace(configure().endpoint, prefix="a ")
    with pytest.raises(ConfigError, match=r"\(endpoint differ\)"):
        experiment.run(configure(attacks=("loss", "lowercase"), endpoint=changed))


def test_the_written_configuration_asks_again(configure: Configure, server: Server, tmp_path: Path) -> None:
    """Whoever gives the endpoint as such, with its key, finds all but the key in the results."""
    there = Endpoint(server.url, "known", key="sk-secret", prefix="a ", concurrency=3)
    found = experiment.run(configure(attacks=("loss",), model="other", endpoint=EndpointConfig()), endpoint=there)
    assert set(server.keys) == {"Bearer sk-secret"}
    written = from_json(found.folder / "config.json")
    assert (written.model, written.endpoint) == ("known", EndpointConfig(server.url, "a ", 3))
    assert not experiment.run(written).computed
    for path in found.folder.rglob("*"):
        assert path.is_dir() or b"sk-secret" not in path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attacks": ("loss", "min_k++")}, ConfigError, "attacks: min_k[+][+]: an endpoint gives log-probs"),
        ({"attacks": ("recall", "loss")}, ConfigError, "attacks: recall: an endpoint gives log-probs"),
        ({"attacks": ("dc_pdd", "gradnorm")}, ConfigError, "attacks: dc_pdd, gradnorm: an endpoint"),
        ({"attacks": ("wbc",), "references": ("r",)}, ConfigError, "attacks: wbc: an endpoint"),
        ({"attacks": ("loss",), "checkpoints": ("m",)}, ConfigError, "checkpoints: an endpoint is one target"),
        ({"attacks": ("ne",), "neighbors": NeighborsConfig("x", "y")}, DataError, "x: no such file of neighbors"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused_before_it_is_asked(
    configure: Configure, server: Server, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = configure(**changes)
    with pytest.raises(error, match=message):
        experiment.run(config)
    assert server.requests == []
    assert not Path(config.results).exists()


def test_token_ids_are_no_texts(configure: Configure, server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.ones((2, 3), np.int32))
    data = dataclasses.replace(configure().data, members=str(tmp_path / "ids.npy"))
    with pytest.raises(DataError, match="ids:1: holds token ids, and an endpoint takes texts"):
        experiment.run(configure(data=data, attacks=("loss",)))
    assert server.requests == []


def test_rules_of_mimir(configure: Configure, server: Server) -> None:
    found = experiment.run(configure(attacks=("loss", "min_k", "ne", "zlib")), rules=RULES)
    own = np.array([ll(one) for one in TEXTS])
    counts = [int(0.2 * len(log_probs(one))) for one in TEXTS]
    expected = [np.sort(log_probs(one))[:n].mean() if n else np.nan for one, n in zip(TEXTS, counts)]
    assert 0 in counts[4:]
    close(found.scores["min_k"], expected)
    near = [np.nanmin(some) if np.isfinite(some := [ll(x) for x in of]).any() else np.nan for of in NEIGHBORS]
    close(found.scores["ne"], own - near)
    with pytest.raises(ConfigError, match=r"recall: an endpoint"):
        experiment.run(configure(attacks=("recall",)), rules=RULES)


def test_no_model_is_loaded(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((job, "load_source"), (job, "find_source"), (job, "load_tokenizer")):
        monkeypatch.setattr(module, name, lambda *arguments: pytest.fail("a model is loaded"))
    assert experiment.run(configure(attacks=("loss",))).computed

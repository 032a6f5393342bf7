"""MIMIR's experiments from its configuration files and flags to its result files, on tiny checkpoints."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from by_hand import Model
from completions import log_probs, serving

from mimir_jax import experiment, job
from mimir_jax.cli import main
from mimir_jax.compat.mimir import results as mimir_results
from mimir_jax.compat.mimir.run import translation_of
from mimir_jax.config import RunConfig, to_json
from mimir_jax.data.documents import load_documents
from mimir_jax.report import results
from mimir_jax.scoring import batching
from mimir_jax.testing import write_checkpoint, write_mask_model, write_span_model

pytestmark = pytest.mark.slow  # as a whole

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}
WORDS = "the quick brown Fox jumps over THE lazy dog and there is more in these books than one reader would think"


def text(seed: int, words: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS.split(), words))


MEMBERS = [text(i, 5 + i) for i in range(5)]
NONMEMBERS = [text(100 + i, 9 - i) for i in range(5)]
PARTS = {"member": [[text(1, 5), text(2, 8)], [text(3, 4)]], "nonmember": [[text(4, 6)], [text(5, 3), text(6, 4)]]}

Captured = pytest.CaptureFixture[str]
Outcome = tuple[int, list[str], str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["target", "reference"]):
        write_checkpoint(folder / "owner" / name, seed=seed, **TINY)
    write_mask_model(folder / "owner" / "mask")
    write_span_model(folder / "owner" / "t5")
    return folder / "owner"


@pytest.fixture(autouse=True)
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the models in it; few compiled shapes and no figures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").symlink_to(models)
    monkeypatch.setattr(batching, "GOOD_FILL", 0.0)
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)
    monkeypatch.setattr(mimir_results, "_figures", lambda *arguments: None)
    for name in ("MIMIR_CACHE_PATH", "MIMIR_DATA_SOURCE", "OPENAI_API_KEY", "OPENAI_BASE_URL", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    return tmp_path


def jsonl(name: str, rows: list[Any]) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


@pytest.fixture
def mi() -> Callable[..., str]:
    """Writes one of MIMIR's configuration files."""

    def write(**changes: Any) -> str:
        settings = {
            "experiment_name": "exp",
            "base_model": "owner/target",
            "dataset_member": "the_pile",
            "dataset_nonmember": "the_pile",
            "dataset_key": "text",
            "presampled_dataset_member": jsonl("in.jsonl", [{"text": one} for one in MEMBERS]),
            "presampled_dataset_nonmember": jsonl("out.jsonl", [{"text": one} for one in NONMEMBERS]),
            "load_from_hf": False,
            "min_words": 1,
            "max_words": 20,
            "blackbox_attacks": ["loss", "zlib"],
            "env_config": {"results": "results"},
        } | changes
        Path("mi.json").write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
        return "mi.json"

    return write


@pytest.fixture
def run(capsys: Captured) -> Callable[..., Outcome]:
    """`mimir-jax run`: exit code, stdout's lines and stderr."""

    def run(*arguments: str) -> Outcome:
        code = main(["run", "--config", *arguments, "--metrics.n-bootstrap", "5", "--batch-tokens", "128"])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def load(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def ours(folder: str, table: str = "scores") -> dict[str, Any]:
    return pq.read_table(f"{folder}/{table}.parquet").to_pydict()


def predictions(folder: str, attack: str) -> list[float]:
    found = load(f"{folder}/{attack}_results.json")["predictions"]
    return [*found["member"], *found["nonmember"]]


THERE = "results/exp/owner_target"
HERE = "results/exp-owner_target"


def test_files_of_mimir(mi: Callable[..., str], run: Callable[..., Outcome], models: Path) -> None:
    code, out, err = run(
        *(mi(output_name="out"), "--rules", "mimir", "--revision", "", "--n_samples", "4"),
        *("--blackbox_attacks", "ref", "min_k", "recall", "zlib", "--models", "owner/reference", "--num_shots", "1"),
        *("--random_seed", "3", "--specific_source", "Wikipedia (en)", "--max_data=5"),
    )
    assert (code, err) == (0, "")
    there, here = f"{THERE}/wikipedia_(en)", "results/exp-out-owner_target-wikipedia_(en)"
    assert f"note: MIMIR's files are in {there}" in out
    assert any(line.startswith("note: revision, output_name: not in the name of MIMIR's folder") for line in out)
    assert f"written to {here}" in out
    names = {"loss", "zlib", "min_k", "recall", "ref-reference"}
    assert {path.name for path in Path(there).iterdir()} == {
        *(f"{name}_results.json" for name in names),
        *("config.json", "raw_data.json", "raw_data_lens.json"),
    }
    table = ours(here)
    for name in names:
        assert predictions(there, name) == [-value for value in table[name]]
        content = load(f"{there}/{name}_results.json")
        assert content["name"] == f"{name}_threshold"
        assert content["raw_results"]["member"] == [[one] for one in MEMBERS[:4]]
        metrics = load(f"{here}/metrics.json")[name]
        assert content["metrics"]["roc_auc"] == pytest.approx(metrics["auc_roc"]["value"])
    model = Model(models / "target")
    losses = [-model.ll(model.ids(one)) for one in [*MEMBERS[:4], *NONMEMBERS[:4]]]
    np.testing.assert_allclose(predictions(there, "loss"), losses, rtol=1e-5)
    assert load(f"{there}/raw_data.json") == {"nonmember": NONMEMBERS[:4], "member": MEMBERS[:4]}
    config = load(f"{there}/config.json")
    assert (config["n_samples"], config["blackbox_attacks"][0], config["random_seed"]) == (4, "ref", 3)


def test_a_folder_of_mimir_is_never_overwritten(
    mi: Callable[..., str], run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = mi(), "--rules", "mimir"
    assert run(*arguments)[0] == 0
    before = {path: path.read_bytes() for path in Path(THERE).iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "load_documents", lambda *data: pytest.fail("too late"))
        for more in ([], ["--overwrite"], ["--batch-tokens", "64", "--overwrite"]):
            code, out, err = run(*arguments, *more)
            assert (code, out) == (2, [])
            assert err.startswith(f"mimir-jax: {THERE}: exists, and MIMIR overwrites no results")
            assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path(THERE).iterdir()} == before

    # Moved away, it is written again, from our results.
    shutil.move(THERE, "elsewhere")
    monkeypatch.setattr(job, "load_source", lambda *source: pytest.fail("computed again"))
    code, out, _ = run(*arguments)
    assert code == 0
    assert f"nothing to compute: the same results are already in {HERE}" in out
    assert {path.name: path.read_bytes() for path in Path(THERE).iterdir()} == {
        path.name: content for path, content in before.items()
    }


def test_without_its_rules_mimir_writes_nothing(mi: Callable[..., str], run: Callable[..., Outcome]) -> None:
    code, out, _ = run(mi(), "--attacks", "rank", "loss")
    assert code == 0
    assert [path.name for path in Path("results").iterdir()] == ["exp-owner_target"]
    assert list(load(f"{HERE}/metrics.json")) == ["rank", "loss"]
    assert load(f"{HERE}/config.json")["rules"] == "paper"
    assert not any("MIMIR's files" in line for line in out)


def test_the_cache_gives_the_same_documents(
    mi: Callable[..., str], run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run", lambda *arguments, **named: pytest.fail("dump_cache scores nothing"))
        code, out, err = run(mi(), "--dump_cache", "true", "--cache_dir", "cache", "--n_samples", "4")
    assert (code, err) == (0, "")
    files = [f"cache/cache_1_20_4_512/{side}/the_pile.jsonl" for side in ("train", "test")]
    assert [line for line in out if line.startswith("written: ")] == [
        f"written: {file}; run again with load_from_cache" for file in files
    ]
    assert [json.loads(line) for line in Path(files[0]).read_text().splitlines()] == MEMBERS[:4]

    monkeypatch.setenv("MIMIR_CACHE_PATH", "cache")
    cached = translation_of(mi(), ["--load_from_cache", "true", "--n_samples", "4"], {"MIMIR_CACHE_PATH": "cache"})
    direct = translation_of(mi(), ["--n_samples", "4"], {})
    texts = [[(d.text, d.is_member) for d in load_documents(one.run.data)] for one, _ in (cached, direct)]
    assert texts[0] == texts[1]
    assert run(mi(), "--n_samples", "4")[0] == 0
    first = ours(HERE)
    assert run(mi(), "--n_samples", "4", "--load_from_cache", "true", "--experiment", "cached")[0] == 0
    assert ours("results/cached")["loss"] == first["loss"]


def cache(source: str, members: list[Any], nonmembers: list[Any], folder: str = "", name: str = "") -> None:
    for side, rows in (("train", members), ("test", nonmembers)):
        jsonl(f"cache/cache_1_20_5_512/{side}{folder}/the_pile_{source}{name}.jsonl", rows)


CACHED = {"load_from_cache": True, "n_samples": 5, "specific_source": "arxiv", "env_config": {"cache_dir": "cache"}}


def test_neighbors_and_further_nonmembers(mi: Callable[..., str], run: Callable[..., Outcome], models: Path) -> None:
    cache("arxiv", MEMBERS, NONMEMBERS)
    cache("github", [], [text(500, 6), text(501, 4)])
    near = [[[[one + " dog", "A " + one, one + " one"]] for one in side] for side in (MEMBERS, NONMEMBERS)]
    cache("arxiv", *near, "_neighbors", "_neighbors_3_bert_in_place_swap")
    config = mi(
        **CACHED,
        blackbox_attacks=["ne"],
        neighborhood_config={"model": "bert", "n_perturbation_list": [3, 1], "load_from_cache": True},
    )
    code, out, err = run(config, "--rules", "mimir")
    assert (code, err) == (0, "")
    assert any("all are read from the file of 3 neighbors, the first of each" in line for line in out)
    folder = f"{THERE}/arxiv"
    model = Model(models / "target")
    for name, n in (("ne-3", 3), ("ne-1", 1)):
        expected = []
        for one, (of,) in zip([*MEMBERS, *NONMEMBERS], [*near[0], *near[1]]):
            expected.append(min(-model.ll(model.ids(one)) + model.ll(model.ids(other)) for other in of[:n]))
        np.testing.assert_allclose(predictions(folder, name), expected, rtol=1e-3, atol=2e-5)

    others = [config, "--rules", "mimir", "--blackbox_attacks", "zlib"]
    others += ["--dataset_nonmember_other_sources", "github", "--experiment_name", "others"]
    code, out, err = run(*others)
    assert (code, err) == (0, "")
    found = load("results/others/owner_target/arxiv/loss_results.json")
    assert [len(found["predictions"][side]) for side in ("member", "nonmember")] == [5, 5]
    assert found["raw_results"]["nonmember"] == [[one] for one in NONMEMBERS]
    moved = load("results/others-owner_target-arxiv/transfer.json")
    assert [row["loss"]["n_nonmembers"] for row in moved.values()] == [2]


def test_neighbors_are_made(mi: Callable[..., str], run: Callable[..., Outcome], models: Path) -> None:
    """Within a run, or into MIMIR's cache, from where the same scores come."""
    near = {"model": "owner/mask", "n_perturbation_list": [3, 1]}
    there = {**CACHED, "blackbox_attacks": ["ne"]}
    cache("arxiv", MEMBERS, NONMEMBERS)
    code, out, err = run(mi(**there, neighborhood_config=near), "--rules", "mimir")
    assert (code, err) == (0, "")
    assert any("made by mask, 0 of 10 documents' by an earlier run" in line for line in out)
    folder = f"{THERE}/arxiv"
    made = {name: predictions(folder, name) for name in ("ne-3", "ne-1")}

    code, out, err = run(mi(**there, neighborhood_config={**near, "dump_cache": True}), "--rules", "mimir")
    assert (code, err) == (0, "")
    assert [line.split("/")[-1] for line in out if line.startswith("written")] == [
        f"the_pile_arxiv_neighbors_{n}_owner_mask_in_place_swap.jsonl; run again with load_from_cache"
        for n in (3, 3, 1, 1)
    ]
    again = mi(**there, neighborhood_config={**near, "load_from_cache": True}, experiment_name="again")
    code, out, err = run(again, "--rules", "mimir")
    assert (code, err) == (0, "")
    for name, expected in made.items():
        np.testing.assert_allclose(
            predictions(folder.replace("/exp/", "/again/"), name), expected, rtol=1e-5, atol=1e-6
        )


def test_members_are_perturbed_first(mi: Callable[..., str], run: Callable[..., Outcome], models: Path) -> None:
    """A random T5 fills nothing, so that the members stay; what it was asked for is in what it keeps."""
    near = {"model": "owner/t5", "max_tries": 1}
    code, out, err = run(mi(pre_perturb_pct=0.5, pre_perturb_span_length=3, neighborhood_config=near))
    assert (code, err) == (0, "")
    assert any("members are filled anew once" in line for line in out)
    (kept,) = Path("kept/mimir_jax/neighbors").iterdir()
    how = json.loads(kept.read_text().splitlines()[0])["provenance"]
    assert (how["length"], how["share"], how["count"], how["round_up"], how["max_tries"]) == (3, 0.5, 1, True, 1)
    there = Path("results/pre_perturbed")
    written = [json.loads(line)["text"] for line in (there / "exp-owner_target-members.jsonl").read_text().splitlines()]
    assert written == MEMBERS


@pytest.mark.parametrize("rules", ["mimir", "paper"])
def test_a_document_of_sub_texts_is_its_lowest(
    mi: Callable[..., str], run: Callable[..., Outcome], models: Path, rules: str
) -> None:
    sides = {f"presampled_dataset_{side}": jsonl(f"{side}.jsonl", some) for side, some in PARTS.items()}
    code, _, err = run(mi(full_doc=True, **sides), "--rules", rules)
    assert (code, err) == (0, "")
    model = Model(models / "target")
    lls = [[model.ll(model.ids(one)) for one in some] for side in ("member", "nonmember") for some in PARTS[side]]
    pooled = max if rules == "mimir" else np.mean
    np.testing.assert_allclose(ours(HERE)["loss"], [pooled(some) for some in lls], rtol=1e-5)
    if rules == "mimir":
        np.testing.assert_allclose(predictions(THERE, "loss"), [min(-ll for ll in some) for some in lls], rtol=1e-5)
        assert load(f"{THERE}/loss_results.json")["raw_results"] == PARTS


def test_beginnings_of_documents(mi: Callable[..., str], run: Callable[..., Outcome]) -> None:
    sides = {
        "presampled_dataset_member": jsonl("m.jsonl", [{"text": "the lazy dog jumps"}, {"text": "more books"}]),
        "presampled_dataset_nonmember": jsonl("n.jsonl", [{"text": "one reader"}, {"text": "than the Fox"}]),
    }
    code, _, err = run(mi(tok_by_tok=True, **sides), "--rules", "mimir")
    assert (code, err) == (0, "")
    raw = load(f"{THERE}/raw_data.json")
    assert raw["nonmember"] == ["one", "one reader", "than", "than the", "than the Fox"]
    assert raw["member"] == ["the", "the lazy", "more", "more books", "more books"]
    assert load(f"{THERE}/raw_data_lens.json") == [[4, 2], [2, 3]]
    assert ours(HERE)["id"][:2] == ["m:1/1", "m:1/2"]


def test_documents_of_token_ids(mi: Callable[..., str], run: Callable[..., Outcome], models: Path) -> None:
    rows = np.random.default_rng(0).integers(1, 300, (6, 9))
    for name, some in (("in", rows[:3]), ("out", rows[3:])):
        np.save(f"{name}.npy", some)
    sides = {"presampled_dataset_member": "in.npy", "presampled_dataset_nonmember": "out.npy"}
    assert run(mi(pretokenized=True, **sides), "--rules", "mimir")[0] == 0
    model = Model(models / "target")
    np.testing.assert_allclose(predictions(THERE, "loss"), [-model.ll(row) for row in rows], rtol=1e-5)
    assert not Path(THERE, "raw_data.json").exists()


@pytest.mark.parametrize("rules", ["mimir", "paper"])
def test_a_token_frequency_map(mi: Callable[..., str], run: Callable[..., Outcome], models: Path, rules: str) -> None:
    counts = np.random.default_rng(1).integers(0, 50, 300)
    Path("map.json").write_text(json.dumps({str(i): int(n) for i, n in enumerate(counts)}))
    config = mi(token_frequency_map="map.json", blackbox_attacks=["dc_pdd"])
    assert run(config, "--rules", rules)[0] == 0
    model = Model(models / "target")
    size = 301 if rules == "mimir" else 300
    padded = np.append(counts, [0] * (size - 300))
    surprise = -np.log((padded + 1) / (padded.sum() + size))
    for value, one in zip(ours(HERE)["dc_pdd"], MEMBERS):
        ids = [model.tokenizer.eos_token_id, *model.ids(one)] if rules == "mimir" else model.ids(one)
        probability, ids = np.exp(model.log_probs(ids)), ids[1:]
        first = [ids.index(token) for token in dict.fromkeys(ids)]
        expected = np.minimum(probability[first] * surprise[[ids[i] for i in first]], 0.01).mean()
        assert value == pytest.approx(expected, rel=1e-4)


# What is refused


@pytest.mark.parametrize(
    ("changes", "arguments", "parts"),
    [
        ({"n_sample": 3}, [], ["mi.json: n_sample: unknown key (did you mean n_samples?)"]),
        ({"base_model": None}, [], ["mi.json: base_model: is missing"]),
        ({"recall_config": {"shots": 1}}, [], ["recall_config.shots: unknown key"]),
        ({}, ["--n_samples", "many"], ["the command line: n_samples: ", "'many'"]),
        ({}, ["--n_samples"], ["--n_samples needs a value"]),
        ({}, ["--blackbox_attacks", "lose"], ["blackbox_attacks: unknown 'lose'"]),
        ({}, ["--blackbox_attacks", "recall"], ["recall needs a recall_config"]),
        ({}, ["--presampled_dataset_member", "none.jsonl"], ["none.jsonl: no such file or folder"]),
        ({}, ["--base_model", "owner/none"], ["owner/none"]),
        (
            {"recall_config": {"num_shots": 6}},
            ["--blackbox_attacks", "recall"],
            ["6 shots of nonmembers are asked for"],
        ),
        ({}, ["--attacks", "min_k@k=0"], ["min_k@k=0: k"]),
        ({"blackbox_attacks": ["dc_pdd"], "token_frequency_map": "none.json"}, [], ["none.json: not counts by token"]),
        ({"blackbox_attacks": ["dc_pdd"], "token_frequency_map": "map.json"}, [], ["map.json: token 300: ", "another"]),
        (
            {"blackbox_attacks": ["ref"], "ref_config": {"models": ["owner/none"]}},
            [],
            ["owner/none: no such local folder"],
        ),
    ],
)
def test_bad_input_is_one_line(
    mi: Callable[..., str],
    run: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    arguments: list[str],
    parts: list[str],
) -> None:
    monkeypatch.setattr(job, "load_source", lambda *source: pytest.fail("weights are read"))
    Path("map.json").write_text(json.dumps({"300": 1}))
    code, out, err = run(mi(**changes), *arguments)
    assert (code, out) == (2, [])
    assert err.startswith("mimir-jax: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert not Path("results").exists()


def test_neighbors_of_other_documents(mi: Callable[..., str], run: Callable[..., Outcome]) -> None:
    cache("arxiv", MEMBERS, NONMEMBERS)
    cache("arxiv", [[["a"]]] * 3, [[["a"]]] * 5, "_neighbors", "_neighbors_1_bert_in_place_swap")
    near = {"model": "bert", "n_perturbation_list": [1], "load_from_cache": True}
    code, _, err = run(mi(**CACHED, blackbox_attacks=["ne"], neighborhood_config=near))
    assert code == 2
    assert "the_pile_arxiv_neighbors_1_bert_in_place_swap.jsonl: 3 lines of neighbors for 5 documents" in err


# Beside it


def test_a_native_configuration_with_the_rules_of_mimir(run: Callable[..., Outcome], mi: Callable[..., str]) -> None:
    mi()
    config = RunConfig(model="owner/target", experiment="own", attacks=("loss", "min_k"))
    config = replace(config, data=replace(config.data, members="in.jsonl", nonmembers="out.jsonl"))
    Path("own.json").write_text(to_json(config))
    code, _, err = run("own.json", "--rules", "mimir", "--data.max-documents", "3")
    assert (code, err) == (0, "")
    assert [path.name for path in Path("results").iterdir()] == ["own"]
    assert load("results/own/config.json")["rules"] == "mimir"
    short = jsonl("short.jsonl", ["dog", *MEMBERS])  # a fifth of whose tokens is none
    code, _, _ = run("own.json", "--rules", "mimir", "--data.members", short, "--experiment", "short")
    assert code == 0
    reasons = ours("results/short")["reason"]
    assert reasons[0] == "min_k: the share of its tokens that is selected is none"
    assert run("own.json", "--data.members", short, "--experiment", "paper")[0] == 0
    assert ours("results/paper")["reason"][0] is None


def test_an_endpoint(mi: Callable[..., str], run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "load_source", lambda *source: pytest.fail("a model is loaded"))
    with serving() as server:
        config = mi(openai_config={"key": "sk-secret", "model": "davinci", "base_url": server.url})
        code, _, err = run(config, "--rules", "mimir", "--blackbox_attacks", "loss", "min_k")
        assert (code, err) == (0, "")
        expected = [-log_probs(one, "<|endoftext|>").mean() for one in [*MEMBERS, *NONMEMBERS]]
        np.testing.assert_allclose(predictions(THERE, "loss"), expected, rtol=1e-5)
        assert set(server.keys) == {"Bearer sk-secret"}
        asked = len(server.requests)
        here = "results/exp-openai-davinci"
        for path in [*Path(here).rglob("*"), *Path(THERE).rglob("*")]:
            assert path.is_dir() or b"sk-secret" not in path.read_bytes()

        # What is written beside our results runs again, without MIMIR's file.
        code, out, err = run(f"{here}/config.json", "--rules", "mimir")
        assert (code, err, len(server.requests)) == (0, "", asked)
        assert out[-1] == f"nothing to compute: the same results are already in {here}"

        code, _, err = run(config, "--blackbox_attacks", "gradnorm", "--experiment_name", "more")
        assert code == 2
        assert "gradnorm: an API gives log-probs of tokens and no more" in err
        assert len(server.requests) == asked


def test_an_endpoint_of_our_own_options(mi: Callable[..., str], run: Callable[..., Outcome]) -> None:
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-other")
        code, _, err = run(mi(), "--endpoint.base-url", server.url, "--model", "m")
        assert (code, err) == (0, "")
        assert set(server.keys) == {"Bearer sk-other"}
        assert {request["model"] for request in server.requests} == {"m"}

"""MIMIR's results folder: what is in it, and that it is read again."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from mimir_jax.compat.mimir.config import MimirConfig, is_mimir, read
from mimir_jax.compat.mimir.results import (
    average_references,
    config_json,
    read_result,
    read_results,
    refuse_existing,
    write,
)
from mimir_jax.compat.mimir.translation import translate
from mimir_jax.config import ConfigError
from mimir_jax.data.documents import Document
from mimir_jax.metrics import MetricsError, auc_roc

pytestmark = pytest.mark.slow  # as a whole

MEMBERS = ["one two  three", "four five", "six seven\neight nine", "ten"]
NONMEMBERS = ["a b c", "d  e", "f g h i j", "k l"]
CONFIG = {
    "experiment_name": "exp",
    "base_model": "owner/model",
    "dataset_member": "the_pile",
    "dataset_nonmember": "the_pile",
    "specific_source": "Wikipedia (en)",
    "output_name": "out",
    "revision": "step1",
    "blackbox_attacks": ["ref", "zlib", "ne"],
    "ref_config": {"models": ["x/gpt2"]},
    "neighborhood_config": {"model": "bert", "n_perturbation_list": [25], "load_from_cache": True},
    "fpr_list": [0.3, 0.5],
    "random_seed": 4,
}


def config(**changes: Any) -> MimirConfig:
    return MimirConfig.model_validate(CONFIG | changes)


def documents() -> list[Document]:
    """Members and non-members in turn: rows may come in any order."""
    rows = []
    for i, pair in enumerate(zip(MEMBERS, NONMEMBERS)):
        rows += [Document(f"{side}{i}", text, side == "m", side) for side, text in zip("mn", pair)]
    return rows


def scores() -> dict[str, np.ndarray]:
    """Ours: higher = member. Members are at even rows."""
    rng = np.random.default_rng(0)
    made = {name: -rng.uniform(1, 3, 8).astype(np.float32) for name in ("ref-gpt2", "zlib", "ne", "loss")}
    made["zlib"][2] = np.nan
    return made


NAMES = {"loss": "loss", "zlib": "zlib", "ne": "ne-25", "ref-gpt2": "ref-gpt2"}


def written(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "results" / "folder"
    assert write(folder, config(**changes), documents(), scores(), NAMES, figures=False) == []
    return folder


def shape(content: object) -> object:
    """The keys of nested objects, in order."""
    return {key: shape(value) for key, value in content.items()} if isinstance(content, Mapping) else type(content)


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "folder"
    write(folder, config(), documents(), scores(), NAMES)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "raw_data.json",
        "raw_data_lens.json",
        "loss_results.json",
        "zlib_results.json",
        "ne-25_results.json",
        "ref-gpt2_results.json",
        "roc_curves.png",
        "roc_curves_low_fpr.png",
        "ll_histograms_loss_threshold.png",
        "llr_histograms_ne-25_threshold.png",
        "llr_histograms_ref-gpt2_threshold.png",
    }
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000
    assert list(folder.parent.iterdir()) == [folder]  # nothing half-written is left


def test_the_schema_of_a_result(tmp_path: Path) -> None:
    content = load(written(tmp_path) / "loss_results.json")
    assert shape(content) == {
        "name": str,
        "predictions": {"member": list, "nonmember": list},
        "info": {"n_samples": int},
        "raw_results": {"member": list, "nonmember": list},
        "metrics": {
            "roc_auc": float,
            "fpr": list,
            "tpr": list,
            "bootstrap_roc_auc_mean": float,
            "bootstrap_roc_auc_std": float,
            "tpr_at_low_fpr": {"0.3": float, "0.5": float},
            "thresholds": list,
        },
        "pr_metrics": {"pr_auc": float, "precision": list, "recall": list},
        "loss": float,
    }
    orders = {"": content, "metrics": content["metrics"], "pr_metrics": content["pr_metrics"]}
    assert {name: list(part) for name, part in orders.items()} == {
        "": ["name", "predictions", "info", "raw_results", "metrics", "pr_metrics", "loss"],
        "metrics": [
            "roc_auc",
            "fpr",
            "tpr",
            "bootstrap_roc_auc_mean",
            "bootstrap_roc_auc_std",
            "tpr_at_low_fpr",
            "thresholds",
        ],
        "pr_metrics": ["pr_auc", "precision", "recall"],
    }
    assert content["name"] == "loss_threshold"
    assert content["info"] == {"n_samples": 4}
    # each sample is the list of its texts
    assert content["raw_results"] == {"member": [[t] for t in MEMBERS], "nonmember": [[t] for t in NONMEMBERS]}


def test_scores_have_mimirs_orientation(tmp_path: Path) -> None:
    folder = written(tmp_path)
    for column, name in NAMES.items():
        predictions = load(folder / f"{name}_results.json")["predictions"]
        np.testing.assert_array_equal(predictions["member"], -scores()[column][0::2].astype(float))
        np.testing.assert_array_equal(predictions["nonmember"], -scores()[column][1::2].astype(float))
    assert "NaN" in (folder / "zlib_results.json").read_text()  # as MIMIR writes a document without a score


def test_metrics_are_those_of_mimirs_code(tmp_path: Path) -> None:
    """Stated again: scikit-learn's curves on negated scores, the bootstrap on scores negated twice."""
    folder = written(tmp_path)
    # MIMIR's generator is seeded once, and drawn from by one attack after another, in this order.
    random = np.random.RandomState(4)
    for column, name in NAMES.items():
        content = load(folder / f"{name}_results.json")
        values = scores()[column].astype(float)
        sides = [[x for x in -values[start::2] if not math.isnan(x)] for start in (0, 1)]
        raw = np.array([*sides[0], *sides[1]])
        is_member = np.repeat([1, 0], [len(side) for side in sides])
        fpr, tpr, thresholds = sklearn_metrics.roc_curve(is_member, -raw)
        found = content["metrics"]
        assert found["fpr"] == fpr.tolist()
        assert found["tpr"] == tpr.tolist()
        assert found["thresholds"] == thresholds.tolist()
        assert found["roc_auc"] == sklearn_metrics.auc(fpr, tpr)
        budgets = {str(b): [t for f, t in zip(fpr, tpr) if f < b][-1] for b in (0.3, 0.5)}
        assert found["tpr_at_low_fpr"] == budgets
        precision, recall, _ = sklearn_metrics.precision_recall_curve(1 - is_member, raw)
        assert content["pr_metrics"]["precision"] == precision.tolist()
        assert content["pr_metrics"]["recall"] == recall.tolist()
        area = sklearn_metrics.auc(recall, precision)
        assert content["pr_metrics"]["pr_auc"] == area
        assert content["loss"] == 1 - area
        resampled = []
        for drawn in random.randint(0, len(raw), size=(1000, len(raw))):
            inside, outside = raw[drawn][is_member[drawn] == 1], raw[drawn][is_member[drawn] == 0]
            pairs = (inside[:, None] > outside) + (inside[:, None] == outside) / 2
            resampled.append(np.mean(pairs) if pairs.size else math.nan)
        np.testing.assert_allclose(found["bootstrap_roc_auc_mean"], np.mean(resampled), rtol=1e-12)
        np.testing.assert_allclose(found["bootstrap_roc_auc_std"], np.std(resampled, ddof=1), rtol=1e-12)


def test_raw_data_and_its_lengths(tmp_path: Path) -> None:
    folder = written(tmp_path)
    data = load(folder / "raw_data.json")
    assert list(data.items()) == [("nonmember", NONMEMBERS), ("member", MEMBERS)]
    # members between single spaces, non-members between any white space
    assert load(folder / "raw_data_lens.json") == [[4, 3], [2, 2], [3, 5], [1, 2]]


def test_config_json_has_every_key_in_order(tmp_path: Path) -> None:
    folder = written(tmp_path)
    text = (folder / "config.json").read_text()
    content = json.loads(text)
    assert is_mimir(content)
    assert list(content) == [
        "experiment_name",
        "base_model",
        "dataset_member",
        "dataset_nonmember",
        "output_name",
        "dataset_nonmember_other_sources",
        "pretokenized",
        "revision",
        "presampled_dataset_member",
        "presampled_dataset_nonmember",
        "token_frequency_map",
        "dataset_key",
        "specific_source",
        "full_doc",
        "max_substrs",
        "dump_cache",
        "load_from_cache",
        "load_from_hf",
        "blackbox_attacks",
        "tokenization_attack",
        "quantile_attack",
        "n_samples",
        "max_tokens",
        "max_data",
        "min_words",
        "max_words",
        "max_words_cutoff",
        "batch_size",
        "chunk_size",
        "scoring_model_name",
        "top_k",
        "do_top_k",
        "top_p",
        "do_top_p",
        "pre_perturb_pct",
        "pre_perturb_span_length",
        "tok_by_tok",
        "fpr_list",
        "random_seed",
        "ref_config",
        "recall_config",
        "neighborhood_config",
        "env_config",
        "openai_config",
    ]
    assert text.startswith('{\n    "experiment_name": "exp",\n    "base_model"')
    assert content["fpr_list"] == [0.3, 0.5]
    again = read(folder / "config.json")
    assert again.model_dump() == config().model_dump()
    assert translate(again).run == translate(config()).run


def test_a_key_is_not_written() -> None:
    content = config_json(config(openai_config={"key": "sk-secret", "model": "m", "base_url": "http://u"}))
    assert "secret" not in content
    assert json.loads(content)["openai_config"] == {"key": "<hidden>", "model": "m"}


def test_sub_texts_become_documents(tmp_path: Path) -> None:
    """full_doc: the lowest of MIMIR's values, which is our highest."""
    rows = [
        Document("p0", "a", True, "s", parent="p"),
        Document("p1", "b", True, "s", parent="p"),
        Document("q0", "c", False, "s", parent="q"),
        Document("r0", "d", True, "s", parent="r"),
        Document("q1", "e", False, "s", parent="q"),
        Document("q2", "f", False, "s", parent="q"),
    ]
    values = {"loss": np.array([-1, -2, -5, np.nan, -4, -6], np.float32)}
    folder = tmp_path / "full"
    write(folder, config(full_doc=True), rows, values, figures=False)
    content = load(folder / "loss_results.json")
    assert content["predictions"]["member"][0] == 1
    assert math.isnan(content["predictions"]["member"][1])
    assert content["predictions"]["nonmember"] == [4]
    assert content["raw_results"] == {"member": [["a", "b"], ["d"]], "nonmember": [["c", "e", "f"]]}
    assert load(folder / "raw_data.json") == {"nonmember": [["c", "e", "f"]], "member": [["a", "b"], ["d"]]}
    assert load(folder / "raw_data_lens.json") == []


def test_beginnings_are_documents_of_their_own(tmp_path: Path) -> None:
    """tok_by_tok: rows of one text are not joined, even if they say which text they are of."""
    rows = [
        Document(f"{label}{i}", "w " * i, label, "s", parent=str(label)) for label in (True, False) for i in range(3)
    ]
    folder = tmp_path / "tokens"
    write(folder, config(tok_by_tok=True), rows, {"loss": -np.arange(6.0)}, lengths=[(3, 3)], figures=False)
    assert load(folder / "loss_results.json")["predictions"]["member"] == [0, 1, 2]
    assert load(folder / "raw_data_lens.json") == [[3, 3]]


def test_token_ids_are_not_written_as_texts(tmp_path: Path) -> None:
    rows = [Document(f"d{i}", "", i < 2, "s", token_ids=(1, 2)) for i in range(4)]
    folder = tmp_path / "tokens"
    write(folder, config(pretokenized=True), rows, {"loss": -np.arange(4.0)}, figures=False)
    assert load(folder / "loss_results.json")["raw_results"] == []
    assert not (folder / "raw_data.json").exists()
    assert not (folder / "raw_data_lens.json").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = written(tmp_path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for attempt in (lambda: refuse_existing(folder), lambda: write(folder, config(), documents(), scores(), NAMES)):
        with pytest.raises(ConfigError, match="exists, and MIMIR overwrites no results"):
            attempt()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    refuse_existing(tmp_path / "other")


def test_what_an_interrupted_run_left_is_replaced(tmp_path: Path) -> None:
    partial = tmp_path / "results" / "folder.partial"
    partial.mkdir(parents=True)
    (partial / "old.json").write_text("{}")
    folder = written(tmp_path)
    assert not (folder / "old.json").exists()
    assert not partial.exists()


def test_columns_without_a_name_keep_theirs_and_come_last(tmp_path: Path) -> None:
    values = {"wbc": scores()["zlib"], "a/b": scores()["ne"], "loss": scores()["loss"]}
    folder = tmp_path / "more"
    write(folder, config(), documents(), values, NAMES, figures=False)
    assert sorted(read_results(folder)) == ["a_b", "loss", "wbc"]
    # loss draws first, whatever the order of columns, so that its bootstrap is the same
    assert load(folder / "loss_results.json") == load(written(tmp_path) / "loss_results.json")
    with pytest.raises(ConfigError, match=r"a_b_results\.json would be written twice"):
        write(tmp_path / "twice", config(), documents(), {"a/b": values["loss"], "a_b": values["loss"]})


def test_an_attack_without_scores_is_said(tmp_path: Path) -> None:
    values = {"loss": scores()["loss"], "zlib": np.full(8, np.nan, np.float32)}
    folder = tmp_path / "nan"
    (note,) = write(folder, config(), documents(), values, figures=False)
    assert "zlib_results.json: not written" in note
    assert list(read_results(folder)) == ["loss"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write(tmp_path / "file" / "folder", config(), documents(), scores())


def test_the_folder_is_where_mimir_looks(tmp_path: Path) -> None:
    found = translate(config(env_config={"results": str(tmp_path / "r")}))
    assert found.folder == tmp_path / "r" / "exp" / "owner_model" / "wikipedia_(en)"
    write(found.folder, found.mimir, documents(), scores(), found.columns(lambda spec: spec.removesuffix("@n=25")))
    assert set(read_results(found.folder)) == {"loss", "zlib", "ne-25", "ref-gpt2"}


# --- reading


def test_results_are_read_in_our_orientation(tmp_path: Path) -> None:
    found = read_results(written(tmp_path))
    for column, name in NAMES.items():
        np.testing.assert_array_equal(found[name].members, scores()[column][0::2])
        np.testing.assert_array_equal(found[name].nonmembers, scores()[column][1::2])
        assert found[name].attack == name
    assert found["loss"].stored["name"] == "loss_threshold"


def test_older_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "likelihood_threshold_results.json"
    path.write_text('{"predictions": {"members": [1.0, NaN], "nonmembers": [2.0]}}')
    found = read_result(path)
    np.testing.assert_array_equal(found.members, [-1, np.nan])
    np.testing.assert_array_equal(found.nonmembers, [-2])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"predictions": []}',
        '{"predictions": {"member": [1]}}',
        '{"predictions": {"member": ["a"], "nonmember": [1]}}',
        '{"predictions": {"member": 1, "nonmember": [1]}}',
    ],
)
def test_files_that_are_no_results(tmp_path: Path, text: str) -> None:
    path = tmp_path / "loss_results.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"loss_results\.json: not a result of MIMIR's"):
        read_results(tmp_path)


def test_folders_without_results(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match=r"no <attack>_results\.json is there"):
            read_results(folder)


# --- averages


def reference(tmp_path: Path, name: str, member: list[float], nonmember: list[float], texts: object = None) -> Path:
    path = tmp_path / f"ref-{name}_results.json"
    path.write_text(json.dumps({"predictions": {"member": member, "nonmember": nonmember}, "raw_results": texts or []}))
    return path


def test_references_are_averaged(tmp_path: Path) -> None:
    first = reference(tmp_path, "a", [1.0, 2.0, 5.0], [2.0, 4.0])
    second = reference(tmp_path, "b", [0.0, 1.0, 3.0], [5.0, 2.0])
    found = average_references([first, second])
    np.testing.assert_array_equal(found.members, [-0.5, -1.5, -4.0])
    np.testing.assert_array_equal(found.nonmembers, [-3.5, -3.0])
    assert found.metrics.auc_roc.value == pytest.approx(auc_roc([-0.5, -1.5, -4.0, -3.5, -3.0], [1, 1, 1, 0, 0]))
    assert (found.metrics.n_members, found.metrics.n_nonmembers) == (3, 2)
    # MIMIR's script: non-members are called at and above a threshold of the average
    fpr, tpr, _ = sklearn_metrics.roc_curve([0, 0, 0, 1, 1], [0.5, 1.5, 4.0, 3.5, 3.0])
    assert found.mimir == {
        "roc_auc": pytest.approx(sklearn_metrics.auc(fpr, tpr)),
        "tpr_at_low_fpr": {b: [t for f, t in zip(fpr, tpr) if f < b][-1] for b in (0.001, 0.01)},
    }
    alone = average_references([first])
    np.testing.assert_array_equal(alone.members, [-1, -2, -5])


def test_only_files_of_the_same_documents_are_averaged(tmp_path: Path) -> None:
    first = reference(tmp_path, "a", [1.0, 2.0], [2.0], {"member": [["x"], ["y"]], "nonmember": [["z"]]})
    shorter = reference(tmp_path, "b", [1.0], [2.0])
    other = reference(tmp_path, "c", [1.0, 2.0], [2.0], {"member": [["x"], ["!"]], "nonmember": [["z"]]})
    for path in (shorter, other):
        with pytest.raises(ConfigError, match=f"{path.name} is of other documents than .*ref-a"):
            average_references([first, path])
    with pytest.raises(ConfigError, match="no result files"):
        average_references([])
    empty = reference(tmp_path, "d", [float("nan")], [1.0])
    with pytest.raises(MetricsError):
        average_references([empty])

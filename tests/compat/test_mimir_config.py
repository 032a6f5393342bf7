"""MIMIR's configuration files and command lines, and what they mean here."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.attacks.registry import AttackError
from mimir_jax.compat.mimir.config import (
    RETIRED,
    DataSettings,
    MimirConfig,
    NeighborSettings,
    is_mimir,
    override,
    read,
)
from mimir_jax.compat.mimir.translation import ATTACKS, read_frequencies, results_folder, translate
from mimir_jax.config import ConfigError, RunConfig, to_json
from mimir_jax.scoring.api import ApiError

PILE = {"dataset_member": "the_pile", "dataset_nonmember": "the_pile", "min_words": 100, "max_words": 200}
LIMITS = {"max_tokens": 512, "max_data": 100000, "n_samples": 1000, "output_name": "unified_mia"}
NEO = {"base_model": "EleutherAI/gpt-neo-125m"} | PILE | LIMITS
STABLELM = {"models": ["stabilityai/stablelm-base-alpha-3b-v2"]}
BERT = {"model": "bert", "n_perturbation_list": [25], "pct_words_masked": 0.3, "span_length": 2}
CACHED = BERT | {"dump_cache": False, "load_from_cache": True}
RANDOM = CACHED | {"neighbor_strategy": "random"}
ONE_GPU = {"results": "results_new", "device": "cuda:0", "device_aux": "cuda:0"}
SPREAD = {"results": "results_new", "device_map": "balanced_low_0"}
FILTERED = "Github_ngram_13_<0.8_truncated"

# The configuration files of MIMIR's repository: their keys and values.
FILES: dict[str, dict[str, Any]] = {
    "cache_data": {
        "experiment_name": "cache_data",
        "base_model": "EleutherAI/pythia-160m",
        **PILE,
        "max_tokens": 512,
        "output_name": "cache_data",
        "specific_source": "pile_cc",
        "n_samples": 1000,
        "blackbox_attacks": [],
        "neighborhood_config": {
            "model": "bert",
            "n_perturbation_list": [20],
            "pct_words_masked": 0.3,
            "span_length": 2,
        },
        "env_config": {"results": "results", "cache_dir": "cache_dir"},
        "dump_cache": True,
        "load_from_cache": False,
        "load_from_hf": False,
    },
    "mi": NEO
    | {
        "experiment_name": "neo125_github_experiment",
        "specific_source": FILTERED,
        "blackbox_attacks": ["loss", "ref", "min_k", "zlib", "ne"],
        "ref_config": STABLELM,
        "neighborhood_config": RANDOM,
        "env_config": ONE_GPU,
        "dump_cache": False,
        "load_from_hf": True,
    },
    "mi_other_source": NEO
    | {
        "base_model": "EleutherAI/pythia-160m-deduped",
        "dataset_nonmember_other_sources": ["arxiv"],
        "specific_source": "arxiv_2021_01",
        "blackbox_attacks": ["ref"],
        "ref_config": STABLELM,
        "neighborhood_config": CACHED,
        "env_config": {"results": "results_new"},
        "dump_cache": False,
        "load_from_cache": True,
    },
    "ne": NEO
    | {
        "experiment_name": "neo125_github_experiment_ne",
        "specific_source": "wikipedia_(en)",
        "blackbox_attacks": ["ne"],
        "ref_config": STABLELM,
        "neighborhood_config": RANDOM,
        "env_config": SPREAD,
        "dump_cache": False,
        "load_from_cache": True,
    },
    "new_mi": NEO
    | {
        "experiment_name": "edited_members_exp",
        "specific_source": "Github",
        "blackbox_attacks": ["loss", "ref", "min_k", "zlib"],
        "ref_config": STABLELM,
        "env_config": SPREAD,
        "dump_cache": False,
        "load_from_cache": True,
        "load_from_hf": False,
    },
    "olmo": NEO
    | {
        "experiment_name": "neo125_github_experiment",
        "specific_source": "Github",
        "blackbox_attacks": ["loss", "ref", "min_k", "zlib"],
        "ref_config": STABLELM,
        "neighborhood_config": RANDOM | {"load_from_cache": False},
        "env_config": ONE_GPU,
        "dump_cache": False,
        "load_from_cache": False,
        "load_from_hf": True,
    },
    "recall": NEO
    | {
        "experiment_name": "recall",
        "base_model": "EleutherAI/pythia-1.4b",
        "specific_source": FILTERED,
        "blackbox_attacks": ["loss", "ref", "zlib", "min_k", "min_k++", "recall"],
        "env_config": ONE_GPU,
        "ref_config": {"models": ["EleutherAI/pythia-160m"]},
        "recall_config": {"num_shots": 1},
        "neighborhood_config": RANDOM,
        "dump_cache": False,
        "load_from_cache": False,
        "load_from_hf": True,
    },
    "ref_exp_mi": NEO
    | {
        "specific_source": "Github",
        "blackbox_attacks": ["ref"],
        "ref_config": {
            "models": ["EleutherAI/pythia-1.4b", "distilgpt2", "EleutherAI/gpt-neo-1.3B", "facebook/opt-1.3B"]
        },
        "neighborhood_config": CACHED,
        "env_config": SPREAD,
        "dump_cache": False,
        "load_from_cache": True,
    },
    "single_gpu_mi": NEO
    | {
        "specific_source": "Github",
        "blackbox_attacks": ["ne"],
        "ref_config": {"models": []},
        "neighborhood_config": CACHED,
        "env_config": ONE_GPU,
        "dump_cache": False,
        "load_from_cache": True,
    },
}
# Files that MIMIR itself cannot run, and what is said of them.
GENERATING = NEO | {
    "blackbox_attacks": ["ne"],
    "ref_config": {"models": ["gpt2"]},
    "dump_cache": False,
    "load_from_cache": True,
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "neighbor_gen": (
        GENERATING
        | {
            "output_name": "neighbor_gen",
            "specific_source": "ArXiv",
            "neighborhood_config": BERT | {"model": "t5-small", "dump_cache": True, "load_from_cache": False},
            "env_config": {"results": "results_new_again_again"},
        },
        "neighborhood_config: dump_cache with load_from_hf",
    ),
    "neighbor_gen_new": (
        GENERATING
        | {
            "specific_source": "arxiv_ngram_13_<0.8_truncated",
            "neighborhood_config": RANDOM | {"dump_cache": True, "load_from_cache": False},
            "env_config": {"results": "neighbor_gen_new"},
        },
        "neighborhood_config: dump_cache with load_from_hf",
    ),
    "quantile": (
        NEO
        | {
            "specific_source": "arxiv",
            "quantile_attack": True,
            "ref_config": {"models": ["gpt2"]},
            "neighborhood_config": BERT | {"n_perturbation_list": [5], "dump_cache": False, "load_from_cache": False},
            "env_config": {"results": "results_with_quantile"},
            "dump_cache": False,
            "load_from_cache": True,
        },
        "blackbox_attacks: none are named",
    ),
}


def config(name: str = "mi", **changes: Any) -> MimirConfig:
    return MimirConfig.model_validate(FILES[name] | changes)


def words(line: str) -> list[str]:
    return line.split()


def write(tmp_path: Path, values: object) -> Path:
    path = tmp_path / "mi.json"
    path.write_text(json.dumps(values))
    return path


# --- files


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_read_and_translated(name: str, tmp_path: Path) -> None:
    values = FILES[name]
    found = read(write(tmp_path, values))
    assert found.model_dump(mode="json", exclude_unset=True) == values
    run = translate(found)
    assert run.run.model == values["base_model"]
    assert run.run.results == values["env_config"]["results"]
    assert run.data.n_samples == 1000
    assert run.data.specific_source == values["specific_source"]
    assert run.run.attacks is not None
    assert run.run.attacks[0] == "loss"  # MIMIR always scores it


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_run_say_why(name: str, tmp_path: Path) -> None:
    values, reason = REFUSED[name]
    found = read(write(tmp_path, values))
    with pytest.raises(ConfigError, match=reason):
        translate(found)


def test_a_file_for_an_older_mimir_names_its_keys(tmp_path: Path) -> None:
    values = NEO | {"extraction_config": {"prompt_len": 30}, "ref_config": {"model": "gpt2"}}
    with pytest.raises(ConfigError) as error:
        read(write(tmp_path, values))
    message = str(error.value)
    assert "extraction_config: unknown key" in message
    assert "ref_config.model: unknown key (did you mean models?)" in message
    assert "ref_config.models: is missing" in message


def test_defaults_are_those_of_mimir() -> None:
    required = {"experiment_name": "a", "base_model": "b", "dataset_member": "c", "dataset_nonmember": "d"}
    found = MimirConfig.model_validate(required).model_dump(mode="json", exclude={*RETIRED})
    falsy = words(
        "pretokenized full_doc dump_cache load_from_cache tokenization_attack quantile_attack do_top_k do_top_p "
        "tok_by_tok"
    )
    nothing = words(
        "output_name dataset_nonmember_other_sources revision presampled_dataset_member presampled_dataset_nonmember "
        "token_frequency_map dataset_key specific_source blackbox_attacks scoring_model_name ref_config recall_config "
        "neighborhood_config env_config openai_config"
    )
    numbers = {
        "max_substrs": 20,
        "n_samples": 200,
        "max_tokens": 512,
        "max_data": 5000,
        "min_words": 100,
        "max_words": 200,
        "batch_size": 50,
        "chunk_size": 20,
        "top_k": 40,
        "top_p": 0.96,
        "pre_perturb_pct": 0.0,
        "pre_perturb_span_length": 5,
        "fpr_list": [0.001, 0.01],
        "random_seed": 0,
    }
    true = {"load_from_hf": True, "max_words_cutoff": True}
    assert found == required | dict.fromkeys(falsy, False) | dict.fromkeys(nothing) | numbers | true
    sections = {"ref_config": {"models": []}, "recall_config": {}, "neighborhood_config": {"model": "bert"}}
    found = config(**sections, env_config={}).model_dump(mode="json")
    assert found["recall_config"] == {"num_shots": 1}
    assert found["neighborhood_config"] == {
        "model": "bert",
        "n_perturbation_list": [1, 10],
        "dump_cache": False,
        "load_from_cache": False,
        "original_tokenization_swap": True,
        "pct_swap_bert": 0.05,
        "neighbor_strategy": "deterministic",
        "span_length": 2,
        "random_fills_tokens": False,
        "random_fills": False,
        "pct_words_masked": 0.3,
        "buffer_size": 1,
        "top_p": 1.0,
        "max_tries": 100,
        "ceil_pct": False,
    }
    assert found["env_config"] == {
        "cache_dir": None,
        "data_source": None,
        "device": "cuda:0",
        "device_map": None,
        "device_aux": "cuda:1",
        "compile": True,
        "int8": False,
        "half": False,
        "results": "results",
        "tmp_results": "tmp_results",
    }


def test_values_are_converted_as_mimir_converts_them() -> None:
    found = config(n_samples="1000", revision=99000, pretokenized="yes", fpr_list=[1, "0.1"], load_from_hf=None)
    assert (found.n_samples, found.revision, found.pretokenized) == (1000, "99000", True)
    assert found.fpr_list == (1.0, 0.1)
    assert found.load_from_hf is False  # null is off, not the default


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_sample": 3}, r"n_sample: unknown key \(did you mean n_samples\?\)"),
        ({"models": ["a"]}, r"models: unknown key \(did you mean ref_config\.models\?\)"),
        ({"neighborhood_config": {"model": "bert", "span": 2}}, r"neighborhood_config\.span: unknown key"),
        ({"n_samples": "many"}, "n_samples: .*integer.*not 'many'"),
        ({"n_samples": None}, "n_samples: .*not None"),
        ({"n_samples": 0}, "n_samples: .*not 0"),
        ({"max_words": 200.7}, "max_words: .*fractional part"),
        ({"blackbox_attacks": "loss"}, "blackbox_attacks: Input should be a list, not 'loss'"),
        ({"full_doc": "perhaps"}, "full_doc: .*boolean"),
        ({"fpr_list": [0]}, r"fpr_list\.0: .*greater than 0"),
        ({"recall_config": {"num_shots": 0}}, r"recall_config\.num_shots: .*greater than or equal to 1"),
        ({"env_config": ["cuda:0"]}, "env_config: "),
        ({"random_seed": -1}, "random_seed: "),
    ],
)
def test_wrong_keys_and_values_are_named(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read(write(tmp_path, FILES["mi"] | values))
    assert "mi.json" in str(error.value)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"base_model: is missing.*n_samples.*n_sample: unknown"):
        read(write(tmp_path, PILE | {"n_samples": "x", "n_sample": 1}))


@pytest.mark.parametrize("text", ["", "[1]", '"mi"', "{", "\xff"])
def test_what_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mi.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mi\.json"):
        read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "absent.json")


def test_files_for_mimir_are_told_from_ours() -> None:
    assert all(is_mimir(values) for values in FILES.values())
    assert all(is_mimir(values) for values, _ in REFUSED.values())
    assert not is_mimir(json.loads(to_json(RunConfig())))
    assert not any(map(is_mimir, ({}, [], None, "experiment_name", ["base_model"])))


# --- the command line

SCRIPTS = {  # of MIMIR's repository, variables filled in; and what they change
    "--revision step99000 --base_model EleutherAI/pythia-160m-deduped --specific_source "
    "wikipedia_(en)_ngram_13_<0.8_truncated --output_name table1": {
        "revision": "step99000",
        "base_model": "EleutherAI/pythia-160m-deduped",
        "specific_source": "wikipedia_(en)_ngram_13_<0.8_truncated",
        "output_name": "table1",
    },
    "--base_model EleutherAI/pythia-12b --specific_source full_pile --output_name t --n_samples 10000": {
        "base_model": "EleutherAI/pythia-12b",
        "specific_source": "full_pile",
        "output_name": "t",
        "n_samples": 10000,
    },
    "--base_model EleutherAI/pythia-1.4b-deduped --revision step1000 --presampled_dataset_member a.npy "
    "--presampled_dataset_nonmember b.npy --n_samples 1000 --specific_source 900-1000-pile --output_name figure2 "
    "--pretokenized true": {
        "base_model": "EleutherAI/pythia-1.4b-deduped",
        "revision": "step1000",
        "presampled_dataset_member": "a.npy",
        "presampled_dataset_nonmember": "b.npy",
        "n_samples": 1000,
        "specific_source": "900-1000-pile",
        "output_name": "figure2",
        "pretokenized": True,
    },
    "--experiment_name olmo --base_model allenai/OLMo-1B --specific_source c4 --load_from_cache true "
    "--load_from_hf false --n_samples 1000": {
        "experiment_name": "olmo",
        "base_model": "allenai/OLMo-1B",
        "specific_source": "c4",
        "load_from_cache": True,
        "load_from_hf": False,
        "n_samples": 1000,
    },
    "--blackbox_attacks loss+ref+zlib+min_k --baselines_only true --full_doc true --n_samples 100 --max_substrs 20": {
        "blackbox_attacks": ("loss+ref+zlib+min_k",),
        "baselines_only": True,
        "full_doc": True,
        "n_samples": 100,
        "max_substrs": 20,
    },
    "--presampled_dataset_member m.jsonl --presampled_dataset_nonmember n.jsonl --max_data 10000": {
        "presampled_dataset_member": "m.jsonl",
        "presampled_dataset_nonmember": "n.jsonl",
        "max_data": 10000,
    },
}


@pytest.mark.parametrize("line", SCRIPTS)
def test_overrides_of_the_scripts(line: str) -> None:
    found, rest = override(config(), line.split())
    assert rest == []
    assert found.model_dump(exclude_unset=True) == config().model_dump(exclude_unset=True) | SCRIPTS[line]
    translate(found)


def test_lists_sections_and_dots() -> None:
    line = (
        "--blackbox_attacks loss ref --models a/b c --n_perturbation_list 1 10 --num_shots 3 --device cpu "
        "--neighborhood_config.top_p 0.5 --top_p 0.7 --fpr_list 0.1 0.2 --half=true --key=k --openai_config.model m "
        "--env_config.cache_dir /c --neighborhood_config.load_from_cache false"
    )
    found, rest = override(config("new_mi"), [*line.split(), "--neighborhood_config.model", "bert"])
    assert rest == []
    assert found.blackbox_attacks == ("loss", "ref")
    assert found.ref_config is not None
    assert found.ref_config.models == ("a/b", "c")
    assert found.recall_config is not None
    assert found.recall_config.num_shots == 3
    assert found.neighborhood_config is not None
    assert found.neighborhood_config.n_perturbation_list == (1, 10)
    assert (found.top_p, found.neighborhood_config.top_p) == (0.7, 0.5)
    assert found.neighborhood_config.load_from_cache is False
    assert found.load_from_cache is True  # the bare name is the experiment's, and was not given
    assert found.env_config is not None
    assert (found.env_config.device, found.env_config.half, found.env_config.cache_dir) == ("cpu", True, "/c")
    assert found.env_config.results == "results_new"  # the section's other keys stay
    assert found.fpr_list == (0.1, 0.2)
    assert found.openai_config is not None
    assert (found.openai_config.key, found.openai_config.model) == ("k", "m")


def test_other_arguments_are_left_alone() -> None:
    line = "--rules mimir --n_samples 5 --mesh.model=2 --model x --all-checkpoints --models --overwrite stray"
    found, rest = override(config(), line.split())
    assert found.n_samples == 5
    assert found.ref_config is not None
    assert found.ref_config.models == ()
    # --model is no flag of MIMIR's: two of its sections have that key
    assert rest == words("--rules mimir --mesh.model=2 --model x --all-checkpoints --overwrite stray")


def test_hyphens_are_underscores_and_the_last_one_counts() -> None:
    found, rest = override(config(), words("--n-samples 7 --n_samples 9"))
    assert (found.n_samples, rest) == (9, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--pretokenized", "--pretokenized needs true or false"),
        ("--full_doc --n_samples 3", "--full_doc needs true or false"),
        ("--revision", "--revision needs a value"),
        ("--n_samples x", "n_samples: .*'x'"),
        ("--half maybe", r"env_config\.half: .*'maybe'"),
        ("--n_perturbation_list 1 0", r"neighborhood_config\.n_perturbation_list\.1: "),
        ("--key K", r"openai_config\.model: is missing"),
    ],
)
def test_bad_overrides_are_named(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(config(), line.split())


@given(st.permutations(["--n_samples 5", "--revision r", "--models a b", "--half true", "--batch_tokens 3"]))
def test_the_order_of_overrides_does_not_matter(parts: list[str]) -> None:
    found, rest = override(config(), " ".join(parts).split())
    assert found == override(config(), words("--half true --models a b --revision r --n_samples 5"))[0]
    assert rest == ["--batch_tokens", "3"]


@pytest.mark.parametrize("section", ['"sk-secret"', '{"key": ["sk-secret"]}', '{"key": "sk-secret", "model": []}'])
def test_a_key_is_in_no_message(section: str, tmp_path: Path) -> None:
    path = tmp_path / "mi.json"
    path.write_text(json.dumps(FILES["mi"])[:-1] + f', "openai_config": {section}}}')
    with pytest.raises(ConfigError) as error:
        read(path)
    assert "openai_config" in str(error.value)
    assert "secret" not in str(error.value)
    found = config(openai_config={"key": "sk-secret", "model": "m"}, blackbox_attacks=["loss"])
    assert "secret" not in repr(found)
    assert "secret" not in repr(translate(found))


# --- translation


def test_the_whole_of_one_translation() -> None:
    found = translate(config(revision="step99000"))
    run = found.run
    assert run.model == "EleutherAI/gpt-neo-125m"
    assert run.revision == "step99000"
    assert run.dtype == "float32"
    assert run.references == ("stabilityai/stablelm-base-alpha-3b-v2",)
    assert run.attacks == ("loss", "min_k", "zlib", "ne@n=25", "ref")
    assert run.metrics.fprs == (0.001, 0.01)
    assert run.results == "results_new"
    assert found.names == (
        ("loss", "loss"),
        ("min_k", "min_k"),
        ("zlib", "zlib"),
        ("ne@n=25", "ne-25"),
        ("ref-stablelm-base-alpha-3b-v2", "ref-stablelm-base-alpha-3b-v2"),
    )
    assert found.columns(lambda spec: spec.removesuffix("@n=25"))["ne"] == "ne-25"
    assert found.data == DataSettings(
        specific_source=FILTERED,
        n_samples=1000,
        max_data=100000,
        neighbors=NeighborSettings(counts=(25,), load_from_cache=True),
    )
    assert found.endpoint is None
    assert found.folder == Path("results_new/neo125_github_experiment/EleutherAI_gpt-neo-125m") / FILTERED.lower()


def test_every_data_key_is_carried_over() -> None:
    """Each field of DataSettings, under its key or another one, changes with the configuration."""
    changes: dict[str, Any] = {
        "dataset_member": "xsum",
        "dataset_nonmember": "english",
        "dataset_key": "document",
        "specific_source": "ArXiv",
        "presampled_dataset_member": "a.jsonl",
        "presampled_dataset_nonmember": "b.jsonl",
        "full_doc": True,
        "max_substrs": 3,
        "tok_by_tok": True,
        "load_from_hf": False,
        "load_from_cache": True,
        "n_samples": 7,
        "max_tokens": 8,
        "max_data": 9,
        "min_words": 10,
        "max_words": 11,
        "max_words_cutoff": False,
    }
    env = {"results": "r", "cache_dir": "/c", "data_source": "/d"}
    near = RANDOM | {"model": "t5", "n_perturbation_list": [1, 10, 10], "original_tokenization_swap": False}
    found = translate(
        config(
            **changes,
            env_config=env,
            neighborhood_config=near,
            dataset_nonmember_other_sources=["x", "y"],
            random_seed=5,
        )
    )
    expected = DataSettings(
        **changes,
        other_nonmember_sources=("x", "y"),
        cache_path="/c",
        data_source="/d",
        neighbors=NeighborSettings((1, 10), "t5", in_place_swap=False, load_from_cache=True),
        seed=5,
    )
    assert found.data == expected
    assert (found.run.seed, found.run.metrics.seed) == (5, 5)
    unchanged = [
        field.name
        for field in dataclasses.fields(DataSettings)
        if getattr(expected, field.name) == getattr(DataSettings(), field.name)
    ]
    assert unchanged == ["pretokenized", "dump_cache"]
    assert translate(config("cache_data")).data.dump_cache
    tokens = {"presampled_dataset_member": "a.npy", "presampled_dataset_nonmember": "b.npy", "pretokenized": True}
    assert translate(config(**tokens)).data.pretokenized


def test_the_environment_is_the_default_of_paths() -> None:
    environment = {"MIMIR_CACHE_PATH": "/cache", "MIMIR_DATA_SOURCE": "/source"}
    found = translate(config(), environment)
    assert (found.data.cache_path, found.data.data_source) == ("/cache", "/source")
    assert found.mimir.env_config is not None
    assert found.mimir.env_config.cache_dir == "/cache"
    given = translate(config(env_config={"cache_dir": "mine"}), environment)
    assert (given.data.cache_path, given.data.data_source) == ("mine", "/source")
    assert translate(config()).data.cache_path is None


def test_neighbors_and_references_get_a_result_each() -> None:
    found = translate(
        config(
            neighborhood_config=CACHED | {"n_perturbation_list": [1, 10, 25]},
            ref_config={"models": ["a/gpt2", "EleutherAI/pythia-160m:step3000", "b/local/"]},
            blackbox_attacks=["ref", "ne", "min_k++", "ne"],
        )
    )
    assert found.run.attacks == ("loss", "ne@n=1", "ne@n=10", "ne@n=25", "min_k++", "ref")
    assert found.run.references == ("a/gpt2", "EleutherAI/pythia-160m@step3000", "b/local/")
    assert dict(found.names) == {
        "loss": "loss",
        "ne@n=1": "ne-1",
        "ne@n=10": "ne-10",
        "ne@n=25": "ne-25",
        "min_k++": "min_k++",
        "ref-gpt2": "ref-gpt2",
        "ref-pythia-160m@step3000": "ref-pythia-160m:step3000",
        "ref-local": "ref-local",
    }


def test_attacks_joined_as_scripts_of_an_older_mimir_do() -> None:
    found = translate(config(blackbox_attacks=["loss+ref+min_k+++zlib+min_k"]))
    assert found.run.attacks == ("loss", "min_k++", "zlib", "min_k", "ref")


def test_every_attack_of_mimir_has_a_row_here() -> None:
    from mimir_jax.attacks.registry import parse

    found = translate(config(blackbox_attacks=list(ATTACKS), recall_config={"num_shots": 2}))
    assert found.run.shots.count == 2
    missing = []
    for spec in found.run.attacks or ():
        try:
            parse(spec)
        except AttackError:
            missing.append(spec)
    assert missing == []


def test_sweeps_do_not_collide_here_and_do_in_mimir() -> None:
    line = "--base_model m --specific_source s --output_name o --revision r --scoring_model_name x"
    flags = [line.split()[i : i + 2] for i in range(0, 10, 2)]
    found = [translate(override(config(), flag)[0]) for flag in [[], *flags]]
    assert len({one.run.experiment for one in found}) == len(found)
    assert all("/" not in str(one.run.experiment) for one in found)
    # of base_model, specific_source, output_name, revision and scoring_model_name, its folder has the first two
    assert len({one.folder for one in found}) == 3
    assert all(str(results_folder(one.mimir)) == str(one.folder) for one in found)


def test_experiment_name_is_taken_from_output_name_where_it_lacks() -> None:
    found = translate(config("single_gpu_mi"))
    assert found.mimir.experiment_name == "unified_mia"
    assert any("experiment_name" in note for note in found.notes)
    with pytest.raises(ConfigError, match="experiment_name: is missing"):
        translate(config("single_gpu_mi", output_name=None))


def test_half_scoring_model_and_rules() -> None:
    found = translate(config(env_config={"half": True}, scoring_model_name="other/model"), rules="mimir")
    assert (found.run.dtype, found.run.model) == ("bfloat16", "other/model")
    assert found.folder.parts[-2] == "EleutherAI_gpt-neo-125m"
    assert found.run.data.aggregate == "max"  # the lowest of MIMIR's
    assert translate(config()).run.data.aggregate == "mean"
    text = "\n".join(found.notes)
    assert "half: " in text
    assert "scoring_model_name: " in text


def test_each_key_without_meaning_is_said_once() -> None:
    meaningless = {
        "batch_size": 8,
        "chunk_size": 8,
        "top_k": 3,
        "do_top_k": True,
        "top_p": 0.5,
        "do_top_p": False,
        "tokenization_attack": True,
        "quantile_attack": True,
        "baselines_only": True,
    }
    env = {"device": "cuda:1", "device_map": "auto", "device_aux": "cpu", "compile": False, "int8": True}
    near = RANDOM | {"pct_swap_bert": 0.1, "top_p": 0.5, "max_tries": 3, "buffer_size": 2, "random_fills": True}
    notes = translate(config(**meaningless, env_config=env | {"tmp_results": "t"}, neighborhood_config=near)).notes
    keys = [key for note in notes if "without meaning" in note for key in note.split(":")[0].split(", ")]
    own = ["neighborhood_config.top_p" if key == "top_p" else key for key in near]
    used = {"model", "n_perturbation_list", "dump_cache", "load_from_cache"}
    assert sorted(keys) == sorted({*meaningless, *env, "tmp_results", *own} - used)
    assert translate(config("new_mi", env_config={})).notes == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dump_cache": True}, "dump_cache with load_from_cache or load_from_hf"),
        ({"dump_cache": True, "load_from_hf": False, "load_from_cache": True}, "dump_cache with load_from_cache"),
        ({"neighborhood_config": CACHED | {"dump_cache": True}, "load_from_hf": False}, "written or read"),
        ({"load_from_hf": False}, "the texts come from no cache"),
        ({"neighborhood_config": BERT | {"dump_cache": True}}, "neighborhood_config: dump_cache with load_from_hf"),
        ({"neighborhood_config": BERT | {"neighbor_strategy": "best"}}, "neighbor_strategy: 'best'"),
        (
            {"neighborhood_config": RANDOM | {"load_from_cache": False, "original_tokenization_swap": False}},
            "random needs original_tokenization_swap",
        ),
        ({"neighborhood_config": None}, "ne needs a neighborhood_config"),
        ({"neighborhood_config": CACHED | {"n_perturbation_list": []}}, "n_perturbation_list: is empty"),
        ({"blackbox_attacks": ["recall"]}, "recall needs a recall_config"),
        ({"blackbox_attacks": ["los", "max_norm"]}, "unknown 'los', 'max_norm' .known: loss, ref, zlib"),
        ({"blackbox_attacks": None}, "blackbox_attacks: none are named"),
        ({"pre_perturb_pct": 0.1}, "pre_perturb_pct: .*filled anew by a T5"),
        ({"pretokenized": True}, "pretokenized: needs presampled_dataset_member"),
        ({"pretokenized": True, "full_doc": True}, "pretokenized with full_doc"),
        ({"token_frequency_map": "pile_tk_freq.pkl"}, "token_frequency_map: pile_tk_freq.pkl: .*pickle"),
        ({"ref_config": {"models": ["a/gpt2", "b/gpt2"]}}, "two are called gpt2"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(config(**changes))


def test_all_contradictions_are_named() -> None:
    with pytest.raises(ConfigError, match=r"dump_cache.*pre_perturb_pct.*unknown 'x'"):
        translate(config(dump_cache=True, pre_perturb_pct=0.5, blackbox_attacks=["x"]))


def test_an_override_can_mend_a_contradiction() -> None:
    broken = config(neighborhood_config=BERT | {"dump_cache": True, "load_from_cache": False})
    mended, _ = override(broken, words("--neighborhood_config.dump_cache false --blackbox_attacks loss"))
    assert translate(mended).run.attacks == ("loss",)


def test_ref_without_models_is_left_out_and_said() -> None:
    found = translate(config("new_mi", ref_config=None))
    assert found.run.attacks == ("loss", "min_k", "zlib")
    assert found.run.references == ()
    assert any("ref is left out" in note for note in found.notes)


def test_models_that_mimir_treats_by_name_are_noted() -> None:
    notes = "\n".join(translate(config("new_mi", base_model="EleutherAI/gpt-neox-20b")).notes)
    assert "float16" in notes
    notes = "\n".join(translate(config("new_mi", base_model="/x/datablations/2b8")).notes)
    assert "tokenizer of gpt2" in notes


def test_frequency_maps(tmp_path: Path) -> None:
    found = translate(config("new_mi", token_frequency_map="counts.npy"))
    assert found.run.token_counts.source == "counts.npy"
    path = tmp_path / "counts.json"
    path.write_text('{"1": 5, "3": 2}')
    assert read_frequencies(path, 5).tolist() == [0, 5, 0, 2, 0]
    path.write_text("[1, 2]")
    assert read_frequencies(path, 3).tolist() == [1, 2, 0]
    for text, message in (
        ('{"7": 1}', "another tokenizer"),
        ('{"1": -1}', "below 0"),
        ('{"a": 1}', "not counts"),
        ("3", "not counts"),
        ("{", "not counts"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_frequencies(path, 5)


# --- an API


def api(**changes: Any) -> MimirConfig:
    given = {"openai_config": {"key": "k", "model": "davinci"}, "blackbox_attacks": ["loss", "ref", "zlib"]}
    return config("new_mi", **(given | changes))


def test_an_api_target() -> None:
    found = translate(api())
    assert found.endpoint is not None
    assert (found.endpoint.model, found.endpoint.key, found.endpoint.prefix) == ("davinci", "k", "")
    assert found.endpoint.base_url.startswith("https://")
    assert "openai-davinci" in str(found.run.experiment)
    assert found.folder.parts[-2] == "EleutherAI_gpt-neo-125m"  # MIMIR's stays that of base_model
    under_mimir = translate(api(), rules="mimir").endpoint
    assert under_mimir is not None
    assert under_mimir.prefix == "<|endoftext|>"


def test_where_an_api_is_and_its_key_come_from_the_environment_too() -> None:
    environment = {"OPENAI_API_KEY": "e", "OPENAI_BASE_URL": "http://localhost:1/v1"}
    found = translate(api(openai_config={"model": "m"}), environment).endpoint
    assert found is not None
    assert (found.key, found.base_url) == ("e", "http://localhost:1/v1")
    own = {"model": "m", "key": "<hidden>", "base_url": "http://other/v1"}  # as a written config.json has it
    found = translate(api(openai_config=own), environment).endpoint
    assert found is not None
    assert (found.key, found.base_url) == ("e", "http://other/v1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"openai_config": {"model": "m"}}, "openai_config.key: is missing"),
        ({"blackbox_attacks": ["min_k++", "gradnorm"]}, r"min_k\+\+, gradnorm: an API gives log-probs"),
        ({"scoring_model_name": "x"}, "scoring_model_name with openai_config"),
        (
            {"pretokenized": True, "presampled_dataset_member": "a", "presampled_dataset_nonmember": "b"},
            "an API takes texts",
        ),
    ],
)
def test_what_an_api_cannot_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(api(**changes))


def test_an_api_url_that_is_none() -> None:
    with pytest.raises(ApiError, match="must begin with https"):
        translate(api(openai_config={"model": "m", "key": "k", "base_url": "file:///etc/passwd"}))

"""Configurations: a JSON form that reads back, and a message that names the file and the field of every fault."""

import json
import re
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax import config as config_module
from mimir_jax.config import ConfigError, DataConfig, MetricsConfig, RunConfig, from_json, to_json

names = st.text(st.characters(codec="utf-8"))
numbers = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**63), 2**63 - 1)

# Fields, not configurations: beartype, which checks the classes here, draws random numbers of its own.
settings = st.fixed_dictionaries(
    {
        "experiment": st.none() | names,
        "model": names,
        "revision": st.none() | names,
        "dtype": st.sampled_from(["float32", "bfloat16"]),
        "checkpoints": st.lists(names).map(tuple),
        "references": st.lists(names).map(tuple),
        "attacks": st.none() | st.lists(names).map(tuple),
        "rules": st.sampled_from(["paper", "mimir"]),
        "prefixes": integers,
        "seed": integers,
        "batch_tokens": integers,
        "results": names,
    }
)
sections = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {
                "members": st.none() | names,
                "nonmembers": st.none() | names,
                "documents": st.none() | names,
                "other_nonmembers": st.lists(names).map(tuple),
                "text_field": names,
                "label_field": names,
                "max_documents": st.none() | integers,
                "aggregate": st.sampled_from(["mean", "max", "min"]),
            }
        ),
        "shots": st.fixed_dictionaries({"count": integers, "choice": st.sampled_from(["first", "random"])}),
        "neighbors": st.fixed_dictionaries({"members": st.none() | names, "documents": st.none() | names}),
        "token_counts": st.fixed_dictionaries({"source": names, "folder": st.none() | names}),
        "samples": st.fixed_dictionaries({"count": integers, "prefix": numbers}),
        "quantile": st.fixed_dictionaries({"nonmembers": st.none() | names}),
        "endpoint": st.fixed_dictionaries({"base_url": st.none() | names, "prefix": names, "concurrency": integers}),
        "mesh": st.fixed_dictionaries({"data": integers, "model": integers}),
        "metrics": st.fixed_dictionaries(
            {"fprs": st.lists(numbers).map(tuple), "n_bootstrap": integers, "confidence": numbers, "seed": integers}
        ),
    }
)
SECTIONS = {name: type(getattr(RunConfig(), name)) for name in (field.name for field in fields(RunConfig))}


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "run.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(settings, sections)
def test_json_reads_back(tmp_path_factory: pytest.TempPathFactory, fields: dict, sections: dict) -> None:
    config = RunConfig(**fields, **{name: SECTIONS[name](**values) for name, values in sections.items()})
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(to_json(config), encoding="utf-8")
    assert from_json(path) == config
    assert from_json(str(path)) == config


def test_json_is_the_fields_and_nothing_else() -> None:
    config = RunConfig(experiment="first", attacks=("loss",), metrics=MetricsConfig(fprs=(0.5,)))
    assert json.loads(to_json(config)) == json.loads(json.dumps(asdict(config)))


def test_fields_left_out_keep_their_defaults(tmp_path: Path) -> None:
    assert from_json(written(tmp_path, "{}")) == RunConfig()
    path = written(tmp_path, '{"data": {"max_documents": 3}, "metrics": {"fprs": [1], "confidence": 0.5}}')
    assert from_json(path) == RunConfig(
        data=DataConfig(max_documents=3), metrics=MetricsConfig(fprs=(1.0,), confidence=0.5)
    )


def test_values_are_frozen_and_every_field_is_explained() -> None:
    with pytest.raises(FrozenInstanceError):
        RunConfig().model = "another"  # type: ignore[misc]
    source = Path(config_module.__file__).read_text(encoding="utf-8")
    configs = [RunConfig(), *(getattr(RunConfig(), field.name) for field in fields(RunConfig))]
    for config in filter(is_dataclass, configs):
        body = source.partition(f"class {type(config).__name__}:")[2].partition("\n@dataclass")[0]
        for field in fields(config):
            nested = is_dataclass(getattr(config, field.name))
            assert nested or re.search(rf'^    {field.name}: .*\n    """', body, re.MULTILINE), field.name


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"atacks": ["loss"]}', ["atacks"]),
        ('{"data": {"member": "x.jsonl"}, "modle": "y"}', ["data.member", "modle"]),
        ('{"model": 3}', ["model", "string"]),
        ('{"model": null}', ["model", "string"]),
        ('{"attacks": "loss"}', ["attacks", "array"]),
        ('{"attacks": ["loss", 1]}', ["attacks.1", "string"]),
        ('{"dtype": "float16"}', ["dtype", "'float32' or 'bfloat16'"]),
        ('{"batch_tokens": "2048"}', ["batch_tokens", "integer"]),
        ('{"batch_tokens": 2048.5}', ["batch_tokens", "integer"]),
        ('{"batch_tokens": true}', ["batch_tokens", "integer"]),
        ('{"mesh": [4, 2]}', ["mesh", "object"]),
        ('{"token_counts": "counts.npy"}', ["token_counts", "object"]),
        ('{"shots": {"choice": "last", "number": 3}}', ["shots.choice", "'first' or 'random'", "shots.number"]),
        ('{"neighbors": {"file": "x"}, "endpoint": {"key": "x"}}', ["neighbors.file", "endpoint.key"]),
        ('{"rules": "authors"}', ["rules", "'paper' or 'mimir'"]),
        ('{"metrics": {"fprs": 0.1, "seed": "x"}}', ["metrics.fprs", "metrics.seed"]),
        ("[]", ["the file", "object"]),
        ("", ["the file", "JSON"]),
        ('{"model": "x"', ["the file", "JSON"]),
        ('{"model": "x"} {}', ["the file", "JSON"]),
        (b'{"model": "\xff"}', ["cannot be read", "utf-8"]),
    ],
)
def test_faults_name_the_file_and_every_field(tmp_path: Path, text: str | bytes, named: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        from_json(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for name in named:
        assert name in message


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigError, match=re.escape(f"{path}: cannot be read: ")):
            from_json(path)


def test_a_path_that_is_not_unicode_has_no_json() -> None:
    with pytest.raises(ConfigError, match="cannot be written as UTF-8"):
        to_json(RunConfig(model="caf\udce9"))

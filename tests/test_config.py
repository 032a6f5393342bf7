"""Configurations: a JSON form that reads back, and a message that names the file and the field of every fault."""

import json
import re
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax import config as config_module
from mimir_jax.config import ConfigError, DataConfig, MeshConfig, MetricsConfig, RunConfig, from_json, to_json

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
        "token_counts": st.none() | names,
        "batch_tokens": integers,
        "results": names,
    }
)
data_settings = st.fixed_dictionaries(
    {
        "members": st.none() | names,
        "nonmembers": st.none() | names,
        "documents": st.none() | names,
        "text_field": names,
        "label_field": names,
        "max_documents": st.none() | integers,
    }
)
metrics_settings = st.fixed_dictionaries(
    {"fprs": st.lists(numbers).map(tuple), "n_bootstrap": integers, "confidence": numbers, "seed": integers}
)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "run.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(settings, data_settings, metrics_settings, st.tuples(integers, integers))
def test_json_reads_back(
    tmp_path_factory: pytest.TempPathFactory, fields: dict, data: dict, metrics: dict, mesh: tuple[int, int]
) -> None:
    config = RunConfig(**fields, data=DataConfig(**data), metrics=MetricsConfig(**metrics), mesh=MeshConfig(*mesh))
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
    for config in (RunConfig(), DataConfig(), MeshConfig(), MetricsConfig()):
        for field in fields(config):
            nested = is_dataclass(getattr(config, field.name))
            assert nested or re.search(rf'^    {field.name}: .*\n    """', source, re.MULTILINE), field.name


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

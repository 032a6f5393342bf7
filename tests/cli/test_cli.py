"""The command line: configurations from flags and files, what is printed where, exit codes, one line for each fault."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mimir_jax import cli, experiment
from mimir_jax.cli import COMMANDS, main, usage
from mimir_jax.compat.mimir.attacks import RULES
from mimir_jax.config import (
    DataConfig,
    EndpointConfig,
    MeshConfig,
    MetricsConfig,
    RunConfig,
    ShotsConfig,
    TokenCountsConfig,
    to_json,
)
from mimir_jax.experiment import Results
from mimir_jax.models.checkpoint import SINGLE
from mimir_jax.report import results
from mimir_jax.report.terminal import silent
from mimir_jax.scoring import batching
from mimir_jax.testing import tiny_tokenizer, write_checkpoint

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}
TEXTS = ["The quick brown fox.", "A lazy dog looks at them.", "More than the reader would think.", "Without a word."]
HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e\r"

Captured = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few compiled shapes, and no figure, which takes most of a tiny run."""
    monkeypatch.setattr(batching, "GOOD_FILL", 0.0)
    monkeypatch.setattr(results, "write_roc", lambda path, scores, is_member: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "target", **TINY)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    def write(name: str, *rows: Any) -> str:
        path = tmp_path / f"{name}.jsonl"
        objects = [row if isinstance(row, dict) else {"text": row} for row in rows]
        path.write_text("".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def run(model: Path, jsonl: Callable[..., str], tmp_path: Path, capsys: Captured) -> Run:
    """`mimir-jax run` on tiny data with further arguments, of which a later one counts: exit code, stdout, stderr."""
    members, nonmembers = jsonl("in", *TEXTS), jsonl("out", *(text.upper() for text in TEXTS))

    def run(*arguments: str) -> tuple[int, str, str]:
        options = {
            "--model": [str(model)],
            "--data.members": [members],
            "--data.nonmembers": [nonmembers],
            "--attacks": ["loss", "min_k"],
            "--results": [str(tmp_path / "results")],
            "--experiment": ["tiny"],
            "--metrics.n-bootstrap": ["20"],
            "--batch-tokens": ["128"],
        }
        given = [part for part in arguments if part.startswith("--")]
        kept = [part for name, values in options.items() if name not in given for part in (name, *values)]
        code = main(["run", *kept, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What the runner is called with."""
    calls: list[dict[str, Any]] = []

    def record(config: RunConfig, *, bars: Any, **keywords: Any) -> Results:
        assert bars is silent  # a test's stderr is no terminal
        calls.append({"config": config, **keywords})
        return Results(tmp_path, [], {}, {}, [])

    monkeypatch.setattr(experiment, "run", record)
    return calls


@pytest.fixture
def parsed(called: list[dict[str, Any]]) -> Callable[..., tuple[RunConfig, bool]]:
    """The configuration that the runner is called with, and whether to overwrite."""

    def parse(*arguments: str) -> tuple[RunConfig, bool]:
        assert main(["run", *arguments]) == 0
        call = called.pop()
        return call["config"], call["overwrite"]

    return parse


# From arguments to a configuration


def test_no_option_is_the_embedded_example(parsed: Callable[..., Any]) -> None:
    assert parsed() == (RunConfig(), False)


def test_every_kind_of_option(parsed: Callable[..., Any]) -> None:
    arguments = "--model m --attacks loss min_k@k=0.1,window=3 --references a b --checkpoints c --mesh.data 4"
    arguments += " --mesh.model 2 --metrics.fprs 0.1 0.5 --data.max-documents 7 --dtype bfloat16 --overwrite"
    config = RunConfig(
        model="m",
        attacks=("loss", "min_k@k=0.1,window=3"),
        references=("a", "b"),
        checkpoints=("c",),
        mesh=MeshConfig(4, 2),
        metrics=MetricsConfig(fprs=(0.1, 0.5)),
        data=DataConfig(max_documents=7),
        dtype="bfloat16",
    )
    assert parsed(*arguments.split()) == (config, True)
    assert parsed(*arguments.replace("max-documents", "max_documents").split()) == (config, True)
    assert parsed("--references")[0] == RunConfig(references=())


def test_config_file_and_options_that_replace_its_fields(parsed: Callable[..., Any], tmp_path: Path) -> None:
    config = RunConfig(model="m", attacks=("loss",), data=DataConfig(documents="all.csv"), batch_tokens=64)
    path = tmp_path / "run.json"
    path.write_text(to_json(config))
    assert parsed("--config", str(path)) == (config, False)
    assert parsed(f"--config={path}") == (config, False)
    assert parsed("--overwrite", "--config", str(path), "--batch-tokens", "32") == (
        replace(config, batch_tokens=32),
        True,
    )
    changed = parsed("--config", str(path), "--data.text-field", "body", "--attacks", "rank", "zlib")[0]
    assert changed == replace(config, attacks=("rank", "zlib"), data=DataConfig(documents="all.csv", text_field="body"))


def test_options_of_attacks(parsed: Callable[..., Any]) -> None:
    arguments = "--shots.count 3 --shots.choice random --token-counts.source demo --prefixes 5 --seed 4"
    assert parsed(*arguments.split())[0] == RunConfig(
        shots=ShotsConfig(count=3, choice="random"),
        token_counts=TokenCountsConfig(source="demo"),
        prefixes=5,
        seed=4,
    )


def test_rules_and_endpoints(called: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run"]) == 0
    assert (called[-1]["rules"], called[-1]["endpoint"]) == (experiment.PAPER, None)
    assert main(["run", "--rules", "mimir"]) == 0
    assert called[-1]["rules"] is RULES
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    assert main(["run", "--endpoint.base-url", "http://there/v1", "--model", "m", "--endpoint.concurrency", "2"]) == 0
    endpoint = called[-1]["endpoint"]
    assert (endpoint.base_url, endpoint.model, endpoint.key, endpoint.concurrency) == ("http://there/v1", "m", "sk", 2)
    assert called[-1]["config"].endpoint == EndpointConfig("http://there/v1", concurrency=2)


def test_all_checkpoints(parsed: Callable[..., Any]) -> None:
    config, _ = parsed("--all-checkpoints", "--experiment", "x")
    rest = ("demo/epoch2", "demo/epoch4", "demo/epoch8", "demo/epoch16")
    assert config == RunConfig(experiment="x", model="demo/epoch1", checkpoints=rest)
    assert parsed("--all_checkpoints")[0].checkpoints == rest


# What is printed


def test_a_run_prints_the_table_and_where_it_is(run: Run, tmp_path: Path) -> None:
    code, out, err = run()
    folder = tmp_path / "results" / "tiny"
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    for name in ("loss", "min_k"):
        row = json.loads((folder / "metrics.json").read_text())[name]
        value = f"{row['auc_roc']['value']:.3f}".removeprefix("0").replace("1.000", "1.00")
        assert any(line.split()[:2] == [name, value] for line in lines)
    assert lines[-1] == f"written to {folder}"
    notes = [line for line in lines if line.startswith("note:")]
    assert [note.partition(": ")[2][:18] for note in notes] == ["no blind baselines"]

    code, again, err = run()
    assert (code, err) == (0, "")
    assert again.splitlines()[-1] == f"nothing to compute: the same results are already in {folder}"
    assert again.splitlines()[:-1] == lines[:-1]


@pytest.mark.slow
def test_several_checkpoints_are_a_table_of_checkpoints(run: Run, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", seed=1, **TINY)
    code, out, _ = run("--checkpoints", str(other))
    assert code == 0
    assert any(line.split() == ["attack", "target", "other"] for line in out.splitlines())
    assert "target/loss" not in out


@pytest.mark.parametrize(
    ("members", "notes"),
    [
        (["", *TEXTS], ["1 documents have a null score; the column `reason` of scores.parquet says why"]),
        (["a", "", *TEXTS], ["2 documents have a null score; the column `reason` of scores.parquet says why"]),
        (
            [*TEXTS, TEXTS[0].upper()],
            ["1 texts are on both sides, member and non-member: the labels contradict"],
        ),
        (
            ["", "a"],
            [
                "loss: one side has no score at all, so no metrics",
                "min_k: one side has no score at all, so no metrics",
                "2 documents have a null score; the column `reason` of scores.parquet says why",
            ],
        ),
    ],
    ids=["empty document", "one token", "overlap", "one side unscored"],
)
def test_notes(run: Run, jsonl: Callable[..., str], members: list[str], notes: list[str]) -> None:
    code, out, err = run("--data.members", jsonl("own", *members), "--no-audit")
    assert (code, err) == (0, "")
    assert [line.removeprefix("note: ") for line in out.splitlines() if line.startswith("note: ")] == notes


def test_unscored_documents_stand_beside_the_metric(run: Run, jsonl: Callable[..., str]) -> None:
    _, out, _ = run("--data.members", jsonl("own", "", "a", *TEXTS))
    assert out.count("4 + 4") == 2
    assert out.count("2 unscored") == 2


def test_progress_is_shown_on_a_terminal_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        code, out, _ = run()
    assert code == 0
    assert "score target" in terminal.getvalue()
    assert "score target" not in out
    assert run("--overwrite")[2] == ""


def test_what_comes_from_files_is_shown_not_obeyed(run: Run, jsonl: Callable[..., str], tmp_path: Path) -> None:
    where = ["--results", str(tmp_path / f"r{HOSTILE}")]
    code, out, _ = run(*where)
    assert code == 0
    (shard,) = (tmp_path / f"r{HOSTILE}").glob("tiny/stats/*.parquet")
    shard.write_bytes(b"")
    code, again, _ = run(*where, "--overwrite")
    assert code == 0
    assert "damaged" in again

    short = write_checkpoint(tmp_path / "short", tokenizer=tiny_tokenizer(300), **{**TINY, "vocab_size": 264})
    rows = [{"text": text, "id": f"{i}{HOSTILE}", "source": HOSTILE} for i, text in enumerate(TEXTS)]
    code, _, refused = run("--model", str(short), "--experiment", "a", "--data.members", jsonl("odd", *rows))
    assert code == 2
    missing = run("--experiment", "b", "--data.members", str(tmp_path / f"none{HOSTILE}.jsonl"))[2]
    for text in (out, again, refused, missing):
        assert r"\x1b[2J\x1b]0;owned\x07\u202e\r" in text.replace("\n", "")
        assert not {"\x1b", "\x07", "\u202e", "\r"} & set(text)


# What is refused


def without_field(tmp_path: Path) -> list[str]:
    (tmp_path / "x.jsonl").write_text('{"text": "a b c"}\n{"body": "a b c"}\n')
    return ["--data.members", str(tmp_path / "x.jsonl")]


def wrong_type(tmp_path: Path) -> list[str]:
    (tmp_path / "x.jsonl").write_text('{"text": "a b c"}\n{"text": 3}\n')
    return ["--data.members", str(tmp_path / "x.jsonl")]


def invalid_utf8(tmp_path: Path) -> list[str]:
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a b c"}\n{"text": "caf\xe9"}\n')
    return ["--data.members", str(tmp_path / "x.jsonl")]


def invalid_utf8_text(tmp_path: Path) -> list[str]:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"caf\xe9")
    return ["--data.members", str(tmp_path / "texts")]


def no_members(tmp_path: Path) -> list[str]:
    (tmp_path / "x.jsonl").write_text('{"text": "a b c", "label": 0}\n' * 3)
    return ["--config", config_file(tmp_path, {"data": {"documents": str(tmp_path / "x.jsonl")}})]


def no_documents(tmp_path: Path) -> list[str]:
    (tmp_path / "x.jsonl").write_text("\n")
    return ["--data.nonmembers", str(tmp_path / "x.jsonl")]


def config_file(tmp_path: Path, fields: Any) -> str:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(fields))
    return str(path)


def nan_weights(tmp_path: Path) -> list[str]:
    folder = write_checkpoint(tmp_path / "nan", **TINY)
    tensors = load_file(folder / SINGLE)
    next(iter(tensors.values()))[0] = np.nan
    save_file(tensors, folder / SINGLE)
    return ["--model", str(folder)]


def truncated_weights(tmp_path: Path) -> list[str]:
    folder = write_checkpoint(tmp_path / "cut", **TINY)
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-100])
    return ["--model", str(folder)]


def no_tokenizer(tmp_path: Path) -> list[str]:
    folder = write_checkpoint(tmp_path / "mute", **TINY)
    (folder / "tokenizer.json").unlink()
    return ["--model", str(folder)]


def another_tokenizer(tmp_path: Path) -> list[str]:
    folder = write_checkpoint(tmp_path / "short", tokenizer=tiny_tokenizer(300), **{**TINY, "vocab_size": 264})
    return ["--model", str(folder)]


def another_family(tmp_path: Path) -> list[str]:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return ["--model", str(folder)]


def blocked_results(tmp_path: Path) -> list[str]:
    (tmp_path / "file").write_text("")
    return ["--results", str(tmp_path / "file")]


def unknown_config_field(tmp_path: Path) -> list[str]:
    return ["--config", config_file(tmp_path, {"data": {"member": "x"}, "atacks": []})]


def damaged_config(tmp_path: Path) -> list[str]:
    (tmp_path / "run.json").write_text('{"model": "m"')
    return ["--config", str(tmp_path / "run.json")]


def empty_counts(tmp_path: Path) -> list[str]:
    (tmp_path / "counts.npy").write_bytes(b"")
    return ["--attacks", "max_norm_weighted", "--token-counts.source", str(tmp_path / "counts.npy")]


@pytest.mark.parametrize(
    ("arrange", "parts"),
    [
        (without_field, ["x.jsonl, line 2: field 'text' is missing; there are: body"]),
        (wrong_type, ["x.jsonl, line 2: field 'text' is of type int, expected a string"]),
        (invalid_utf8, ["x.jsonl, line 2: invalid UTF-8"]),
        (invalid_utf8_text, ["a.txt, line 1: invalid UTF-8"]),
        (no_documents, ["x.jsonl: holds no documents"]),
        (lambda _: ["--data.members", "/nowhere/x.jsonl"], ["/nowhere/x.jsonl: no such file or folder"]),
        (lambda _: ["--data.documents", "x.jsonl"], ["give either documents, or members and nonmembers"]),
        (nan_weights, ["nan: NaN or infinite values in "]),
        (truncated_weights, ["cut: ", "truncated"]),
        (no_tokenizer, ["mute: no tokenizer can be loaded"]),
        (
            another_tokenizer,
            ["4 documents have token ids beyond the model's 264 embeddings", "first: in:1, in:2, in:3"],
        ),
        (another_family, ["config.json: model_type 'bert' is not supported", "; supported: "]),
        (lambda _: ["--model", "/nowhere/model"], ["/nowhere/model: no such folder"]),
        (lambda _: ["--mesh.data", "3"], ["mesh: data x model = 3 x 1 does not fit 8 devices; possible: 8 x 1, 4 x 2"]),
        (lambda _: ["--mesh.model", "16"], ["mesh: data x model = all x 16 does not fit 8 devices"]),
        (lambda _: ["--attacks", "mink"], ["unknown attack 'mink'; did you mean min_k?", "known: loss, zlib"]),
        (lambda _: ["--attacks", "min_k@j=1"], ["unknown parameter 'j'", "k=0.2, window=1, stride=1"]),
        (lambda _: ["--attacks", "ref"], ["ref lacks an input: give a reference model: --references"]),
        (lambda _: ["--attacks", "ne"], ["ne lacks an input: give --neighbors.members and --neighbors.nonmembers"]),
        (lambda _: ["--attacks", "quantile"], ["give known non-members: --quantile.nonmembers"]),
        (lambda _: ["--attacks", "recall"], ["7 shots of nonmembers are asked for, and there are 4 to choose from"]),
        (
            lambda _: [
                "--attacks",
                "recall",
                "--shots.count",
                "3",
                "--rules",
                "mimir",
                "--shots.nonmembers",
                "/nowhere",
            ],
            ["/nowhere: no such file or folder"],
        ),
        (lambda _: ["--attacks", "samia", "--samples.prefix", "1"], ["samples.prefix: 1.0, must be a share"]),
        (lambda _: ["--attacks", "em_mia", "--prefixes", "0"], ["prefixes: 0, must be at least 2"]),
        (lambda _: ["--attacks", "gradnorm@p=3"], ["gradnorm@p=3: p", "1, 2"]),
        (lambda _: ["--references", "/nowhere/model"], ["/nowhere/model: no such folder"]),
        (lambda _: ["--endpoint.base-url", "there"], ["base_url: 'there': must begin with https:// or http://"]),
        (lambda _: ["--metrics.fprs", "0"], ["a false-positive rate must be above 0 and at most 1, not 0.0"]),
        (lambda _: ["--data.max-documents", "0"], ["max_documents is 0, expected at least 1"]),
        (blocked_results, ["file/tiny: cannot be written"]),
        (unknown_config_field, ["run.json: ", "data.member", "atacks"]),
        (damaged_config, ["run.json: the file: Invalid JSON"]),
        (lambda _: ["--config", "/nowhere/run.json"], ["/nowhere/run.json: cannot be read"]),
        (lambda _: ["--config"], ["--config needs a file"]),
        (empty_counts, ["counts.npy: cannot be read as .npy"]),
    ],
)
def test_bad_input_is_one_line(
    run: Run, tmp_path: Path, arrange: Callable[[Path], list[str]], parts: list[str]
) -> None:
    code, out, err = run(*arrange(tmp_path))
    assert code == 2
    assert out == ""
    assert err.startswith("mimir-jax: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_no_members_by_a_label(tmp_path: Path, capsys: Captured) -> None:
    assert main(["run", *no_members(tmp_path), "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"mimir-jax: {tmp_path}/x.jsonl: holds no members by its field 'label'\n"


def test_results_of_another_configuration(run: Run) -> None:
    assert run()[0] == 0
    code, out, err = run("--attacks", "rank")
    assert (code, out) == (2, "")
    assert "tiny holds the results of another run (attacks differ); choose another --experiment or give" in err
    assert err.count("\n") == 1
    assert run("--attacks", "rank", "--overwrite")[0] == 0
    code, out, _ = run("--attacks", "rank")
    assert code == 0
    assert "nothing to compute" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--modle", "x"], "--modle"),
        (["--data.member", "x"], "--data.member"),
        (["--batch-tokens", "many"], "many"),
        (["--dtype", "float16"], "float16"),
        (["stray"], "stray"),
    ],
)
def test_options_that_do_not_exist(capsys: Captured, arguments: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", *arguments])
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert named in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("arguments", [["attak"], ["--model", "x"], ["--version"], ["", "run"]])
def test_subcommands_that_do_not_exist(capsys: Captured, arguments: list[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == usage() + "\n"


def test_each_command_has_a_file_of_its_name() -> None:
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "shared"}
    assert [one.name for one in COMMANDS] == list(dict.fromkeys(one.name for one in COMMANDS))
    assert {one.name for one in COMMANDS} == files
    assert all(callable(import_module(f"mimir_jax.cli.{name}").main) for name in files)


# Averages of MIMIR's result files


def result_file(tmp_path: Path, name: str, members: list[float], nonmembers: list[float]) -> str:
    path = tmp_path / f"{name}_results.json"
    path.write_text(json.dumps({"predictions": {"member": members, "nonmember": nonmembers}}))
    return str(path)


def test_average(tmp_path: Path, capsys: Captured) -> None:
    files = result_file(tmp_path, "ref-a", [1, 4], [3, 6]), result_file(tmp_path, "ref-b", [1, 6], [3, 2])
    assert main(["average", *files]) == 0  # 1 and 5 of members, 3 and 4 of non-members, lower for members
    captured = capsys.readouterr()
    assert captured.err == ""
    assert any(line.split()[:2] == ["mean", ".500"] for line in captured.out.splitlines())
    assert "mean of 2 result files" in captured.out
    assert "MIMIR's script, with non-members positive: AUC 0.5000" in captured.out


@pytest.mark.parametrize("names", [[], ["none_results.json"], ["ref-a_results.json", "ref-b_results.json"]])
def test_averages_of_nothing(tmp_path: Path, capsys: Captured, names: list[str]) -> None:
    result_file(tmp_path, "ref-a", [1, 4], [3, 6])
    result_file(tmp_path, "ref-b", [1], [3])
    assert main(["average", *(str(tmp_path / name) for name in names)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mimir-jax: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_usage(capsys: Captured, arguments: list[str]) -> None:
    assert main(arguments) == 0
    first, *lines = "".join(capsys.readouterr()).splitlines()
    assert first.startswith("usage: mimir-jax run [--config FILE] ")
    shown = [first.removeprefix("usage: "), *lines][: len(COMMANDS)]
    for one, line in zip(COMMANDS, shown, strict=True):
        assert re.fullmatch(rf" *mimir-jax {re.escape(f'{one.name} {one.arguments}')}  +{re.escape(one.help)}", line)
    assert max(map(len, shown)) <= 120


@pytest.mark.parametrize("error", [ValueError("deep"), RuntimeError("deep"), OSError("deep"), KeyError("deep")])
def test_errors_that_are_not_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*arguments: Any, **keywords: Any) -> None:
        raise error

    monkeypatch.setattr(experiment, "run", broken)
    with pytest.raises(type(error)) as caught:
        main(["run"])
    assert caught.value is error


def test_faults_of_several_lines_are_one(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def broken(*arguments: Any, **keywords: Any) -> None:
        raise experiment.ConfigError("first\n  second\x1b[2J [red]third[/red]")

    monkeypatch.setattr(experiment, "run", broken)
    assert main(["run"]) == 2
    assert capsys.readouterr().err == "mimir-jax: first   second\\x1b[2J [red]third[/red]\n"


# As a process


def in_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    # What has been imported when it ends, beside what it prints.
    code = "import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr));"
    code += "from mimir_jax.cli import main; sys.exit(main())"
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment
    )


def test_help_lists_every_field_and_waits_for_no_model_library() -> None:
    done = in_process("run", "--help")
    assert done.returncode == 0
    for option in ("--model", "--data.members", "--mesh.model", "--metrics.fprs", "--all-checkpoints", "--overwrite"):
        assert option in done.stdout
    assert "--config FILE" in done.stdout
    imported = set(done.stderr.split())
    assert not imported & {"transformers", "torch", "matplotlib", "datasets", "mimir_jax.experiment"}


def test_the_installed_command_and_its_exit_code(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("mimir-jax")
    if not command.exists():
        pytest.skip("mimir-jax is not installed beside this Python")
    done = subprocess.run(
        [command, "run", "--config", str(tmp_path / "none.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"mimir-jax: {tmp_path}/none.json: cannot be read: ")
    assert "Traceback" not in done.stderr


# Without a model


def test_audit(capsys: Captured, tmp_path: Path) -> None:
    for name, word in (("in", "old"), ("out", "new")):
        rows = [{"words": f"{word} text number {i % 7} of a few words"} for i in range(15)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sides = ["--members", str(tmp_path / "in.jsonl"), "--nonmembers", str(tmp_path / "out.jsonl")]
    assert main(["audit", *sides, "--text-field", "words", "--json", str(tmp_path / "audit.json")]) == 0
    out = capsys.readouterr().out
    assert "7 different documents on a side" in out
    assert json.loads((tmp_path / "audit.json").read_text())["best"] is None
    assert main(["audit", "--nonmembers", "demo/shifted", "--members", "demo/members", "--max-documents", "40"]) == 0
    out = capsys.readouterr().out
    assert "40 members, 40 non-members" in out
    assert "bag_of_words" in out
    assert "told apart without the model" in out
    assert "words that more members have: " in out
    assert main(["audit", "--members", "absent.jsonl", "--nonmembers", "demo/shifted"]) == 2
    assert "absent.jsonl" in capsys.readouterr().err

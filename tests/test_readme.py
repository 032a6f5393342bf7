"""The README's commands and examples run. Those that name models of the hub run on a tiny checkpoint instead."""

import json
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import pytest
from finished import write_finished
from processes import environment

from mimir_jax import cli
from mimir_jax.testing import write_checkpoint, write_mask_model

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


LINES = [line.strip() for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]

RUNS = [
    line.split("#")[0].strip()
    for block in blocks("sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(
        ("mimir-jax run", "mimir-jax audit", "mimir-jax overlap", "mimir-jax construct", "mimir-jax neighbors")
    )
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_checkpoint(tmp_path / "tiny")
    write_mask_model(tmp_path / "mask", max_position_embeddings=512, vocab_size=320)
    for name, word in (("members", "seen"), ("nonmembers", "unseen")):
        rows = [{"text": f"{word} text number {i}, of a few words"} for i in range(4)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    mimir = {
        "experiment_name": "mine",
        "base_model": str(tmp_path / "tiny"),
        "dataset_member": "members",
        "dataset_nonmember": "nonmembers",
        "presampled_dataset_member": "members.jsonl",
        "presampled_dataset_nonmember": "nonmembers.jsonl",
        "dataset_key": "text",
        "load_from_hf": False,
        "min_words": 2,
        "blackbox_attacks": ["loss", "zlib"],
    }
    Path("mi.json").write_text(json.dumps(mimir), encoding="utf-8")
    return tmp_path


def test_the_install_lines_lead_the_readme() -> None:
    first = blocks("sh")[0]
    assert first.splitlines()[0].startswith("pip install -e . && mimir-jax run")
    assert first.splitlines()[1].startswith("pip install -e '.[test]' && pytest")


def test_there_are_commands_to_run() -> None:
    assert len(RUNS) >= 4
    assert len(blocks("python")) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_command(command: str, folder: Path) -> None:
    arguments = shlex.split(command)[1:]
    if arguments[0] in ("audit", "overlap", "construct"):
        few = ["--count", "5"] if arguments[0] == "construct" else ["--max-documents", "20"]
        assert cli.main([*arguments, *few]) == 0
        return
    if "--neighbors.model" in arguments:
        at = arguments.index("--neighbors.model") + 1
        if not arguments[at].startswith("demo/"):
            arguments[at] = str(folder / "mask")
        arguments += ["--data.max-documents", "2", "--data.max-words", "40"]
    if arguments[0] == "neighbors":
        assert cli.main(arguments) == 0
        return
    if "--model" in arguments:
        arguments[arguments.index("--model") + 1] = str(folder / "tiny")
    if "--revision" in arguments:
        at = arguments.index("--revision")
        del arguments[at : at + 2]
    ours = not {"--model", "--config"} & {*arguments}
    if ours or "demo" in command:
        if "--data.max-documents" in arguments:
            at = arguments.index("--data.max-documents") + 1
            arguments[at] = str(min(int(arguments[at]), 20))
        else:
            arguments += ["--data.max-documents", "20"]
    assert cli.main([*arguments, "--metrics.n-bootstrap", "20"]) == 0
    assert list(folder.glob("results/*/metrics.json"))


def tiny(command: str, folder: Path) -> list[str]:
    """The arguments of a command, for the tiny checkpoint and few documents."""
    arguments = shlex.split(command.split("#")[0])[1:]
    if "--model" in arguments:
        arguments[arguments.index("--model") + 1] = str(folder / "tiny")
    return [*arguments, "--data.max-documents", "4", "--metrics.n-bootstrap", "10"]


def test_scoring_and_attacking(folder: Path) -> None:
    score, attack = (line for line in LINES if line.startswith(("mimir-jax score", "mimir-jax attack")))
    assert cli.main(tiny(score, folder)) == 0
    assert cli.main([*shlex.split(attack)[1:], "--overwrite"]) == 0


@pytest.mark.slow
def test_privacy(folder: Path) -> None:
    """The demonstration is of the same code, and takes minutes."""
    demonstration, command = (line for line in LINES if line.startswith("mimir-jax privacy"))
    assert shlex.split(demonstration.split("#")[0]) == ["mimir-jax", "privacy"]
    arguments = shlex.split(command)[1:]
    arguments[arguments.index("--base") + 1] = str(folder / "tiny")
    with jax.numpy_dtype_promotion("standard"):  # optax itself raises floats to the number of the step
        assert cli.main([*arguments, "--recipe.epochs", "1"]) == 0
    assert len(list(folder.glob("results/*/risk.csv"))) == 1


def test_the_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By arithmetic here; tests/test_plan.py compiles."""
    (line,) = (line for line in LINES if line.startswith("mimir-jax plan"))
    arguments = tiny(line, folder)[:-4]
    assert arguments[arguments.index("--topology") + 1] == "v5e:4x4"
    arguments[arguments.index("--topology") + 1] = "h100:8"
    assert cli.main(arguments) == 0
    assert "100,000 documents of 512 tokens" in capsys.readouterr().out


def test_what_a_cluster_runs(folder: Path) -> None:
    """On each host; here on one."""
    (worker,) = (line.split('"')[1] for line in LINES if line.startswith("gcloud"))
    (slurm,) = (line.removeprefix("srun ") for line in LINES if line.startswith("srun"))
    assert cli.main(tiny(worker, folder)) == 0
    assert cli.main([*tiny(slurm, folder), "--model", "demo/epoch1"]) == 0


def test_the_report(folder: Path) -> None:
    (line,) = (line.split("#")[0] for line in LINES if line.startswith("mimir-jax report"))
    path = write_finished(folder / shlex.split(line)[2], {"loss": 0.5})
    assert cli.main(shlex.split(line)[1:]) == 0
    assert (path / "figures" / "roc_log.pdf").exists()


@pytest.mark.slow
def test_two_processes_at_home(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (line,) = (line for line in LINES if line.startswith("for i in"))
    line = line.replace("mimir-jax run", f"{sys.executable} -c 'from mimir_jax.cli import main; exit(main())' run")
    line = line.replace("$i &", "$i --model tiny --data.members members.jsonl --data.nonmembers nonmembers.jsonl &")
    env = environment(tmp_path_factory.mktemp("compiled"))
    done = subprocess.run(line, shell=True, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.count("written to results/") == 1, done.stderr
    assert list(folder.glob("results/*/metrics.json"))


@pytest.mark.slow
def test_a_rehearsal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests have eight devices anyway."""
    (line,) = (line for line in LINES if line.startswith("JAX_NUM_CPU_DEVICES=8 "))
    assert cli.main(tiny(line.partition(" ")[2], folder)) == 0


@pytest.mark.slow
def test_python_examples(folder: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks("python"):
        if "import mimir_jax as mj" in block or "mj." in block:
            exec(block, names)
    assert names["scores"].shape == (3, 200)


def register(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, value: str, group: str) -> None:
    """As if a package with this entry point were installed."""
    monkeypatch.syspath_prepend(folder)
    point, others = metadata.EntryPoint(name, value, group), metadata.entry_points

    def entry_points(**selection: str) -> metadata.EntryPoints:
        ours = selection.get("group") == group
        return metadata.EntryPoints([point]).select(**selection) if ours else others(**selection)

    monkeypatch.setattr(metadata, "entry_points", entry_points)


def test_attack_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in blocks("python") if "Attack(" in block]
    Path("my_attacks.py").write_text(block, encoding="utf-8")
    register(monkeypatch, folder, "peak", "my_attacks:PEAK", "mimir_jax.attacks")
    arguments = ["run", "--model", "tiny", "--data.members", "members.jsonl", "--data.nonmembers", "nonmembers.jsonl"]
    assert cli.main([*arguments, "--attacks", "peak", "loss"]) == 0


def test_data_set_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in blocks("python") if "def news" in block]
    Path("my_data.py").write_text(block, encoding="utf-8")
    register(monkeypatch, folder, "news", "my_data:news", "mimir_jax.datasets")
    assert cli.main(["run", "--model", "tiny", "--data.documents", "news/2021", "--attacks", "loss"]) == 0

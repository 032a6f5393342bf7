"""mimir-jax report, and what a run writes for people: one folder, several, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from finished import write_finished

from mimir_jax.cli import main
from mimir_jax.report import results
from mimir_jax.testing import write_checkpoint

pytestmark = pytest.mark.slow  # as a whole

Captured = pytest.CaptureFixture[str]


def test_one_folder(tmp_path: Path, capsys: Captured) -> None:
    folder = write_finished(tmp_path / "one", {"loss": 0.5, "zlib": 1.0})
    assert main(["report", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"written to {folder / 'report.html'}, with tables/ and figures/ beside it\n", "")
    assert {path.name for path in folder.iterdir()} >= {"report.html", "tables", "figures"}
    assert "quick" in (folder / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(folder), "--quiet", "--no-texts"]) == 0
    assert capsys.readouterr() == ("", "")
    assert "quick" not in (folder / "report.html").read_text(encoding="utf-8")


def test_several_folders(tmp_path: Path, capsys: Captured) -> None:
    names = "a", "b"
    folders = [str(write_finished(tmp_path / name, {"loss": 0.5}, models=[name])) for name in names]
    assert main(["report", *folders]) == 0
    assert (tmp_path / "comparison" / "report.html").exists()
    assert main(["report", *folders, "--output", str(tmp_path / "x" / "y")]) == 0
    assert (tmp_path / "x" / "y" / "tables" / "paired_1.csv").exists()
    assert not (tmp_path / "a" / "report.html").exists()


@pytest.mark.parametrize("arguments", [[], ["{tmp}"], ["{tmp}/none"]])
def test_what_is_refused(tmp_path: Path, capsys: Captured, arguments: list[str]) -> None:
    assert main(["report", *(one.format(tmp=tmp_path) for one in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mimir-jax: ")
    assert err.count("\n") == 1


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of a run on sixteen short documents, two of which exceed the context."""

    def arguments(*others: str) -> list[str]:
        words = [
            "the",
            "quick",
            "brown",
            "fox",
            "jumps",
            "over",
            "a",
            "lazy",
            "dog",
            "and",
            "looks",
            "at",
            "them",
            "without",
            "one",
            "word",
        ]
        for name, shift in (("in", 0), ("out", 3)):
            texts = [" ".join(words[(i + j + shift) % len(words)] for j in range(6 + 2 * i)) for i in range(12)]
            rows = [json.dumps({"text": text, "id": f"{name}{i}"}) for i, text in enumerate(texts)]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        model = write_checkpoint(tmp_path / "tiny", hidden_size=32, max_position_embeddings=32)
        given = ["--model", model, "--data.members", tmp_path / "in.jsonl", "--data.nonmembers", tmp_path / "out.jsonl"]
        given += ["--results", tmp_path / "results", "--experiment", "small", "--attacks", "loss", "min_k++"]
        return ["run", *map(str, given), "--metrics.n-bootstrap", "20", *others]

    return arguments


@pytest.mark.report
@pytest.mark.slow
def test_a_run_writes_its_report(small: Callable[..., list[str]], tmp_path: Path, capsys: Captured) -> None:
    assert main(small()) == 0
    folder = tmp_path / "results" / "small"
    page = (folder / results.REPORT).read_text(encoding="utf-8")
    exposed = json.loads((folder / results.EXPOSED).read_text(encoding="utf-8"))
    assert exposed["column"] in ("loss", "min_k++")
    assert len(exposed["documents"]) == 12
    rows = [
        json.loads(line) for name in ("in", "out") for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()
    ]
    texts = {row["id"]: row["text"] for row in rows}
    for document in exposed["documents"]:
        assert "".join(document["pieces"]) == texts[document["id"]]
        assert document["log_prob"][0] is None
        assert all(value is not None and value < 0 for value in document["log_prob"][1:])
    long = max(exposed["documents"], key=lambda document: document["n_tokens"])
    assert long["windows"] == list(range(32, long["n_tokens"], 16))
    assert "window 2" in page

    (folder / results.REPORT).unlink()
    assert main(small()) == 0  # nothing is computed, but what is missing is written
    assert (folder / results.REPORT).read_text(encoding="utf-8") == page
    capsys.readouterr()


@pytest.mark.slow
def test_quiet_and_json(small: Callable[..., list[str]], tmp_path: Path, capsys: Captured) -> None:
    assert main(small("--quiet")) == 0
    assert capsys.readouterr() == ("", "")
    assert main(small("--json")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    folder = tmp_path / "results" / "small"
    assert found["metrics"] == json.loads((folder / results.METRICS).read_text())
    assert (found["folder"], found["computed"]) == (str(folder), False)
    assert found["audit"] == json.loads((folder / results.AUDIT).read_text())
    assert found["verdict"]["answer"]
    assert main([*small("--json"), "--data.members", "none.jsonl"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mimir-jax: none.jsonl")

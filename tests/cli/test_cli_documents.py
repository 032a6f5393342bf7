"""overlap, construct and decide from the command line: what they write, what they print, faults in one line."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mimir_jax.cli import main
from mimir_jax.data.ngram_index import ExactIndex, overlaps
from mimir_jax.data.readers import read_documents
from mimir_jax.report.results import write_scores

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)


def write_texts(name: str, texts: list[str]) -> str:
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return name


def sentence(number: int, words: int = 30) -> str:
    return " ".join(f"w{number * 100 + i}" for i in range(words))


def test_overlap_with_a_corpus(capsys: Captured) -> None:
    corpus = write_texts("corpus.jsonl", [sentence(0), sentence(1)])
    half = " ".join([*sentence(1).split()[:20], *sentence(3).split()[:10]])
    sides = ["--members", write_texts("in.jsonl", [sentence(0), "too short"])]
    sides += ["--nonmembers", write_texts("out.jsonl", [sentence(2), half])]
    for more in ([], ["--bloom-ngrams", "1000"]):
        assert main(["overlap", "--out", "found", "--corpus", corpus, "--words", "7", *sides, *more]) == 0
        out = capsys.readouterr().out
        assert ("false-positive rate" in out) == bool(more)
        table = pq.read_table("found/overlap.parquet").to_pydict()
        assert table["overlap_7"] == [1.0, None, 0.0, pytest.approx(14 / 24)]
        assert table["is_member"] == [True, True, False, False]
        assert Path("found/overlap_7.png").read_bytes().startswith(b"\x89PNG")


def test_overlap_with_the_members_themselves(capsys: Captured) -> None:
    """Members are compared with the others only."""
    members = write_texts("in.jsonl", [sentence(0), sentence(1), sentence(1)])
    sides = ["--members", members, "--nonmembers", write_texts("out.jsonl", [sentence(0), sentence(4)])]
    assert main(["overlap", "--out", "found", "--words", "3", *sides]) == 0
    assert pq.read_table("found/overlap.parquet")["overlap_3"].to_pylist() == [0, 1, 1, 1, 0]
    capsys.readouterr()
    assert main(["overlap", "--out", "found", "--bloom-ngrams", "9", *sides]) == 2
    assert "name a --corpus" in capsys.readouterr().err
    assert main(["overlap", "--out", "found", "--words", "0", *sides]) == 2
    assert "must be at least 1, not 0" in capsys.readouterr().err


def test_construct(capsys: Captured) -> None:
    train = write_texts("train.jsonl", [sentence(i) for i in range(8)])
    heldout = write_texts("heldout.jsonl", [sentence(i) for i in range(6, 14)])
    arguments = ["construct", "--out", "made", "--train", train, "--heldout", heldout, "--min-words", "10"]
    arguments += ["--tokenizer", "demo/tokenizer", "--max-tokens", "40", "--ngram", "7", "--count", "5"]
    assert main([*arguments, "--ids-tokenizer", "demo/tokenizer", "--first-tokens", "20"]) == 0
    out = capsys.readouterr().out
    assert "6 not in the training part" in out
    assert "5 members, 5 members_ids, 5 nonmembers, 5 nonmembers_ids" in out
    nonmembers = read_documents("made/nonmembers.jsonl", is_member=False)
    assert all(0 < len(document.text.split()) < 30 for document in nonmembers)  # cut to 40 tokens
    index = ExactIndex(7)
    assert np.all(overlaps(index, [document.text for document in nonmembers]) == 0)
    manifest = json.loads(Path("made/manifest.json").read_text())
    assert manifest["recipe"]["ngram"] == 7
    assert main(arguments) == 2
    assert "holds a data set already" in capsys.readouterr().err
    assert main(["construct", "--out", "other", "--train", train, "--heldout", heldout, "--tokenizer", "absent/x"]) == 2
    assert "absent/x: cannot be loaded" in capsys.readouterr().err


def finished(
    folder: str, scores: np.ndarray, is_member: np.ndarray, ids: list[str] | None = None, **more: np.ndarray
) -> None:
    Path(folder).mkdir()
    rows = {"id": ids or [f"d{i}" for i in range(len(scores))], "is_member": is_member.tolist()}
    columns = {"a/loss": scores, **more}
    write_scores(Path(folder) / "scores.parquet", rows, columns, [None] * len(scores))
    Path(folder, "metrics.json").write_text(json.dumps(dict.fromkeys(columns)))


def test_overlap_against_scores(capsys: Captured) -> None:
    texts = [" ".join([*sentence(0).split()[:5], *sentence(i).split()[:10]]) for i in range(60)]
    sides = ["--members", write_texts("in.jsonl", texts[:20]), "--nonmembers", write_texts("out.jsonl", texts[20:])]
    names = [f"in:{i + 1}" for i in range(20)] + [f"out:{i + 1}" for i in range(40)]
    is_member = np.arange(60) < 20
    finished("run", np.random.default_rng(0).normal(size=60) + is_member, is_member, names)
    assert main(["overlap", "--out", "found", "--words", "3", "--results", "run", *sides]) == 0
    assert "AUC-ROC by 3-gram overlap" in capsys.readouterr().out
    row = json.loads(Path("found/overlap.json").read_text())["3-gram"]["a/loss"]
    assert sum(one["n_nonmembers"] for one in row["quantiles"]) == 40
    assert set(row["below"]) == {"0.2", "0.8"}
    assert Path("found/a_loss_overlap_3.png").exists()
    assert main(["overlap", "--out", "found", "--results", "run", "--max-documents", "3"]) == 2
    assert "it has no score of 6" in capsys.readouterr().err


def test_compare_attacks_and_runs(capsys: Captured) -> None:
    is_member = np.arange(200) < 100
    noise = np.random.default_rng(0).normal(size=(3, 200))
    finished("one", noise[0] + 2 * is_member, is_member)
    finished("two", noise[1] + 0.1 * is_member, is_member)
    assert main(["compare", "one", "two", "--out", "compared.json"]) == 0
    (row,) = json.loads(Path("compared.json").read_text())
    assert (row["first"], row["second"]) == (["one", "a/loss"], ["two", "a/loss"])
    assert row["low"] > 0
    assert row["p_adjusted"] == row["p_value"] < 1e-4
    assert "one/a/loss" in capsys.readouterr().out
    finished("three", noise[2], is_member, other=noise[0] + is_member)
    assert main(["compare", "three", "--figure", "pair.png"]) == 0
    assert "other" in capsys.readouterr().out
    assert Path("pair.png").read_bytes().startswith(b"\x89PNG")
    finished("models", noise[2], is_member, loss=noise[0], **{"ref-small": noise[1]})
    assert main(["compare", "models", "--attacks", "loss", "ref-small", "--figure", "models.svg"]) == 0
    assert "svg" in Path("models.svg").read_text()
    for arguments, message in (
        (["one"], "nothing to compare"),
        (["one", "one"], "given twice"),
        (["one", "two", "--attacks", "zlib"], "no column zlib"),
        (["models", "--figure", "x.png"], "shows one pair, and there are 3"),
    ):
        assert main(["compare", *arguments]) == 2
        assert message in capsys.readouterr().err
    finished("flipped", noise[2], ~is_member)
    assert main(["compare", "one", "flipped"]) == 2
    assert "is a member in one run" in capsys.readouterr().err


def test_decide(capsys: Captured) -> None:
    is_member = np.arange(400) < 100
    scores = np.random.default_rng(0).normal(size=400) + 3 * is_member
    scores[0] = np.nan
    finished("run", scores, is_member)
    assert main(["decide", "run", "--attack", "a/loss", "--fpr", "0.05"]) == 0
    assert "false-positive rate on the other documents" in capsys.readouterr().out
    with Path("run/decisions-a_loss.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    said = json.loads(Path("run/decisions-a_loss.json").read_text())
    assert len(rows) == 400
    assert rows[0]["predicted_member"] == rows[0]["score"] == ""
    for row in rows[1:]:
        assert (float(row["score"]) >= said["threshold"]) == (row["predicted_member"] == "true")
    assert sum(row["split"] == "calibration" for row in rows) == 150
    rest = [r["predicted_member"] == "true" for r in rows if r["split"] == "report" and r["is_member"] == "false"]
    assert said["fpr"]["value"] == np.mean(rest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: no finished results"),
        (["run", "--attack", "min_k"], "min_k is no column of the scores; there are a/loss"),
        (["run", "--attack", "a/loss", "--fpr", "0"], "above 0 and at most 1"),
        (["run", "--attack", "a/loss", "--out", "no/such/file.csv"], "cannot be written"),
    ],
)
def test_decide_faults(arguments: list[str], message: str, capsys: Captured) -> None:
    finished("run", np.arange(20.0), np.arange(20) < 10)
    assert main(["decide", *arguments]) == 2
    assert message in capsys.readouterr().err

"""report.html: complete, self-contained, escaped; and several runs side by side."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from finished import HOSTILE, write_finished

from mimir_jax.config import ConfigError, DataConfig, RunConfig
from mimir_jax.metrics import Transfer
from mimir_jax.metrics.comparison import compare
from mimir_jax.report import results
from mimir_jax.report.findings import decimal
from mimir_jax.report.finished import Finished, read_finished
from mimir_jax.report.page import write_comparison, write_report
from mimir_jax.report.results import FIGURES, PUBLISHED, TABLES
from mimir_jax.report.summary import best_by_test, entries

pytestmark = pytest.mark.slow  # as a whole

ATTACKS = {"loss": 0.3, "min_k": 1.0, "min_k++": 2.4}
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.cells: dict[str, list[list[str]]] = {}
        self._table = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = dict(attrs).get("id") or "other"
            self.cells.setdefault(self._table, [])
        elif tag == "tr":
            self.cells[self._table].append([])
        elif tag in ("td", "th"):
            self.cells[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if "style" in self.open[-1:]:
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th", "span") and self._table and self.cells.get(self._table):
            row = self.cells[self._table][-1]
            if row:
                row[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check_self_contained(page: Page) -> None:
    """Nothing runs, nothing is fetched, ids are unique, and every figure says what it shows."""
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "img", "form", "base", "image", "foreignobject"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    assert "@import" not in page.source
    assert page.source.count("url(") == page.source.count("url(#")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [(attributes["href"] or "")[1:] for attributes in page.all("a")]
    assert set(targets) <= set(ids)
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in page.all("svg"))
    assert page.open == []
    assert len(page.source.encode()) < 3_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return read_finished(write_finished(tmp_path_factory.mktemp("r") / "one", ATTACKS, n=120, unscored=2))


@pytest.fixture(scope="module")
def page(run: Finished) -> Page:
    return Page(write_report(run))


def test_the_page_is_self_contained(page: Page) -> None:
    check_self_contained(page)
    assert page.source.startswith("<!doctype html>")
    assert len(page.all("svg")) == 2 + 3 + 2  # curves, scores, domain and length


def test_the_verdict_comes_first(page: Page, run: Finished) -> None:
    assert page.text.index("min_k++ separates members with AUC") < page.text.index("ROC curves on linear axes")
    order = [
        "Metrics",
        "ROC curves",
        "Scores of members",
        "by domain",
        "by length",
        "Documents, token",
        "Configuration",
    ]
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page.source)
    assert [any(word in heading for heading in headings) for word in order] == [True] * len(order)
    assert [next(word for word in order if word in heading) for heading in headings] == order


def test_the_table_is_metrics_json(page: Page, run: Finished) -> None:
    rows = {row[0]: row[1:] for row in page.cells["table-metrics"][1:]}
    written = json.loads((run.folder / results.METRICS).read_text())
    assert list(rows) == list(written)
    for name, row in written.items():
        auc = row["auc_roc"]
        assert rows[name][0] == f"{decimal(auc['value'])} [{decimal(auc['low'])}, {decimal(auc['high'])}]"
        assert rows[name][5].split()[:3] == [str(row["n_members"]), "+", str(row["n_nonmembers"])]
        for cell, tpr in zip(rows[name][1:4], row["tpr_at_fpr"].values()):
            assert cell.startswith(f"{100 * tpr['value']:.1f}%".replace("100.0%", "100%"))
        assert rows[name][6] == ".520 [.490, .550]"


def test_what_is_told_without_the_model(page: Page, run: Finished) -> None:
    assert run.audit is not None
    rows = {row[0]: row[1:] for row in page.cells["table-against_blind"][1:]}
    assert list(rows) == list(ATTACKS)
    for name, row in rows.items():
        found = run.audit.comparisons[name]
        assert row[0].startswith(f"{found.difference:+.3f}".replace("0.", ".").replace("-", "−"))
        assert row[2] == ("yes" if found.beats else "no")
        assert row[3] == page_auc(run, name)
    assert page.cells["table-blind"][1][:2] == ["the best, chosen within nested folds", ".520 [.490, .550]"]
    assert page.cells["table-shift"][1] == ["words", "120", "–", ".250", "< .001"]
    (word,) = page.cells["table-telling_words"][1:]
    assert word[0].startswith("2024<script>")
    assert word[1:] == ["1", "40", "−6.5"]


def page_auc(run: Finished, name: str) -> str:
    row = run.metrics[name]
    assert row is not None
    return f"{decimal(row.auc_roc.value)} [{decimal(row.auc_roc.low)}, {decimal(row.auc_roc.high)}]"


def test_tokens_with_their_values(page: Page, run: Finished) -> None:
    assert run.exposure is not None
    spans = [one for one in page.all("span") if "t" in (one.get("class") or "").split()]
    assert len(spans) == sum(len(document.pieces) for document in run.exposure.documents)
    first = run.exposure.documents[0]
    assert spans[0]["data-v"] == "not predicted"
    assert spans[1]["data-v"] == (
        f"log-prob {first.log_prob[1]:.2f} nats · z {first.z[1]:.2f} · rank {first.rank[1]}".replace("-", "−", 1)
        .replace("log−prob", "log-prob")
        .replace("prob -", "prob −")
    )
    assert page.text.count("window 2") == len(run.exposure.documents)


def test_configuration_and_command(page: Page) -> None:
    assert "mimir-jax run --experiment one --attacks loss min_k min_k++" in page.text
    assert "fingerprint" in page.text
    assert "1,234 tokens/s" in page.text


def test_tables_and_figures_of_papers(run: Finished) -> None:
    write_report(run, papers=True)
    tables = {path.name for path in (run.folder / TABLES).iterdir()}
    names = "metrics", "auc_by_domain", "auc_by_length", "against_blind", "blind", "shift", "telling_words"
    assert tables == {f"{name}.{suffix}" for name in names for suffix in ("csv", "md", "tex")}
    drawn = {path.suffix for path in (run.folder / FIGURES).iterdir()}
    assert drawn == {".svg", ".pdf"}


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    column = f"loss-{HOSTILE.replace('/', '')}"
    run = read_finished(
        write_finished(
            tmp_path / "hostile",
            {column: 0.5, "loss": 0.4},
            n=60,
            models=[HOSTILE],
            sources=[HOSTILE, "prose"],
            pieces=[HOSTILE, "\u202ea", "</span><script>"],
            name=HOSTILE.replace("{", "{{").replace("}", "}}") + "{}",
            notes=[HOSTILE],
            config=RunConfig(experiment=HOSTILE, model=HOSTILE, data=DataConfig(members=HOSTILE, nonmembers=HOSTILE)),
        )
    )
    for path in (write_report(run), write_comparison([run, run], tmp_path / "both")):
        page = Page(path)
        check_self_contained(page)
        assert "{{7*7}}" in page.text
        assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in page.text
        assert r"\x1b[2J\x07\u202e\u2066\x00" in page.text
        assert set("\x1b\x07\x00\u202e\u2066") & set(page.source) == set()
    for table in (tmp_path / "hostile" / TABLES).iterdir():
        assert table.read_text(encoding="utf-8").replace("\n", "").isprintable()


def test_without_an_audit_and_without_tokens(tmp_path: Path) -> None:
    folder = write_finished(tmp_path / "bare", {"loss": 0.5}, blind=None)
    (folder / results.EXPOSED).unlink()
    page = Page(write_report(read_finished(folder)))
    assert "No blind baseline was computed" in page.text
    assert "No tokens are shown" in page.text


def test_a_column_without_metrics(tmp_path: Path) -> None:
    folder = write_finished(tmp_path / "none", {"loss": 0.5})
    run = read_finished(folder)
    page = Page(write_report(replace(run, metrics={"loss": None}, exposure=None)))
    assert "No attack could be judged" in page.text
    assert page.cells["table-metrics"][1][1:3] == ["–", "–"]


def test_several_models_are_a_trend(tmp_path: Path) -> None:
    attacks = {f"m-epoch{epoch}/{name}": gap * epoch / 4 for epoch in (1, 4) for name, gap in ATTACKS.items()}
    run = read_finished(write_finished(tmp_path / "m", attacks, models=["m-epoch1", "m-epoch4"]))
    page = Page(write_report(run))
    assert page.cells["table-auc_by_model"][0] == ["attack", "m-epoch1", "m-epoch4"]
    assert [row[0] for row in page.cells["table-auc_by_model"][1:]] == list(ATTACKS)
    assert "Not drawn: m-epoch1/loss" in page.text


def test_further_nonmembers(tmp_path: Path) -> None:
    folder = write_finished(tmp_path / "t", {"loss": 0.5})
    moved = Transfer(auc_roc=0.61, fpr={0.05: 0.081}, tpr={0.05: 0.2}, n_nonmembers=33)
    results.write_transfer(folder / results.TRANSFER, {"news<b>": {"loss": moved}})
    page = Page(write_report(read_finished(folder)))
    header, row = page.cells["table-transfer_1"]
    assert header == ["attack", "AUC-ROC against them", "FPR here at 5% FPR there"]
    assert row == ["loss", ".610", "8.1%"]
    assert "On other non-members: news<b>" in page.text
    assert "33 further non-members" in page.text


def test_published_values(tmp_path: Path) -> None:
    folder = write_finished(tmp_path / "p", {"loss": 0.5, "zlib": 0.4})
    (folder / PUBLISHED).write_text('{"loss": {"auc_roc": 0.504, "source": "Table 1"}}')
    page = Page(write_report(read_finished(folder)))
    assert [row[-1] for row in page.cells["table-metrics"]] == ["published AUC", ".504", "–"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (results.METRICS, "{", "metrics.json"),
        (results.METRICS, '{"loss": {"auc_roc": 1}}', "loss.auc_roc"),
        (results.AUDIT, '{"best": {}}', "audit.json: "),
        (results.SCORES, "x", "scores.parquet"),
        (results.EXPOSED, "[]", "exposed.json"),
        (results.RUN, "[]", "run.json"),
    ],
)
def test_damaged_folders_are_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    folder = write_finished(tmp_path / "damaged", {"loss": 0.5})
    (folder / name).write_text(content)
    with pytest.raises(ConfigError, match="overwrite") as caught:
        read_finished(folder)
    assert said in str(caught.value)


def test_a_folder_that_is_no_results(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.json is missing"):
        read_finished(tmp_path)


# Several runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    folder = tmp_path_factory.mktemp("runs")
    sizes = {"pythia-70m": 0.5, "pythia-410m": 1.0}
    found = [
        write_finished(folder / name, {k: v * share for k, v in ATTACKS.items()}, n=200, models=[name])
        for name, share in sizes.items()
    ]
    config = RunConfig(data=DataConfig(members="a.jsonl", nonmembers="b.jsonl"))
    found.append(write_finished(folder / "else", {"loss": 0.3}, models=["pythia-70m"], documents="2", config=config))
    return [read_finished(one) for one in found]


def test_side_by_side(runs: list[Finished], tmp_path: Path) -> None:
    page = Page(write_comparison(runs, tmp_path / "c", papers=True))
    check_self_contained(page)
    assert page.cells["table-auc_1"][0] == ["attack", "pythia-70m", "pythia-410m"]
    assert page.cells["table-auc_2"][0] == ["attack", "pythia-70m"]
    assert "a.jsonl against b.jsonl" in page.text
    assert "trend_1.pdf" in {path.name for path in (tmp_path / "c" / FIGURES).iterdir()}
    small, large = (run.scores["min_k++"] for run in runs[:2])
    test = compare(small, large, runs[0].is_member)
    row = next(row for row in page.cells["table-paired_1"] if row[0] == "min_k++")
    assert row[3].startswith(f"{test.difference:+.3f}".replace("0.", ".").replace("-", "−"))


def test_best_is_bold_only_where_it_is_significant(runs: list[Finished]) -> None:
    run = runs[1]
    assert best_by_test(run.scores, run.is_member) == "min_k++"
    rng = np.random.default_rng(0)
    close = {"a": run.scores["loss"], "b": run.scores["loss"] + rng.normal(size=400) / 100}
    assert best_by_test(close, run.is_member) is None
    assert best_by_test({"a": run.scores["loss"]}, run.is_member) is None
    unlike = run.scores["loss"].copy()
    unlike[run.is_member] = np.nan
    assert best_by_test({"a": run.scores["loss"], "b": unlike}, run.is_member) is None


def test_models_called_alike_are_told_apart(runs: list[Finished]) -> None:
    twin = replace(runs[0], config=replace(runs[0].config, experiment="twin"))
    (found, _) = entries([*runs[:2], twin, runs[2]]).values()
    assert [entry.model for entry in found] == ["pythia-70m (pythia-70m)", "pythia-410m", "pythia-70m (twin)"]

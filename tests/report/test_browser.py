"""The report of the embedded example as a person sees it: in Chromium, wide and narrow, light and dark."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finished import write_finished

from mimir_jax import cli
from mimir_jax.report import results, written
from mimir_jax.report.findings import decimal
from mimir_jax.report.finished import read_finished
from mimir_jax.report.page import write_comparison

REQUIRED = "MIMIR_JAX_BROWSER_TESTS"
"""Set where the absence of Chromium is a failure, as in CI."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.report,
    pytest.mark.skipif(CHROMIUM is None and REQUIRED not in os.environ, reason="no Chromium: apt-get install chromium"),
]

SIZES = [(1400, 900), (380, 800)]

# Of all elements those that stick out of the window, but for what scrolls within a box of its own.
OVERFLOW = """() => {
  const wide = [...document.querySelectorAll("main *")].filter(element =>
    element.getBoundingClientRect().right > innerWidth + 1
    && !element.closest(".scroll") && getComputedStyle(element).position !== "fixed");
  return [document.documentElement.scrollWidth - innerWidth, wide.map(element => element.outerHTML.slice(0, 80))];
}"""
# Texts of figures that their figure cuts off.
CUT = """() => [...document.querySelectorAll("svg text")].filter(text => {
  const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect();
  return inner.left < outer.left - 2 || inner.right > outer.right + 2 || inner.bottom > outer.bottom + 2;
}).map(text => text.textContent)"""
# Names of attacks that do not stand on one line.
BROKEN = """() => [...document.querySelectorAll("#table-metrics tbody th")].filter(name => {
  const range = document.createRange();
  range.selectNodeContents(name);
  return range.getClientRects().length > 1;
}).map(name => name.textContent)"""
TOOLTIP = """element => {
  const style = getComputedStyle(element, "::after");
  return [style.content, style.position, style.bottom];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, f"{REQUIRED} is set, and there is no Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the embedded example, of a few documents."""
    folder = tmp_path_factory.mktemp("demo")
    arguments = [
        "run",
        "--results",
        str(folder),
        "--data.max-documents",
        "24",
        "--metrics.n-bootstrap",
        "50",
        "--quiet",
    ]
    assert cli.main(arguments) == 0
    written.write_report(folder / "demo-epoch16")  # module fixtures run before `without_report` is lifted
    return folder / "demo-epoch16"


@pytest.fixture
def console(browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page, and whatever it says on its console."""
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    yield page, said
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_overflows_and_the_console_is_silent(
    demo: Path, console: Any, size: tuple[int, int], scheme: str
) -> None:
    page, said = console
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto((demo / results.REPORT).as_uri())
    assert page.evaluate(OVERFLOW) == [0, []]
    assert page.evaluate(CUT) == []
    for summary in page.query_selector_all("summary"):
        summary.click()
    assert page.evaluate(OVERFLOW) == [0, []]
    assert page.evaluate(BROKEN) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark is (scheme == "dark")
    assert said == []


def test_the_table_shows_metrics_json(demo: Path, console: Any) -> None:
    page, _ = console
    page.goto((demo / results.REPORT).as_uri())
    rows = page.eval_on_selector_all(
        "#table-metrics tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    )
    metrics = json.loads((demo / results.METRICS).read_text())
    assert [row[0] for row in rows] == list(metrics)
    for row, found in zip(rows, metrics.values()):
        auc = found["auc_roc"]
        assert row[1].split() == [decimal(auc["value"]), f"[{decimal(auc['low'])},", f"{decimal(auc['high'])}]"]
        for cell, tpr in zip(row[2:], found["tpr_at_fpr"].values()):
            assert cell.split()[0].rstrip("*") == f"{100 * tpr['value']:.1f}%".replace("100.0%", "100%")
        assert [int(n) for n in row[6].split("\n")[0].split(" + ")] == [found["n_members"], found["n_nonmembers"]]


@pytest.mark.parametrize("size", SIZES)
def test_pointing_at_a_token_shows_its_values(demo: Path, console: Any, size: tuple[int, int]) -> None:
    page, _ = console
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto((demo / results.REPORT).as_uri())
    exposure = read_finished(demo).exposure
    assert exposure is not None
    document = exposure.documents[0]
    token = page.query_selector_all("article .tokens")[0].query_selector_all(".t")[5]
    assert page.evaluate(TOOLTIP, token)[0] == "none"
    token.hover()
    content, position, bottom = page.evaluate(TOOLTIP, token)
    assert f"log-prob {document.log_prob[5]:.2f} nats".replace("-", "−").replace("log−", "log-") in content
    assert f"rank {document.rank[5]}" in content
    assert (position, bottom) == ("fixed", "0px")
    assert token.inner_text().strip() == document.pieces[5].strip()


def test_the_tokens_are_a_table_too(demo: Path, console: Any) -> None:
    page, _ = console
    page.goto((demo / results.REPORT).as_uri())
    exposure = read_finished(demo).exposure
    assert exposure is not None
    page.locator("article summary").first.click()
    rows = page.locator("article table").first.locator("tbody tr")
    assert rows.count() == len(exposure.documents[0].pieces)
    assert f"{exposure.documents[0].log_prob[5]:.2f}".replace("-", "−") in rows.nth(5).inner_text()


def test_it_is_read_aloud_and_printed(demo: Path, console: Any, tmp_path: Path) -> None:
    page, _ = console
    page.goto((demo / results.REPORT).as_uri())
    assert page.locator("main").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    figures = page.get_by_role("img")
    assert figures.count() == page.locator("figure").count() > 5
    assert all("AUC" in (figures.nth(i).get_attribute("aria-label") or "") for i in range(figures.count()))
    assert page.get_by_role("columnheader", name="AUC-ROC").count() >= 1
    assert page.get_by_role("rowheader", name="loss", exact=True).count() >= 1
    page.pdf(path=tmp_path / "printed.pdf")
    assert (tmp_path / "printed.pdf").stat().st_size > 10_000


@pytest.mark.parametrize("size", SIZES)
def test_side_by_side(console: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    page, said = console
    page.set_viewport_size({"width": size[0], "height": size[1]})
    sizes = "pythia-70m", "pythia-160m", "pythia-1.4b-deduped"
    runs = [
        read_finished(write_finished(tmp_path / name, {"loss": 0.3, "min_k++": 0.9, "ref-gpt2": 0.5}, models=[name]))
        for name in sizes
    ]
    page.goto(write_comparison(runs, tmp_path / "c").as_uri())
    assert page.evaluate(OVERFLOW) == [0, []]
    assert page.evaluate(CUT) == []
    assert said == []

"""What a notebook shows of results: valid HTML with the numbers, and nothing that runs."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mimir_jax.arrays import TokenStats, stack
from mimir_jax.metrics import evaluate, roc_curve
from mimir_jax.outcome import Results

IS_MEMBER = np.arange(60) < 30
SCORES = np.random.default_rng(0).normal(size=60) + IS_MEMBER


class Parsed(HTMLParser):
    """Tags that are opened and closed in order, and the text between them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "br":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def token_stats(documents: int, time: int) -> TokenStats:
    log_prob = -np.random.default_rng(0).exponential(size=(documents, time)).astype(np.float32)
    ids = np.zeros((documents, time), np.int32)
    mask = np.arange(time)[None] < np.arange(1, documents + 1)[:, None]
    return TokenStats(ids, log_prob, log_prob, -log_prob, log_prob, ids, mask)


def test_metrics() -> None:
    row = evaluate(SCORES, IS_MEMBER, n_bootstrap=20)
    shown = Parsed(row._repr_html_())
    assert f"{row.auc_roc.value:.3f}" in shown.text
    assert f"[{row.auc_roc.low:.3f}, {row.auc_roc.high:.3f}]" in shown.text
    assert "30 + 30" in shown.text


def test_a_curve() -> None:
    curve = roc_curve(SCORES, IS_MEMBER)
    shown = Parsed(curve._repr_html_())
    assert shown.tags[:2] == ["figure", "svg"]
    assert f"AUC {np.trapezoid(curve.tpr, curve.fpr):.3f}" in shown.text


@pytest.mark.parametrize("shape", [(3, 5), (12, 5), (1, 200), (0, 0)])
def test_statistics(shape: tuple[int, int]) -> None:
    stats = token_stats(*shape)
    shown = Parsed(stats._repr_html_())
    assert f"[{shape[0]} x {shape[1]}]" in shown.text
    if stats.mask.size:
        assert f"{np.count_nonzero(stats.mask)} tokens scored" in shown.text
        assert f"{stats.log_prob[0, 0]:.3f}" in shown.text
        assert Parsed(stack([stats, stats])._repr_html_()).text.startswith(f"TokenStats [2 x {shape[0]} x")


def test_results_of_a_run() -> None:
    hostile = "loss-<script>\x1b[2J"
    metrics = evaluate({hostile: SCORES}, IS_MEMBER, n_bootstrap=20)
    shown = Parsed(Results(Path("there"), [], {}, {hostile: metrics[hostile], "surp": None}, [])._repr_html_())
    assert "script" not in shown.tags
    assert r"loss-<script>\x1b[2J separates members" in shown.text
    assert "there/report.html" in shown.text

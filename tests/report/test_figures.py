"""The ROC figure: files, what is drawn, and names that come from anywhere."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure

from mimir_jax.metrics import auc_roc, roc_curve
from mimir_jax.report.figures import inline_svg, roc_figure, roc_panel, save, scores_figure, scores_panel

pytestmark = pytest.mark.slow  # as a whole

IS_MEMBER = np.arange(400) < 200
HOSTILE = ["_hidden", r"$\frac", "a\x1b[2J\nb", "日本\u202e", "\ud800", ""]


def scores_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=400) + 0.3 * seed * IS_MEMBER


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were to be saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    return figures


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_writes_the_format_of_the_suffix(tmp_path: Path, suffix: str) -> None:
    settings = dict(rcParams)
    path = tmp_path / f"roc{suffix}"
    roc_figure({name: roc_curve(scores_of(i), IS_MEMBER) for i, name in enumerate(HOSTILE)}, path)
    assert path.read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")
    assert Gcf.figs == {}
    assert dict(rcParams) == settings


def test_panels_and_legend(drawn: list[Figure]) -> None:
    curves = {name: roc_curve(scores_of(i), IS_MEMBER) for i, name in enumerate(["loss", *HOSTILE])}
    roc_figure(curves, "roc.png")
    linear, logarithmic = drawn[0].axes
    assert (linear.get_xscale(), linear.get_yscale()) == ("linear", "linear")
    assert (logarithmic.get_xscale(), logarithmic.get_yscale()) == ("log", "log")
    assert logarithmic.get_xlim() == logarithmic.get_ylim() == (1 / 200, 1)
    for line, curve in zip(linear.lines, curves.values()):
        np.testing.assert_array_equal(line.get_xdata(), curve.fpr)
        np.testing.assert_array_equal(line.get_ydata(), curve.tpr)
    assert len(linear.lines) == len(logarithmic.lines) == len(curves) + 1  # and the diagonal
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert texts[0] == f"loss  AUC {auc_roc(scores_of(0), IS_MEMBER):.3f}"
    names = [text.rpartition("  AUC ")[0] for text in texts[1:]]
    assert names == ["_hidden", r"$\frac", r"a\x1b[2J\nb", r"\u65e5\u672c\u202e", r"\ud800", ""]


def test_lines_differ_without_color(drawn: list[Figure]) -> None:
    curve = roc_curve(scores_of(1), IS_MEMBER)
    roc_figure({str(i): curve for i in range(36)}, "roc.png")
    lines = drawn[0].axes[0].lines[:-1]
    styles = {(str(line._unscaled_dash_pattern), line.get_marker()) for line in lines}  # type: ignore[attr-defined]
    assert len(styles) == 36


def test_perfect_and_coarse_curves(tmp_path: Path) -> None:
    curves = {
        "perfect": roc_curve(IS_MEMBER.astype(float), IS_MEMBER),
        "constant": roc_curve(np.zeros(400), IS_MEMBER),
        "one a side": roc_curve([1, 0], [1, 0]),
    }
    roc_figure(curves, tmp_path / "roc.png")
    roc_figure({}, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").exists()


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        save(roc_panel({"loss": roc_curve(scores_of(1), IS_MEMBER)}, logarithmic=True), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_figure_within_a_page() -> None:
    curves = {name: roc_curve(scores_of(i), IS_MEMBER) for i, name in enumerate(HOSTILE)}
    svg = inline_svg(roc_panel(curves, logarithmic=False), "roc", 'what "it" shows <b>')
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'what "it" shows <b>'
    assert all(element.attrib["id"].startswith("roc-") for element in root.iter() if "id" in element.attrib)
    assert "var(--c0)" in svg
    assert "#0072b2" not in svg.lower()


def test_panels_of_scores_and_of_nothing_else() -> None:
    scores = scores_of(1)
    scores[:3] = np.nan
    (axes,) = scores_panel("loss", scores, IS_MEMBER).axes
    assert axes.get_xlabel() == "loss"
    assert [axes.axison for axes in scores_figure({"a": scores, "b": scores}, IS_MEMBER).axes] == [
        True,
        True,
        False,
    ]
    (axes,) = scores_panel("constant", np.ones(400), IS_MEMBER).axes
    assert axes.get_xlim()[0] < 1 < axes.get_xlim()[1]

"""Figures, drawn without matplotlib's global state: one style, safe for the color-blind, legible without color.

Importing this module imports matplotlib (a fair part of a second): import it where a figure is drawn.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from mimir_jax.metrics import Estimate, RocCurve
from mimir_jax.report.escape import visible

# Okabe and Ito, "Color Universal Design", 2008, but for yellow, which is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lines are told apart without their color by dashes, then by markers.
DASHES = ("-", "--", ":", "-.", (0, (8, 2, 2, 2, 2, 2)), (0, (1, 3)))
MARKERS = ("", "o", "s", "^", "x", "D")
POINTS = ("o", "s", "^", "D", "v", "X", "P")
MEMBERS, NONMEMBERS = COLORS[0], COLORS[1]
GRID, DIAGONAL = "#e6e6e6", "#999999"

WIDTH, HEIGHT = 4.6, 3.6
"""Inches, of a figure that fills a narrow column: its text then has the size of a caption."""
LONGEST = 36
"""Characters of a label."""


def roc_figure(curves: Mapping[str, RocCurve], path: str | Path) -> None:
    """Write ROC curves, one line a curve, on linear axes and on logarithmic ones.

    The linear panel joins the points by straight lines, under which the area is the AUC of the legend. The
    logarithmic one, after Carlini et al., arXiv:2112.03570, steps: at each FPR it shows the largest TPR
    within that FPR, as `tpr_at_fpr` does. It begins at the smallest FPR above 0 of all curves.

    Args:
        curves: by name, as `roc_curve` returns them; the legend keeps their order.
        path: file to write; its suffix is the format, such as .png, .svg or .pdf.
    """
    figure = new_figure(11.0, 4.6)
    linear, logarithmic = figure.subplots(1, 2)
    handles = _draw_roc(linear, curves, logarithmic=False)
    _draw_roc(logarithmic, curves, logarithmic=True)
    labels = [f"{drawable(name)}  AUC {np.trapezoid(curve.tpr, curve.fpr):.3f}" for name, curve in curves.items()]
    legend = figure.legend(handles, labels, loc="outside right upper", fontsize="small", handlelength=4)
    _plain(legend.get_texts())
    figure.savefig(path)


def roc_panel(curves: Mapping[str, RocCurve], logarithmic: bool) -> Figure:
    """One panel of `roc_figure`, with its legend below the axes."""
    figure = new_figure(WIDTH, WIDTH + 0.22 * -(-len(curves) // 2))
    axes = figure.subplots()
    handles = _draw_roc(axes, curves, logarithmic)
    legend_below(figure, handles, list(curves))
    return figure


def scores_panel(name: str, scores: Float[np.ndarray, " doc"], is_member: Bool[np.ndarray, " doc"]) -> Figure:
    """How the scores of members and of non-members are distributed: outlines of histograms with common bins.

    Scores beyond the middle 98% are counted in the outermost bins, so that a few do not press all others together.
    """
    figure = new_figure(WIDTH * 0.75, HEIGHT * 0.72)
    _draw_scores(figure.subplots(), name, scores, is_member)
    return figure


def scores_figure(scores: Mapping[str, Float[np.ndarray, " doc"]], is_member: Bool[np.ndarray, " doc"]) -> Figure:
    """The panels of `scores_panel` on one figure, three in a row."""
    rows = -(-len(scores) // 3)
    figure = new_figure(WIDTH * 1.8, HEIGHT * 0.6 * rows)
    panels = figure.subplots(rows, 3, squeeze=False).ravel()
    for axes, (name, values) in zip(panels, scores.items()):
        _draw_scores(axes, name, values, is_member)
    for axes in panels[len(scores) :]:
        axes.set_axis_off()
    handles = [Line2D([], [], color=MEMBERS), Line2D([], [], color=NONMEMBERS, linestyle="--")]
    legend_below(figure, handles, ["members", "non-members"])
    return figure


def _draw_scores(axes: Axes, name: str, scores: Float[np.ndarray, " doc"], is_member: Bool[np.ndarray, " doc"]) -> None:
    known = np.isfinite(scores)
    low, high = np.quantile(scores[known], [0.01, 0.99])
    bins = np.linspace(low, high, 31) if high > low else np.linspace(low - 0.5, low + 0.5, 3)
    clipped = np.clip(scores, bins[0], bins[-1])
    for label, side, color, dash in (
        ("members", is_member, MEMBERS, "-"),
        ("non-members", ~is_member, NONMEMBERS, "--"),
    ):
        some = clipped[known & side]
        counts = np.histogram(some, bins)[0] / max(len(some), 1)
        axes.stairs(counts, bins, color=color, linestyle=dash, linewidth=1.4, label=label)
        axes.stairs(counts, bins, fill=True, color=color, alpha=0.12)
    axes.set_xlabel(shortened(name), parse_math=False)
    axes.set_ylabel("share of documents")
    axes.margins(x=0)
    axes.set_ylim(bottom=0)


def groups_panel(names: Sequence[str], aucs: Mapping[str, Sequence[Estimate | None]]) -> Figure:
    """AUC with its interval in groups of documents: a point a group and column, groups from top to bottom."""
    figure = new_figure(WIDTH, 0.9 + 0.15 * len(names) * (len(aucs) + 1.5) + 0.22 * -(-len(aucs) // 2))
    axes = figure.subplots()
    handles = []
    for i, (_, rows) in enumerate(aucs.items()):
        at = [g + (i - (len(aucs) - 1) / 2) * 0.75 / max(len(aucs), 1) for g in range(len(names))]
        handles.append(_points(axes, rows, at, i, vertical=False))
    axes.axvline(0.5, color=DIAGONAL, linewidth=0.8, zorder=1)
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("AUC-ROC")
    axes.grid(axis="x", color=GRID, linewidth=0.5)
    _plain(axes.get_yticklabels())
    legend_below(figure, handles, list(aucs))
    return figure


def trend_panel(
    what: str,
    positions: Sequence[float],
    names: Sequence[str],
    logarithmic: bool,
    aucs: Mapping[str, Sequence[Estimate | None]],
) -> Figure:
    """AUC with its interval over models, a line an attack."""
    figure = new_figure(WIDTH * 1.2, HEIGHT * 1.1 + 0.22 * -(-len(aucs) // 2))
    axes = figure.subplots()
    if logarithmic:
        axes.set_xscale("log")
    handles = [_points(axes, rows, positions, i, vertical=True) for i, rows in enumerate(aucs.values())]
    axes.axhline(0.5, color=DIAGONAL, linewidth=0.8, zorder=1)
    axes.xaxis.set_major_locator(FixedLocator(positions))
    axes.xaxis.set_minor_locator(NullLocator())
    labels = [f"{x:g}" for x in positions] if what in ("step", "epoch") else [shortened(name) for name in names]
    turned = sum(map(len, labels)) > 40
    axes.set_xticks(positions, labels, rotation=30 if turned else 0, ha="right" if turned else "center")
    axes.set_xlabel(what)
    axes.set_ylabel("AUC-ROC")
    axes.grid(color=GRID, linewidth=0.5)
    _plain(axes.get_xticklabels())
    legend_below(figure, handles, list(aucs))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure; its suffix is the format. The same figure gives the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "mimir_jax", "svg.fonttype": "path", "pdf.fonttype": 42}):
        dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        figure.savefig(path, metadata=dated.get(path.suffix))


def inline_svg(figure: Figure, name: str, title: str) -> str:
    """A figure as an <svg> element for a page: text as text, colors as the page's variables, ids of its own.

    Args:
        figure: to draw.
        name: of letters and digits; goes before every id, as a page holds many figures.
        title: what the figure shows, for who does not see it; it is escaped here.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    for i, color in enumerate(COLORS[:-1]):
        svg = svg.replace(color.lower(), f"var(--c{i})")
    svg = svg.replace(GRID, "var(--grid)").replace(DIAGONAL, "var(--faint)")
    svg = re.sub(r"(fill|stroke): #000000", r"\1: var(--ink)", svg)
    # Where no color is named, SVG fills black: text and markers take the page's.
    head, body = svg.split(">", 1)
    width = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    assert width is not None
    label = _xml(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'viewBox="0 0 {width.group(1)} {width.group(2)}" style="max-width:{width.group(1)}pt" aria-label="{label}">'
        f"<title>{label}</title>{body}"
    )


def shortened(text: str) -> str:
    """A name that leaves room for the figure; the tables have all of it."""
    shown = drawable(text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 8]}…{shown[-7:]}"


def drawable(text: str) -> str:
    """`visible`, and characters that the font lacks written out too."""
    glyphs = get_font(findfont(FontProperties())).get_charmap()
    return "".join(c if ord(c) in glyphs else c.encode("unicode_escape").decode("ascii") for c in visible(text))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_roc(axes: Axes, curves: Mapping[str, RocCurve], logarithmic: bool) -> list[Line2D]:
    floor = min([0.1, *(float(curve.fpr[curve.fpr > 0][0]) for curve in curves.values())])
    handles: list[Line2D] = []
    for i, curve in enumerate(curves.values()):
        style: dict[str, Any] = {
            "color": COLORS[i % len(COLORS)],
            "linestyle": DASHES[i % len(DASHES)],
            "marker": MARKERS[i // len(DASHES) % len(MARKERS)],
            "markevery": 0.1,
            "markersize": 4,
            "linewidth": 1.4,
        }
        if logarithmic:
            # Zero has no place on a logarithmic axis; below the floor it is out of sight.
            handles += axes.plot(np.maximum(curve.fpr, floor / 10), curve.tpr, drawstyle="steps-post", **style)
        else:
            handles += axes.plot(curve.fpr, curve.tpr, **style)
    axes.plot([floor, 1], [floor, 1], color=DIAGONAL, linewidth=0.8, zorder=1)
    axes.set_xlabel("False-positive rate")
    axes.set_ylabel("True-positive rate")
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_aspect("equal", adjustable="box")
    if logarithmic:
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
    else:
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    return handles


def _points(axes: Axes, rows: Sequence[Estimate | None], at: Sequence[float], i: int, vertical: bool) -> Any:
    """AUCs with their intervals, joined where they are a series; the handle for the legend."""
    known = [(x, row) for x, row in zip(at, rows) if row is not None]
    where = [x for x, _ in known]
    values = [auc.value for _, auc in known]
    # An estimate may lie outside a percentile interval.
    errors = [
        [max(auc.value - auc.low, 0) for _, auc in known],
        [max(auc.high - auc.value, 0) for _, auc in known],
    ]
    style: dict[str, Any] = {
        "color": COLORS[i % len(COLORS)],
        "marker": POINTS[i % len(POINTS)],
        "markersize": 4,
        "linewidth": 1.2,
        "elinewidth": 1,
        "capsize": 2,
        "linestyle": DASHES[i % len(DASHES)] if vertical else "none",
    }
    if vertical:
        return axes.errorbar(where, values, yerr=errors, **style)
    return axes.errorbar(values, where, xerr=errors, **style)


def legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend under the axes, in two columns where names are short; no name is a formula."""
    labels = [shortened(name) for name in names]
    columns = 2 if max(map(len, labels), default=0) < 26 else 1
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize="small", handlelength=3.5, frameon=False
    )
    _plain(legend.get_texts())


def _plain(texts: Sequence[Any]) -> None:
    for text in texts:
        text.set_parse_math(False)  # names with dollar signs are not formulas


def _xml(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return visible(text)

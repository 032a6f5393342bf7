"""Figures, drawn without matplotlib's global state.

Importing this module imports matplotlib (a fair part of a second): import it where a figure is drawn.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D

from mimir_jax.metrics import RocCurve
from mimir_jax.report.tables import visible

# Okabe and Ito, "Color Universal Design", 2008, but for yellow, which is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lines are told apart without their color by dashes, then by markers.
DASHES = ("-", "--", ":", "-.", (0, (8, 2, 2, 2, 2, 2)), (0, (1, 3)))
MARKERS = ("", "o", "s", "^", "x", "D")


def roc_figure(curves: Mapping[str, RocCurve], path: str | Path) -> None:
    """Write ROC curves, one line a curve, on linear axes and on logarithmic ones.

    The linear panel joins the points by straight lines, under which the area is the AUC of the legend. The
    logarithmic one, after Carlini et al., arXiv:2112.03570, steps: at each FPR it shows the largest TPR
    within that FPR, as `tpr_at_fpr` does. It begins at the smallest FPR above 0 of all curves.

    Args:
        curves: by name, as `roc_curve` returns them; the legend keeps their order.
        path: file to write; its suffix is the format, such as .png, .svg or .pdf.
    """
    figure = Figure(figsize=(11, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    linear, logarithmic = figure.subplots(1, 2)
    floor = min([0.1, *(float(curve.fpr[curve.fpr > 0][0]) for curve in curves.values())])

    handles: list[Line2D] = []
    labels = []
    for i, (name, curve) in enumerate(curves.items()):
        style = {
            "color": COLORS[i % len(COLORS)],
            "linestyle": DASHES[i % len(DASHES)],
            "marker": MARKERS[i // len(DASHES) % len(MARKERS)],
            "markevery": 0.1,
            "markersize": 4,
            "linewidth": 1.4,
        }
        handles += linear.plot(curve.fpr, curve.tpr, **style)
        # Zero has no place on a logarithmic axis; below the floor it is out of sight.
        logarithmic.plot(np.maximum(curve.fpr, floor / 10), curve.tpr, drawstyle="steps-post", **style)
        labels.append(f"{_drawable(name)}  AUC {np.trapezoid(curve.tpr, curve.fpr):.3f}")
    for axes in (linear, logarithmic):
        axes.plot([floor, 1], [floor, 1], color="0.6", linewidth=0.8, zorder=1)
        axes.set_xlabel("False-positive rate")
        axes.set_ylabel("True-positive rate")
        axes.grid(color="0.9", linewidth=0.5)
        axes.set_aspect("equal", adjustable="box")
    linear.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    logarithmic.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
    legend = figure.legend(handles, labels, loc="outside right upper", fontsize="small", handlelength=4)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names with dollar signs are not formulas
    figure.savefig(path)


def _drawable(text: str) -> str:
    """`visible`, and characters that the font lacks written out too."""
    glyphs = get_font(findfont(FontProperties())).get_charmap()
    return "".join(c if ord(c) in glyphs else c.encode("unicode_escape").decode("ascii") for c in visible(text))

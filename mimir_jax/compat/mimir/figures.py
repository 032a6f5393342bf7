"""MIMIR's figures, by its file names.

Importing this module imports matplotlib (a fair part of a second): import it where figures are drawn.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mimir_jax.report.figures import COLORS, DASHES

ROC, ROC_LOW_FPR = "roc_curves.png", "roc_curves_low_fpr.png"
FLOOR = 1e-5  # where the logarithmic axes begin


def roc_figures(
    folder: Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float], float]], title: str
) -> tuple[Path, Path]:
    """roc_curves.png, and roc_curves_low_fpr.png on logarithmic axes.

    Args:
        folder: where the files go.
        curves: FPR, TPR and AUC by name.
        title: the models.

    Returns:
        The two files.
    """
    paths = folder / ROC, folder / ROC_LOW_FPR
    for path, logarithmic in zip(paths, (False, True)):
        figure, (axes,) = _figure(1)
        for i, (name, (fpr, tpr, auc)) in enumerate(curves.items()):
            (line,) = axes.plot(fpr, tpr, label=f"{name}, roc_auc={auc:.3f}", color=COLORS[i % len(COLORS)])
            line.set_linestyle(DASHES[i // len(COLORS) % len(DASHES)])  # type: ignore[arg-type]
        axes.plot([FLOOR, 1], [FLOOR, 1], color="black", linewidth=1, linestyle="--")
        if logarithmic:
            axes.set(xscale="log", yscale="log", xlim=(FLOOR, 1), ylim=(FLOOR, 1))
        else:
            axes.set(xlim=(0, 1), ylim=(0, 1.05))
        axes.set(xlabel="False-positive rate", ylabel="True-positive rate")
        axes.set_title(f"ROC curves ({title})" + (", low FPR" if logarithmic else ""), parse_math=False)
        if curves:
            _legend(axes)
        figure.savefig(path)
    return paths


def histograms(
    path: Path, members: Float[np.ndarray, " doc"], nonmembers: Float[np.ndarray, " non"], label: str
) -> Path:
    """Members and non-members beside each other in one panel, and how they accumulate in the other.

    Args:
        path: the file.
        members: a value a document; NaN is left out.
        nonmembers: as members.
        label: of the values.
    """
    figure, (left, right) = _figure(2)
    sides = {"member": members[np.isfinite(members)], "nonmember": nonmembers[np.isfinite(nonmembers)]}
    everything = np.concatenate(list(sides.values()))
    edges = np.histogram_bin_edges(everything, bins="sqrt").tolist()
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    for (name, values), color in zip(sides.items(), COLORS):
        left.hist(values, bins=edges, alpha=0.5, label=name, color=color)
        right.step(middles, np.searchsorted(np.sort(values), edges[1:]), where="mid", label=name, color=color)
    left.set(xlabel=label, ylabel="documents")
    right.set(xlabel=label, ylabel="documents up to there")
    _legend(left)
    figure.savefig(path)
    return path


def _figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(6.4 * panels, 4.8), dpi=150)
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _legend(axes: Axes) -> None:
    for text in axes.legend(fontsize=6).get_texts():
        text.set_parse_math(False)  # names with dollar signs are not formulas

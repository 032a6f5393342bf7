"""Figures of audits: overlaps of both sides, scores against overlaps, scores against scores.

Importing this module imports matplotlib: import it where a figure is drawn.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mimir_jax.report.figures import COLORS
from mimir_jax.report.tables import visible

SIDES = {True: ("members", COLORS[1]), False: ("non-members", COLORS[0])}


def histogram(overlaps: Mapping[str, Float[np.ndarray, " doc"]], path: str | Path, words: int, bins: int = 20) -> None:
    """Share of documents by n-gram overlap, a line for each set, such as members and non-members.

    Args:
        overlaps: by name; NaN is left out.
        path: file to write; its suffix is the format.
        words: in an n-gram.
        bins: of the histogram, between 0 and 1.
    """
    figure, axes = _figure()
    for (name, values), color in zip(overlaps.items(), COLORS):
        known = values[~np.isnan(values)]
        label = f"{visible(name)}, mean {known.mean():.3f}" if len(known) else f"{visible(name)}: none"
        weights = np.full(len(known), 1 / max(len(known), 1))
        axes.hist(known, bins, range=(0, 1), weights=weights, histtype="step", color=color, label=label)
    axes.set(xlabel=f"share of {words}-grams in the corpus", ylabel="share of documents", xlim=(0, 1))
    _finish(figure, axes, path)


def scatter(
    x: Float[np.ndarray, " doc"],
    y: Float[np.ndarray, " doc"],
    is_member: Bool[np.ndarray, " doc"],
    labels: tuple[str, str],
    path: str | Path,
    diagonal: bool = False,
) -> None:
    """A point a document: a score against overlap, attack against attack, target against reference.

    Args:
        x: NaN is left out.
        y: likewise.
        is_member: labels; members and non-members have colors and shapes of their own.
        labels: of the axes.
        path: file to write.
        diagonal: draw where both are equal, as between the log-likelihoods of target and reference.
    """
    figure, axes = _figure()
    for side, marker in ((False, "o"), (True, "^")):
        name, color = SIDES[side]
        rows = (is_member == side) & ~np.isnan(x) & ~np.isnan(y)
        axes.scatter(x[rows], y[rows], s=8, color=color, marker=marker, alpha=0.5, linewidths=0, label=name)
    if diagonal:
        axes.axline((float(np.nanmean(x)),) * 2, slope=1, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel(visible(labels[0]), parse_math=False)
    axes.set_ylabel(visible(labels[1]), parse_math=False)
    _finish(figure, axes, path)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.5, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _finish(figure: Figure, axes: Axes, path: str | Path) -> None:
    axes.grid(color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    for text in axes.legend(fontsize="small").get_texts():
        text.set_parse_math(False)
    figure.savefig(path)

"""Figures of audits: overlaps of both sides, scores against overlaps, scores against scores.

Importing this module imports matplotlib: import it where a figure is drawn.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.lines import Line2D

from mimir_jax.report.figures import (
    COLORS,
    DASHES,
    DIAGONAL,
    GRID,
    HEIGHT,
    MEMBERS,
    NONMEMBERS,
    POINTS,
    WIDTH,
    legend_below,
    new_figure,
    save,
    shortened,
)


def histogram(overlaps: Mapping[str, Float[np.ndarray, " doc"]], path: str | Path, words: int, bins: int = 20) -> None:
    """Share of documents by n-gram overlap, a line for each set, such as members and non-members.

    Args:
        overlaps: by name; NaN is left out.
        path: file to write; its suffix is the format.
        words: in an n-gram.
        bins: of the histogram, between 0 and 1.
    """
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.subplots()
    edges = np.linspace(0, 1, bins + 1)
    handles, names = [], []
    for (name, values), color, dash in zip(overlaps.items(), COLORS, DASHES):
        known = values[~np.isnan(values)]
        names.append(f"{name}, mean {known.mean():.3f}" if len(known) else f"{name}: none")
        style: dict[str, Any] = {"color": color, "linestyle": dash, "linewidth": 1.4}
        handles.append(Line2D([], [], **style))
        shares = np.histogram(known, edges)[0] / max(len(known), 1)
        axes.stairs(shares, edges, **style)
    axes.set(xlabel=f"share of {words}-grams in the corpus", ylabel="share of documents", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    legend_below(figure, handles, names)
    save(figure, Path(path))


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
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.subplots()
    handles = []
    for side, color, marker in ((True, MEMBERS, POINTS[2]), (False, NONMEMBERS, POINTS[0])):
        rows = (is_member == side) & ~np.isnan(x) & ~np.isnan(y)
        handles.append(axes.scatter(x[rows], y[rows], s=8, color=color, marker=marker, alpha=0.5, linewidths=0))
    if diagonal:
        axes.axline((float(np.nanmean(x)),) * 2, slope=1, color=DIAGONAL, linewidth=0.8, zorder=0)
    axes.set_xlabel(shortened(labels[0]), parse_math=False)
    axes.set_ylabel(shortened(labels[1]), parse_math=False)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    legend_below(figure, handles, ["members", "non-members"])
    save(figure, Path(path))

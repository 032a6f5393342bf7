"""How a curve shows itself in a notebook: HTML without scripts, in the notebook's own colors."""

import numpy as np
from jaxtyping import Float

POINTS = 400
"""Of a curve that are drawn at most."""


def curve(fpr: Float[np.ndarray, " threshold"], tpr: Float[np.ndarray, " threshold"]) -> str:
    """An ROC curve as a small figure with its AUC."""
    area = float(np.trapezoid(tpr, fpr))
    some = np.unique(np.linspace(0, len(fpr) - 1, POINTS).round().astype(int))
    points = " ".join(f"{10 + 200 * x:.1f},{210 - 200 * y:.1f}" for x, y in zip(fpr[some], tpr[some]))
    label = f"ROC curve, AUC {area:.3f}"
    return (
        f'<figure style="margin:0"><svg role="img" aria-label="{label}" viewBox="0 0 220 220" width="220" height="220">'
        '<g fill="none" stroke="currentColor"><rect x="10" y="10" width="200" height="200" opacity=".4"/>'
        '<path d="M10 210 210 10" opacity=".4"/>'
        f'<polyline points="{points}" stroke="#0072B2" stroke-width="2"/></g></svg>'
        f"<figcaption>{label}, of {len(fpr) - 1} distinct scores; x: false-positive rate, y: true-positive rate"
        "</figcaption></figure>"
    )

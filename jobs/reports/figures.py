"""An empty figure in the house's look, without a display. It knows nothing of what is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["axes_of"]


def axes_of(title: str, x: str, y: str, height: float = 4.5) -> tuple[Figure, Any]:
    """Return a figure and its axes.

    Args:
        title, x, y: what is written above it and at its axes.
        height: in inches; it is 6 wide.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes

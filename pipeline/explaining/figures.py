"""The figures of an explanation: frames with their places, and evidence over time.

Legend: H, W a frame's sides, C cells of the timeline, P time positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vigil.pipeline.explaining.places import Picture
from vigil.pipeline.scores.plots import (
    CHANCE_COLOR,
    SCORE_COLOR,
    TRUTH_COLOR,
    new_figure,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = npt.NDArray[np.float64]

COLUMNS = 4
PICTURE_INCHES = 2.6
COLOURS = "inferno"
"""Equal steps look equal, also to people who do not tell red from green."""
STRONGEST_SHARE = 0.01
STRONGEST_OPACITY, UNSEEN_OPACITY = 0.7, 0.6


def plot_places(path: Path, pictures: Sequence[Picture]) -> None:
    """Plot frames with their activation; what no view sees is darkened.

    Colours are on one scale for all frames. It ends where `STRONGEST_SHARE` of the places begins,
    because a single place, often at the border of a map, can exceed all others many times.
    """
    places = np.stack([one.places for one in pictures])
    highest = float(np.nanquantile(places, 1 - STRONGEST_SHARE)) or float(np.nanmax(places))
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].pixels.shape[:2]
    tall = PICTURE_INCHES * height / width + 0.25
    figure = new_figure(PICTURE_INCHES * columns, tall * rows + 0.6)
    every_axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in every_axes:
        axes.set_axis_off()
    for axes, one in zip(every_axes, pictures, strict=False):
        share = np.minimum(one.places / highest, 1.0)
        seen = np.isfinite(share)
        share = np.where(seen, share, 0.0)
        axes.imshow(one.pixels)
        axes.imshow(np.zeros_like(share), cmap="gray", vmin=0, vmax=1, alpha=UNSEEN_OPACITY * ~seen)
        colours = axes.imshow(
            share, cmap=COLOURS, vmin=0, vmax=1, alpha=STRONGEST_OPACITY * np.sqrt(share)
        )
        axes.set_title(f"{one.seconds:.2f} s", fontsize=9)
    bar = figure.colorbar(
        colours, ax=list(every_axes), location="bottom", fraction=0.04, aspect=50, pad=0.01
    )
    bar.set_label(
        "what a place adds to the score; 1: as much as the strongest hundredth of the places, "
        "or more",
        fontsize=9,
    )
    bar.ax.tick_params(labelsize=8)
    save_figure(figure, path)


@dataclass(frozen=True, eq=False)
class Steps:
    """A curve that is constant over each of some ranges."""

    seconds: FloatArray
    """(C, 2)."""
    values: FloatArray
    """(C,)."""


def plot_times(
    path: Path,
    scores: Steps,
    threshold: float,
    events: Sequence[tuple[float, float]],
    moment: tuple[float, float],
    evidence: tuple[FloatArray, FloatArray],
    attentions: Mapping[str, Steps],
) -> None:
    """Plot scores over time, the evidence for the moment, and what attentions looked at.

    Args:
        path: PNG file to write.
        scores: of the timeline.
        threshold: that opens events.
        events: in seconds.
        moment: the segment that is explained, in seconds.
        evidence: (P,) seconds and (P,) evidence of each time position.
        attentions: name -> weights of segments.
    """
    figure = new_figure(9, 3.6 + 1.2 * len(attentions))
    rows = figure.subplots(2 + len(attentions), 1, sharex=True)
    _draw_steps(rows[0], scores)
    rows[0].axhline(
        threshold, color=CHANCE_COLOR, linestyle="--", label=f"threshold {threshold:.3f}"
    )
    rows[0].set_ylim(0, 1.05)
    rows[0].set_ylabel("score")
    rows[0].legend(loc="upper right", fontsize=8, frameon=False)
    seconds, values = evidence
    step = float(np.diff(seconds).min()) if len(seconds) > 1 else 1.0
    colours = np.where(values > 0, TRUTH_COLOR, SCORE_COLOR)
    rows[1].bar(seconds, values, width=step, color=colours)
    rows[1].axhline(0, color=CHANCE_COLOR, linewidth=0.8)
    rows[1].set_ylabel("evidence")
    for axes, (name, weights) in zip(rows[2:], attentions.items(), strict=True):
        _draw_steps(axes, weights)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(name.replace(" (", "\n("), fontsize=8)
    for axes in rows:
        for start, stop in events:
            axes.axvspan(start, stop, color=TRUTH_COLOR, alpha=0.12, linewidth=0)
        axes.axvspan(*moment, color=CHANCE_COLOR, alpha=0.5, linewidth=0)
    rows[-1].set_xlabel("seconds (red: event, grey: the segment that is explained)")
    rows[-1].set_xlim(scores.seconds[0, 0], scores.seconds[-1, 1])
    save_figure(figure, path)


def _draw_steps(axes: "Axes", steps: Steps) -> None:
    edges = np.append(steps.seconds[:, 0], steps.seconds[-1, 1])
    axes.stairs(steps.values, edges, baseline=None, color=SCORE_COLOR)

"""Plots: ROC, precision-recall, alarms, confusion matrix, one video, many methods, densities.

Each function writes one PNG file. matplotlib is imported only then, and its global figures and
backend are not used.

Legend: S segments, N frames, K classes, P points.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vigil.extract.files import replace_file
from vigil.pipeline.logs import printable
from vigil.pipeline.scores.events import true_runs
from vigil.pipeline.scores.metrics import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vigil.model.detector import DensityPair
    from vigil.pipeline.scores.metrics import Spread

SCORE_COLOR, TRUTH_COLOR, CHANCE_COLOR = "#2c5f8a", "#d9482b", "#9aa0a6"
DOTS_PER_INCH = 120


def new_figure(width: float, height: float) -> "Figure":
    """A figure of this size in inches, which belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG file, atomically."""
    with replace_file(path) as partial:
        figure.savefig(partial, format="png")


def plot_roc(
    path: Path, false_positive_rate: FloatArray, true_positive_rate: FloatArray, auc: float
) -> None:
    """Plot the ROC curve, from rates (P,) and (P,), and chance."""
    figure = new_figure(4.5, 4.5)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=CHANCE_COLOR, linestyle="--", label="chance 0.5")
    axes.plot(
        false_positive_rate, true_positive_rate, color=SCORE_COLOR, label=f"frame AUC {auc:.4f}"
    )
    _label(axes, "false-positive rate of frames", "true-positive rate of frames")
    axes.legend(loc="lower right", frameon=False)
    save_figure(figure, path)


def plot_precision_recall(path: Path, recall: FloatArray, precision: FloatArray, ap: float) -> None:
    """Plot precision (P,) over recall (P,) and chance; the last point must have recall 1."""
    figure = new_figure(4.5, 4.5)
    axes = figure.add_subplot()
    chance = precision[-1]
    axes.axhline(chance, color=CHANCE_COLOR, linestyle="--", label=f"chance {chance:.4f}")
    # No threshold lies between two points, so the curve has steps.
    axes.step(
        recall, precision, where="pre", color=SCORE_COLOR, label=f"average precision {ap:.4f}"
    )
    _label(axes, "recall of anomalous frames", "precision")
    axes.legend(loc="upper right", frameon=False)
    save_figure(figure, path)


def plot_alarms(
    path: Path,
    false_alarms_per_hour: FloatArray,
    recall: FloatArray,
    own: tuple[float, float],
    least_per_hour: float,
) -> None:
    """Plot event recall (P,) over false alarms an hour (P,), and the model's own threshold.

    Args:
        path: PNG file to write.
        false_alarms_per_hour: of each threshold.
        recall: share of the annotated intervals found, 0..1.
        own: both at the model's own threshold.
        least_per_hour: one false alarm in all the footage, the least that can be seen; none at all
            is drawn at half of it.
    """
    figure = new_figure(5.5, 4.5)
    axes = figure.add_subplot()
    none = least_per_hour / 2
    axes.axvspan(none / 2, none * 2**0.5, color=CHANCE_COLOR, alpha=0.2, linewidth=0)
    at = np.maximum(false_alarms_per_hour, none)
    axes.plot(at, recall, color=SCORE_COLOR, marker=".", markersize=4, label="by threshold")
    label = f"the model's: {own[0]:.3g} an hour, {own[1]:.2f} found"
    axes.plot(max(own[0], none), own[1], "D", color=TRUTH_COLOR, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("false alarms per hour (grey: none)")
    axes.set_ylabel("share of events found")
    axes.set_xlim(none / 2, max(2 * at.max(), 20 * none))
    axes.set_ylim(-0.01, 1.01)
    axes.legend(loc="lower right", frameon=False)
    save_figure(figure, path)


def plot_confusion(path: Path, confusion: IntArray, class_names: Sequence[str]) -> None:
    """Plot the confusion matrix (K, K); colours are shares of the true class, texts are counts."""
    size = 2.5 + 0.45 * len(class_names)
    figure = new_figure(size, size)
    axes = figure.add_subplot()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    ticks, names = range(len(class_names)), [printable(name) for name in class_names]
    axes.set_xticks(ticks, names, rotation=45, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(ticks, names, fontsize=8, parse_math=False)
    axes.set_xlabel("label")
    axes.set_ylabel("truth")
    save_figure(figure, path)


def plot_rows(
    path: Path,
    names: Sequence[str],
    panels: Mapping[str, Sequence[tuple["Spread | None", float | None]]],
) -> None:
    """Plot the mean, interval and published figure of each name on a line, in panels side by side.

    Args:
        path: PNG file to write.
        names: names of the lines, from top to bottom.
        panels: title -> (ours, published) for each line.
    """
    figure = new_figure(3.5 + 3.5 * len(panels), 1.2 + 0.32 * len(names))
    lines = np.arange(len(names))
    every_axes = np.atleast_1d(figure.subplots(1, max(len(panels), 1), sharey=True))
    for axes, (title, values) in zip(every_axes, panels.items(), strict=False):
        ours = [(line, one) for line, (one, _) in zip(lines, values, strict=True) if one]
        for line, one in ours:
            axes.plot([one.low, one.high], [line, line], color=SCORE_COLOR, linewidth=2)
        places, means = [line for line, _ in ours], [one.mean for _, one in ours]
        axes.plot(means, places, "o", color=SCORE_COLOR, label="ours, mean and 95 %")
        published = [(value, line) for line, (_, value) in zip(lines, values, strict=True)]
        published = [(value, line) for value, line in published if value is not None]
        if published:
            axes.plot(
                *zip(*published, strict=True), "D", color=TRUTH_COLOR, mfc="none", label="published"
            )
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", color=CHANCE_COLOR, alpha=0.4)
    every_axes[0].set_yticks(lines, [printable(name) for name in names], parse_math=False)
    every_axes[0].set_ylim(len(names) - 0.5, -0.5)
    handles, labels = every_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, frameon=False)
    save_figure(figure, path)


def plot_video(
    path: Path,
    title: str,
    curves: Mapping[str, FloatArray],
    segment_frames: IntArray,
    truth: npt.NDArray[np.bool_] | None,
) -> None:
    """Plot curves of segment values over the frames of one video, with its truth shaded.

    Source: Majhi et al., FG 2021, figure 4.

    Args:
        path: PNG file to write.
        title: title of the figure.
        curves: name -> (S,) values.
        segment_frames: (S, 2) half-open ranges that partition the frames.
        truth: (N,) anomalous frames; None if they are unknown.
    """
    figure = new_figure(8, 0.8 + 1.5 * len(curves))
    rows = np.atleast_1d(figure.subplots(len(curves), 1, sharex=True))
    edges = np.append(segment_frames[:, 0], segment_frames[-1, 1])
    for axes, (name, values) in zip(rows, curves.items(), strict=True):
        if truth is not None:
            for start, stop in true_runs(truth):
                axes.axvspan(start, stop, color=TRUTH_COLOR, alpha=0.2, linewidth=0)
        axes.stairs(values, edges, baseline=None, color=SCORE_COLOR)
        axes.set_ylabel(name)
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(0, 1.05 * max(1.0 if name == "score" else 0.0, float(values.max())))
    figure.suptitle(printable(title), fontsize=9).set_parse_math(False)
    rows[-1].set_xlabel("frame" if truth is None else "frame (shaded: anomalous in truth)")
    save_figure(figure, path)


def plot_densities(path: Path, densities: "Sequence[DensityPair]", columns: int = 4) -> None:
    """Plot fitted densities, normal and anomalous, over the range where they are visible."""
    num_rows = -(-len(densities) // columns)
    figure = new_figure(3 * columns, 0.4 + 1.8 * max(num_rows, 1))
    for place, (title, at, normal, anomalous) in enumerate(densities, start=1):
        axes = figure.add_subplot(num_rows, columns, place)
        axes.plot(at, normal, color=SCORE_COLOR, label="normal")
        axes.plot(at, anomalous, color=TRUTH_COLOR, label="anomalous")
        highest = np.maximum(normal, anomalous)
        visible = at[highest > 0.01 * highest.max()]
        axes.set_xlim(visible[0], visible[-1])
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        axes.set_title(printable(title), fontsize=7, parse_math=False)
        axes.tick_params(labelsize=7)
    if densities:
        figure.axes[0].legend(fontsize=7, frameon=False)
    save_figure(figure, path)


def _label(axes: "Axes", x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)

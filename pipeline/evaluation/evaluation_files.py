"""The outputs of an evaluation: terminal lines, the content of `metrics.json`, and figures."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.extract.files import NAME_ERRNOS
from vigil.pipeline.run_folder import FIGURES_FOLDER
from vigil.pipeline.scores import metrics, plots
from vigil.pipeline.scores.alarms import HOUR, alarm_curve
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo
from vigil.pipeline.scores.measures import Evaluation
from vigil.pipeline.scores.metrics import Curve

HEADLINES = ("frame_auc", "maa")
"""The measures printed first."""
WITH_INTERVALS = (*HEADLINES, "frame_ap")
MAX_CURVE_POINTS = 400

log = logging.getLogger(__name__)


def measure_lines(evaluation: Evaluation, videos: Sequence[EvaluatedVideo]) -> Iterator[str]:
    """Yield the measures as ``name value``, a fraction or the word undefined; main ones first."""

    def line(name: str, value: float | None) -> str:
        return f"{name} undefined" if value is None else f"{name} {value:.4f}"

    measures = evaluation.measures
    for name in sorted(measures, key=lambda name: name not in HEADLINES):
        yield line(name, measures[name].value)
    for name in WITH_INTERVALS:
        yield line(f"{name}_low", measures[name].low)
        yield line(f"{name}_high", measures[name].high)
    yield f"num_videos {len(videos)}"
    yield f"num_frames {sum(video.num_frames for video in videos)}"


def evaluation_json(
    evaluation: Evaluation, videos: Sequence[EvaluatedVideo], class_names: Sequence[str]
) -> dict[str, Any]:
    """All numbers of an evaluation."""
    curve = evaluation.frame_curve
    return {
        "measures": {name: asdict(measure) for name, measure in evaluation.measures.items()},
        "confidence": metrics.CONFIDENCE,
        "classes": [asdict(one) for one in evaluation.classes],
        "classes_absent": [one.class_name for one in evaluation.classes if not one.num_videos],
        "confusion": {
            "rows": "truth",
            "class_names": list(class_names),
            "num_videos": evaluation.confusion.tolist(),
        },
        "roc": _curve_json(curve, "false_positive_rate", "true_positive_rate"),
        "precision_recall": _curve_json(curve, "recall", "precision"),
        "alarm_curve": _alarm_curve_json(evaluation),
        "counts": {
            "videos": len(videos),
            "anomalous_videos": sum(video.class_index > 0 for video in videos),
            "frames": sum(video.num_frames for video in videos),
            "anomalous_frames": int(curve.true_positives[-1]),
        },
        "videos": [
            {
                "video": video.video,
                "class": class_names[video.class_index],
                "other_classes": [class_names[index] for index in video.other_class_indices],
                "label": class_names[video.label_index],
                "peak_score": video.peak_score,
                "num_frames": video.num_frames,
            }
            for video in videos
        ],
    }


def draw_evaluation(
    folder: Path,
    evaluation: Evaluation,
    class_names: Sequence[str],
    videos: Sequence[EvaluatedVideo],
) -> None:
    """Plot what is defined: ROC, precision and recall, confusion, alarms, each given video."""
    auc, ap = (evaluation.measures[name].value for name in ("frame_auc", "frame_ap"))
    plots.plot_confusion(folder / "confusion.png", evaluation.confusion, class_names)
    rates = curve_rates(evaluation.frame_curve)
    if auc is not None:
        x, y = rates["false_positive_rate"], rates["true_positive_rate"]
        plots.plot_roc(folder / "roc.png", np.append(0, x), np.append(0, y), auc)
    if ap is not None:
        path = folder / "precision_recall.png"
        plots.plot_precision_recall(path, rates["recall"], rates["precision"], ap)
    false_alarms, recall = (
        evaluation.measures[name].value for name in ("false_alarms_per_hour", "event_recall")
    )
    if false_alarms is not None and recall is not None:
        curve = alarm_curve(evaluation.alarms)
        least = 1 / (sum(one.seconds for one in evaluation.alarms) / HOUR)
        plots.plot_alarms(folder / "alarms.png", *curve, (false_alarms, recall), least)
    for video in videos:
        scores = video.scores
        curves = {"score": scores.scores, "alpha": scores.alpha, "beta": scores.beta}
        try:
            plots.plot_video(
                folder / FIGURES_FOLDER / f"{video.video}.png",
                f"{video.video} ({class_names[video.class_index]})",
                {name: values for name, values in curves.items() if values is not None},
                video.segment_frames,
                video.truth,
            )
        except OSError as error:
            if error.errno not in NAME_ERRNOS:
                raise
            log.warning("no figure for %s (%s): rename the video", video.video, error.strerror)


def curve_rates(curve: Curve) -> dict[str, npt.NDArray[np.float64]]:
    """The rates at each threshold of a curve, (G,) each; 0 if there is nothing to find."""
    found, alarms = curve.true_positives, curve.false_positives
    recall = found / max(found[-1], 1)
    return {
        "false_positive_rate": alarms / max(alarms[-1], 1),
        "true_positive_rate": recall,
        "recall": recall,
        "precision": found / np.maximum(found + alarms, 1),
    }


def _alarm_curve_json(evaluation: Evaluation) -> dict[str, list[float]] | None:
    """Event recall against false alarms by ascending threshold; None if that is undefined."""
    if evaluation.measures["event_recall"].value is None:
        return None
    false_alarms, recall = alarm_curve(evaluation.alarms)
    return {
        "threshold": evaluation.alarm_levels.tolist(),
        "false_alarms_per_hour": false_alarms.tolist(),
        "event_recall": recall.tolist(),
    }


def _curve_json(curve: Curve, x_name: str, y_name: str) -> dict[str, list[float]]:
    """A curve's points, thinned, by descending threshold."""
    rates = curve_rates(curve)
    kept = metrics.thin_indices(rates[x_name], rates[y_name], MAX_CURVE_POINTS)
    return {
        "threshold": curve.thresholds[kept].tolist(),
        x_name: rates[x_name][kept].tolist(),
        y_name: rates[y_name][kept].tolist(),
    }

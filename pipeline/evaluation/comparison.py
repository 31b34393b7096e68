"""`vigil compare`: test whether one method is better than another, by a paired bootstrap.

Both are evaluated on the same resampled videos, and on the same resampled seeds if they were
trained with equally many. Legend: R runs of a method, one per seed; N videos of a run's test set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vigil.extract.errors import UserError
from vigil.pipeline.evaluation.records import (
    ScoredVideo,
    StoredScoresError,
    read_scores,
)
from vigil.pipeline.options import CompareOptions
from vigil.pipeline.run_folder import BEST, EVALUATION_FOLDER, SCORES_NAME, TEST_SCORES_FOLDER
from vigil.pipeline.scores import metrics
from vigil.pipeline.scores.alarms import ALARM_MEASURES, UNKNOWN_FRAMES, alarm_measures
from vigil.pipeline.scores.measures import MEASURES
from vigil.pipeline.scores.metrics import IntArray, Measure, Spread

Run = tuple[ScoredVideo, ...]
"""The scores of one checkpoint on its test videos."""


@dataclass(frozen=True)
class Difference:
    """How much higher a measure of one method is than that of another."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided: twice the share of resamples in which the difference has the other sign, with 1
    added to both counts, so that it is never 0."""


def run_compare(options: CompareOptions) -> int:
    """Print each measure of both methods, and their difference with its interval; return 0.

    Raises:
        UserError: a run was not evaluated, or they were evaluated on different videos.
    """
    first, second = (read_runs(path) for path in (options.run, options.other))
    for name in MEASURES:
        one, other = (values_of(name, runs) for runs in (first, second))
        found = paired_difference(name, first, second, options.bootstrap, options.seed)
        if one is None or other is None or found is None:
            print(f"{name} undefined: {why_undefined(name, first, second)}")
            continue
        print(
            f"{name} {np.mean(one):.4f} {np.mean(other):.4f} difference {found.mean:+.4f} "
            f"low {found.low:+.4f} high {found.high:+.4f} p {found.p_value:.4f}"
            + (" (lower is better)" if MEASURES[name].lower_is_better else "")
        )
    print(f"num_runs {len(first)} {len(second)}")
    print(f"num_videos {len(first[0])} {len(second[0])}")
    return 0


def read_runs(path: Path) -> list[Run]:
    """The scores of a run, or of every run in a folder with the runs of one method.

    Raises:
        StoredScoresError: no run was evaluated, or one is damaged.
    """
    if own := _scores_in(path):
        return [read_scores(own)]
    folders = sorted(folder for folder in path.glob("*") if folder.is_dir())
    runs = [read_scores(found) for folder in folders if (found := _scores_in(folder))]
    if not runs:
        raise StoredScoresError(
            f"{path} holds no evaluated run (no {EVALUATION_FOLDER}/{SCORES_NAME}): "
            "run vigil evaluate first"
        )
    return runs


def why_undefined(name: str, first: Sequence[Run], second: Sequence[Run]) -> str:
    """The reason, as a clause, why there is no `paired_difference` in a measure."""
    one, other = (", ".join(_classes_of(runs)) for runs in (first, second))
    if MEASURES[name].of_classes and one != other:
        return f"the first distinguishes {one}, the second {other}"
    values = (_measure(name, run)(np.ones(len(run), np.int64)) for run in (*first, *second))
    return next((value.undefined for value in values if value.undefined), "no resample defines it")


def _classes_of(runs: Sequence[Run]) -> list[str]:
    """The true classes of the test videos that the runs' methods distinguish, sorted by name."""
    return sorted({video.class_name for run in runs for video in run})


def _scores_in(run: Path) -> Path | None:
    """The folder with a run's scores; those of a table precede those of a single evaluation."""
    places = (run, run / TEST_SCORES_FOLDER / BEST, run / EVALUATION_FOLDER)
    return next((place for place in places if (place / SCORES_NAME).is_file()), None)


def values_of(name: str, runs: Sequence[Run]) -> list[float] | None:
    """A measure of each run; None if it is undefined for any of them."""
    values = [_measure(name, run)(np.ones(len(run), np.int64)).value for run in runs]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def spread(name: str, runs: Sequence[Run], num_resamples: int, seed: int) -> Spread | None:
    """A measure over all runs with its interval; None if it is undefined for any of them."""
    values = values_of(name, runs)
    if values is None:
        return None
    resampled = _resampled(name, [runs], num_resamples, seed)[0]
    if not len(resampled):
        return None
    low, high = _interval(resampled)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, low, high)


def paired_difference(
    name: str, first: Sequence[Run], second: Sequence[Run], num_resamples: int, seed: int
) -> Difference | None:
    """How much higher a measure of the first method's runs is; None if that is undefined.

    A measure of classes is also undefined if the methods do not distinguish the same classes.

    Raises:
        UserError: they were evaluated on different videos or with different truth.
    """
    _check_same_videos(first, second)
    if MEASURES[name].of_classes and _classes_of(first) != _classes_of(second):
        return None
    one, other = (values_of(name, runs) for runs in (first, second))
    if one is None or other is None:
        return None
    resampled = _resampled(name, [first, second], num_resamples, seed)
    steps = resampled[0] - resampled[1]
    if not len(steps):
        return None
    low, high = _interval(steps)
    fewer = min(np.sum(steps <= 0), np.sum(steps >= 0))
    p_value = min(1.0, 2 * float(1 + fewer) / (len(steps) + 1))
    return Difference(float(np.mean(one) - np.mean(other)), low, high, p_value)


def _resampled(
    name: str, methods: Sequence[Sequence[Run]], num_resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """(methods, resamples) the mean of each method over resampled runs, on resampled videos.

    Resamples in which a measure is undefined are omitted.
    """
    generator = np.random.default_rng(seed)
    measures = [[_measure(name, run) for run in runs] for runs in methods]
    tests = [[tuple(video.truth for video in run) for run in runs] for runs in methods]
    draws: dict[tuple[object, ...], list[IntArray]] = {}
    for test, run in zip(chain(*tests), chain(*methods), strict=True):
        if test not in draws:
            is_anomalous = np.array([video.is_anomalous for video in run])
            own_seed = int(generator.integers(2**31))
            draws[test] = metrics.resample_videos(is_anomalous, num_resamples, own_seed)
    numbers = sorted({len(runs) for runs in methods})
    seeds = {number: generator.integers(number, size=(num_resamples, number)) for number in numbers}
    rows = []
    for resample in range(num_resamples):
        row = []
        for of_method, own_tests in zip(measures, tests, strict=True):
            chosen = seeds[len(of_method)][resample]
            values = [of_method[run](draws[own_tests[run]][resample]).value for run in chosen]
            known = [value for value in values if value is not None]
            row.append(float(np.mean(known)) if len(known) == len(values) else np.nan)
        rows.append(row)
    table = np.array(rows).reshape(num_resamples, len(methods)).T
    return np.asarray(table[:, np.isfinite(table).all(axis=0)])


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - metrics.CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _measure(name: str, run: Run) -> Callable[[IntArray], Measure]:
    """A measure of a run, as a function of how often each of its videos counts."""
    of_frames = MEASURES[name].of_frames
    if of_frames is not None:
        if not all(video.frames_known for video in run):
            return lambda _: Measure(None, UNKNOWN_FRAMES)
        return partial(of_frames, metrics.rank_frames([video.pieces for video in run]))
    if name == "video_auc":
        peaks = np.array([video.peak_score for video in run])
        is_anomalous = np.array([video.is_anomalous for video in run])
        ranking = metrics.rank_videos(peaks, is_anomalous)
        return lambda weights: metrics.roc_auc(ranking, weights)
    if name in ALARM_MEASURES:
        return _alarm_measure(name, run)
    names = sorted({name for video in run for name in (video.class_name, video.label)})
    truth = np.array([names.index(video.class_name) for video in run])
    label = np.array([names.index(video.label) for video in run])
    return lambda weights: metrics.mean_class_accuracy(
        metrics.confusion_matrix(truth, label, len(names), weights)
    )


def _alarm_measure(name: str, run: Run) -> Callable[[IntArray], Measure]:
    known = [video.alarms for video in run if video.alarms is not None]
    if len(known) == len(run):
        return alarm_measures(known)[name]
    if not all(video.frames_known for video in run):
        return lambda _: Measure(None, UNKNOWN_FRAMES)
    return lambda _: Measure(
        None,
        "no alarms are stored, because segments have no times or the version was an earlier "
        "one: run vigil evaluate again",
    )


def _check_same_videos(first: Sequence[Run], second: Sequence[Run]) -> None:
    one, other = ({tuple(video.truth for video in run) for run in runs} for runs in (first, second))
    if one != other:
        raise UserError(
            "the runs were evaluated on different videos, or with different annotations: run "
            "vigil evaluate on the same ones for both"
        )

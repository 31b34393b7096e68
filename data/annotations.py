"""Annotation files -> `Annotation`: what is known of each video.

`data.annotation_rows` lists the formats of text files, `data.annotation_arrays` those of arrays and
masks, and `data.annotation_verdicts` reads verdicts of a reviewer; without any file, folder names
are the classes.

Frames count from 0 and ranges are half-open. Rows of one video in one file are combined; several
files must agree. Overlapping intervals are joined, because the truth is a set of frames. In every
format a normal video has no anomalous frames, ``()``; an anomalous one without frames has no
temporal truth, ``None``. If a file gives frames but no class, the class is Anomaly or Normal.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vigil.data.annotation_arrays import array_rows, is_array
from vigil.data.annotation_rows import AnnotationError, Row, class_names_of_path, text_rows
from vigil.data.annotation_verdicts import is_verdicts, verdict_rows
from vigil.data.classes import ANOMALY, NORMAL, doubtful_classes

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Interval:
    """Frames ``start`` to ``stop``, half-open, counted from 0."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        """Reject an interval that is empty or starts before 0.

        Raises:
            AnnotationError: names both values.
        """
        if not 0 <= self.start < self.stop:
            raise AnnotationError(
                f"frames {self.start} to {self.stop} are not an interval: "
                "write start and end with 0 <= start < end, or -1 -1 for none"
            )


@dataclass(frozen=True)
class Annotation:
    """The truth about one video."""

    video: str
    """Path relative to the folder of videos, forward slashes; often only the base name."""
    class_name: str
    intervals: tuple[Interval, ...] | None
    """Anomalous frames, sorted and disjoint; () if there are none, None if they are unknown."""
    source: str = field(default="unknown source", compare=False)
    """Origin as ``file:line``, for messages."""
    other_classes: tuple[str, ...] = ()
    """Further classes of the video, the most important ones first."""
    num_frames: int | None = None
    """Length of the video according to the annotation; None if it is not given."""

    def __post_init__(self) -> None:
        """Reject a normal video with anomalous frames or classes.

        Raises:
            AnnotationError: names the video.
        """
        if NORMAL in self.class_names[1:] or (self.other_classes and not self.is_anomalous):
            raise AnnotationError(
                f"{self.video} is both {' and '.join(self.class_names)}: leave one of them out"
            )
        if self.intervals and not self.is_anomalous:
            raise AnnotationError(
                f"{self.video} is {NORMAL} but has anomalous frames: "
                "give it the class of the anomaly, or remove the frames"
            )

    @property
    def is_anomalous(self) -> bool:
        """Whether the class is not normal."""
        return self.class_name != NORMAL

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes, the main one first."""
        return self.class_name, *self.other_classes

    @property
    def num_frames_needed(self) -> int:
        """Number of frames the video needs to contain all intervals; 0 without intervals."""
        return max((interval.stop for interval in self.intervals or ()), default=0)


def load_annotations(paths: Sequence[Path]) -> list[Annotation]:
    """Load the annotations of all files, one per video path, in the order of first mention.

    A path in several files must have the same class and frames in each; frames win over none.

    Raises:
        AnnotationError: names the file and line, the problem and the remedy.
    """
    found: dict[str, Annotation] = {}
    for path in paths:
        for annotation in _read_file(path):
            known = found.get(annotation.video)
            found[annotation.video] = merge(known, annotation) if known else annotation
    _check_classes(found.values())
    return list(found.values())


def labels_from_folders(videos: Iterable[str]) -> list[Annotation]:
    """Annotations without frames, with the class from a video's name or else its last folder.

    Raises:
        AnnotationError: a video has neither; the message names it.
    """
    annotations = [
        _from_row(Row(video, class_names_of_path(video), source=f"folder of {video}"))
        for video in videos
    ]
    _check_classes(annotations)
    return annotations


def merge(first: Annotation, second: Annotation) -> Annotation:
    """Merge two annotations of one video, under the first one's name.

    Frames win over none, a named class over Anomaly, several classes over the first one alone.

    Raises:
        AnnotationError: they contradict each other; the message names both sources.
    """
    classes = _common_classes(first, second)
    known, new = first.intervals, second.intervals
    if None not in (known, new) and known != new:
        raise _contradiction(first, second, "has different anomalous frames at {} and at {}")
    counts = [one.num_frames for one in (first, second) if one.num_frames is not None]
    if len(set(counts)) > 1:
        raise _contradiction(first, second, "has different numbers of frames at {} and at {}")
    return replace(
        first,
        class_name=classes[0],
        other_classes=classes[1:],
        intervals=new if known is None else known,
        num_frames=counts[0] if counts else None,
    )


def _common_classes(first: Annotation, second: Annotation) -> tuple[str, ...]:
    one, other = first.class_names, second.class_names
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    if shorter == (ANOMALY,) and longer[0] != NORMAL:
        return longer
    if longer == (ANOMALY,) and shorter[0] != NORMAL:
        return shorter
    if longer[: len(shorter)] != shorter:
        first_named, second_named = ("+".join(classes) for classes in (one, other))
        raise _contradiction(first, second, f"is {first_named} at {{}} but {second_named} at {{}}")
    return longer


def _contradiction(first: Annotation, second: Annotation, how: str) -> AnnotationError:
    return AnnotationError(
        f"{first.video} {how.format(first.source, second.source)}: correct or remove one of them"
    )


def class_names_of(annotations: Iterable[Annotation]) -> tuple[str, ...]:
    """The classes of the annotations: normal first (even if no video is), the others sorted."""
    anomalies = {name for annotation in annotations for name in annotation.class_names} - {NORMAL}
    return (NORMAL, *sorted(anomalies))


def merge_anomalous(annotation: Annotation) -> Annotation:
    """The same truth with Anomaly as the only anomalous class, for methods without classes."""
    if not annotation.is_anomalous:
        return annotation
    return replace(annotation, class_name=ANOMALY, other_classes=())


def frame_truth(annotation: Annotation, num_frames: int) -> npt.NDArray[np.bool_]:
    """Whether each frame is anomalous: (num_frames,) bool; intervals are clipped at the end.

    Raises:
        AnnotationError: the video is anomalous but its anomalous frames are unknown.
    """
    if annotation.is_anomalous and annotation.intervals is None:
        raise AnnotationError(
            f"{annotation.video} is {annotation.class_name} but has no annotated frames "
            f"({annotation.source}): use an annotation with start and end frames, or leave the "
            "video out"
        )
    truth = np.zeros(num_frames, dtype=np.bool_)
    for interval in annotation.intervals or ():
        truth[interval.start : interval.stop] = True
    return truth


def _read_file(path: Path) -> list[Annotation]:
    """Read one annotation per video path, combining several rows of one video."""
    found: dict[str, list[Annotation]] = defaultdict(list)
    for row in _rows(path):
        try:
            found[row.video].append(_from_row(row))
        except AnnotationError as error:
            raise AnnotationError(f"{row.source}: {error}") from error
    if not found:
        raise AnnotationError(f"{path} lists no videos: give a file with one video per line")
    return [_combine(annotations) for annotations in found.values()]


def _rows(path: Path) -> Iterable[Row]:
    if is_array(path):
        return array_rows(path)
    return verdict_rows(path) if is_verdicts(path) else text_rows(path)


def _combine(annotations: Sequence[Annotation]) -> Annotation:
    """The first annotation of a video, with the frames of all its annotations."""
    known = [one.intervals for one in annotations if one.intervals is not None]
    whole = reduce(merge, (replace(one, intervals=None) for one in annotations))
    return replace(whole, intervals=_union(chain.from_iterable(known)) if known else None)


def _from_row(row: Row) -> Annotation:
    intervals = _union(Interval(start, stop) for start, stop in row.ranges)
    class_names = row.class_names or (ANOMALY if intervals else NORMAL,)
    is_known = intervals or class_names[0] == NORMAL
    return Annotation(
        row.video,
        class_names[0],
        intervals if is_known else None,
        row.source,
        class_names[1:],
        row.num_frames,
    )


def _union(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same frames as sorted, disjoint intervals; intervals that only touch stay separate."""
    union: list[Interval] = []
    for interval in sorted(intervals):
        if union and interval.start < union[-1].stop:
            union[-1] = Interval(union[-1].start, max(union[-1].stop, interval.stop))
        else:
            union.append(interval)
    return tuple(union)


def _check_classes(annotations: Iterable[Annotation]) -> None:
    """Refuse classes that differ only in case, and warn about others that are alike."""
    spellings: dict[str, tuple[str, str]] = {}
    for annotation in annotations:
        for name in annotation.class_names:
            known, source = spellings.setdefault(name.lower(), (name, annotation.source))
            if known != name:
                raise AnnotationError(
                    f"classes {known!r} ({source}) and {name!r} ({annotation.source}) "
                    "differ only in case: spell both the same"
                )
    for warning in doubtful_classes(name for name, _ in spellings.values()):
        log.warning("%s", warning)

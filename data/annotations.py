"""Annotation files -> `Annotation`: what is known of each video.

The formats of text files are those of `data.annotation_rows`, of arrays and masks those of
`data.annotation_arrays`; without any file, folder names are classes.

Frames count from 0 and ranges are half-open. Rows of one video in one file add up; several files
must agree. Overlapping intervals are joined: the truth is a set of frames. A normal video has
nothing anomalous, ``()``, in every format; an anomalous one without frames has no temporal
truth, ``None``. Where a file tells frames but no class, the class is Anomaly or Normal.
"""

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
from vigil.data.classes import ANOMALY, NORMAL


@dataclass(frozen=True, order=True)
class Interval:
    """Frames ``start`` to ``stop``, half-open, counted from 0."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        """Refuse an interval without frames.

        Raises:
            AnnotationError: gives the two values.
        """
        if not 0 <= self.start < self.stop:
            raise AnnotationError(
                f"frames {self.start} to {self.stop} are no interval: "
                "write start and end with 0 <= start < end, or -1 -1 for none"
            )


@dataclass(frozen=True)
class Annotation:
    """The truth about one video."""

    video: str
    """Path relative to the folder of videos, forward slashes; often only the base name."""
    class_name: str
    intervals: tuple[Interval, ...] | None
    """Anomalous frames, sorted and disjoint; () where nothing is, None where it is not known."""
    source: str = field(default="unknown source", compare=False)
    """Where it comes from, as ``file:line``, for messages."""
    other_classes: tuple[str, ...] = ()
    """More classes of the same video, the most important ones first."""
    num_frames: int | None = None
    """Frames of the video as the annotation counts them; None where it does not."""

    def __post_init__(self) -> None:
        """Refuse a normal video with anomalous frames or classes.

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
        """Frames the video must have to hold all intervals; 0 without intervals."""
        return max((interval.stop for interval in self.intervals or ()), default=0)


def load_annotations(paths: Sequence[Path]) -> list[Annotation]:
    """The annotations of all files, one per video path, in the order of first mention.

    A path that several files hold must have the same class and frames; frames win over none.

    Raises:
        AnnotationError: says file and line, what is wrong and what to do.
    """
    found: dict[str, Annotation] = {}
    for path in paths:
        for annotation in _read_file(path):
            known = found.get(annotation.video)
            found[annotation.video] = merge(known, annotation) if known else annotation
    _refuse_spelling_variants(found.values())
    return list(found.values())


def labels_from_folders(videos: Iterable[str]) -> list[Annotation]:
    """Annotations without frames: a video's name tells its class, or else its last folder does.

    Raises:
        AnnotationError: names a video that lies in no folder.
    """
    annotations = [
        _from_row(Row(video, class_names_of_path(video), source=f"folder of {video}"))
        for video in videos
    ]
    _refuse_spelling_variants(annotations)
    return annotations


def merge(first: Annotation, second: Annotation) -> Annotation:
    """What two annotations say of one video: the name is the first one's.

    Frames win over none, a named class over Anomaly, several classes over the first of them.

    Raises:
        AnnotationError: they contradict each other; names both places.
    """
    classes = _common_classes(first, second)
    known, new = first.intervals, second.intervals
    if None not in (known, new) and known != new:
        raise _contradiction(first, second, "has other anomalous frames at {} than at {}")
    counts = [one.num_frames for one in (first, second) if one.num_frames is not None]
    if len(set(counts)) > 1:
        raise _contradiction(first, second, "has another number of frames at {} than at {}")
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
        f"{first.video} {how.format(first.source, second.source)}: correct or leave out one of them"
    )


def class_names_of(annotations: Iterable[Annotation]) -> tuple[str, ...]:
    """The classes of the annotations: normal first (also where no video is), the others sorted."""
    anomalies = {name for annotation in annotations for name in annotation.class_names} - {NORMAL}
    return (NORMAL, *sorted(anomalies))


def merge_anomalous(annotation: Annotation) -> Annotation:
    """The same truth for a method that only tells anomalous from normal: one class of anomaly."""
    if not annotation.is_anomalous:
        return annotation
    return replace(annotation, class_name=ANOMALY, other_classes=())


def frame_truth(annotation: Annotation, num_frames: int) -> npt.NDArray[np.bool_]:
    """Whether each frame is anomalous: (num_frames,) bool; what lies beyond the end is cut off.

    Raises:
        AnnotationError: the video is anomalous but its anomalous frames are not known.
    """
    if annotation.is_anomalous and annotation.intervals is None:
        raise AnnotationError(
            f"{annotation.video} is {annotation.class_name} without frames ({annotation.source}): "
            "use an annotation that has start and end frames, or leave the video out"
        )
    truth = np.zeros(num_frames, dtype=np.bool_)
    for interval in annotation.intervals or ():
        truth[interval.start : interval.stop] = True
    return truth


def _read_file(path: Path) -> list[Annotation]:
    """One annotation per video path; several rows of one video add up."""
    found: dict[str, list[Annotation]] = defaultdict(list)
    for row in array_rows(path) if is_array(path) else text_rows(path):
        try:
            found[row.video].append(_from_row(row))
        except AnnotationError as error:
            raise AnnotationError(f"{row.source}: {error}") from error
    if not found:
        raise AnnotationError(f"{path} names no video: give a file with one video per line")
    return [_add_up(annotations) for annotations in found.values()]


def _add_up(annotations: Sequence[Annotation]) -> Annotation:
    """The first annotation of a video, with the frames of all."""
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
    """The same frames as sorted, disjoint intervals; those that only touch stay two."""
    union: list[Interval] = []
    for interval in sorted(intervals):
        if union and interval.start < union[-1].stop:
            union[-1] = Interval(union[-1].start, max(union[-1].stop, interval.stop))
        else:
            union.append(interval)
    return tuple(union)


def _refuse_spelling_variants(annotations: Iterable[Annotation]) -> None:
    spellings: dict[str, tuple[str, str]] = {}
    for annotation in annotations:
        for name in annotation.class_names:
            known, source = spellings.setdefault(name.lower(), (name, annotation.source))
            if known != name:
                raise AnnotationError(
                    f"classes {known!r} ({source}) and {name!r} ({annotation.source}) "
                    "differ only in capitals: spell both the same"
                )

"""Annotation files -> `Annotation`: the official formats, our CSV, and folder names.

The format is found from a file's first line, never from its name:

* ``Abuse/Abuse001_x264.mp4``: UCF-Crime's lists; the last folder is the class, no frames;
* ``Abuse028_x264.mp4  Abuse  165  240  -1  -1``: UCF-Crime's temporal annotation, any number of
  start-end pairs, -1 -1 for none; a name may hold spaces, a class may not;
* ``video,class[,start_frame,end_frame]...``: ours, for one's own footage; with or without that
  header, commas or semicolons.

Frames count from 0 and ranges are half-open. Rows of one video in one file add up; several files
must agree. Overlapping intervals are joined: the truth is a set of frames. A normal video has
nothing anomalous, ``()``, in every format; an anomalous one without frames has no temporal
truth, ``None``.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from data.classes import NORMAL, canonical_class
from extract.errors import UserError

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,15}")
_FILE_NAME = re.compile(r"\.[A-Za-z]\w{1,3}$")
_TEXT_AFTER_NAME = re.compile(r"\.[A-Za-z]\w{1,3}\s")
_NO_INTERVAL = (-1, -1)
MAX_CHARACTERS = 1 << 24
"""Of one file; the official ones have at most 100,000."""
_CSV_HEADER = ["video", "class"]


class AnnotationError(UserError):
    """An annotation file cannot be read, contradicts itself, or does not fit the videos."""


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

    def __post_init__(self) -> None:
        """Refuse a normal video with anomalous frames.

        Raises:
            AnnotationError: names the video.
        """
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
    """Annotations without frames, the class of each video being its last folder.

    Raises:
        AnnotationError: names a video that lies in no folder.
    """
    annotations = [replace(_from_folder(video), source=f"folder of {video}") for video in videos]
    _refuse_spelling_variants(annotations)
    return annotations


def merge(first: Annotation, second: Annotation) -> Annotation:
    """What two annotations say of one video: frames win over none; the name is the first one's.

    Raises:
        AnnotationError: they contradict each other; names both places.
    """
    _require_same_class(first, second)
    known, new = first.intervals, second.intervals
    if None not in (known, new) and known != new:
        raise AnnotationError(
            f"{first.video} has other anomalous frames at {first.source} than at {second.source}: "
            "correct or leave out one of them"
        )
    return replace(first, intervals=new if known is None else known)


def _require_same_class(first: Annotation, second: Annotation) -> None:
    if first.class_name != second.class_name:
        raise AnnotationError(
            f"{first.video} is {first.class_name} at {first.source} but {second.class_name} at "
            f"{second.source}: correct or leave out one of them"
        )


def class_names_of(annotations: Iterable[Annotation]) -> tuple[str, ...]:
    """The classes of the annotations: normal first (also where no video is), the others sorted."""
    anomalies = {annotation.class_name for annotation in annotations} - {NORMAL}
    return (NORMAL, *sorted(anomalies))


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
    for number, cells in _rows(path, _read_lines(path)):
        source = f"{path}:{number}"
        try:
            annotation = replace(_from_cells(cells), source=source)
        except AnnotationError as error:
            raise AnnotationError(f"{source}: {error}") from error
        found[annotation.video].append(annotation)
    if not found:
        raise AnnotationError(f"{path} names no video: give a file with one video per line")
    return [_add_up(rows) for rows in found.values()]


def _add_up(rows: Sequence[Annotation]) -> Annotation:
    """The first row about a video, with the frames of all."""
    for row in rows:
        _require_same_class(rows[0], row)
    known = [row.intervals for row in rows if row.intervals is not None]
    return replace(rows[0], intervals=_union(chain.from_iterable(known)) if known else None)


def _read_lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        remedy = "give the annotation file itself" if path.is_dir() else "check the path"
        raise AnnotationError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path} is no UTF-8 text (byte {error.start}): give a text file, "
            "or save this one as UTF-8"
        ) from error
    if len(text) > MAX_CHARACTERS:
        raise AnnotationError(f"{path} has more than {MAX_CHARACTERS} characters: split it")
    if "\0" in text:
        raise AnnotationError(f"{path} is no text but binary: give a text file of annotations")
    return [line.strip() for line in text.split("\n")]


def _rows(path: Path, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row that is not empty: video[, class[, frames...]]."""
    first = next(filter(None, lines), "")
    delimiter = next((mark for mark in ",;" if mark in first), None)
    if delimiter and _num_trailing_numbers(first) < 2:
        yield from _csv_rows(path, lines, delimiter)
        return
    for number, line in enumerate(lines, start=1):
        # From the right: only the name may hold spaces.
        num_frames = _num_trailing_numbers(line)
        cells = line.rsplit(None, num_frames + 1) if num_frames else [line]
        if _TEXT_AFTER_NAME.search(cells[0]):
            raise AnnotationError(
                f"{path}:{number}: cannot read {line!r}: write 'Class/name', "
                "'name class start end ...', or a comma-separated file"
            )
        if line:
            yield number, cells


def _num_trailing_numbers(line: str) -> int:
    return sum(1 for _ in takewhile(_WHOLE_NUMBER.fullmatch, reversed(line.split())))


def _csv_rows(path: Path, lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    number = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            while cells and not cells[-1]:
                cells.pop()
            is_header = number == 1 and [cell.lower() for cell in cells[:2]] == _CSV_HEADER
            if cells and not is_header:
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise AnnotationError(
            f"{path}:{number}: broken CSV ({error}): check the quotation marks"
        ) from error


def _from_cells(cells: Sequence[str]) -> Annotation:
    if not cells[0]:
        raise AnnotationError("the row has no video: write video, class, start and end frames")
    video = PurePosixPath(cells[0].replace("\\", "/")).as_posix()
    if len(cells) == 1:
        return _from_folder(video)
    class_name = canonical_class(cells[1])
    if _WHOLE_NUMBER.fullmatch(class_name) or _FILE_NAME.search(class_name) or not class_name:
        raise AnnotationError(
            f"{class_name!r} is no class of {video}: write video, class, start and end frames"
        )
    intervals = _union(_intervals(cells[2:]))
    return Annotation(video, class_name, intervals or _no_intervals(class_name))


def _from_folder(video: str) -> Annotation:
    path = PurePosixPath(video)
    if not path.parent.name:
        raise AnnotationError(
            f"{video} has no class: put the video into a folder named after its class, "
            "or write 'video,class' lines into an annotation file"
        )
    class_name = canonical_class(path.parent.name)
    return Annotation(video, class_name, _no_intervals(class_name))


def _no_intervals(class_name: str) -> tuple[Interval, ...] | None:
    return () if class_name == NORMAL else None


def _intervals(cells: Sequence[str]) -> Iterator[Interval]:
    wrong = next((cell for cell in cells if not _WHOLE_NUMBER.fullmatch(cell)), None)
    if wrong is not None or len(cells) % 2:
        problem = "an end is missing" if wrong is None else f"frame {wrong!r} is no whole number"
        raise AnnotationError(f"{problem}: write pairs of start and end frames, -1 -1 for none")
    frames = [int(cell) for cell in cells]
    for start, stop in zip(frames[::2], frames[1::2], strict=True):
        if (start, stop) != _NO_INTERVAL:
            yield Interval(start, stop)


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
    spellings: dict[str, Annotation] = {}
    for annotation in annotations:
        known = spellings.setdefault(annotation.class_name.lower(), annotation)
        if known.class_name != annotation.class_name:
            raise AnnotationError(
                f"classes {known.class_name!r} ({known.source}) and {annotation.class_name!r} "
                f"({annotation.source}) differ only in capitals: spell both the same"
            )

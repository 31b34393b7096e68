"""Text files of annotations -> rows: the official formats, and our CSV.

The format is detected from a file's first line or from a row, never from the file's name:

* ``Abuse/Abuse001_x264.mp4``: UCF-Crime's lists; the last folder is the class, without frames;
* ``01_0014``: names that contain the class (`data.classes.classes_in_name`): ShanghaiTech,
  UBnormal;
* ``Abuse028_x264.mp4  Abuse  165  240  -1  -1``: UCF-Crime's temporal annotation, any number of
  start-end pairs, -1 -1 for none; a name may contain spaces, a class may not;
* ``v=GI49YSCruwY__#1_label_B4-0-0 0 1410 1795 1965``: XD-Violence's, with the classes in the name;
* ``01.mp4  180  60  180``: the number of frames, then the pairs; no class;
* ``TestVideoFile{end+1}.gt_frame = [61:180];``: UCSD's, for Test001, Test002, ...; these count
  frames from 1, and their ranges include the end;
* ``video,class[,start_frame,end_frame]...``: ours, for your own footage; with or without this
  header or one like ``filename;label``, separated by commas, semicolons or tabs.

Several classes are joined by ``+``, the main one first.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vigil.data.classes import canonical_class, classes_in_name
from vigil.extract.errors import UserError

MAX_CHARACTERS = 1 << 24
"""Limit for one file; the official ones have at most 100,000."""
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,15}")
_FILE_NAME = re.compile(r"\.[A-Za-z]\w{1,3}$")
_TEXT_AFTER_NAME = re.compile(r"\.[A-Za-z]\w{1,3}\s")
_VIDEO_COLUMN = re.compile(r"(video|file|clip)s?([ _-]?(name|path|id))?|name|path", re.IGNORECASE)
_CLASS_COLUMN = re.compile(r"class(es)?([ _-]?name)?|labels?|category", re.IGNORECASE)
_FRAME_COLUMN = re.compile(
    r"(start|begin|first|end|stop|last)[ _-]?(frame)?[ _-]?\d*", re.IGNORECASE
)
_OTHER_COLUMN = re.compile(r"(start|end|fps|duration|split|num|frame|second|time).*", re.IGNORECASE)
_UCSD_FILE = re.compile(r"TestVideoFile\s*(?:=|\{)")
_UCSD_RANGE = re.compile(r"(\d{1,9})\s*:\s*(\d{1,9})")
_UCSD_ROW = re.compile(r"TestVideoFile\{end\+1\}\.gt_frame\s*=\s*\[([^\]]*)\]\s*;?\s*(?:%.*)?")
_NO_RANGE = (-1, -1)


class AnnotationError(UserError):
    """An annotation file cannot be read, contradicts itself, or does not fit the videos."""


@dataclass(frozen=True)
class Row:
    """The content of one line or array, about one video."""

    video: str
    """Path relative to the folder of videos, forward slashes; often only the base name."""
    class_names: tuple[str, ...]
    """The main one first; () if only frames are given."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Half-open frame ranges, in the order of the file."""
    num_frames: int | None = None
    """Length of the video; None if it is not given."""
    source: str = "unknown source"
    """``file:line``, for messages."""


class _Cells(NamedTuple):
    """One line of a file, split into its parts."""

    line: int
    video: str
    class_text: str | None
    """None if the line has no such cell."""
    frames: Sequence[str]


def text_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a text file.

    Raises:
        AnnotationError: names the file and line, the problem and the remedy.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    if any(_UCSD_FILE.match(line) for line in lines[:10]):
        yield from _ucsd_rows(path, lines)
        return
    if delimiter := _delimiter(lines):
        table = _csv_cells(path, lines, delimiter)
    else:
        table = _spaced_cells(path, lines)
    for cells in table:
        source = f"{path}:{cells.line}"
        try:
            yield _row(cells, source)
        except AnnotationError as error:
            raise AnnotationError(f"{source}: {error}") from error


def class_names_of_path(video: str) -> tuple[str, ...]:
    """Return the classes of a video from its name, or else from its last folder.

    Raises:
        AnnotationError: the name contains no class and there is no folder.
    """
    folder = PurePosixPath(video).parent.name
    if classes := classes_in_name(video):
        return classes
    if not folder:
        raise AnnotationError(
            f"{video} has no class: put the video into a folder named after its class, "
            "or write 'video,class' lines into an annotation file"
        )
    return (canonical_class(folder),)


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        AnnotationError: it cannot be read, is not UTF-8 text, or is too long.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise AnnotationError(
            f"{path} cannot be read ({error.strerror}): check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path} is not UTF-8 text (byte {error.start}): give a text file, "
            "or save this one as UTF-8"
        ) from error
    if len(text) > MAX_CHARACTERS:
        raise AnnotationError(f"{path} has more than {MAX_CHARACTERS} characters: split it")
    if "\0" in text:
        raise AnnotationError(f"{path} is binary: give a text file of annotations")
    return text


def _spaced_cells(path: Path, lines: Sequence[str]) -> Iterator[_Cells]:
    for number, line in enumerate(lines, start=1):
        # Split from the right, because only the name may contain spaces.
        num_frames = _num_trailing_numbers(line)
        name, *frames = line.rsplit(None, num_frames) if num_frames else [line]
        class_text = None
        is_whole = _FILE_NAME.search(name) or classes_in_name(name) or len(name.split()) < 2
        if frames and not is_whole:
            name, class_text = name.rsplit(None, 1)
        if _TEXT_AFTER_NAME.search(name):
            raise AnnotationError(
                f"{path}:{number}: cannot read {line!r}: write 'Class/name', "
                "'name class start end ...', or a comma-separated file"
            )
        if line:
            yield _Cells(number, name, class_text, frames)


def _num_trailing_numbers(line: str) -> int:
    """Count the whole numbers at the end of a line; the first word is the name."""
    return sum(1 for _ in takewhile(_WHOLE_NUMBER.fullmatch, reversed(line.split()[1:])))


def _delimiter(lines: Sequence[str]) -> str | None:
    """What separates the cells of a table, from its header or first row; None if spaces do."""
    first = next(filter(None, lines), "")
    for mark in ",;\t":
        cells = [cell.strip(' "') for cell in first.split(mark)]
        if len(cells) > 1 and _VIDEO_COLUMN.fullmatch(cells[0]) and _is_column(cells[1]):
            return mark
    num_numbers = _num_trailing_numbers(first)
    if first.count("\t") == num_numbers + 1 and all("\t" in line for line in lines if line):
        return "\t"
    marks = (mark for mark in ",;" if mark in first)
    return next(marks, None) if num_numbers < 2 else None


def _csv_cells(path: Path, lines: Sequence[str], delimiter: str) -> Iterator[_Cells]:
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    number = 1
    is_first = True
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            while cells and not cells[-1]:
                cells.pop()
            is_header = is_first and _is_header(path, number, cells)
            is_first = is_first and not cells
            if cells and not is_header:
                yield _Cells(number, cells[0], cells[1] if len(cells) > 1 else None, cells[2:])
            number = reader.line_num + 1
    except csv.Error as error:
        raise AnnotationError(
            f"{path}:{number}: broken CSV ({error}): check the quotation marks"
        ) from error


def _is_column(cell: str) -> bool:
    """Whether a cell is the name of a column, and no class of a video."""
    return any(column.fullmatch(cell) for column in (_CLASS_COLUMN, _FRAME_COLUMN, _OTHER_COLUMN))


def _is_header(path: Path, number: int, cells: Sequence[str]) -> bool:
    """Whether the first row names the columns.

    Raises:
        AnnotationError: it does, and they are others than ours, or in another order.
    """
    if len(cells) < 2 or not (_VIDEO_COLUMN.fullmatch(cells[0]) and _is_column(cells[1])):
        return False
    wrong = [cell for cell in cells[2:] if not _FRAME_COLUMN.fullmatch(cell)]
    if not _CLASS_COLUMN.fullmatch(cells[1]):
        wrong.insert(0, cells[1])
    if wrong:
        raise AnnotationError(
            f"{path}:{number}: cannot use the column {wrong[0]!r} there: the columns are video, "
            "class, start_frame, end_frame, in this order and without others"
        )
    return True


def _ucsd_rows(path: Path, lines: Sequence[str]) -> Iterator[Row]:
    num_videos = 0
    for number, line in enumerate(lines, start=1):
        match = _UCSD_ROW.fullmatch(line)
        if match and not _UCSD_RANGE.sub("", match[1]).strip(",; \t"):
            num_videos += 1
            pairs = _UCSD_RANGE.findall(match[1])
            ranges = tuple((int(first) - 1, int(last)) for first, last in pairs)
            yield Row(f"Test{num_videos:03}", (), ranges, source=f"{path}:{number}")
        elif ".gt_frame" in line:
            raise AnnotationError(
                f"{path}:{number}: cannot read {line!r}: write "
                "'TestVideoFile{end+1}.gt_frame = [first:last, first:last];'"
            )


def _row(cells: _Cells, source: str) -> Row:
    if not cells.video:
        raise AnnotationError("the row has no video: write video, class, start and end frames")
    video = PurePosixPath(cells.video.replace("\\", "/")).as_posix()
    class_text, frames = cells.class_text, cells.frames
    if class_text is not None:
        return Row(video, _class_names(class_text, video), _ranges(frames), source=source)
    if not frames:
        return Row(video, class_names_of_path(video), source=source)
    if classes := classes_in_name(video):
        return Row(video, classes, _ranges(frames), source=source)
    if len(frames) < 3 or len(frames) % 2 == 0:
        raise _no_class(frames[0], video)
    return Row(video, (), _ranges(frames[1:]), int(frames[0]), source)


def _class_names(text: str, video: str) -> tuple[str, ...]:
    names = tuple(canonical_class(name.strip()) for name in text.split("+"))
    for name in names:
        if _WHOLE_NUMBER.fullmatch(name) or _FILE_NAME.search(name) or not name:
            raise _no_class(name, video)
    return tuple(dict.fromkeys(names))


def _no_class(text: str, video: str) -> AnnotationError:
    return AnnotationError(
        f"{text!r} is not a class for {video}: write video, class, start and end frames"
    )


def _ranges(cells: Sequence[str]) -> tuple[tuple[int, int], ...]:
    wrong = next((cell for cell in cells if not _WHOLE_NUMBER.fullmatch(cell)), None)
    if wrong is not None or len(cells) % 2:
        problem = "an end is missing" if wrong is None else f"frame {wrong!r} is not an integer"
        raise AnnotationError(f"{problem}: write pairs of start and end frames, -1 -1 for none")
    frames = [int(cell) for cell in cells]
    pairs = zip(frames[::2], frames[1::2], strict=True)
    return tuple(pair for pair in pairs if pair != _NO_RANGE)

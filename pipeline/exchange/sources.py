"""Find the videos that feature files of other programs belong to, and their numbers of frames."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from vigil.extract.errors import UserError, counted
from vigil.extract.source import SourceVideo, composed
from vigil.pipeline.exchange.foreign_files import ExchangeError

# DeepMIL's files are NAME__0; UR-DMU's README splits its own into NAME_i3d_0.
CROP_NUMBER = re.compile(r"(.+?)(?:__|_i3d_)(\d{1,2})")
# Suffixes that programs add to a video's name: _i3d by RTFM and UR-DMU, _C by Sultani.
ADDED = {".npy": "_i3d", ".txt": "_C"}
COUNT_HEADER = ("video", "frames", "fps")

Files = dict[int | None, Path]
"""The files of one video: one for each crop, or a single one with all crops under None."""


@dataclass(frozen=True)
class FrameCount:
    """The length of a video."""

    num_frames: int
    fps: float | None = None
    """Frames per second, if given."""


Counts = Mapping[str, set[FrameCount]]
"""The counts of each video, under its composed path and file name, also without extension."""


def files_by_video(sources: Iterable[SourceVideo], listed: Path | None = None) -> dict[str, Files]:
    """Group files by video name, which is theirs without extension, crop number and added suffix.

    Args:
        sources: the files, each with its path relative to its folder.
        listed: file with one path per line, from any machine; only the files it lists are used.

    Raises:
        UserError: two files are the same crop of one video, or a listed file is missing.
    """
    videos: defaultdict[str, Files] = defaultdict(dict)
    for source in sources:
        extension = source.path.suffix
        name = source.name.removesuffix(extension)
        match = CROP_NUMBER.fullmatch(name) if extension.lower() == ".npy" else None
        name, crop = (match[1], int(match[2])) if match else (name, None)
        files = videos[name.removesuffix(ADDED.get(extension.lower(), ""))]
        if crop in files or (files and None in {crop, *files}):
            raise UserError(
                f"{source.path} and {next(iter(files.values()))} belong to one video: import only "
                "one of them, or each into its own folder"
            )
        files[crop] = source.path
    return dict(videos) if listed is None else _select(videos, listed)


def _select(videos: Mapping[str, Files], listed: Path) -> dict[str, Files]:
    """The listed files, matched by file name, because the list may be from another machine."""
    try:
        lines = listed.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"{listed} cannot be read ({error.strerror})") from error
    names = {PureWindowsPath(composed(line.strip())).name for line in lines} - {""}
    if not names:
        raise UserError(f"{listed} lists no files: write one path per line")
    chosen: dict[str, Files] = {}
    for video, files in videos.items():
        if some := {crop: path for crop, path in files.items() if composed(path.name) in names}:
            chosen[video] = some
    found = {composed(path.name) for files in chosen.values() for path in files.values()}
    if missing := sorted(names - found):
        raise UserError(
            f"{listed} lists {counted(len(missing), 'file')} missing from the given folders, "
            f"such as {missing[0]!r}: add their folders, or remove them from the list"
        )
    return chosen


def read_counts(path: Path) -> Counts:
    """Read each video's number of frames from a CSV of video,frames or video,frames,fps.

    Semicolons may take the place of the commas.

    Raises:
        UserError: the file cannot be read or a line is invalid; names the line.
    """
    counts: defaultdict[str, set[FrameCount]] = defaultdict(set)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = file.readlines()
        mark = ";" if lines and "," not in lines[0] else ","
        for number, cells in enumerate(csv.reader(lines, delimiter=mark), start=1):
            if not cells or tuple(cells) in (COUNT_HEADER, COUNT_HEADER[:2]):
                continue
            video, count = PurePosixPath(composed(cells[0].strip())), _count(cells[1:])
            if count is None:
                raise UserError(
                    f"{path}, line {number}: write video,frames or video,frames,fps with "
                    "numbers above 0"
                )
            for name in {str(video), str(video.parent / video.stem), video.name, video.stem}:
                counts[name].add(count)
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): use lines of video,frames") from error
    return counts


def _count(cells: list[str]) -> FrameCount | None:
    """The count in the cells after the name; None if they are invalid."""
    try:
        num_frames, *fps = int(cells[0]), *map(float, cells[1:])
    except (ValueError, IndexError):
        return None
    if not 0 < num_frames < 1 << 40 or len(fps) > 1 or not all(0 < rate < 1e6 for rate in fps):
        return None
    return FrameCount(num_frames, *fps)


def find_count(video: str, counts: Counts) -> FrameCount:
    """The count of a video, found by its path or else by its file name.

    Raises:
        ExchangeError: there is no count, or several different ones.
    """
    name = composed(video)
    found = counts.get(name) or counts.get(PurePosixPath(name).name) or set()
    if len(found) != 1:
        raise ExchangeError(
            f"{video}: --num-frames has {len(found) or 'no'} "
            f"{'different counts' if found else 'count'} for it: write one line with its path"
        )
    return next(iter(found))

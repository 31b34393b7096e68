"""Video files, and folders that a recorder writes to."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vigil.extract.decode.decoder import VideoInfo, frame_size, probe
from vigil.extract.decode.decoder_table import AUTO, for_file
from vigil.extract.decode.orientation import UPRIGHT
from vigil.extract.errors import UserError, VideoError, counted
from vigil.extract.source import list_pictures
from vigil.pipeline.doctor.finding import OK, PROBLEM, WARNING, Finding
from vigil.pipeline.options import VIDEO_EXTENSIONS
from vigil.pipeline.recorder_names import time_in_name
from vigil.pipeline.text_files import clock_time

GROWTH_SECONDS = 2.0
"""How long the newest file of a folder is looked at."""
MAX_FILES = 200_000
"""Of a folder, that are looked at."""
SHORT_SIDE = 256


def check_recordings(name: str) -> Iterator[Finding]:
    """Yield what is found at a path: of a file one line, of a folder also its newest recording."""
    path = Path(name)
    if path.is_dir():
        yield from _folder(path)
    elif path.exists():
        yield video_finding(path, path.name)
    else:
        there = next(one for one in path.absolute().parents if one.exists())
        found = "does not exist, and is no address such as rtsp://HOST/PATH"
        yield Finding(name, PROBLEM, found, f"ls {there}")


def video_finding(path: Path, name: str) -> Finding:
    """What is found of a video file, which is a recording by this name."""
    try:
        info = probe(path)
        decoder = first_decoder(path, info)
    except (VideoError, OSError) as error:
        reason = error.reason if isinstance(error, VideoError) else (error.strerror or str(error))
        remedy = "play it with ffplay; if it is still being recorded, wait"
        return Finding(str(path), PROBLEM, f"it cannot be decoded: {reason}", remedy)
    words = [f"{info.width}x{info.height}", f"{info.fps:.3g} frames a second"]
    if info.duration_seconds:
        words.append(clock_time(info.duration_seconds))
    words.append(f"first frame decoded by {decoder}")
    if info.may_be_interlaced:
        words.append("perhaps interlaced")
    if info.orientation != UPRIGHT:
        turned = 90 * info.orientation.quarter_turns
        words.append(f"shown turned by {turned}°" if turned else "shown mirrored")
    if path.suffix.lower() not in VIDEO_EXTENSIONS.split(","):
        words.append("skipped in a folder, because of its extension")
        remedy = f"name the file itself, or set --extensions {path.suffix or '.mp4'}"
        return Finding(str(path), WARNING, ", ".join(words), remedy)
    recorded = time_in_name(name)
    if recorded is not None:
        words.append(f"begins {recorded.start.isoformat(' ', timespec='seconds')} by its name")
        return Finding(str(path), OK, ", ".join(words))
    words.append("no time of day in its name")
    remedy = "to have events with times of day: --clock creation, or --clock %Y%m%d_%H%M%S"
    return Finding(str(path), OK, ", ".join(words), remedy)


def first_decoder(path: Path, info: VideoInfo) -> str:
    """The name of the first decoder of ``auto`` that returns a frame.

    Raises:
        VideoError: none does; the last one's reason.
    """
    reason = VideoError("no decoder reads it")
    for row in for_file(AUTO):
        try:
            size = frame_size(info.width, info.height, SHORT_SIDE)
            with closing(row.open(path, info, *size)) as decoder:
                if next(iter(decoder), None) is not None:
                    return row.name
        except VideoError as error:
            reason = error
        except UserError as error:  # not installed, which has a line of its own
            reason = VideoError(str(error))
    raise reason


@dataclass(frozen=True)
class _File:
    path: Path
    num_bytes: int
    modified: float


def _folder(root: Path) -> Iterator[Finding]:
    unreadable: list[OSError] = []
    files = list(itertools.islice(_videos(root, unreadable), MAX_FILES))
    for error in unreadable[:1]:
        found = f"{counted(len(unreadable), 'folder')} cannot be read, such as {error.filename}"
        remedy = f"sudo setfacl -R -m u:{os.geteuid()}:rX {root}"
        yield Finding(str(root), WARNING, found, remedy)
    pictures = [] if files else list_pictures(root)
    if pictures:
        found = f"a folder of {counted(len(pictures), 'picture')}, which is one video"
        yield Finding(str(root), OK, found)
        return
    if not files:
        found = "a folder without videos"
        remedy = "check where the recorder writes, or give --extensions"
        yield Finding(str(root), PROBLEM if not unreadable else WARNING, found, remedy)
        return
    files.sort(key=lambda file: file.modified)
    newest = files[-1]
    is_growing = _grows(newest)
    number = f"{'more than ' * (len(files) == MAX_FILES)}{counted(len(files), 'video')}"
    age = time.time() - newest.modified
    shown = newest.path.relative_to(root)
    when = f"changed {clock_time(max(age, 0))} ago" if age > -60 else "changed in the future"
    growth = "growing" if is_growing else "not growing"
    found = f"{number}, the newest {shown} ({when}, {growth})"
    if age < -60:
        remedy = "set the clock of the recorder or of this machine: timedatectl"
        yield Finding(str(root), WARNING, found, remedy)
    else:
        yield Finding(str(root), OK, found)
    complete = files[-2:-1] if is_growing else [newest]
    for file in complete:
        yield video_finding(file.path, str(file.path.relative_to(root)))


def _videos(root: Path, unreadable: list[OSError]) -> Iterator[_File]:
    extensions = set(VIDEO_EXTENSIONS.split(","))
    for parent, folders, names in os.walk(root, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if path.suffix.lower() not in extensions or name.startswith("."):
                continue
            try:
                status = path.stat()
            except OSError:
                continue  # gone meanwhile
            yield _File(path, status.st_size, status.st_mtime)


def _grows(file: _File) -> bool:
    """Whether a file becomes larger within `GROWTH_SECONDS`; an old one is not waited for."""
    if time.time() - file.modified > 60:
        return False
    time.sleep(GROWTH_SECONDS)
    try:
        return file.path.stat().st_size > file.num_bytes
    except OSError:
        return False

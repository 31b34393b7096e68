"""What the user named on the command line -> the videos, each with its name in every output."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.errors import UserError
from extract.source import SourceVideo


@dataclass(frozen=True)
class FoundVideos:
    """The videos among what was named."""

    videos: tuple[SourceVideo, ...]
    """Sorted by name; the names are unique."""
    num_other_files: int
    """Files in the folders that are no videos by their endings."""


def find_videos(arguments: Sequence[str], extensions: str) -> FoundVideos:
    """The videos in folders, named directly, matching patterns, or listed in text files.

    A video's name is its path relative to the folder it was found in; one that was named directly
    has its file name, and one from a list its path as it stands there, if that is relative.

    Raises:
        UserError: nothing is there, it holds no videos, or two videos have the same name.
    """
    endings = _endings(extensions)
    found: dict[str, Path] = {}
    num_other = 0
    for argument in arguments:
        for name, path, in_folder in _expand(argument):
            if in_folder and path.suffix.lower() not in endings:
                num_other += 1
                continue
            if found.setdefault(name, path).absolute() != path.absolute():
                raise UserError(
                    f"two videos have the name {name!r}: {found[name]} and {path}: name a folder "
                    "above both, so that their paths differ"
                )
    if not found:
        looked = f" ({num_other} other files)" if num_other else ""
        raise UserError(
            f"no videos in {', '.join(arguments) or 'nothing'}{looked}: name a folder with videos "
            f"ending in {', '.join(sorted(endings))}, or say others with --extensions"
        )
    videos = tuple(SourceVideo(path, name) for name, path in sorted(found.items()))
    return FoundVideos(videos, num_other)


def _endings(extensions: str) -> set[str]:
    endings = {"." + text.strip().lower().lstrip(".") for text in extensions.split(",")} - {"."}
    if not endings:
        raise UserError(f"--extensions {extensions!r} names no ending: use .mp4,.avi")
    return endings


def _expand(argument: str) -> Iterator[tuple[str, Path, bool]]:
    """Yield (name, path, whether it was found in a folder) of each file behind an argument."""
    path = Path(argument)
    if path.is_dir():
        for file in _files_below(path):
            yield file.relative_to(path).as_posix(), file, True
    elif path.is_file() and path.suffix.lower() == ".txt":
        yield from ((name, file, False) for name, file in _listed(path))
    elif path.exists():
        yield path.name, path, False
    elif matches := sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207
        yield from _matching(argument, map(Path, matches))
    else:
        raise UserError(f"{argument} is not there: name a folder of videos, a video or a pattern")


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder but hidden ones; links to folders are not followed."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _matching(pattern: str, paths: Iterable[Path]) -> Iterator[tuple[str, Path, bool]]:
    fixed = list(Path(pattern).parts[:-1])
    while any(glob.has_magic(part) for part in fixed):
        fixed.pop()
    root = Path(*fixed)
    for path in paths:
        if path.is_dir():
            for file in _files_below(path):
                yield file.relative_to(root).as_posix(), file, True
        else:
            yield path.relative_to(root).as_posix(), path, True


def _listed(path: Path) -> Iterator[tuple[str, Path]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, start=1):
        listed = Path(line.strip())
        if not line.strip() or line.startswith("#"):
            continue
        file = listed if listed.is_absolute() else path.parent / listed
        if not file.is_file():
            raise UserError(f"{path}, line {number}: {file} is not there")
        name = PurePosixPath(listed.as_posix())
        within = not listed.is_absolute() and ".." not in listed.parts
        yield (str(name) if within else name.name), file

"""Finds the videos that command-line arguments name, each with its name in every output.

A folder that holds pictures and no video file is itself a video, with the folder's name, unless the
pictures are plots of vigil's own. Links that
the user names are followed anywhere. Somebody else may have put links into a folder that is
searched, so by default those must not lead out of it.
"""

import glob
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vigil.extract.errors import FailedVideo, UserError, VideoError, counted
from vigil.extract.remote.addresses import check_address, is_remote
from vigil.extract.remote.stores import decoded, list_below, look_up
from vigil.extract.source import (
    PICTURE_ENDINGS,
    PICTURE_FPS,
    RemoteFile,
    SourceVideo,
    composed,
    list_pictures,
)

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")

USUAL_EXTENSIONS = (".mp4", ".avi", ".mkv", ".mov", ".ts", ".dav")
PLOTS_FOLDER = "figures"
OUTPUTS = (
    ("metrics.json", "scores.json"),
    ("table.json", "table.md"),
    ("best/config.json",),
    ("last/config.json",),
)
"""Files that lie together in a folder of vigil with plots, there or in its `PLOTS_FOLDER`."""
EXCERPTS_MARK = ".vigil-clips"
"""A file in a folder of excerpts, which are no videos to be found."""
MAX_NAMED = 6
"""Extensions that a message lists."""


@dataclass(frozen=True)
class FoundVideos:
    """The videos that were found, and what was left out."""

    videos: tuple[SourceVideo, ...]
    """Sorted by name; the names are unique."""
    num_other_files: int
    """Files in the folders without a video extension."""
    failures: tuple[FailedVideo, ...] = ()
    """Videos that are not files, lead out of the folders, or cannot be read; none was opened."""
    num_linked_folders: int = 0
    """Links to folders within the folders; they are not followed."""


@dataclass(frozen=True)
class _Found:
    """A video file, or a folder of pictures, that an argument names."""

    name: str
    path: Path
    searched: Path | None = None
    """The folder in which it was found; None if the user named it directly."""
    remote: RemoteFile | None = None

    @property
    def place(self) -> str:
        """Its path or address."""
        return str(self.path) if self.remote is None else self.remote.address


@dataclass
class _Search:
    """Finds the videos in folders, and collects what else lies there."""

    extensions: set[str]
    with_pictures: bool
    """Whether folders of pictures are videos."""
    may_fetch: bool = False
    """Whether arguments may be addresses to fetch from."""
    other_files: set[Path] = field(default_factory=set)
    linked_folders: set[Path] = field(default_factory=set)
    unreadable: list[OSError] = field(default_factory=list)
    failures: list[FailedVideo] = field(default_factory=list)

    def in_folder(self, folder: Path, names: Sequence[str], root: Path) -> Iterator[_Found]:
        """Yield the videos among the files of a folder, or the folder if it is a video."""
        if pictures := self._pictures(folder, names):
            name = folder.absolute().name if folder == root else _relative(folder, root)
            yield _Found(name, folder, root)
        for name in names:
            if name not in pictures:
                yield from self.among(folder / name, root)

    def _pictures(self, folder: Path, names: Sequence[str]) -> set[str]:
        """Return the names of the files that are frames of the folder."""
        has_videos = any(Path(name).suffix.lower() in self.extensions for name in names)
        has_pictures = any(name.lower().endswith(PICTURE_ENDINGS) for name in names)
        if has_videos or not has_pictures or not self.with_pictures or _is_output(folder):
            return set()
        return {picture.name for picture in list_pictures(folder)}

    def among(self, path: Path, root: Path) -> Iterator[_Found]:
        """Yield a file in a folder if it has a video extension."""
        if path.suffix.lower() in self.extensions:
            yield _Found(_relative(path, root), path, root)
        else:
            self.other_files.add(path)


def _is_output(folder: Path) -> bool:
    """Whether the pictures in a folder are plots of vigil."""
    above = (one.parent for one in (folder, *folder.parents) if one.name == PLOTS_FOLDER)
    return any(
        all((place / name).is_file() for name in names)
        for place in (folder, *above)
        for names in OUTPUTS
    )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def find_videos(
    arguments: Sequence[str],
    extensions: str,
    follow_links: bool = False,
    picture_fps: float | None = None,
    input_fps: float | None = None,
    may_fetch: bool = False,
) -> FoundVideos:
    """Find the videos in folders, named directly, matching patterns, or listed in text files.

    A video's name is its path relative to the folder it was found in. A video named directly gets
    its file name, and one from a list its path relative to the list's folder. Those that a list
    names elsewhere keep the folders that differ among them, and at least the last one. No name
    leads upwards, so no output lies outside its folder.

    Args:
        arguments: folders, files, patterns and lists.
        extensions: comma-separated extensions of videos in folders.
        follow_links: whether links in folders may lead to videos outside of them.
        picture_fps: frames per second of folders of pictures; None: those are not videos.
        input_fps: frames per second of raw streams whose headers state no rate; None: assume 25.
        may_fetch: whether arguments may be addresses, whose videos are only looked up here.

    Raises:
        UserError: an argument does not exist, there are no videos, two videos have the same name,
            or an option is invalid.
    """
    check_search(extensions, picture_fps, input_fps)
    search = _Search(parse_extensions(extensions), picture_fps is not None, may_fetch)
    found = _by_name(one for argument in arguments for one in _expand(argument, search))
    failures = [*search.failures, *(_unreadable(error) for error in search.unreadable)]
    videos = []
    for one in found:
        if one.remote is not None:
            videos.append(SourceVideo(one.path, one.name, PICTURE_FPS, input_fps, one.remote))
            continue
        check = _why_no_pictures if one.path.is_dir() else why_not
        if reason := check(one.path, None if follow_links else one.searched):
            failures.append(FailedVideo(one.name, reason))
        else:
            videos.append(SourceVideo(one.path, one.name, picture_fps or PICTURE_FPS, input_fps))
    num_other = len(search.other_files)
    if not videos and not failures:
        others = f" ({counted(num_other, 'other file')})" if num_other else ""
        raise UserError(
            f"no videos in {', '.join(arguments) or 'an empty list'}{others}: name a folder that "
            f"holds videos (files ending in {_some(search.extensions)}), or set extensions"
        )
    return FoundVideos(tuple(videos), num_other, tuple(failures), len(search.linked_folders))


def check_search(extensions: str, picture_fps: float | None, input_fps: float | None) -> None:
    """Refuse settings of `find_videos` before anything is searched.

    Raises:
        UserError: names the setting and what is allowed.
    """
    parse_extensions(extensions)
    for name, fps in (("picture_fps", picture_fps), ("input_fps", input_fps)):
        if fps is not None and not 0.01 <= fps <= 1000:
            raise UserError(
                f"{name} {fps:g} is not allowed: use a rate from 0.01 to 1000, usually 25"
            )


def _some(extensions: Collection[str]) -> str:
    """Name a few extensions, the usual ones first, and how many more there are."""
    ordered = sorted(extensions, key=lambda one: (one not in USUAL_EXTENSIONS, one))
    num_more = len(ordered) - MAX_NAMED
    return ", ".join(ordered[:MAX_NAMED]) + (f" or {num_more} others" if num_more > 0 else "")


def _by_name(found: Iterable[_Found]) -> list[_Found]:
    """Return each file once, sorted by name; one named directly replaces one found in a folder."""
    by_name: dict[str, _Found] = {}
    for new in found:
        known = by_name.setdefault(new.name, new)
        if known.path.absolute() != new.path.absolute():
            raise UserError(
                f"two videos have the name {new.name!r} ({known.place} and {new.place}): name a "
                "folder above both, so that their paths differ"
            )
        if new.searched is None:
            by_name[new.name] = new
    return [by_name[name] for name in sorted(by_name)]


def parse_extensions(extensions: str) -> set[str]:
    """Return the extensions in a comma-separated text, each with its dot, in lower case.

    Raises:
        UserError: there are none.
    """
    parsed = {"." + text.strip().lower().lstrip(".") for text in extensions.split(",")} - {"."}
    if not parsed:
        raise UserError(f"{extensions!r} names no extension: use .mp4,.avi")
    return parsed


def why_not(path: Path, searched: Path | None) -> str | None:
    """Return why a file must not be opened, in one line, or None if it may be."""
    try:
        real = os.path.realpath(path, strict=True)
        kind = stat.S_IFMT(os.stat(real).st_mode)  # noqa: PTH116
    except OSError as error:
        what = "the link is broken" if path.is_symlink() else "the file cannot be read"
        return f"{what} ({error.strerror})"
    if kind != stat.S_IFREG:
        return f"it is {_KINDS.get(kind, 'something else')}, not a file"
    if searched is None or Path(real).is_relative_to(os.path.realpath(searched)):
        return None
    return f"the link leads out of {searched}, to {real}: set follow_links"


def _why_no_pictures(folder: Path, searched: Path | None) -> str | None:
    """Return why the first such picture of a folder must not be opened, or None."""
    with os.scandir(folder) as entries:
        odd = {entry.name for entry in entries if not entry.is_file(follow_symlinks=False)}
    for picture in list_pictures(folder):
        if picture.name in odd and (reason := why_not(picture, searched)):
            return f"{picture.name}: {reason}"
    return None


def _unreadable(error: OSError) -> FailedVideo:
    return FailedVideo(str(error.filename), f"the folder cannot be read ({error.strerror})")


def check_argument(argument: str, may_fetch: bool = False) -> None:
    """Refuse an argument that names nothing: no file, no folder and no pattern.

    An address that may be fetched from is checked, but not looked up.

    Raises:
        UserError: it does not exist, or is an address that must not be fetched from.
    """
    if is_remote(argument):
        check_address(argument)
        if not may_fetch:
            raise UserError(
                f"{argument} is an address, and only vigil extract and vigil score fetch videos: "
                "copy it to this machine, and name the copy"
            )
        return
    path = _as_stored(Path(argument))
    if path.exists():
        return
    if match := _ADDRESS.match(argument):
        address = re.sub(r"//[^/@]*@", "//", argument)  # without its password
        record = f"record it into files first, such as with ffmpeg -i {match[0]}... -c copy A.mkv"
        remedy = "write the path alone" if match[1].lower() == "file" else record
        raise UserError(f"{address} is an address, and vigil reads files and folders: {remedy}")
    if not glob.has_magic(argument):
        raise UserError(f"{argument} does not exist: name a folder of videos, a video or a pattern")


def _expand(argument: str, search: _Search) -> Iterator[_Found]:
    """Yield the videos that an argument names."""
    if is_remote(argument):
        check_argument(argument, search.may_fetch)
        yield from _remote(argument, search)
        return
    path = _as_stored(Path(argument))
    if path.is_dir():
        yield from _files_below(path, path, search)
    elif path.is_file() and path.suffix.lower() == ".txt":
        yield from _listed(path, search)
    elif path.exists():
        yield _Found(path.name, path)
    elif glob.has_magic(argument) and not _ADDRESS.match(argument):
        yield from _matching(argument, search)
    else:
        check_argument(argument)


def _remote(address: str, search: _Search) -> Iterator[_Found]:
    """Yield the video at an address, or every video below it, hidden ones excepted."""
    try:
        if file := look_up(address):
            yield from _fetchable(decoded(address).rpartition("/")[2], file, search)
            return
        below = dict(list_below(address))
    except VideoError as error:
        raise UserError(f"{address}: {error.reason}") from error
    excerpts = {PurePosixPath(one).parent for one in below if one.endswith(f"/{EXCERPTS_MARK}")}
    for name, file in below.items():
        path = PurePosixPath(name)
        is_hidden = any(part.startswith(".") and part != ".." for part in path.parts)
        if is_hidden or not excerpts.isdisjoint(path.parents):
            continue
        if path.suffix.lower() in search.extensions:
            yield from _fetchable(name, file, search)
        else:
            search.other_files.add(Path(file.address))


def _fetchable(name: str, file: RemoteFile, search: _Search) -> Iterator[_Found]:
    """Yield a remote video, unless its name cannot be that of a file below a folder."""
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        reason = f"{file.address} has an empty part, . or .. in its path: rename it"
        search.failures.append(FailedVideo(name, reason))
    else:
        yield _Found(name, Path(file.address), None, file)


def _files_below(folder: Path, root: Path, search: _Search) -> Iterator[_Found]:
    """Yield every video below a folder except hidden ones; links to folders are not followed."""
    for parent, folders, files in os.walk(folder, onerror=search.unreadable.append):
        if EXCERPTS_MARK in files:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in folders)
        search.linked_folders.update(path for path in paths if path.is_symlink())
        names = sorted(name for name in files if not name.startswith("."))
        yield from search.in_folder(Path(parent), names, root)


def _matching(pattern: str, search: _Search) -> Iterator[_Found]:
    """Yield the matches of a pattern; as in a shell, hidden files match only with a dot in it."""
    parts = Path(pattern).parts
    num_fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root, wanted = Path(*parts[:num_fixed]), parts[num_fixed:]
    if ".." in wanted:
        raise UserError(f"{pattern} has .. after a wildcard: name the folder itself")
    try:
        matches = sorted(root.glob(str(Path(*wanted))))
    except ValueError as error:
        raise UserError(f"{pattern} is not a pattern ({error}): use one like **/*.mp4") from error
    if not matches:
        raise UserError(f"{pattern} matches nothing: name a folder of videos, a video or a pattern")
    may_be_hidden = any(part.startswith(".") for part in wanted)
    for path in matches:
        is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if is_hidden and not may_be_hidden:
            continue
        if not path.is_dir():
            yield from search.among(path, root)
        elif path.is_symlink():
            search.linked_folders.add(path)
        else:
            yield from _files_below(path, root, search)


def _listed(path: Path, search: _Search) -> Iterator[_Found]:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    folder = Path(os.path.abspath(path.parent))  # noqa: PTH100
    outside: list[tuple[Path, Path]] = []
    addresses: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if is_remote(line):
            check_argument(line.strip(), search.may_fetch)
            addresses.append(line.strip())
            continue
        file = _as_stored(path.parent / line.strip())
        # Path's own methods raise if a name is too long.
        is_folder = search.with_pictures and os.path.isdir(file) and list_pictures(file)  # noqa: PTH112
        if not (os.path.isfile(file) or is_folder):  # noqa: PTH113
            if _ADDRESS.match(line):
                check_argument(line.strip())
            raise UserError(f"{path}, line {number}: {file} does not exist")
        place = Path(os.path.abspath(file))  # noqa: PTH100
        if place.is_relative_to(folder):
            yield _Found(_relative(place, folder), file)
        else:
            outside.append((place, file))
    # The last folder stays in the name even if it is the same for all, since it may be the class.
    above = [place.parent.parent for place, _ in outside]
    for place, file in outside:
        yield _Found(_relative(place, Path(os.path.commonpath(above))), file)
    yield from _listed_remote(addresses, search)


def _listed_remote(addresses: Sequence[str], search: _Search) -> Iterator[_Found]:
    """Yield the videos at the addresses of a list, named like its files elsewhere."""
    places = {one: PurePosixPath("/", decoded(one)) for one in addresses}
    folders = [str(place.parent.parent) for place in places.values()]
    above = os.path.commonpath(folders or ["/"])
    for address, place in places.items():
        name = str(place.relative_to(above))
        try:
            if (file := look_up(address)) is None:
                raise VideoError(f"{address} is a folder: a list names videos")
        except VideoError as error:
            search.failures.append(FailedVideo(name, error.reason, may_pass=error.may_pass))
        else:
            yield from _fetchable(name, file, search)


def _as_stored(path: Path) -> Path:
    """Return a path that exists although Unicode spells it in another way, or the path itself."""
    if not composed(str(path)).isascii() and not os.path.lexists(path):
        folder = _as_stored(path.parent)
        with suppress(OSError), os.scandir(folder) as entries:
            alike = [one.name for one in entries if composed(one.name) == composed(path.name)]
            if len(alike) == 1:
                return folder / alike[0]
    return path

"""What `vigil watch` watches: addresses from the command line, and the cameras of a TOML file.

    [[camera]]
    name = "front"                   # its folder in RESULTS, and its name in every alarm
    address = "/srv/nvr/front"       # without it: settings of a camera in one of the folders
    threshold = 0.6
    quiet_hours = "22:00-06:00"
    settle_seconds = 10

    [[camera]]
    name = "yard"
    address = "rtsp://${CAMERA_LOGIN}@192.0.2.7/stream1"    # a variable has user:password
    when_late = "sparser"

It is read before torch is loaded, so that a mistake is told at once.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import dacite

from vigil.extract.errors import UserError
from vigil.pipeline.camera_addresses import check_address, filled_in, has_password, is_stream
from vigil.pipeline.options import WhenLate
from vigil.pipeline.recipe import read_toml
from vigil.pipeline.watching.limits import CameraLimits, LimitsError, read_quiet_hours

TABLE = "camera"


@dataclass(frozen=True)
class Camera:
    """A camera, or with an empty name a folder in which every subfolder is one."""

    name: str = ""
    address: str = field(default="", repr=False)
    """Of a stream, or a folder in which a recorder puts files; empty: the camera is found in
    another folder. Variables in it are not filled in."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Of RTSP."""
    threshold: float | None = None
    """Score that opens an event; None: as for all cameras."""
    settle_seconds: float | None = None
    """How long a file must be unchanged; None: as for all cameras."""
    silent_minutes: float | None = None
    """/healthz reports a camera of which nothing was scored for so long; None: 2 minutes for a
    stream, and never for a folder."""
    when_late: WhenLate | None = None
    """What a stream does with clips for which there is no time; None: as all cameras."""
    limits: CameraLimits = field(default_factory=CameraLimits)

    @property
    def kind(self) -> Literal["folder", "stream"]:
        """What its address leads to."""
        return "stream" if is_stream(self.address) else "folder"

    @property
    def folder(self) -> Path:
        """Its address as a path."""
        return Path(self.address)


@dataclass(frozen=True)
class Cameras:
    """All that is watched."""

    sources: tuple[Camera, ...]
    """Those with an address; first come those of the command line."""
    by_name: Mapping[str, Camera]
    """The cameras that have names, for their settings."""

    @property
    def folders(self) -> tuple[Camera, ...]:
        """Those in which recorders put files."""
        return tuple(source for source in self.sources if source.kind == "folder")

    @property
    def streams(self) -> tuple[Camera, ...]:
        """Those that send."""
        return tuple(source for source in self.sources if source.kind == "stream")

    def settings_of(self, name: str) -> Camera:
        """The settings of a camera; without any if the file does not name it."""
        return self.by_name.get(name, Camera(name))


@dataclass(frozen=True)
class _Entry:
    """A table of the file, as it stands there."""

    name: str
    address: str = ""
    threshold: float | None = None
    quiet_hours: str = ""
    events_per_hour: int | None = None
    settle_seconds: float | None = None
    silent_minutes: float | None = None
    when_late: WhenLate | None = None
    transport: Literal["tcp", "udp"] = "tcp"


def read_cameras(addresses: Sequence[str], file: Path | None, results: Path) -> Cameras:
    """Read what the command line and a TOML file ask to watch.

    Args:
        addresses: folders whose subfolders are cameras, and streams.
        file: with further cameras, or settings of these.
        results: RESULTS, which may lie in a folder, but no folder in it.

    Raises:
        UserError: names what is wrong, and what is allowed.
    """
    named = [] if file is None else _read_file(file)
    given = [Camera(stream_name(one) if is_stream(one) else "", one) for one in addresses]
    sources = [*given, *(one for one in named if one.address)]
    if not sources:
        raise UserError(
            "there is nothing to watch: name a folder of recordings, a stream, or a file with "
            "--cameras in which a camera has an address"
        )
    names = [one.name for one in sources if one.kind == "stream"] + [one.name for one in named]
    for number, source in enumerate(sources, start=1):
        if source.kind == "folder":
            _check_folder(source, results)
        elif names.count(source.name) > 1 and source not in named:
            raise UserError(f"two cameras would be called {source.name!r}: name them in --cameras")
        else:
            _check_stream(source, f"the address of {source.name or f'source {number}'}")
    folders = [one for one in sources if one.kind == "folder"]
    for number, one in enumerate(folders):
        for other in folders[:number]:
            paths = [Path(os.path.realpath(each.folder)) for each in (one, other)]
            if paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0]):
                raise UserError(
                    f"{one.address} and {other.address} hold the same files: name only one of them"
                )
    by_name = {one.name: one for one in (*named, *sources) if one.name}
    return Cameras(tuple(sources), by_name)


def stream_name(address: str) -> str:
    """A name for a camera without one: its host and port, since a path may hold a password."""
    scheme, _, rest = address.partition("://")
    place = re.split(r"[/?#]", rest.rpartition("@")[2])[0] if rest else scheme
    return re.sub(r"[^A-Za-z0-9.-]+", "-", place).strip("-.") or "stream"


def _check_stream(source: Camera, which: str) -> None:
    """Refuse an address that is not that of a stream, or has a password in it."""
    if has_password(source.address):
        raise UserError(
            f"{which} has a password in it, which every user of this machine can see: write "
            "'${NAME}' in its place, and set the variable NAME to it"
        )
    filled = filled_in(source.address, os.environ)
    check_address(filled)
    from vigil.extract.decode.live import require_stream  # loads FFmpeg

    try:
        require_stream(filled)
    except UserError as error:
        raise UserError(f"{which}: {error}") from error


def _check_folder(source: Camera, results: Path) -> None:
    """Refuse what cannot be watched."""
    if not source.folder.is_dir():
        what = "is not a folder" if source.folder.exists() else "does not exist"
        raise UserError(f"{source.address} {what}: name the folder that the recorder writes to")
    folder = Path(os.path.realpath(source.folder))
    if folder.is_relative_to(os.path.realpath(results)):
        raise UserError(
            f"{source.address} lies in --out {results}, which is left alone: write the results "
            "somewhere else"
        )


def _read_file(path: Path) -> list[Camera]:
    content = read_toml(path)
    if odd := [name for name in content if name != TABLE]:
        raise UserError(f"{path}: {odd[0]!r} is unknown: write a [[{TABLE}]] table for each camera")
    tables = content.get(TABLE, [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise UserError(f"{path}: write each camera as a table of its own, [[{TABLE}]]")
    cameras = [_camera(f"{path}, camera {number}", one) for number, one in enumerate(tables, 1)]
    names = [one.name for one in cameras]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: two cameras have the name {twice[0]!r}: rename one")
    return cameras


def _camera(where: str, table: Mapping[str, Any]) -> Camera:
    """The camera of a table; a relative address is relative to the working folder."""
    known = [one.name for one in fields(_Entry)]
    for key in table:
        if key not in known:
            close = get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"the settings are {', '.join(known)}"
            raise UserError(f"{where}: {key} is unknown: {hint}")
    where = f"{where} ({table['name']!r})" if "name" in table else where
    hooks: dict[type[Any], Callable[[Any], Any]] = {int: _number, float: _number}
    try:
        entry = dacite.from_dict(_Entry, table, dacite.Config(strict=True, type_hooks=hooks))
        limits = CameraLimits(read_quiet_hours(entry.quiet_hours), entry.events_per_hour)
    except dacite.MissingValueError as error:
        raise UserError(f"{where}: {error.field_path} is missing: every camera has one") from error
    except dacite.WrongTypeError as error:
        raise UserError(
            f"{where}: {error.field_path} = {error.value!r} is not allowed: "
            f"{_what_is_allowed(error.field_type)}"
        ) from error
    except LimitsError as error:
        raise UserError(f"{where}: {error}") from error
    if not re.fullmatch(r"[^/\\.\0][^/\\\0]*", entry.name):
        raise UserError(f"{where}: a name must not be empty, start with a dot or hold a slash")
    if entry.threshold is not None and not 0 <= entry.threshold <= 1:
        raise UserError(f"{where}: threshold = {entry.threshold:g} is not a number from 0 to 1")
    for name in ("settle_seconds", "silent_minutes"):
        value = getattr(entry, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"{where}: {name} = {value:g} is not a length of time: use 0 or more")
    if entry.when_late is not None and not is_stream(entry.address):
        raise UserError(
            f"{where}: when_late is for streams, and recordings can wait: leave it out, or give "
            "the camera the address of a stream"
        )
    return Camera(
        entry.name,
        os.path.expanduser(entry.address),  # noqa: PTH111  (not yet a path)
        entry.transport,
        entry.threshold,
        entry.settle_seconds,
        entry.silent_minutes,
        entry.when_late,
        limits,
    )


def _what_is_allowed(kind: Any) -> str:
    """What may be written for a setting of a type; a choice may be optional."""
    words = [word for one in (kind, *get_args(kind)) for word in get_args(one)]
    texts = [word for word in words if isinstance(word, str)]
    return f"use {', '.join(texts)}" if texts else "see docs/live.md"


def _number(value: object) -> object:
    """Refuse a bool, which Python would accept as a number."""
    if isinstance(value, bool):
        raise dacite.WrongTypeError(float, value)
    return value

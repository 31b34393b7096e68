"""The time of day at which a recording starts, from its name.

A name counts only if it can be read in one way. A date must begin with its year, because nothing
tells day and month apart otherwise, and the time must have seconds; a template can say more.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from vigil.extract.errors import UserError
from vigil.extract.source import composed

AUTO, NONE, CREATION = "auto", "none", "creation"
YEARS = range(1990, 2100)
"""No recording is of another year: clocks that were never set begin before 1990."""
MAX_NAMED_LENGTH = timedelta(hours=25)
"""Between start and end in one name; more are two unrelated times."""


@dataclass(frozen=True)
class RecordingTime:
    """When a recording starts."""

    start: datetime
    """With a time zone only if that is known; else by the clock of the recorder."""
    source: str
    """Where it comes from: name, template, creation_time or stream."""
    named_seconds: float | None = None
    """Length of the recording according to its name, if that has an end, too."""

    def at(self, seconds: float, round_up: bool = False) -> str:
        """The time of day at an offset from the start, as YYYY-MM-DD hh:mm:ss[+hh:mm]."""
        time = self.start + timedelta(seconds=seconds)
        if round_up and time.microsecond:
            time += timedelta(seconds=1)
        return time.isoformat(" ", timespec="seconds")


# 2024-05-01_08-30-15, 20240501_083015, 20240501083015123, 2024-05-01T083015Z
_STAMP = re.compile(
    r"(?<!\d)(?P<year>199\d|20\d\d)(?P<d>[-_.]?)(?P<month>\d\d)(?P=d)(?P<day>\d\d)"
    r"(?P<between>[-_. T]{0,3})"
    r"(?P<hour>\d\d)(?P<t>[-_.:]?)(?P<minute>\d\d)(?P=t)(?P<second>\d\d)"
    r"(?:[.,]?(?P<milli>\d{3}))?(?P<zone>Z(?![A-Za-z])|[+]\d\d:?\d\d)?(?!\d)"
)
_BETWEEN_STAMPS = re.compile(r"[-_~. ]{1,3}|[-_ ]to[-_ ]")
# Dahua's folders: 2024-05-01/001/dav/08/08.30.15-09.30.15[M][0@0][0].dav
_DAY_FOLDER = re.compile(r"(20\d\d)-(\d\d)-(\d\d)")
_DAHUA_NAME = re.compile(
    r"(\d\d)\.(\d\d)\.(\d\d)-(\d\d)\.(\d\d)\.(\d\d)(?:\[.*|_.*)?\.\w{1,5}", re.DOTALL
)
# Xiaomi's 30M15S_1714545015 says minute and second twice.
_UNIX_NAME = re.compile(
    r"(?:(?:cam|camera|ch|channel|rec|record|recording|video|nvr|dvr|clip|event)\d{0,3}[-_]|"
    r"(?P<minute>\d\d)M(?P<second>\d\d)S_)?(?P<seconds>\d{10})(?P<milli>\d{3})?",
    re.IGNORECASE,
)
_OTHER_READINGS = (
    *("%y%m%d%H%M", "%y%d%m%H%M", "%d%m%y%H%M", "%m%d%y%H%M"),
    *("%Y%m%d%H", "%m%d%H%M%S", "%d%m%H%M%S"),
)
_EXPORTED = re.compile(r"export|download|backup|archive|convert|copy", re.IGNORECASE)


def time_in_name(video: str) -> RecordingTime | None:
    """The start of a recording from its name as recorders write it; None if that is not clear."""
    path = PurePosixPath(video)
    stamps = list(_STAMP.finditer(path.name))
    if _EXPORTED.search(path.name):  # the time may be that of the export
        return None
    if not stamps:
        return _dahua_time(path) or _unix_time(path.stem)
    times = [_stamped(match) for match in stamps]
    start, stop = times[0], times[-1]
    if start is None or stop is None or len(stamps) > 2:
        return None
    if len(stamps) == 1:
        return RecordingTime(start, "name")
    between = path.name[stamps[0].end() : stamps[1].start()]
    if not _BETWEEN_STAMPS.fullmatch(between) or (start.tzinfo is None) != (stop.tzinfo is None):
        return None
    if not timedelta(0) <= stop - start <= MAX_NAMED_LENGTH:
        return None
    return RecordingTime(start, "name", (stop - start).total_seconds() or None)


def _stamped(match: re.Match[str]) -> datetime | None:
    if match["d"] and not match["between"]:
        return None
    year, month, day, hour, minute, second = (
        match[name] for name in ("year", "month", "day", "hour", "minute", "second")
    )
    text = f"{year}-{month}-{day}T{hour}:{minute}:{second}.{match['milli'] or '000'}"
    try:
        return datetime.fromisoformat(text + (match["zone"] or ""))
    except ValueError:
        return None


def _dahua_time(path: PurePosixPath) -> RecordingTime | None:
    days = [match for part in path.parts[:-1] if (match := _DAY_FOLDER.fullmatch(part))]
    match = _DAHUA_NAME.fullmatch(path.name)
    if len(days) != 1 or match is None:
        return None
    year, month, day = map(int, days[0].groups())
    hours = list(map(int, match.groups()))
    try:
        start = datetime(year, month, day, hours[0], hours[1], hours[2])
        stop = datetime(year, month, day, hours[3], hours[4], hours[5])
    except ValueError:
        return None
    length = (stop - start) % timedelta(days=1)
    return RecordingTime(start, "name", length.total_seconds() or None)


def _unix_time(stem: str) -> RecordingTime | None:
    """The start from a Unix time, unless its ten digits may be a date and time."""
    match = _UNIX_NAME.fullmatch(stem)
    if match is None:
        return None
    start = datetime.fromtimestamp(int(match["seconds"]), UTC)
    if match["minute"]:
        is_clear = (start.minute, start.second) == (int(match["minute"]), int(match["second"]))
    else:
        is_clear = not any(_is_date(match["seconds"], reading) for reading in _OTHER_READINGS)
    if not is_clear or start.year not in YEARS or start > _tomorrow():
        return None
    return RecordingTime(start + timedelta(milliseconds=int(match["milli"] or 0)), "name")


def _is_date(text: str, template: str) -> bool:
    try:
        if "%y" in template.lower():
            datetime.strptime(text, template)
        else:
            datetime.strptime(f"2000 {text}", f"%Y {template}")
    except ValueError:
        return False
    return True


def _tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


_DIRECTIVES = {
    **{"Y": r"\d{4}", "y": r"\d\d", "m": r"\d\d", "d": r"\d\d", "j": r"\d{3}", "f": r"\d{1,6}"},
    **{"H": r"\d\d", "I": r"\d\d", "M": r"\d\d", "S": r"\d\d", "p": r"[AaPp][Mm]"},
    **{"b": r"[A-Za-z]{3}", "B": r"[A-Za-z]{3,9}", "z": r"Z|[+-]\d\d:?\d\d", "s": r"\d{9,10}"},
}
_NEEDED = ({"Y", "m", "d", "H"}, {"y", "m", "d", "H"}, {"Y", "j", "H"})


def check_clock(clock: str) -> None:
    """Refuse a template that is not one, before anything is computed.

    Raises:
        UserError: names what a template may hold.
    """
    if clock not in (AUTO, NONE, CREATION):
        parse_template(clock)


def parse_template(template: str) -> Callable[[str], RecordingTime | None]:
    """Return the function that finds a template's time in the name of a video, or None.

    The template is one of strptime; ``*`` stands for any text. It may begin and end anywhere in the
    file's name, but not within a number, and is compared with the whole path if it holds a ``/``.

    Raises:
        UserError: it has an unknown directive, or does not give date and hour.
    """
    pieces = re.findall(r"%.|\*|[^%*]+|%$", composed(template), re.DOTALL)
    names = [piece[1:] for piece in pieces if piece.startswith("%") and piece != "%%"]
    unknown = [name for name in names if name not in _DIRECTIVES]
    if unknown or len(set(names)) < len(names):
        known = " ".join(f"%{name}" for name in _DIRECTIVES)
        raise UserError(f"clock {template!r} must use each of these at most once: {known}")
    given = {{"b": "m", "B": "m"}.get(name, name) for name in names}
    if "I" in given and "p" in given:
        given.add("H")
    if given != {"s"} and ("s" in given or not any(needed <= given for needed in _NEEDED)):
        raise UserError(
            f"clock {template!r} must be auto, none, creation, or a template with date and "
            "hour such as %Y%m%d_%H%M%S"
        )
    pattern = re.compile(
        "".join(
            (
                r"(?<!\d)" if pieces[0].startswith("%") else "",
                *map(_piece_pattern, pieces),
                r"(?!\d)" if pieces[-1].startswith("%") else "",
            )
        ),
        re.DOTALL,
    )
    reading = " ".join(f"%{name}" for name in names)

    def find(video: str) -> RecordingTime | None:
        name = composed(video)
        match = pattern.search(name if "/" in template else PurePosixPath(name).name)
        if match is None:
            return None
        try:
            if names == ["s"]:
                start = datetime.fromtimestamp(int(match[1]), UTC)
            else:
                start = datetime.strptime(" ".join(match.groups()), reading)
        except (ValueError, OverflowError):
            return None
        return RecordingTime(start, "template") if start.year in YEARS else None

    return find


def _piece_pattern(piece: str) -> str:
    if piece == "*":
        return ".*?"
    if piece == "%%":
        return "%"
    return f"({_DIRECTIVES[piece[1:]]})" if piece.startswith("%") else re.escape(piece)

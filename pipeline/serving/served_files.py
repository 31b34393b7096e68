"""Files as answers: which may be sent, and which part of one."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
"""Extension of files in RESULTS and of the program -> type; no others are sent."""
VIDEO_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime"} | {
    ".webm": "video/webm",
    ".ogv": "video/ogg",
    ".mkv": "video/x-matroska",
}
"""Extension of a video -> type, of those that browsers may play."""
OTHER_VIDEO = "application/octet-stream"

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.ASCII)


class RangedFile(FileResponse):
    """A file, or one range of it; anything else that a Range header asks for is refused.

    Starlette would also send several ranges at a time, and answers some wrong ones with 400.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it as ASGI has it."""
        assert self.stat_result is not None
        size = self.stat_result.st_size
        asked = Headers(scope=scope)
        wanted = asked.get("range")
        answer: ASGIApp = super().__call__
        if wanted is not None and not is_satisfiable(wanted, size):
            answer = PlainTextResponse("", 416, {"Content-Range": f"bytes */{size}"})
        elif wanted is None and is_known(asked, self.headers["etag"]):
            answer = Response(status_code=304, headers={"ETag": self.headers["etag"]})
        await answer(scope, receive, send)


def is_known(headers: Headers, tag: str) -> bool:
    """Whether a browser has what the tag stands for."""
    return tag in [one.strip() for one in headers.get("if-none-match", "").split(",")]


def is_satisfiable(header: str, size: int) -> bool:
    """Whether the value of a Range header is one range with bytes of a file of this size."""
    match = _RANGE.fullmatch(header.strip())
    if match is None:
        return False
    first, last, length = match.groups()
    if length is not None:
        return size > 0 and int(length) > 0
    return int(first) < size and (not last or int(first) <= int(last))


def send_file(path: Path, media_type: str) -> Response:
    """A file as an answer, that may be asked for in ranges; 404 if it cannot be read."""
    try:
        return RangedFile(path, media_type=media_type, stat_result=path.stat())
    except OSError:
        return missing()


def send_video(path: Path) -> Response:
    """A video as an answer."""
    return send_file(path, VIDEO_TYPES.get(path.suffix.lower(), OTHER_VIDEO))


def file_below(root: Path, name: str) -> Path | None:
    """The file of that name below a folder, if it is one that may be sent.

    It must exist, have an extension of `MEDIA_TYPES`, and lie in the folder, also behind links.
    """
    parts = name.split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or PurePosixPath(name).suffix not in MEDIA_TYPES:
        return None
    try:
        path = root.joinpath(*parts).resolve(strict=True)
        is_ours = path.is_relative_to(root.resolve(strict=True)) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # not there, NUL in it, links in a circle
        return None
    return path if is_ours and path.suffix in MEDIA_TYPES else None


@dataclass(frozen=True)
class Text:
    """Text that was made to be sent."""

    content: bytes
    media_type: str

    @cached_property
    def tag(self) -> str:
        """What stands for it in ETag."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def make_text(text: str, media_type: str) -> Text:
    """Text to be sent; bytes that are not UTF-8 come out as they are."""
    return Text(text.encode(errors="surrogateescape"), media_type)


def send_text(request: Request, text: Text) -> Response:
    """Text as an answer; 304 if the browser has the same."""
    if is_known(request.headers, text.tag):
        return Response(status_code=304, headers={"ETag": text.tag})
    return Response(text.content, media_type=text.media_type, headers={"ETag": text.tag})


def missing(why: str = "There is nothing here.", status: int = 404) -> Response:
    """An answer for what does not exist."""
    return Response(json.dumps({"detail": why}), status, media_type="application/json")

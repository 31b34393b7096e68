"""Streams of cameras: whether one answers, with what, and whether it keeps its own time."""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vigil.extract.decode.decoder import MAX_FRAME_PIXELS
from vigil.extract.decode.interlacing import may_be_interlaced
from vigil.extract.decode.live import DEVICE, LiveSource, open_stream, require_stream, why_broken
from vigil.extract.errors import UserError
from vigil.pipeline.camera_addresses import check_address, filled_in, has_password
from vigil.pipeline.doctor.finding import OK, PROBLEM, WARNING, Finding

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "tcp": 0}
"""Scheme of an address with connections -> its usual port."""
TOO_LONG = "nothing came for too long"
REACH_SECONDS = 3.0
WATCHED_SECONDS = 5.0
"""How long a stream is followed after its first picture."""
SETTLED_SECONDS = 1.0
"""In the beginning, what was sent before is read at once, so pace is judged only after this."""
SLOW, FAST = 0.9, 1.5
"""Seconds of video a second: below the first, the stream falls behind its camera; above the second,
it does not come from a running camera, or comes out of a store."""


def check_stream(source: str, name: str, seconds: float) -> Iterator[Finding]:
    """Yield what is found of a stream within a time limit; nothing of its address is said."""
    if has_password(source):
        remedy = "write '${CAMERA_PASSWORD}' in its place, and export that variable"
        yield Finding(name, WARNING, "every user of this machine can see its password", remedy)
    try:
        address = filled_in(source, os.environ)
        require_stream(address)
        check_address(address)
    except UserError as error:
        yield Finding(name, PROBLEM, str(error), "vigil doctor rtsp://HOST/PATH")
        return
    live = LiveSource(name, address, connect_seconds=seconds / 2, silence_seconds=seconds / 2)
    begun = time.monotonic()
    try:
        with open_stream(live) as container:
            yield _seen(container, name, begun, min(WATCHED_SECONDS, seconds / 4))
    except av.error.FFmpegError as error:
        is_late = time.monotonic() - begun >= live.connect_seconds
        why = why_unreachable(address) or (TOO_LONG if is_late else why_broken(error))
        yield Finding(name, PROBLEM, f"no picture: {why}", _remedy(address, error))


def why_unreachable(address: str) -> str:
    """Why no connection to a camera can be made, which FFmpeg does not tell; empty if one can.

    It is empty for addresses without connections, too.
    """
    parts = urlsplit(address)
    if parts.scheme not in PORTS or not parts.hostname:
        return ""
    try:
        socket.create_connection(_place(address), timeout=REACH_SECONDS).close()
    except TimeoutError:
        return TOO_LONG
    except OSError as error:
        return f"{parts.hostname}: {error.strerror or error}"
    return ""


def _place(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)


def _remedy(address: str, error: av.error.FFmpegError) -> str:
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return "check user and password; some cameras lock a login for minutes after mistakes"
    if isinstance(error, av.error.HTTPNotFoundError):
        return "check the path: the camera's manual names it, and ONVIF tools find it"
    if DEVICE.fullmatch(address):
        return f"v4l2-ctl --list-devices; sudo usermod -aG video {os.environ.get('USER', 'USER')}"
    host, port = _place(address)
    if not port:
        return "check that the sender is running, and that no firewall drops its packets"
    return f"check that the camera can be reached: nc -vz {host} {port}"


@dataclass
class Watched:
    """What has come of a stream."""

    first_seconds: float = 0.0
    """From the beginning to the first picture."""
    num_frames: int = 0
    num_errors: int = 0
    broken: str = ""
    """Why it ended while it was followed."""
    wall_seconds: float = 0.0
    video_seconds: float | None = None
    """By the stream's own clock; None if it has none."""
    settled: tuple[float, float] = (0.0, 0.0)
    """Wall and video seconds when `SETTLED_SECONDS` had passed; zeros if they have not."""

    @property
    def pace(self) -> float:
        """Seconds of video a second; 1 if it was followed for too short a time to say."""
        wall, video = self.settled
        seconds = self.wall_seconds - wall
        return ((self.video_seconds or 0) - video) / seconds if seconds > 0 else 1.0


def _seen(container: InputContainer, name: str, begun: float, seconds: float) -> Finding:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        remedy = "choose the camera's video, or another channel"
        return Finding(name, PROBLEM, "it answers, but holds no video that can be decoded", remedy)
    codec = stream.codec_context
    codec.thread_count = 1
    codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    seen, size, interlaced = Watched(), "", False
    for frame in _frames(container, stream, seen, begun, seconds):
        if seen.num_frames == 1:
            size = f"{frame.width}x{frame.height}"
            interlaced = may_be_interlaced(frame, codec)
    if not seen.num_frames:
        remedy = "lower the camera's interval of key frames to 1 or 2 seconds"
        found = f"it answers, but no picture can be decoded {seen.broken}".strip()
        return Finding(name, PROBLEM, found, remedy)
    words = f"{codec.name} {size}{', interlaced' * interlaced}"
    return pace_finding(name, words, seen, float(stream.average_rate or 0))


def _frames(
    container: InputContainer, stream: VideoStream, seen: Watched, begun: float, seconds: float
) -> Iterator[av.VideoFrame]:
    """Yield the frames that arrive within a time after the first one, and count them."""
    first_at, first_pts = 0.0, None
    for packet in _packets(container, stream, seen):
        try:
            frames = packet.decode()
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            seen.num_errors += bool(seen.num_frames)
            continue
        now = time.monotonic()
        for frame in frames:
            seen.num_frames += 1
            if seen.num_frames == 1:
                seen.first_seconds, first_at, first_pts = now - begun, now, frame.pts
            seen.num_errors += frame.is_corrupt
            seen.wall_seconds = now - first_at
            if frame.pts is not None and first_pts is not None and stream.time_base:
                seen.video_seconds = float((frame.pts - first_pts) * stream.time_base)
                if not any(seen.settled) and seen.wall_seconds >= SETTLED_SECONDS:
                    seen.settled = seen.wall_seconds, seen.video_seconds
            yield frame
        if seen.num_frames and now - first_at >= seconds:
            return


def _packets(
    container: InputContainer, stream: VideoStream, seen: Watched
) -> "Iterator[Packet[VideoStream]]":
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError):  # as `streams.demux` explains
            return
        except av.error.FFmpegError as error:
            seen.broken = why_broken(error)
            return
        yield packet


def pace_finding(name: str, what: str, seen: Watched, stated: float) -> Finding:
    """What is said of a stream, by the pace at which its pictures came.

    Args:
        name: of the source.
        what: its codec and size.
        seen: what came.
        stated: frames a second by its headers; 0 if they say none.
    """
    words = [what, f"first picture after {seen.first_seconds:.1f} s"]
    if seen.num_errors:
        words.append(f"{seen.num_errors} errors in {seen.num_frames} frames")
    if not seen.video_seconds or seen.video_seconds <= 0 or seen.num_frames < 2:
        words.append(f"{seen.num_frames} frames in {seen.wall_seconds:.1f} s, without times")
        return Finding(name, WARNING, ", ".join(words), "use RTSP, whose frames have times")
    fps = (seen.num_frames - 1) / seen.video_seconds
    words.append(f"{fps:.3g} frames a second" + (f" of {stated:.3g} stated" if stated else ""))
    if seen.broken:
        words.append(f"then it broke off ({seen.broken})")
        return Finding(name, WARNING, ", ".join(words), "check the network and the camera's load")
    pace = seen.pace
    if any(seen.settled) and pace < SLOW:
        words.append(f"only {pace:.2f} s of video a second: it falls behind")
        return Finding(name, WARNING, ", ".join(words), "lower the camera's bit rate, or use cable")
    if pace > FAST:
        words.append(f"faster than real time ({pace:.1f} s a second): a file, or a stored stream")
        return Finding(name, OK, ", ".join(words))
    words.append("in real time")
    if seen.num_errors:
        return Finding(
            name, WARNING, ", ".join(words), "use TCP instead of UDP, or check the cable"
        )
    return Finding(name, OK, ", ".join(words))

"""Clips of streams of real servers, whose packets cross from a worker's process."""

import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from fake_backbone import make_engine
from http_streams import http_server
from test_live import follow_until
from test_stream_clips import a_stretch, an_event, finish, greys, some_clips, told
from test_stream_thumbnails import MAX_ERROR, grey_of
from video_files import encode

from vigil.extract.decode.live import LiveSource, PieceBegun, PieceEnded
from vigil.extract.decode.live_copy import LiveCopy
from vigil.extract.engine.live import LiveStreams, SeenClip

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
NUM_SECONDS = 22


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video whose grey tells its second."""
    greys = [grey_of(number // 25) for number in range(NUM_SECONDS * 25)]
    frames = [np.full((240, 320, 3), grey, np.uint8) for grey in greys]
    path = tmp_path_factory.mktemp("servers") / "a.mp4"
    return encode(path, frames, codec_options={"g": "25", "bf": "2"})


@contextmanager
def rtsp(video, port):
    gst = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if subprocess.run(["/usr/bin/python3", "-c", gst], capture_output=True).returncode:
        pytest.skip("there is no gir1.2-gst-rtsp-server-1.0")
    command = ["/usr/bin/python3", str(ROOT / "bench/rtsp_server.py"), str(video), str(port)]
    server = subprocess.Popen(command)
    try:
        yield f"rtsp://127.0.0.1:{port}/stream"
    finally:
        server.kill()
        server.wait()


@contextmanager
def http(video, _):
    transport = video.with_suffix(".ts")
    sent = paced(video, str(transport))
    sent.wait()
    content = transport.read_bytes()

    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            for start in range(0, len(content), len(content) // NUM_SECONDS):
                handler.wfile.write(content[start : start + len(content) // NUM_SECONDS])
                time.sleep(0.2)

    with http_server(answer) as address:
        yield address


@contextmanager
def udp(video, port):
    address = f"udp://127.0.0.1:{port}"
    sender = paced(video, f"{address}?pkt_size=1316", "-re")
    try:
        yield address
    finally:
        sender.kill()
        sender.wait()


def paced(video, target, *how):
    """A process that sends a video as a transport stream."""
    code = (
        "import sys, time, av\n"
        "source, target, paced = sys.argv[1:4]\n"
        "time.sleep(3 if paced else 0)\n"
        "with av.open(source) as old, av.open(target, 'w', 'mpegts') as new:\n"
        "    stream, begun = new.add_stream_from_template(old.streams.video[0]), time.time()\n"
        "    for packet in old.demux(video=0):\n"
        "        if packet.size:\n"
        "            late = float(packet.pts * packet.time_base) - (time.time() - begun)\n"
        "            time.sleep(max(late, 0) if paced else 0)\n"
        "            packet.stream = stream\n"
        "            new.mux(packet)\n"
    )
    arguments = [str(video), target, "paced" if how else ""]
    return subprocess.Popen([sys.executable, "-c", code, *arguments])


@pytest.mark.parametrize(("serve", "port"), [(rtsp, 18_761), (http, 0), (udp, 18_762)])
def test_a_stream_of_a_server_has_clips(tmp_path, monkeypatch, video, serve, port):
    clips, seen = some_clips(tmp_path), []

    def hear(piece, news):
        if piece[1] == 0:
            seen.append(news)
            if isinstance(news, LiveCopy):
                clips.add(news)
                clips.follow(told(an_event(6.0, 9.0)))

    def is_enough():
        reached = max((one.seconds[-1] for one in seen if isinstance(one, SeenClip)), default=0)
        return reached >= 14 or any(isinstance(one, PieceEnded) for one in seen)

    with serve(video, port) as address:
        live = LiveStreams([LiveSource("front", address)], hear, packet_bytes=1 << 20)
        follow_until(is_enough, make_engine(), tmp_path, live, monkeypatch)
    assert isinstance(seen[0], PieceBegun)
    (clip,) = finish(clips, a_stretch(stop=14.0))
    shown = [(when + clip.start_seconds, grey) for when, grey in greys(tmp_path / clip.path)]
    assert shown[0][0] <= 5.0
    assert 9.9 < shown[-1][0] < 10.25
    scored = [one for one in seen if isinstance(one, SeenClip)]
    times = np.concatenate([one.seconds for one in scored])
    num_compared = 0
    for one in scored:
        seconds = times[32 * one.index]
        if one.features is not None and shown[0][0] <= seconds < 10:
            when, grey = min(shown, key=lambda frame: abs(frame[0] - seconds))
            assert when == pytest.approx(seconds, abs=2e-3)
            assert grey == pytest.approx(one.features[0, :3].mean(), abs=MAX_ERROR)
            num_compared += 1
    assert num_compared >= 3, "it shows what was scored at that time"

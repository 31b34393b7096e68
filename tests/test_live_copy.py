"""The newest packets of streams: kept as they came, in memory of fixed size."""

import os
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest
from http_streams import http_server
from hypothesis import given, settings
from hypothesis import strategies as st
from test_live import file_source, transport_stream
from video_files import draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import live_copy
from vigil.extract.decode.live import LiveClip, LiveSource, PieceBegun, PieceEnded, read_stream
from vigil.extract.decode.live_copy import LiveCopy, PacketCopier
from vigil.extract.decode.packet_ring import PacketRing
from vigil.extract.decode.reader import ReadingOptions

OPTIONS = ReadingOptions(ClipGrid(8, 8), None)


@settings(max_examples=60, deadline=None)
@given(
    num_bytes=st.integers(1, 64),
    sizes=st.lists(st.integers(0, 90), max_size=40),
    seed=st.integers(0, 255),
)
def test_a_ring_has_its_newest_bytes_and_never_grows(num_bytes, sizes, seed):
    ring, written = PacketRing(num_bytes), b""
    places = []
    for number, size in enumerate(sizes):
        content = bytes((seed + number + one) % 256 for one in range(size))
        places.append((ring.append(content), content))
        written += content
        for place, expected in places:
            newer = len(written) - place
            assert ring.read(place, len(expected)) == (expected if newer <= num_bytes else None)
    assert os.fstat(ring._descriptor).st_size <= num_bytes


def read(source, num_bytes=1 << 22):
    """What a stream gives, and of each piece the file that its packets make."""
    ring = PacketRing(num_bytes) if num_bytes else None
    news, pieces = [], []
    for one in read_stream(source, OPTIONS, packets=ring):
        news.append(one)
        if isinstance(one, PieceBegun):
            pieces.append([])
        if isinstance(one, LiveCopy):
            pieces[-1].append(one)
    return news, [(of, content_of(of, ring)) for of in pieces if of]


def content_of(copies, ring):
    clusters = [one for copy in copies for one in copy.clusters]
    return copies[0].header + b"".join(ring.read(one.place, one.num_bytes) for one in clusters)


def frames_of(path):
    """(seconds, pixels) of the frames of a file."""
    with av.open(str(path)) as container:
        return [(one.time, one.to_ndarray(format="rgb24")) for one in container.decode(video=0)]


def assert_same_frames(path, expected, tolerance=6e-4):
    found = frames_of(path)
    assert len(found) == len(expected)
    times, others = ([when for when, _ in one] for one in (found, expected))
    np.testing.assert_allclose(times, np.array(others) - others[0], atol=tolerance)
    for (_, one), (_, other) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def written(tmp_path, content):
    path = tmp_path / "copy.mkv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mp4", {"codec_options": {"bf": "3", "g": "9"}}),
        ("a.ts", {"codec_options": {"bf": "2", "g": "9"}, "container_format": "mpegts"}),
        ("a.ts", {"codec": "mpeg2video", "container_format": "mpegts"}),
        ("a.mkv", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("a.mp4", {"codec": "libx265"}),
    ],
)
def test_a_copy_shows_what_the_stream_shows_and_changes_no_clip(tmp_path, name, how):
    path = encode(tmp_path / name, draw_frames(40, 64, 48), **how)
    news, ((copies, content),) = read(file_source(path))
    assert_same_frames(written(tmp_path, content), frames_of(path))
    assert all(one.is_described and not one.problem for one in copies)
    without, _ = read(file_source(path), 0)
    clips, others = ([c for c in some if isinstance(c, LiveClip)] for some in (news, without))
    for clip, other in zip(clips, others, strict=True):
        np.testing.assert_array_equal(clip.pixels, other.pixels)
        np.testing.assert_array_equal(clip.seconds, other.seconds)
    assert news[-1] == without[-1]


def test_clusters_say_where_key_frames_are(tmp_path):
    spaced = {"g": "20", "bf": "0"}
    path = encode(tmp_path / "a.mp4", draw_frames(150, 64, 48), codec_options=spaced)
    _, ((copies, _),) = read(file_source(path))
    clusters = [one for copy in copies for one in copy.clusters]
    assert len(clusters) > 2
    starts = [one.seconds for one in clusters]
    assert starts == sorted(starts)
    with av.open(str(path)) as container:
        keys = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.is_keyframe]
    for one, stop in zip(clusters, [*starts[1:], np.inf], strict=True):
        inside = [key for key in keys if one.seconds <= key + 1e-6 < stop]
        assert one.key_seconds == (pytest.approx(inside[0]) if inside else None)


def with_sound(path, codec, layout="mono"):
    """A video of two seconds with a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, 8000, layout=layout)
        for pixels in draw_frames(50, 64, 48):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        tone = (8000 * np.sin(np.arange(16_000) / 5)).astype(np.int16)
        for start in range(0, len(tone), 800):
            frame = av.AudioFrame.from_ndarray(tone[np.newaxis, start : start + 800], "s16", layout)
            frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mov", "aac"), ("a.mov", "pcm_alaw"), ("a.mov", "pcm_mulaw"), ("a.ts", "aac")],
)
def test_sound_is_kept(tmp_path, name, codec):
    path = with_sound(tmp_path / name, codec)
    _, ((_, content),) = read(file_source(path))
    copy = written(tmp_path, content)
    assert_same_frames(copy, frames_of(path))
    samples = []
    for one in (path, copy):
        with av.open(str(one)) as container:
            frames = [frame for frame in container.decode(audio=0) if frame.pts >= 0]
        samples.append(np.concatenate([frame.to_ndarray().ravel() for frame in frames]))
        assert frames[0].time == pytest.approx(0, abs=2e-3)
    assert len(samples[1]) >= 15_000
    if codec != "aac":  # whose first packet lies before the pictures
        np.testing.assert_array_equal(*samples)


def test_another_size_is_another_copy_whose_header_is_wrong(tmp_path):
    small = transport_stream(tmp_path / "a.ts", draw_frames(20))
    large = transport_stream(tmp_path / "b.ts", draw_frames(20, 320, 256))
    (tmp_path / "both.ts").write_bytes(small + large)
    _, ((first, one), (second, other)) = read(file_source(tmp_path / "both.ts"))
    assert first[0].is_described
    assert not second[0].is_described
    shapes = [frames_of(written(tmp_path, content))[0][1].shape for content in (one, other)]
    assert shapes == [(240, 256, 3), (256, 320, 3)]
    frames = frames_of(tmp_path / "copy.mkv")
    assert frames[0][0] == 0, "it begins with the first frame of its piece"
    assert all(frame.shape == (256, 320, 3) for _, frame in frames)


@pytest.mark.parametrize("jump", [60_000, -60_000])
def test_a_piece_after_a_jump_of_the_clock_has_its_own_times(tmp_path, jump):
    both = b""
    for seed, (name, start) in enumerate({"a.ts": 70_000, "b.ts": 70_000 + jump}.items()):
        frames, times = draw_frames(20, seed=seed), range(start, start + 800, 40)
        path = encode(tmp_path / name, frames, times=times, container_format="mpegts")
        both += path.read_bytes()
    (tmp_path / "both.ts").write_bytes(both)
    news, ((_, one), (_, other)) = read(file_source(tmp_path / "both.ts"))
    assert sum(isinstance(one, PieceEnded) for one in news) == 2
    for content, name in ((one, "a.ts"), (other, "b.ts")):
        expected = frames_of(tmp_path / name)
        found = frames_of(written(tmp_path, content))
        within = [frame for frame in found if frame[0] < 0.8]
        assert len(within) == len(expected)
        for (when, frame), (number, (_, shown)) in zip(within, enumerate(expected), strict=True):
            assert when == pytest.approx(number / 25, abs=1e-3)
            np.testing.assert_array_equal(frame, shown)


def test_frames_without_times_are_counted(tmp_path):
    raw = {"container_format": "h264", "codec_options": {"bf": "0"}}
    path = encode(tmp_path / "a.h264", draw_frames(30, 64, 48), **raw)
    news, ((_, content),) = read(file_source(path))
    seconds = np.concatenate([one.seconds for one in news if isinstance(one, LiveClip)])
    found = frames_of(written(tmp_path, content))
    np.testing.assert_allclose([when for when, _ in found], seconds, atol=1e-3)
    for (_, one), (_, other) in zip(found, frames_of(path), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_first_packets_of_a_camera_may_have_no_times(tmp_path):
    """As over RTSP, until FFmpeg has found out in which order the pictures are sent."""
    path = encode(tmp_path / "a.mp4", draw_frames(60, 64, 48), codec_options={"bf": "3"})
    ring = PacketRing(1 << 20)
    copier, copies, has_begun = PacketCopier(ring), [], False
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        copier.listen(container, video)
        for number, packet in enumerate(container.demux(video)):
            if number == 0:
                packet.pts = None
            if number < 3:
                packet.dts = None
            frames = packet.decode()
            copier.take(packet)
            if frames and not has_begun:
                copier.begin(frames[0], 25.0)
                has_begun = True
            copies += copier.news()
    copies += copier.news(is_end=True)
    assert not any(copy.problem for copy in copies)
    assert_same_frames(written(tmp_path, content_of(copies, ring)), frames_of(path))


def test_motion_jpeg_over_http(tmp_path):
    path = encode(
        tmp_path / "a.mkv", draw_frames(30, 64, 48), codec="mjpeg", pixel_format="yuvj420p"
    )
    with av.open(str(path)) as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    part = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
    body = b"".join(part % (len(one), one) for one in pictures)

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace;boundary=next")
        handler.end_headers()
        with suppress(OSError):
            handler.wfile.write(body)

    with http_server(answer) as address:
        _, ((_, content),) = read(LiveSource("front", address))
    found = frames_of(written(tmp_path, content))
    assert 28 <= len(found) <= 30, "the last one may lack its end"
    for (_, one), (_, other) in zip(found, frames_of(path), strict=False):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_copied_is_said_and_scored_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("no such codec")

    monkeypatch.setattr(live_copy, "open_like", refuse)
    path = encode(tmp_path / "a.mp4", draw_frames(30, 64, 48))
    news, ((copies, _),) = read(file_source(path))
    assert {one.problem for one in copies} == {"no such codec"}
    assert news[-1].num_frames == 30
    raw = {"container_format": "h264", "codec_options": {"bf": "2"}}
    untimed = encode(tmp_path / "a.h264", draw_frames(30, 64, 48), **raw)
    monkeypatch.undo()
    news, pieces = read(file_source(untimed))
    problems = {one.problem for copies, _ in pieces for one in copies}
    assert problems == {"they have no times"}
    assert news[-1].num_frames == 30


@pytest.fixture(scope="module")
def packets(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("packets") / "a.mp4", draw_frames(30, 64, 48))


TICKS = st.none() | st.integers(-200_000, 200_000)
TIMES = st.lists(st.tuples(TICKS, TICKS), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(
    times=st.lists(st.tuples(TICKS, TICKS), min_size=1, max_size=30), num_rounds=st.integers(1, 4)
)
def test_whatever_times_packets_have_copying_goes_on_in_bounded_memory(packets, times, num_rounds):
    ring = PacketRing(3000)
    copier = PacketCopier(ring)
    with av.open(str(packets)) as container:
        stream = container.streams.video[0]
        copier.listen(container, stream)
        frame, starts = None, []
        for packet, (pts, dts) in zip(container.demux(stream), times * num_rounds, strict=False):
            frame = next(iter(packet.decode()), frame)
            packet.pts, packet.dts = pts, dts
            copier.take(packet)
            if frame is not None and copier._piece is None:
                copier.begin(frame, 25.0)
            starts += [one.seconds for copy in copier.news() for one in copy.clusters]
        starts += [one.seconds for copy in copier.news(is_end=True) for one in copy.clusters]
    assert starts == sorted(starts)
    assert os.fstat(ring._descriptor).st_size <= 3000
    assert len(copier._held) <= live_copy.MAX_HELD

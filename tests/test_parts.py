"""The parts of a split video together, against the video read in one piece."""

from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import damage, draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import parts as parts_module
from vigil.extract.decode.decoder import probe
from vigil.extract.decode.packets import PacketLog
from vigil.extract.decode.parts import split
from vigil.extract.decode.reader import Finished, ReadingOptions, SplitVideo, read_part, read_video
from vigil.extract.errors import VideoError
from vigil.extract.source import SourceVideo, identify

NUM_FRAMES = 96
PICTURES = draw_frames(NUM_FRAMES, 224, 224)
GRID = ClipGrid(8, 5)
X264 = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-pyramid=normal"
X265 = "keyint=12:min-keyint=12:scenecut=0:log-level=none"
H264 = {"codec_options": {"x264-params": X264}}
ENCODINGS = {
    "h264.mp4": H264,
    "h264.mkv": H264,
    "h264.ts": H264,
    "open.mp4": {"codec_options": {"x264-params": X264 + ":open-gop=1"}},
    "open.ts": {"codec_options": {"x264-params": X264 + ":open-gop=1"}},
    "hevc.mp4": {"codec": "libx265", "codec_options": {"x265-params": X265 + ":open-gop=0"}},
    "hevc.mkv": {"codec": "libx265", "codec_options": {"x265-params": X265 + ":open-gop=1"}},
    "mpeg4.mp4": {"codec": "mpeg4", "codec_options": {"bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.ts": {"codec": "mpeg2video", "codec_options": {"bf": "2"}},
    "uneven.mkv": {**H264, "times": [30 * k + k * k % 23 for k in range(NUM_FRAMES)]},
}
"""Encodings of videos that can be split."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(autouse=True)
def _short_margins(monkeypatch):
    """Make decoding start past the beginning even in videos of a few seconds."""
    monkeypatch.setattr(parts_module, "MIN_LEAD_FRAMES", 16)
    monkeypatch.setattr(parts_module, "SEEK_MARGIN_SECONDS", 0.7)


def read(path, grid=GRID):
    return list(read_video(SourceVideo(path, "a.mp4"), ReadingOptions(grid, None), "pyav"))


def split_video(path, grid=GRID, clips_per_part=4):
    """Return the parts of a video, or none if the reader yields its clips instead."""
    options = ReadingOptions(grid, None, clips_per_part)
    messages = read_video(SourceVideo(path, "a.mp4"), options, "pyav", may_split=True)
    first = next(messages)
    assert isinstance(first, SplitVideo) == (next(messages, None) is None)
    return first.parts if isinstance(first, SplitVideo) else ()


def read_parts(path, parts, grid=GRID):
    options = ReadingOptions(grid, None)
    for part in parts:
        yield from read_part(SourceVideo(path, "a.mp4"), part, options)


def assert_same_as_unsplit(path, parts, grid=GRID):
    """Compare pixels, times and the final messages."""
    whole = read_video(SourceVideo(path, "a.mp4"), ReadingOptions(grid, None), "pyav")
    ends = []
    for message in read_parts(path, parts, grid):
        if isinstance(message, Finished):
            ends.append(message)
        else:
            np.testing.assert_array_equal(message.pixels, next(whole).pixels)
    (finished,) = whole
    times = np.concatenate([end.timestamps for end in ends])
    np.testing.assert_array_equal(times, finished.timestamps)
    for end in ends:
        assert (end.info, end.identity) == (finished.info, finished.identity)
        assert (end.decoder, end.damage.num_damaged) == (finished.decoder, 0)


@pytest.mark.parametrize("name", ENCODINGS)
def test_parts_together_are_the_video(folder, name):
    path = encode(folder / name, PICTURES, **ENCODINGS[name])
    parts = split_video(path)
    assert len(parts) >= 3
    assert [part.first_clip for part in parts[1:]] == [part.stop_clip for part in parts[:-1]]
    assert_same_as_unsplit(path, parts)
    for part in parts:
        assert len(list(read_parts(path, [part]))) == part.stop_clip - part.first_clip + 1
    assert any(part.keyframe_pts > parts[0].frame_pts[0] for part in parts[1:])


@given(
    keyint=st.integers(1, 30),
    num_b_frames=st.integers(0, 3),
    num_frames=st.integers(1, NUM_FRAMES),
    grid=st.integers(1, 9).flatmap(lambda n: st.integers(1, n).map(lambda s: ClipGrid(n, s))),
    clips_per_part=st.integers(1, 9),
)
@settings(max_examples=20)
def test_any_keyframes_and_any_parts_give_the_video(
    folder, keyint, num_b_frames, num_frames, grid, clips_per_part
):
    params = f"keyint={keyint}:scenecut=0:bframes={num_b_frames}:open-gop=1"
    path = folder / f"{keyint}_{num_b_frames}_{num_frames}.mp4"
    if not path.exists():
        encode(path, PICTURES[:num_frames], codec_options={"x264-params": params})
    identity = identify(SourceVideo(path, "a.mp4"))
    parts = split(path, probe(path), identity, grid, clips_per_part)
    assert len(parts) != 1
    if parts:
        assert grid.num_clips(num_frames) >= 2 * clips_per_part
        assert_same_as_unsplit(path, parts, grid)


@pytest.mark.slow
def test_real_files_in_parts_are_the_same_or_are_not_split(shared_data):
    grid = ClipGrid(16, 16)
    num_split = 0
    for path in sorted((shared_data / "fixtures").glob("*/*")):
        if parts := split_video(path, grid, clips_per_part=2):
            assert_same_as_unsplit(path, parts, grid)
            num_split += 1
    assert num_split >= 6


def test_short_videos_are_not_split(folder):
    path = encode(folder / "short.mp4", PICTURES, **H264)
    num_clips = GRID.num_clips(NUM_FRAMES)
    assert split_video(path, clips_per_part=num_clips // 2)
    assert not split_video(path, clips_per_part=num_clips // 2 + 1)
    assert not any(isinstance(message, SplitVideo) for message in read(path))


def test_a_video_with_one_keyframe_is_not_split(folder):
    params = {"x264-params": "keyint=1000:scenecut=0"}
    assert not split_video(encode(folder / "one.mp4", PICTURES, codec_options=params))


def test_a_video_with_two_frames_at_one_time_is_not_split(folder):
    path = encode(folder / "once.mkv", PICTURES, codec="mjpeg", pixel_format="yuvj420p")
    twice = folder / "twice.mkv"
    with av.open(str(path)) as old, av.open(str(twice), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if number == 1:
                packet.pts = packet.dts = 0
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    assert split_video(path)
    assert not split_video(twice)


def test_frames_without_times_are_not_split(folder):
    path = encode(folder / "a.h264", PICTURES, **H264)
    with av.open(str(path)) as container:
        assert any(packet.pts is None for packet in container.demux(video=0) if packet.size)
    assert not split_video(path)


def test_a_truncated_video_is_not_split_or_refused_by_its_last_part(folder, monkeypatch):
    """If truncated within a packet, that is. MPEG-TS cut between packets is a shorter video."""
    path = encode(folder / "cut.ts", PICTURES, **H264)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.is_keyframe]
        position, size = packets[-1].pos, packets[-1].size
    content = path.read_bytes()
    path.write_bytes(content[:position])
    assert_same_as_unsplit(path, split_video(path))
    path.write_bytes(content[: position + size // 2])
    assert split_video(path) == ()
    monkeypatch.setattr(PacketLog, "ends_inside_frame", lambda *_: False)
    *sound, last = split_video(path)
    list(read_parts(path, sound))
    with pytest.raises(VideoError, match="damaged"):
        list(read_parts(path, [last]))


@pytest.mark.parametrize("packet", [40, 70])
def test_damage_is_refused_by_the_part_that_it_is_in(folder, packet):
    path = damage(encode(folder / f"damaged{packet}.mkv", PICTURES, **H264), [packet], fill=255)
    parts = split_video(path)
    refused = []
    for number, part in enumerate(parts):
        try:
            list(read_parts(path, [part]))
        except VideoError:
            refused.append(number)
    with av.open(str(path)) as container:
        pts = [packet.pts for packet in container.demux(video=0) if packet.size][packet]
    owner = next(k for k, part in enumerate(parts) if pts <= part.frame_pts[-1])
    assert owner in refused
    assert read(path)[-1].damage.num_damaged >= 1


def test_false_keyframes_are_refused(folder, monkeypatch):
    monkeypatch.setattr(parts_module, "MIN_LEAD_FRAMES", 32)  # until every stripe is refreshed
    params = {"x264-params": "intra-refresh=1:keyint=12"}
    path = encode(folder / "refreshed.mp4", PICTURES, codec_options=params)
    parts = split_video(path)
    with pytest.raises(VideoError, match="not decodable from its keyframe"):
        list(read_parts(path, parts))


def test_unexpected_frames_are_refused(folder):
    path = encode(folder / "promise.mp4", PICTURES, **H264)
    parts = split_video(path)
    part = parts[1]
    wrong = part.frame_pts.copy()
    wrong[3] += 1
    message = f"clips {part.first_clip} to {part.stop_clip}: not the frames that its packets"
    with pytest.raises(VideoError, match=message):
        list(read_parts(path, [replace(part, frame_pts=wrong)]))
    more = np.append(parts[-1].frame_pts, part.frame_pts[-1] + 10**6)
    with pytest.raises(VideoError, match="too few frames"):
        list(read_parts(path, [replace(parts[-1], frame_pts=more)]))
    with pytest.raises(VideoError, match="too few frames"):
        list(read_parts(path, [replace(part, keyframe_pts=part.keyframe_pts + 1)]))
    with path.open("ab") as file:
        file.write(b"0")
    with pytest.raises(VideoError, match="the file changed while it was being read"):
        list(read_parts(path, [part]))

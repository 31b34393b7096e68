"""Clocks and lengths of files as recorders write them: right times, or a warning."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from builders import make_features
from hypothesis import assume, given
from hypothesis import strategies as st
from video_files import draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import parts
from vigil.extract.decode.decoder import VideoInfo, probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.frame_counts import count_frames
from vigil.extract.decode.reader import (
    Finished,
    ReadingOptions,
    Restart,
    SplitVideo,
    read_part,
    read_video,
)
from vigil.extract.decode.timeline import frame_edges, make_timeline
from vigil.extract.source import SourceVideo
from vigil.pipeline.scores.frame_warnings import frame_warnings

NUM_FRAMES = 50
INFO = VideoInfo(320, 240, 25.0, 0)
TS_INFO = replace(INFO, clock_wrap_seconds=2**33 / 90_000, longest_gap_seconds=60.0)
REGULAR = np.arange(NUM_FRAMES + 1) / 25
NO_B_FRAMES = {"bf": "0"}


def read(path, decoder="auto", input_fps=None, **options):
    """Return the final message, the timeline, and the reasons for restarts."""
    video = SourceVideo(path, path.name, input_fps=input_fps)
    messages = list(read_video(video, ReadingOptions(ClipGrid(16, 16), None, **options), decoder))
    finished = messages[-1]
    assert isinstance(finished, Finished)
    reasons = [message.reason for message in messages if isinstance(message, Restart)]
    return finished, make_timeline(finished.timestamps, finished.info), reasons


def warnings_of(finished, timeline):
    """Return the warnings of a feature file of the video."""
    jumps = timeline.jumps
    features = make_features(
        num_frames=len(finished.timestamps),
        fps=finished.info.fps,
        num_frames_container=finished.info.num_frames_container,
        duration_container=finished.info.duration_seconds,
        num_clock_jumps=len(jumps),
        first_jump_seconds=timeline.edges[jumps[0]] if len(jumps) else 0.0,
        rate_source=timeline.rate_source,
        num_bytes_unread=finished.info.num_bytes_unread,
        num_frames_damaged=finished.damage.num_damaged,
    )
    edges = timeline.edges[features.segment_frames]
    return frame_warnings(replace(features, segment_seconds=edges))


def remux(source, path, times, unit=Fraction(1, 25), options=None):
    """Copy packets, in decoding order, with other times: (pts, dts, duration) in the unit."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for packet, (pts, dts, duration) in zip(packets, times, strict=True):
            packet.pts, packet.dts, packet.duration = pts, dts, duration
            packet.time_base, packet.stream = unit, stream
            new.mux(packet)
    return path


def shifted(source, path, ticks, options=None):
    """Copy a video of 25 frames per second with all times later by so many ticks of 90 kHz."""
    with av.open(str(source)) as old:
        stream = old.streams.video[0]
        scale = 90_000 * stream.time_base
        times = [
            (int(packet.pts * scale) + ticks, int(packet.dts * scale) + ticks, 3600)
            for packet in old.demux(video=0)
            if packet.size
        ]
    return remux(source, path, times, Fraction(1, 90_000), options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clocks")


@pytest.fixture(scope="module")
def plain(folder):
    """A video without B-frames, and one with them."""
    return {
        num: encode(
            folder / f"plain{num}.mp4",
            draw_frames(NUM_FRAMES),
            codec_options={"bf": str(num), "g": "25"},
        )
        for num in (0, 2)
    }


class TestTimeline:
    @given(st.lists(st.tuples(st.integers(20, 60), st.floats(0, 90_000)), min_size=1, max_size=4))
    def test_joined_recordings_are_continuous(self, recordings):
        pieces = [start + np.arange(num) / 25 for num, start in recordings]
        times, starts = np.concatenate(pieces), np.cumsum([num for num, _ in recordings])
        found = make_timeline(times, TS_INFO)
        jumps = set(found.jumps.tolist())
        assert jumps <= set(starts[:-1].tolist())
        for number, (before, after) in enumerate(pairwise(pieces)):
            # A step back by a few frames may be disorder: they share their times.
            assume(not -0.2 < after[0] - before[-1] < 0)
            step = (after[0] - before[-1] + 2**32 / 90_000) % (2**33 / 90_000) - 2**32 / 90_000
            assert (starts[number] in jumps) == (not 0 <= step <= 60)
        steps = np.diff(found.edges)
        usual = np.ones(len(steps), bool)
        usual[starts[:-1] - 1] = False
        np.testing.assert_allclose(steps[usual], 1 / 25, atol=1e-6)
        np.testing.assert_allclose(steps[[jump - 1 for jump in jumps]], 1 / 25, atol=1e-6)

    @given(st.permutations(range(4)), st.integers(4, 30))
    def test_frames_out_of_order_are_not_jumps(self, order, num_before):
        times = np.concatenate([np.arange(num_before), num_before + np.array(order)])
        times = np.append(times, num_before + 4 + np.arange(20)) / 25
        found = make_timeline(times, INFO)
        assert len(found.jumps) == 0
        assert found.edges[-1] == pytest.approx(len(times) / 25)

    def test_a_clock_that_wraps_does_not_jump(self):
        times = (2**33 / 90_000 - 1 + np.arange(100) / 25) % (2**33 / 90_000)
        found = make_timeline(times, TS_INFO)
        assert len(found.jumps) == 0
        np.testing.assert_allclose(found.edges, np.arange(101) / 25, atol=1e-6)

    def test_a_gap_in_the_picture_stays(self):
        times = np.append(np.arange(10) / 25, 30 + np.arange(10) / 25)
        for info in (INFO, TS_INFO):
            np.testing.assert_allclose(make_timeline(times, info).edges[:-1], times)

    def test_a_single_wrong_time_moves_no_other_frame(self):
        times = 100 + np.arange(60) / 25
        times[30] = 3.0
        found = make_timeline(times, INFO)
        expected = np.arange(61) / 25
        expected[30] = expected[29]
        np.testing.assert_allclose(found.edges, expected)

    def test_unknown_times_are_told(self):
        found = make_timeline(np.array([0, np.nan, 1]), INFO)
        assert found.rate_source == "unknown times"
        assert make_timeline(np.empty(0), INFO).edges.tolist() == [0]


class TestEmptyChunks:
    """AVI stores no times: the position of a chunk is its time."""

    @pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mjpeg"])
    @pytest.mark.parametrize("decoder", ["auto", "pyav"])
    def test_they_take_up_time(self, folder, codec, decoder):
        path = folder / f"{codec}.avi"
        pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        options = NO_B_FRAMES if codec == "libx264" else None
        whole = encode(
            folder / f"{codec}_whole.avi",
            draw_frames(NUM_FRAMES),
            codec=codec,
            pixel_format=pixel_format,
            codec_options=options,
        )
        slots = np.arange(NUM_FRAMES)
        slots[10:] += 5
        slots[30:] += 30
        remux(whole, path, [(slot, slot, 1) for slot in slots.tolist()])
        finished, timeline, reasons = read(path, decoder)
        np.testing.assert_array_equal(timeline.edges, np.append(slots, 85) / 25)
        assert finished.decoder == "pyav"
        assert reasons == ["decord ignores empty chunks, which take up time"] * (decoder == "auto")
        assert finished.info.num_frames_container == NUM_FRAMES
        assert finished.damage.num_damaged == 0
        assert warnings_of(finished, timeline) == []
        assert [count for _, count in count_frames([SourceVideo(path, "a")])] == [NUM_FRAMES]

    def test_every_second_chunk_may_be_empty(self, folder):
        path = folder / "half.avi"
        whole = encode(folder / "whole.avi", draw_frames(NUM_FRAMES), codec="mpeg4")
        slots = 2 * np.arange(NUM_FRAMES)
        remux(whole, path, [(slot, slot, 1) for slot in slots.tolist()])
        _, timeline, _ = read(path, "auto")
        np.testing.assert_array_equal(timeline.edges[:-1], slots / 25)

    def test_the_last_frame_is_shown_to_the_end(self, folder):
        path = encode(
            folder / "still.avi",
            draw_frames(20),
            codec="mpeg4",
        )
        content = path.read_bytes()
        index = content.rindex(b"idx1")
        content = content[:index] + b"00dc\0\0\0\0" * 7 + content[index:]
        place = content.index(b"strh") + 8 + 32
        content = content[:place] + (27).to_bytes(4, "little") + content[place + 4 :]
        path.write_bytes(content)
        for decoder in ("auto", "pyav"):
            finished, timeline, _ = read(path, decoder)
            assert timeline.edges[-1] == pytest.approx(27 / 25)
            assert timeline.edges[-2] == 19 / 25
            assert finished.info.num_frames_container == 20
            assert finished.damage.num_damaged == 0

    def test_a_file_without_them_is_read_as_ever(self, folder):
        path = encode(folder / "dense.avi", draw_frames(NUM_FRAMES), codec="mpeg4")
        finished, timeline, reasons = read(path)
        assert (finished.decoder, reasons) == ("decord", [])
        assert not finished.info.has_timestamps
        np.testing.assert_array_equal(timeline.edges, REGULAR)


class TestRawStreams:
    @pytest.mark.parametrize(
        ("name", "codec", "rate"),
        [
            ("a.h264", "libx264", 10),
            ("a.hevc", "libx265", 12),
            ("a.m4v", "mpeg4", 15),
            ("a.m1v", "mpeg1video", 24),
            ("a.m2v", "mpeg2video", 50),
        ],
    )
    def test_the_rate_is_that_of_the_headers(self, folder, name, codec, rate):
        path = folder / name
        with av.open(str(path), "w", format={"a.m2v": "mpeg2video"}.get(name)) as container:
            stream = container.add_stream(codec, rate)
            stream.width, stream.height, stream.pix_fmt = 256, 240, "yuv420p"
            stream.options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
            for pixels in draw_frames(20):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        finished, timeline, _ = read(path, input_fps=7.0)
        np.testing.assert_allclose(timeline.edges, np.arange(21) / rate)
        assert timeline.rate_source == ""
        assert warnings_of(finished, timeline) == []

    def test_one_without_a_rate_is_told_and_can_be_given_one(self, folder):
        path = encode(folder / "a.mjpeg", draw_frames(20), codec="mjpeg", pixel_format="yuvj420p")
        finished, timeline, _ = read(path)
        assert timeline.edges[-1] == 20 / 25
        (warning,) = warnings_of(finished, timeline)
        assert warning == (
            "The file states no frame rate: times assume 25 frames a second; --input-fps sets "
            "another."
        )
        finished, timeline, _ = read(path, input_fps=8.0)
        assert timeline.edges[-1] == 20 / 8
        assert (timeline.rate_source, warnings_of(finished, timeline)) == ("given", [])


class TestJumps:
    @pytest.mark.parametrize("num_b_frames", [0, 2])
    @pytest.mark.parametrize("seconds", [-19_800, -3, 3 * 3600, 15 * 3600])
    def test_a_transport_stream_of_two_recordings(self, folder, plain, num_b_frames, seconds):
        path = folder / f"jump{num_b_frames}_{seconds}.ts"
        recordings = [
            shifted(plain[num_b_frames], folder / f"{start}.ts", start * 90_000).read_bytes()
            for start in (20_000, 20_000 + seconds)
        ]
        path.write_bytes(b"".join(recordings))
        finished, timeline, _ = read(path)
        np.testing.assert_allclose(timeline.edges, np.arange(101) / 25, atol=1e-6)
        assert timeline.jumps.tolist() == [50]
        (warning,) = [one for one in warnings_of(finished, timeline) if "clock" in one]
        assert warning.startswith("The file's clock jumps once, at 0:00:02: ")
        assert not any("declares" in one for one in warnings_of(finished, timeline))

    def test_a_clock_that_wraps_in_the_middle(self, folder, plain):
        path = shifted(plain[2], folder / "wrap.ts", 2**33 - 90_000)
        _, timeline, _ = read(path)
        np.testing.assert_allclose(timeline.edges, REGULAR, atol=1e-6)
        assert len(timeline.jumps) == 0

    @pytest.mark.parametrize("ending", ["mkv", "mpg"])
    @pytest.mark.parametrize("num_b_frames", [0, 2])
    def test_joined_files_are_read_to_the_end(self, folder, ending, num_b_frames):
        codec = "mpeg2video" if ending == "mpg" else "libx264"
        for num_frames in (8, NUM_FRAMES):
            part = encode(
                folder / f"part{num_frames}_{num_b_frames}.{ending}",
                draw_frames(num_frames),
                codec=codec,
                codec_options={"bf": str(num_b_frames)},
            )
            path = folder / f"joined{num_frames}_{num_b_frames}.{ending}"
            path.write_bytes(part.read_bytes() * 3)
            finished, timeline, _ = read(path)
            # FFmpeg reads no more than two Matroska files in one.
            num_unread = finished.info.num_bytes_unread
            num_read = 3 - num_unread // len(part.read_bytes())
            assert num_unread == (3 - num_read) * len(part.read_bytes())
            assert num_read == (2 if ending == "mkv" else 3)
            assert len(finished.timestamps) == num_read * num_frames
            edges = np.arange(num_read * num_frames + 1) / 25
            np.testing.assert_allclose(timeline.edges, edges, atol=1e-6)
            assert timeline.jumps.tolist() == [num_frames, 2 * num_frames][: num_read - 1]
            told = warnings_of(finished, timeline)
            assert ["recording" in one for one in told] == [False, True][: len(told)]
            assert len(told) == 1 + (num_read < 3)

    @pytest.mark.parametrize(
        ("ending", "codec"), [("mp4", "libx264"), ("flv", "libx264"), ("asf", "mpeg4")]
    )
    def test_a_second_recording_that_nothing_reads_is_told(self, folder, ending, codec):
        part = encode(folder / f"unread.{ending}", draw_frames(NUM_FRAMES), codec=codec)
        content = part.read_bytes()
        path = folder / f"unread2.{ending}"
        path.write_bytes(content * 2)
        finished, timeline, _ = read(path)
        assert finished.info.num_bytes_unread == len(content)
        (warning,) = [one for one in warnings_of(finished, timeline) if "recording" in one]
        assert f"was not read ({len(content):,} bytes at its end)" in warning
        assert read(part)[0].info.num_bytes_unread == 0


class TestLengths:
    @pytest.mark.parametrize("decoder", ["auto", "pyav"])
    @pytest.mark.parametrize("num_b_frames", [0, 2])
    def test_a_start_far_from_zero(self, folder, plain, decoder, num_b_frames):
        path = folder / f"far{num_b_frames}.mp4"
        options = {
            "movflags": "frag_keyframe+empty_moov+frag_discont",
            "avoid_negative_ts": "disabled",
        }
        shifted(plain[num_b_frames], path, 1_700_000_000 * 90_000, options)
        with av.open(str(path)) as container:
            assert container.start_time >= 1_699_999_990 * 10**6
        finished, timeline, _ = read(path, decoder)
        np.testing.assert_allclose(timeline.edges, REGULAR, atol=1e-6)
        assert warnings_of(finished, timeline) == []

    @pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
    def test_the_last_frame_may_be_long(self, folder, plain, decoder):
        path = folder / "long.mp4"
        times = [(index, index, 1) for index in range(NUM_FRAMES - 1)]
        remux(plain[0], path, [*times, (NUM_FRAMES - 1, NUM_FRAMES - 1, 250)])
        finished, timeline, _ = read(path, decoder)
        np.testing.assert_allclose(timeline.edges, [*REGULAR[:-1], 11.96])
        assert warnings_of(finished, timeline) == []

    def test_parts_give_the_same_times(self, folder, plain, monkeypatch):
        monkeypatch.setattr(parts, "MIN_LEAD_FRAMES", 4)
        path = folder / "long_parts.mp4"
        times = [(index, index, 1) for index in range(NUM_FRAMES - 1)]
        remux(plain[0], path, [*times, (NUM_FRAMES - 1, NUM_FRAMES - 1, 250)])
        video = SourceVideo(path, "a")
        options = ReadingOptions(ClipGrid(1, 1), None, clips_per_part=10)
        (split,) = read_video(video, options, "pyav", may_split=True)
        assert isinstance(split, SplitVideo)
        ends = [list(read_part(video, part, options))[-1] for part in split.parts]
        together = np.concatenate([end.timestamps for end in ends])
        whole, timeline, _ = read(path, "pyav")
        assert {end.info for end in ends} == {whole.info}
        np.testing.assert_array_equal(frame_edges(together, ends[0].info), timeline.edges)

    def test_files_with_a_clock_that_jumps_are_not_split(self, folder, plain):
        path = folder / "jump_parts.ts"
        recordings = [
            shifted(plain[2], folder / f"p{start}.ts", start * 90_000).read_bytes()
            for start in (20_000, 3)
        ]
        path.write_bytes(b"".join(recordings))
        options = ReadingOptions(ClipGrid(1, 1), None, clips_per_part=10)
        first = next(iter(read_video(SourceVideo(path, "a"), options, "pyav", may_split=True)))
        assert not isinstance(first, SplitVideo)

    @pytest.mark.parametrize("ending", ["mkv", "flv", "mp4"])
    def test_longer_sound_is_not_a_missing_picture(self, folder, ending):
        path = folder / f"sound.{ending}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", 25)
            stream.width, stream.height, stream.pix_fmt = 256, 240, "yuv420p"
            sound = container.add_stream("aac", 44_100, layout="mono")
            for pixels in draw_frames(NUM_FRAMES):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            for _ in range(10):
                silence = np.zeros((1, 44_100), np.float32)
                frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
                frame.sample_rate = 44_100
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        with av.open(str(path)) as container:
            assert container.duration > 9e6
        finished, timeline, _ = read(path)
        assert timeline.edges[-1] == pytest.approx(2.0, abs=1e-3)
        assert warnings_of(finished, timeline) == []

    @pytest.mark.parametrize("decoder", ["auto", "pyav"])
    def test_an_edit_list_hides_frames(self, folder, plain, decoder):
        path = folder / "edit.mp4"
        content = bytearray(plain[0].read_bytes())
        place = content.index(b"elst") + 12  # of the duration in ms and the start in 1/12800 s
        content[place : place + 8] = (1200).to_bytes(4) + (20 * 512).to_bytes(4)
        path.write_bytes(content)
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == NUM_FRAMES
            assert any(packet.is_discard for packet in container.demux(video=0))
        finished, timeline, _ = read(path, decoder)
        np.testing.assert_allclose(timeline.edges, REGULAR[:31], atol=1e-6)
        assert finished.info.num_frames_container == 30
        assert warnings_of(finished, timeline) == []
        assert [count for _, count in count_frames([SourceVideo(path, "a")])] == [30]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_transport_stream_cut_between_its_packets_shows_no_wrong_frame(tmp_path, codec):
    """Every cut: what differs from the whole recording must be called damaged."""
    options = {"libx265": {"x265-params": "log-level=none:bframes=0"}, "libx264": NO_B_FRAMES}
    path = encode(tmp_path / "a.ts", draw_frames(8), codec=codec, codec_options=options.get(codec))
    content = path.read_bytes()
    info = probe(path)

    def decode():
        decoder = AvDecoder(path, info, 64, 60)
        frames = [frame.tobytes() for frame in decoder]
        decoder.close()
        return frames, decoder.damage().num_damaged

    whole, num_damaged = decode()
    assert num_damaged == 0
    num_cut, step = 0, max(len(content) // 188 // 40, 1)
    for num_packets in range(len(content) // 188 // 2, len(content) // 188, step):
        path.write_bytes(content[: 188 * num_packets])
        frames, num_damaged = decode()
        assert num_damaged or frames == whole[: len(frames)]
        num_cut += num_damaged > 0
    assert num_cut > 5


REAL = {
    "avi_null_h264.avi": (50, 3.4, []),
    "raw10.h264": (60, 6.0, []),
    "ts_backward_5h.ts": (100, 4.0, [50]),
    "mkv_cat.mkv": (100, 4.0, [50]),
    "off1700000000.mp4": (60, 2.4, []),
    "lastlong.mp4": (50, 11.96, []),
    "audio_longer.mkv": (80, 3.2, []),
    "edit_trim.mp4": (60, 2.4, []),
}
"""File -> its number of frames, its end in seconds, and the frames before which its clock jumps."""


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_real_files(shared_data, name, decoder):
    num_frames, end, jumps = REAL[name]
    finished, timeline, _ = read(shared_data / "trouble" / name, decoder)
    assert len(finished.timestamps) == num_frames
    assert timeline.edges[-1] == pytest.approx(end, abs=1e-3)
    assert timeline.jumps.tolist() == jumps
    assert finished.damage.num_damaged == 0
    assert len(warnings_of(finished, timeline)) == len(jumps)

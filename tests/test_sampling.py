"""Frames at a regular rate, against a search for the nearest ones, and in files read in any way."""

import math
from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_clocks import remux
from video_files import UNEVEN_TIMES, draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import parts as parts_module
from vigil.extract.decode import sampling
from vigil.extract.decode.decoder import VideoInfo
from vigil.extract.decode.reader import (
    Clip,
    Finished,
    ReadingOptions,
    Restart,
    SplitVideo,
    read_part,
    read_video,
)
from vigil.extract.decode.sampling import expected_samples, nearest_frames
from vigil.extract.decode.timeline import make_timeline
from vigil.extract.engine.assembly import _joined
from vigil.extract.errors import VideoError
from vigil.extract.source import SourceVideo

INFO = VideoInfo(320, 240, 25.0, 0)
TS_INFO = replace(INFO, clock_wrap_seconds=2**33 / 90_000, longest_gap_seconds=60.0)
RATES = st.one_of(st.sampled_from([1.0, 6.0, 12.5, 25.0, 30000 / 1001, 240.0]), st.floats(0.5, 240))
STEPS_MS = st.lists(st.integers(0, 400), max_size=60)
GRID = ClipGrid(8, 5)


def samples_of(timestamps, rate, info=INFO):
    frames = ((timestamp, number) for number, timestamp in enumerate(timestamps))
    found = list(nearest_frames(frames, rate, lambda: info))
    assert all(index == frame for index, frame in found)
    return np.array([index for index, _ in found], np.int64)


class TestNearest:
    @given(STEPS_MS, RATES, st.floats(-1e5, 1e5))
    def test_every_tick_gets_the_nearest_frame(self, steps, rate, start):
        seconds = np.cumsum([0, *steps]) / 1000
        samples = samples_of(start + seconds, rate)
        ticks = np.arange(len(samples)) / rate
        distances = np.abs(ticks[:, None] - seconds)
        chosen = distances[np.arange(len(samples)), samples]
        np.testing.assert_allclose(chosen, distances.min(axis=1), atol=1e-8 + 1e-5 / rate)

    @given(STEPS_MS, RATES)
    def test_ticks_cover_the_whole_video_in_order(self, steps, rate):
        seconds = np.cumsum([0, *steps]) / 1000
        samples = samples_of(seconds, rate)
        assert samples[0] == 0
        assert (np.diff(samples) >= 0).all()
        end = seconds[-1] + 1 / INFO.fps
        assert abs(len(samples) - end * rate) <= 1
        ranges = GRID.source_ranges(samples, len(seconds))
        assert len(ranges) == GRID.num_clips(len(samples))
        covered = np.zeros(len(seconds), bool)
        for (start, stop), (first, past) in zip(
            ranges, GRID.frame_ranges(len(samples)), strict=True
        ):
            covered[start:stop] = True
            assert start <= samples[first]
            assert samples[past - 1] < stop
        assert covered.all()
        assert (np.diff(ranges, axis=0) >= 0).all()

    @given(
        st.integers(1, 300),
        st.sampled_from([5.0, 6.25, 24000 / 1001, 25.0, 30000 / 1001, 60.0]),
        st.sampled_from([None, 1, 3, 6]),
        st.floats(-1e4, 1e4),
    )
    def test_the_rate_of_the_video_takes_each_frame_once(self, number, rate, digits, start):
        seconds = start + np.arange(number) / rate
        seconds = seconds if digits is None or digits < 3 else np.round(seconds, digits)
        samples = samples_of(seconds, rate, replace(INFO, fps=rate))
        np.testing.assert_array_equal(samples, np.arange(number))
        ranges = GRID.source_ranges(samples, number)
        np.testing.assert_array_equal(ranges, GRID.frame_ranges(number))

    @given(st.integers(1, 100), st.sampled_from([(5, 5), (12.5, 2), (2.5, 10)]))
    def test_multiples_repeat_every_frame_alike(self, number, source):
        fps, times = source
        samples = samples_of(np.arange(number) / fps, 25.0, replace(INFO, fps=fps))
        counts = np.bincount(samples)
        assert counts.sum() == number * times
        assert (counts[1:-1] == times).all()

    def test_half_the_rate_takes_every_second_frame(self):
        samples = samples_of(np.arange(50) / 50, 25.0, replace(INFO, fps=50.0))
        np.testing.assert_array_equal(samples, np.arange(0, 50, 2))
        np.testing.assert_array_equal(
            ClipGrid(10, 10).source_ranges(samples, 50), [[0, 20], [20, 40], [40, 50]]
        )

    def test_the_last_frame_lasts_as_long_as_the_file_says(self):
        long = replace(INFO, last_frame_seconds=2.0)
        assert samples_of([0.0, 0.04], 25.0, long).tolist() == [0] + [1] * 50

    def test_nothing_gives_nothing_and_a_moment_one_frame(self):
        assert samples_of([], 25.0).tolist() == []
        assert samples_of([0.0], 1.0).tolist() == [0]

    def test_an_absurd_length_is_refused(self, monkeypatch):
        monkeypatch.setattr(sampling, "MAX_FRAMES", 1000)
        with pytest.raises(VideoError, match="at 25 frames a second it has more than 1000 frames"):
            samples_of([0.0, 3600.0], 25.0)

    def test_numbers_are_expected_from_length_and_rate(self):
        assert expected_samples(60, 6.0, 25.0) == 250
        assert expected_samples(60, 6.0, None) == 60


class TestClock:
    """Timestamps that are not one rising clock; the streaming clock has no look-ahead."""

    def seconds(self, timestamps, info=INFO):
        clock = sampling._Clock(info)
        return np.array([clock.advance(timestamp) for timestamp in timestamps])

    def test_without_times_frames_follow_at_the_frame_rate(self):
        np.testing.assert_allclose(self.seconds([math.nan] * 50), np.arange(50) / 25)
        mixed = [0.0, 0.04, math.nan, 0.12, math.nan]
        np.testing.assert_allclose(self.seconds(mixed), np.arange(5) / 25)
        np.testing.assert_allclose(self.seconds([math.nan, 7.0, 7.04]), np.arange(3) / 25)

    @given(STEPS_MS, st.floats(-1e6, 1e6))
    def test_a_rising_clock_is_the_timeline(self, steps, start):
        timestamps = start + np.cumsum([0, *steps]) / 1000
        timeline = make_timeline(timestamps, INFO)
        np.testing.assert_array_equal(self.seconds(timestamps), timeline.edges[:-1])

    @pytest.mark.parametrize("jump", [-20_000.0, -3.0, 61.0, 5000.0])
    def test_jumps_do_not_count(self, jump):
        timestamps = 30_000 + np.arange(60) / 25
        timestamps[30:] += jump
        seconds = self.seconds(timestamps, TS_INFO)
        np.testing.assert_allclose(seconds, np.arange(60) / 25, atol=1e-6)
        np.testing.assert_allclose(seconds, make_timeline(timestamps, TS_INFO).edges[:-1])

    def test_gaps_count(self):
        timestamps = np.arange(60) / 25
        timestamps[30:] += 59
        np.testing.assert_allclose(self.seconds(timestamps, TS_INFO), timestamps)

    def test_a_clock_that_wraps_runs_on(self):
        wrap = TS_INFO.clock_wrap_seconds
        timestamps = (wrap - 1 + np.arange(60) / 25) % wrap
        np.testing.assert_allclose(self.seconds(timestamps, TS_INFO), np.arange(60) / 25, atol=1e-6)

    def test_disorder_stops_the_clock_but_does_not_shift_it(self):
        timestamps = np.arange(60) / 25
        timestamps[10:50:5] -= 0.1
        seconds = self.seconds(timestamps)
        assert (np.diff(seconds) >= 0).all()
        assert (np.abs(seconds - np.arange(60) / 25) <= 0.1).all()
        np.testing.assert_allclose(seconds[50:], timestamps[50:])

    def test_a_small_step_back_costs_no_more_than_a_few_frames(self):
        timestamps = np.arange(100) / 25
        timestamps[50:] -= 0.5
        seconds = self.seconds(timestamps)
        assert np.arange(100)[-1] / 25 - seconds[-1] == pytest.approx(0.5)
        again = np.tile(np.arange(12) / 25, 40)  # never catches up
        assert self.seconds(again)[-1] > 0.3 * 480 / 25


# Files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sampled")


@pytest.fixture(autouse=True)
def _short_margins(monkeypatch):
    monkeypatch.setattr(parts_module, "MIN_LEAD_FRAMES", 16)
    monkeypatch.setattr(parts_module, "SEEK_MARGIN_SECONDS", 0.7)


X264 = {"codec_options": {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=2"}}
PICTURES = draw_frames(96, 224, 224)
FILES = {
    "plain.mp4": X264,
    "plain.ts": X264,
    "plain.avi": {"codec": "mpeg4"},
    "uneven.mkv": {**X264, "times": [30 * k + k * k % 23 for k in range(96)]},
    "slow.mkv": {**X264, "times": [111 * k for k in range(96)]},
    "gap.mp4": {**X264, "times": [40 * k + 6_000 * (k > 50) for k in range(96)]},
}


def read(path, rate, decoder="pyav", grid=GRID):
    video, options = SourceVideo(path, "a"), ReadingOptions(grid, None, frame_rate=rate)
    messages = list(read_video(video, options, decoder))
    last_restart = max((i for i, m in enumerate(messages) if isinstance(m, Restart)), default=-1)
    *clips, finished = messages[last_restart + 1 :]
    return [clip.pixels for clip in clips], finished


def assert_same_clips(found, expected):
    """Compare clip by clip: all in one array would take seconds to copy."""
    for clip, wanted in zip(found, expected, strict=True):
        assert np.array_equal(clip, wanted)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("rate", [10.0, 25.0, 47.0])
def test_clips_show_the_frames_nearest_to_the_clock(folder, name, rate):
    path = folder / name
    path = path if path.exists() else encode(path, PICTURES, **FILES[name])
    frames, native = read(path, None, grid=ClipGrid(1, 1))
    assert native.samples is None
    clips, finished = read(path, rate)
    timeline = make_timeline(native.timestamps, native.info)
    ticks = np.arange(round(timeline.edges[-1] * rate)) / rate
    middles = (timeline.edges[:-2] + timeline.edges[1:-1]) / 2
    samples = np.searchsorted(middles + 1e-9, ticks)
    np.testing.assert_array_equal(finished.samples, samples)
    np.testing.assert_array_equal(finished.timestamps, native.timestamps)
    assert_same_clips(clips, GRID.cut(frames[index][0] for index in samples))


@pytest.mark.parametrize("name", [name for name in FILES if name != "plain.ts"])
def test_decord_and_pyav_take_the_same_frames(folder, name):
    path = folder / name
    path = path if path.exists() else encode(path, PICTURES, **FILES[name])
    for rate in (10.0, 25.0, 47.0):
        _, one = read(path, rate, "decord")
        _, other = read(path, rate, "pyav")
        assert (one.decoder, other.decoder) == ("decord", "pyav")
        np.testing.assert_array_equal(one.samples, other.samples)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("rate", [7.0, 25.0, 60.0])
def test_parts_together_are_the_video(folder, name, rate):
    path = folder / name
    path = path if path.exists() else encode(path, PICTURES, **FILES[name])
    clips, whole = read(path, rate)
    clips_per_part = max(len(clips) // 4, 1)
    options = ReadingOptions(GRID, None, clips_per_part, frame_rate=rate)
    video = SourceVideo(path, "a")
    split = next(iter(read_video(video, options, "pyav", may_split=True)))
    if not isinstance(split, SplitVideo):
        assert rate == 7 or name == "gap.mp4"  # too few clips, or no keyframe near the borders
        return
    found, ends = [], []
    for part in split.parts:
        for message in read_part(video, part, options):
            if isinstance(message, Clip):
                found.append(message.pixels)
            else:
                ends.append(message)
        assert len(found) == part.stop_clip
    assert_same_clips(found, clips)
    together = _joined(ends)
    assert isinstance(together, Finished)
    np.testing.assert_array_equal(together.samples, whole.samples)
    np.testing.assert_array_equal(together.timestamps, whole.timestamps)
    assert together.info == whole.info


@given(
    times=st.lists(st.integers(1, 300), min_size=95, max_size=95).map(np.cumsum),
    rate=st.floats(1.0, 60.0),
    grid=st.integers(1, 9).flatmap(lambda n: st.integers(1, n).map(lambda s: ClipGrid(n, s))),
    num_parts=st.integers(2, 8),
)
def test_parts_of_any_clock_divide_frames_and_samples(folder, times, rate, grid, num_parts):
    """Without decoding: what parts promise, together, is what one clock chooses."""
    times = np.append(0, times)
    samples = samples_of(times / 1000, rate)
    num_clips = grid.num_clips(len(samples))
    starts = samples[grid.frame_ranges(len(samples))[:, 0]]
    borders = list(
        parts_module._borders(starts, max(num_clips // num_parts, 1), 1e9, np.arange(-40, 96, 7))
    )
    assert sorted(set(borders)) == borders
    owners = starts[[0, *borders]]
    assert (np.diff(owners) > 0).all()


def test_pictures_have_a_rate_too(folder):
    pictures = folder / "pictures"
    pictures.mkdir()
    for number, pixels in enumerate(draw_frames(12)):
        av.VideoFrame.from_ndarray(pixels, format="rgb24").to_image().save(
            pictures / f"{number:03}.png"
        )
    (pictures / "005.png").write_bytes(b"\x89PNG broken")
    video = SourceVideo(pictures, "pictures", picture_fps=5.0)
    *_, finished = read_video(video, ReadingOptions(GRID, None, frame_rate=10.0))
    # Without the sixth picture, those around it fill its time.
    assert (
        finished.samples.tolist() == np.repeat(np.arange(11), [2] * 4 + [3, 3] + [2] * 5).tolist()
    )


def test_uneven_frames_at_decord_precision(folder):
    path = encode(folder / "u.mp4", draw_frames(), times=UNEVEN_TIMES)
    for decoder in ("decord", "pyav"):
        _, finished = read(path, 25.0, decoder)
        expected = samples_of(np.array(UNEVEN_TIMES) / 1000, 25.0, finished.info)
        np.testing.assert_array_equal(finished.samples, expected)


def test_empty_chunks_of_an_avi_file_take_up_time(folder):
    times = [*range(20), *range(40, 60), *range(70, 80)]
    path = folder / "gaps.avi"
    whole = encode(folder / "whole.avi", draw_frames(50), codec="mpeg4")
    remux(whole, path, [(time, time, 1) for time in times])
    _, finished = read(path, 25.0)
    expected = np.abs(np.arange(80)[:, None] - times).argmin(axis=1)
    np.testing.assert_array_equal(finished.samples, expected)
    assert make_timeline(finished.timestamps, finished.info).edges[-1] == pytest.approx(3.2)


@pytest.mark.parametrize("name", ["avi_null_h264.avi", "raw10.h264", "ts_backward_5h.ts"])
def test_files_of_recorders_keep_their_length(shared_data, name):
    _, finished = read(shared_data / "trouble" / name, 25.0)
    edges = make_timeline(finished.timestamps, finished.info).edges
    assert len(finished.samples) == round(edges[-1] * 25)
    ticks = np.arange(len(finished.samples)) / 25
    distances = np.abs(ticks[:, None] - edges[:-1])
    chosen = distances[np.arange(len(ticks)), finished.samples]
    np.testing.assert_allclose(chosen, distances.min(axis=1), atol=0.001)

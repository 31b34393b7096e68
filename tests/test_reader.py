"""One video -> its clips, through the first decoder that can."""

import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
from video_files import NUM_FRAMES, damage, draw_frames, encode, truncate

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import decoder_decord
from vigil.extract.decode.decoder import probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.reader import (
    Clip,
    Finished,
    ReadingOptions,
    Restart,
    SplitVideo,
    read_video,
)
from vigil.extract.errors import UserError, VideoError
from vigil.extract.source import SourceVideo, identify

GRID = ClipGrid(8, 4)


def read(path, decoder="auto", **options):
    options = ReadingOptions(**{"grid": GRID, "short_side": None, **options})
    return list(read_video(SourceVideo(path, "a/b.mp4"), options, decoder))


def frames_of(path, size=None):
    info = probe(path)
    return np.array(list(AvDecoder(path, info, *(size or (info.width, info.height)))))


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
def test_a_video_is_read_as_its_clips_and_a_summary(tmp_path, decoder):
    path = encode(tmp_path / "a.mp4")
    *clips, finished = read(path, decoder=decoder)
    frames = frames_of(path)
    for clip, (start, stop) in zip(clips, GRID.frame_ranges(NUM_FRAMES), strict=True):
        np.testing.assert_array_equal(clip.pixels, frames[start:stop])
    assert isinstance(finished, Finished)
    assert finished.info == probe(path)
    assert finished.decoder == ("pyav" if decoder == "pyav" else "decord")
    assert finished.damage.num_damaged == 0
    np.testing.assert_allclose(finished.timestamps, np.arange(NUM_FRAMES) / 25, atol=1e-6)
    identity = finished.identity
    assert identity.path == "a/b.mp4"
    assert identity.num_bytes == path.stat().st_size
    assert identity.modified_ns == path.stat().st_mtime_ns
    assert identity.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_frames_are_resized_while_they_are_decoded(tmp_path):
    path = encode(tmp_path / "a.mp4", draw_frames(3, 320, 240))
    clip, _ = read(path, short_side=256)
    assert clip.pixels.shape == (8, 256, 341, 3)
    np.testing.assert_array_equal(clip.pixels[:3], frames_of(path, (341, 256)))
    np.testing.assert_array_equal(clip.pixels[3:], clip.pixels[[2] * 5])
    small = encode(tmp_path / "small.mp4", draw_frames(3, 128, 96))
    assert read(small)[0].pixels.shape == (8, 224, 299, 3)


def test_after_damage_in_decord_pyav_restarts_and_counts_it(tmp_path):
    path = damage(encode(tmp_path / "a.mp4"), [15], fill=255)
    messages = read(path)
    restart = next(k for k, message in enumerate(messages) if isinstance(message, Restart))
    assert "decord" in messages[restart].reason
    assert all(isinstance(message, Clip) for message in messages[:restart])
    *clips, finished = messages[restart + 1 :]
    assert (finished.decoder, finished.damage.num_damaged >= 1) == ("pyav", True)
    frames = frames_of(path)
    ranges = GRID.frame_ranges(len(frames))
    for clip, (start, stop) in zip(clips, ranges, strict=True):
        np.testing.assert_array_equal(clip.pixels[: stop - start], frames[start:stop])


def test_a_requested_decoder_is_not_replaced(tmp_path):
    path = damage(encode(tmp_path / "a.mp4"), [15], fill=255)
    with pytest.raises(VideoError, match="decord stopped") as caught:
        read(path, decoder="decord")
    assert caught.value.decoder == "decord"
    assert read(path, decoder="pyav")[-1].damage.num_damaged >= 1


def test_a_video_must_not_be_more_damaged_than_allowed(tmp_path):
    path = damage(encode(tmp_path / "a.avi", codec="mpeg4"), [8, 9], keep=0)
    video = SourceVideo(path, "a.avi")
    for decoder in ("auto", "pyav"):
        options = ReadingOptions(GRID, None, max_damage=2 / NUM_FRAMES)
        assert list(read_video(video, options, decoder))[-1].damage.share(NUM_FRAMES - 2) == 0.1
        with pytest.raises(VideoError, match=r"^10% of its frames are damaged") as caught:
            list(read_video(video, replace(options, max_damage=0.09), decoder))
        assert (caught.value.decoder, caught.value.frame_index) == ("pyav", NUM_FRAMES - 2)


def test_a_real_damaged_file_ends_with_49_frames(shared_data):
    path = shared_data / "fixtures" / "containers" / "corrupted.mp4"
    *_, finished = read(path, grid=ClipGrid())
    assert (finished.decoder, len(finished.timestamps)) == ("pyav", 49)
    assert finished.damage.num_damaged >= 1
    assert finished.info.num_frames_container == 50


def test_a_real_file_beyond_decord_is_read_by_pyav(shared_data):
    path = shared_data / "fixtures" / "containers" / "tc_av1_video.mkv"
    restart, *clips, finished = read(path, grid=ClipGrid())
    assert isinstance(restart, Restart)
    assert (finished.decoder, len(finished.timestamps), len(clips)) == ("pyav", 125, 2)


def test_a_video_too_long_for_decords_read_ahead_goes_to_pyav(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4")
    num_bytes = NUM_FRAMES * 256 * 240 * 3
    monkeypatch.setattr(decoder_decord, "READ_AHEAD_LIMIT_BYTES", num_bytes)
    assert read(path)[-1].decoder == "decord"
    monkeypatch.setattr(decoder_decord, "READ_AHEAD_LIMIT_BYTES", num_bytes - 1)
    for name in ("a.mp4", "a.mkv"):  # with and without a declared number of frames
        restart, *_, finished = read(encode(tmp_path / name))
        assert "reads ahead" in restart.reason
        assert finished.decoder == "pyav"
        assert read(tmp_path / name, decoder="decord")[-1].decoder == "decord"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_only_what_decord_would_not_read_is_split(tmp_path, monkeypatch, name):
    params = {"x264-params": "keyint=8:scenecut=0"}
    path = encode(tmp_path / name, draw_frames(96, 224, 224), codec_options=params)
    video, options = SourceVideo(path, name), ReadingOptions(GRID, None, clips_per_part=8)

    def kinds(decoder="auto", may_split=True):
        messages = list(read_video(video, options, decoder, may_split=may_split))
        ends = {message.decoder for message in messages if isinstance(message, Finished)}
        return {type(message) for message in messages}, ends

    for decoder in ("auto", "decord"):
        assert kinds(decoder) == kinds(decoder, may_split=False) == ({Clip, Finished}, {"decord"})
    assert kinds("pyav") == ({SplitVideo}, set())
    monkeypatch.setattr(decoder_decord, "READ_AHEAD_LIMIT_BYTES", 96 * 224 * 224 * 3 - 1)
    assert kinds() == ({Restart, SplitVideo}, set())
    assert kinds(may_split=False) == ({Restart, Clip, Finished}, {"pyav"})
    assert kinds("decord") == ({Clip, Finished}, {"decord"})


def test_clips_are_written_into_the_given_buffers(tmp_path):
    path = encode(tmp_path / "a.mp4")
    memory = np.zeros((5, 8, 240, 256, 3), np.uint8)
    given = iter(memory)
    video, options = SourceVideo(path, "a.mp4"), ReadingOptions(GRID, None)
    *clips, _ = read_video(video, options, new_clip=lambda shape: next(given)[: shape[0]])
    for index, clip in enumerate(clips):
        assert np.shares_memory(clip.pixels, memory[index])
    np.testing.assert_array_equal(memory[: len(clips)], [clip.pixels for clip in read(path)[:-1]])


def test_a_file_that_is_not_a_video_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(VideoError, match="there is no such file"):
        read(path)
    with pytest.raises(VideoError, match=r"the file cannot be read \(No such file"):
        identify(SourceVideo(path, "a.mp4"))


def test_unknown_decoders_are_refused(tmp_path):
    with pytest.raises(UserError, match="unknown decoder 'ffmpeg': use one of auto, decord, pya"):
        read(tmp_path / "a.mp4", decoder="ffmpeg")


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_file_that_is_still_being_recorded_is_refused(tmp_path, decoder):
    path = encode(tmp_path / "a.mkv", draw_frames(40))
    messages = read_video(SourceVideo(path, "a"), ReadingOptions(GRID, None), decoder)
    next(messages)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(VideoError, match="the file changed while it was being read: run again"):
        list(messages)


def test_a_truncated_file_is_not_split(tmp_path):
    """FFmpeg only logs the truncation, so no part would count the damage."""
    path = encode(tmp_path / "a.mkv", draw_frames(200), codec_options={"g": "10"})
    video, options = SourceVideo(path, "a"), ReadingOptions(GRID, None, clips_per_part=8)
    (split,) = read_video(video, options, "pyav", may_split=True)
    assert isinstance(split, SplitVideo)
    truncate(path, 0.8)
    *_, finished = read_video(video, options, "pyav", may_split=True)
    assert len(finished.timestamps) + finished.damage.num_lost == 200


@pytest.mark.parametrize("short_side", [None, 256])
def test_clips_of_too_large_frames_are_refused(tmp_path, short_side):
    """Even if one dimension is small: this video is 8 pixels high."""
    frames = [np.zeros((8, 512, 3), np.uint8)] * 3
    video = SourceVideo(encode(tmp_path / "a.mkv", frames, codec="ffv1"), "a")
    options = ReadingOptions(GRID, short_side, max_clips_bytes=100 << 20)
    with pytest.raises(VideoError, match=r"frames of 512x8 pixels.* raise worker_memory_gib"):
        list(read_video(video, options))


def test_a_part_is_sent_in_few_bytes(tmp_path):
    """Otherwise sending it to a hanging worker would hang, too."""
    path = encode(tmp_path / "a.mkv", draw_frames(200), codec_options={"g": "10"})
    options = ReadingOptions(GRID, None, clips_per_part=8)
    (split,) = read_video(SourceVideo(path, "a"), options, "pyav", may_split=True)
    part = split.parts[1]
    long = replace(part, frame_pts=np.arange(100_000) * 512 + 7)
    content = pickle.dumps(long)
    assert len(content) < 10_000
    np.testing.assert_array_equal(pickle.loads(content).frame_pts, long.frame_pts)
    again = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(again.frame_pts, part.frame_pts)
    assert again.keyframe_pts == part.keyframe_pts

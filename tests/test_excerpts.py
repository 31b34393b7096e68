"""Excerpts of drawn videos: the right frames at the right times, with their sound."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image
from test_geometry import INTERLACED, combing, weave
from video_files import draw_frames, encode, truncate

from vigil.extract.decode import cutting
from vigil.extract.decode.cutting import Cut, write_excerpts
from vigil.extract.decode.decoder import probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.excerpt_request import Excerpt, Source
from vigil.extract.decode.excerpt_tracks import require_encoder
from vigil.extract.decode.excerpts import write_excerpt
from vigil.extract.errors import UserError, VideoError

RATE, SOUND_RATE = 25, 16_000
SECONDS = 10
EVENT = Excerpt(None, (4.0, 6.0), (100, 150), 1.0)
BEEPS = (1.0, 2.5, 4.5, 5.5, 8.0)
KEYFRAMES = {"g": "50", "sc_threshold": "0"}


FRAMES = draw_frames(SECONDS * RATE, 96, 64)


def video(path, seconds=SECONDS, **settings):
    settings = {"codec_options": KEYFRAMES} | settings
    return encode(path, FRAMES[: seconds * RATE], **settings)


def with_sound(source, path, codec):
    """The same video with short beeps."""
    moments = np.arange(SECONDS * SOUND_RATE) / SOUND_RATE
    wave = np.sin(2 * np.pi * 1000 * moments)
    wave *= sum(((moments >= beep) & (moments < beep + 0.1)) for beep in BEEPS)
    samples = (wave * 20_000).astype(np.int16)
    with av.open(str(source)) as pictures, av.open(str(path), "w") as output:
        stream = pictures.streams.video[0]
        copied = output.add_stream_from_template(stream)
        sound = output.add_stream(codec, rate=SOUND_RATE, layout="mono")
        packets = []
        for packet in pictures.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                packets.append((packet.dts * packet.time_base, packet))
        for start in range(0, len(samples), 1000):
            piece = samples[None, start : start + 1000]
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.pts = SOUND_RATE, start
            frame.time_base = Fraction(1, SOUND_RATE)
            packets += [(one.dts * one.time_base, one) for one in sound.encode(frame)]
        packets += [(one.dts * one.time_base, one) for one in sound.encode(None)]
        for _, packet in sorted(packets, key=lambda one: one[0]):
            output.mux(packet)
    return path


def cut(path, excerpt=EVENT, out=None, duration=float(SECONDS), fps=float(RATE)):
    out = out or path.parent / "out" / f"{path.name}.mp4"
    return out, write_excerpt(Source(path, fps, duration), replace(excerpt, path=out))


def shown(path):
    """The frames of a video as vigil shows them, and their times from the first one on."""
    info = probe(path)
    decoder = AvDecoder(path, info, info.width, info.height)
    frames = np.array([frame.copy() for frame in decoder]).astype(np.float32)
    times = decoder.timestamps()
    decoder.close()
    if not info.has_timestamps:
        times = np.arange(len(frames)) / info.fps
    return frames, times - times[0]


def beeps(path):
    """When sound begins after silence, from the first frame on."""
    with av.open(str(path)) as container:
        begin = next(container.decode(video=0)).time
        container.seek(0)
        sound = container.streams.audio[0]
        heard = [(frame.time - begin, frame.to_ndarray()[0]) for frame in container.decode(sound)]
        rate = sound.rate
    loud = [time + np.flatnonzero(np.abs(wave) > 0.2) / rate for time, wave in heard]
    moments = np.concatenate(loud)
    return [moments[0], *(later for one, later in pairwise(moments) if later - one > 0.2)]


def plays_in_browsers(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert container.format.name.startswith("mov,mp4")
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert {sound.codec_context.name for sound in container.streams.audio} <= {"aac"}
        return container.duration / av.time_base


def check_frames(source, out, written, tolerance):
    """Compare each frame with that of the source at its time, and with those around it."""
    (frames, times), (found, found_times) = shown(source), shown(out)
    assert found.shape[1:] == frames.shape[1:]
    for picture, time in zip(found, found_times + written.start_seconds, strict=True):
        index = np.searchsorted(times, time + 1e-3, side="right") - 1
        errors = np.abs(frames[max(index - 1, 0) : index + 2] - picture).mean(axis=(1, 2, 3))
        assert errors.argmin() == min(index, 1), time
        assert errors.min() <= tolerance
    return found_times


CASES = {
    "a.mp4": ({}, True),
    "a.mkv": ({}, True),
    "a.ts": ({}, True),
    "turned.mp4": ({"rotation": 90}, True),
    "rare_keyframes.mp4": ({"codec_options": {"g": "1000", "sc_threshold": "0"}}, False),
    "444.mp4": ({"pixel_format": "yuv444p"}, False),
    "10_bit.mp4": ({"pixel_format": "yuv420p10le"}, False),
    "turned_10_bit.mp4": ({"pixel_format": "yuv420p10le", "rotation": 90}, False),
    "old.avi": ({"codec": "mpeg4", "codec_options": {"g": "50"}}, False),
    "raw.h264": ({}, False),
    "new.webm": ({"codec": "libvpx-vp9", "codec_options": {"g": "50"}}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_of_the_video_at_their_times(tmp_path, name):
    settings, is_copy = CASES[name]
    source = video(tmp_path / name, **settings)
    out, written = cut(source)
    assert written.is_copy == is_copy
    seconds = plays_in_browsers(out)
    times = check_frames(source, out, written, tolerance=0 if is_copy else 4)
    if is_copy:
        assert written.start_seconds == pytest.approx(2.0, abs=1e-3)  # a keyframe
    else:
        assert written.start_seconds == pytest.approx(3.0, abs=1e-3)
        assert len(times) == 4 * RATE
    assert 7 - 1 / RATE <= written.start_seconds + seconds <= 7 + 4 / RATE


def test_a_variable_rate_stays(tmp_path):
    steps = np.random.default_rng(0).integers(20, 200, 99)
    times = [0, *steps.cumsum().tolist()]
    source = encode(tmp_path / "a.mp4", FRAMES[:100], times=times)
    excerpt = replace(EVENT, event_seconds=(4.0, 6.0))
    out, written = cut(source, excerpt)
    assert not written.is_copy
    found = check_frames(source, out, written, tolerance=4)
    inside = [time / 1000 - 3.0 for time in times if 3.0 < time / 1000 < 7.0]
    assert found[1:] + 0.0 == pytest.approx(inside, abs=1e-3)  # the first one was there before


@pytest.mark.parametrize(
    ("name", "codec", "settings", "is_copy"),
    [
        ("a.mp4", "aac", {}, True),
        ("a.ts", "aac", {}, True),
        ("a.mkv", "pcm_s16le", {}, True),
        ("b.mp4", "aac", {"codec_options": {"g": "1000", "sc_threshold": "0"}}, False),
        ("b.mkv", "libmp3lame", {"pixel_format": "yuv444p"}, False),
    ],
)
def test_sound_stays_with_its_pictures(tmp_path, name, codec, settings, is_copy):
    silent = video(tmp_path / "silent.mp4", **settings)
    source = with_sound(silent, tmp_path / name, codec)
    assert beeps(source) == pytest.approx(BEEPS, abs=0.01)
    out, written = cut(source)
    assert written.is_copy == is_copy
    plays_in_browsers(out)
    check_frames(source, out, written, tolerance=0 if is_copy else 4)
    expected = [beep - written.start_seconds for beep in BEEPS if written.start_seconds <= beep < 7]
    assert beeps(out) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "old.avi"])
def test_an_excerpt_ends_with_the_video_and_begins_with_it(tmp_path, name):
    settings, is_copy = CASES[name]
    source = video(tmp_path / name, **settings)
    out, written = cut(source, replace(EVENT, event_seconds=(0.5, 9.9), event_frames=(12, 248)))
    assert written.start_seconds == 0
    times = check_frames(source, out, written, tolerance=0 if is_copy else 4)
    assert len(times) == SECONDS * RATE


@pytest.mark.parametrize("name", ["half.ts", "half.mkv"])
def test_frames_are_counted_where_the_clock_jumps(tmp_path, name):
    """The second half of the recording has a clock that starts again."""
    half = video(tmp_path / name, 5)
    source = half.with_stem("joined")
    source.write_bytes(half.read_bytes() * 2)
    out, written = cut(source, replace(EVENT, event_seconds=(6.0, 7.0), event_frames=(150, 175)))
    assert not written.is_copy
    assert written.start_seconds == pytest.approx(5.0, abs=0.02)
    frames, found = shown(source)[0], shown(out)[0]
    assert np.abs(found - frames[125 : 125 + len(found)]).mean() < 4
    assert len(found) == 3 * RATE


def test_a_folder_of_pictures_has_excerpts_too(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    frames = FRAMES[:60]
    for index, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    excerpt = replace(EVENT, event_seconds=(2.0, 3.0), event_frames=(20, 30), margin_seconds=0.5)
    out, written = cut(folder, excerpt, tmp_path / "out.mp4", fps=10.0, duration=6.0)
    found, times = shown(out)
    assert written.start_seconds == 1.5
    assert times == pytest.approx(np.arange(20) / 10, abs=1e-3)
    assert np.abs(found - np.array(frames[15:35])).mean() < 5


def test_the_contact_sheet_has_frames_of_the_event(tmp_path):
    source = video(tmp_path / "a.mp4", rotation=90)
    out, _ = cut(source)
    frames, times = shown(source)
    with Image.open(out.with_suffix(".jpg")) as sheet:
        pixels = np.asarray(sheet).astype(np.float32)
    height, width = frames.shape[1:3]
    assert pixels.shape == (3 * height + 8, 3 * width + 8, 3)
    for index in range(9):
        row, column = divmod(index, 3)
        top, left = row * (height + 4), column * (width + 4)
        found = pixels[top : top + height, left : left + width]
        nearest = np.abs(frames - found).mean(axis=(1, 2, 3)).argmin()
        assert times[nearest] == pytest.approx(4 + (index + 0.5) * 2 / 9, abs=0.04)


@pytest.mark.parametrize("duration", [4.0, 60.0], ids=["timed", "counted"])
@pytest.mark.parametrize("name", ["mpeg2.ts", "mpeg4.avi"])
def test_interlaced_frames_that_are_encoded_are_deinterlaced(tmp_path, name, duration):
    source = encode(tmp_path / name, weave(100), **INTERLACED[name])
    excerpt = replace(EVENT, event_seconds=(1.6, 2.4), event_frames=(40, 60), margin_seconds=0.4)
    out, written = cut(source, excerpt, duration=duration)
    assert not written.is_copy
    expected, times = shown(source)
    found, found_times = shown(out)
    assert len(found) == pytest.approx(40, abs=1)
    assert combing(found) < 1 < combing(weave(40))
    for picture, time in zip(found, found_times + written.start_seconds, strict=True):
        index = np.searchsorted(times, time + 1e-3, side="right") - 1
        errors = np.abs(expected[index - 1 : index + 2] - picture).mean(axis=(1, 2, 3))
        assert errors.argmin() == 1, time


class TestFailures:
    def test_what_is_wrong_is_said_and_the_others_are_written(self, tmp_path):
        good = video(tmp_path / "good.mp4")
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"\0" * 1000)
        # A place in the file that does not exist any more.
        short = truncate(video(tmp_path / "short.mkv"), 0.3)
        paths = [tmp_path / "gone.mp4", broken, short, good]
        cuts = [
            Cut(Source(path, 25.0, 10.0), replace(EVENT, path=tmp_path / f"{index}.mp4"))
            for index, path in enumerate(paths)
        ]
        found = dict(zip(paths, (said for _, said in write_excerpts(cuts)), strict=True))
        assert found[tmp_path / "gone.mp4"] == "there is no such file"
        assert "not a video" in found[broken]
        assert found[short] == "it ends before the event, or cannot be decoded there"
        assert found[good].is_copy
        assert sorted(path.name for path in tmp_path.glob("[0-9]*")) == ["3.jpg", "3.mp4"]
        assert not list(tmp_path.glob(".*partial"))

    def test_a_process_that_dies_or_hangs_stops_no_other(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cutting, "STALL_SECONDS", 0.01)
        cuts = [Cut(Source(tmp_path, 25.0, 1.0), replace(EVENT, path=tmp_path / "a.mp4"))] * 2
        found = [said for _, said in write_excerpts(cuts)]
        assert found == ["reading it made no progress for 0.01 s"] * 2

    def test_a_video_that_ends_before_the_event(self, tmp_path):
        source = video(tmp_path / "a.h264", 2)
        with pytest.raises(VideoError, match="it ends before the event"):
            cut(source)

    def test_a_missing_encoder_is_named_with_the_remedy(self, monkeypatch):
        require_encoder()

        def unknown(name, mode):
            raise av.codec.codec.UnknownCodecError(name)

        monkeypatch.setattr(av, "Codec", unknown)
        with pytest.raises(UserError, match="no encoder libx264, which clips need: install"):
            require_encoder()

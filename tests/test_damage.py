"""Damage: how it is counted, located and described, and how much of it is allowed."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from builders import make_features
from hypothesis import given
from hypothesis import strategies as st
from video_files import NUM_FRAMES, damage, draw_frames, encode, truncate

from vigil.extract.clips import ClipGrid
from vigil.extract.damage import Damage, DamageLog, damaged_share, excess
from vigil.extract.decode.decoder import probe
from vigil.extract.decode.decoder_av import AvDecoder, read_packets
from vigil.extract.decode.reader import Finished, ReadingOptions, Restart, read_video
from vigil.extract.errors import UserError, VideoError
from vigil.extract.source import SourceVideo
from vigil.pipeline.option_values import read_max_damage
from vigil.pipeline.scores import frame_warnings as said
from vigil.pipeline.scores.frame_warnings import (
    DamagedFrames,
    damaged_frames,
    frame_warnings,
)

ENCODINGS = {
    "a.mp4": {"options": {"movflags": "faststart"}},
    "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {
        "codec": "libx265",
        "codec_options": {"x265-params": "log-level=none"},
        "options": {"movflags": "faststart"},
    },
    "a.mkv": {},
    "a.flv": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
}
PACKET = 8


@pytest.fixture
def video(tmp_path_factory):
    """Make a video of `ENCODINGS` that a test may damage."""

    def make(name):
        return encode(tmp_path_factory.mktemp("videos") / name, **ENCODINGS[name])

    return make


def decode(path) -> tuple[int, Damage]:
    """Return the number of frames and the damage."""
    decoder = AvDecoder(path, probe(path), 256, 240)
    try:
        return sum(1 for _ in decoder), decoder.damage()
    finally:
        decoder.close()


def frame_of_packet(path, number):
    """Return the index of a packet's frame in presentation order."""
    with av.open(str(path)) as container:
        pts = [packet.pts for packet in container.demux(video=0) if packet.size]
    return sum(other < pts[number] for other in pts)


@given(
    frame_pts=st.lists(st.integers(-99, 99), unique=True),
    error_pts=st.lists(st.integers(-99, 99)),
    known=st.tuples(*[st.lists(st.integers(0, 50))] * 2),
    num_cut_off=st.integers(0, 3),
)
def test_every_error_is_counted_at_its_place(frame_pts, error_pts, known, num_cut_off):
    num_frames = len(frame_pts)
    damaged, lost = ([index for index in indices if index < num_frames] for indices in known)
    log = DamageLog(num_cut_off=num_cut_off)
    for noted, values in ((log.error_pts, error_pts), (log.damaged, damaged), (log.lost, lost)):
        noted.extend(values)
    found = log.place(np.array(frame_pts, np.int64))

    is_damaged = {*damaged, *(frame_pts.index(pts) for pts in error_pts if pts in frame_pts)}
    gone = [pts for pts in error_pts if pts not in frame_pts]
    places = {*lost, *(sum(pts < time for pts in frame_pts) for time in gone)}
    places |= {num_frames} if num_cut_off else set()
    ranges = [range(start, stop) for start, stop in found.frames]
    assert [index for frames in ranges for index in frames] == sorted(is_damaged)
    assert all(after.start > frames.stop for frames, after in pairwise(ranges))
    assert all(any(r.start <= place <= r.stop for r in ranges) for place in places)
    assert {r.start for r in ranges if not r} <= places
    assert found.num_lost == len(lost) + len(gone) + num_cut_off
    assert found.num_damaged == len(is_damaged) + found.num_lost


@pytest.mark.parametrize(
    ("error", "num_lost"), [(34, 0), (35, 20), (50, 20), (60, 20), (86, 20), (87, 0)]
)
def test_a_gap_near_an_error_is_lost_frames(error, num_lost):
    """Near means at most sixteen frames before or after the gap."""
    frame_pts = np.array([*range(51), *range(71, 200)])
    log = DamageLog()
    log.error_pts.append(error)
    assert log.place(frame_pts).num_lost == num_lost


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_whole_video_has_no_damage(video, name):
    num_frames, found = decode(video(name))
    assert (num_frames, found.num_damaged, found.frames.shape) == (NUM_FRAMES, 0, (0, 2))


@pytest.mark.parametrize("name", [name for name in ENCODINGS if name not in {"a.mkv", "a.flv"}])
def test_an_empty_packet_is_a_lost_frame_at_its_place(video, name):
    path = video(name)
    place = frame_of_packet(path, PACKET)
    num_frames, found = decode(damage(path, [PACKET], keep=0))
    assert (num_frames, found.num_lost) == (NUM_FRAMES - 1, 1)
    assert found.frames.tolist() == [[place, place]]


@pytest.mark.parametrize("name", ["a.mp4", "fragments.mp4", "mpeg4.avi", "mjpeg.avi"])
def test_an_overwritten_packet_is_a_damaged_frame_at_its_place(video, name):
    path = video(name)
    place = frame_of_packet(path, PACKET)
    num_frames, found = decode(damage(path, [PACKET], fill=255, keep=0.3))
    assert (num_frames, found.num_lost) == (NUM_FRAMES, 0)
    assert found.frames.tolist() == [[place, place + 1]]


@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264.mkv", "h264.avi", "a.h264", "hevc.mp4", "hevc.mkv", "a.hevc"]
)
def test_a_sector_of_zeros_never_changes_pixels_unnoticed(tmp_path, name):
    codec = "libx265" if "hevc" in name else "libx264"
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = encode(tmp_path / name, codec=codec, codec_options={"crf": "12", **quiet})
    sound, whole = path.read_bytes(), clips_of(path)
    num_changed = 0
    for position in range(512, len(sound) - 512, 512 * 5):
        path.write_bytes(sound[:position] + bytes(512) + sound[position + 512 :])
        try:
            clips = clips_of(path)
        except VideoError:
            continue
        if clips != whole:
            num_changed += 1
            assert clips[-1] > 0, position
    assert num_changed > 5


def clips_of(path):
    """Return the bytes of each clip, followed by the number of damaged frames."""
    clips = []
    for message in read_video(SourceVideo(path, "a"), ReadingOptions(ClipGrid(8, 8), None)):
        if isinstance(message, Restart):
            clips = []
        else:
            is_last = isinstance(message, Finished)
            clips.append(message.damage.num_damaged if is_last else message.pixels.tobytes())
    return clips


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_zeros_after_units_are_not_damage(tmp_path, codec):
    """Nor after such packets are copied into another container."""
    encoder, options = {
        "h264": ("libx264", {"bf": "0"}),
        "hevc": ("libx265", {"x265-params": "log-level=none:bframes=0"}),
    }[codec]
    path = encode(tmp_path / f"a.{codec}", codec=encoder, codec_options=options)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\0\0\0\1", bytes(64) + b"\0\0\0\1") + bytes(64))
    assert path.stat().st_size > len(content) + NUM_FRAMES * 64
    for name in ("a.mp4", "a.mkv", "a.flv"):
        with av.open(str(path)) as old, av.open(str(tmp_path / name), "w") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            packets = [packet for packet in old.demux(video=0) if packet.size]
            for number, packet in enumerate(packets):
                packet.pts, packet.dts, packet.duration = number, number, 1
                packet.time_base, packet.stream = Fraction(1, 25), stream
                new.mux(packet)
        assert bytes(40) in (tmp_path / name).read_bytes()
    for other in sorted(tmp_path.iterdir()):
        num_frames, found = decode(other)
        assert (num_frames, found.num_damaged) == (NUM_FRAMES, 0), other
        read_packets(other)  # raises if zeros replace data


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("share", [0.6, 0.8])
def test_frames_missing_from_a_truncated_file_are_lost(video, name, share):
    """The container declares their number, or its length and frame rate."""
    num_frames, found = decode(truncate(video(name), share))
    assert num_frames < NUM_FRAMES
    allowed = 2 if name == "a.flv" else 0  # counts its length from 0, but starts at 0.08 s
    assert 0 <= num_frames + found.num_lost - NUM_FRAMES <= allowed
    assert num_frames - 1 <= found.frames[-1, 0] <= found.frames[-1, 1] == num_frames


def hide_frames(source, path, num_hidden):
    """Write a copy whose edit list makes the video start later."""
    options = {"avoid_negative_ts": "disabled", "movflags": "faststart"}
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts -= num_hidden * packet.duration
                packet.dts -= num_hidden * packet.duration
                packet.stream = stream
                new.mux(packet)
    return path


def test_frames_that_an_edit_list_hides_are_not_lost(tmp_path):
    path = hide_frames(encode(tmp_path / "a.mp4"), tmp_path / "hidden.mp4", 5)
    num_frames, found = decode(path)
    assert (num_frames, found.num_damaged) == (NUM_FRAMES - 5, 0)
    num_frames, found = decode(truncate(path, 0.7))
    assert num_frames + found.num_lost == NUM_FRAMES - 5


def test_without_times_errors_are_placed_by_the_frames_decoded_so_far(tmp_path):
    path = encode(tmp_path / "a.h264", draw_frames(40))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = b"\xff" * 300
    path.write_bytes(content)
    num_frames, found = decode(path)
    assert 1 <= found.num_damaged <= 6
    assert 12 <= found.frames.min() <= found.frames.max() <= 28
    assert num_frames + found.num_lost <= 40


def test_the_damaged_share_includes_lost_frames():
    found = Damage(np.array([[2, 4], [5, 5]]), num_lost=2)
    assert (found.num_damaged, found.share(6)) == (4, 0.5)
    assert Damage().share(6) == Damage().share(0) == 0
    assert damaged_share(8, 8, 0) == 1
    features = make_features(num_frames=6, num_frames_damaged=4, num_frames_lost=2)
    assert features.damaged_share == found.share(6)


def test_more_damage_than_allowed_is_named_with_the_option():
    assert excess(0.1, 0.1) is None
    assert excess(1.0, 1.0) is None
    reason = excess(0.125, 0.1)
    assert reason.startswith("12.5% of its frames are damaged, more than the limit of 10%: raise")


@pytest.mark.parametrize(
    ("text", "share"),
    [(None, 1), ("10%", 0.1), ("0.1", 0.1), (".5", 0.5), ("0", 0), ("0%", 0), ("100%", 1)],
)
def test_a_share_is_read_from_the_command_line(text, share):
    assert read_max_damage(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "10", "1", "101%", "-1%", "1e-1", "nan", "10 %%", "ten"])
def test_an_invalid_share_is_refused(text):
    with pytest.raises(
        UserError, match=r"--max-damage '.*' is not a share of frames: use 10% or 0.1"
    ):
        read_max_damage(text)


def test_warnings_say_how_many_frames_are_damaged_and_where():
    whole = make_features(num_frames=100)
    assert frame_warnings(whole) == []
    ranges = {"damage_frames": np.array([[50, 52], [60, 60]]), "num_frames_damaged": 5}
    seconds = {"damage_seconds": np.array([[62.4, 62.5], [63.0, 63.0]])}
    assert frame_warnings(replace(whole, num_frames_lost=3, **ranges, **seconds)) == [
        "Damaged frames: 5 (3 of them lost), the first at 0:01:02; 100 could be decoded."
    ]
    assert frame_warnings(replace(whole, num_frames_damaged=5)) == [  # from an older file
        "Damaged frames: 5; 100 could be decoded."
    ]


@pytest.mark.parametrize(
    ("promised", "is_said"), [(0, False), (98, False), (102, False), (97, True), (103, True)]
)
def test_an_unexpected_number_of_frames_is_reported(promised, is_said):
    features = make_features(num_frames=100, num_frames_container=promised)
    said = [f"The container declares {promised} frames, 100 could be decoded."]
    assert frame_warnings(features) == (said if is_said else [])


@pytest.mark.parametrize(
    ("promised", "fps", "is_said"),
    [(0, 25, False), (4.9, 25, False), (3.1, 25, False), (5.2, 25, True), (7.9, 0.5, False)],
)
def test_an_unexpected_length_is_reported(promised, fps, is_said):
    features = make_features(num_frames=100, duration_container=promised, fps=fps)
    said = [f"The container declares {promised:.1f} seconds, the frames last 4.0."]
    assert frame_warnings(features) == (said if is_said else [])


def test_damage_is_listed_in_frames_and_seconds():
    features = make_features(
        damage_frames=np.array([[3, 5], [7, 7]]), damage_seconds=np.array([[0.1, 0.2], [0.3, 0.3]])
    )
    expected = DamagedFrames(3, 5, 0.1, 0.2), DamagedFrames(7, 7, 0.3, 0.3)
    assert damaged_frames(features) == expected
    assert damaged_frames(make_features()) == ()


def drop(path, first_share, stop_share):
    """Cut a stretch of whole packets out of a transport stream."""
    content = path.read_bytes()
    first, stop = (int(len(content) // 188 * share) * 188 for share in (first_share, stop_share))
    path.write_bytes(content[:first] + content[stop:])
    return path


def num_packets(path):
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def test_frames_before_the_first_remaining_keyframe_are_lost(tmp_path):
    """FFmpeg drops them silently."""
    options = {"g": "50", "keyint_min": "50", "sc_threshold": "0", "bf": "0"}
    path = encode(tmp_path / "a.ts", draw_frames(150), codec_options=options)
    assert decode(path)[1].num_damaged == 0
    drop(path, 0, 0.1)
    num_frames, found = decode(path)
    assert num_frames == 100
    assert num_frames + found.num_lost == num_packets(path) > 110
    assert found.frames.tolist() == [[0, 0]]


@pytest.mark.parametrize("interval", ["12", "250"])
def test_a_missing_stretch_is_as_many_frames_as_fit_its_gap(tmp_path, interval):
    path = encode(tmp_path / "a.ts", draw_frames(200), codec_options={"g": interval})
    num_frames, found = decode(drop(path, 0.3, 0.6))
    assert num_frames < 160
    assert num_frames + found.num_lost == 200


def test_empty_avi_packets_are_not_the_end(tmp_path):
    """In AVI they mean that the previous frame stays on screen."""
    path = tmp_path / "a.avi"
    content = encode(path, codec="mpeg4").read_bytes()
    place = content.rindex(b"00dc", 0, content.index(b"idx1"))
    for _ in range(8):
        place = content.rindex(b"00dc", 0, place)
    size = int.from_bytes(content[place + 4 : place + 8], "little")
    chunk = b"00dc" + bytes(4) + b"JUNK" + (size - 8 + size % 2).to_bytes(4, "little")
    path.write_bytes(
        content[:place] + chunk + content[place + len(chunk) :].replace(b"idx1", b"JUNK")
    )
    num_frames, found = decode(path)
    assert (num_frames, found.num_damaged) == (NUM_FRAMES - 1, 0)


@given(st.lists(st.integers(1, 9), min_size=3, unique=False), st.integers(0, 9))
def test_gaps_away_from_errors_or_in_uneven_videos_are_not_losses(steps, place):
    frame_pts = np.cumsum([*steps, 1])
    log = DamageLog()
    assert log.place(frame_pts).num_lost == 0
    log.error_pts.append(frame_pts[place % len(frame_pts)])
    assert log.place(frame_pts).num_lost == 0 or np.ptp(steps) > 0


@given(st.lists(st.integers(1, 5), min_size=2, max_size=30), st.integers(1, 8))
def test_a_long_list_of_damage_is_shortened_where_it_is_densest(steps, max_ranges):
    frames = np.cumsum([0, *steps])[: len(steps) // 2 * 2].reshape(-1, 2)
    expected = [tuple(one) for one in frames.tolist()]
    while len(expected) > max_ranges:
        gaps = [after[0] - before[1] for before, after in pairwise(expected)]
        # Among equal gaps the last is closed first.
        nearest = max(range(len(gaps)), key=lambda index: (-gaps[index], index))
        expected[nearest : nearest + 2] = [(expected[nearest][0], expected[nearest + 1][1])]
    features = make_features(num_frames=200, damage_frames=frames, damage_seconds=frames / 25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(said, "MAX_RANGES", max_ranges)
        ranges = damaged_frames(features)
    assert [(one.start_frame, one.stop_frame) for one in ranges] == expected
    assert [(one.start_seconds, one.stop_seconds) for one in ranges] == [
        (start / 25, stop / 25) for start, stop in expected
    ]

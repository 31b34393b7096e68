"""The contract of every decoder, and files that none of them may accept as a video."""

import sys
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional
from video_files import NUM_FRAMES, UNEVEN_TIMES, damage, draw_frames, encode, truncate

from vigil.extract.damage import Damage
from vigil.extract.decode.decoder import VideoInfo, frame_size, probe
from vigil.extract.decode.decoder_av import AvDecoder, NvdecDecoder
from vigil.extract.decode.decoder_decord import DecordDecoder
from vigil.extract.decode.decoder_pictures import probe_pictures
from vigil.extract.decode.decoder_table import (
    AUTO,
    DECODERS,
    for_file,
    for_folder,
    last_resort,
    load_decoders,
)
from vigil.extract.decode.timeline import frame_edges
from vigil.extract.errors import UserError, VideoError

FAST_START = {"movflags": "faststart"}
MJPEG = {"codec": "mjpeg", "pixel_format": "yuvj420p"}
PLAIN = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.mov": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": MJPEG,
    "uneven.mkv": {"times": UNEVEN_TIMES},
}
SPECIAL = {"rotated.mp4": {"rotation": 90}, "full_chroma.mp4": {"pixel_format": "yuv444p"}}
"""File name -> its encoding. All hold the same 20 pictures of 256 x 240."""

CONTAINERS = {
    "flipping_a_pancake.mkv": 310,
    "iio_realshort.mp4": 36,
    "intel_again.mkv": 77,
    "intel_bottle-detection.mp4": 1189,
    "intel_car-detection.mp4": 377,
    "mm_S001C001P001R001A001_rgb.avi": 103,
    "mm_demo.mp4": 280,
    "mm_demo_spatiotemporal_det.mp4": 57,
    "mm_part_0.mp4": 32,
    "mm_test.avi": 164,
    "mm_test.mp4": 300,
    "mm_test_video_structuralize.mp4": 300,
    "tc_bt709_full_range.mp4": 30,
    "tc_h264_10bits.mp4": 30,
    "tc_h265_10bits.mp4": 30,
    "tc_h265_video.mp4": 10,
    "tc_nasa_13013.mp4": 390,
    "tc_var_fps_video.mp4": 300,
    "unordered.mov": 4,
    "vf_v_GGSY1Qvo990.mp4": 355,
    "video_0.mov": 3,
    "video_90.mov": 3,
    "video_180.mov": 3,
    "video_270.mov": 3,
    "yj_fi205.avi": 150,
}
"""File of the development data -> its number of frames."""


@dataclass
class Decoded:
    frames: np.ndarray
    info: VideoInfo
    timestamps: np.ndarray
    damage: Damage

    @property
    def num_damaged(self):
        return self.damage.num_damaged

    @property
    def edges(self):
        return frame_edges(self.timestamps, self.info)


def decode(opener, path, size=None) -> Decoded:
    info = probe(path)
    decoder = opener(path, info, *(size or (info.width, info.height)))
    try:
        frames = np.array(list(decoder))
        return Decoded(frames, info, decoder.timestamps(), decoder.damage())
    finally:
        decoder.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture
def video(folder):
    """Return a function that encodes a video of `PLAIN` or `SPECIAL` on its first use."""

    def make(name):
        path = folder / name
        return path if path.exists() else encode(path, **(PLAIN | SPECIAL)[name])

    return make


USED_BY_AUTO = [row for row in DECODERS if row.opener_for_auto]


def opened(row, path, *others):
    """Open a video, or skip the test if this decoder, used only on request, cannot do it here."""
    try:
        return row.open(path, *others)
    except VideoError as error:
        if row in USED_BY_AUTO:
            raise
        pytest.skip(error.reason)


class TestTable:
    def test_auto_tries_decord_and_then_pyav_and_a_requested_decoder_has_no_substitute(self):
        assert [row.name for row in for_file(AUTO)] == ["decord", "pyav"]
        for row in DECODERS:
            assert for_file(row.name) == (row,)

    def test_after_a_death_auto_resorts_to_pyav(self):
        names = [AUTO, "decord", "pyav", "nvdec"]
        assert list(map(last_resort, names)) == ["pyav", "decord", "pyav", "nvdec"]

    def test_pyav_reads_folders_of_pictures(self, tmp_path):
        drawn = draw_frames(2)
        for number, picture in enumerate(drawn):
            Image.fromarray(picture).save(tmp_path / f"{number}.png")
        info = probe_pictures(tmp_path, 25.0)
        decoder = for_folder().open(tmp_path, info, info.width, info.height)
        assert (for_folder().name, decoder.name) == ("pyav", "pyav")
        np.testing.assert_array_equal(list(decoder), drawn)

    def test_a_decoder_that_is_not_installed_is_named_and_never_passed_over(
        self, video, monkeypatch
    ):
        monkeypatch.setitem(sys.modules, "decord", None)
        monkeypatch.delitem(sys.modules, DecordDecoder.__module__)
        path = video("h264.mp4")
        message = r"^the decoder decord cannot be loaded \(.*\): install it, or use another"
        for name in (AUTO, "decord"):
            with pytest.raises(UserError, match=message):
                for_file(name)[0].open(path, probe(path), 256, 240)
            with pytest.raises(UserError, match=message):
                load_decoders(name)
        load_decoders("pyav")
        assert decode(for_file("pyav")[0].open, path).num_damaged == 0


class TestDecoderContract:
    @pytest.fixture(params=DECODERS, ids=lambda row: row.name)
    def row(self, request):
        return request.param

    @pytest.fixture
    def decoder(self, row):
        return partial(opened, row)

    def test_has_the_name_of_its_row(self, row, decoder, video):
        path = video("h264.mp4")
        with closing(decoder(path, probe(path), 256, 240)) as it:
            assert it.name == row.name

    @pytest.mark.parametrize("name", PLAIN)
    def test_yields_every_picture_once_in_order_as_rgb(self, decoder, video, name):
        decoded = decode(decoder, video(name))
        drawn = np.array(draw_frames())
        assert decoded.frames.shape == drawn.shape
        assert decoded.frames.dtype == np.uint8
        assert decoded.num_damaged == 0
        distances = np.abs(decoded.frames[:, None].astype(np.int16) - drawn).mean(axis=(2, 3, 4))
        np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(NUM_FRAMES))
        assert distances.diagonal().max() < 15

    @pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi"])
    def test_decoding_twice_gives_the_same(self, decoder, video, name):
        first, second = decode(decoder, video(name)), decode(decoder, video(name))
        np.testing.assert_array_equal(first.frames, second.frames)
        np.testing.assert_array_equal(first.timestamps, second.timestamps)

    @pytest.mark.parametrize("size", [(274, 256), (239, 224)])
    def test_resizes_while_decoding(self, decoder, video, size):
        resized = decode(decoder, video("h264.mp4"), size).frames
        assert resized.shape == (NUM_FRAMES, *size[::-1], 3)
        native = decode(decoder, video("h264.mp4")).frames.mean(axis=-1)
        expected = functional.interpolate(
            torch.from_numpy(native)[None], size[::-1], mode="bilinear", align_corners=False
        )
        assert np.abs(expected[0].numpy() - resized.mean(axis=-1)).mean() < 2

    @pytest.mark.parametrize("rotation", [90, 180, 270])
    def test_applies_rotation(self, row, decoder, video, folder, rotation):
        path = folder / f"{row.name}_{rotation}.mp4"
        decoded = decode(decoder, encode(path, rotation=rotation))
        upright = decode(decoder, video("h264.mp4")).frames
        # The container stores the rotation counter-clockwise, as numpy does.
        expected = np.rot90(upright, rotation // 90, axes=(1, 2))
        assert (decoded.info.width, decoded.info.height) == expected.shape[2:0:-1]
        np.testing.assert_array_equal(decoded.frames, expected)

    def test_rotation_comes_before_resizing(self, row, decoder, folder):
        path = folder / f"{row.name}_tall.mp4"
        info = probe(encode(path, rotation=90))
        assert frame_size(info.width, info.height, 224) == (224, 239)
        assert decode(decoder, path, (224, 239)).frames.shape[1:] == (239, 224, 3)

    def test_uses_the_times_of_the_container(self, decoder, video):
        decoded = decode(decoder, video("uneven.mkv"))
        times = np.array(UNEVEN_TIMES) / 1000
        np.testing.assert_allclose(decoded.edges[:-1], times, atol=1e-6)
        assert decoded.edges[-1] == pytest.approx(times[-1] + 1 / decoded.info.fps, abs=1e-6)

    def test_the_first_frame_is_at_zero(self, row, decoder, folder):
        path = folder / f"{row.name}_late.mkv"
        decoded = decode(decoder, encode(path, times=[700 + time for time in UNEVEN_TIMES]))
        np.testing.assert_allclose(decoded.edges[:-1], np.array(UNEVEN_TIMES) / 1000, atol=1e-6)

    @pytest.mark.parametrize("name", ["mpeg4.avi", "mjpeg.avi"])
    def test_without_container_times_the_frame_rate_is_used(self, decoder, video, name):
        decoded = decode(decoder, video(name))
        assert not decoded.info.has_timestamps
        np.testing.assert_allclose(decoded.edges, np.arange(NUM_FRAMES + 1) / 25)

    @pytest.mark.parametrize("num_frames", [1, 2, 3])
    @pytest.mark.parametrize("name", ["mp4", "mkv"])
    def test_reads_the_shortest_videos(self, row, decoder, folder, name, num_frames):
        path = folder / f"{row.name}_{num_frames}.{name}"
        decoded = decode(decoder, encode(path, draw_frames(num_frames)))
        np.testing.assert_allclose(decoded.edges, np.arange(num_frames + 1) / 25, atol=1e-3)

    def test_reads_another_video_after_a_damaged_one(self, row, decoder, video, folder):
        path = damage(encode(folder / f"{row.name}_damaged.mp4"), [8])
        if row.name == "decord":
            with pytest.raises(VideoError, match="decord stopped"):
                decode(decoder, path)
        else:
            assert decode(decoder, path).num_damaged >= 1
        assert decode(decoder, video("h264.mp4")).num_damaged == 0


def assert_same_pixels(path, short_side, num_frames=None):
    """Require equal pixels of all decoders, even though their FFmpeg versions are years apart."""
    info = probe(path)
    if not info.is_plain:  # its pixels are not square: compare them as they are stored
        with av.open(str(path)) as container:
            stored = container.streams.best("video")
            info = replace(info, width=stored.width, height=stored.height, is_plain=True)
    width, height = frame_size(info.width, info.height, short_side)
    readers = [row.open(path, info, width, height) for row in USED_BY_AUTO]
    num_compared = 0
    for first, *others in islice(zip(*readers, strict=True), num_frames):
        assert first.shape == (height, width, 3)
        assert all(np.array_equal(first, other) for other in others), num_compared
        num_compared += 1
    for reader in readers:
        assert len(reader.timestamps()) == num_compared
        assert reader.damage().num_damaged == 0
        reader.close()
    return num_compared


@pytest.mark.parametrize("short_side", [None, 224, 256])
@pytest.mark.parametrize("name", [*PLAIN, *SPECIAL])
def test_both_decoders_give_the_same_pixels(video, name, short_side):
    assert assert_same_pixels(video(name), short_side) == NUM_FRAMES


@pytest.mark.parametrize("name", CONTAINERS)
def test_both_decoders_give_the_same_frames_of_real_files(shared_data, name):
    path = shared_data / "fixtures" / "containers" / name
    assert assert_same_pixels(path, None) == CONTAINERS[name]
    assert_same_pixels(path, 256, num_frames=20)


def test_the_best_of_several_streams_is_decoded(folder):
    better = draw_frames(12, 320, 240, seed=1)
    path = encode(folder / "streams.mkv", draw_frames(12, 256, 224), second=better)
    with av.open(str(path)) as container:
        best = container.streams.best("video")
        size, disposition = (best.width, best.height), best.disposition
    assert not disposition  # neither is marked as default, so all FFmpeg versions agree
    for row in USED_BY_AUTO:
        assert decode(row.open, path).frames.shape[2:0:-1] == size


def test_decord_refuses_a_file_whose_default_stream_it_might_ignore(folder):
    """decord's FFmpeg ignores the default mark and would use the larger stream."""
    path = encode(
        folder / "default.mp4", draw_frames(12, 256, 224), second=draw_frames(12, 320, 240, seed=1)
    )
    assert decode(AvDecoder, path).frames.shape == (12, 224, 256, 3)
    with pytest.raises(VideoError, match="may choose another video stream"):
        decode(DecordDecoder, path)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("rotation", [0, 90])
def test_both_decoders_give_the_same_pixels_of_reduced_frames(folder, pixel_format, rotation):
    path = folder / f"large_{pixel_format}_{rotation}.mp4"
    width, height = (448, 336) if rotation == 0 else (336, 448)
    if not path.exists():
        pictures = draw_frames(4, width, height)
        encode(path, pictures, pixel_format=pixel_format, rotation=rotation)
    short_sides = (224, 226, 229, 256, 261)
    widths = {frame_size(448, 336, side)[0] % 2 for side in short_sides}
    assert widths == {0, 1}  # an odd width is scaled to planar RGB
    for short_side in short_sides:
        assert assert_same_pixels(path, short_side) == 4


DAMAGE = {
    "zeroed": lambda path: damage(path, [8]),
    "overwritten": lambda path: damage(path, [8], fill=255, keep=0.3),
    "truncated": lambda path: truncate(path, 0.6),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(
    ("name", "encoding"),
    [("a.mp4", {"options": FAST_START}), ("a.mkv", {}), ("a.avi", {"codec": "mpeg4"})],
)
def test_damage_stops_decord_and_is_counted_by_pyav(tmp_path, kind, name, encoding):
    path = encode(tmp_path / name, **encoding)
    whole = decode(AvDecoder, path).frames
    DAMAGE[kind](path)
    with pytest.raises(VideoError, match="decord") as caught:
        decode(DecordDecoder, path)
    assert caught.value.decoder == "decord"
    assert "/" not in caught.value.reason.partition("(")[0]
    decoded = decode(AvDecoder, path)
    assert decoded.num_damaged >= 1
    np.testing.assert_array_equal(decoded.frames[:2], whole[:2])


def test_decord_must_not_repeat_frames(tmp_path, monkeypatch):
    """Two frames have the same presentation time: decord would return one of them twice."""
    path = encode(tmp_path / "a.mp4", options=FAST_START)
    content = bytearray(path.read_bytes())
    content[content.index(b"ctts") + 18] = 181  # one of the presentation times
    path.write_bytes(content)
    with pytest.raises(VideoError, match="decord finds 20 frames in 19 packets"):
        decode(DecordDecoder, path)
    monkeypatch.setattr(DecordDecoder, "_why_wrong", lambda *_: None)
    with pytest.raises(VideoError, match="more than 0 duplicate frames"):
        decode(DecordDecoder, path)
    assert len(decode(AvDecoder, path).frames) == NUM_FRAMES - 1


def test_a_packet_that_decodes_to_nothing_is_a_counted_lost_frame(tmp_path):
    path = damage(encode(tmp_path / "a.avi", **MJPEG), [3, 7], keep=0)
    decoded = decode(AvDecoder, path)
    assert (len(decoded.frames), decoded.num_damaged) == (NUM_FRAMES - 2, 2)


def test_an_error_that_is_only_logged_counts_as_damage(tmp_path):
    path = damage(encode(tmp_path / "a.avi", **MJPEG), [8], fill=255, keep=0.3)
    decoded = decode(AvDecoder, path)
    assert (len(decoded.frames), decoded.num_damaged) == (NUM_FRAMES, 1)


def test_a_real_damaged_file(shared_data):
    path = shared_data / "fixtures" / "containers" / "corrupted.mp4"
    with pytest.raises(VideoError, match="decord stopped") as caught:
        decode(DecordDecoder, path)
    assert caught.value.frame_index <= 28
    decoded = decode(AvDecoder, path)
    assert len(decoded.frames) == 49
    assert decoded.num_damaged >= 1


def test_a_real_file_that_decord_cannot_open(shared_data):
    path = shared_data / "fixtures" / "containers" / "tc_av1_video.mkv"
    with pytest.raises(VideoError, match=r"decord cannot open it: .*cannot find video stream"):
        decode(DecordDecoder, path)
    decoded = decode(AvDecoder, path)
    assert (len(decoded.frames), decoded.num_damaged) == (125, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there may be a hardware decoder")
def test_nvdec_without_a_hardware_decoder_is_refused(video):
    path = video("h264.mp4")
    with pytest.raises(VideoError, match=r"no NVIDIA GPU .* use the decoder auto") as caught:
        NvdecDecoder(path, probe(path), 256, 240)
    assert caught.value.decoder == "nvdec"


def refused(path, message):
    with pytest.raises(VideoError, match=message):
        probe(path)


def test_files_that_are_not_videos_are_refused(tmp_path):
    path = tmp_path / "a.mp4"
    refused(path, "there is no such file")
    refused(tmp_path, "there is no such file")
    path.write_bytes(b"")
    refused(path, "the file is empty")
    path.write_text("a list of things to buy\n" * 100)
    refused(path, "not a video that FFmpeg can open")
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refused(path, "not a video that FFmpeg can open")


def test_a_file_without_a_video_stream_is_refused(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", 8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    refused(path, "holds no video stream")


@pytest.mark.parametrize(("name", "keep"), [("a.mp4", 0), ("a.avi", 0)])
def test_a_video_without_a_decodable_frame_is_refused(tmp_path, name, keep):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = encode(tmp_path / name, codec=codec, options=FAST_START if codec == "libx264" else {})
    damage(path, list(range(NUM_FRAMES)), keep=keep)
    refused(path, "no frame can be decoded")


def test_a_header_without_frames_is_refused(tmp_path):
    path = encode(tmp_path / "a.mp4", options=FAST_START)
    path.write_bytes(path.read_bytes().partition(b"mdat")[0] + b"mdat")
    refused(path, "no frame can be decoded|cannot|not a video")


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{name}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{name}'\n",
    ],
)
def test_a_playlist_is_refused_instead_of_opening_other_files(tmp_path, playlist):
    other = encode(tmp_path / "other.mp4")
    path = tmp_path / "a.mp4"
    for name in (other.name, str(other), f"file://{other}"):
        path.write_text(playlist.format(name=name))
        refused(path, "it is a playlist, which would open other files: name the videos")


def test_probing_returns_what_the_container_declares(video):
    assert probe(video("h264.mp4")) == VideoInfo(256, 240, 25.0, NUM_FRAMES, NUM_FRAMES / 25)
    assert probe(video("h264.mkv")).num_frames_container == 0


@pytest.mark.parametrize("name", ["-x.mp4", "a b'%d?.mp4", "ä\n.mp4"])
def test_any_file_name_can_be_decoded(video, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(video("h264.mp4").read_bytes())
    for kind in (AvDecoder,) if "%" in name else (DecordDecoder, AvDecoder):
        assert len(decode(kind, path).frames) == NUM_FRAMES


SIDES = st.integers(16, 4000)


@given(SIDES, SIDES, st.none() | st.integers(224, 600))
def test_resizing_keeps_the_proportion(width, height, short_side):
    resized = frame_size(width, height, short_side)
    short = short_side or max(min(width, height), 224)
    assert min(resized) == short
    scale = short / min(width, height)
    assert abs(resized[0] - width * scale) <= 0.5
    assert abs(resized[1] - height * scale) <= 0.5
    assert frame_size(height, width, short_side) == resized[::-1]


def test_resizing_follows_the_contract():
    assert frame_size(320, 240, 256) == (341, 256)
    assert frame_size(1080, 1920, 256) == (256, 455)
    assert frame_size(320, 240, None) == (320, 240)
    assert frame_size(200, 100, None) == (448, 224)


INFO = VideoInfo(320, 240, 25.0, 0)


@given(st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=50))
def test_edges_start_at_zero_and_never_decrease(times):
    edges = frame_edges(np.array(times), INFO)
    assert len(edges) == len(times) + 1
    assert edges[0] == 0
    assert (np.diff(edges) >= 0).all()
    assert np.isfinite(edges).all()


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=50), st.floats(-100, 100))
def test_edges_are_the_times_since_the_first_frame(steps, begin):
    times = begin + np.cumsum([0, *steps])
    edges = frame_edges(times, INFO)
    np.testing.assert_allclose(edges[:-1], times - times[0])
    assert edges[-1] == pytest.approx(times[-1] - times[0] + 1 / 25)


@pytest.mark.parametrize(
    "times", [[0, np.nan, 1], [np.inf, 0, 1], [0, 1e9, 2], [-9.2e12, 0.04, 0.08]]
)
def test_absurd_times_are_replaced_by_the_frame_rate(times):
    np.testing.assert_allclose(frame_edges(np.array(times), INFO), [0, 0.04, 0.08, 0.12])


def test_without_times_edges_follow_the_frame_rate():
    info = replace(INFO, has_timestamps=False)
    np.testing.assert_allclose(frame_edges(np.array([0, 5.0]), info), [0, 0.04, 0.08])

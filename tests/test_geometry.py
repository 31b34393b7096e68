"""Frames as they are shown: turned, mirrored, stretched and deinterlaced, by every way to read."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph
from builders import SPEC, make_features
from fake_backbone import BACKBONE, mean_colours
from PIL import Image, ImageOps
from test_parts import assert_same_as_unsplit
from video_files import NUM_FRAMES, draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode.decoder import frame_size, probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.decoder_pictures import PictureDecoder, probe_pictures
from vigil.extract.decode.parts import split
from vigil.extract.decode.reader import Finished, ReadingOptions, Restart, read_video
from vigil.extract.errors import UserError, VideoError
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.source import SourceVideo, identify
from vigil.extract.store import read_features
from vigil.pipeline.cli import main
from vigil.pipeline.scores.frame_warnings import frame_warnings


def decode(path, deinterlace="auto", size=None):
    info = probe(path)
    decoder = AvDecoder(path, info, *(size or (info.width, info.height)), deinterlace)
    frames = np.array(list(decoder))
    assert len(decoder.timestamps()) == len(frames)
    assert decoder.damage().num_damaged == 0
    decoder.close()
    return frames


def read(path, decoder="auto", **options):
    video = SourceVideo(path, path.name)
    messages = list(read_video(video, ReadingOptions(ClipGrid(8, 8), None, **options), decoder))
    assert isinstance(messages[-1], Finished)
    return messages


def with_matrix(path, matrix, codec="libx264", frames=None):
    """Write a video whose container has a display matrix, in units of 1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 25)
        stream.pix_fmt = "yuv420p"
        pictures = draw_frames(4) if frames is None else frames
        stream.height, stream.width = pictures[0].shape[:2]
        (a, b), (c, d) = matrix
        entries = [a, b, 0, c, d, 0, 0, 0, 1 << 14]
        stream.set_display_matrix([round(entry * 65536) for entry in entries])
        for pixels in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def as_shown(frame, matrix):
    """Move every pixel (x, y) to (ax + cy, bx + dy), the definition of the display matrix."""
    (a, b), (c, d) = matrix
    height, width = frame.shape[:2]
    y, x = np.mgrid[:height, :width]
    new_x, new_y = a * x + c * y, b * x + d * y
    new_x, new_y = new_x - new_x.min(), new_y - new_y.min()
    shown = np.empty((new_y.max() + 1, new_x.max() + 1, 3), np.uint8)
    shown[new_y, new_x] = frame
    return shown


MATRICES = [
    (first, second)
    for first in ((1, 0), (-1, 0), (0, 1), (0, -1))
    for second in ((1, 0), (-1, 0), (0, 1), (0, -1))
    if first[0] * second[1] != first[1] * second[0]
]


class TestOrientation:
    @pytest.mark.parametrize("matrix", MATRICES)
    @pytest.mark.parametrize("ending", ["mp4", "mov"])
    def test_every_matrix_of_right_angles_moves_the_pixels(self, tmp_path, matrix, ending):
        assert len(MATRICES) == 8
        stored = decode(with_matrix(tmp_path / f"plain.{ending}", ((1, 0), (0, 1))))
        path = with_matrix(tmp_path / f"a.{ending}", matrix)
        np.testing.assert_array_equal(decode(path), [as_shown(one, matrix) for one in stored])
        *clips, finished = read(path)
        shown = as_shown(stored[0], matrix)
        assert (finished.info.height, finished.info.width) == shown.shape[:2]
        np.testing.assert_array_equal(clips[-1].pixels[0], shown)
        is_mirrored = np.linalg.det(matrix) < 0
        assert finished.decoder == ("pyav" if is_mirrored else "decord")
        assert any(isinstance(one, Restart) for one in clips) == is_mirrored
        assert finished.info.rotation_ignored == 0

    @pytest.mark.parametrize("name", ["h264.mkv", "h264.ts"])
    def test_a_matrix_in_the_codec_is_applied_without_decord(self, tmp_path, name):
        """As SEI: turned by a quarter counter-clockwise."""
        plain, path = encode(tmp_path / f"plain_{name}"), tmp_path / name
        add = "h264_metadata=display_orientation=insert:rotate=90"
        with av.open(str(plain)) as old, av.open(str(path), "w") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            insert = av.bitstream.BitStreamFilterContext(add, old.streams.video[0], stream)
            for packet in old.demux(video=0):
                for changed in insert.filter(packet if packet.size else None):
                    changed.stream = stream
                    new.mux(changed)
        expected = np.rot90(decode(plain), 1, axes=(1, 2))
        np.testing.assert_array_equal(decode(path), expected)
        assert read(path)[-1].decoder == "pyav"

    @pytest.mark.parametrize(
        ("degrees", "turns", "ignored"), [(7, 0, 7), (-83, 3, 7), (135.5, 2, -44.5)]
    )
    @pytest.mark.parametrize("mirror", [1, -1])
    def test_other_angles_are_rounded_and_told(self, tmp_path, degrees, turns, ignored, mirror):
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        path = with_matrix(tmp_path / "a.mp4", ((cos, sin), (-sin * mirror, cos * mirror)))
        info = probe(path)
        assert info.rotation_ignored == pytest.approx(ignored, abs=0.01)
        (a, b) = [(1, 0), (0, 1), (-1, 0), (0, -1)][turns]
        stored = decode(with_matrix(tmp_path / "plain.mp4", ((1, 0), (0, 1))))
        expected = [as_shown(one, ((a, b), (-b * mirror, a * mirror))) for one in stored]
        np.testing.assert_array_equal(decode(path), expected)
        features = make_features(rotation_ignored=info.rotation_ignored)
        assert any("asks to turn its frames" in one for one in frame_warnings(features))
        assert read(path)[-1].decoder == "pyav"

    def test_a_matrix_that_shows_nothing_is_ignored(self, tmp_path):
        path = with_matrix(tmp_path / "a.mkv", ((0, 0), (0, 0)))
        assert probe(path).rotation_ignored == 0
        assert frame_warnings(make_features(rotation_ignored=0.4)) == []

    @pytest.mark.parametrize("name", ["hflip.mp4", "vflip.mp4"])
    def test_real_files(self, shared_data, name):
        folder = shared_data / "trouble"
        with av.open(str(folder / name)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        axis = 2 if name == "hflip.mp4" else 1
        difference = np.abs(decode(folder / name).astype(int) - np.flip(frames, axis))
        assert (len(frames), difference.mean() < 2) == (60, True)


class TestPictures:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
    def test_exif_is_applied_as_viewers_do(self, tmp_path, orientation, ending):
        exif = Image.Exif()
        exif[274] = orientation
        for index, pixels in enumerate(draw_frames(2)):
            Image.fromarray(pixels).save(tmp_path / f"{index}.{ending}", exif=exif)
        info = probe_pictures(tmp_path, 25.0)
        decoded = list(PictureDecoder(tmp_path, info, info.width, info.height))[1]
        with Image.open(tmp_path / f"1.{ending}") as picture:
            expected = np.asarray(ImageOps.exif_transpose(picture))
        assert (info.height, info.width) == expected.shape[:2]
        assert np.abs(decoded.astype(int) - expected).mean() < (6 if ending == "jpg" else 1)

    def test_a_picture_on_its_side_among_upright_ones_has_another_size(self, tmp_path):
        exif = Image.Exif()
        exif[274] = 6
        first, second = map(Image.fromarray, draw_frames(2))
        first.save(tmp_path / "0.jpg")
        second.save(tmp_path / "1.jpg", exif=exif)
        with pytest.raises(VideoError, match=r"1\.jpg has 240x256 pixels, but the .* have 256x240"):
            list(PictureDecoder(tmp_path, probe_pictures(tmp_path, 25.0), 256, 240))


class TestPixelAspect:
    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
    @pytest.mark.parametrize("aspect", [Fraction(2), Fraction(8, 9), Fraction(64, 45)])
    def test_frames_are_stretched_to_square_pixels(self, tmp_path, name, aspect):
        path = with_aspect(tmp_path / name, aspect)
        info = probe(path)
        assert (info.width, info.height) == (round(256 * aspect), 240)
        *clips, finished = read(path)
        width, height = frame_size(info.width, info.height, None)
        assert clips[1].pixels.shape == (8, height, width, 3)
        assert finished.decoder == "pyav"
        expected = Image.fromarray(draw_frames(1)[0]).resize((width, height), Image.BILINEAR)
        assert np.abs(clips[1].pixels[0].astype(int) - np.asarray(expected)).mean() < 6

    def test_a_turned_frame_is_stretched_before_it_is_turned(self, tmp_path):
        path = with_aspect(tmp_path / "a.mp4", Fraction(2), rotation=90)
        assert (probe(path).width, probe(path).height) == (240, 512)

    def test_a_real_file(self, shared_data):
        *_, finished = read(shared_data / "trouble" / "sar.mp4")
        assert (finished.info.width, finished.info.height) == (640, 240)


def with_aspect(path, aspect, rotation=0):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 256, 240
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for pixels in draw_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


MPEG2 = {"codec": "mpeg2video", "codec_options": {"flags": "+ildct+ilme", "bf": "2", "g": "12"}}
INTERLACED = {
    "tff.mp4": {"codec_options": {"x264-params": "tff=1:keyint=12"}},
    "bff.ts": {"codec_options": {"x264-params": "bff=1:keyint=12"}},
    "mpeg2.ts": MPEG2,
    "mpeg2.mpg": MPEG2,
    "mpeg4.avi": {"codec": "mpeg4", "codec_options": {"flags": "+ildct+ilme"}},
}
PROGRESSIVE = {
    "h264.mp4": {},
    "jvt.mp4": {"codec_options": {"x264-params": "cqm=jvt"}},
    "full.mkv": {"pixel_format": "yuv444p"},
    "ten.mp4": {"pixel_format": "yuv420p10le"},
    "base.ts": {"codec_options": {"profile": "baseline"}},
    "mpeg2.mkv": {"codec": "mpeg2video"},
}


def weave(num_frames=NUM_FRAMES):
    """Frames of two moments: the first in even lines, the second, a step later, in odd ones."""
    moments = draw_frames(2 * num_frames)
    frames = []
    for first, second in zip(moments[::2], moments[1::2], strict=True):
        frames.append(first.copy())
        frames[-1][1::2] = second[1::2]
    return frames


def filtered(path):
    """Decode a video with one filter graph for all its frames, as the program ffmpeg would."""
    graph, shown = Graph(), []
    with av.open(str(path)) as container:
        nodes = [
            graph.add_buffer(template=container.streams.video[0]),
            graph.add("bwdif", "mode=send_frame:deint=interlaced"),
            graph.add("scale", "256:240:flags=bilinear"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        for frame in container.decode(video=0):
            graph.vpush(frame)
    graph.vpush(None)
    while True:
        try:
            shown.append(graph.vpull().to_ndarray())
        except (av.error.EOFError, av.error.BlockingIOError):
            return np.array(shown)


def combing(frames):
    """How much lines differ from those beside them, more than from those two lines away."""
    lines = np.array(frames).astype(float)
    beside = np.abs(lines[:, 1:-1] - (lines[:, :-2] + lines[:, 2:]) / 2).mean()
    return beside - np.abs(lines[:, 2:] - lines[:, :-2]).mean()


class TestInterlaced:
    @pytest.mark.parametrize("name", INTERLACED)
    def test_flagged_frames_are_deinterlaced_one_for_one(self, tmp_path, name):
        path = encode(tmp_path / name, weave(), **INTERLACED[name])
        frames, stored = decode(path), decode(path, "off")
        np.testing.assert_array_equal(frames, filtered(path))
        assert len(frames) == len(stored) == NUM_FRAMES
        assert combing(stored) > 1 > combing(frames)
        finished, off = read(path)[-1], read(path, "pyav", deinterlace="off")[-1]
        assert finished.decoder == "pyav"
        np.testing.assert_allclose(finished.timestamps, off.timestamps, atol=1e-6)

    @pytest.mark.parametrize("name", PROGRESSIVE)
    def test_other_videos_are_as_before(self, tmp_path, name):
        path = encode(tmp_path / name, **PROGRESSIVE[name])
        assert not probe(path).may_be_interlaced
        np.testing.assert_array_equal(decode(path), decode(path, "off"))
        assert read(path)[-1].decoder == "decord"
        assert (decode(path, "on") != decode(path, "off")).any()
        assert read(path, deinterlace="on")[-1].decoder == "pyav"

    @pytest.mark.parametrize("num_frames", [1, 2])
    def test_the_shortest_videos(self, tmp_path, num_frames):
        path = encode(tmp_path / "a.mp4", weave(num_frames), **INTERLACED["tff.mp4"])
        np.testing.assert_array_equal(decode(path), filtered(path))

    @pytest.mark.parametrize("begins_interlaced", [True, False])
    def test_one_recording_may_mix_both(self, tmp_path, begins_interlaced):
        """The result does not depend on which frames went into the filter before."""
        path = mixed(tmp_path, begins_interlaced)
        frames = decode(path)
        assert len(frames) >= 2 * NUM_FRAMES - 1  # FFmpeg may lose one where the header changes
        np.testing.assert_array_equal(frames, filtered(path))

    @pytest.mark.parametrize("name", ["tff.mp4", "mpeg2.ts"])
    def test_parts_are_the_whole(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr("vigil.extract.decode.parts.MIN_LEAD_FRAMES", 16)
        monkeypatch.setattr("vigil.extract.decode.parts.SEEK_MARGIN_SECONDS", 0.7)
        path, grid = encode(tmp_path / name, weave(122), **INTERLACED[name]), ClipGrid(8, 8)
        identity = identify(SourceVideo(path, "a.mp4"))
        parts = split(path, probe(path), identity, grid, 4)
        assert len(parts) >= 2
        assert_same_as_unsplit(path, parts, grid)


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_the_command_deinterlaces_and_records_it(tmp_path, monkeypatch, mode):
    monkeypatch.setitem(BACKBONES, "fake", BACKBONE)
    path = encode(tmp_path / "videos" / "a.mp4", weave(), **INTERLACED["tff.mp4"])
    settings = [
        "--backbone",
        "fake",
        "--weights",
        "random",
        "--precision",
        "fp32",
        "--workers",
        "0",
    ]
    settings += ["--device", "cpu", "--out", str(tmp_path / "features"), "--deinterlace", mode]
    assert main(["extract", str(path.parent), *settings]) == 0
    features = read_features(tmp_path / "features" / "a.mp4.h5")
    assert features.spec.deinterlace == mode
    assert features.decoder == ("decord" if mode == "off" else "pyav")
    frames = list(decode(path, mode, (273, 256)))
    clip = np.stack(frames + frames[-1:] * 44)[:, 16:240, 24:248]
    assert features.features[0, 0] == pytest.approx(mean_colours(clip), rel=1e-3)


def test_an_unknown_way_to_deinterlace_is_refused():
    with pytest.raises(UserError, match="deinterlace 'yes' is unknown: use auto, on or off"):
        replace(SPEC, deinterlace="yes")


def mixed(folder, begins_interlaced):
    """Write a transport stream of an interlaced and a progressive recording."""
    interlaced = encode(folder / "i.ts", weave(), **MPEG2)
    progressive = encode(folder / "p.ts", codec="mpeg2video", codec_options={"bf": "2"})
    pieces = [interlaced, progressive] if begins_interlaced else [progressive, interlaced]
    path = folder / "mixed.ts"
    with av.open(str(path), "w") as new:
        stream = None
        for number, piece in enumerate(pieces):
            with av.open(str(piece)) as old:
                if stream is None:
                    stream = new.add_stream_from_template(old.streams.video[0])
                for packet in old.demux(video=0):
                    if packet.size:
                        packet.pts += number * NUM_FRAMES * 3600
                        packet.dts += number * NUM_FRAMES * 3600
                        packet.stream = stream
                        new.mux(packet)
    return path

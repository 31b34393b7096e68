"""Streams that appear late or change, pictures that are not videos, and saved camera streams."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image
from video_files import NUM_FRAMES, draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode.decoder import probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.decoder_pictures import PictureDecoder, probe_pictures
from vigil.extract.decode.frame_counts import count_frames
from vigil.extract.decode.parts import split
from vigil.extract.decode.reader import Finished, ReadingOptions, read_video
from vigil.extract.errors import VideoError
from vigil.extract.source import SourceVideo, identify

GRID = ClipGrid(8, 8)


def decode(path):
    info = probe(path)
    decoder = AvDecoder(path, info, info.width, info.height)
    frames = np.array(list(decoder))
    decoder.close()
    return frames, decoder.damage()


def read(path, short_side=None, **options):
    video = SourceVideo(path, path.name)
    messages = list(read_video(video, ReadingOptions(GRID, short_side, **options)))
    assert isinstance(messages[-1], Finished)
    return messages[-1]


def recording(folder, number, codec="libx264", first_frame=0):
    """Write a transport stream whose streams have identifiers of their own."""
    path = folder / f"{number}.ts"
    options = {
        "mpegts_start_pid": str(0x100 * (number + 1)),
        "mpegts_pmt_start_pid": str(0x1000 + 0x100 * number),
    }
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, 25)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 256, 240
        stream.options = {"bf": "0"}  # or FFmpeg would shift the times of the first recording
        for index, pixels in enumerate(draw_frames(seed=number)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = first_frame + index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def joined(folder, paths):
    path = folder / "joined.ts"
    path.write_bytes(b"".join(one.read_bytes() for one in paths))
    return path


class TestIdentifiers:
    @pytest.mark.parametrize("num_recordings", [2, 3])
    def test_a_video_goes_on_under_another_identifier(self, tmp_path, num_recordings):
        paths = [recording(tmp_path, n, first_frame=n * NUM_FRAMES) for n in range(num_recordings)]
        path = joined(tmp_path, paths)
        frames, damage = decode(path)
        np.testing.assert_array_equal(frames, np.concatenate([decode(one)[0] for one in paths]))
        assert damage.num_damaged == 0
        finished = read(path)
        assert (finished.decoder, finished.damage.num_damaged) == ("pyav", 0)
        expected = np.arange(num_recordings * NUM_FRAMES) / 25
        times = finished.timestamps - finished.timestamps[0]
        np.testing.assert_allclose(times, expected, atol=1e-3)
        (counted,) = count_frames([SourceVideo(path, "a")])
        assert counted[1] == num_recordings * NUM_FRAMES

    def test_it_is_read_in_one_piece(self, tmp_path):
        path = joined(tmp_path, [recording(tmp_path, n) for n in range(2)])
        assert split(path, probe(path), identify(SourceVideo(path, "a")), GRID, 1) == ()

    def test_another_codec_is_told_as_missing_frames(self, tmp_path):
        first = recording(tmp_path, 0)
        path = joined(tmp_path, [first, recording(tmp_path, 1, "mpeg2video")])
        finished = read(path)
        assert (finished.decoder, len(finished.timestamps)) == ("pyav", NUM_FRAMES)
        assert finished.damage.num_lost >= 1

    def test_a_camera_that_joins_later_is_not_the_same_video(self, tmp_path):
        first, second = (recording(tmp_path, n).read_bytes() for n in range(2))
        half = len(first) // 376 * 188
        packets = [first[at : at + 188] for at in range(half, len(first), 188)]
        others = [second[at : at + 188] for at in range(0, len(second), 188)]
        mixed = [piece for pair in zip(others, packets, strict=False) for piece in pair]
        path = tmp_path / "mixed.ts"
        rest = others[len(packets) :] + packets[len(others) :]
        path.write_bytes(first[:half] + b"".join(mixed + rest))
        frames, _ = decode(path)
        np.testing.assert_array_equal(frames, decode(tmp_path / "0.ts")[0])

    def test_a_real_file(self, shared_data):
        finished = read(shared_data / "trouble" / "pidchange.ts")
        assert (len(finished.timestamps), finished.damage.num_damaged) == (80, 0)


def with_cover(path, has_video):
    """Write sound, or a video, with a picture attached."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", 8000, layout="mono")
        video = container.add_stream("libx264", 25) if has_video else None
        if video:
            video.pix_fmt, video.width, video.height = "yuv420p", 256, 240
        cover = container.add_stream("png")
        cover.pix_fmt, cover.width, cover.height = "rgb24", 640, 480
        cover.disposition = Disposition.attached_pic
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        noise.sample_rate = 8000
        packets = sound.encode(noise) + sound.encode(None)
        pictures = draw_frames() if has_video else []
        for pixels in pictures:
            packets += video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        packets += video.encode(None) if has_video else []
        picture = av.VideoFrame.from_ndarray(draw_frames(1, 640, 480)[0], format="rgb24")
        for packet in [*cover.encode(picture), *cover.encode(None), *packets]:
            container.mux(packet)
    return path


class TestCovers:
    def test_sound_with_a_cover_is_refused(self, tmp_path):
        path = with_cover(tmp_path / "a.mp4", has_video=False)
        with pytest.raises(VideoError, match=r"is a cover, .* it is not a video"):
            probe(path)

    def test_a_video_with_a_cover_is_read(self, tmp_path):
        path = with_cover(tmp_path / "a.mp4", has_video=True)
        finished = read(path)
        assert (finished.info.width, len(finished.timestamps)) == (256, NUM_FRAMES)

    def test_a_real_file(self, shared_data):
        with pytest.raises(VideoError, match="its only picture is a cover"):
            probe(shared_data / "trouble" / "cover_only.mp4")


def jpegs(num_frames=5):
    for pixels in draw_frames(num_frames):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG")
        yield content.getvalue()


HEADERS = {
    "usual": b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n",
    "length first": b"Content-Length: %d\r\nX-Timestamp: 1.25\r\nContent-Type: image/jpeg\r\n\r\n",
    "jpg": b"Content-type: image/jpg\r\nContent-length: %d\r\n\r\n",
    "no carriage return": b"Content-Type: image/jpeg\nContent-Length: %d\n\n",
    "no length": b"Content-Type: image/jpeg\r\n\r\n",
}
ANSWER = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"


class TestMultipart:
    @pytest.mark.parametrize("name", HEADERS)
    @pytest.mark.parametrize("before", [b"", b"\r\n", ANSWER])
    @pytest.mark.parametrize("end", [b"", b"\r\n--x\r\n", b"\r\n--x--\r\n"])
    def test_a_saved_camera_stream_is_its_pictures(self, tmp_path, name, before, end):
        path, folder, header = tmp_path / "a.mjpg", tmp_path / "pictures", HEADERS[name]
        folder.mkdir()
        parts = []
        for index, picture in enumerate(jpegs()):
            (folder / f"{index}.jpg").write_bytes(picture)
            filled = header % len(picture) if b"%d" in header else header
            parts.append((b"--x\n" if b"\r" not in header else b"--x\r\n") + filled + picture)
        path.write_bytes(before + b"\r\n".join(parts) + end)
        frames, damage = decode(path)
        info = probe_pictures(folder, 25.0)
        expected = list(PictureDecoder(folder, info, info.width, info.height))
        np.testing.assert_array_equal(frames, expected)
        assert damage.num_damaged == 0
        assert len(read(path).timestamps) == 5

    @pytest.mark.parametrize("content", [b"HTTP/1.0 404 Not Found\r\n\r\n<p>no</p>"])
    def test_an_answer_without_pictures_is_named(self, tmp_path, content):
        path = tmp_path / "a.mjpg"
        path.write_bytes(content)
        with pytest.raises(VideoError, match="the answer of a web server, without"):
            probe(path)

    def test_a_real_file(self, shared_data):
        finished = read(shared_data / "trouble" / "curl.mjpg")
        assert (len(finished.timestamps), finished.damage.num_damaged) == (60, 0)


class TestNarrowFrames:
    def test_the_memory_that_a_refusal_asks_for_is_enough(self, tmp_path):
        path = encode(tmp_path / "a.mkv", [np.zeros((8, 512, 3), np.uint8)] * 3, codec="ffv1")
        with pytest.raises(VideoError, match=r"0\.2 GiB: raise worker_memory_gib to 1 or more$"):
            read(path, 256, max_clips_bytes=100 << 20)
        read(path, 256, max_clips_bytes=1 << 30)

    def test_the_short_side_that_a_refusal_asks_for_is_small_enough(self, tmp_path):
        path, limit = encode(tmp_path / "a.mp4"), 10 << 20
        with pytest.raises(VideoError, match=r"the short side to 256 pixels, or raise w.* 1"):
            read(path, 512, max_clips_bytes=limit)
        read(path, 256, max_clips_bytes=limit)
        limit = 2 << 20
        with pytest.raises(VideoError, match=r"GiB: raise worker_memory_gib to 1 or more"):
            read(path, 256, max_clips_bytes=limit)

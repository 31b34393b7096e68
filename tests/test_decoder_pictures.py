"""Folders of pictures as videos: finding, identifying and decoding them."""

import hashlib
import os

import av
import numpy as np
import pytest
from fake_backbone import BACKBONE, mean_colours
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from video_files import draw_frames

from vigil.extract.clips import ClipGrid
from vigil.extract.decode.decoder_pictures import PictureDecoder, probe_pictures
from vigil.extract.decode.reader import Finished, ReadingOptions, read_video
from vigil.extract.decode.timeline import frame_edges
from vigil.extract.decode.videos import find_videos
from vigil.extract.errors import UserError, VideoError
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.source import SourceVideo, identify, list_pictures, natural_order, size_and_time
from vigil.extract.store import read_features
from vigil.pipeline.cli import main
from vigil.pipeline.options import VIDEO_EXTENSIONS

NUM_FRAMES = 12


def write_pictures(folder, ending=".png", num_frames=NUM_FRAMES, **options):
    """Write frames without leading zeros in their names, so only the natural order is right."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = draw_frames(num_frames, width=256, height=240)
    for index, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / f"f{index + 1}{ending}", **options)
    return frames


def decode(folder, width=256, height=240):
    decoder = PictureDecoder(folder, probe_pictures(folder, 25.0), width, height)
    return [frame.copy() for frame in decoder], decoder


def read(folder, fps=25.0, max_damage=1.0):
    options = ReadingOptions(ClipGrid(64), 240, max_damage=max_damage)
    *clips, finished = read_video(SourceVideo(folder, folder.name, fps), options)
    assert isinstance(finished, Finished)
    return clips, finished


def found(*arguments, fps=25.0, **options):
    return find_videos([str(a) for a in arguments], VIDEO_EXTENSIONS, picture_fps=fps, **options)


class TestDecoding:
    @pytest.mark.parametrize(
        ("ending", "options"),
        [
            (".png", {}),
            (".tif", {}),
            (".TIFF", {"compression": "tiff_lzw"}),
            (".jpg", {"quality": 95}),
        ],
    )
    def test_frames_are_the_pictures_in_natural_order(self, tmp_path, ending, options):
        frames = write_pictures(tmp_path, ending, **options)
        decoded, decoder = decode(tmp_path)
        allowed = 6 if ending == ".jpg" else 0
        assert len(decoded) == NUM_FRAMES
        for pixels, expected in zip(decoded, frames, strict=True):
            assert abs(pixels.astype(int) - expected).mean() <= allowed
        assert decoder.damage().num_damaged == 0
        assert decoder.timestamps() == pytest.approx(np.arange(NUM_FRAMES) / 25)

    def test_grey_pictures_have_three_equal_channels(self, tmp_path):
        for index in range(3):
            pixels = np.full((240, 256), 40 * index, np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{index}.tif")
        for index, pixels in enumerate(decode(tmp_path)[0]):
            assert np.unique(pixels).tolist() == [40 * index]

    def test_clips_are_padded_and_resized_as_for_any_video(self, tmp_path):
        write_pictures(tmp_path)
        (clip,), finished = read(tmp_path)
        assert clip.pixels.shape == (64, 240, 256, 3)
        assert (clip.pixels[NUM_FRAMES:] == clip.pixels[NUM_FRAMES - 1]).all()
        assert (finished.decoder, finished.info.num_frames_container) == ("pyav", NUM_FRAMES)
        edges = frame_edges(finished.timestamps, finished.info)
        assert edges == pytest.approx(np.arange(NUM_FRAMES + 1) / 25)

    def test_the_frame_rate_is_the_requested_one(self, tmp_path):
        write_pictures(tmp_path)
        _, finished = read(tmp_path, fps=10.0)
        assert finished.timestamps[-1] == pytest.approx((NUM_FRAMES - 1) / 10)
        assert finished.info.fps == 10.0

    def test_damaged_pictures_are_counted_where_they_lie(self, tmp_path):
        write_pictures(tmp_path, ".jpg", quality=95)
        whole = (tmp_path / "f4.jpg").read_bytes()
        (tmp_path / "f4.jpg").write_bytes(whole[: len(whole) * 2 // 3])
        (tmp_path / "f7.jpg").write_bytes(b"")
        (tmp_path / "f9.jpg").write_text("#EXTM3U\nf1.jpg\n")
        _, finished = read(tmp_path)
        assert finished.damage.frames.tolist() == [[3, 4], [6, 6], [7, 7]]
        assert finished.damage.num_lost == 2
        kept = [0, 1, 2, 3, 4, 5, 7, 9, 10, 11]
        assert finished.timestamps == pytest.approx(np.array(kept) / 25)
        with pytest.raises(VideoError, match=r"25% of its frames are damaged, more than"):
            read(tmp_path, max_damage=0.1)

    def test_pictures_of_different_sizes_are_not_a_video(self, tmp_path):
        write_pictures(tmp_path)
        Image.new("RGB", (64, 48)).save(tmp_path / "f5.png")
        with pytest.raises(VideoError, match=r"f5\.png has 64x48 pixels, but the pictures before"):
            decode(tmp_path)

    def test_pictures_of_different_formats_are_not_a_video(self, tmp_path):
        write_pictures(tmp_path)
        Image.new("RGB", (256, 240)).save(tmp_path / "f5.png", format="JPEG")
        with pytest.raises(VideoError, match=r"f5\.png is of kind mjpeg, but .* before it are png"):
            decode(tmp_path)

    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_a_jpeg_in_a_tiff_is_refused_and_not_black(self, tmp_path, mode):
        for index in range(2):
            picture = Image.new(mode, (256, 240), 200)
            picture.save(tmp_path / f"{index}.tif", compression="jpeg")
        with pytest.raises(VideoError, match=r"0\.tif is a TIFF with JPEG comp.*: save it as PNG"):
            decode(tmp_path)

    def test_pictures_that_do_not_decode_are_refused(self, tmp_path):
        for name in ("1.jpg", "2.jpg"):
            (tmp_path / name).write_bytes(b"\xff\xd8")
        with pytest.raises(VideoError, match="no frame can be decoded"):
            probe_pictures(tmp_path, 25.0)
        for name in ("1.jpg", "2.jpg"):
            (tmp_path / name).write_text("ffconcat version 1.0\nfile /etc/passwd\n")
        with pytest.raises(VideoError, match="no JPEG, PNG or TIFF pictures"):
            probe_pictures(tmp_path, 25.0)

    def test_a_picture_that_is_too_large_is_lost(self, tmp_path, monkeypatch):
        write_pictures(tmp_path)
        monkeypatch.setattr("vigil.extract.decode.decoder_pictures.MAX_FRAME_PIXELS", 1000)
        with pytest.raises(VideoError, match="no frame can be decoded"):
            probe_pictures(tmp_path, 25.0)

    def test_real_frames_decode_like_their_video(self, tmp_path, shared_data):
        path = shared_data / "ucsd_ped2" / "test" / "01.mp4"
        expected = []
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index == 8:
                    break
                expected.append(frame.to_ndarray(format="gray"))
                Image.fromarray(expected[-1]).save(tmp_path / f"{index:03}.tif")
        decoded, _ = decode(tmp_path, 360, 240)
        assert len(decoded) == 8
        for pixels, grey in zip(decoded, expected, strict=True):
            assert (pixels == grey[:, :, None]).all()


class TestIdentity:
    def test_it_covers_names_and_bytes_in_order(self, tmp_path):
        write_pictures(tmp_path, num_frames=11)
        expected = hashlib.sha256()
        for number in range(1, 12):
            content = (tmp_path / f"f{number}.png").read_bytes()
            line = f"{hashlib.sha256(content).hexdigest()}  f{number}.png\0"
            expected.update(line.encode())
        identity = identify(SourceVideo(tmp_path, "a"))
        assert identity.digest == expected.hexdigest()
        assert identity.num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())

    def test_renamed_or_changed_pictures_make_another_video(self, tmp_path):
        write_pictures(tmp_path, num_frames=3)
        digests = {identify(SourceVideo(tmp_path, "a")).digest}
        (tmp_path / "f3.png").rename(tmp_path / "f4.png")
        digests.add(identify(SourceVideo(tmp_path, "a")).digest)
        (tmp_path / "f1.png").write_bytes((tmp_path / "f2.png").read_bytes())
        digests.add(identify(SourceVideo(tmp_path, "a")).digest)
        assert len(digests) == 3

    def test_size_and_time_are_those_of_all_pictures(self, tmp_path):
        write_pictures(tmp_path, num_frames=3)
        os.utime(tmp_path / "f2.png", ns=(1, 5 * 10**18))
        assert size_and_time(tmp_path)[1] == 5 * 10**18
        (tmp_path / "notes.txt").write_text("x")
        assert size_and_time(tmp_path)[0] == sum(p.stat().st_size for p in tmp_path.glob("*.png"))

    @given(st.lists(st.integers(0, 10**9), unique=True, max_size=20))
    def test_numbers_sort_by_value(self, numbers):
        names = sorted((f"a{number}.jpg" for number in numbers), key=natural_order)
        assert names == [f"a{number}.jpg" for number in sorted(numbers)]

    @given(st.lists(st.text("a0１²9._é", max_size=6), unique=True))
    def test_any_names_have_one_order(self, names):
        backwards = names[::-1]
        assert sorted(names, key=natural_order) == sorted(backwards, key=natural_order)


class TestFinding:
    @pytest.fixture
    def root(self, tmp_path):
        root = tmp_path / "ped2"
        for name in ("Test/Test001", "Test/Test002"):
            write_pictures(root / name, ".tif", num_frames=2)
        write_pictures(root / "Test" / "Test001_gt", ".png", num_frames=2)
        for index in range(3):  # as in UBnormal
            (root / "Scene1" / "a_annotations").mkdir(parents=True, exist_ok=True)
            (root / "Scene1" / "a_annotations" / f"a_{index:04}_gt.png").write_text("")
        write_pictures(root / "posters", num_frames=1)
        write_pictures(root / "mixed", num_frames=2)
        (root / "mixed" / "a.mp4").write_text("a")
        (root / "Test" / "Test002" / "._001.tif").write_text("hidden")
        (root / "Test" / "Test002" / "notes.txt").write_text("")
        return root

    def test_folders_of_pictures_are_videos_by_their_own_names(self, root):
        videos = found(root)
        assert [video.name for video in videos.videos] == [
            "Test/Test001",
            "Test/Test002",
            "mixed/a.mp4",
        ]
        assert videos.num_other_files == 2 + 3 + 1 + 2 + 1

    @pytest.mark.parametrize(
        ("argument", "names"),
        [
            ("Test/Test001", ["Test001"]),
            ("Test/Test*", ["Test001", "Test002"]),
            ("Test", ["Test001", "Test002"]),
        ],
    )
    def test_they_can_be_named_like_files(self, root, argument, names):
        videos = found(root / argument).videos
        assert [video.name for video in videos] == names
        assert {video.picture_fps for video in videos} == {25.0}

    def test_a_list_may_name_them(self, root):
        (root / "list.txt").write_text("Test/Test002\n")
        assert [video.name for video in found(root / "list.txt").videos] == ["Test/Test002"]
        (root / "list.txt").write_text("Test\n")
        with pytest.raises(UserError, match=r"line 1: .*Test does not exist"):
            found(root / "list.txt")

    def test_the_working_folder_can_be_the_video(self, root, monkeypatch):
        monkeypatch.chdir(root / "Test" / "Test001")
        assert [video.name for video in found(".").videos] == ["Test001"]

    def test_links_and_pipes_among_pictures_are_not_opened(self, root, tmp_path):
        outside = tmp_path / "secret.tif"
        outside.write_bytes((root / "Test/Test001/f1.tif").read_bytes())
        (root / "Test/Test001/f3.tif").symlink_to(outside)
        os.mkfifo(root / "Test/Test002/f3.tif")
        videos = found(root / "Test")
        assert videos.videos == ()
        first, second = videos.failures
        assert first.reason.startswith("f3.tif: the link leads out of")
        assert second.reason == "f3.tif: it is a pipe, not a file"
        assert [v.name for v in found(root / "Test", follow_links=True).videos] == ["Test001"]

    def test_an_invalid_frame_rate_is_refused(self, root):
        with pytest.raises(UserError, match=r"^picture_fps 0 is not allowed: use a rate from 0.01"):
            found(root, fps=0.0)

    def test_pictures_are_listed_without_hidden_ones(self, root):
        names = [path.name for path in list_pictures(root / "Test/Test002")]
        assert names == ["f1.tif", "f2.tif"]


class TestCommand:
    """`vigil extract` on pictures, from the command to the feature file."""

    @pytest.fixture
    def extract(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setitem(BACKBONES, "fake", BACKBONE)
        settings = ["--backbone", "fake", "--weights", "random", "--precision", "fp32"]
        settings += ["--device", "cpu", "--workers", "0", "--out", str(tmp_path / "features")]

        def run(*arguments):
            code = main(["extract", str(tmp_path / "root"), *settings, *arguments])
            return code, capsys.readouterr().err

        return run

    def test_features_are_those_of_the_pictures(self, tmp_path, extract):
        frames = write_pictures(tmp_path / "root" / "Test001")
        assert extract()[0] == 0
        features = read_features(tmp_path / "features" / "Test001.h5")
        assert (features.fps, features.num_frames_decoded, features.decoder) == (25.0, 12, "pyav")
        assert features.segment_seconds[-1, 1] == pytest.approx(12 / 25)
        clip = np.stack([frames[min(index, NUM_FRAMES - 1)] for index in range(64)])
        expected = mean_colours(clip[:, 16:240, 16:240])
        assert features.features[0, 0] == pytest.approx(expected, rel=0.02)

    def test_a_second_run_skips_them_and_detects_changes(self, tmp_path, extract):
        write_pictures(tmp_path / "root" / "a")
        assert extract()[0] == 0
        code, said = extract()
        assert (code, "0 to extract, 1 already extracted" in said) == (0, True)
        assert extract("--picture-fps", "10")[0] == 4
        code, _ = extract("--picture-fps", "10", "--overwrite")
        assert code == 0
        features = read_features(tmp_path / "features" / "a.h5")
        assert features.segment_seconds[-1, 1] == pytest.approx(1.2)
        (tmp_path / "root" / "a" / "f3.png").unlink()
        code, said = extract("--picture-fps", "10")
        assert (code, "differs from the video that" in said) == (4, True)

    def test_a_broken_folder_fails_alone(self, tmp_path, extract):
        write_pictures(tmp_path / "root" / "a")
        write_pictures(tmp_path / "root" / "b")
        Image.new("RGB", (64, 48)).save(tmp_path / "root" / "b" / "f5.png")
        code, said = extract()
        assert code == 3
        assert "b: f5.png has 64x48 pixels" in said

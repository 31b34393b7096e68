"""What the user named on the command line -> the videos, each with its name in every output."""

from pathlib import Path

import pytest

from extract.errors import UserError
from pipeline.options import VIDEO_EXTENSIONS
from pipeline.videos import find_videos


@pytest.fixture
def root(tmp_path):
    for name in (
        "b.mp4",
        "A/a.MP4",
        "A/deep/ä b.avi",
        "A/notes.txt",
        "readme",
        ".hidden.mp4",
        ".cache/x.mp4",
        "-x.mkv",
    ):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "videos"


def found(*arguments, extensions=VIDEO_EXTENSIONS):
    videos = find_videos([str(argument) for argument in arguments], extensions)
    for video in videos.videos:
        assert video.path.is_file()
    return {video.name: video.path for video in videos.videos}


ALL = ["-x.mkv", "A/a.MP4", "A/deep/ä b.avi", "b.mp4"]


def test_a_folder_gives_its_videos_by_relative_path_and_counts_the_rest(root):
    videos = find_videos([str(root)], VIDEO_EXTENSIONS)
    assert [video.name for video in videos.videos] == ALL
    assert [video.path for video in videos.videos] == [root / name for name in ALL]
    assert videos.num_other_files == 2


def test_endings_can_be_chosen(root):
    assert list(found(root, extensions="MP4, .avi")) == ["A/a.MP4", "A/deep/ä b.avi", "b.mp4"]
    assert list(found(root, extensions="txt")) == ["A/notes.txt"]


def test_a_file_is_taken_whatever_its_ending(root):
    assert found(root / "readme") == {"readme": root / "readme"}
    assert list(found(root / "b.mp4", root / "A")) == ["a.MP4", "b.mp4", "deep/ä b.avi"]


def test_a_pattern_gives_names_below_its_fixed_part(root, monkeypatch):
    assert list(found(f"{root}/A/*")) == ["a.MP4", "deep/ä b.avi"]
    assert list(found(f"{root}/**/*.avi")) == ["A/deep/ä b.avi"]
    assert list(found(f"{root}/?.mp4")) == ["b.mp4"]
    monkeypatch.chdir(root)
    assert list(found("*/a.*")) == ["A/a.MP4"]


def test_a_name_with_the_signs_of_a_pattern_is_a_name(root):
    (root / "[1].mp4").write_text("")
    assert list(found(root / "[1].mp4")) == ["[1].mp4"]


def test_a_list_gives_its_paths_relative_to_itself(root, tmp_path):
    listing = tmp_path / "list.txt"
    outside = tmp_path / "out.mp4"
    outside.write_text("")
    listing.write_text(
        f"# my videos\nvideos/b.mp4\n\n  videos/A/a.MP4  \n{outside}\nvideos/../videos/-x.mkv\n"
    )
    assert found(listing) == {
        "-x.mkv": tmp_path / "videos/../videos/-x.mkv",
        "out.mp4": outside,
        "videos/A/a.MP4": root / "A/a.MP4",
        "videos/b.mp4": root / "b.mp4",
    }


def test_a_list_names_the_line_that_is_wrong(tmp_path, root):
    listing = tmp_path / "list.txt"
    listing.write_text("videos/b.mp4\nvideos/c.mp4\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: .*videos/c\.mp4 is not there"):
        found(listing)


def test_a_video_named_twice_is_one_video(root):
    assert list(found(root, root, f"{root}/b.mp4")) == ALL


def test_two_videos_of_one_name_are_refused(root):
    (root / "A" / "b.mp4").write_text("")
    with pytest.raises(UserError, match=r"two videos have the name 'b\.mp4'.*name a folder above"):
        found(root, root / "A")


def test_links_to_folders_are_not_followed(root):
    (root / "A" / "loop").symlink_to(root)
    (root / "link.mp4").symlink_to(root / "b.mp4")
    assert list(found(root)) == sorted([*ALL, "link.mp4"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no videos in nothing: name a folder with videos"),
        (["{root}/nowhere"], "nowhere is not there: name a folder of videos, a video or a patt"),
        (["{root}/*.webm"], r"\*\.webm is not there"),
        (["{root}/A/notes"], "notes is not there"),
        (["{root}/none"], r"no videos in .*none \(1 other files\): name a folder .*--extensions"),
    ],
)
def test_where_there_are_no_videos_it_says_so(root, arguments, message):
    (root / "none").mkdir()
    (root / "none" / "a.doc").write_text("")
    with pytest.raises(UserError, match=message):
        found(*(argument.format(root=root) for argument in arguments))


def test_endings_without_an_ending_are_refused(root):
    with pytest.raises(UserError, match=r"--extensions ' ,' names no ending: use \.mp4,\.avi"):
        found(root, extensions=" ,")


def test_a_list_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    listing = tmp_path / "list.txt"
    listing.write_text("a.mp4")

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"list\.txt cannot be read \(Permission denied\)"):
        found(listing)

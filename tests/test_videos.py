"""From arguments on the command line to videos, each with its name in every output."""

import os
import socket
import sys
import unicodedata
from pathlib import Path

import pytest
from video_files import draw_frames, encode

from vigil.extract.decode.decoder import probe
from vigil.extract.decode.videos import find_videos
from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.source import SourceVideo
from vigil.pipeline.options import VIDEO_EXTENSIONS


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


def test_extensions_can_be_chosen(root):
    assert list(found(root, extensions="MP4, .avi")) == ["A/a.MP4", "A/deep/ä b.avi", "b.mp4"]
    assert list(found(root, extensions="txt")) == ["A/notes.txt"]


def test_a_file_is_accepted_with_any_extension(root):
    assert found(root / "readme") == {"readme": root / "readme"}
    assert list(found(root / "b.mp4", root / "A")) == ["a.MP4", "b.mp4", "deep/ä b.avi"]


def test_a_pattern_gives_names_below_its_fixed_part(root, monkeypatch):
    assert list(found(f"{root}/A/*")) == ["a.MP4", "deep/ä b.avi"]
    assert list(found(f"{root}/**/*.avi")) == ["A/deep/ä b.avi"]
    assert list(found(f"{root}/?.mp4")) == ["b.mp4"]
    monkeypatch.chdir(root)
    assert list(found("*/a.*")) == ["A/a.MP4"]


def test_an_existing_name_with_pattern_characters_is_a_name(root):
    (root / "[1].mp4").write_text("")
    assert list(found(root / "[1].mp4")) == ["[1].mp4"]


def test_paths_in_a_list_are_relative_to_it(root, tmp_path):
    listing = tmp_path / "list.txt"
    outside = tmp_path / "out.mp4"
    outside.write_text("")
    listing.write_text(
        f"# my videos\nvideos/b.mp4\n\n  videos/A/a.MP4  \n{outside}\nvideos/../videos/-x.mkv\n"
    )
    assert found(listing) == {
        "out.mp4": outside,
        "videos/-x.mkv": tmp_path / "videos/../videos/-x.mkv",
        "videos/A/a.MP4": root / "A/a.MP4",
        "videos/b.mp4": root / "b.mp4",
    }


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["Fighting/a.mp4", "Normal/b.mp4"], ["Fighting/a.mp4", "Normal/b.mp4"]),
        (["Fighting/a.mp4"], ["Fighting/a.mp4"]),
        (["Fighting/a.mp4", "Fighting/b.mp4"], ["Fighting/a.mp4", "Fighting/b.mp4"]),
        (["cam1/May/a.mp4", "cam2/May/a.mp4"], ["cam1/May/a.mp4", "cam2/May/a.mp4"]),
        (["a.mp4", "cam/May/b.mp4"], ["far/a.mp4", "far/cam/May/b.mp4"]),
    ],
)
@pytest.mark.parametrize("spelling", ["{root}/far/{file}", "../far/{file}"])
def test_paths_elsewhere_keep_their_folders(tmp_path, files, names, spelling):
    listing = tmp_path / "lists" / "list.txt"
    listing.parent.mkdir()
    for file in files:
        (tmp_path / "far" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "far" / file).write_text("")
    lines = (spelling.format(root=tmp_path, file=file) for file in files)
    listing.write_text("\n".join(lines))
    assert list(found(listing)) == names


def test_the_wrong_line_of_a_list_is_named(tmp_path, root):
    listing = tmp_path / "list.txt"
    listing.write_text("videos/b.mp4\nvideos/c.mp4\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: .*videos/c\.mp4 does not exist"):
        found(listing)
    for line in ("x" * 5000, "\0", "videos"):
        listing.write_text(line)
        with pytest.raises(UserError, match=r"list\.txt, line 1: .* does not exist"):
            found(listing)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_found_in_another_normal_form(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    stored = unicodedata.normalize(form, "Schlägerei/Café.mp4")
    typed = unicodedata.normalize(other, stored)
    (tmp_path / stored).parent.mkdir()
    (tmp_path / stored).write_text("")
    (tmp_path / "list.txt").write_text(typed)
    assert list(found(tmp_path / "list.txt")) == [stored]
    assert list(found(tmp_path / typed)) == [stored.rpartition("/")[2]]
    assert list(found((tmp_path / typed).parent)) == [stored.rpartition("/")[2]]
    with pytest.raises(UserError, match="does not exist"):
        found(tmp_path / "Schläge.mp4")


@pytest.mark.parametrize(
    ("endings", "kind", "codec"),
    [
        ("265 hevc", "hevc", "libx265"),
        ("264 avc", "h264", "libx264"),
        ("mpg mpe m2p", "mpeg", "mpeg2video"),
        ("m2v mp2v mpv", "mpeg2video", "mpeg2video"),
        ("m1v", "mpeg1video", "mpeg1video"),
        ("divx xvid", "avi", "mpeg4"),
        ("f4v qt 3gpp 3g2", "mov", "libx264"),
        ("m2t tp trp", "mpegts", "libx264"),
        ("rm rmvb", "rm", "rv20"),
        ("mxf", "mxf", "mpeg2video"),
        ("wtv", "wtv", "mpeg2video"),
    ],
)
def test_recorders_endings_are_found_and_opened(tmp_path, endings, kind, codec):
    frames = draw_frames(5, 352, 288)
    path = encode(tmp_path / "a.bin", frames, codec=codec, container_format=kind)
    for ending in endings.split():
        path = path.rename(tmp_path / f"a.{ending.upper()}")
        assert list(found(tmp_path)) == [path.name]
        assert probe(path).width == 352


def test_a_video_named_twice_is_one_video(root):
    assert list(found(root, root, f"{root}/b.mp4")) == ALL


def test_two_videos_of_one_name_are_refused(root):
    (root / "A" / "b.mp4").write_text("")
    with pytest.raises(UserError, match=r"two videos have the name 'b\.mp4'.*name a folder above"):
        found(root, root / "A")


def test_links_to_folders_are_not_followed_but_counted(root, tmp_path):
    (root / "A" / "loop").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "link.mp4").symlink_to("b.mp4")
    assert list(found(root)) == sorted([*ALL, "link.mp4"])
    for argument in (root, root / "**", root / "**" / "*", root / "*"):
        videos = find_videos([str(argument), str(argument)], VIDEO_EXTENSIONS)
        assert [video.name for video in videos.videos] == sorted([*ALL, "link.mp4"])
        assert (videos.num_linked_folders, videos.num_other_files) == (2, 2)
    assert "videos/b.mp4" in found(root / "up")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.mp4"
    path.write_text("")
    return path


def test_a_link_out_of_the_folder_is_named_and_followed_only_on_request(root, secret):
    link = root / "A" / "out.mp4"
    link.symlink_to("../../secret.mp4")
    for argument in (root, f"{root}/A/*", f"{root}/**/*.mp4"):
        videos = find_videos([str(argument)], VIDEO_EXTENSIONS)
        assert "out.mp4" not in {video.path.name for video in videos.videos}
        (failure,) = videos.failures
        assert failure.video.endswith("out.mp4")
        assert failure.reason.startswith("the link leads out of ")
        assert failure.reason.endswith(f", to {secret}: set follow_links")
    videos = find_videos([str(root)], VIDEO_EXTENSIONS, follow_links=True)
    assert SourceVideo(link, "A/out.mp4") in videos.videos
    assert videos.failures == ()


def test_a_link_that_the_user_names_is_followed(root, secret, tmp_path):
    link, listing = root / "out.mp4", tmp_path / "list.txt"
    link.symlink_to(secret)
    listing.write_text("videos/out.mp4\n")
    assert found(link) == {"out.mp4": link}
    assert found(listing) == {"videos/out.mp4": link}
    assert found(root, link)["out.mp4"] == found(link, root)["out.mp4"] == link
    (tmp_path / "linked").symlink_to(root)
    assert "b.mp4" in found(tmp_path / "linked")


def test_special_files_are_named_and_not_opened(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)  # a socket's path must be short
    os.mkfifo("pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.mp4")
    Path("null.mp4").symlink_to(os.devnull)
    Path("gone.mp4").symlink_to("nowhere")
    Path("loop.mp4").symlink_to("loop.mp4")
    reasons = {
        "pipe.mp4": "it is a pipe, not a file",
        "socket.mp4": "it is a socket, not a file",
        "null.mp4": "it is a device, not a file",
        "gone.mp4": "the link is broken (No such file or directory)",
        "loop.mp4": "the link is broken (Too many levels of symbolic links)",
    }
    for follow_links in (False, True):
        videos = find_videos([str(root)], VIDEO_EXTENSIONS, follow_links)
        assert [video.name for video in videos.videos] == ALL
        assert {failure.video: failure.reason for failure in videos.failures} == reasons
    videos = find_videos(["pipe.mp4"], VIDEO_EXTENSIONS)
    assert (len(videos.videos), len(videos.failures)) == (0, 1)


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    videos = find_videos([str(root)], VIDEO_EXTENSIONS)
    assert [video.name for video in videos.videos] == ["-x.mkv", "A/a.MP4", "b.mp4"]
    reason = "the folder cannot be read (Permission denied)"
    assert videos.failures == (FailedVideo(str(root / "A" / "deep"), reason),)


def test_a_pattern_above_two_loops_terminates(root):
    for name in ("x", "y"):  # glob.glob tries their 2^40 combinations
        (root / name).symlink_to(".")
    assert list(found(f"{root}/**/*.mkv")) == ["-x.mkv"]


def test_names_never_lead_upwards(root, tmp_path):
    (tmp_path / "list.txt").write_text(f"videos/../videos/b.mp4\n{root}/A/a.MP4\n./videos/-x.mkv\n")
    for argument in ("list.txt", "videos/../videos", "videos/A/../*.mp4", "videos/A/../b.mp4"):
        for name in found(tmp_path / argument):
            assert ".." not in name.split("/")
            assert not name.startswith("/")
    with pytest.raises(UserError, match=r"has \.\. after a wildcard: name the folder itself"):
        found(f"{root}/*/../../*")


def test_lines_of_a_list_end_only_where_an_editor_ends_them(tmp_path):
    names = ["a\u2028b.mp4", "c\x0bd.mp4", "e\x85f \udce4.mp4"]
    for name in names:
        (tmp_path / name).write_text("")
    listing = tmp_path / "list.txt"
    text = "\ufeff" + "\r\n".join(names)
    listing.write_bytes(text.encode(errors="surrogateescape"))
    assert list(found(listing)) == names


def test_hidden_files_match_a_pattern_that_names_them(root):
    assert list(found(f"{root}/.*")) == [".cache/x.mp4", ".hidden.mp4"]
    assert list(found(f"{root}/.cache/*")) == ["x.mp4"]


def test_an_invalid_pattern_is_refused(root):
    if sys.version_info < (3, 13):
        with pytest.raises(UserError, match=r"is not a pattern \(.*\): use one like \*\*/\*\.mp4"):
            found(f"{root}/**.mp4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no videos in an empty list: name a folder that holds"),
        (["{root}/nowhere"], "nowhere does not exist: name a folder of videos, a video or a patt"),
        (["{root}/*.webm"], r"\*\.webm matches nothing"),
        (["{root}/A/notes"], "notes does not exist"),
        (["{root}/none"], r"no videos in .*none \(1 other file\): name a .*set extensions"),
    ],
)
def test_arguments_without_videos_are_reported(root, arguments, message):
    (root / "none").mkdir()
    (root / "none" / "a.doc").write_text("")
    with pytest.raises(UserError, match=message):
        found(*(argument.format(root=root) for argument in arguments))


def test_an_empty_list_of_extensions_is_refused(root):
    with pytest.raises(UserError, match=r"^' ,' names no extension: use \.mp4,\.avi"):
        found(root, extensions=" ,")


def test_a_list_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    listing = tmp_path / "list.txt"
    listing.write_text("a.mp4")

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"list\.txt cannot be read \(Permission denied\)"):
        found(listing)


@pytest.mark.parametrize(
    ("beside", "plots"),
    [
        (("metrics.json", "scores.json"), ""),
        (("metrics.json", "scores.json"), "figures/Fighting"),
        (("table.json", "table.md"), "figures/joint"),
        (("best/config.json",), "figures"),
    ],
)
def test_plots_of_vigil_are_no_video(tmp_path, beside, plots):
    for name in ("film/1.png", "film/2.png", f"out/{plots}/a.png", f"out/{plots}/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    others = find_videos([str(tmp_path)], ".mp4", picture_fps=25.0)
    assert len(others.videos) == 2
    for name in beside:
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).touch()
    found = find_videos([str(tmp_path)], ".mp4", picture_fps=25.0)
    assert [video.name for video in found.videos] == ["film"]
    assert found.num_other_files == 2 + len(beside)

"""Thumbnails: taken while features are extracted, against the frames that they show."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from fake_backbone import SPEC, make_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from video_files import encode

from vigil.extract.decode.reader import Finished, ReadingOptions, SplitVideo, read_part, read_video
from vigil.extract.decode.thumbnails import (
    COLUMNS,
    ROWS,
    SIDE,
    Photographer,
    Sheet,
    thumbnail,
    thumbnail_step,
)
from vigil.extract.engine.album import ALBUM_NAME, album_folder, read_album, remove_album
from vigil.extract.engine.dispatch import _Run
from vigil.extract.errors import FailedVideo
from vigil.extract.source import SourceVideo
from vigil.extract.store import feature_path

FPS = 25
MAX_ERROR = 6.0
"""Of the mean of a plain picture, after it was encoded twice."""


def plain_frames(num_frames, height=120, width=160):
    """Frames of one grey each, which tells their numbers."""
    greys = (7 * np.arange(num_frames) + 20) % 230
    return [np.full((height, width, 3), grey, np.uint8) for grey in greys]


def cells(sheet):
    """The mean of each thumbnail of a sheet, in order."""
    picture = np.asarray(Image.open(io.BytesIO(sheet.jpeg)), float)
    rows = -(-len(sheet.samples) // COLUMNS)
    height, width = picture.shape[0] // rows, picture.shape[1] // COLUMNS
    grid = picture.reshape(rows, height, COLUMNS, width, 3).mean(axis=(1, 3, 4)).ravel()
    return grid[: len(sheet.samples)]


@settings(max_examples=50)  # each draws and encodes hundreds of frames
@given(st.integers(1, 9), st.integers(0, 30), st.integers(1, 700), st.data())
def test_a_photographer_takes_every_so_many_frames_once_and_changes_none(step, first, num, data):
    stop = data.draw(st.none() | st.integers(first, first + num))
    frames = plain_frames(num, 8, 8)
    photographer = Photographer(step, first, stop)
    sheets, passed = [], 0
    for frame in photographer.watch(frames):
        assert frame is frames[passed]
        passed += 1
        if passed % 64 == 0:
            sheets += photographer.sheets()
    sheets += photographer.sheets(is_end=True)
    assert passed == num
    last = first + num if stop is None else stop
    taken = [sample for sheet in sheets for sample in sheet.samples]
    assert taken == [sample for sample in range(first, last) if sample % step == 0]
    assert all(len(sheet.samples) == COLUMNS * ROWS for sheet in sheets[:-1])
    for sheet in sheets[:2]:
        greys = [frames[sample - first].mean() for sample in sheet.samples]
        np.testing.assert_allclose(cells(sheet), greys, atol=MAX_ERROR)


def test_without_a_step_nothing_is_taken():
    photographer = Photographer(0)
    assert len(list(photographer.watch(plain_frames(70, 8, 8)))) == 70
    assert list(photographer.sheets(is_end=True)) == []


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(240, 320, (160, 120)), (1280, 720, (90, 160)), (16, 1600, (160, 2))],
)
def test_a_thumbnail_has_the_proportions_of_its_frame(height, width, size):
    rows = np.linspace(0, 255, height).astype(np.uint8)[:, None, None]
    small = thumbnail(np.broadcast_to(rows, (height, width, 3)))
    assert small.size == size
    assert max(small.size) == SIDE
    assert abs(np.asarray(small, float).mean() - rows.mean()) < 2


def test_steps_are_a_second_but_no_longer_than_a_clip():
    assert [thumbnail_step(fps, 64) for fps in (0.1, 1, 12.5, 29.97, 60, 1000)] == [
        *(1, 1, 12, 30, 60, 64)
    ]


def sheets_of(messages):
    return [message for message in messages if isinstance(message, Sheet)]


@pytest.mark.parametrize("frame_rate", [None, 20.0])
def test_parts_take_together_what_the_whole_video_shows(tmp_path, frame_rate):
    codec = {"codec_options": {"x264-params": "keyint=12:min-keyint=12:scenecut=0"}}
    path = encode(tmp_path / "a.mp4", plain_frames(400), **codec)
    video = SourceVideo(path, "a.mp4")
    options = ReadingOptions(
        SPEC.grid, None, clips_per_part=4, frame_rate=frame_rate, thumbnails=True
    )
    *messages, finished = read_video(video, options, "pyav")
    assert isinstance(finished, Finished)
    whole = sheets_of(messages)
    split = next(iter(read_video(video, options, "pyav", may_split=True)))
    assert isinstance(split, SplitVideo)
    parts = [one for part in split.parts for one in sheets_of(read_part(video, part, options))]
    assert len(parts) > len(whole)
    expected = [sample for sheet in whole for sample in sheet.samples]
    assert expected == list(range(0, 400 if frame_rate is None else 320, round(frame_rate or FPS)))
    assert [sample for sheet in parts for sample in sheet.samples] == expected
    np.testing.assert_allclose(
        np.concatenate(list(map(cells, parts))), np.concatenate(list(map(cells, whole))), atol=2
    )


def extract(tmp_path, *paths, **changes):
    """Extract into tmp_path/store, and return what the engine yields."""
    engine = make_engine(thumbnails=tmp_path / "thumbnails", num_workers=0)
    videos = [SourceVideo(path, path.name) for path in paths]
    return list(replace(engine, **changes).extract(videos, tmp_path / "store"))


def means(album):
    """The mean of each thumbnail of an album."""
    pictures = album.pictures(range(len(album.seconds)))
    return np.array([np.asarray(one, float).mean() for one in pictures])


def test_an_album_shows_each_frame_at_its_time_and_features_are_the_same_bytes(tmp_path):
    frames = plain_frames(1700)  # 68 seconds: two sheets
    path = encode(tmp_path / "a.mp4", frames)
    extract(tmp_path, path)
    album = read_album(album_folder(tmp_path / "thumbnails", "a.mp4"))
    assert album.size == (160, 120)
    assert [len(seconds) for _, seconds in album.sheets] == [64, 4]
    np.testing.assert_allclose(album.seconds, np.arange(68))
    shown = [frames[number].mean() for number in range(0, 1700, FPS)]
    np.testing.assert_allclose(means(album), shown, atol=MAX_ERROR)

    other = tmp_path / "without"
    extract(other, path, thumbnails=None)
    assert not (other / "thumbnails").exists()
    one, two = (feature_path(place / "store", "a.mp4") for place in (tmp_path, other))
    assert features_bytes(one) == features_bytes(two)


def features_bytes(path):
    from vigil.extract.store import verify_features

    features = verify_features(path)
    return features.features.tobytes(), features.segment_seconds.tobytes(), features.spec


def test_times_are_those_of_the_frames_in_a_video_of_uneven_rate(tmp_path):
    times = [40 * k + (4000 if k > 100 else 0) for k in range(200)]
    extract(tmp_path, encode(tmp_path / "a.mkv", plain_frames(200), times=times))
    album = read_album(album_folder(tmp_path / "thumbnails", "a.mkv"))
    steps = np.diff(album.seconds)
    assert steps.max() > 4
    assert set(np.round(album.seconds * 1000).astype(int)) <= set(times)


def test_a_continued_video_has_the_thumbnails_of_the_run_before(tmp_path, monkeypatch):
    codec = {"codec_options": {"x264-params": "keyint=12:min-keyint=12:scenecut=0"}}
    frames = plain_frames(1000)
    path = encode(tmp_path / "a.mp4", frames, **codec)
    settings = {"num_workers": 2, "clips_per_part": 8, "journal_clips": 1, "decoder": "pyav"}
    engine = make_engine(thumbnails=tmp_path / "thumbnails", **settings)

    class KilledError(Exception):
        pass

    conclude, ends = _Run._conclude, []

    def stop_after_two_parts(self, news):
        ends.append(news)
        if len(ends) == 4:  # the split and two parts are done
            raise KilledError
        return conclude(self, news)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_conclude", stop_after_two_parts)
        with pytest.raises(KilledError):
            list(engine.extract([SourceVideo(path, "a.mp4")], tmp_path / "store"))
    folder = album_folder(tmp_path / "thumbnails", "a.mp4")
    assert read_album(folder) is None  # it is not complete
    there = {one.name: one.stat().st_mtime_ns for one in folder.glob("*.jpg")}
    assert there
    (outcome,) = engine.extract([SourceVideo(path, "a.mp4")], tmp_path / "store")
    assert not isinstance(outcome, FailedVideo)
    album = read_album(folder)
    np.testing.assert_allclose(album.seconds, np.arange(40))
    shown = [frames[number].mean() for number in range(0, 1000, FPS)]
    np.testing.assert_allclose(means(album), shown, atol=MAX_ERROR)
    kept = [name for name, time in there.items() if (folder / name).stat().st_mtime_ns == time]
    assert kept  # of parts that were not decoded again


def test_a_failed_video_has_no_album_and_an_unwritable_one_only_loses_it(tmp_path, caplog):
    path = encode(tmp_path / "a.mp4", plain_frames(100))
    (outcome,) = extract(tmp_path, path)
    folder = album_folder(tmp_path / "thumbnails", "a.mp4")
    assert read_album(folder) is not None
    path.write_text("no video any more")
    (outcome,) = extract(tmp_path, path)
    assert isinstance(outcome, FailedVideo)
    assert not folder.exists()

    path = encode(tmp_path / "b.mp4", plain_frames(100))
    (tmp_path / "thumbnails" / "b.mp4").write_text("in the way")
    (outcome,) = extract(tmp_path, path)
    assert not isinstance(outcome, FailedVideo)
    assert feature_path(tmp_path / "store", "b.mp4").is_file()
    assert "b.mp4: it has no thumbnails, since" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["sheets"][0].update(file="../../secret.jpg"),
        lambda content: content["sheets"][0].update(file="decord-0-25-9.jpg"),
        lambda content: content["sheets"][0].update(seconds=[float("nan")]),
        lambda content: content["sheets"][0].update(seconds=["1"]),
        lambda content: content.update(columns=0),
        lambda content: content.update(size=[160]),
        lambda content: content.update(format_version=2),
        lambda content: content.pop("sheets"),
    ],
)
def test_a_damaged_or_strange_album_is_none(tmp_path, change):
    extract(tmp_path, encode(tmp_path / "a.mp4", plain_frames(60)))
    folder = album_folder(tmp_path / "thumbnails", "a.mp4")
    index = folder / ALBUM_NAME
    content = json.loads(index.read_text())
    assert read_album(folder) is not None
    change(content)
    index.write_text(json.dumps(content))
    assert read_album(folder) is None
    index.write_text("[" * 100_000)
    assert read_album(folder) is None
    (folder / "mine.txt").touch()
    remove_album(folder)
    assert [one.name for one in folder.iterdir()] == ["mine.txt"]

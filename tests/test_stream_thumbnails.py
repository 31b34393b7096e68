"""Thumbnails of streams: taken by the clock, and kept in the albums of stretches."""

import errno
import io
from contextlib import closing

import numpy as np
import pytest
from dying import Killed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_live import NoPool, file_source, in_thread
from video_files import encode
from watched import EVENTFUL, EVENTLESS, watch_options, write_run

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import thumbnails
from vigil.extract.decode.live import LiveClip, LiveSource, PieceBegun, PieceEnded, read_stream
from vigil.extract.decode.reader import ReadingOptions
from vigil.extract.decode.ring import Slot
from vigil.extract.decode.thumbnails import COLUMNS, ROWS, LivePhotographer, LiveSheet
from vigil.extract.decode.worker import ClipReady, StreamNews
from vigil.extract.engine import live as following
from vigil.extract.engine.device import ClipDone
from vigil.extract.engine.live import LiveStreams, SeenClip
from vigil.extract.engine.pool import WorkerLimits
from vigil.pipeline.scoring.results import read_results
from vigil.pipeline.scoring.strips import album_of, existing_strip
from vigil.pipeline.watching import piece_scorer, records, stream_album
from vigil.pipeline.watching.cameras import Camera, Cameras
from vigil.pipeline.watching.retention import remove_results
from vigil.pipeline.watching.seen_files import SEEN_NAME, SeenFiles
from vigil.pipeline.watching.session import watch
from vigil.pipeline.watching.stream_album import AlbumSettings, StreamAlbum

FPS = 25
OPTIONS = ReadingOptions(ClipGrid(8, 4), None, thumbnails=True)
MAX_ERROR = 5.0
"""Of the mean of a plain picture, after it was encoded twice."""


def grey_of(second):
    """The grey of all frames in a second of a drawn stream."""
    return 10 + 11 * second


def draw(path, num_seconds):
    greys = [grey_of(number // FPS) for number in range(num_seconds * FPS)]
    return encode(path, [np.full((48, 64, 3), grey, np.uint8) for grey in greys])


def greys(sheet):
    """The mean of each thumbnail of a sheet, in order."""
    picture = np.asarray(Image.open(io.BytesIO(sheet.jpeg)), float)
    rows = -(-len(sheet.seconds) // COLUMNS)
    height, width = picture.shape[0] // rows, picture.shape[1] // COLUMNS
    grid = picture.reshape(rows, height, COLUMNS, width, 3).mean(axis=(1, 3, 4)).ravel()
    return grid[: len(sheet.seconds)]


def a_sheet(*seconds):
    frames = [(one, np.full((6, 8, 3), grey_of(int(one)), np.uint8)) for one in seconds]
    photographer = LivePhotographer(True)
    assert len(list(photographer.watch(frames))) == len(frames)
    (sheet,) = photographer.sheets(is_end=True)
    assert sheet.seconds == seconds
    return sheet


@given(st.lists(st.floats(-0.5, 3), max_size=400), st.integers(1, 90))
def test_the_first_frame_of_every_second_is_taken(steps, clip):
    """Also if the clock stumbles, and whatever the frame rate."""
    times = np.maximum(np.cumsum([0.0, *steps]), 0.0).tolist()
    frames = [(one, np.zeros((6, 8, 3), np.uint8)) for one in times]
    photographer, sheets, passed = LivePhotographer(True), [], 0
    for seconds, frame in photographer.watch(frames):
        assert seconds == times[passed]
        assert frame is frames[passed][1]
        passed += 1
        if passed % clip == 0:
            sheets += photographer.sheets()
            assert len(photographer._taken) < COLUMNS * ROWS
    sheets += photographer.sheets(is_end=True)
    assert passed == len(frames)
    expected, highest = [], -1
    for one in times:
        if int(one) > highest:
            expected.append(one)
            highest = int(one)
    assert [one for sheet in sheets for one in sheet.seconds] == expected
    assert all(len(sheet.seconds) == COLUMNS * ROWS for sheet in sheets[:-1])


def test_a_stream_that_is_read_has_a_thumbnail_of_each_second(tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "ROWS", 1)
    path = draw(tmp_path / "a.mp4", 12)
    news = list(read_stream(file_source(path), OPTIONS))
    sheets = [one for one in news if isinstance(one, LiveSheet)]
    assert [list(sheet.seconds) for sheet in sheets] == [[*range(8)], [*range(8, 12)]]
    for sheet in sheets:
        np.testing.assert_allclose(greys(sheet), [*map(grey_of, sheet.seconds)], atol=MAX_ERROR)
    assert isinstance(news[-1], PieceEnded)
    assert news[-2] is sheets[-1]
    seen = np.concatenate([one.seconds for one in news[1 : news.index(sheets[0])]])
    assert seen[-1] >= 7, "the clips that show its frames come before a sheet"

    without = list(read_stream(file_source(path), ReadingOptions(OPTIONS.grid, None)))
    assert not any(isinstance(one, LiveSheet) for one in without)
    clips = [[one.pixels for one in some if isinstance(one, LiveClip)] for some in (news, without)]
    np.testing.assert_array_equal(*clips)


def test_sheets_are_told_in_order_and_of_dropped_clips_too(monkeypatch):
    monkeypatch.setattr(following, "WorkerPool", NoPool)
    heard = []
    live = LiveStreams([LiveSource("a", "rtsp://a")], lambda _, news: heard.append(news))
    live.start(OPTIONS, WorkerLimits(), 0, np.float32)
    live.watch()
    live.receive(StreamNews(0, PieceBegun(0.0, 25.0, 320, 240)))
    live.receive(ClipReady(0, 0, Slot(0, 0, ()), 0, "pyav", np.arange(4) / 25))
    sheet = a_sheet(0.0)
    live.receive(StreamNews(0, sheet))
    assert len(heard) == 1, "the clip before it is not back"
    live.receive(ClipReady(0, 1, Slot(1, 0, ()), 0, "pyav", np.arange(4) / 25))
    live.receive(StreamNews(0, PieceEnded("it hung up", 8)))
    live.keep(ClipDone(live.next_clip().key, np.zeros((1, 2)), 0, 0))
    _, clip, told, _, ended = heard
    assert isinstance(clip, SeenClip)
    assert clip.features is None, "dropped"
    assert told is sheet
    assert isinstance(ended, PieceEnded)


def album_settings(folder, **changes):
    return AlbumSettings(folder / "thumbnails", **changes)


def test_a_sheet_across_a_border_is_in_both_albums(tmp_path):
    album = StreamAlbum(album_settings(tmp_path), "front")
    for first in (0, 4, 8):
        album.add(a_sheet(*np.arange(first, first + 4.0)))
    assert album.complete_until == 11
    album.write("front/1", 0.0, 5.5)
    assert [len(one.seconds) for one in album._sheets] == [4, 4], "what is over is forgotten"
    album.add(a_sheet(12.0))
    album.write("front/2", 5.5, 12.5)
    assert album._sheets == []
    album.write("front/3", 12.5, 20.0)
    album.close()
    one, two = (album_of(tmp_path, f"front/{number}") for number in (1, 2))
    assert one.seconds.tolist() == [*range(8)]
    assert two.seconds.tolist() == [second - 5.5 for second in range(4, 13)]
    for album, start in ((one, 0.0), (two, 5.5)):
        pictures = album.pictures(range(len(album.seconds)))
        for seconds, picture in zip(album.seconds, pictures, strict=True):
            shown = np.asarray(picture, float).mean()
            assert shown == pytest.approx(grey_of(int(seconds + start)), abs=MAX_ERROR)
    assert album_of(tmp_path, "front/3") is None
    left = {path.parent.name for path in tmp_path.rglob("*.*") if path.is_file()}
    assert left == {"1", "2", "thumbnails"}, "and the mark in thumbnails, but no working file"


def test_a_full_disk_loses_thumbnails_with_one_warning_and_nothing_else(
    tmp_path, monkeypatch, caplog
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    rooms = iter([True, True, False, True, True])
    album = StreamAlbum(album_settings(tmp_path, has_room=lambda: next(rooms)), "front")
    with monkeypatch.context() as patch:
        patch.setattr(stream_album, "write_at", full)
        album.add(a_sheet(0.0))
        album.add(a_sheet(1.0))
    album.add(a_sheet(2.0))
    album.write("front/1", 0.0, 3.0)
    assert caplog.text.count("front: thumbnails are lost") == 1
    album.add(a_sheet(3.0))
    with monkeypatch.context() as patch:
        patch.setattr("vigil.extract.engine.album.sync", full)
        album.write("front/2", 3.0, 4.0)
    assert caplog.text.count("front: thumbnails are lost") == 2, "of another stretch"
    album.add(a_sheet(4.0))
    album.write("front/3", 4.0, 5.0)
    album.close()
    found = {path.name for path in (tmp_path / "thumbnails" / "front").iterdir()}
    assert found == {"3"}, "there is room again, and no half album"


def watch_stream(folder, monkeypatch, num_seconds, seed, **changes):
    """Play a drawn stream to `vigil watch`; return its results, the oldest first."""
    monkeypatch.setattr(thumbnails, "ROWS", 1)
    monkeypatch.setattr(piece_scorer, "STRETCH_SECONDS", 6.0)
    monkeypatch.setattr(piece_scorer, "LONGEST_STRETCH_SECONDS", 8.0)
    monkeypatch.setattr("vigil.extract.engine.dispatch.WATCH_SECONDS", 0.02)
    in_thread(monkeypatch)
    write_run(folder, monkeypatch, seed)
    camera = Camera("front", f"file://{draw(folder / 'a.mp4', num_seconds)}")
    options = watch_options(folder, sources=(), span="2.6", **changes)
    assert watch(options, Cameras((camera,), {"front": camera}), ()) == 0
    results = read_results(folder / "out").videos
    return sorted(results, key=lambda result: result.recorded_at)


@pytest.mark.parametrize("seed", [EVENTLESS, EVENTFUL])
def test_stretches_of_a_stream_have_albums_and_their_events_strips(tmp_path, monkeypatch, seed):
    results = watch_stream(tmp_path, monkeypatch, 22, seed)
    out, start = tmp_path / "out", 0.0
    assert len(results) > 1
    assert any(result.events for result in results) == (seed == EVENTFUL)
    for result in results:
        album = album_of(out, result.video)
        for second in np.arange(np.ceil(start), start + result.duration_seconds):
            (number,) = album.around(second - start)
            assert album.seconds[number] == pytest.approx(second - start, abs=2e-3)
            (picture,) = album.pictures([number])
            shown = np.asarray(picture, float).mean()
            assert shown == pytest.approx(grey_of(second), abs=MAX_ERROR)
        assert all(existing_strip(album, result, event) for event in result.events)
        start += result.duration_seconds
    assert start == pytest.approx(22, abs=0.1)
    for result in results:
        remove_results(out, out / "features", result.video)
    assert not (out / "thumbnails" / "front").exists()


def test_a_kill_leaves_no_picture_that_retention_does_not_know(tmp_path, monkeypatch):
    def die(*_):
        raise Killed

    monkeypatch.setattr(records, "write_strips", die)
    with pytest.raises(Killed):
        watch_stream(tmp_path, monkeypatch, 5, EVENTFUL)
    (sheet,) = (tmp_path / "out" / "thumbnails").rglob("*.jpg")
    with closing(SeenFiles(tmp_path / "out" / SEEN_NAME)) as seen:
        ((_, known),) = seen.oldest_results()
    assert sheet.parent == tmp_path / "out" / "thumbnails" / known.name


def test_without_thumbnails_there_are_none_and_the_results_are_the_same(tmp_path, monkeypatch):
    folders = tmp_path / "with", tmp_path / "without"
    (one,) = watch_stream(folders[0], monkeypatch, 5, EVENTFUL)
    (other,) = watch_stream(folders[1], monkeypatch, 5, EVENTFUL, thumbnails=False)
    assert one.events
    assert one.segments == other.segments
    ranges = [[(e.start_frame, e.stop_frame) for e in some.events] for some in (one, other)]
    assert ranges[0] == ranges[1]
    assert (folders[0] / "out" / "thumbnails").exists()
    assert not (folders[1] / "out" / "thumbnails").exists()

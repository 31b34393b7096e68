"""Thumbnails in RESULTS: strips around the peaks of events, and what the report says of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_files import read_details, read_index, write_album
from test_report import MANIFEST, make_result

from vigil.extract.engine.album import Album
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.report.page import REPORT_NAME, write_report
from vigil.pipeline.scoring.results import Results, SegmentScore
from vigil.pipeline.scoring.strips import album_of, strip_of, write_strips

STEP = 5
FRAMES = [np.full((48, 64, 3), 2 * number, np.uint8) for number in range(100)]


def event(start, stop):
    return Event(start, stop, start / 25, stop / 25, 0.9, "Fighting", 0.5)


def result(*events, scores=(0.1,) * 10, video="in/a #1.mp4"):
    segments = [
        SegmentScore(10 * i, 10 * i + 10, 0.4 * i, 0.4 * i + 0.4, s) for i, s in enumerate(scores)
    ]
    return make_result(video, events=events, segments=tuple(segments))


def strips_of(folder, video="in/a #1.mp4"):
    return {path.name for path in (folder / "thumbnails" / video).glob("strip-*")}


@given(st.lists(st.floats(0, 1), min_size=10, max_size=10, unique=True), st.data())
def test_a_strip_is_around_the_highest_segment_of_its_event(scores, data):
    first = data.draw(st.integers(0, 9))
    stop = data.draw(st.integers(first + 1, 10))
    times = np.arange(0, 4, data.draw(st.integers(5, 150)) / 100)
    album = Album(None, 8, (1, 1), (("a", tuple(times)),))
    one = event(10 * first, 10 * stop)
    numbers = strip_of(album, result(one, scores=scores), one)
    middle = 0.4 * max(range(first, stop), key=lambda index: scores[index]) + 0.2
    distances = np.abs(times - middle)
    nearest = np.flatnonzero(distances <= distances.min() + 1e-9)  # two of them are as near
    assert numbers in [list(range(max(n - 2, 0), min(n + 3, len(times)))) for n in nearest]


def test_where_a_sheet_is_lost_an_event_has_no_strip_or_a_shorter_one():
    seconds = (*range(10), *range(60, 70))
    album = Album(None, 8, (1, 1), (("a", seconds),))
    assert album.around(30, 2) == []
    assert album.around(9.4, 2) == [7, 8, 9]
    assert album.around(58, 2) == [10, 11, 12]
    assert Album(None, 8, (1, 1), (("a", (0.0, 20.0, 40.0)),)).around(35, 2) == [0, 1, 2]
    assert Album(None, 8, (1, 1), (("a", (0.0,)),)).around(2, 2) == [0]


def test_strips_show_what_is_around_their_thumbnail_and_follow_the_events(tmp_path):
    write_album(tmp_path, result(event(0, 10), event(50, 60)), FRAMES, STEP)
    assert strips_of(tmp_path) == {"strip-0-3.jpg", "strip-9-13.jpg"}
    for name, shown in (("0-3", [0, 1, 2, 3]), ("9-13", [9, 10, 11, 12, 13])):
        path = tmp_path / "thumbnails" / "in/a #1.mp4" / f"strip-{name}.jpg"
        picture = np.asarray(Image.open(path), float)
        assert picture.shape == (120, 164 * len(shown) - 4, 3)
        greys = [picture[:, 164 * place : 164 * place + 160].mean() for place in range(len(shown))]
        np.testing.assert_allclose(greys, [2 * STEP * one for one in shown], atol=6)
    before = path.stat().st_mtime_ns
    write_strips(tmp_path, result(event(50, 60), event(90, 100)))
    assert strips_of(tmp_path) == {"strip-9-13.jpg", "strip-17-19.jpg"}
    assert path.stat().st_mtime_ns == before
    write_strips(tmp_path, result(event(0, 10), video="without.mp4"))
    assert strips_of(tmp_path, "without.mp4") == set()


def test_a_damaged_sheet_costs_no_score(tmp_path, caplog):
    write_album(tmp_path, result(), FRAMES, STEP)
    (sheet,) = (tmp_path / "thumbnails" / "in/a #1.mp4").glob("drawn-*.jpg")
    sheet.write_bytes(sheet.read_bytes()[:300])
    write_strips(tmp_path, result(event(0, 10)))
    assert "in/a #1.mp4: its events have no thumbnails" in caplog.text
    assert strips_of(tmp_path) == set()


def test_the_report_names_what_exists(tmp_path):
    one, other = result(event(50, 60)), result(event(50, 60), video="other.mp4")
    write_album(tmp_path, one, FRAMES, STEP)
    results = Results(MANIFEST, (one, other), ())
    write_report(tmp_path / REPORT_NAME, results)
    index, album = read_index(tmp_path), album_of(tmp_path, one.video)
    place = "./thumbnails/in/a%20%231.mp4"
    assert [row["album"] for row in index["videos"]] == [place, None]
    assert [row["strip"] for row in index["events"]] == ["strip-9-13.jpg", None]
    details = read_details(tmp_path)["album"]
    assert details["size"] == [160, 120]
    assert details["sheets"] == [[f"{place}/drawn-0-5-20.jpg", list(album.seconds)]]
    assert read_details(tmp_path, 1)["album"] is None
    (album.folder / "strip-9-13.jpg").unlink()
    write_report(tmp_path / REPORT_NAME, results)
    assert [row["strip"] for row in read_index(tmp_path)["events"]] == [None, None]

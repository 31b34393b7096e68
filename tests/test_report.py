"""RESULTS on disk and the page made from it, also with hostile names."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from vigil.extract.errors import FailedVideo
from vigil.pipeline.failures import FAILURES_NAME, FailuresError, write_failures
from vigil.pipeline.options import ReportOptions
from vigil.pipeline.scores.events import Action, Event
from vigil.pipeline.scores.frame_warnings import DamagedFrames
from vigil.pipeline.scoring.report import (
    REPORT_NAME,
    columns_of,
    draw_ticks,
    draw_timeline,
    video_link,
    write_report,
)
from vigil.pipeline.scoring.report_command import run_report
from vigil.pipeline.scoring.results import (
    MANIFEST_NAME,
    Results,
    ResultsError,
    SegmentScore,
    VideoResult,
    by_peak_score,
    read_result,
    read_results,
    result_path,
    write_manifest,
    write_result,
)
from vigil.pipeline.scoring.writers import WRITERS, remove_overview, write_overview
from vigil.pipeline.text_files import clock_time, write_json

HOSTILE = [
    "<script>alert(1)</script>.mp4",
    "=cmd()|' /C calc'!A0.mp4",
    'comma, "quote"\nand a line.mp4',
    "javascript:alert(1).mp4",
    "{{ 7 * 7 }}{% raw %}.mp4",
    '" onmouseover="alert(1)" x=".mp4',
    "bytes \udcff that are not UTF-8.mp4",
]
MANIFEST = {
    "created_at": "2021-01-01T00:00:00+00:00",
    "checkpoint": {"path": "runs/<b>first</b>"},
    "threshold": 0.5,
    "warnings": ["The weights are untrained & mean nothing."],
    "versions": {"vigil-video": "0.1"},
}


def make_result(video="Fighting/a.mp4", peak=0.9, **changes) -> VideoResult:
    event = Event(10, 20, 0.4, 0.8, peak, "Fighting", 0.25)
    result = VideoResult(
        video=video,
        source=None,
        label="Normal",
        class_probabilities={"Normal": 0.7, "Arson": 0.05, "Fighting": 0.25},
        peak_score=peak,
        threshold=0.5,
        events=(event,) if peak >= 0.5 else (),
        segments=(
            SegmentScore(0, 10, 0.0, 0.4, 0.1),
            SegmentScore(10, 20, 0.4, 0.8, peak),
            SegmentScore(20, 20, 0.8, 0.8, 1.0),
        ),
        views=("center",),
        fps=25.0,
        num_frames_container=20,
        num_frames_decoded=20,
        num_frames_damaged=0,
        spec_digest="f" * 64,
        warnings=(),
    )
    return replace(result, **changes)


def write_folder(folder, results, failures=()):
    for result in results:
        write_result(folder, result)
    failed = tuple(FailedVideo(*failure) for failure in failures)
    write_overview(folder, Results(MANIFEST, tuple(by_peak_score(results)), failed))


def report_of(folder):
    """Write the page again from the files, as `vigil report` does, and return its path."""
    write_report(folder / REPORT_NAME, read_results(folder))
    return folder / REPORT_NAME


class Page(HTMLParser):
    """The tags, attributes and text of a page, as a browser would parse them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_data(self, data):
        self.text += data


def read_page(path) -> Page:
    return Page(path.read_bytes().decode("utf-8", errors="surrogateescape"))


def read_rows(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_a_result_reads_back_as_written(tmp_path):
    for video in [*HOSTILE, "deep/er/video.mp4"]:
        result = make_result(video, source="/videos/" + video, warnings=("damaged",))
        write_result(tmp_path, result)
        assert read_result(result_path(tmp_path, video)) == result


def test_segment_classes_read_back_and_older_files_have_none(tmp_path):
    of_segments = {"Normal": (0.9, 0.2, 0.0), "Arson": (0.0, 0.3, 1.0), "Fighting": (0.1, 0.5, 0.0)}
    result = make_result(segment_class_probabilities=of_segments)
    write_result(tmp_path, result)
    path = result_path(tmp_path, result.video)
    content = json.loads(path.read_text())
    assert content["segment_class_probabilities"]["Arson"] == [0.0, 0.3, 1.0]
    assert read_result(path) == result
    # As written by other programs, which do not distinguish 1 from 1.0.
    content["segment_class_probabilities"]["Arson"] = [0, 0.3, 1]
    write_json(path, content)
    assert read_result(path) == result
    del content["segment_class_probabilities"]
    write_json(path, content)
    assert read_result(path) == make_result()


def test_every_event_has_its_own_class_in_table_and_page(tmp_path):
    events = (
        Event(0, 10, 0.0, 0.4, 0.8, "Arson", 0.625),
        Event(10, 20, 0.4, 0.8, 0.9, "Fighting", 0.375),
    )
    write_folder(tmp_path, [make_result(events=events)])
    rows = read_rows(tmp_path / "events.csv")
    expected = [("Arson", "0.625000"), ("Fighting", "0.375000")]
    assert [(row["class"], row["class_probability"]) for row in rows] == expected
    text = " ".join(read_page(report_of(tmp_path)).text.split())
    assert "Arson 62.5%" in text
    assert "Fighting 37.5%" in text
    titles = [block.title for block in draw_timeline(make_result(events=events)).events]
    assert titles == ["0:00:00 to 0:00:01: Arson", "0:00:00 to 0:00:01: Fighting"]


def test_the_page_tells_as_a_hint_what_the_network_sees(tmp_path):
    seen = (Action("wrestling", 0.17), Action("<b>busking</b>", 0.0849))
    event = Event(0, 10, 0.0, 0.4, 0.8, "Arson", 0.625)
    write_folder(tmp_path, [make_result(events=(replace(event, actions=seen), event))])
    html = report_of(tmp_path).read_text()
    text = " ".join(read_page(report_of(tmp_path)).text.split())
    assert text.count("the network sees") == 1
    assert "Arson 62.5% the network sees: wrestling 0.17, <b>busking</b> 0.08" in text
    assert 'title="Classes of another dataset (Kinetics-400)' in html
    assert "<b>busking" not in html
    assert "wrestling" not in (tmp_path / "events.csv").read_text()


def test_every_name_survives_in_the_tables(tmp_path):
    results = [make_result(name, 0.9 - 0.1 * i) for i, name in enumerate(HOSTILE)]
    write_folder(tmp_path, results[::-1])
    summary = read_rows(tmp_path / "summary.csv")
    assert [row["video"] for row in summary] == HOSTILE
    assert [float(row["peak_score"]) for row in summary] == pytest.approx(
        [0.9 - 0.1 * i for i in range(len(HOSTILE))]
    )
    events = read_rows(tmp_path / "events.csv")
    assert [row["video"] for row in events] == [r.video for r in results if r.events]
    assert events[0] == {
        "video": HOSTILE[0],
        "start_frame": "10",
        "stop_frame": "20",
        "start_seconds": "0.400",
        "stop_seconds": "0.800",
        "start_time": "0:00:00",
        "stop_time": "0:00:01",
        "peak_score": "0.900000",
        "class": "Fighting",
        "class_probability": "0.250000",
        "start_clock": "",
        "stop_clock": "",
    }


def test_hostile_names_do_nothing_in_the_page(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    results = []
    for name in HOSTILE:
        source = videos / name.replace("/", "_")
        source.touch()
        label = {"label": "<i>x</i>", "class_probabilities": {"<i>x</i>": 1.0}}
        results.append(make_result(name, source=str(source), **label))
    folder = tmp_path / "results"
    folder.mkdir()
    write_folder(folder, results, [["<img src=x>.mp4", "<b>no</b>", "decord", 7]])
    page = read_page(report_of(folder))

    allowed = "html head meta title style body header h1 h2 h3 p span dl div dt dd main table"
    allowed += " thead tbody tr th td a bdi svg line path rect article time ul li footer"
    assert set(page.tags) <= set(allowed.split())
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [value for name, value in page.attributes if name in ("href", "src")]
    assert {link[0] for link in links} == {"#", "."}
    for text in [*HOSTILE, "<img src=x>.mp4", "<b>no</b>", "<b>first</b>", "<i>x</i>"]:
        assert text.replace("/", "_") in page.text.replace("/", "_")


def test_what_was_left_out_is_listed(tmp_path):
    place = Event(300, 400, 12.0, 16.0, 0.987, "Fighting", 0.25)
    write_folder(tmp_path, [make_result("low.mp4", 0.2, left_out=(place,))])
    page = " ".join(read_page(report_of(tmp_path)).text.split())
    assert "No events. 1 left out, because the classifier sees nothing unusual" in page
    assert "0:00:12 0.987" in page


def test_nothing_in_the_page_comes_from_elsewhere(tmp_path):
    write_folder(tmp_path, [make_result()])
    text = report_of(tmp_path).read_text()
    for outside in ("http:", "https:", "//", "url(", "@import", "<script", "<link", "<img"):
        assert outside not in text.replace("http-equiv", "")
    policy = dict(read_page(tmp_path / "report.html").attributes)["content"]
    assert set(policy.split("; ")) == {
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    }


def test_the_page_shows_videos_by_peak_score_events_warnings_and_failures(tmp_path):
    results = [
        make_result("low.mp4", 0.2),
        make_result("high.mp4", 0.8, num_frames_damaged=3, warnings=("Damaged frames: 3.",)),
    ]
    write_folder(tmp_path, results, [["gone.mp4", "no frame decodes", "pyav", None]])
    page = read_page(report_of(tmp_path))
    assert page.text.index("high.mp4") < page.text.index("low.mp4")
    for expected in (
        "gone.mp4",
        "no frame decodes",
        "Damaged frames: 3.",
        "The weights are untrained & mean nothing.",
        "No events.",
        "Fighting 25.0%",
    ):
        assert expected in " ".join(page.text.split())
    assert page.tags.count("article") == 2


def test_the_command_writes_the_page_again_and_prints_its_path(tmp_path, capsys):
    write_folder(tmp_path, [make_result()])
    assert run_report(ReportOptions(tmp_path)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").is_file()


def test_a_folder_where_every_video_failed_still_has_a_page(tmp_path):
    write_folder(tmp_path, [], [["a.mp4", "empty file"]])
    page = read_page(report_of(tmp_path))
    assert "empty file" in page.text
    assert "article" not in page.tags


def test_the_page_shows_only_the_videos_of_the_manifest(tmp_path):
    write_folder(tmp_path, [make_result("old.mp4")])
    write_folder(tmp_path, [make_result("new.mp4")])
    assert [video.video for video in read_results(tmp_path).videos] == ["new.mp4"]


def test_links_are_relative_and_only_to_existing_videos(tmp_path):
    source = tmp_path / "in#put" / "a b?.mp4"
    folder = tmp_path / "results" / "today"
    assert video_link(str(source), folder) is None
    assert video_link(None, folder) is None
    source.parent.mkdir()
    source.touch()
    assert video_link(str(source), folder) == "./../../in%23put/a%20b%3F.mp4"
    for nowhere in ("", "\0", "x" * 5000, str(tmp_path), "javascript:alert(1)"):
        assert video_link(nowhere, folder) is None


def test_timeline_draws_scores_over_time_without_empty_segments():
    timeline = draw_timeline(make_result(peak=0.75))
    assert timeline.line == "M0.00 90.00 L500.00 90.00 L500.00 25.00 L1000.00 25.00"
    assert timeline.threshold_y == "50.00"
    assert [(event.x, event.width) for event in timeline.events] == [("500.00", "500.00")]
    assert [column.title for column in timeline.columns] == [
        "0:00:00 to 0:00:01: score 0.100",
        "0:00:00 to 0:00:01: score 0.750",
    ]


@pytest.mark.parametrize("num_segments", [999, 1000, 1001, 2500])
def test_a_long_timeline_is_drawn_in_columns_that_hide_no_peak(tmp_path, num_segments):
    scores = np.random.default_rng(0).random(num_segments).tolist()
    segments = tuple(
        SegmentScore(10 * i, 10 * i + 10, 36.0 * i, 36.0 * i + 36, score)
        for i, score in enumerate(scores)
    )
    columns = columns_of(segments)
    assert len(columns) == min(num_segments, 1000)
    assert columns == list(segments) or num_segments > 1000
    assert (columns[0].start_seconds, columns[-1].stop_seconds) == (0, 36 * num_segments)
    assert all(one.stop_seconds == other.start_seconds for one, other in pairwise(columns))
    for column in columns:
        inside = [
            score
            for segment, score in zip(segments, scores, strict=True)
            if column.start_frame <= segment.start_frame < column.stop_frame
        ]
        assert 1 <= len(inside) <= 3
        assert column.score == max(inside)
    write_folder(tmp_path, [make_result(segments=segments)])
    page = read_page(report_of(tmp_path))
    assert page.attributes.count(("class", "hover")) == len(columns)
    assert read_result(result_path(tmp_path, "Fighting/a.mp4")).segments == segments


@pytest.mark.parametrize("seconds", [0.0, 0.04, 1.0, 7.99, 61.0, 3600.0, 86400.0, 1e7])
def test_ticks_are_few_and_inside(seconds):
    ticks = draw_ticks(seconds)
    assert 1 <= len(ticks) <= 8
    assert [float(tick.x) for tick in ticks] == sorted({float(tick.x) for tick in ticks})
    assert float(ticks[0].x) == 0
    assert float(ticks[-1].x) <= 100


def test_clock_time():
    assert clock_time(0.99) == "0:00:00"
    assert clock_time(0.01, round_up=True) == "0:00:01"
    assert clock_time(3600 * 25 + 61) == "25:01:01"


def test_damage_is_marked_at_its_place_with_a_visible_width(tmp_path):
    # The drawing is 1000 wide for 0.8 s: a mark of the least width, 3, is 0.0024 s.
    damage = (
        DamagedFrames(2, 2, 0.08, 0.08),
        DamagedFrames(4, 9, 0.16, 0.36),
        DamagedFrames(10, 10, 0.362, 0.362),
        DamagedFrames(12, 12, 0.366, 0.366),
    )
    result = make_result(damage=damage, num_frames_damaged=8)
    marks = draw_timeline(result).damage
    assert [(mark.x, mark.width) for mark in marks] == [
        ("100.00", "3.00"),
        ("200.00", "252.50"),
        ("457.50", "3.00"),
    ]
    assert marks[0].title == "0:00:00 to 0:00:01: damaged frames"
    write_folder(tmp_path, [result])
    page = read_page(report_of(tmp_path))
    assert page.attributes.count(("class", "damage")) == 2 * len(marks)
    assert "marked along the bottom: damaged frames" in page.text
    write_folder(tmp_path, [make_result()])
    assert "damaged" not in read_page(report_of(tmp_path)).text


def test_a_folder_without_finished_results_is_refused(tmp_path):
    with pytest.raises(ResultsError, match=r"manifest\.json does not exist: finish vigil score"):
        report_of(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text("{")
    with pytest.raises(ResultsError, match=r"manifest\.json is damaged"):
        report_of(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text("[]")
    with pytest.raises(ResultsError, match="it holds no JSON object"):
        report_of(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text("{}")
    with pytest.raises(ResultsError, match="was not written by vigil score"):
        report_of(tmp_path)
    write_manifest(tmp_path, ["a.mp4"], MANIFEST)
    with pytest.raises(ResultsError, match=r"a\.mp4\.json does not exist"):
        report_of(tmp_path)
    write_result(tmp_path, make_result("a.mp4"))
    path = result_path(tmp_path, "a.mp4")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 0}))
    with pytest.raises(ResultsError, match="has a format version other than 1"):
        report_of(tmp_path)
    del content["label"]
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match=r"is not a result of vigil score .*label"):
        report_of(tmp_path)


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_failures_read_back_as_written(tmp_path):
    first = FailedVideo(HOSTILE[2], 'a "reason",\nlong', "pyav", 0)
    failures = (first, FailedVideo(HOSTILE[6], ""))
    write_failures(tmp_path, failures)
    first_line = (tmp_path / FAILURES_NAME).read_bytes().splitlines()[0]
    assert first_line == b"video,reason,decoder,frame"
    write_manifest(tmp_path, [], MANIFEST)
    assert read_results(tmp_path).failures == failures
    (tmp_path / FAILURES_NAME).write_text("video,frame\na.mp4,last\n")
    with pytest.raises(FailuresError, match=r"failures\.csv is damaged"):
        read_results(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_writes_its_file_and_no_other_whatever_the_names(tmp_path, name):
    if WRITERS[name].format == "parquet":
        pytest.importorskip("pyarrow")
    results = tuple(by_peak_score(make_result(video=video) for video in HOSTILE))
    failures = (FailedVideo(HOSTILE[2], "a reason"),)
    WRITERS[name].write(tmp_path / name, Results(MANIFEST, results, failures))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).stat().st_size > 0


def test_the_overview_of_an_earlier_run_is_removed_and_results_of_videos_stay(tmp_path):
    write_folder(tmp_path, [make_result()])
    page = (tmp_path / REPORT_NAME).read_text()
    assert report_of(tmp_path).read_text() == page  # from the files, as from memory
    remove_overview(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["Fighting"]


def test_no_event_is_shown_to_last_longer_than_its_video(tmp_path):
    whole = SegmentScore(0, 260, 0.0, 10.4, 0.9)
    event = Event(0, 260, 0.0, 10.4, 0.9, "Fighting", 0.25)
    write_folder(tmp_path, [make_result(segments=(whole,), events=(event,))])
    page = report_of(tmp_path).read_text()
    lengths = re.findall(r'class="number">(\d:\d\d:\d\d)<', page)
    start, stop = re.findall(r"<td><time>(\d:\d\d:\d\d)</time></td>", page)
    assert (start, stop) == ("0:00:00", "0:00:11")
    assert set(lengths) == {"0:00:11"}

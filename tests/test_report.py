"""RESULTS on disk and the page made from it, also with hostile names."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from report_files import read_details, read_index

from vigil.extract.errors import FailedVideo, UserError
from vigil.pipeline.failures import FAILURES_NAME, FailuresError, write_failures
from vigil.pipeline.options import ReportOptions
from vigil.pipeline.scores.events import Action, Event
from vigil.pipeline.scores.frame_warnings import DamagedFrames
from vigil.pipeline.scoring.report.details import details_of, video_link
from vigil.pipeline.scoring.report.index import curve_of
from vigil.pipeline.scoring.report.page import (
    PROGRAM,
    REPORT_NAME,
    SCRIPTS,
    SERVED_SCRIPTS,
    STYLES,
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


def test_every_event_has_its_own_class_in_table_and_report(tmp_path):
    events = (
        Event(0, 10, 0.0, 0.4, 0.8, "Arson", 0.625),
        Event(10, 20, 0.4, 0.8, 0.9, "Fighting", 0.375),
    )
    write_folder(tmp_path, [make_result(events=events)])
    rows = read_rows(tmp_path / "events.csv")
    expected = [("Arson", "0.625000"), ("Fighting", "0.375000")]
    assert [(row["class"], row["class_probability"]) for row in rows] == expected
    report_of(tmp_path)
    shown = read_index(tmp_path)["events"]
    assert [(row["class"], row["class_probability"]) for row in shown] == [
        ("Arson", 0.625),
        ("Fighting", 0.375),
    ]


def test_the_report_has_what_the_network_sees_and_the_tables_have_not(tmp_path):
    seen = (Action("wrestling", 0.17), Action("<b>busking</b>", 0.0849))
    event = Event(0, 10, 0.0, 0.4, 0.8, "Arson", 0.625)
    write_folder(tmp_path, [make_result(events=(replace(event, actions=seen), event))])
    report_of(tmp_path)
    expected = [[["wrestling", 0.17], ["<b>busking</b>", 0.0849]], []]
    assert read_details(tmp_path)["actions"] == expected
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


def test_hostile_names_are_text_in_the_scripts_and_the_page(tmp_path):
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

    assert not {"b", "i", "img", "style"} & {*page.tags}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert "<b>first</b>" in page.text
    index = read_index(folder)
    assert [row["video"] for row in index["videos"]] == sorted(HOSTILE)
    assert {row["label"] for row in index["videos"]} == {"<i>x</i>"}
    (failure,) = index["failures"]
    assert failure == {
        "video": "<img src=x>.mp4",
        "camera": ".",
        "reason": "<b>no</b>",
        "decoder": "decord",
        "frame": 7,
    }
    for number, name in enumerate(sorted(HOSTILE)):
        details = read_details(folder, number)
        assert details["source"].endswith(name.replace("/", "_"))
        assert details["link"].startswith("./../videos/")


def test_no_name_is_a_key_which_could_be_the_prototype_of_an_object(tmp_path):
    classes = {"label": "__proto__", "class_probabilities": {"__proto__": 1.0}}
    event = Event(10, 20, 0.4, 0.8, 0.9, "__proto__", 0.25, {"__proto__": 1.0})
    by_segment = {"Normal": (0.5, 0.5, 0.5), "__proto__": (0.5, 0.5, 0.5)}
    write_folder(
        tmp_path,
        [
            make_result(
                "__proto__", events=(event,), segment_class_probabilities=by_segment, **classes
            )
        ],
    )
    report_of(tmp_path)

    def keys(value):
        if isinstance(value, dict):
            yield from value
        for one in value.values() if isinstance(value, dict) else value:
            if isinstance(one, (dict, list)):
                yield from keys(one)

    found = {*keys(read_index(tmp_path)), *keys(read_details(tmp_path))}
    assert "__proto__" not in found
    assert found


def test_what_was_left_out_is_listed(tmp_path):
    place = Event(300, 400, 12.0, 16.0, 0.987, "Fighting", 0.25)
    write_folder(tmp_path, [make_result("low.mp4", 0.2, left_out=(place,))])
    report_of(tmp_path)
    assert read_details(tmp_path)["left_out"] == [[12.0, 16.0, 0.987, "Fighting", None]]
    assert [row["num_left_out"] for row in read_index(tmp_path)["videos"]] == [1]


def test_nothing_in_the_report_comes_from_elsewhere(tmp_path):
    write_folder(tmp_path, [make_result()])
    page = read_page(report_of(tmp_path))
    links = [value for name, value in page.attributes if name in ("href", "src")]
    own = [f"report/{name}" for name in (*STYLES, *SCRIPTS, "index.js")]
    assert sorted(link for link in links if not link.startswith("#")) == sorted(own)
    policy = next(value for _, value in page.attributes if value and "default-src" in value)
    assert set(policy.split("; ")) == {
        "default-src 'none'",
        *(f"{kind}-src 'self' file:" for kind in ("script", "style", "img", "media")),
        "base-uri 'none'",
        "form-action 'none'",
    }
    for name in (*STYLES, *SCRIPTS):
        text = (PROGRAM / name).read_text().replace("http://www.w3.org/2000/svg", "")
        for outside in ("http:", "https:", "url(", "@import", "innerHTML", "eval(", "fetch("):
            assert outside not in text, name


def test_every_file_of_the_program_is_loaded(tmp_path):
    assert {path.name for path in PROGRAM.iterdir()} == {*STYLES, *SERVED_SCRIPTS}


def test_the_report_has_videos_events_warnings_and_failures(tmp_path):
    results = [
        make_result("low.mp4", 0.2),
        make_result("in/high.mp4", 0.8, num_frames_damaged=3, warnings=("Damaged frames: 3.",)),
    ]
    write_folder(tmp_path, results, [["gone.mp4", "no frame decodes", "pyav", None]])
    text = " ".join(read_page(report_of(tmp_path)).text.split())
    assert "The weights are untrained & mean nothing." in text
    index = read_index(tmp_path)
    high, low = index["videos"]
    assert (high["video"], high["camera"], high["peak_score"]) == ("in/high.mp4", "in", 0.8)
    assert (high["num_damaged"], high["num_warnings"]) == (3, 1)
    assert (low["video"], low["camera"], low["label"]) == ("low.mp4", ".", "Normal")
    (event,) = index["events"]
    assert event == {
        "video": "in/high.mp4",
        "start_frame": 10,
        "stop_frame": 20,
        "start_seconds": 0.4,
        "stop_seconds": 0.8,
        "peak_score": 0.8,
        "class": "Fighting",
        "class_probability": 0.25,
        "strip": None,
    }
    assert index["failures"][0]["reason"] == "no frame decodes"
    assert read_details(tmp_path, 0)["warnings"] == ["Damaged frames: 3."]


def test_the_command_writes_the_page_again_and_prints_its_path(tmp_path, capsys):
    write_folder(tmp_path, [make_result()])
    assert run_report(ReportOptions(tmp_path)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").is_file()


def test_a_folder_where_every_video_failed_still_has_a_report(tmp_path):
    write_folder(tmp_path, [], [["a.mp4", "empty file"]])
    report_of(tmp_path)
    index = read_index(tmp_path)
    assert (index["videos"], index["events"]) == ([], [])
    assert index["failures"][0]["reason"] == "empty file"


def test_the_report_has_only_the_videos_of_the_manifest(tmp_path):
    write_folder(tmp_path, [make_result("old.mp4"), make_result("older.mp4")])
    write_folder(tmp_path, [make_result("new.mp4")])
    assert [video.video for video in read_results(tmp_path).videos] == ["new.mp4"]
    assert [row["video"] for row in read_index(tmp_path)["videos"]] == ["new.mp4"]
    assert [path.name for path in (tmp_path / "report" / "videos").iterdir()] == ["0.js"]


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


def test_details_have_scores_over_time_without_empty_segments(tmp_path):
    details = details_of(make_result(peak=0.75), tmp_path, None)
    assert (details["edges"], details["scores"]) == ([0.0, 0.4, 0.8], [0.1, 0.75])
    assert details["threshold"] == 0.5
    of_segments = {"Normal": (0.5, 0.2, 0.0), "Arson": (0.5, 0.0, 1.0), "Fighting": (0.0, 0.8, 0.0)}
    result = make_result(peak=0.75, segment_class_probabilities=of_segments)
    assert details_of(result, tmp_path, None)["class_scores"] == [
        ("Fighting", [0.0, 0.75]),
        ("Arson", [0.1, 0.0]),
    ]


def test_segments_whose_frames_are_unknown_have_no_curve(tmp_path):
    result = make_result(segments=(SegmentScore(0, 0, 0.0, 0.0, 0.9),), events=())
    write_folder(tmp_path, [result])
    report_of(tmp_path)
    assert (read_details(tmp_path)["edges"], read_details(tmp_path)["scores"]) == ([], [])
    assert read_index(tmp_path)["videos"][0]["curve"] == ""


@pytest.mark.parametrize("num_segments", [1, 31, 32, 33, 2500])
def test_a_small_curve_hides_no_peak(num_segments):
    scores = np.random.default_rng(0).random(num_segments)
    segments = tuple(
        SegmentScore(10 * i, 10 * i + 10, 36.0 * i, 36.0 * i + 36, score)
        for i, score in enumerate(scores.tolist())
    )
    curve = curve_of(make_result(segments=segments))
    assert len(curve) == min(num_segments, 32)
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert digits in (PROGRAM / "cards.js").read_text()
    levels = [digits.index(digit) for digit in curve]
    edges = np.arange(len(curve)) * num_segments // len(curve)
    assert levels == np.rint(63 * np.maximum.reduceat(scores, edges)).tolist()


def test_clock_time():
    assert clock_time(0.99) == "0:00:00"
    assert clock_time(0.01, round_up=True) == "0:00:01"
    assert clock_time(3600 * 25 + 61) == "25:01:01"


def test_damage_has_its_place(tmp_path):
    damage = (DamagedFrames(2, 2, 0.08, 0.08), DamagedFrames(4, 9, 0.16, 0.36))
    write_folder(tmp_path, [make_result(damage=damage, num_frames_damaged=6, num_frames_lost=1)])
    text = read_page(report_of(tmp_path)).text
    details = read_details(tmp_path)
    assert details["damage"] == [[0.08, 0.08], [0.16, 0.36]]
    assert (details["num_damaged"], details["num_lost"]) == (6, 1)
    assert "damaged1" in "".join(text.split())
    write_folder(tmp_path, [make_result()])
    assert "damaged1" not in "".join(read_page(report_of(tmp_path)).text.split())


def test_the_truth_is_shown_if_it_is_given(tmp_path):
    write_folder(tmp_path, [make_result("a.mp4"), make_result("b.mp4"), make_result("c.mp4")])
    labels = tmp_path / "labels.csv"
    labels.write_text("a.mp4,Fighting,5,15\nb.mp4,Normal\nd.mp4,Arson,1,2\n")
    assert run_report(ReportOptions(tmp_path, annotations=(labels,))) == 0
    shown = [read_details(tmp_path, number)["truth"] for number in range(3)]
    assert shown == [
        {"classes": ["Fighting"], "intervals": [[0.2, 0.6]]},
        {"classes": ["Normal"], "intervals": []},
        None,
    ]
    labels.write_text("d.mp4,Arson,1,2\n")
    with pytest.raises(UserError, match="none of the annotated videos"):
        run_report(ReportOptions(tmp_path, annotations=(labels,)))


def test_the_truth_is_not_given_to_other_formats(tmp_path):
    write_folder(tmp_path, [make_result("a.mp4")])
    labels = tmp_path / "labels.csv"
    labels.write_text("a.mp4,Normal\n")
    with pytest.raises(UserError, match="add html to --format"):
        run_report(ReportOptions(tmp_path, annotations=(labels,), format="csv"))


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
    folder = {"report"} if name == REPORT_NAME else set()
    assert {path.name for path in tmp_path.iterdir()} == {name, *folder}
    assert (tmp_path / name).stat().st_size > 0


def test_the_overview_of_an_earlier_run_is_removed_and_results_of_videos_stay(tmp_path):
    write_folder(tmp_path, [make_result()])
    pictures = tmp_path / "report" / "pictures"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    report_of(tmp_path)
    assert {path: path.read_bytes() for path in files} == before  # from the files, as from memory
    remove_overview(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["Fighting"]
    write_folder(tmp_path, [make_result()])
    pictures.mkdir()
    (pictures / "0.jpg").touch()  # no part of what is written again
    remove_overview(tmp_path)
    assert [path.name for path in (tmp_path / "report").rglob("*")] == ["pictures", "0.jpg"]

"""Each format of results, opened by a reader that is not vigil's."""

import contextlib
import html
import io
import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from urllib.parse import unquote
from xml.etree import ElementTree

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vigil.extract.errors import UserError
from vigil.pipeline import result_formats
from vigil.pipeline.cli import main
from vigil.pipeline.option_checks import check_options
from vigil.pipeline.options import ReportOptions, ScoreOptions
from vigil.pipeline.result_formats import ALWAYS, DEFAULT_FORMATS, FORMATS, read_formats
from vigil.pipeline.scores.events import Action, Event
from vigil.pipeline.scoring.formats.chapters import write_chapters
from vigil.pipeline.scoring.formats.cvat import write_cvat
from vigil.pipeline.scoring.formats.edit_list import editors_rate, timecode, write_edl
from vigil.pipeline.scoring.formats.events_in_words import frames_at, one_line, valid_text
from vigil.pipeline.scoring.formats.parquet import PIECE_ROWS
from vigil.pipeline.scoring.formats.subtitles import write_srt, write_vtt
from vigil.pipeline.scoring.results import (
    Results,
    ResultsError,
    SegmentScore,
    VideoResult,
    by_peak_score,
    read_results,
    write_result,
)
from vigil.pipeline.scoring.writers import (
    VIDEO_WRITERS,
    WRITERS,
    write_about_all,
    write_beside,
    write_overview,
    write_video,
)

CLASSES = [
    "Fighting",
    'a <b>bold</b> & "quoted" --> one',
    "<i>",
    r"{\an8}moved",
    "line\nbreak\r\n\n1\n00:00:00,000 --> 00:00:01,000",
    "a=b;c#d\\e",
    "火災 ключ",
    "nul\x00 and \x1b",
    "bytes \udcff",
    "[CHAPTER]",
    "]]>",
    "next\x85line\u2028para\u2029",
]
MANIFEST = {
    "created_at": "2021-01-01T00:00:00+00:00",
    "checkpoint": {"path": "run"},
    "threshold": 0.5,
    "warnings": [],
    "versions": {},
}
TEN_HOURS = 36_000.0
READERS_LIKE = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def make_result(
    *ranges: tuple[float, float], video="cam/a.mp4", fps=25.0, classes=("Fighting",), **changes
) -> VideoResult:
    """A result with an event in each range of seconds, whose scores fall from 0.9."""
    events = tuple(
        Event(
            start_frame=round(start * fps),
            stop_frame=round(stop * fps),
            start_seconds=start,
            stop_seconds=stop,
            peak_score=0.9 - number / 100,
            class_name=classes[number % len(classes)],
            class_probability=0.5,
        )
        for number, (start, stop) in enumerate(ranges)
    )
    end = max((stop for _, stop in ranges), default=0.0) + 1
    edges = sorted({0.0, end, *(second for one in ranges for second in one)})
    segments = tuple(
        SegmentScore(round(start * fps), round(stop * fps), start, stop, 0.25)
        for start, stop in pairwise(edges)
    )
    names = dict.fromkeys(("Normal", *classes))
    result = VideoResult(
        video=video,
        source=None,
        label=events[0].class_name if events else "Normal",
        class_probabilities=dict.fromkeys(names, 1 / len(names)),
        peak_score=0.9 if events else 0.25,
        threshold=0.5,
        events=events,
        segments=segments,
        views=("center",),
        fps=fps,
        num_frames_container=round(end * fps),
        num_frames_decoded=round(end * fps),
        num_frames_damaged=0,
        spec_digest="f" * 64,
        warnings=(),
    )
    return replace(result, **changes)


def ranges_of(count=4, longest=TEN_HOURS * 4):
    """Ranges of seconds that follow each other, as events do."""
    numbers = st.lists(
        st.floats(0, longest), min_size=0, max_size=2 * count, unique_by=lambda s: round(s, 2)
    )
    return numbers.map(sorted).map(lambda edges: list(zip(edges[::2], edges[1::2], strict=False)))


def of_all(*results) -> Results:
    return Results(MANIFEST, tuple(by_peak_score(results)), ())


results_of_any_kind = st.builds(
    lambda ranges, names, fps: make_result(*ranges, classes=tuple(names), fps=fps),
    ranges_of(),
    st.lists(st.one_of(st.sampled_from(CLASSES), st.text(min_size=1)), min_size=1, max_size=4),
    st.sampled_from([1.0, 7.3, 12.5, 24000 / 1001, 25.0, 30000 / 1001, 60.0]),
)


class TestSubtitles:
    @pytest.mark.parametrize("ranges", [[], [(0.0, 1.0)]])
    def test_pysrt_reads_subrip(self, tmp_path, ranges):
        pysrt = pytest.importorskip("pysrt")
        write_srt(tmp_path / "a.srt", make_result(*ranges))
        assert [one.text for one in pysrt.open(tmp_path / "a.srt")] == ["Fighting 0.90"] * len(
            ranges
        )

    @READERS_LIKE
    @given(result=results_of_any_kind)
    def test_pysrt_finds_every_time_and_class(self, tmp_path, result):
        pysrt = pytest.importorskip("pysrt")
        write_srt(tmp_path / "a.srt", result)
        cues = pysrt.open(tmp_path / "a.srt", encoding="utf-8")
        assert [cue.index for cue in cues] == list(range(1, len(result.events) + 1))
        for cue, event in zip(cues, result.events, strict=True):
            assert cue.start.ordinal == pytest.approx(event.start_seconds * 1000, abs=0.51)
            assert cue.end.ordinal == pytest.approx(event.stop_seconds * 1000, abs=0.51)
            shown = cue.text.replace("\N{WORD JOINER}", "")
            name = one_line(event.class_name).replace("\N{WORD JOINER}", "")
            name = name.replace("{", "(").replace("}", ")")
            assert shown == f"{name} {event.peak_score:.2f}".strip().replace("-->", "->")

    def test_ffmpeg_takes_no_tag_from_a_class(self, tmp_path):
        names = CLASSES[1], CLASSES[2], CLASSES[3]
        seconds = [(0.0, 1.0), (2.0, 3.0), (TEN_HOURS, TEN_HOURS + 1)]
        write_srt(tmp_path / "a.srt", make_result(*seconds, classes=names))
        with av.open(str(tmp_path / "a.srt")) as container:
            lines = [one.dialogue.decode() for packet in container.demux() for one in said(packet)]
        assert [line.replace("\N{WORD JOINER}", "") for line in lines] == [
            'a <b>bold</b> & "quoted" -> one 0.90',
            "<i> 0.89",
            r"(\an8)moved 0.88",
        ]

    @READERS_LIKE
    @given(result=results_of_any_kind)
    def test_webvtt_py_finds_every_time_and_class(self, tmp_path, result):
        webvtt = pytest.importorskip("webvtt")
        write_vtt(tmp_path / "a.vtt", result)
        cues = list(webvtt.read(tmp_path / "a.vtt"))
        for cue, event in zip(cues, result.events, strict=True):
            assert seconds_of(cue.start) == pytest.approx(event.start_seconds, abs=0.00051)
            assert seconds_of(cue.end) == pytest.approx(event.stop_seconds, abs=0.00051)
            expected = f"{one_line(event.class_name)} {event.peak_score:.2f}".strip()
            assert html.unescape(cue.raw_text) == expected
            assert "<" not in cue.raw_text

    def test_times_beyond_ten_and_a_hundred_hours(self, tmp_path):
        result = make_result((TEN_HOURS, TEN_HOURS + 0.0004), (360_000.5, 360_001.25))
        write_srt(tmp_path / "a.srt", result)
        lines = (tmp_path / "a.srt").read_text().splitlines()
        assert lines[1] == "10:00:00,000 --> 10:00:00,001"  # a cue needs a length
        assert lines[5] == "100:00:00,500 --> 100:00:01,250"

    def test_the_time_of_day_is_shown_if_it_is_known(self, tmp_path):
        result = make_result((1.0, 2.0))
        clock = "2021-03-04 10:00:05"
        known = replace(result, events=(replace(result.events[0], start_clock=clock),))
        write_vtt(tmp_path / "a.vtt", known)
        assert f"Fighting 0.90, {clock}\n" in (tmp_path / "a.vtt").read_text()


def said(packet):
    return packet.decode() if packet.dts is not None else []


def seconds_of(clock: str) -> float:
    hour, minute, second = clock.split(":")
    return int(hour) * 3600 + int(minute) * 60 + float(second)


class TestChapters:
    @READERS_LIKE
    @given(result=results_of_any_kind)
    def test_ffmpeg_finds_every_time_and_class(self, tmp_path, result):
        write_chapters(tmp_path / "a.ffmetadata", result)
        with av.open(str(tmp_path / "a.ffmetadata")) as container:
            chapters = container.chapters()
        for chapter, event in zip(chapters, result.events, strict=True):
            assert chapter["time_base"] == Fraction(1, 1000)
            assert chapter["start"] == pytest.approx(event.start_seconds * 1000, abs=0.51)
            assert chapter["end"] == pytest.approx(event.stop_seconds * 1000, abs=0.51)
            expected = f"{one_line(event.class_name)} {event.peak_score:.2f}".strip()
            assert chapter["metadata"]["title"] == expected


class TestEditList:
    @READERS_LIKE
    @given(ranges=ranges_of(longest=20 * 3600), name=st.sampled_from(CLASSES))
    def test_pycmx_finds_every_edit(self, tmp_path, ranges, name):
        pycmx = pytest.importorskip("pycmx")
        result = make_result(*ranges, classes=(name,), fps=30000 / 1001)
        write_edl(tmp_path / "a.edl", result)
        with (tmp_path / "a.edl").open(encoding="utf-8") as file:
            edits = pycmx.parse_cmx3600(file)
        assert edits.title == "cam/a.mp4"
        recorded = "01:00:00:00"
        found = [edit for event in edits.events for edit in event.edits]
        for event, edit in zip(result.events, found, strict=True):
            start, stop = (number_of(code, 30) for code in (edit.source_in, edit.source_out))
            assert start == pytest.approx(event.start_frame, abs=1)
            assert stop - start >= 1
            assert edit.record_in == recorded
            assert number_of(edit.record_out, 30) - number_of(recorded, 30) == stop - start
            assert edit.clip_name == "cam/a.mp4"
            recorded = edit.record_out

    def test_the_frame_rate_rule(self):
        assert editors_rate(25) == 25
        assert editors_rate(29.97) == 30000 / 1001
        assert editors_rate(23.976) == 24000 / 1001
        assert editors_rate(59.9401) == 60000 / 1001
        assert [editors_rate(fps) for fps in (7.3, 12.5, 15, 10, 29.5)] == [25] * 5

    def test_frames_are_those_of_the_file_at_an_editors_rate_and_else_25ths_of_a_second(
        self, tmp_path
    ):
        write_edl(tmp_path / "ntsc.edl", make_result((1001.0, 1011.01), fps=30000 / 1001))
        text = (tmp_path / "ntsc.edl").read_text()
        assert "00:16:40:00 00:16:50:00 01:00:00:00 01:00:10:00" in text  # frames 30000, 30300
        assert "(29.97 FPS)" in text
        write_edl(tmp_path / "slow.edl", make_result((10.0, 12.5), fps=7.3))
        assert "00:00:10:00 00:00:12:13 " in (tmp_path / "slow.edl").read_text()

    @given(st.integers(0, 10**8), st.sampled_from([24, 25, 30, 48, 50, 60]))
    def test_timecode_has_an_inverse(self, frame, base):
        assert number_of(timecode(frame, base), base) == frame


def number_of(code: str, base: int) -> int:
    hour, minute, second, frame = map(int, code.split(":"))
    return ((hour * 60 + minute) * 60 + second) * base + frame


class TestCvat:
    """CVAT has no package that reads its files; these are the rules of its documentation."""

    @READERS_LIKE
    @given(result=results_of_any_kind)
    def test_tracks_start_and_end_with_their_events(self, tmp_path, result):
        write_cvat(tmp_path / "a.xml", result)
        root = ElementTree.parse(tmp_path / "a.xml").getroot()
        assert root.findtext("version") == "1.1"
        assert root.findtext("meta/task/mode") == "interpolation"
        assert int(root.findtext("meta/task/size")) == result.num_frames_decoded
        labels = {one.text for one in root.iterfind("meta/task/labels/label/name")}
        tracks = root.findall("track")
        assert [track.get("id") for track in tracks] == [str(n) for n in range(len(tracks))]
        for track, event in zip(tracks, result.events, strict=True):
            assert track.get("label") in labels
            assert track.get("source") == "auto"
            found = [(int(box.get("frame")), box.get("outside")) for box in track]
            expected = [(event.start_frame, "0"), (event.stop_frame, "1")]
            assert found == [one for one in expected if one[0] < result.num_frames_decoded]
            for box in track:
                assert box.get("keyframe") == "1"
                assert [float(box.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")] == [
                    0,
                    0,
                    16,
                    16,
                ]

    def test_an_event_at_the_end_of_the_video_has_no_end(self, tmp_path):
        result = replace(make_result((1.0, 2.0)), num_frames_decoded=50)
        write_cvat(tmp_path / "a.xml", result)
        (track,) = ElementTree.parse(tmp_path / "a.xml").iter("track")
        assert [box.get("frame") for box in track] == ["25"]

    def test_names_survive_except_what_xml_cannot_hold(self, tmp_path):
        result = make_result((1.0, 2.0), classes=('<&"\n火災\x00',))
        write_cvat(tmp_path / "a.xml", result)
        (track,) = ElementTree.parse(tmp_path / "a.xml").iter("track")
        assert track.get("label") == '<&"\n火災\ufffd'


REGION = {
    "type": "object",
    "required": ["id", "from_name", "to_name", "type", "value"],
    "properties": {
        "type": {"const": "timelinelabels"},
        "value": {
            "type": "object",
            "required": ["ranges", "timelinelabels"],
            "properties": {
                "ranges": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["start", "end"],
                        "additionalProperties": {"type": "integer", "minimum": 1},
                    },
                },
                "timelinelabels": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
}
PREDICTION = {
    "type": "object",
    "required": ["model_version", "result"],
    "properties": {
        "score": {"type": "number"},
        "result": {"type": "array", "items": REGION},
    },
}
TASKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "properties": {
            "data": {"type": "object", "required": ["video", "fps"]},
            "predictions": {"type": "array", "items": PREDICTION},
        },
    },
}
"""Tasks with predictions, as Label Studio's documentation describes them."""


class TestLabelStudio:
    def test_tasks_are_as_documented(self, tmp_path):
        jsonschema = pytest.importorskip("jsonschema")
        results = of_all(
            make_result((0.0, 1.0), (TEN_HOURS, TEN_HOURS + 4), classes=CLASSES, video="a #1.mp4"),
            make_result(video="none.mp4"),
        )
        WRITERS["label-studio.json"].write(tmp_path / "a.json", results)
        tasks = json.loads((tmp_path / "a.json").read_bytes())
        jsonschema.validate(tasks, TASKS)
        first, second = tasks
        assert unquote(first["data"]["video"].partition("?d=")[2]) == "a #1.mp4"
        ranges = [one["value"]["ranges"][0] for one in first["predictions"][0]["result"]]
        assert ranges == [{"start": 1, "end": 25}, {"start": 900_001, "end": 900_100}]
        assert second["predictions"][0]["result"] == []

    def test_without_videos(self, tmp_path):
        WRITERS["label-studio.json"].write(tmp_path / "a.json", of_all())
        assert json.loads((tmp_path / "a.json").read_bytes()) == []


class TestCoco:
    def test_pycocotools_finds_every_event(self, tmp_path):
        coco = pytest.importorskip("pycocotools.coco")
        results = of_all(
            make_result((1.0, 2.0), (3.0, 5.0), classes=CLASSES, video="a.mp4"),
            make_result((TEN_HOURS, TEN_HOURS + 2), classes=CLASSES[::-1], video="b.mp4"),
            make_result(video="none.mp4"),
        )
        WRITERS["coco.json"].write(tmp_path / "coco.json", results)
        with contextlib.redirect_stdout(io.StringIO()):
            found = coco.COCO(tmp_path / "coco.json")
        names = {one["name"] for one in found.loadCats(found.getCatIds())}
        assert names == {valid_text(name) for name in ("Normal", *CLASSES)}
        videos = {one["id"]: one for one in found.dataset["videos"]}
        assert [one["file_name"] for one in videos.values()] == ["a.mp4", "b.mp4", "none.mp4"]
        events = [(result, event) for result in results.videos for event in result.events]
        annotations = found.loadAnns(found.getAnnIds())
        for annotation, (result, event) in zip(annotations, events, strict=True):
            assert videos[annotation["video_id"]]["file_name"] == result.video
            (image,) = found.loadImgs(annotation["image_id"])
            assert image["video_id"] == annotation["video_id"]
            assert event.start_frame <= image["frame_id"] < event.stop_frame
            (category,) = found.loadCats(annotation["category_id"])
            assert category["name"] == valid_text(event.class_name)
            seconds = annotation["start_seconds"], annotation["stop_seconds"]
            assert seconds == (event.start_seconds, event.stop_seconds)
        assert len(found.getAnnIds(catIds=found.getCatIds(catNms=["Fighting"]))) == 1

    def test_the_frame_is_in_the_segment_with_the_highest_score(self, tmp_path):
        result = make_result((1.0, 9.0))
        segments = [SegmentScore(25 * n, 25 * n + 25, n, n + 1.0, 0.5) for n in range(10)]
        segments[0] = replace(segments[0], score=1.0)  # outside the event
        segments[6] = replace(segments[6], score=0.9)
        WRITERS["coco.json"].write(tmp_path / "a", of_all(replace(result, segments=(*segments,))))
        assert json.loads((tmp_path / "a").read_bytes())["images"][0]["frame_id"] == 162

    def test_without_videos(self, tmp_path):
        coco = pytest.importorskip("pycocotools.coco")
        WRITERS["coco.json"].write(tmp_path / "coco.json", of_all())
        with contextlib.redirect_stdout(io.StringIO()):
            assert coco.COCO(tmp_path / "coco.json").getAnnIds() == []


class TestParquet:
    def test_pyarrow_reads_both_tables(self, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        result = make_result((1.0, 2.0), (TEN_HOURS, TEN_HOURS + 1), classes=CLASSES)
        first = replace(
            result.events[0],
            class_shares={"Fighting": 0.75, "火災": 0.25},
            start_clock="2021-03-04 10:00:05",
            actions=(Action("wrestling", 0.5),),
        )
        of_classes = {"Normal": (0.75,) * 5, "Fighting": (0.25,) * 5}
        known = replace(
            result,
            events=(first, *result.events[1:]),
            segment_class_probabilities=of_classes,
        )
        other = make_result((0.5, 1.5), video="b.mp4", peak_score=0.1)
        results = of_all(other, known)
        write_about_all(tmp_path, results, ["parquet"])
        events = parquet.read_table(tmp_path / "events.parquet").to_pylist()
        assert [(one["video"], one["class"]) for one in events] == [
            ("cam/a.mp4", "Fighting"),
            ("cam/a.mp4", CLASSES[1]),
            ("b.mp4", "Fighting"),
        ]
        assert events[0] == {
            "video": "cam/a.mp4",
            "start_frame": 25,
            "stop_frame": 50,
            "start_seconds": 1.0,
            "stop_seconds": 2.0,
            "peak_score": 0.9,
            "class": "Fighting",
            "class_probability": 0.5,
            "start_clock": "2021-03-04 10:00:05",
            "stop_clock": None,
            "class_shares": [("Fighting", 0.75), ("火災", 0.25)],
            "actions": [("wrestling", 0.5)],
            "clip": None,
        }
        segments = parquet.read_table(tmp_path / "segments.parquet").to_pylist()
        assert len(segments) == len(known.segments) + len(other.segments)
        assert segments[1]["class_probabilities"] == [("Normal", 0.75), ("Fighting", 0.25)]
        assert segments[-1]["class_probabilities"] is None
        of_known = [(one["start_seconds"], one["score"]) for one in segments[: len(known.segments)]]
        assert of_known == [(one.start_seconds, one.score) for one in known.segments]

    def test_without_videos_the_columns_are_the_same(self, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        for folder, results in (
            (tmp_path / "none", of_all()),
            (tmp_path / "one", of_all(make_result((1.0, 2.0), video="bytes \udcff.mp4"))),
        ):
            write_about_all(folder, results, ["parquet"])
        for name in ("events.parquet", "segments.parquet"):
            none, one = (parquet.read_table(tmp_path / kind / name) for kind in ("none", "one"))
            assert none.schema == one.schema
            assert (none.num_rows, one.num_rows > 0) == (0, True)
            assert one.to_pylist()[0]["video"] == r"bytes \udcff.mp4"

    def test_a_table_is_written_in_pieces(self, tmp_path, monkeypatch):
        parquet = pytest.importorskip("pyarrow.parquet")
        monkeypatch.setattr("vigil.pipeline.scoring.formats.parquet.PIECE_ROWS", 2)
        results = of_all(make_result((1.0, 2.0), (3.0, 4.0)))
        WRITERS["segments.parquet"].write(tmp_path / "a.parquet", results)
        file = parquet.ParquetFile(tmp_path / "a.parquet")
        assert (file.num_row_groups, file.read().num_rows) == (3, 5)
        assert PIECE_ROWS == 50_000

    def test_without_pyarrow_the_remedy_is_named(self, monkeypatch):
        monkeypatch.setattr(result_formats, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install 'vigil-video\[parquet\]'"):
            read_formats("csv,parquet")
        assert read_formats("csv") == ("json", "csv")


@pytest.fixture
def folder(tmp_path):
    for video in ("cam/a.mp4", "b.mp4"):
        write_result(tmp_path, make_result((1.0, 2.0), video=video))
    results = of_all(*(make_result((1.0, 2.0), video=video) for video in ("cam/a.mp4", "b.mp4")))
    write_overview(tmp_path, results)
    return tmp_path


def names_in(folder):
    """The files of a folder, but for what report.html consists of."""
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(name) for name in names if name.parts[0] != "report"}


BY_DEFAULT = {
    "cam/a.mp4.json",
    "b.mp4.json",
    "summary.csv",
    "events.csv",
    "failures.csv",
    "report.html",
    "manifest.json",
}


class TestChoice:
    def test_every_format_has_writers_and_every_writer_a_format(self):
        rows = [*WRITERS.values(), *VIDEO_WRITERS.values()]
        assert {row.format for row in rows} == set(FORMATS)
        assert DEFAULT_FORMATS[0] == ALWAYS

    @pytest.mark.parametrize("kind", [ScoreOptions, ReportOptions])
    def test_help_names_every_format(self, kind, capsys):
        command = "score" if kind is ScoreOptions else "report"
        with pytest.raises(SystemExit):
            main([command, "--help-all"])
        said = " ".join(capsys.readouterr().out.replace("│", " ").split())
        help_text = said[said.index("--format") :]
        for name in set(FORMATS) - {ALWAYS}:
            assert name in help_text

    def test_the_default_is_what_it_was(self, folder):
        assert names_in(folder) == BY_DEFAULT
        assert read_formats(ScoreOptions(("a",), folder).format) == DEFAULT_FORMATS

    def test_names_are_read_once_each_and_json_is_always_among_them(self):
        assert read_formats("srt, vtt,srt") == ("json", "srt", "vtt")

    @pytest.mark.parametrize("text", ["", "srt,", "tsv", "SRT"])
    def test_an_unknown_name_is_refused_with_what_is_known(self, tmp_path, text):
        with pytest.raises(UserError, match="is unknown: use json, csv, html"):
            check_options(ReportOptions(tmp_path, format=text))

    def test_report_writes_what_is_asked_for_and_leaves_the_rest(self, folder, capsys):
        before = (folder / "report.html").stat().st_mtime_ns
        assert main(["report", str(folder), "--format", "srt,chapters,coco,json"]) == 0
        added = {f"{video}.mp4{end}" for video in ("cam/a", "b") for end in (".srt", ".ffmetadata")}
        assert names_in(folder) == BY_DEFAULT | added | {"coco.json"}
        assert (folder / "report.html").stat().st_mtime_ns == before
        said = capsys.readouterr()
        assert said.out == f"{folder / 'coco.json'}\n"
        assert "2 .srt files written" in said.err

    def test_every_format_at_once(self, folder):
        pytest.importorskip("pyarrow")
        assert main(["report", str(folder), "--format", ",".join(FORMATS)]) == 0
        beside = {video + end for video in ("cam/a.mp4", "b.mp4") for end in VIDEO_WRITERS}
        assert names_in(folder) == BY_DEFAULT | beside | set(WRITERS)
        assert [one.video for one in read_results(folder).videos] == ["b.mp4", "cam/a.mp4"]

    def test_files_of_an_earlier_run_do_not_outlive_its_result(self, tmp_path):
        first, second = make_result((1.0, 2.0)), make_result((3.0, 4.0))
        write_video(tmp_path, first, read_formats("srt,edl"))
        assert names_in(tmp_path) == {"cam/a.mp4.json", "cam/a.mp4.srt", "cam/a.mp4.edl"}
        write_video(tmp_path, second, read_formats("edl"))
        assert names_in(tmp_path) == {"cam/a.mp4.json", "cam/a.mp4.edl"}
        assert "00:00:03:00" in (tmp_path / "cam/a.mp4.edl").read_text()

    def test_a_folder_of_pictures_cannot_take_the_place_of_a_format(self, tmp_path):
        result = make_result(video="coco")
        write_video(tmp_path, result, DEFAULT_FORMATS)
        with pytest.raises(ResultsError, match="rename the video 'coco', or leave the format out"):
            write_video(tmp_path, result, read_formats("coco"))
        with pytest.raises(ResultsError, match="rename the video 'coco'"):
            write_beside(tmp_path, result, ["coco"])

    def test_a_name_that_is_too_long_only_for_a_format_is_named(self, tmp_path):
        result = make_result(video="v" * 246)
        with pytest.raises(ResultsError, match=r"ffmetadata cannot be written .* rename the video"):
            write_video(tmp_path, result, read_formats("chapters"))
        write_video(tmp_path, result, DEFAULT_FORMATS)


@given(st.floats(0, 4 * TEN_HOURS), st.floats(0, 100), st.floats(1, 120))
def test_frames_by_time_are_the_nearest_ones(start, length, fps):
    event = replace(make_result((0.0, 1.0)).events[0], start_seconds=start)
    first, stop = frames_at(replace(event, stop_seconds=start + length), fps)
    assert abs(first - start * fps) <= 0.5 + 1e-6
    assert stop > first

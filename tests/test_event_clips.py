"""`--clips`: which files there are, and what names them."""

import json
from dataclasses import replace

import av
import pytest
import torch
from builders import VIEWS, fake_extraction, make_features, write_checkpoint, write_store
from test_result_formats import make_result, of_all
from video_files import draw_frames, encode

from vigil.extract.decode.videos import find_videos
from vigil.extract.errors import UserError
from vigil.pipeline.cli import main
from vigil.pipeline.extraction.command import ExtractionReport
from vigil.pipeline.option_checks import check_options
from vigil.pipeline.options import ReportOptions, ScoreOptions
from vigil.pipeline.scoring import command as scoring
from vigil.pipeline.scoring.clips import add_clips, remove_clips
from vigil.pipeline.scoring.command import run_score
from vigil.pipeline.scoring.results import read_results, write_result
from vigil.pipeline.scoring.writers import write_overview, write_video
from vigil.pipeline.text_files import read_csv

HOSTILE = "cam 1/a #%d <b>.mp4"


@pytest.fixture
def folder(tmp_path):
    """Results of two videos with events, one without, and one whose file is gone."""
    results = []
    for video, ranges in (
        (HOSTILE, [(0.2, 0.4), (0.6, 0.8)]),
        ("b.mp4", []),
        ("gone.mp4", [(0, 1)]),
    ):
        source = tmp_path / "videos" / video
        if video != "gone.mp4":
            encode(source, draw_frames(25, 96, 64))
        results.append(make_result(*ranges, video=video, source=str(source)))
    place = tmp_path / "results"
    for result in results:
        write_result(place, result)
    write_overview(place, of_all(*results))
    return place


def clips_of(folder, video):
    (result,) = (one for one in read_results(folder).videos if one.video == video)
    return [event.clip for event in result.events]


def test_without_them_nothing_is_said_of_clips(folder):
    assert "clip" not in (folder / f"{HOSTILE}.json").read_text()
    assert "clip" not in (folder / "events.csv").read_text()
    assert not (folder / "clips").exists()


def test_report_writes_and_names_them(folder):
    (folder / "report.html").unlink()
    before = json.loads((folder / f"{HOSTILE}.json").read_text())
    assert main(["report", str(folder), "--clips", "--clip-margin", "0.1"]) == 3
    first, second = clips_of(folder, HOSTILE)
    assert first.path == f"clips/{HOSTILE}/1.mp4"
    assert second.sheet == f"clips/{HOSTILE}/2.jpg"
    for clip in (first, second):
        with av.open(str(folder / clip.path)) as container:
            assert next(container.decode(video=0)).width == 96
        assert (folder / clip.sheet).read_bytes().startswith(b"\xff\xd8")
    rows = read_csv(folder / "events.csv")  # written again, since it is there
    named = {row["video"]: row["clip"] for row in rows if row["stop_seconds"] != "0.400"}
    assert named == {HOSTILE: second.path, "gone.mp4": ""}
    assert (folder / "report.html").is_file()
    after = json.loads((folder / f"{HOSTILE}.json").read_text())
    for event in after["events"]:
        assert set(event.pop("clip")) == {"path", "sheet", "start_seconds"}
    assert after == before


def test_a_video_that_is_gone_is_named_once(folder, capsys):
    for _ in range(2):
        assert main(["report", str(folder), "--clips"]) == 3
        assert "gone.mp4: 1 event without a clip: there is no such file" in capsys.readouterr().err
    (gone,) = (one for one in read_results(folder).videos if one.video == "gone.mp4")
    assert gone.warnings == ("Without a clip: 1 event, since there is no such file.",)
    encode(folder.parent / "videos" / "gone.mp4", draw_frames(25, 96, 64))
    assert main(["report", str(folder), "--clips"]) == 0
    (gone,) = (one for one in read_results(folder).videos if one.video == "gone.mp4")
    assert gone.warnings == ()
    assert gone.events[0].clip.start_seconds == 0


def test_results_of_feature_files_have_none(tmp_path):
    (result,) = add_clips(tmp_path, [make_result((0.0, 1.0))], 5.0)
    assert result.events[0].clip is None
    assert "its file is not recorded in the results" in result.warnings[0]


def test_those_of_an_earlier_run_do_not_outlive_its_result(folder):
    main(["report", str(folder), "--clips"])
    place = folder / "clips" / HOSTILE
    (place / "mine.txt").touch()
    (result,) = (one for one in read_results(folder).videos if one.video == HOSTILE)
    write_video(folder, replace(result, events=()), ["json"])
    assert [path.name for path in place.iterdir()] == ["mine.txt"]
    remove_clips(folder, "never seen.mp4")


def test_they_are_no_videos_to_be_found(folder):
    main(["report", str(folder), "--clips"])
    found = find_videos([str(folder.parent)], ".mp4")
    assert [video.name for video in found.videos] == ["videos/b.mp4", f"videos/{HOSTILE}"]


def test_score_writes_them(tmp_path, monkeypatch):
    class FakeEngine:
        views = VIEWS
        devices = (torch.device("cpu"),)

    encode(tmp_path / "videos" / "a.mp4", draw_frames(80, 96, 64))
    place = tmp_path / "results"
    write_store(place / "features", make_features("a.mp4"))
    report = ExtractionReport()
    report.present = ["a.mp4"]
    monkeypatch.setattr(scoring, "scoring_engine", lambda config, options: FakeEngine())
    monkeypatch.setattr(scoring, "extract_videos", fake_extraction(report))
    run = write_checkpoint(tmp_path / "run", threshold=0.0)
    options = ScoreOptions((str(tmp_path / "videos"),), place, run, clips=True)
    assert run_score(options) == 0
    (clip,) = clips_of(place, "a.mp4")
    assert (place / clip.path).is_file()
    assert read_csv(place / "events.csv")[0]["clip"] == clip.path
    assert run_score(replace(options, clips=False)) == 0
    assert clips_of(place, "a.mp4") == [None]
    assert not (place / clip.path).exists()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), 3601.0])
def test_a_margin_that_is_none_is_refused(tmp_path, seconds):
    with pytest.raises(UserError, match=r"clip margin .* is not in 0\.\.3600 seconds: use 5"):
        check_options(ReportOptions(tmp_path, clip_margin=seconds))

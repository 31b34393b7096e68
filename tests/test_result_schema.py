"""The published schemas of the JSON files, against files of every kind."""

import json
from dataclasses import MISSING, fields, replace
from importlib.resources import files

import pytest
import torch
from builders import VIEWS, fake_extraction, make_features, write_checkpoint, write_store

from vigil.extract.errors import FailedVideo
from vigil.pipeline.calibration import CalibratedThreshold, Calibration
from vigil.pipeline.extraction.command import ExtractionReport
from vigil.pipeline.options import ScoreOptions
from vigil.pipeline.scores.events import Action, Event, EventClip, EventRule
from vigil.pipeline.scores.frame_warnings import DamagedFrames
from vigil.pipeline.scoring import command as scoring
from vigil.pipeline.scoring.command import run_score
from vigil.pipeline.scoring.results import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_FORMAT,
    SegmentScore,
    VideoResult,
    write_result,
)

jsonschema = pytest.importorskip("jsonschema")


def schema_of(name):
    return json.loads(files("vigil.pipeline.scoring").joinpath(f"schema/{name}.json").read_bytes())


RESULT, MANIFEST = schema_of("result"), schema_of("manifest")
EVENT = Event(0, 50, 0.0, 2.0, 0.75, "Fighting", 0.5, {"Fighting": 0.75, "Arson": 0.25})
PLAIN = VideoResult(
    video="cam/a.mp4",
    source=None,
    label="Normal",
    class_probabilities={"Normal": 0.5, "Fighting": 0.5},
    peak_score=0.25,
    threshold=0.5,
    events=(),
    segments=(SegmentScore(0, 50, 0.0, 2.0, 0.25),),
    views=("center",),
    fps=25.0,
    num_frames_container=50,
    num_frames_decoded=50,
    num_frames_damaged=0,
    spec_digest="f" * 64,
    warnings=(),
)
CLOCK = {"start_clock": "2021-03-04 10:00:05", "stop_clock": "2021-03-04 10:00:08"}
KINDS = {
    "none": {},
    "an event": {"events": (EVENT,), "label": "Fighting", "peak_score": 0.75},
    "actions": {"events": (replace(EVENT, actions=(Action("wrestling", 0.5),)),)},
    "clip": {"events": (replace(EVENT, clip=EventClip("clips/a/1.mp4", "clips/a/1.jpg", 0.5)),)},
    "time of day": {
        "events": (replace(EVENT, **CLOCK),),
        "recorded_at": CLOCK["start_clock"],
        "recorded_at_source": "name",
    },
    "left out": {"left_out": (EVENT,), "rule": EventRule(0.25), "warnings": ("1 place ...",)},
    "classes of segments": {"segment_class_probabilities": {"Normal": (1.0,), "Fighting": (0.0,)}},
    "damage": {
        "num_frames_damaged": 3,
        "num_frames_lost": 1,
        "damage": (DamagedFrames(10, 12, 0.4, 0.48), DamagedFrames(50, 50, 2.0, 2.0)),
    },
    "spans": {"span_frames": 250},
    "static clips": {"static_share": 0.75},
    "calibrated": {"threshold_rule": "calibrated on camera 'cam' for 1 alarm a day"},
}


@pytest.mark.parametrize("schema", [RESULT, MANIFEST])
def test_the_schemas_are_schemas(schema):
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (VideoResult, RESULT),
        (Event, RESULT["$defs"]["event"]),
        (Action, RESULT["$defs"]["action"]),
        (EventClip, RESULT["$defs"]["clip"]),
        (SegmentScore, RESULT["$defs"]["segment"]),
        (DamagedFrames, RESULT["$defs"]["damage"]),
        (EventRule, RESULT["$defs"]["rule"]),
    ],
)
def test_every_field_is_described_and_those_that_were_added_later_are_not_required(kind, place):
    header = {"format", "format_version"} if kind is VideoResult else set()
    assert set(place["properties"]) == {one.name for one in fields(kind)} | header
    always = {
        one.name
        for one in fields(kind)
        if one.default is MISSING and one.default_factory is MISSING
    }
    assert set(place["required"]) == always | header


def test_the_versions_are_those_that_are_written():
    for schema, name in ((RESULT, FORMAT), (MANIFEST, MANIFEST_FORMAT)):
        assert schema["properties"]["format"] == {"const": name}
        assert schema["properties"]["format_version"] == {"const": FORMAT_VERSION}


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_of_every_kind_is_valid(tmp_path, kind):
    write_result(tmp_path, replace(PLAIN, **KINDS[kind]))
    jsonschema.validate(json.loads((tmp_path / "cam/a.mp4.json").read_bytes()), RESULT)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 2},
        {"peak_score": 1.5},
        {"segments": []},
        {"events": [{"start_frame": 0}]},
        {"recorded_at_source": "guess"},
    ],
)
def test_what_is_no_result_is_not_valid(tmp_path, changes):
    write_result(tmp_path, PLAIN)
    content = json.loads((tmp_path / "cam/a.mp4.json").read_bytes())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | changes, RESULT)


def calibration():
    one = CalibratedThreshold(0.0, 24.0, 288, 1, 0.1, 2.0, ())
    return Calibration(1.0, 300, "folder", VIEWS, "auto", {"cam": one}, one, "2021-01-01")


@pytest.mark.parametrize("changes", [{}, {"calibration": calibration()}])
@pytest.mark.parametrize("threshold", ["auto", "0", "1"])
def test_whatever_vigil_score_writes_is_valid(tmp_path, monkeypatch, threshold, changes):
    class FakeEngine:
        views = VIEWS
        devices = (torch.device("cpu"),)

    (tmp_path / "videos" / "cam").mkdir(parents=True)
    names = ["cam/a_2024-05-01_23-59-58.mp4", "b.mp4"]
    for name in names:
        (tmp_path / "videos" / name).touch()
    store = tmp_path / "results" / "features"
    write_store(store, *(make_features(name) for name in names))
    report = ExtractionReport()
    report.present, report.failures = names, [FailedVideo("c.mp4", "it is empty")]
    monkeypatch.setattr(scoring, "scoring_engine", lambda config, options: FakeEngine())
    monkeypatch.setattr(scoring, "extract_videos", fake_extraction(report))
    run = write_checkpoint(tmp_path / "run", **changes)
    place, videos = tmp_path / "results", (str(tmp_path / "videos"),)
    assert run_score(ScoreOptions(videos, place, run, threshold=threshold)) == 3
    manifest = json.loads((place / "manifest.json").read_bytes())
    jsonschema.validate(manifest, MANIFEST)
    assert set(manifest) <= set(MANIFEST["properties"])
    assert ("thresholds" in manifest) == ("calibration" in changes and threshold == "auto")
    for name in manifest["videos"]:
        jsonschema.validate(json.loads((place / f"{name}.json").read_bytes()), RESULT)

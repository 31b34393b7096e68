"""Scoring feature files into a folder of results."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import (
    CLASS_NAMES,
    SPEC,
    VIEWS,
    fake_extraction,
    make_features,
    score_store,
    write_checkpoint,
    write_store,
)
from report_files import read_details, read_index, write_album
from test_report import make_result

from vigil.extract.engine.dispatch import Extracted
from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.locks import LockedError, locked
from vigil.extract.networks.backbones import find_backbone
from vigil.extract.networks.weights import load_weights
from vigil.extract.sealed import FeatureFileError
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.store import feature_path, list_features
from vigil.pipeline import cli
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.extraction.command import ExtractionReport
from vigil.pipeline.failures import write_failures
from vigil.pipeline.option_values import read_threshold
from vigil.pipeline.options import ComputeOptions, ScoreOptions
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.video_scoring import (
    UNTRAINED_WARNING,
    ScoringError,
    feature_warnings,
    score_video,
)
from vigil.pipeline.scoring import command as scoring
from vigil.pipeline.scoring.command import run_score, scoring_engine
from vigil.pipeline.scoring.results import (
    read_result,
    read_results,
    result_path,
    write_result,
)
from vigil.pipeline.scoring.score_store import video_result
from vigil.pipeline.scoring.thresholds import threshold_for
from vigil.pipeline.starter import STARTER
from vigil.pipeline.text_files import read_csv

RULE = EventRule(0.5)


@pytest.fixture
def checkpoint(tmp_path):
    return load_checkpoint(write_checkpoint(tmp_path / "run"))


def test_every_file_gets_the_result_of_the_model(tmp_path, checkpoint):
    videos = [make_features("Fighting/a.mp4", 80, 1), make_features("b.mp4", 5, 2)]
    store = write_store(tmp_path / "features", *videos)
    folder = tmp_path / "results"
    source = tmp_path / "videos" / "b.mp4"
    scored = score_store(checkpoint, list_features(store), folder, 0.5, sources={"b.mp4": source})

    assert [result.video for result in scored.results] == ["Fighting/a.mp4", "b.mp4"]
    assert scored.failures == []
    for result, features in zip(scored.results, videos, strict=True):
        assert read_result(result_path(folder, result.video)) == result
        bags = torch.from_numpy(features.features)
        with torch.no_grad():
            output = checkpoint.model(bags)
        expected = output.scores.double().mean(0).numpy()
        assert [one.score for one in result.segments] == pytest.approx(expected, abs=1e-6)
        probabilities = output.class_logits.double().softmax(-1).mean(0).numpy()
        assert list(result.class_probabilities) == list(CLASS_NAMES)
        assert list(result.class_probabilities.values()) == pytest.approx(probabilities, abs=1e-6)
        assert (result.label == "Normal") == (not result.events)
        frames = [(one.start_frame, one.stop_frame) for one in result.segments]
        assert frames == [tuple(pair) for pair in features.segment_frames.tolist()]
        held = features.segment_frames[:, 1] > features.segment_frames[:, 0]
        assert result.peak_score == pytest.approx(expected[held].max(), abs=1e-6)
        assert result.spec_digest == SPEC.digest
        assert result.duration_seconds == features.num_frames_decoded / 25
    assert scored.results[0].source is None
    assert scored.results[1].source == str(source)


def test_the_threshold_affects_only_events(tmp_path, checkpoint):
    features = make_features()
    timeline = score_video(checkpoint, "a.mp4", features)
    named = np.tile([0.2, 0.5, 0.3], (len(timeline.frames), 1))
    timeline = replace(timeline, named=named)
    rules = EventRule(0.0), EventRule(1.0)
    low, high = (video_result(checkpoint, "a.mp4", features, timeline, rule) for rule in rules)
    assert [(event.start_frame, event.stop_frame) for event in low.events] == [(0, 80)]
    assert low.events[0].peak_score == low.peak_score
    assert low.events[0].class_name in CLASS_NAMES[1:]
    assert high.events == ()
    assert (high.label, low.label) == ("Normal", low.events[0].class_name)
    changed = {"label": low.label, "warnings": low.warnings, "rule": rules[0]}
    assert replace(high, events=low.events, threshold=0.0, **changed) == low


def test_events_use_the_classes_of_their_segments_if_available(tmp_path, checkpoint):
    features = make_features()
    timeline = score_video(checkpoint, "a.mp4", features)
    rule = EventRule(0.5, join_seconds=0, min_seconds=0)
    without = video_result(checkpoint, "a.mp4", features, timeline, rule)
    assert without.segment_class_probabilities is None

    rows = np.tile([0.5, 0.3, 0.2], (8, 1))
    rows[4:] = [0.1, 0.2, 0.7]
    scores = replace(
        timeline.scores,
        scores=np.array([0, 0.9, 0, 0, 0, 0, 0.9, 0.9]),
        segment_class_probabilities=rows,
    )
    timeline = replace(timeline, scores=scores, named=rows)
    result = video_result(checkpoint, "a.mp4", features, timeline, rule)
    found = [(event.class_name, event.class_probability) for event in result.events]
    assert found == [("Fighting", pytest.approx(0.7))]  # the other one looks normal
    assert result.label == "Fighting"
    assert result.warnings[-1].startswith("1 place with a score of up to 0.900 left out")
    assert [event.class_name for event in result.left_out] == ["Arson"]
    assert result.segment_class_probabilities is not None
    assert list(result.segment_class_probabilities) == list(CLASS_NAMES)
    assert result.segment_class_probabilities["Arson"] == (0.3,) * 4 + (0.2,) * 4
    write_result(tmp_path, result)
    assert read_result(result_path(tmp_path, "a.mp4")) == result


def test_views_are_averaged_as_requested(checkpoint):
    features = make_features()
    both = score_video(checkpoint, "a.mp4", features).scores
    single = [
        score_video(checkpoint, "a.mp4", features, [view]).scores.scores for view in features.views
    ]
    assert both.scores == pytest.approx(np.mean(single, axis=0))
    with pytest.raises(FeatureFileError, match="not top_right"):
        score_video(checkpoint, "a.mp4", features, ["top_right"])


def test_a_file_that_cannot_be_scored_stops_no_other(tmp_path, checkpoint):
    other = replace(SPEC, short_side=None)
    store = write_store(
        tmp_path / "features",
        make_features("good.mp4"),
        make_features("other.mp4", spec=other),
        make_features("damaged.mp4"),
    )
    damaged = store / "damaged.mp4.h5"
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    scored = score_store(checkpoint, list_features(store), tmp_path / "results", 0.5)
    assert [result.video for result in scored.results] == ["good.mp4"]
    reasons = {failure.video: failure.reason for failure in scored.failures}
    assert "damaged.mp4.h5 is damaged" in reasons["damaged.mp4"]
    assert "short_side: None != 256" in reasons["other.mp4"]
    assert not result_path(tmp_path / "results", "other.mp4").exists()


def test_features_of_other_settings_are_refused_by_name(checkpoint):
    other = make_features(spec=replace(SPEC, weights_digest="1" * 64, time_pool="mean"))
    with pytest.raises(
        ScoringError, match=r"b\.mp4: its features differ .*weights_digest: 1+ != 0+; time_pool"
    ):
        score_video(checkpoint, "b.mp4", other)


def test_static_clips_are_scored_if_asked_for_and_told(tmp_path, checkpoint):
    """The model sees features of another kind than in training, so nobody gets them unasked."""
    skipped = make_features(
        spec=replace(SPEC, static="skip"), clip_computed=np.array([True, False])
    )
    with pytest.raises(ScoringError, match="static: skip != compute"):
        score_video(checkpoint, "a.mp4", skipped)
    assert checkpoint.with_static(None) == checkpoint
    skipping = checkpoint.with_static("skip")
    store = write_store(tmp_path / "features", skipped)
    (result,) = score_store(skipping, list_features(store), tmp_path, 0.5).results
    content = json.loads(result_path(tmp_path, "a.mp4").read_text())
    assert content["static_share"] == result.static_share == 0.5
    assert read_result(result_path(tmp_path, "a.mp4")) == result
    with pytest.raises(ScoringError, match="static: compute != skip"):
        score_video(skipping, "a.mp4", make_features())
    (computed,) = score_store(
        checkpoint, list_features(write_store(tmp_path / "plain", make_features())), tmp_path, 0.5
    ).results
    assert computed.static_share is None
    assert "static_share" not in json.loads(result_path(tmp_path, "a.mp4").read_text())


@pytest.mark.parametrize("static", [None, "compute", "skip"])
def test_the_engine_treats_static_clips_as_asked(tmp_path, monkeypatch, static):
    run = write_checkpoint(tmp_path / "run")
    specs = []
    monkeypatch.setattr(scoring, "scoring_engine", lambda config, _: specs.append(config.spec))
    (tmp_path / "a.mp4").touch()
    options = ScoreOptions((str(tmp_path / "a.mp4"),), tmp_path / "out", run, static=static)
    scoring.request_of(options)
    assert [spec.static for spec in specs] == [static or "compute"]


def test_a_model_without_a_finite_answer_is_refused(checkpoint):
    with torch.no_grad():
        next(iter(checkpoint.model.detection.parameters())).fill_(float("nan"))
    with pytest.raises(ScoringError, match=r"a\.mp4: the model's scores are not finite"):
        score_video(checkpoint, "a.mp4", make_features())


def test_warnings_name_reasons_for_doubt():
    assert feature_warnings(make_features()) == []
    doubtful = make_features(
        num_frames=50, weights_trained=False, num_frames_damaged=3, num_frames_container=60
    )
    assert feature_warnings(doubtful) == [
        UNTRAINED_WARNING,
        "Damaged frames: 3; 50 could be decoded.",
        "The container declares 60 frames, 50 could be decoded.",
    ]
    assert feature_warnings(make_features(num_frames=50, num_frames_container=52)) == []
    assert feature_warnings(make_features(num_frames_container=0)) == []


def test_a_result_says_where_the_video_is_damaged(tmp_path, checkpoint):
    features = make_features(
        num_frames_damaged=3,
        num_frames_lost=1,
        damage_frames=np.array([[10, 12], [80, 80]]),
        damage_seconds=np.array([[0.4, 0.48], [3.2, 3.2]]),
    )
    store = write_store(tmp_path / "features", features)
    score_store(checkpoint, list_features(store), tmp_path / "results", 0.5)
    content = json.loads(result_path(tmp_path / "results", "a.mp4").read_text())
    names = "start_frame", "stop_frame", "start_seconds", "stop_seconds"
    places = (10, 12, 0.4, 0.48), (80, 80, 3.2, 3.2)
    assert content["damage"] == [dict(zip(names, place, strict=True)) for place in places]
    assert (content["num_frames_damaged"], content["num_frames_lost"]) == (3, 1)
    said = "Damaged frames: 3 (1 of them lost), the first at 0:00:00; 80 could be decoded."
    assert content["warnings"] == [said]


ENDPOINT_SPEC = replace(SPEC, endpoint="Conv3d_1a_7x7")


def test_the_engine_makes_features_like_those_of_the_training(tmp_path):
    backbone = find_backbone("i3d")
    weights = load_weights(backbone.build(ENDPOINT_SPEC.endpoint), "random:3", backbone.sources)
    spec = replace(ENDPOINT_SPEC, weights_digest=weights.digest)
    run = write_checkpoint(
        tmp_path / "run", spec=spec, weights_name=weights.name, weights_trained=False
    )
    config = load_checkpoint(run).config
    options = ScoreOptions((), tmp_path, run, views="five", compute=ComputeOptions(device="cpu"))
    engine = scoring_engine(config, options)
    assert engine.spec == spec
    assert engine.weights == weights
    assert len(engine.views) == 5
    assert engine.thumbnails == tmp_path / "thumbnails"
    assert scoring_engine(config, replace(options, thumbnails=False)).thumbnails is None
    with pytest.raises(
        UserError, match=r"random:4 are not those that the features were made with \(random:3, d"
    ):
        scoring_engine(config, replace(options, weights="random:4"))


def test_threshold_is_the_checkpoints_or_a_score(tmp_path):
    config = load_checkpoint(write_checkpoint(tmp_path, threshold=0.125)).config
    assert threshold_for(config, "a.mp4", read_threshold("auto")) == (0.125, "given")
    given = threshold_for(config, "a.mp4", read_threshold("0.7"))
    assert given == (0.7, "given on the command line")
    for text in ("1.5", "-0.1", "nan", "high"):
        with pytest.raises(
            UserError,
            match=f"threshold '{text}' is not a number from 0 to 1: give one, or use auto",
        ):
            read_threshold(text)


@pytest.fixture
def extraction(tmp_path, monkeypatch):
    """Replace extraction by a fake for given videos; return the report that it gives."""
    for name in ("a.mp4", "in/b.mp4", "gone.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    report = ExtractionReport()

    class FakeEngine:
        views = VIEWS
        devices = (torch.device("cpu"),)

    monkeypatch.setattr(scoring, "scoring_engine", lambda config, options: FakeEngine())
    monkeypatch.setattr(scoring, "extract_videos", fake_extraction(report))
    return report


def test_results_have_the_time_of_day_of_their_names(tmp_path, extraction):
    run = write_checkpoint(tmp_path / "run", threshold=0.0)
    names = ["gate_2024-05-01_23-59-58.mp4", "b.mp4", "day/01-05-2024_08-30-15.mp4"]
    write_store(tmp_path / "results" / "features", *(make_features(name) for name in names))
    extraction.present = names
    for name in names:
        path = tmp_path / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()

    def times(clock):
        run_score(ScoreOptions((str(tmp_path / "videos"),), tmp_path / "results", run, clock=clock))
        results = read_results(tmp_path / "results")
        rows = read_csv(tmp_path / "results" / "events.csv")
        index = (tmp_path / "results" / "report" / "index.js").read_text()
        for result in results.videos:
            (event,) = result.events
            (row,) = (row for row in rows if row["video"] == result.video)
            assert (row["start_clock"] or None) == event.start_clock
            assert (row["stop_clock"] or None) == event.stop_clock
            assert (event.start_clock or "") in index
        return {
            result.video: (result.recorded_at_source, event.start_clock, event.stop_clock)
            for result in results.videos
            for event in result.events
        }

    nothing = (None, None, None)
    gate = "name", "2024-05-01 23:59:58", "2024-05-02 00:00:02"  # 80 frames at 25, rounded up
    assert times("auto") == {names[0]: gate, names[1]: nothing, names[2]: nothing}
    assert times("none") == dict.fromkeys(names, nothing)
    day = "template", "2024-05-01 08:30:15", "2024-05-01 08:30:19"
    assert times("%d-%m-%Y_%H-%M-%S") == {names[0]: nothing, names[1]: nothing, names[2]: day}
    with pytest.raises(UserError, match="must be auto, none, creation, or a template"):
        times("noon")


def test_formats_are_those_that_were_asked_for(tmp_path, extraction, capsys):
    run, folder = write_checkpoint(tmp_path / "run", threshold=0.0), tmp_path / "results"
    write_store(folder / "features", make_features("a.mp4"))
    extraction.present = ["a.mp4"]
    options = ScoreOptions((str(tmp_path / "videos"),), folder, run)

    def score(formats):
        run_score(replace(options, format=formats))
        shown = capsys.readouterr().out.splitlines()[-1]
        return shown, {path.name for path in folder.glob("[!.]*.*")}

    always = {"a.mp4.json", "failures.csv", "manifest.json"}
    everything = always | {"summary.csv", "events.csv", "report.html"}
    assert score(options.format) == (str(folder / "report.html"), everything)
    assert score("vtt,coco") == (str(folder), always | {"a.mp4.vtt", "coco.json"})
    assert score("csv") == (str(folder), everything - {"report.html"})


def test_thumbnails_are_kept_told_of_and_removed(tmp_path, extraction, caplog):
    caplog.set_level("INFO")
    run = write_checkpoint(tmp_path / "run", threshold=0.25)
    folder, names = tmp_path / "results", ("a.mp4", "in/b.mp4")
    write_store(folder / "features", *map(make_features, names))
    extraction.present = list(names)
    frames = [np.zeros((48, 64, 3), np.uint8)] * 80
    write_album(folder, make_result("in/b.mp4"), frames, 10)
    options = ScoreOptions((str(tmp_path / "videos"),), folder, run, threshold="0", keep_share=0)
    assert run_score(options) == 0
    assert "no thumbnails of 1 video: they are taken while features are extracted" in caplog.text
    index = read_index(folder)
    assert [row["album"] for row in index["videos"]] == [None, "./thumbnails/in/b.mp4"]
    assert [row["strip"] is None for row in index["events"]] == [True, False]
    caplog.clear()
    assert run_score(replace(options, thumbnails=False)) == 0
    assert [row["album"] for row in read_index(folder)["videos"]] == [None, None]
    assert not (folder / "thumbnails" / "in" / "b.mp4").exists()
    assert "thumbnails" not in caplog.text


def test_an_interrupted_run_reports_what_is_done(tmp_path, extraction, monkeypatch, caplog):
    run, folder = write_checkpoint(tmp_path / "run", threshold=0.0), tmp_path / "results"
    store = write_store(folder / "features", make_features("a.mp4"))
    for name in ("manifest.json", "report.html", "summary.csv", "events.csv", "failures.csv"):
        (folder / name).write_text("of an earlier run")
    failure = FailedVideo("gone.mp4", "it is empty", "decord", 0)

    def extract_one(found, store, *arguments, when_ready, **settings):
        when_ready("a.mp4", feature_path(store, "a.mp4"))
        # While later videos are extracted; nothing of the earlier run is left.
        assert [path.name for path in folder.glob("[!.]*.*")] == ["a.mp4.json"]
        write_failures(store, [failure])
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "extract_videos", extract_one)
    with pytest.raises(KeyboardInterrupt), caplog.at_level("INFO"):
        run_score(ScoreOptions((str(tmp_path / "videos"),), folder, run))
    results = read_results(folder)
    assert [result.video for result in results.videos] == ["a.mp4"]
    assert results.failures == (failure,)
    assert results.warnings[0] == "Interrupted: 1 of 3 videos were scored."
    assert "Interrupted: 1 of 3 videos" in (folder / "report.html").read_text()
    assert f"the report shows what is done: {folder / 'report.html'}" in caplog.text
    assert list(store.rglob("*.h5"))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, UserError("another spec")])
def test_a_run_that_scores_nothing_leaves_the_results_of_an_earlier_one(
    tmp_path, extraction, monkeypatch, stop
):
    run, folder = write_checkpoint(tmp_path / "run"), tmp_path / "results"
    write_store(folder / "features", make_features("a.mp4"))
    extraction.present = ["a.mp4"]
    options = ScoreOptions((str(tmp_path / "videos"),), folder, run)
    assert run_score(options) == 0
    earlier = {path: path.read_bytes() for path in folder.glob("[!.]*.*")}

    def extract_none(*arguments, when_ready, **settings):
        raise stop

    monkeypatch.setattr(scoring, "extract_videos", extract_none)
    with pytest.raises(stop if isinstance(stop, type) else type(stop)):
        run_score(options)
    assert {path: path.read_bytes() for path in folder.glob("[!.]*.*")} == earlier


def test_without_a_checkpoint_the_starter_scores_and_says_what_it_knows(
    tmp_path, extraction, caplog
):
    config = load_checkpoint(STARTER).config
    assert config.class_names == ("Normal", "Fighting", "RoadAccidents")
    assert sum(path.stat().st_size for path in STARTER.iterdir()) < 2_000_000
    assert config.weights_name in {one.name for one in find_backbone("i3d").sources}
    positions, channels = find_backbone("i3d").shape_of(config.spec.endpoint)
    frames, clip_frames = segment_ranges(80, 32), np.array([[0, 64], [64, 80]])
    clips = np.random.default_rng(0).random((2, len(VIEWS), positions * channels), np.float32)
    features = make_features(
        spec=config.spec,
        features=pool_clips(clips, clip_frames, frames).swapaxes(0, 1),
        segment_frames=frames,
        segment_seconds=frames / 25.0,
        clip_features=clips,
        clip_frames=clip_frames,
        time_positions=positions,
        channels=channels,
    )
    write_store(tmp_path / "results" / "features", features)
    extraction.present = ["a.mp4"]
    with caplog.at_level("INFO"):
        assert run_score(ScoreOptions((str(tmp_path / "videos"),), tmp_path / "results")) == 0
    said = "it looks for Fighting and RoadAccidents and nothing else"
    assert said in caplog.text
    results = read_results(tmp_path / "results")
    assert said in results.warnings[0]
    assert list(results.videos[0].class_probabilities) == list(config.class_names)
    assert results.videos[0].threshold == config.threshold


@pytest.mark.parametrize("trained", [True, False])
def test_a_folder_of_videos_becomes_a_folder_of_results(tmp_path, extraction, capsys, trained):
    run = write_checkpoint(tmp_path / "run", weights_trained=trained, threshold=0.25)
    folder = tmp_path / "results"
    videos = [make_features(name, weights_trained=trained) for name in ("a.mp4", "in/b.mp4")]
    write_store(folder / "features", *videos, make_features("from an earlier run.mp4"))
    extraction.extracted = [Extracted("a.mp4", make_features("a.mp4"))]
    extraction.present = ["in/b.mp4"]
    extraction.failures = [FailedVideo("gone.mp4", "it is empty", "decord", 0)]
    options = ScoreOptions((str(tmp_path / "videos"),), folder, run)

    assert run_score(options) == 3
    *table, last = capsys.readouterr().out.splitlines()
    assert last == str(folder / "report.html")
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in table if "│" in line]
    assert sorted(row[0] for row in rows) == ["a.mp4", "gone.mp4", "in/b.mp4"]
    assert ["gone.mp4", "failed", "", "", ""] in rows
    outputs = [path for path in folder.rglob("[!.]*") if path.is_file() and path.suffix != ".h5"]
    outputs = [path for path in outputs if path.parent.name != "report" or path.suffix != ".js"]
    assert {path.relative_to(folder).as_posix() for path in outputs} == {
        "a.mp4.json",
        "in/b.mp4.json",
        "summary.csv",
        "events.csv",
        "failures.csv",
        "manifest.json",
        "report.html",
        "report/report.css",
        "report/videos/0.js",
        "report/videos/1.js",
    }
    results = read_results(folder)
    assert {result.video for result in results.videos} == {"a.mp4", "in/b.mp4"}
    assert results.failures == tuple(extraction.failures)
    manifest = results.manifest
    assert manifest["threshold"] == 0.25
    assert manifest["threshold_rule"] == "given"
    assert manifest["counts"]["videos"] == 3
    assert manifest["counts"]["failed"] == 1
    assert manifest["counts"]["frames"] == 160
    assert manifest["settings"]["out"] == str(folder)
    assert manifest["timings_seconds"].keys() == {"extraction", "scoring"}
    assert manifest["checkpoint"]["spec_digest"] == SPEC.digest
    page = (folder / "report.html").read_text()
    assert read_details(folder, 1)["link"] == "./../videos/in/b.mp4"
    assert page.count("these scores say nothing") == (0 if trained else 1)

    extraction.failures = []
    assert run_score(replace(options, threshold="0.75")) == 0
    assert read_results(folder).manifest["threshold_rule"] == "given on the command line"


def test_if_every_video_failed_the_exit_code_is_4_and_the_report_gives_reasons(
    tmp_path, extraction
):
    run, folder = write_checkpoint(tmp_path / "run"), tmp_path / "results"
    extraction.failures = [FailedVideo("a.mp4", "no frame can be decoded")]
    assert run_score(ScoreOptions((str(tmp_path / "videos"),), folder, run)) == 4
    assert read_index(folder)["failures"][0]["reason"] == "no frame can be decoded"


@pytest.mark.parametrize("name", ["results", "results/features"])
def test_results_and_features_are_locked(tmp_path, extraction, name):
    run, folder = write_checkpoint(tmp_path / "run"), tmp_path / "results"
    options = ScoreOptions((str(tmp_path / "videos"),), folder, run)
    with locked(tmp_path / name), pytest.raises(LockedError, match=f"is writing to {tmp_path}"):
        run_score(options)
    assert not (folder / "failures.csv").exists()
    assert run_score(options) == 0


def test_non_finite_features_are_not_blamed_on_the_model(tmp_path, checkpoint):
    broken = make_features("broken.mp4")
    broken.features[0, 5] = np.nan
    store = write_store(tmp_path / "features", broken, make_features("whole.mp4"))
    scored = score_store(checkpoint, list_features(store), tmp_path / "results", 0.5)
    assert [result.video for result in scored.results] == ["whole.mp4"]
    [failure] = scored.failures
    assert (failure.video, failure.reason[:50]) == (
        "broken.mp4",
        "broken.mp4: its features are not finite (view cent",
    )


def test_a_dry_run_writes_nothing(tmp_path, extraction):
    run, folder = write_checkpoint(tmp_path / "run"), tmp_path / "results"
    options = ScoreOptions((str(tmp_path / "videos"),), folder, run, dry_run=True)
    assert run_score(options) == 0
    assert not folder.exists()


def test_a_long_video_without_events_has_the_mean_of_its_places(checkpoint):
    features = make_features()
    timeline = score_video(checkpoint, "a.mp4", features)
    rows = np.tile([0.9, 0.04, 0.06], (8, 1))
    rows[0] = [0.1, 0.1, 0.8]
    timeline = replace(timeline, named=rows, span_frames=10)
    result = video_result(checkpoint, "a.mp4", features, timeline, EventRule(1.0))
    assert result.label == "Normal"
    assert list(result.class_probabilities.values()) == pytest.approx(rows.mean(axis=0))
    assert result.warnings == ()
    timeline = replace(timeline, named=1 - rows)
    found = video_result(checkpoint, "a.mp4", features, timeline, EventRule(0.0, min_seconds=0))
    assert found.class_probabilities == pytest.approx(
        dict(zip(CLASS_NAMES, timeline.scores.class_probabilities, strict=True))
    )


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("span", "0", "use auto, whole, or a number of seconds above 0"),
        ("keep_share", 1.5, "keep-share 1.5 is not a share: use 0 to 1"),
        ("join_seconds", -1.0, "join-seconds -1 is not a length: use 0 or more"),
        ("min_seconds", float("nan"), "min-seconds nan is not a length"),
    ],
)
def test_what_an_event_cannot_be_is_refused(tmp_path, flag, value, said):
    options = ScoreOptions((str(tmp_path),), tmp_path / "out", **{flag: value})
    with pytest.raises(UserError, match=said):
        cli.run(options)
    assert not (tmp_path / "out").exists()

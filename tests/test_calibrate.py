"""`vigil calibrate`, and scoring with the thresholds that it stores."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import (
    SPEC,
    VIEWS,
    fake_extraction,
    make_features,
    rewrite_config,
    score_store,
    write_checkpoint,
    write_store,
)
from video_files import draw_frames, encode

from vigil.extract.decode.videos import find_videos
from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.store import list_features, read_features
from vigil.pipeline import cli
from vigil.pipeline.calibration import NO_CAMERA, Calibration, camera_of
from vigil.pipeline.checkpoint import CheckpointError, TrainingLengths, load_checkpoint
from vigil.pipeline.evaluation.calibrated import unlike_calibrated
from vigil.pipeline.evaluation.command import run_evaluate
from vigil.pipeline.extraction.command import ExtractionReport
from vigil.pipeline.options import CalibrateOptions, EvaluateOptions, ScoreOptions
from vigil.pipeline.scores.alarm_rate import threshold_above
from vigil.pipeline.scoring import calibrate as calibrating
from vigil.pipeline.scoring import command as scoring
from vigil.pipeline.scoring import thresholds
from vigil.pipeline.scoring.calibrate import run_calibrate
from vigil.pipeline.scoring.command import run_score
from vigil.pipeline.scoring.results import read_results
from vigil.pipeline.scoring.thresholds import ordinary_scores, threshold_for

BLOCK_FRAMES = 25
"""A block of a second: each of the 8 segments of a video of 8 s."""
FOOTAGE = {"gate": 5, "yard": 2}
SHARE = 0.05
ASKED = SHARE * 86400


def write_footage(store, videos_of, first_seed=0, shift=0.0):
    """Write videos of 8 s into the folders of cameras; return their names."""
    names = []
    for camera, number in videos_of.items():
        for index in range(number):
            names.append(f"{camera}/{index}.mp4" if camera != NO_CAMERA else f"{index}.mp4")
            seed = first_seed + len(names)
            features = make_features(names[-1], 8 * BLOCK_FRAMES, seed=seed)
            features.features[:] += shift
            write_store(store, features)
    return names


@pytest.fixture
def extraction(tmp_path, monkeypatch):
    """Replace extraction by a fake; return the report that it gives."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    report = ExtractionReport()

    class FakeEngine:
        views = VIEWS
        devices = (torch.device("cpu"),)

    for module in (scoring, calibrating):
        monkeypatch.setattr(module, "scoring_engine", lambda config, options: FakeEngine())
        monkeypatch.setattr(module, "extract_videos", fake_extraction(report))
    return report


@pytest.fixture
def options(tmp_path, extraction):
    run = write_checkpoint(tmp_path / "run")
    (run / "splits.json").write_text(json.dumps({"train": ["gate/0.mp4"], "validation": []}))
    extraction.present = write_footage(tmp_path / "calibrated" / "features", FOOTAGE)
    return CalibrateOptions(
        run,
        (str(tmp_path / "videos"),),
        tmp_path / "calibrated",
        alarms_per_day=ASKED,
        block_seconds=1,
    )


def scores_of(options):
    """The scores of all segments of each camera."""
    checkpoint = load_checkpoint(options.run)
    found = {}
    for video, path in list_features(options.out / "features").items():
        scores = ordinary_scores(checkpoint, video, read_features(path), VIEWS, "auto").scores
        found.setdefault(video.split("/")[0], []).append(scores)
    return {camera: np.concatenate(scores) for camera, scores in found.items()}


def test_the_checkpoint_gets_a_threshold_for_each_camera(options, capsys, caplog):
    with caplog.at_level(logging.INFO):
        assert run_calibrate(options) == 0
    before, after = load_checkpoint(options.run), load_checkpoint(options.out)
    assert after.model_digest == before.model_digest
    calibration = after.config.calibration
    assert replace(after.config, calibration=None) == before.config
    splits = [(run / "splits.json").read_text() for run in (options.run, options.out)]
    assert splits[0] == splits[1]
    assert (calibration.camera, calibration.views) == ("folder", VIEWS)
    assert (calibration.alarms_per_day, calibration.block_seconds) == (ASKED, 1)

    scores = scores_of(options)
    gate, yard = calibration.cameras["gate"], calibration.cameras["yard"]
    assert (gate.num_blocks, gate.num_alarms, gate.hours) == (40, 2, 40 / 3600)
    assert gate.threshold == threshold_above(scores["gate"], 2)
    assert gate.quantiles[0].value in scores["gate"]
    assert 0 < gate.alarms_per_day_low < ASKED < gate.alarms_per_day_high
    assert (yard.num_blocks, yard.num_alarms, yard.threshold) == (16, 0, None)  # 19 are needed
    pooled = np.concatenate(list(scores.values()))
    assert calibration.overall.num_blocks == 56
    assert calibration.overall.threshold == threshold_above(pooled, 2)
    assert "camera 'yard' uses the threshold of all cameras" in caplog.text
    assert "1 video named like a training video, such as gate/0.mp4" in caplog.text
    assert "cameras with less than 5 days have intervals that take days as alike" in caplog.text
    rows = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [row.split("│")[1].strip() for row in rows] == ["gate", "yard", "(all cameras)"]


def test_footage_that_is_too_short_is_refused_with_the_hours_that_are_not(options):
    with pytest.raises(
        UserError,
        match=r"^0\.02 hours of footage \(whole blocks of 1 s\) are too short for 1 alarm a day: "
        r"give at least 24 hours, or ask for at least 1515\.79 alarms a day$",
    ):
        run_calibrate(replace(options, alarms_per_day=1))
    assert not (options.out / "best").exists()
    assert run_calibrate(replace(options, alarms_per_day=1515.79)) == 0
    with pytest.raises(UserError, match=r"0\.1429 alarms a day: give at least 168 hours"):
        run_calibrate(replace(options, alarms_per_day=1 / 7, block_seconds=300))


class TestHoursByHeaders:
    """Before anything is extracted."""

    @pytest.fixture
    def footage(self, tmp_path, options, monkeypatch):
        """Two cameras with 4.8 s and 1.6 s; return the options, with which extraction fails."""

        def fail(*_arguments):
            raise UserError("extraction begins")

        monkeypatch.setattr(calibrating, "scoring_engine", fail)
        (tmp_path / "videos" / "a.mp4").unlink()
        for name, repeats in (("gate/0.mp4", 3), ("gate/1.avi", 3), ("yard/0.mkv", 2)):
            path = tmp_path / "videos" / name
            path.parent.mkdir(exist_ok=True)
            encode(path, draw_frames(20, 64, 48) * repeats)
        return options

    def test_too_few_hours_are_refused(self, footage):
        with pytest.raises(
            UserError,
            match=r"^nothing was extracted, because by the videos' headers 0\.00 hours of "
            r"footage \(whole blocks of 1 s\) are too short for 8640 alarms a day: give at least "
            r"0\.1 hours, or ask for at least 14400 alarms a day; if a video lasts longer, ",
        ):
            run_calibrate(replace(footage, alarms_per_day=8640))  # 9 blocks, and there are 4 + 1

    @pytest.mark.parametrize("asked", [14400, 12400])  # 5 blocks; 6, which the margin leaves open
    def test_enough_hours_or_nearly_so_are_extracted(self, footage, asked):
        with pytest.raises(UserError, match="extraction begins"):
            run_calibrate(replace(footage, alarms_per_day=asked))

    def test_a_video_without_a_length_decides_nothing(self, footage, tmp_path):
        encode(tmp_path / "videos" / "gate" / "2.ts", draw_frames(20, 64, 48))
        with pytest.raises(UserError, match="extraction begins"):
            run_calibrate(replace(footage, alarms_per_day=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alarms_per_day": 0}, "--alarms-per-day 0 is not above 0 and below 86400"),
        ({"alarms_per_day": 300, "block_seconds": 300}, "below 288, the number of blocks of 300 s"),
        ({"alarms_per_day": float("nan")}, "--alarms-per-day nan"),
        ({"block_seconds": 0.5}, "--block-seconds 0.5 is not a number from 1 to 86400"),
        ({"camera": "cam"}, "--camera = 'cam' is not allowed: it must be folder, or a regular"),
        ({"camera": "(cam"}, "--camera = '(cam' is not allowed"),
    ],
)
def test_options_that_no_footage_can_meet_are_refused(options, changes, message):
    with pytest.raises(UserError) as caught:
        cli.run(replace(options, **changes))
    assert message in str(caught.value)


def test_only_calibrated_checkpoints_are_replaced(options):
    with pytest.raises(UserError, match="holds a trained checkpoint: give another folder"):
        run_calibrate(replace(options, out=options.run))
    assert run_calibrate(options) == 0
    once = load_checkpoint(options.out)
    assert run_calibrate(replace(options, run=options.out, alarms_per_day=2 * ASKED)) == 0
    again = load_checkpoint(options.out)
    assert again.model_digest == once.model_digest
    assert again.config.calibration.overall.threshold < once.config.calibration.overall.threshold


def test_scores_at_their_limit_are_refused(options, monkeypatch):
    def certain(*arguments):
        recording = ordinary_scores(*arguments)
        return recording._replace(scores=np.ones_like(recording.scores))

    monkeypatch.setattr(calibrating, "ordinary_scores", certain)
    with pytest.raises(UserError, match="all cameras: 56 of 56 blocks have the highest score, 1"):
        run_calibrate(options)


def test_videos_that_fail_are_left_out_and_counted(options, extraction):
    extraction.failures = [FailedVideo("gone.mp4", "it is empty")]
    damaged = options.out / "features" / "yard" / "1.mp4.h5"
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    assert run_calibrate(options) == 3
    assert load_checkpoint(options.out).config.calibration.cameras["yard"].num_blocks == 8
    extraction.present = []
    assert run_calibrate(options) == 4


@pytest.mark.parametrize(
    ("video", "rule", "camera"),
    [
        ("gate/2024/a.mp4", "folder", "gate"),
        ("a.mp4", "folder", NO_CAMERA),
        ("day1/cam07_0830.mp4", "(cam[0-9]+)_", "cam07"),
        ("day1/other.mp4", "(cam[0-9]+)_", NO_CAMERA),
        ("day1/x_.mp4", "(cam)?_", NO_CAMERA),
        ("Caf\u0065\u0301/a.mp4", "folder", "Caf\u00e9"),
    ],
)
def test_the_camera_of_a_video(video, rule, camera):
    assert camera_of(video, rule) == camera


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["overall"].update(threshold=None),
        lambda found: found["overall"].update(threshold=1.5),
        lambda found: found.update(camera="("),
        lambda found: found.update(block_seconds=0.0),
        lambda found: found.update(cameras={"gate": {}}),
    ],
)
def test_a_damaged_calibration_is_refused(options, change):
    run_calibrate(options)
    rewrite_config(options.out / "best" / "config.json", lambda one: change(one["calibration"]))
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        load_checkpoint(options.out)


def test_checkpoints_without_a_calibration_are_as_before(options):
    assert "calibration" not in json.loads((options.run / "best" / "config.json").read_text())
    config = load_checkpoint(options.run).config
    assert config.calibration is None
    assert threshold_for(config, "gate/9.mp4") == (0.5, "given")


class TestScoring:
    """Scoring with a calibrated checkpoint."""

    @pytest.fixture
    def score(self, tmp_path, options, extraction):
        """Return a function that scores generated videos and returns the results."""
        assert run_calibrate(options) == 0

        def call(videos_of, threshold="auto", shift=0.0):
            out = tmp_path / "results"
            extraction.present = write_footage(out / "features", videos_of, 1000, shift)
            videos = (str(tmp_path / "videos"),)
            assert run_score(ScoreOptions(videos, out, options.out, threshold=threshold)) == 0
            return read_results(out)

        return call

    def test_each_video_gets_the_threshold_of_its_camera(self, options, score):
        calibration: Calibration = load_checkpoint(options.out).config.calibration
        own, overall = calibration.cameras["gate"].threshold, calibration.overall.threshold
        results = score({"gate": 1, "yard": 1, NO_CAMERA: 1})
        found = {one.video: (one.threshold, one.threshold_rule) for one in results.videos}
        shared = overall, "calibrated on all cameras together for 4320 alarms a day"
        assert found == {
            "gate/0.mp4": (own, "calibrated on camera 'gate' for 4320 alarms a day"),
            "yard/0.mp4": shared,
            "0.mp4": shared,
        }
        for one in results.videos:
            assert bool(one.events) == (one.peak_score >= one.threshold)
        assert results.manifest["threshold"] == overall
        assert results.manifest["thresholds"] == {"gate": own, "yard": overall, ".": overall}
        [warning] = results.manifest["warnings"]
        assert warning.startswith("Camera '.' was not calibrated")

    def test_a_given_threshold_counts_more(self, score):
        results = score({"gate": 1}, threshold="0.25")
        assert [one.threshold for one in results.videos] == [0.25]
        assert [one.threshold_rule for one in results.videos] == ["given on the command line"]
        assert "thresholds" not in results.manifest

    @pytest.mark.parametrize("shift", [-2.0, 2.0])  # the scores rise, or fall
    def test_scores_that_drift_are_told_and_others_are_not(self, score, caplog, monkeypatch, shift):
        assert score({"gate": 10}, shift=shift).manifest["warnings"] == []  # not a day of footage
        monkeypatch.setattr(thresholds, "DAY_SECONDS", 80)
        assert score({"gate": 10}).manifest["warnings"] == []
        [warning] = score({"gate": 10}, shift=shift).manifest["warnings"]
        assert warning.startswith("Camera 'gate' no longer scores as it was calibrated: ")
        assert "of 80 blocks are above the" in warning
        assert warning in caplog.text

    def test_other_views_than_those_of_the_calibration_are_told(self, options, score):
        def change(content):
            content["calibration"]["views"] = ["center"]

        rewrite_config(options.out / "best" / "config.json", change)
        [warning] = score({"gate": 1}).manifest["warnings"]
        assert warning.startswith("Scores are averaged over center, top_left, but were calibrated")


def test_asked_and_got(options, tmp_path):
    """New videos of a camera exceed its threshold in about the asked share of blocks."""
    options = replace(options, alarms_per_day=0.2 * 86400)
    run_calibrate(options)
    checkpoint = load_checkpoint(options.out)
    write_footage(tmp_path / "new", {"gate": 60}, first_seed=5000)
    scored = score_store(checkpoint, list_features(tmp_path / "new"), tmp_path / "r", views=VIEWS)
    alarms = [
        segment.score >= result.threshold
        for result in scored.results
        for segment in result.segments
    ]
    gate = checkpoint.config.calibration.cameras["gate"]
    low, high = gate.alarms_per_day_low / 86400, gate.alarms_per_day_high / 86400
    assert low < np.mean(alarms) < high


class TestEvaluation:
    """Evaluating a calibrated checkpoint."""

    NAMES = ("gate/0.mp4", "gate/1.mp4", "yard/0.mp4", "roof/0.mp4")

    @pytest.fixture
    def evaluate(self, options, tmp_path, rough_figures):
        """Return a function that evaluates a run on new videos of its cameras and another."""
        assert run_calibrate(replace(options, alarms_per_day=0.3 * 86400)) == 0
        write_footage(tmp_path / "new", {"gate": 2, "yard": 1, "roof": 1}, first_seed=1000)
        rows = [f"{name},Fighting,{50 * at},{50 * at + 50}" for at, name in enumerate(self.NAMES)]
        rows[1] = "gate/1.mp4,Normal"
        (tmp_path / "truth.csv").write_text("\n".join(rows))

        def call(run, **changes):
            settings = EvaluateOptions(
                run, tmp_path / "new", (tmp_path / "truth.csv",), device="cpu", bootstrap=20
            )
            assert run_evaluate(replace(settings, **changes)) == 0
            return json.loads((run / "evaluation" / "metrics.json").read_text())

        return call

    def test_alarms_are_those_at_the_thresholds_of_the_cameras(self, options, evaluate, tmp_path):
        calibration = load_checkpoint(options.out).config.calibration
        gate, yard = (calibration.cameras[one].threshold for one in ("gate", "yard"))
        thresholds = {"gate": gate, "yard": yard, "roof": calibration.overall.threshold}
        assert len(set(thresholds.values())) == 3
        found = evaluate(options.out)
        assert found["calibration"] == {
            "alarms_per_day": 0.3 * 86400,
            "block_seconds": 1,
            "thresholds": thresholds,
        }
        checkpoint = load_checkpoint(options.out)
        files = list_features(tmp_path / "new")
        scored = score_store(checkpoint, files, tmp_path / "scored", views=VIEWS)
        num_false = num_found = 0
        for at, name in enumerate(self.NAMES):
            [result] = [one for one in scored.results if one.video == name]
            assert result.threshold == thresholds[name.split("/")[0]]
            truth = (2.0 * at, 2.0 * at + 2.0) if at != 1 else (0.0, 0.0)
            hits = [
                min(one.stop_seconds, truth[1]) > max(one.start_seconds, truth[0])
                for one in result.events
            ]
            num_false += len(hits) - sum(hits)
            num_found += any(hits)
        assert num_false
        assert num_found
        values = {name: one["value"] for name, one in found["measures"].items()}
        assert values["false_alarms_per_hour"] == pytest.approx(num_false / (32 / 3600))
        assert values["event_recall"] == pytest.approx(num_found / 3)

    def test_what_depends_on_no_threshold_is_as_without_a_calibration(self, options, evaluate):
        with_it, without = evaluate(options.out), evaluate(options.run)
        assert "calibration" not in without
        same = {
            name for name, one in without["measures"].items() if with_it["measures"][name] == one
        }
        assert {"frame_auc", "video_auc", "maa", "map_iou_0.5", "false_alarm_rate"} <= same
        assert {f"event_recall_at_{rate}_a_day" for rate in (1, 5, 20)} <= same
        assert "false_alarm_rate_at_threshold" not in same
        assert with_it["alarm_curve"] == without["alarm_curve"]

    def test_every_share_at_a_threshold_is_at_that_of_the_camera(self, options, evaluate):
        found = evaluate(options.out)
        thresholds = found["calibration"]["thresholds"]
        [normal] = [one for one in found["videos"] if one["class"] == "Normal"]
        flags = [
            (one["peak_score"] >= thresholds[one["video"].split("/")[0]]) == (one is not normal)
            for one in found["videos"]
        ]
        value = found["measures"]["video_anomaly_accuracy"]["value"]
        assert value == pytest.approx(np.mean(flags))
        checkpoint = load_checkpoint(options.out)
        features = read_features(list_features(options.out.parent / "new")[normal["video"]])
        scores = ordinary_scores(checkpoint, normal["video"], features, VIEWS, "auto").scores
        value = found["measures"]["false_alarm_rate_at_threshold"]["value"]
        assert value == pytest.approx(np.mean(scores >= thresholds["gate"]))

    def test_what_is_unlike_the_calibration_is_told(self, options, evaluate, caplog):
        with caplog.at_level(logging.INFO):
            _, problem = evaluate(options.out)["problems"]  # the first: a name of the training
        assert problem == (
            "1 camera of the test videos, such as 'roof', had no footage in the calibration: the "
            "threshold of all cameras is used for their videos"
        )
        assert "at thresholds calibrated for 25920 alarms a day: 0." in caplog.text
        assert "(3 cameras)" in caplog.text
        problems = evaluate(options.out, views="center")["problems"]
        assert problems[1].startswith(
            "some videos are scored with views center, not center, top_left as in the calibration"
        )

    def test_videos_that_are_cut_otherwise_are_told(self, options, evaluate):
        trained = load_checkpoint(options.out).config
        config = replace(trained, training_lengths=TrainingLengths(50, 100, 200, 25.0))

        def told(num_frames, span):
            frames = SPEC.grid.frame_ranges(num_frames)
            clips = np.zeros((len(frames), 2, 6), np.float32)
            video = make_features(num_frames=num_frames, clip_features=clips, clip_frames=frames)
            return unlike_calibrated(config, video, VIEWS, span)

        assert told(400, "whole") == {"--span whole, not auto"}
        assert told(400, 8.0) == {"--span 8.0, not auto"}
        assert told(400, "auto") == told(150, "whole") == told(400, 4.0) == set()


def test_incidents_in_the_footage_are_left_out(tmp_path, options, caplog):
    for name in ("gate/0.mp4", "gate/1.mp4", "yard/0.mp4"):
        path = tmp_path / "footage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    verdicts = tmp_path / "verdicts.csv"
    columns = "video,start_frame,stop_frame,peak_score,class,events_in_video,verdict,true_class"
    lines = ["gate/0.mp4,1,2,0.9,Theft,1,right,Theft", "yard/0.mp4,1,2,0.9,Theft,1,wrong,"]
    verdicts.write_text("\n".join([columns, *lines]))
    found = find_videos([str(tmp_path / "footage")], "mp4")
    with caplog.at_level(logging.INFO):
        ordinary = calibrating.without_incidents(found, [verdicts])
    assert [video.name for video in ordinary.videos] == ["gate/1.mp4", "yard/0.mp4"]
    assert "left out 1 video with another class than Normal" in caplog.text
    assert calibrating.without_incidents(found, []) == found
    only = replace(found, videos=found.videos[:1])
    with pytest.raises(UserError, match="call every video anomalous: give ordinary footage"):
        calibrating.without_incidents(only, [verdicts])

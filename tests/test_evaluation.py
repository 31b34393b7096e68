"""Evaluation: every number against a plain computation from truth and scores."""

import csv
import hashlib
import json
import logging
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from builders import (
    CLASS_NAMES,
    SPEC,
    make_features,
    rewrite_config,
    write_checkpoint,
    write_store,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from vigil.data.annotations import Annotation, AnnotationError, Interval
from vigil.data.classes import UnknownClassError
from vigil.extract.errors import UserError
from vigil.extract.locks import LockedError, locked
from vigil.extract.segments import segment_ranges
from vigil.pipeline import cli
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.evaluation import command as evaluation_command
from vigil.pipeline.evaluation.command import (
    EvaluationError,
    choose_figures,
    evaluate_video,
    frame_problems,
    run_evaluate,
)
from vigil.pipeline.evaluation.comparison import read_runs, values_of
from vigil.pipeline.options import EvaluateOptions
from vigil.pipeline.scores.alarms import ALARM_MEASURES
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo
from vigil.pipeline.scores.events import true_runs
from vigil.pipeline.scores.inference import VideoScores, score_views
from vigil.pipeline.scores.measures import evaluate_videos
from vigil.pipeline.scores.metrics import rank_frames, roc_auc
from vigil.pipeline.scores.plots import plot_video
from vigil.pipeline.scores.video_scoring import ScoringError

PNG = b"\x89PNG\r\n\x1a\n"


VIDEOS = {
    "Fighting/f1.mp4": (80, "Fighting", ((10, 30),)),
    "Fighting/f2.mp4": (60, "Fighting", ((0, 5), (40, 60))),
    "Arson/a1.mp4": (5, "Arson", ((1, 3),)),
    "Normal/n1.mp4": (90, "Normal", ()),
    "Normal/n2.mp4": (33, "Normal", ()),
}


@pytest.fixture
def options(tmp_path):
    features = [
        make_features(video, num_frames, seed)
        for seed, (video, (num_frames, _, _)) in enumerate(VIDEOS.items())
    ]
    store = write_store(tmp_path / "features", *features)
    run = write_checkpoint(tmp_path / "run")
    truth = write_annotations(tmp_path / "truth.csv", VIDEOS)
    return EvaluateOptions(run, store, (truth,), device="cpu", bootstrap=20)


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figures, which take most of the time, in tests of numbers and messages."""
    monkeypatch.setattr(evaluation_command, "draw_evaluation", lambda *_: None)


def write_annotations(path, videos):
    lines = [
        ",".join(map(str, [video, name, *(edge for pair in intervals for edge in pair)]))
        for video, (_, name, intervals) in videos.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def read_metrics(options):
    return json.loads((options.run / "evaluation" / "metrics.json").read_text())


@pytest.mark.usefixtures("undrawn")
def test_numbers_equal_a_computation_on_every_frame(options, capsys):
    assert run_evaluate(options) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines[:2]] == ["frame_auc", "maa"]
    printed = dict(lines)

    model = load_checkpoint(options.run).model
    truth, scores, peaks, labels = [], [], [], []
    for seed, (_, (num_frames, _, intervals)) in enumerate(VIDEOS.items()):
        said = score_views(model, make_features("", num_frames, seed).features)
        frames = segment_ranges(num_frames, SPEC.num_segments)
        spread = np.repeat(said.scores, frames[:, 1] - frames[:, 0])
        anomalous = np.zeros(num_frames, bool)
        for start, stop in intervals:
            anomalous[start:stop] = True
        truth.append(anomalous)
        scores.append(spread)
        peaks.append(spread.max())
        labels.append(CLASS_NAMES[said.class_probabilities.argmax()])
    classes = [name for _, name, _ in VIDEOS.values()]
    is_anomalous = [name != "Normal" for name in classes]
    normal_scores = np.concatenate(scores[3:])
    expected = {
        "frame_auc": oracle.roc_auc_score(np.concatenate(truth), np.concatenate(scores)),
        "frame_ap": oracle.average_precision_score(np.concatenate(truth), np.concatenate(scores)),
        "frame_pr_auc": oracle.auc(
            *reversed(
                oracle.precision_recall_curve(np.concatenate(truth), np.concatenate(scores))[:2]
            )
        ),
        "frame_auc_anomalous_videos": oracle.roc_auc_score(
            np.concatenate(truth[:3]), np.concatenate(scores[:3])
        ),
        "maa": oracle.balanced_accuracy_score(classes, labels),
        "video_accuracy": oracle.accuracy_score(classes, labels),
        "video_auc": oracle.roc_auc_score(is_anomalous, peaks),
        "video_anomaly_accuracy": np.mean((np.array(peaks) >= 0.5) == is_anomalous),
        "top1_anomalous": oracle.accuracy_score(classes[:3], labels[:3]),
        "false_alarm_rate": np.mean(normal_scores >= 0.5),
    }
    content = read_metrics(options)
    for name, value in expected.items():
        assert content["measures"][name]["value"] == pytest.approx(value), name
        assert float(printed[name]) == pytest.approx(value, abs=5e-5), name
    for name in ("frame_auc", "maa", "frame_ap"):
        measure = content["measures"][name]
        assert measure["low"] <= measure["high"]
        assert float(printed[f"{name}_low"]) == pytest.approx(measure["low"], abs=5e-5)
        assert float(printed[f"{name}_high"]) == pytest.approx(measure["high"], abs=5e-5)
    assert content["confusion"]["num_videos"] == (
        oracle.confusion_matrix(classes, labels, labels=CLASS_NAMES).tolist()
    )
    fighting = content["classes"][CLASS_NAMES.index("Fighting")]
    some = [0, 1, 3, 4]
    assert fighting["frame_auc"]["value"] == pytest.approx(
        oracle.roc_auc_score(
            np.concatenate([truth[i] for i in some]), np.concatenate([scores[i] for i in some])
        )
    )
    assert fighting["frame_auc_within"]["value"] == pytest.approx(
        oracle.roc_auc_score(np.concatenate(truth[:2]), np.concatenate(scores[:2]))
    )
    assert content["counts"] == {
        "videos": 5,
        "anomalous_videos": 3,
        "frames": 268,
        "anomalous_frames": 47,
    }


def test_it_writes_metrics_curves_figures_and_their_origin(options):
    run_evaluate(options)
    folder = options.run / "evaluation"
    pictures = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert pictures == {
        "roc.png",
        "precision_recall.png",
        "confusion.png",
        "alarms.png",
        "figures/Arson/a1.mp4.png",
        "figures/Fighting/f1.mp4.png",
        "figures/Normal/n1.mp4.png",
    }
    assert all((folder / picture).read_bytes().startswith(PNG) for picture in pictures)
    content = read_metrics(options)
    assert content["problems"] == []
    assert content["classes_absent"] == []
    source = content["checkpoint"]
    assert source["spec_digest"] == SPEC.digest
    assert source["path"] == str(options.run / "best")
    tensors = (options.run / "best" / "model.safetensors").read_bytes()
    assert source["model_digest"] == hashlib.sha256(tensors).hexdigest()
    assert content["settings"]["features"] == str(options.features)
    assert "numpy" in content["versions"]
    roc = content["roc"]
    assert roc["true_positive_rate"][-1] == roc["false_positive_rate"][-1] == 1
    assert roc["threshold"] == sorted(roc["threshold"], reverse=True)


def test_options_choose_figures_folder_and_views(options, tmp_path):
    run_evaluate(replace(options, out=tmp_path / "elsewhere", figures=("n2",), views="top_left"))
    figures = tmp_path / "elsewhere" / "figures"
    assert [path.name for path in figures.rglob("*.png")] == ["n2.mp4.png"]
    assert not (options.run / "evaluation").exists()


@pytest.mark.parametrize("folder", ["Arson/", ""])
def test_a_name_too_long_for_a_figure_loses_only_the_figure(options, caplog, capsys, folder):
    name = f"{folder}{'a' * 252}"  # 255 bytes with .h5, the maximum
    write_store(options.features, make_features(name, 70))
    with options.annotations[0].open("a") as file:
        file.write(f"{name},Arson,3,9\n")
    assert run_evaluate(replace(options, figures=(name, "n2"))) == 0
    assert "frame_auc" in capsys.readouterr().out
    assert f"no figure for {name} (File name too long): rename the video" in caplog.text
    figures = options.run / "evaluation" / "figures"
    assert [path.name for path in figures.rglob("*.png")] == ["n2.mp4.png"]


@pytest.mark.usefixtures("undrawn")
def test_videos_on_one_side_only_are_reported_by_name_and_left_out(options, caplog):
    truth = options.annotations[0]
    text = truth.read_text().replace("Normal/n2.mp4", "Normal/gone.mp4")
    truth.write_text(text)
    with caplog.at_level(logging.WARNING):
        run_evaluate(options)
    expected = [
        "skipped 1 video with an annotation but without features: Normal/gone.mp4",
        "skipped 1 video with features but without an annotation: Normal/n2.mp4",
    ]
    content = read_metrics(options)
    assert content["problems"] == expected
    assert content["without_features"] == ["Normal/gone.mp4"]
    assert content["without_annotation"] == ["Normal/n2.mp4"]
    assert [record.message for record in caplog.records] == expected


@pytest.mark.usefixtures("undrawn")
def test_many_videos_without_annotation_are_one_warning(options, caplog):
    names = [f"Normal/other{index}.mp4" for index in range(5)]
    write_store(options.features, *map(make_features, names))
    run_evaluate(options)
    shown = "skipped 5 videos with .*: Normal/other0.mp4, .*/other1.mp4, .*/other2.mp4 and 2 more"
    warnings = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert [bool(re.fullmatch(shown, message)) for message in warnings] == [True]
    assert read_metrics(options)["without_annotation"] == names


@pytest.mark.parametrize("name", ["bootstrap", "seed"])
def test_negative_numbers_are_refused(options, name):
    with pytest.raises(UserError, match=f"{name} -1 is negative: give a number from 0 up"):
        cli.run(replace(options, **{name: -1}))


def test_nothing_is_written_into_a_checkpoint(options, monkeypatch):
    best = options.run / "best"
    before = sorted(best.iterdir())
    monkeypatch.chdir(best)
    run_evaluate(replace(options, run=Path()))
    assert sorted(best.iterdir()) == before
    assert (options.run / "evaluation" / "metrics.json").is_file()


@pytest.mark.usefixtures("undrawn")
def test_every_use_of_annotated_videos_is_recorded_in_the_run(options):
    for _ in range(2):
        run_evaluate(options)
    with (options.run / "evaluations.csv").open(newline="") as file:
        uses = list(csv.DictReader(file))
    digest = load_checkpoint(options.run).model_digest
    assert [(use["checkpoint"], use["model_digest"]) for use in uses] == [("best", digest)] * 2
    assert {(use["features"], use["num_videos"]) for use in uses} == {(str(options.features), "5")}


@pytest.mark.usefixtures("undrawn")
def test_scores_are_kept_to_compare(options):
    run_evaluate(options)
    frames = rank_frames([video.pieces for video in read_runs(options.run)[0]])
    measures = read_metrics(options)["measures"]
    assert roc_auc(frames).value == pytest.approx(measures["frame_auc"]["value"])
    for name in ("maa", *ALARM_MEASURES):  # from stored scores, the same as when evaluated
        value = measures[name]["value"]
        expected = None if value is None else [pytest.approx(value)]
        assert values_of(name, read_runs(options.run)) == expected, name


def test_without_annotated_frames_only_frame_measures_are_undefined(options, capsys):
    videos = {**VIDEOS, "Fighting/f1.mp4": (80, "Fighting", ())}
    write_annotations(options.annotations[0], videos)
    run_evaluate(options)
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed["frame_auc"] == printed["frame_auc_low"] == "undefined"
    assert printed["maa"] != "undefined"
    assert printed["false_alarm_rate"] != "undefined"
    assert printed["map_iou_0.1"] == printed["map_iou_mean"] == "undefined"
    content = read_metrics(options)
    reason = "anomalous videos without annotated frames: 1 (Fighting/f1.mp4)"
    assert content["measures"]["frame_auc"]["undefined"] == reason
    assert f"frame_auc is undefined: {reason}" in content["problems"]
    by_class = {one["class_name"]: one for one in content["classes"]}
    assert by_class["Fighting"]["frame_auc"]["undefined"] == reason
    assert by_class["Arson"]["frame_auc"]["value"] is not None


def test_only_one_kind_of_video_gives_reasons_instead_of_numbers(options, capsys):
    normal = {video: truth for video, truth in VIDEOS.items() if truth[1] == "Normal"}
    write_annotations(options.annotations[0], normal)
    run_evaluate(options)
    content = read_metrics(options)
    assert (
        content["measures"]["frame_auc"]["undefined"] == "there is nothing anomalous in the truth"
    )
    assert content["classes_absent"] == ["Arson", "Fighting"]
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed["top1_anomalous"] == "undefined"
    assert "nan" not in printed.values()


def test_an_unknown_class_is_refused(options):
    videos = {**VIDEOS, "Arson/a1.mp4": (5, "Flooding", ((1, 3),))}
    write_annotations(options.annotations[0], videos)
    options.features.joinpath("Arson/a1.mp4.h5").rename(options.features / "a1.mp4.h5")
    with pytest.raises(UnknownClassError, match=r"class 'Flooding' of a1\.mp4 is unknown: the"):
        run_evaluate(options)


def test_features_of_another_spec_are_refused(options):
    other = make_features("Normal/n2.mp4", 33, spec=replace(SPEC, clip_stride=32))
    write_store(options.features, other)
    with pytest.raises(ScoringError, match=r"Normal/n2\.mp4: .*clip_stride: 32 != 64"):
        run_evaluate(options)
    assert not (options.run / "evaluation").exists()


def test_a_second_evaluation_in_the_same_folder_is_refused(options):
    folder = options.run / "evaluation"
    with locked(folder), pytest.raises(LockedError, match="another run is writing to"):
        run_evaluate(options)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_annotations_of_other_videos_are_refused(options):
    write_annotations(options.annotations[0], {"other.mp4": (1, "Normal", ())})
    with pytest.raises(AnnotationError, match=r"other\.mp4"):
        run_evaluate(options)


@pytest.mark.parametrize(("stop", "num_problems"), [(80, 0), (82, 0), (83, 1)])
def test_an_interval_well_beyond_the_decoded_frames_is_reported(tmp_path, stop, num_problems):
    annotation = Annotation("a.mp4", "Fighting", (Interval(70, stop),))
    features = make_features(num_frames=80)
    problems = frame_problems(annotation, features)
    assert len(problems) == num_problems
    assert all(f"up to frame {stop}, but only 80 frames" in problem for problem in problems)
    checkpoint = load_checkpoint(write_checkpoint(tmp_path))
    video = evaluate_video(checkpoint, annotation, features, None)
    assert video.truth is not None
    assert np.flatnonzero(video.truth).tolist() == list(range(70, 80))


@pytest.mark.usefixtures("undrawn")
def test_test_videos_much_longer_than_the_training_videos_are_told(options):
    def change(content):
        content["training_lengths"] = {"shortest": 20, "median": 30, "longest": 40, "fps": 25.0}

    rewrite_config(options.run / "best" / "config.json", change)
    run_evaluate(options)
    problems = read_metrics(options)["problems"]
    [said] = [problem for problem in problems if "factor of 2" in problem]
    assert said.startswith("2 videos of 5 (5 to 90 frames) differ in length")
    assert said.endswith("compare with --span auto")
    run_evaluate(replace(options, span="auto"))
    assert not [one for one in read_metrics(options)["problems"] if "factor of 2" in one]


def test_figures_are_chosen_by_path_name_or_stem():
    videos = [scored(name, 1, [0.5], [True]) for name in ("a/x.mp4", "b/x.mp4", "b/y.mp4")]
    assert choose_figures(videos, ["a/x.mp4", "y.mp4", "y"]) == [videos[0], videos[2], videos[2]]
    with pytest.raises(EvaluationError, match=r"'x' matches 2 of the 3 .* such as a/x\.mp4"):
        choose_figures(videos, ["x"])
    with pytest.raises(EvaluationError, match="'z' matches 0 of the 3 evaluated videos"):
        choose_figures(videos, ["z"])


def scored(name, class_index, scores, truth, probabilities=(0.5, 0.2, 0.3)):
    values = np.array(scores, float)
    return EvaluatedVideo(
        video=name,
        class_index=class_index,
        truth=np.array(truth),
        num_frames=len(truth),
        segment_frames=segment_ranges(len(truth), len(values)),
        scores=VideoScores(values, np.array(probabilities), values, None),
        segment_seconds=segment_ranges(len(truth), len(values)) * 1.0,
    )


def test_a_perfect_model_has_perfect_measures_with_tight_intervals():
    videos = [
        scored("f.mp4", 2, [0.1, 0.9], [False, True], (0.1, 0.1, 0.8)),
        scored("a.mp4", 1, [0.8, 0.1], [True, False], (0.1, 0.8, 0.1)),
        scored("n.mp4", 0, [0.2, 0.1], [False, False], (0.8, 0.1, 0.1)),
    ]
    evaluation = evaluate_videos(videos, CLASS_NAMES, 0.5, 50, seed=1)
    for name, measure in evaluation.measures.items():
        expected = 0.0 if name.startswith(("false_alarm", "alarm_delay")) else 1.0
        assert (measure.value, measure.low, measure.high) == (expected,) * 3, name
    assert all(one.recall.value == 1 for one in evaluation.classes)
    assert evaluation.undefined == []


def test_top1_without_normal_compares_only_anomalies():
    video = scored("f.mp4", 2, [0.9], [True], (0.6, 0.1, 0.3))
    measures = evaluate_videos([video], CLASS_NAMES, 0.95, 0, seed=0).measures
    assert measures["top1_anomalous"].value == 0
    assert measures["top1_anomalous_without_normal"].value == 1
    assert measures["video_anomaly_accuracy"].value == 0


def test_a_video_of_several_classes_counts_for_each():
    both = scored("b.mp4", 1, [0.9], [True], (0.2, 0.3, 0.5))
    normal = scored("n.mp4", 0, [0.1], [False], (0.3, 0.4, 0.3))
    measures = evaluate_videos([both, normal], CLASS_NAMES, 0.5, 0, seed=0).measures
    assert measures["video_map"].value == 0.5  # ranked second for the first class
    both = replace(both, other_class_indices=(2,))
    measures = evaluate_videos([both, normal], CLASS_NAMES, 0.5, 0, seed=0).measures
    assert measures["video_map"].value == 0.75  # ranked first for the second
    assert measures["video_accuracy"].value == 0


@pytest.mark.parametrize(("told", "num_problems"), [(78, 0), (82, 0), (77, 1), (83, 1)])
def test_a_truth_of_a_different_length_is_a_problem(told, num_problems):
    annotation = Annotation("a.mp4", "Arson", (Interval(0, 9),), num_frames=told)
    problems = frame_problems(annotation, make_features(num_frames=80))
    assert len(problems) == num_problems
    assert all(f"of {told} frames, but 80 could be decoded" in one for one in problems)


@given(st.lists(st.booleans(), max_size=30))
def test_true_runs_reproduce_the_flags(flags):
    runs = true_runs(np.array(flags, bool))
    rebuilt = np.zeros(len(flags), bool)
    for start, stop in runs:
        assert start < stop
        rebuilt[start:stop] = True
    assert rebuilt.tolist() == flags
    assert all(a[1] < b[0] for a, b in pairwise(runs))


def test_a_figure_survives_odd_names_and_missing_truth(tmp_path):
    path = tmp_path / "odd.png"
    values = {"score": np.array([0.1, 0.9, 0.0])}
    plot_video(path, "a $x^{ name\n\\b.mp4", values, segment_ranges(2, 3), None)
    assert path.read_bytes().startswith(PNG)

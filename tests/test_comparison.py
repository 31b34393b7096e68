"""The paired bootstrap, and the scores that it reads."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vigil.extract.errors import UserError
from vigil.pipeline.evaluation.comparison import (
    paired_difference,
    read_runs,
    run_compare,
    spread,
    values_of,
)
from vigil.pipeline.evaluation.records import FORMAT, ScoredVideo, StoredScoresError, read_scores
from vigil.pipeline.options import CompareOptions
from vigil.pipeline.run_folder import SCORES_NAME
from vigil.pipeline.scores import metrics
from vigil.pipeline.scores.alarms import VideoAlarms
from vigil.pipeline.scores.measures import MEASURES


def make_run(seed, strength, num_videos=20, others=0):
    """Videos of 4 segments with 10 frames each; the second segment is the anomalous one."""
    generator = np.random.default_rng(seed)
    videos = []
    for index in range(num_videos):
        is_anomalous = index % 2 == 1
        scores = generator.uniform(0, 1, 4)
        scores[1] += strength * is_anomalous
        videos.append(
            ScoredVideo(
                video=f"v{index:02}",
                class_name="Fighting" if is_anomalous else "Normal",
                label="Fighting" if scores.max() > 1 else "Normal",
                peak_score=float(scores.max()),
                segment_scores=tuple(scores.tolist()),
                num_anomalous=(0, 10 * is_anomalous, 0, others),
                num_normal=(10, 10 * (not is_anomalous), 10, 10),
                frames_known=True,
            )
        )
    return tuple(videos)


def save(folder, run):
    folder.mkdir(parents=True)
    videos = [vars(video) for video in run]
    content = {"format": FORMAT, "format_version": 1, "videos": videos}
    (folder / SCORES_NAME).write_text(json.dumps(content))


def test_values_are_those_of_the_measures():
    run = make_run(0, 0.5)
    frames = metrics.rank_frames([video.pieces for video in run])
    assert values_of("frame_auc", [run]) == [metrics.roc_auc(frames).value]
    scores, truth = (
        np.concatenate([np.repeat(getattr(video, name), 10) for video in run])
        for name in ("segment_scores", "num_anomalous")
    )
    assert values_of("frame_ap", [run]) == [
        pytest.approx(average_precision_score(truth > 0, scores))
    ]
    recalls = [
        np.mean([v.label == v.class_name for v in run if v.class_name == name])
        for name in ("Normal", "Fighting")
    ]
    assert values_of("maa", [run]) == [pytest.approx(np.mean(recalls))]


def test_a_method_is_not_better_than_itself():
    runs = [make_run(seed, 0.5) for seed in range(3)]
    found = paired_difference("frame_auc", runs, runs, 200, 0)
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_much_better_method_is_significantly_better():
    good, bad = ([make_run(seed, strength) for seed in range(4)] for strength in (1.0, 0.0))
    found = paired_difference("frame_auc", good, bad, 400, 0)
    assert found.low > 0
    assert found.p_value == pytest.approx(2 / 401)
    back = paired_difference("frame_auc", bad, good, 400, 0)
    assert (back.mean, back.low, back.high) == pytest.approx((-found.mean, -found.high, -found.low))


def test_the_interval_of_one_run_equals_the_usual_bootstrap():
    run = make_run(1, 0.4, num_videos=60)
    found = spread("frame_auc", [run], 2000, 0)
    frames = metrics.rank_frames([video.pieces for video in run])
    drawn = metrics.resample_videos(np.array([v.is_anomalous for v in run]), 2000, 9)
    usual = metrics.with_interval(lambda weights: metrics.roc_auc(frames, weights), drawn, 60)
    assert found is not None
    assert found.deviation is None
    assert (found.low, found.high) == pytest.approx((usual.low, usual.high), abs=0.01)


def test_without_annotated_frames_there_is_no_frame_auc():
    run = make_run(0, 0.5)
    unknown = (replace(run[0], frames_known=False), *run[1:])
    assert values_of("frame_auc", [unknown]) is None
    assert spread("frame_auc", [unknown], 10, 0) is None
    assert paired_difference("frame_auc", [unknown], [unknown], 10, 0) is None
    assert values_of("video_auc", [unknown]) == values_of("video_auc", [run])


def test_seeds_have_equal_weight_even_if_their_numbers_differ():
    runs = [make_run(seed, 0.2 * seed) for seed in range(5)]
    found = paired_difference("frame_auc", runs, runs[:3], 300, 0)
    expected = np.mean(values_of("frame_auc", runs)) - np.mean(values_of("frame_auc", runs[:3]))
    assert found is not None
    assert found.mean == pytest.approx(expected)
    assert found.low < expected < found.high


def test_seeds_with_different_test_videos_have_a_spread():
    runs = [make_run(seed, 0.5, num_videos=10 + 2 * seed) for seed in range(3)]
    found = spread("video_auc", runs, 100, 0)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(values_of("video_auc", runs)))
    assert found.low <= found.mean <= found.high


def test_other_videos_or_another_truth_are_refused():
    for other in (make_run(0, 0.5, num_videos=18), make_run(0, 0.5, others=3)):
        with pytest.raises(
            UserError, match="evaluated on different videos, or with different annotations"
        ):
            paired_difference("frame_auc", [make_run(0, 0.5)], [other], 10, 0)


def test_the_command_accepts_a_run_or_a_folder_of_seeds(tmp_path, capsys):
    for seed in range(3):
        save(tmp_path / "good" / str(seed) / "evaluation", make_run(seed, 1.0))
    save(tmp_path / "bad" / "evaluation", make_run(9, 0.0))
    assert len(read_runs(tmp_path / "good")) == 3
    options = CompareOptions(tmp_path / "good", tmp_path / "bad", bootstrap=50)
    assert run_compare(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*MEASURES, "num_runs", "num_videos"]
    assert lines[-2] == "num_runs 3 1"


def test_incomparable_runs_are_refused_with_a_reason(tmp_path, capsys):
    classes = {"Normal": "Normal", "Fighting": "Anomaly"}
    save(tmp_path / "named", [replace(video, frames_known=False) for video in make_run(0, 0.5)])
    only_two = [replace(video, class_name=classes[video.class_name]) for video in make_run(0, 0.5)]
    save(tmp_path / "two", only_two)
    assert run_compare(CompareOptions(tmp_path / "named", tmp_path / "two", bootstrap=5)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "frame_ap undefined: some anomalous videos have no annotated frames" in lines
    told = "the first distinguishes Fighting, Normal, the second Anomaly, Normal"
    assert f"maa undefined: {told}" in lines


def test_alarms_are_compared_and_absent_ones_explained(tmp_path, capsys):
    def with_alarms(run, num_false):
        own = VideoAlarms(num_false, num_false, 1, 1, (1, 0), (2.0,), 5.0, 3600.0, (1, 0), (1, 0))
        return [vars(replace(video, alarms=own)) | {"alarms": asdict(own)} for video in run]

    for name, num_false in (("calm", 1), ("loud", 3)):
        save(tmp_path / name, make_run(0, 0.5))
        path = tmp_path / name / SCORES_NAME
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"videos": with_alarms(make_run(0, 0.5), num_false)}))
    run_compare(CompareOptions(tmp_path / "calm", tmp_path / "loud", bootstrap=5))
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    told = "1.0000 3.0000 difference -2.0000 low -2.0000 high -2.0000 p "
    assert lines["false_alarms_per_hour"].startswith(told)
    assert lines["false_alarms_per_hour"].endswith("(lower is better)")
    assert not lines["event_recall"].endswith("(lower is better)")
    assert lines["event_recall_at_1_a_day"].startswith("0.0000 0.0000")
    save(tmp_path / "early", make_run(0, 0.5))
    run_compare(CompareOptions(tmp_path / "early", tmp_path / "loud", bootstrap=5))
    assert "event_recall undefined: no alarms are stored" in capsys.readouterr().out


def test_missing_or_damaged_scores_are_named(tmp_path):
    with pytest.raises(StoredScoresError, match=r"holds no evaluated run .*vigil evaluate first"):
        read_runs(tmp_path)
    (tmp_path / SCORES_NAME).write_text('{"format": "vigil-scores", "format_version": 1}')
    with pytest.raises(StoredScoresError, match=r"is damaged \('videos'\): run vigil evaluate"):
        read_scores(tmp_path)

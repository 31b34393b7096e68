"""Training on spans of long videos: what is cut, which spans train, and what stays as it was."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CLASS_NAMES, SPEC, make_features, write_checkpoint, write_store
from safetensors.numpy import load_file

from vigil.data.annotations import Annotation
from vigil.data.bags import BagSet, load_bags
from vigil.data.pooling import PoolingConfig, segment_features
from vigil.data.spans import cut, training_spans
from vigil.extract.errors import UserError
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.store import VideoFeatures, list_features, read_features
from vigil.model.methods import METHODS, find_method
from vigil.model.settings import InputShape
from vigil.pipeline.checkpoint import TrainingLengths, load_checkpoint, load_config
from vigil.pipeline.options import TrainOptions
from vigil.pipeline.recipe import Recipe, TrainingConfig, load_recipe
from vigil.pipeline.scores.events import peak_score
from vigil.pipeline.scores.inference import score_videos, score_views
from vigil.pipeline.scores.video_scoring import score_video
from vigil.pipeline.training.command import run_train
from vigil.pipeline.training.learner import (
    Bags,
    bags_on_device,
    new_learner,
    restore,
    resume_state,
    train_epoch,
)
from vigil.pipeline.training.span_choice import choose_spans
from vigil.pipeline.training.training_data import (
    load_labelled_features,
    select,
    split_training,
)
from vigil.pipeline.training.validation import answer

CPU = torch.device("cpu")
SPAN = 256
IN_SPANS = PoolingConfig("positions", (32,), SPAN)
RECIPE = replace(
    load_recipe(Path(__file__).parent.parent / "configs/joint_plus.toml"),
    features=IN_SPANS,
    training=TrainingConfig(
        epochs=4, learning_rate=1e-2, num_anomalous=3, num_normal=3, validation_folds=2
    ),
)
NUM_FRAMES = {"Normal": (1500, 300, 2000, 64), "Fighting": (1700, 1300, 250, 900)}


def with_clips(video: str, num_frames: int, seed: int) -> VideoFeatures:
    """A video of which one clip stands out if it is anomalous."""
    generator = np.random.default_rng(seed)
    clip_frames = SPEC.grid.frame_ranges(num_frames)
    clips = generator.standard_normal((len(clip_frames), 2, 6)).astype(np.float32)
    if not video.startswith("Normal"):
        clips[generator.integers(len(clips))] += 6
    segments = segment_ranges(num_frames, SPEC.num_segments)
    return replace(
        make_features(video, num_frames),
        features=np.moveaxis(pool_clips(clips, clip_frames, segments), 0, 1),
        clip_features=clips,
        clip_frames=clip_frames,
        frame_seconds=np.arange(num_frames + 1) / 25,
    )


@pytest.fixture
def features(tmp_path: Path) -> Path:
    videos = [
        with_clips(f"{name}/{index}.mp4", num_frames, 10 * kind + index)
        for kind, (name, lengths) in enumerate(NUM_FRAMES.items())
        for index, num_frames in enumerate(lengths)
    ]
    return write_store(tmp_path / "features", *videos)


def train(features: Path, out: Path, recipe: Recipe = RECIPE, **changes: bool) -> None:
    run_train(TrainOptions(features, out, recipe=recipe, device="cpu", **changes))


def load(features: Path, pooling: PoolingConfig = IN_SPANS, *views: str) -> BagSet:
    files = list_features(features)
    labels = {video: Annotation(video, video.split("/")[0], ()) for video in files}
    return load_bags(files, labels, ("Normal", "Fighting"), views or ("center",), pooling)


@pytest.mark.parametrize("pooling", [IN_SPANS, PoolingConfig(span_frames=SPAN)])
def test_the_bags_of_a_long_video_are_those_of_its_spans(
    features: Path, pooling: PoolingConfig
) -> None:
    bags = load(features, pooling)
    assert len(bags) == 8
    for index, video in enumerate(bags.videos):
        content = read_features(list_features(features)[video])
        spans = training_spans(content, SPAN)
        first, stop = bags.bounds[index : index + 2]
        assert stop - first == len(spans)
        assert (len(spans) > 1) == (content.num_frames_decoded > 1.5 * SPAN)
        for row, span in enumerate(spans, first):
            own = segment_features(cut(content, *span), ["center"], pooling).values
            np.testing.assert_array_equal(bags.features[row], own)
            frames = bags.segment_frames[row]
            assert (frames[0, 0], frames[-1, 1]) == span
            assert bags.num_frames[row] == span[1] - span[0]


def test_a_selection_takes_all_spans_of_its_videos_and_none_of_others(features: Path) -> None:
    bags = load(features)
    chosen = ("Normal/2.mp4", "Fighting/1.mp4")
    some = select(bags, chosen)
    assert some.videos == chosen
    for index, video in enumerate(chosen):
        own, there = (
            slice(*one.bounds[at : at + 2])
            for one, at in ((some, index), (bags, bags.videos.index(video)))
        )
        for name in ("features", "segment_frames", "num_frames", "fps"):
            np.testing.assert_array_equal(getattr(some, name)[own], getattr(bags, name)[there])
    assert len(some.features) == some.num_spans.sum()
    data = split_training(load_labelled_features(features, (), ["center"], IN_SPANS), RECIPE, 0)
    for fold in data.folds:
        others, held_out = data.without(fold)
        assert not set(others.videos) & set(held_out.videos)
        assert len(others.features) + len(held_out.features) == len(bags.features)


def test_the_highest_peak_among_half_of_the_spans_stands_for_a_video(features: Path) -> None:
    bags = load(features, IN_SPANS, "center", "top_left")
    model = new_learner(RECIPE, InputShape(8, 1, 3, 2), 3, CPU).model
    model.fit(torch.from_numpy(bags.features).flatten(0, 1), torch.zeros(0))
    stored, bounds = torch.from_numpy(bags.features), bags.bounds
    seeds = range(40)
    drawn = np.array(
        [choose_spans(model, stored, bounds, np.random.default_rng(seed)) for seed in seeds]
    )
    again = choose_spans(model, stored, bounds, np.random.default_rng(0))
    np.testing.assert_array_equal(again, drawn[0])
    peaks = np.array([score_views(model, bag).scores.max() for bag in bags.features])
    for video, (first, stop) in enumerate(pairwise(bounds.tolist())):
        ranks = np.argsort(np.argsort(-peaks[first:stop], kind="stable"))
        chosen = ranks[drawn[:, video] - first]
        # The best of half is at worst just above the other half; on average it is the best.
        assert chosen.max() <= (stop - first) // 2
        assert stop - first < 3 or 10 <= (chosen == 0).sum() <= 34


def test_only_the_chosen_spans_train(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on a set of only these bags gives the same weights."""
    bags = bags_on_device(load(features, IN_SPANS, "center", "top_left"), CPU)
    assert bags.bounds is not None
    chosen = bags.bounds[:-1].copy()
    monkeypatch.setattr(
        "vigil.pipeline.training.learner.choose_spans", lambda *_: torch.from_numpy(chosen).numpy()
    )
    rows = torch.from_numpy(np.stack([2 * chosen, 2 * chosen + 1], axis=1).ravel())
    states = []
    for some in (bags, Bags(bags.features[rows], bags.class_indices[rows])):
        learner = new_learner(RECIPE, InputShape(8, 1, 3, 2), 0, CPU)
        learner.model.fit(bags.features, bags.class_indices)
        train_epoch(learner, some, RECIPE, 0, 1)
        states.append(learner.model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0, atol=0)


def test_training_finds_the_spans_with_the_event(features: Path) -> None:
    bags = load(features)
    tensors = bags_on_device(bags, CPU)
    learner = new_learner(RECIPE, InputShape(8, 1, 3, 2), 0, CPU)
    learner.model.fit(tensors.features, tensors.class_indices)
    for epoch in range(1, 21):
        train_epoch(learner, tensors, RECIPE, 0, epoch)
    peaks = [
        one.scores.max() for one in score_videos(learner.model, torch.from_numpy(bags.features))
    ]
    for video in (bags.class_indices > 0).nonzero()[0]:
        first, stop = bags.bounds[video : video + 2]
        best = first + int(np.argmax(peaks[first:stop]))
        assert bags.features[best].max() > 3.5  # the event


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_epochs_trains_on_spans_and_resumes_exactly(name: str) -> None:
    method = find_method(name)
    recipe = Recipe(
        method.model(),
        method.loss(),
        TrainingConfig(num_anomalous=2, num_normal=2, learning_rate=1e-3),
        method=name,
        features=IN_SPANS,
    )
    shape = InputShape(8, 2, 6, 2)
    generator = torch.Generator().manual_seed(0)
    bounds = np.array([0, 3, 4, 6, 9, 13, 14])
    classes = torch.from_numpy(np.repeat([0, 0, 0, 1, 1, 1], np.diff(bounds)))
    bags = Bags(torch.randn(14, 8, 12, generator=generator), classes, True, bounds)
    if not method.detector.has_epochs:
        with pytest.raises(UserError, match=f"method '{name}' does not support span_frames = 256"):
            new_learner(recipe, shape, 0, CPU)
        assert not list(method.detector(recipe.model, recipe.loss, shape).parameters())
        return
    learner = new_learner(recipe, shape, 0, CPU)
    assert learner.optimizer is not None
    learner.model.fit(bags.features, bags.class_indices)
    train_epoch(learner, bags, recipe, 0, 1)
    resumed = new_learner(recipe, shape, 7, CPU)
    restore(resumed, learner.model, resume_state(learner))
    for one in (learner, resumed):
        train_epoch(one, bags, recipe, 0, 2)
    for key, tensor in resumed.model.state_dict().items():
        torch.testing.assert_close(tensor, learner.model.state_dict()[key], rtol=0, atol=0)


def test_a_run_on_spans_resumes_and_records_their_length(features: Path, tmp_path: Path) -> None:
    long, short = tmp_path / "long", tmp_path / "short"
    train(features, long)
    train(features, short, replace(RECIPE, training=replace(RECIPE.training, epochs=2)))
    train(features, short, resume=True)
    for which in ("best", "last"):
        one, other = (load_file(run / which / "model.safetensors") for run in (long, short))
        assert {name: a.tobytes() for name, a in one.items()} == {
            name: a.tobytes() for name, a in other.items()
        }
    config = load_config(long / "best")
    assert config.recipe.features.span_frames == SPAN
    assert config.training_lengths == TrainingLengths.of(
        load(features).num_frames, np.full(1, 25.0)
    )
    timeline = score_video(
        load_checkpoint(long), "a", with_clips("a.mp4", 3000, 1), ["center"], span="auto"
    )
    assert timeline.span_frames == SPAN


def test_held_out_videos_are_judged_as_scoring_judges_them(features: Path, tmp_path: Path) -> None:
    train(features, tmp_path / "run")
    checkpoint, bags = load_checkpoint(tmp_path / "run"), load(features)
    peaks, named = answer(checkpoint.model, bags, torch.from_numpy(bags.features))
    assert named is not None
    for index, video in enumerate(bags.videos):
        content = read_features(list_features(features)[video])
        timeline = score_video(checkpoint, video, content, ["center"], span="auto")
        expected = peak_score(timeline.scores.scores, timeline.frames)
        assert peaks[index] == pytest.approx(expected, abs=1e-6)
        assert named[index] == timeline.scores.class_probabilities.argmax()


def test_spans_that_no_video_exceeds_change_nothing_and_say_so(
    features: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = replace(RECIPE, features=replace(IN_SPANS, span_frames=0))
    train(features, tmp_path / "whole", whole)
    assert "changes nothing" not in caplog.text
    long = replace(RECIPE, features=replace(IN_SPANS, span_frames=5000))
    train(features, tmp_path / "long", long)
    assert "span_frames = 5000 changes nothing: no video is longer than 1.5" in caplog.text
    one, other = (
        load_file(tmp_path / run / "last" / "model.safetensors") for run in ("whole", "long")
    )
    for name, tensor in one.items():
        np.testing.assert_array_equal(other[name], tensor)


def test_what_cannot_be_cut_is_refused(features: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="span_frames = -1 is not allowed: it must be 0 or"):
        PoolingConfig(span_frames=-1)
    with pytest.raises(UserError, match=r"span_frames = 63 is not allowed: a clip of .* has 64"):
        load(features, PoolingConfig(span_frames=63))
    content = make_features("a.mp4", 900)
    with pytest.raises(UserError, match=r"256 \(its clips are not stored\): extract with"):
        training_spans(content, SPAN)
    with pytest.raises(UserError, match=r"number of frames is unknown\): import"):
        training_spans(replace(content, num_frames_decoded=0), SPAN)
    svm = Recipe(
        find_method("svm").model(), find_method("svm").loss(), method="svm", features=IN_SPANS
    )
    with pytest.raises(UserError, match="'svm' does not support span_frames = 256: it is not trai"):
        train(tmp_path / "there is no need to look", tmp_path / "run", svm)


def test_a_checkpoint_of_short_videos_keeps_the_span_of_their_median(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(
        write_checkpoint(tmp_path, training_lengths=TrainingLengths(100, 300, 900, 25.0))
    )
    assert checkpoint.config.class_names == CLASS_NAMES
    timeline = score_video(checkpoint, "a", with_clips("a.mp4", 3000, 1), span="auto")
    assert timeline.span_frames == 300

"""`vigil explain`: the moment, the evidence, the places, the neighbours and the page."""

import tempfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import (
    CLASS_NAMES,
    MODEL,
    SPEC,
    VIEWS,
    make_features,
    write_checkpoint,
    write_store,
)
from fake_backbone import BACKBONE, as_network, make_engine
from fake_backbone import SPEC as FAKE_SPEC
from scipy.stats import spearmanr
from test_class_activation import CPU, Brightness
from test_pooling_gradients import CONFIGS, with_clips
from test_result_formats import make_result
from video_files import encode

import vigil
from vigil.data.pooling import PoolingConfig, segment_features
from vigil.extract.engine.cutting import cut_view
from vigil.extract.errors import UserError
from vigil.extract.networks import class_activation
from vigil.extract.networks.class_activation import Activations
from vigil.extract.segments import pool_clips
from vigil.extract.source import SourceVideo
from vigil.extract.views import VIEW_SETS
from vigil.model.config import LossConfig
from vigil.model.joint import JointModel
from vigil.model.joint_plus import JointPlus, JointPlusConfig, JointPlusLoss
from vigil.model.settings import InputShape
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.cli import main
from vigil.pipeline.explaining import command, places
from vigil.pipeline.explaining.attribution import Attribution, attribute
from vigil.pipeline.explaining.explanation import Explanation
from vigil.pipeline.explaining.moment import Bag, bag_around, find_moment
from vigil.pipeline.explaining.nearest import find_nearest
from vigil.pipeline.explaining.places import clips_of, find_pictures, on_frame
from vigil.pipeline.option_values import read_moment
from vigil.pipeline.text_files import write_json

HOSTILE = "<img src=x onerror=alert(1)>.mp4"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("75.5", 75.5), ("1:15", 75), ("0:01:15.25", 75.25), ("2:00:00", 7200)],
)
def test_times_are_read(text, seconds):
    assert read_moment(text) == seconds


@pytest.mark.parametrize("text", ["", "noon", "-1", "1:2:3:4", "nan", "1e3"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match=r"--at .* is not a time: use seconds, such as 75\.5"):
        read_moment(text)


def test_the_highest_event_is_explained_unless_a_time_is_given():
    result = make_result((0.0, 0.2), (0.6, 0.8))
    highest = max(result.events, key=lambda event: event.peak_score)
    moment = find_moment(result, None)
    assert moment.event == highest
    inside = [
        one.score
        for one in result.segments
        if highest.start_frame <= one.start_frame < highest.stop_frame
    ]
    assert moment.segment.score == max(inside)
    early = find_moment(result, 0.05)
    assert early.segment.start_seconds <= 0.05 < early.segment.stop_seconds
    with pytest.raises(UserError, match=r"--at 0:16:40 is after the end of .*: it lasts 0:00:0"):
        find_moment(result, 1000.0)


def test_without_events_the_highest_segment_is():
    result = make_result()
    moment = find_moment(result, None)
    assert moment.event is None
    assert moment.segment.score == max(one.score for one in result.held_segments)


def test_of_overlapping_spans_the_one_with_the_moment_in_its_middle_is():
    content = with_clips(400)
    bag = bag_around(content, 100, 246, 254)
    assert bag.start_frame <= 210 < 290 <= bag.start_frame + bag.features.num_frames_decoded
    assert content.clip_frames[bag.first_clip, 0] == bag.start_frame
    start, stop = bag.features.segment_frames[bag.segment] + bag.start_frame
    assert start <= 249 < stop
    assert bag_around(content, None, 246, 254).features is content


def joint_plus(seed=0):
    """A small model with fresh weights, for two windows of three channels."""
    config = JointPlusConfig(
        hidden_size=8, class_size=4, naming_share=0.1, standardize=False, scene_share=0.25
    )
    shape = InputShape(SPEC.num_segments, 1, 6, len(CLASS_NAMES))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return JointPlus(config, JointPlusLoss(), shape)


@pytest.mark.parametrize("class_index", [None, 2])
def test_the_sum_of_the_evidence_is_the_change_of_the_score(class_index):
    """Gradient times feature, summed, is the derivative along a feature that grows as a whole."""
    content, config, model = with_clips(200), CONFIGS["positions"], joint_plus()
    bag = Bag(content, 0, 0, 3)
    found = attribute(model, bag, list(VIEWS), config, class_index)

    def value(factor):
        scaled = replace(content, clip_features=content.clip_features * factor)
        values = segment_features(scaled, VIEWS, config).values
        with torch.no_grad():
            output = model(torch.from_numpy(values).float())
        if class_index is not None:
            return float(output.segment_class_logits[:, 3, class_index].double().mean())
        return float(output.scores[:, 3].double().mean().logit())

    slope = (value(1.01) - value(0.99)) / 0.02
    assert found.evidence.sum() == pytest.approx(slope, rel=0.02)
    assert found.attentions == {}
    assert found.gradient.shape == (len(content.clip_frames), 2, 2, 3)


def test_a_random_head_gives_other_evidence():
    """The sanity check of Adebayo et al. (NeurIPS 2018): an explanation depends on the model."""
    content = with_clips(400)
    bag = Bag(content, 0, 0, 3)

    def evidence(seed):
        found = attribute(joint_plus(seed), bag, ["center"], CONFIGS["positions"], None)
        return found.gradient.ravel()

    assert abs(spearmanr(evidence(0), evidence(1)).statistic) < 0.3
    np.testing.assert_array_equal(evidence(0), evidence(0))


def test_what_has_no_gradient_is_refused():
    class Without(JointModel):
        def forward(self, stored):
            output = super().forward(stored)
            return replace(output, scores=output.scores.detach())

    bag = Bag(with_clips(200), 0, 0, 3)
    model = Without(MODEL, LossConfig(), InputShape(SPEC.num_segments, 2, 3, len(CLASS_NAMES)))
    with pytest.raises(UserError, match="Without cannot be explained: it computes without"):
        attribute(model, bag, ["center"], PoolingConfig(), None)


def centre_of(places):
    """The row and the column of the centre of gravity."""
    weights = np.nan_to_num(places)
    return [(weights * axis).sum() / weights.sum() for axis in np.indices(weights.shape)]


@pytest.mark.parametrize("view", VIEW_SETS["ten"])
def test_a_place_of_a_view_lies_where_the_view_saw_it(view):
    """A white square at a place of the cut view, and the activation of its place, coincide."""
    height, width = 256, 341
    frame = torch.arange(height * width, dtype=torch.int32).reshape(1, height, width, 1)
    cut = cut_view(frame, view)[0, :, :, 0]
    row, column = 9, 2
    map_ = np.zeros((1, 14, 14))
    map_[0, row, column] = 1.0
    found = on_frame(map_, view, (height, width))[0]
    centre = int(cut[row * 16 + 8, column * 16 + 8])
    weights = np.nan_to_num(found)
    down, right = (
        float((weights * axis).sum() / weights.sum()) for axis in np.indices(weights.shape)
    )
    assert abs(down - centre // width) <= 1.5
    assert abs(right - centre % width) <= 1.5
    seen = np.zeros(height * width, bool)
    seen[cut.ravel().numpy()] = True
    np.testing.assert_array_equal(np.isfinite(found).ravel(), seen)


def test_views_of_the_whole_frame_lie_over_all_of_it():
    assert np.isfinite(on_frame(np.ones((2, 7, 7)), "squeeze", (256, 341))).all()
    whole = on_frame(np.ones((2, 8, 10)), "whole", (256, 341))
    assert np.isfinite(whole[:, :, :340]).all()
    assert np.isnan(whole[:, :, 340]).all()
    with pytest.raises(UserError, match="the view 'crop_0' has no known place in the frame"):
        on_frame(np.ones((2, 7, 7)), "crop_0", (256, 341))


def test_negative_places_are_left_out():
    found = on_frame(-np.ones((1, 7, 7)), "squeeze", (256, 341))
    assert not found.any()


def test_clips_near_the_segment_are_looked_into_by_their_evidence():
    content = with_clips(400)
    evidence = np.zeros((len(content.clip_frames), 2))
    evidence[-1], evidence[8], evidence[9] = 9.0, 2.0, -3.0
    attribution = Attribution(0.5, np.empty(0), evidence, {})
    bag = Bag(content, 0, 0, 3)  # frames 150 to 200; a clip has 32 frames and starts every 16
    chosen = places.clips_around(bag, attribution)
    assert len(chosen) == 3
    assert 8 in chosen
    assert 9 not in chosen
    starts, stops = content.clip_frames[chosen].T
    assert (starts < 232).all()
    assert (stops > 118).all()
    found = SimpleNamespace(bag=bag, attribution=attribution)
    speaks_against = Explanation.speaks_against.fget
    assert not speaks_against(found)
    evidence[8] = -1.0
    assert speaks_against(found)


SQUARE = (slice(150, 190), slice(220, 260))
"""Of a frame of 240 x 320: within the view center, at its lower right."""
LIT = range(80, 120)


def draw_video(path):
    """A dark video in which a square moves to and fro by some pixels while it is lit."""
    frames = [np.zeros((240, 320, 3), np.uint8) for _ in range(192)]
    for index in LIT:
        shift = index % 3
        rows, columns = SQUARE
        frames[index][rows, columns.start + shift : columns.stop + shift] = 250
    return SourceVideo(encode(path, frames), path.name)


def brightness_features(video, monkeypatch, **spec):
    """Features of a video by mean brightness, with clips, as the engine stores them."""
    monkeypatch.setitem(class_activation.LAYERS, BACKBONE.name, "map")
    module = Brightness()
    activations = Activations(as_network(module), "none", CPU)
    spec = replace(FAKE_SPEC, clip_stride=64, short_side=256, **spec)
    ranges = spec.grid.frame_ranges(192)
    content = make_features(num_frames=192, spec=spec, decoder="pyav", views=("center",))
    content = replace(content, clip_frames=ranges, clip_features=np.zeros((len(ranges), 1, 6)))
    clips = clips_of(video, content, range(len(ranges)))
    ones = np.ones((2, 3))
    features = [
        activations.of(cut_view(torch.from_numpy(clips[k]), "center"), ones).features.ravel()
        for k in range(len(ranges))
    ]
    stored = np.array(features)[:, None]
    pooled = np.moveaxis(pool_clips(stored, ranges, content.segment_frames), 0, 1)
    seconds = np.arange(193) / 25
    return activations, replace(
        content, clip_features=stored, features=pooled, frame_seconds=seconds
    )


def test_the_pictures_show_the_square_where_and_when_it_is(tmp_path, monkeypatch):
    video = draw_video(tmp_path / "a.mp4")
    activations, content = brightness_features(video, monkeypatch)
    gradient = np.ones((3, 1, 2, 3))
    evidence = content.clip_features.reshape(3, 2, 3).sum(axis=2)
    attribution = Attribution(0.5, gradient, evidence, {})
    found = find_pictures(
        video, content, Bag(content, 0, 0, 0), ["center"], attribution, activations
    )
    best = max(found, key=lambda one: np.nansum(one.places))
    assert LIT.start / 25 <= best.seconds < LIT.stop / 25
    weights = np.nan_to_num(best.places)
    down, right = (
        float((weights * axis).sum() / weights.sum()) for axis in np.indices(weights.shape)
    )
    assert down == pytest.approx(170 * 256 / 240, abs=16)
    assert right == pytest.approx(241 * 256 / 240, abs=16)
    corner = np.isnan(best.places[:, :58])
    assert corner.all()  # a center view of 341 x 256 leaves out 58 columns on the left
    times = [one.seconds for one in found]
    assert times == sorted(times)


def test_a_video_that_is_no_longer_the_same_is_refused(tmp_path, monkeypatch):
    video = draw_video(tmp_path / "a.mp4")
    activations, content = brightness_features(video, monkeypatch)
    content = replace(content, clip_features=content.clip_features[::-1].copy() + 1)
    evidence = np.ones((3, 2))
    attribution = Attribution(0.5, np.ones((3, 1, 2, 3)), evidence, {})
    with pytest.raises(UserError, match="no longer gives its stored feature"):
        find_pictures(video, content, Bag(content, 0, 0, 0), ["center"], attribution, activations)


def test_a_video_that_has_become_shorter_is_refused(tmp_path, monkeypatch):
    video = draw_video(tmp_path / "a.mp4")
    _, content = brightness_features(video, monkeypatch)
    with pytest.raises(UserError, match=r"can no longer be read .*\(it ends before clip 3\)"):
        clips_of(video, content, {0, 3})
    video.path.write_bytes(b"no video")
    with pytest.raises(UserError, match=r"can no longer be read .*\(not a video"):
        clips_of(video, content, {0})


def test_the_nearest_training_videos_are_found(tmp_path):
    own = make_features("own.mp4", seed=3)
    own = replace(own, video=replace(own.video, digest="1" * 64))
    twin = make_features("Arson/twin.mp4", seed=3)
    twin.features[:] = np.roll(twin.features, 2, axis=1)
    stranger = make_features("other.mp4", seed=5)
    store = write_store(tmp_path / "features", own, twin, stranger, make_features("Normal/n.mp4"))
    run = write_checkpoint(tmp_path / "run")
    write_json(
        run / "splits.json",
        {"train": {"Arson/twin.mp4": "Arson"}, "validation": {"Normal/n.mp4": "Normal"}},
    )
    found = find_nearest(load_checkpoint(run), Bag(own, 0, 0, 4), ["center"], store)
    assert [one.video for one in found] == ["Arson/twin.mp4", "Normal/n.mp4"]
    first = found[0]
    assert first.class_name == "Arson"
    assert first.similarity == pytest.approx(1.0)
    assert first.start_seconds == pytest.approx(twin.segment_seconds[6, 0])

    (run / "splits.json").unlink()
    found = find_nearest(load_checkpoint(run), Bag(own, 0, 0, 4), ["center"], store)
    assert {one.video for one in found} == {"Arson/twin.mp4", "Normal/n.mp4", "other.mp4"}
    with pytest.raises(UserError, match="none of which is explained: use --views center"):
        find_nearest(load_checkpoint(run), Bag(own, 0, 0, 4), ["squeeze"], store)
    other = replace(stranger, spec=replace(SPEC, short_side=300))
    wrong = write_store(tmp_path / "wrong", other)
    with pytest.raises(UserError, match="give --features the folder of the training"):
        find_nearest(load_checkpoint(run), Bag(own, 0, 0, 4), ["center"], wrong)


@pytest.fixture
def explained(tmp_path, monkeypatch):
    """A function that runs the command on a drawn video with a tiny network and a fresh model."""
    monkeypatch.setitem(class_activation.LAYERS, BACKBONE.name, "map")
    spec = replace(FAKE_SPEC, clip_stride=64, short_side=256)
    engine = make_engine(Brightness(), spec=spec, keep_clips=True)
    monkeypatch.setattr(command, "rebuild_engine", lambda *arguments: engine)
    video = draw_video(tmp_path / HOSTILE)

    def run(*arguments, threshold=0.0, code=0):
        checkpoint = write_checkpoint(
            tmp_path / "run", threshold=threshold, spec=spec, weights_trained=False
        )
        out = tmp_path / "why"
        given = ["explain", str(video.path), "-c", str(checkpoint), "-o", str(out), *arguments]
        assert main(given) == code
        return out

    return run


def test_the_command_writes_a_page_without_a_network(explained, capsys):
    out = explained()
    assert capsys.readouterr().out == f"{out / 'explain.html'}\n"
    page = (out / "explain.html").read_text()
    assert "default-src 'none'" in page
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "belongs to an event" in page
    assert "first attention (alpha) and second attention (beta)" in page
    assert "These features cannot tell" in page
    for name in ("explain-places.png", "explain-times.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_a_moment_below_the_threshold_is_said_to_be(explained):
    page = (explained(threshold=1.0) / "explain.html").read_text()
    assert "its score is below the threshold" in page
    assert "belongs to an event" not in page


def test_a_moment_and_a_class_can_be_chosen(explained):
    page = (explained("--at", "4.1", "--class-name", "Arson") / "explain.html").read_text()
    assert "logit of the class <bdi>Arson</bdi> for the whole video" in page
    assert "3.84 to 4.80" in page


def test_the_function_explains_as_the_command_does(explained, tmp_path, capsys, monkeypatch):
    written = explained("--at", "4.1")
    capsys.readouterr()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    how = {"checkpoint": tmp_path / "run", "at": 4.1}
    found = vigil.explain(tmp_path / HOSTILE, **how)
    assert found.moment.segment.start_seconds == pytest.approx(3.84)
    assert (found.actions, found.nearest) == (None, None)
    assert all(one.places.shape == one.pixels.shape[:2] for one in found.pictures)
    seconds, evidence = found.evidence_over_time
    assert len(seconds) == len(evidence) > 0
    scores = [one.score for one in found.highest_segments]
    assert scores == sorted(scores, reverse=True)
    assert [*(tmp_path / "temporary").iterdir()] == []
    vigil.explain(tmp_path / HOSTILE, out=tmp_path / "here", **how)
    assert (tmp_path / "here" / "explain.html").read_text() == (
        (written / "explain.html").read_text()
    )
    assert capsys.readouterr().out == ""


def test_the_function_refuses_what_cannot_be_explained(explained, tmp_path, capsys):
    explained()
    how = {"checkpoint": tmp_path / "run"}
    with pytest.raises(UserError, match=r"^at 0:01:00 is after the end"):
        vigil.explain(tmp_path / HOSTILE, at="1:00", **how)
    (tmp_path / "none.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"^none.mp4 has no features: not a video"):
        vigil.explain(tmp_path / "none.mp4", **how)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--class-name", "Normal"),
            "knows no class 'Normal': use one of Arson, Fighting",
        ),
        (("--at", "1:00"), "--at 0:01:00 is after the end"),
        (("--at", "noon"), "--at 'noon' is not a time"),
    ],
)
def test_what_cannot_be_explained_is_refused(explained, capsys, arguments, message):
    explained(*arguments, code=2)
    assert message in capsys.readouterr().err

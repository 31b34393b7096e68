"""The actions that I3D's classifier sees in events."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import SPEC, VIEWS, make_features, score_store, write_checkpoint, write_store
from i3d_reference import seeded_state
from safetensors.torch import save_file
from torch.nn import functional

from vigil.extract.clips import ClipGrid
from vigil.extract.networks.actions import ActionLayer, action_names, find_action_layer
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.i3d import I3D
from vigil.extract.networks.weights import load_weights
from vigil.extract.spec import FeatureSpec
from vigil.extract.store import list_features
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.scores.events import Action, Event, find_events
from vigil.pipeline.scoring import event_actions
from vigil.pipeline.scoring.event_actions import likely_actions, seen_in
from vigil.pipeline.scoring.results import read_result, result_path

NAMES = ("abseiling", "busking", "clapping", "dunking", "zumba")
LAYER = ActionLayer(
    weight=torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
    bias=torch.tensor([0.5, 0.0, -0.5, 0.25, -3.0]),
    endpoint="AvgPool",
    channels=3,
)


def softmax_of_mean(positions):
    """Brute force: positions (T, C) -> (A,)."""
    each = [LAYER.weight.double().numpy() @ one + LAYER.bias.double().numpy() for one in positions]
    powers = np.exp(np.mean(each, axis=0))
    return powers / powers.sum()


def test_a_clips_probabilities_are_the_softmax_of_its_mean_logits():
    features = np.random.default_rng(0).standard_normal((4, 2, 7 * 3)).astype(np.float16)
    actual = LAYER.probabilities(features)
    assert actual.shape == (4, 2, 5)
    for clip, view in np.ndindex(4, 2):
        expected = softmax_of_mean(features[clip, view].astype(np.float64).reshape(7, 3))
        np.testing.assert_allclose(actual[clip, view], expected, atol=1e-6)


def test_the_last_layer_is_pooled_as_in_the_network():
    x = torch.rand(1, 3, 8, 7, 7, generator=torch.Generator().manual_seed(0))
    pooled = functional.avg_pool3d(x, (2, 7, 7), stride=1)[0, :, :, 0, 0].T
    features = x.mean(dim=(3, 4))[0].T.reshape(-1).numpy()
    actual = replace(LAYER, endpoint="Mixed_5c").probabilities(features)
    np.testing.assert_allclose(actual, softmax_of_mean(pooled.double().numpy()), atol=1e-6)
    assert np.abs(actual - LAYER.probabilities(features)).max() > 1e-3


def test_among_joined_layers_the_last_one_is_read():
    alone = np.random.default_rng(0).standard_normal((2, 8, 3)).astype(np.float16)
    others = np.random.default_rng(1).standard_normal((2, 16, 4)).astype(np.float16)
    joined = np.concatenate([others, alone.repeat(2, axis=1)], axis=2).reshape(2, -1)
    layer = replace(LAYER, endpoint="Mixed_5c")
    expected = layer.probabilities(alone.reshape(2, -1))
    actual = replace(layer, channels=7, step=2).probabilities(joined)
    np.testing.assert_array_equal(actual, expected)


@pytest.fixture(scope="module")
def state():
    return seeded_state()


@pytest.fixture
def weights(state, tmp_path, monkeypatch):
    """A file of complete weights, and the spec of features made with them; the cache is empty."""
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path / "cache"))
    find_action_layer.cache_clear()
    path = tmp_path / "mine.safetensors"
    save_file(state, path)
    digest = load_weights(I3D(), str(path), ()).digest
    yield path, FeatureSpec("i3d", "AvgPool", digest)
    find_action_layer.cache_clear()


def test_the_layer_is_found_at_its_path_or_in_the_cache(weights, state, tmp_path):
    path, spec = weights
    for endpoint in ("AvgPool", "Mixed_5c"):
        layer = find_action_layer(replace(spec, endpoint=endpoint), str(path))
        assert layer.endpoint == endpoint
        assert torch.equal(layer.weight, state["logits.conv3d.weight"][:, :, 0, 0, 0])
        assert torch.equal(layer.bias, state["logits.conv3d.bias"])
    joined = find_action_layer(replace(spec, endpoint="Mixed_4d,Mixed_5c"), str(path))
    assert (joined.endpoint, joined.channels, joined.step) == ("Mixed_5c", 1536, 2)
    gone = str(tmp_path / "gone.pt")
    assert find_action_layer(spec, gone) is None
    find_action_layer.cache_clear()
    for source in BACKBONES["i3d"].sources:
        cached = tmp_path / "cache" / source.file_name
        cached.parent.mkdir(exist_ok=True)
        cached.write_bytes(b"damaged")
    assert find_action_layer(spec, gone) is None
    find_action_layer.cache_clear()
    cached.write_bytes(path.read_bytes())
    assert find_action_layer(spec, gone) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "s3d"},
        {"backbone": "i3d+s3d", "endpoint": "AvgPool+AvgPool"},
        {"endpoint": "Mixed_5b"},
        {"weights_digest": "0" * 64},
        {"origin": "numpy"},
    ],
)
def test_other_features_have_no_layer(weights, changes):
    path, spec = weights
    assert find_action_layer(replace(spec, **changes), str(path)) is None


@pytest.mark.parametrize("num_actions", [0, 3])
def test_weights_without_400_logits_have_no_layer(weights, state, num_actions):
    path, spec = weights
    others = {name: tensor for name, tensor in state.items() if not name.startswith("logits")}
    if num_actions:
        logits = {name: state[name] for name in state.keys() - others.keys()}
        others |= {name: tensor[:num_actions].clone() for name, tensor in logits.items()}
    save_file(others, path)
    assert load_weights(I3D(), str(path), ()).digest == spec.weights_digest
    assert find_action_layer(spec, str(path)) is None


def test_there_are_400_names_in_alphabetical_order():
    names = action_names()
    assert len(set(names)) == 400
    assert list(names) == sorted(names)
    assert {"swing dancing", "wrestling"} < set(names)


class OnlySlices:
    """Clip features as a file would give them."""

    def __init__(self, values):
        self.values = values
        self.longest = 0

    def __getitem__(self, clips):
        assert isinstance(clips, slice)
        block = self.values[clips]
        self.longest = max(self.longest, len(block))
        return block


def test_an_events_actions_are_the_mean_over_its_clips_and_views(monkeypatch):
    monkeypatch.setattr(event_actions, "BLOCK_CLIPS", 3)
    frames = ClipGrid(64, 32).frame_ranges(640)
    values = np.random.default_rng(1).standard_normal((len(frames), len(VIEWS), 6))
    clips = OnlySlices(values.astype(np.float16))
    features = make_features(num_frames=640, clip_features=clips, clip_frames=frames)
    event = Event(96, 352, 0.0, 0.0, 1.0, "Fighting", 1.0)
    inside = [k for k, (start, stop) in enumerate(frames) if start < 352 and stop > 96]
    assert len(inside) > 3
    for views in (VIEWS, VIEWS[1:]):
        rows = [VIEWS.index(view) for view in views]
        expected = np.mean(
            [
                softmax_of_mean(clips.values[clip, row].astype(np.float64).reshape(2, 3))
                for clip in inside
                for row in rows
            ],
            axis=0,
        )
        np.testing.assert_allclose(seen_in(event, features, views, LAYER), expected, atol=1e-6)
    assert clips.longest == 3


def test_without_clips_the_segments_that_hold_frames_of_the_event_count():
    features = make_features(num_frames=5)  # of the 8 segments, 3 hold no frame
    ranges = features.segment_frames.tolist()
    inside = [k for k, (start, stop) in enumerate(ranges) if {*range(start, stop)} & {1, 2, 3}]
    assert len(inside) == 3
    event = Event(1, 4, 0.0, 0.0, 1.0, "Fighting", 1.0)
    expected = np.mean(
        [
            softmax_of_mean(features.features[view, segment].astype(np.float64).reshape(2, 3))
            for segment in inside
            for view in range(2)
        ],
        axis=0,
    )
    np.testing.assert_allclose(seen_in(event, features, VIEWS, LAYER), expected, atol=1e-6)


def test_at_most_three_likely_actions_are_named():
    def named(*probabilities):
        return likely_actions(np.array(probabilities), NAMES)

    assert named(0.1, 0.3, 0.2, 0.4, 0.0) == (
        Action("dunking", 0.4),
        Action("busking", 0.3),
        Action("clapping", 0.2),
    )
    assert named(0.049, 0.05, 0.0, 0.9, 0.001) == (Action("dunking", 0.9), Action("busking", 0.05))
    assert named(0.04, 0.04, 0.04, 0.04, 0.04) == ()
    assert named(*[np.nan] * 5) == ()


def test_scoring_writes_them_and_decides_as_without(tmp_path, monkeypatch):
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "run"))
    features = make_features(weights_name="at home")
    files = list_features(write_store(tmp_path / "features", features))
    of_scores = lambda *scored: find_events(*scored[:7])  # noqa: E731  whatever the classes say
    monkeypatch.setattr("vigil.pipeline.scoring.score_store.find_events", of_scores)
    (without,) = score_store(checkpoint, files, tmp_path / "a", 0.0).results
    assert [event.actions for event in without.events] == [()]
    asked = []
    monkeypatch.setattr(
        event_actions, "find_action_layer", lambda *request: asked.append(request) or LAYER
    )
    monkeypatch.setattr(event_actions, "action_names", lambda: NAMES)
    (scored,) = score_store(checkpoint, files, tmp_path / "b", 0.0, views=["center"]).results
    (event,) = scored.events
    expected = likely_actions(seen_in(event, features, ["center"], LAYER), NAMES)
    assert event.actions == expected != ()
    (scored,) = score_store(checkpoint, files, tmp_path / "b", 0.0).results
    assert asked == [(SPEC, "at home")] * 2
    events = tuple(replace(event, actions=()) for event in scored.events)
    assert replace(scored, events=events) == without
    path = result_path(tmp_path / "b", "a.mp4")
    assert read_result(path) == scored
    content = json.loads(path.read_text())
    first = scored.events[0].actions[0]
    assert content["events"][0]["actions"][0] == {
        "name": first.name,
        "probability": first.probability,
    }
    del content["events"][0]["actions"]  # as written by earlier versions
    path.write_text(json.dumps(content))
    assert read_result(path) == without
    monkeypatch.setattr(event_actions, "find_action_layer", lambda *_: pytest.fail("no event"))
    (quiet,) = score_store(checkpoint, files, tmp_path / "c", 1.0).results
    assert quiet.events == ()

"""Checks that need a GPU: its features, scores and training against the CPU's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import make_features, write_checkpoint, write_store
from fake_backbone import make_engine
from i3d_reference import relative_error, seeded_state
from video_files import draw_frames, encode

from vigil.extract.decode.decoder import probe
from vigil.extract.decode.decoder_av import AvDecoder, NvdecDecoder
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.placement import place
from vigil.extract.networks.weights import load_state
from vigil.extract.source import SourceVideo
from vigil.extract.store import feature_path, verify_features
from vigil.extract.views import VIEW_SETS
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.cli import main
from vigil.pipeline.scores.inference import score_views
from vigil.pipeline.training.feeding import fetch

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("rung", "precision", "tolerance"),
    [
        ("plain", "fp32", 1e-4),
        ("folded", "fp32", 1e-4),
        ("folded", "fp16", 0.02),
        ("compiled", "fp16", 0.02),
    ],
)
def test_i3d_features_are_those_of_the_cpu(gpu, rung, precision, tolerance):
    backbone = BACKBONES["i3d"]
    network = backbone.build("AvgPool")
    load_state(network, seeded_state(), "seeded")
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (2, 64, 224, 224, 3), dtype=torch.uint8, generator=generator)
    expected = place(network, backbone, CPU, "fp32", rungs=["plain"]).run(views)
    placed = place(network, backbone, gpu, precision, batch_size=2, rungs=[rung])
    assert (placed.rung, placed.precision) == (rung, precision)
    assert relative_error(placed.run(views.to(gpu)).cpu(), expected) < tolerance


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_extraction_gives_the_same_as_on_the_cpu(gpu, tmp_path, num_workers):
    video = encode(tmp_path / "a.mp4", draw_frames(700, 320, 240))
    sources = [SourceVideo(video, "a.mp4"), SourceVideo(video, "b.mp4")]
    settings = {"keep_clips": True, "views": VIEW_SETS["five"]}
    list(make_engine(**settings).extract(sources, tmp_path / "cpu"))
    on_gpu = make_engine(devices=(gpu,), batch_size=8, num_workers=num_workers, **settings)
    outcomes = list(on_gpu.extract(sources, tmp_path / "gpu"))
    assert sorted(outcome.video for outcome in outcomes) == ["a.mp4", "b.mp4"]
    for source in sources:
        expected = verify_features(feature_path(tmp_path / "cpu", source.name))
        actual = verify_features(feature_path(tmp_path / "gpu", source.name))
        np.testing.assert_allclose(actual.clip_features, expected.clip_features, rtol=1e-5)


def test_views_of_whole_frames_are_those_of_the_cpu(gpu, tmp_path):
    sizes = {"a.mp4": (320, 240), "b.mp4": (240, 426), "c.mp4": (302, 226)}
    sources = [
        SourceVideo(encode(tmp_path / name, draw_frames(130, *size)), name)
        for name, size in sizes.items()
    ]
    (fake,) = make_engine().networks
    pixels = replace(fake.backbone.pixels, any_size=True)
    networks = (replace(fake, backbone=replace(fake.backbone, pixels=pixels)),)
    settings = {"networks": networks, "keep_clips": True, "views": ("squeeze", "whole")}
    list(make_engine(**settings).extract(sources, tmp_path / "cpu"))
    on_gpu = make_engine(devices=(gpu,), batch_size=2, **settings)
    assert len(list(on_gpu.extract(sources, tmp_path / "gpu"))) == len(sizes)
    for name in sizes:
        expected = verify_features(feature_path(tmp_path / "cpu", name)).clip_features
        actual = verify_features(feature_path(tmp_path / "gpu", name)).clip_features
        np.testing.assert_allclose(actual[:, 0], expected[:, 0], atol=0.1)  # colours, 0..255
        np.testing.assert_allclose(actual[:, 1], expected[:, 1], rtol=1e-5)


@pytest.mark.parametrize("size", [(226, 302), (256, 340)])
def test_i3d_features_of_whole_frames_are_those_of_the_cpu(gpu, size):
    backbone = BACKBONES["i3d"]
    network = backbone.build("AvgPool")
    load_state(network, seeded_state(), "seeded")
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (1, 64, *size, 3), dtype=torch.uint8, generator=generator)
    expected = place(network, backbone, CPU, "fp32", rungs=["plain"]).run(views)
    placed = place(network, backbone, gpu, "fp16", rungs=["folded"], view_size=size)
    assert (placed.rung, placed.precision) == ("folded", "fp16")
    assert relative_error(placed.run(views.to(gpu)).cpu(), expected) < 0.02


def test_the_gpu_decodes_the_same_as_the_cpu(gpu, tmp_path):
    path = encode(tmp_path / "a.mp4", draw_frames(50, 1280, 720))
    info = probe(path)
    expected = np.stack(list(AvDecoder(path, info, info.width, info.height)))
    actual = np.stack(list(NvdecDecoder(path, info, info.width, info.height)))
    assert np.abs(actual.astype(int) - expected).mean() < 1


def test_scores_are_those_of_the_cpu(gpu, tmp_path):
    model = load_checkpoint(write_checkpoint(tmp_path)).model
    features = make_features().features
    expected = score_views(model, features)
    actual = score_views(model.to(gpu), features)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(actual.class_probabilities, expected.class_probabilities, atol=1e-3)


def test_batches_from_memory_reach_the_gpu_intact(gpu):
    features = torch.randn(100, 32, 512, generator=torch.Generator().manual_seed(0)).half()
    rows = torch.stack([torch.randperm(100)[:60] for _ in range(20)])
    batches = [batch.clone() for batch in fetch(features, rows, gpu)]
    assert torch.equal(torch.stack(batches).cpu(), features[rows])


@pytest.mark.parametrize("amp", [[], ["--amp"]])
def test_a_training_runs_and_resumes(gpu, tmp_path, amp):
    names = [f"{label}/{number}.mp4" for label in ("Normal", "Arson") for number in range(4)]
    videos = [make_features(name, seed=seed) for seed, name in enumerate(names)]
    store = write_store(tmp_path / "features", *videos)
    train = ["train", str(store), "--out", str(tmp_path / "run"), "--device", "cuda", *amp]
    train += ["--lstm-size", "4", "--num-anomalous", "2", "--num-normal", "2"]
    assert main([*train, "--epochs", "2"]) == 0
    assert main([*train, "--epochs", "4", "--resume"]) == 0
    assert load_checkpoint(tmp_path / "run", "last").config.epoch == 4

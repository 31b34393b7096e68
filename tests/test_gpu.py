"""What only a GPU can show: features, scores and training there, against the CPU's."""

import numpy as np
import pytest
import torch
from builders import make_features, write_checkpoint, write_store
from i3d_reference import relative_error, seeded_state

from extract.backbones import BACKBONES, PRECISIONS, place_network
from extract.weights import load_state
from pipeline.checkpoint import load_checkpoint
from pipeline.cli import main
from pipeline.inference import score_views

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02)])
def test_i3d_features_are_those_of_the_cpu(gpu, precision, tolerance):
    backbone = BACKBONES["i3d"]
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (1, 3, 64, 224, 224), dtype=torch.uint8, generator=generator)

    def features(device, precision):
        network = backbone.build("AvgPool")
        load_state(network, seeded_state(), "seeded")
        place_network(network, device, PRECISIONS[precision])
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            normalised = backbone.normalise(views.to(device), PRECISIONS[precision])
            return network(normalised).cpu().numpy()

    assert relative_error(features(gpu, precision), features(CPU, "fp32")) < tolerance


def test_scores_are_those_of_the_cpu(gpu, tmp_path):
    model = load_checkpoint(write_checkpoint(tmp_path)).model
    features = make_features().features
    expected = score_views(model, features)
    actual = score_views(model.to(gpu), features)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(actual.class_probabilities, expected.class_probabilities, atol=1e-3)


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

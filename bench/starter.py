"""`python -m bench.starter CCTV OUT`: make the starter that ships with vigil (docs/starter.md).

CCTV holds two parts with no source in both, `train` and `dev`, each with a folder per class. The
starter is trained on both. The scale of its scores and its threshold are chosen on videos of
sources that a model does not know: a model of each part scores the other one.
"""

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import tyro
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from tyro.conf import Positional

import vigil
from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import KINETICS
from vigil.model.detector import Detector
from vigil.model.joint_plus import JointPlus
from vigil.pipeline.checkpoint import Checkpoint, CheckpointConfig, save_checkpoint
from vigil.pipeline.scores.inference import EPSILON
from vigil.pipeline.scores.metrics import FloatArray
from vigil.pipeline.starter import STARTER
from vigil.pipeline.training.training_data import load_labelled_features
from vigil.pipeline.training.validation import answer, choose_threshold

BoolArray = npt.NDArray[np.bool_]

PARTS = ("train", "dev")
CONFIG, ENDPOINTS = "starter", "Mixed_4d:max,Mixed_4d,Mixed_5c:max,Mixed_5c"
SCORED, TRAINED = "center", "center,whole"
"""Views: the second one is further training data, and costs nothing when videos are scored."""
RULE = "chosen like that of a training, but on videos of sources that a model was not trained on"


@dataclass(frozen=True)
class Options:
    """Make the starter."""

    cctv: Positional[Path]
    """Folder with the parts train and dev, each with a folder of videos per class."""
    out: Positional[Path]
    """Folder for the starter, the models of the parts (train, dev), features and runs; extraction
    continues if it is interrupted."""
    seed: int = 0
    """Seed of all trainings."""
    install: bool = False
    """Put the starter into this source tree."""


def main(options: Options) -> None:
    """Extract, train on each part and on both, choose the threshold, and write the starter."""
    features = options.out / "features"
    vigil.extract(
        options.cctv,
        features,
        weights=KINETICS,
        endpoint=ENDPOINTS,
        views=TRAINED,
        keep_clips=True,
    )

    def train(folder: Path, name: str) -> Checkpoint:
        return vigil.train(
            folder,
            None,
            options.out / "runs" / name,
            config=CONFIG,
            views=TRAINED,
            seed=options.seed,
            overwrite=True,
        )

    models = {part: train(features / part, part) for part in PARTS}
    models["starter"] = train(features, "starter")
    scored = [peaks_of(models[known], features / other) for known, other in (PARTS, PARTS[::-1])]
    peaks, is_anomalous = map(np.concatenate, zip(*scored, strict=True))
    slope, intercept = platt_scale(peaks, is_anomalous)
    peaks = expit(slope * peaks + intercept)
    threshold, _ = choose_threshold(peaks, is_anomalous)
    for name, trained in models.items():
        config, model = rescaled(trained, slope, intercept)
        config = replace(config, weights_name=KINETICS, threshold=threshold, threshold_rule=RULE)
        save_checkpoint(options.out / name, config, model.half())
    if options.install:
        shutil.copytree(options.out / "starter", STARTER, dirs_exist_ok=True)
    for kind, share in (
        ("anomalous videos found", (peaks[is_anomalous] >= threshold).mean()),
        ("normal videos left alone", (peaks[~is_anomalous] < threshold).mean()),
    ):
        print(f"{kind}, of sources unknown to the model: {share:.3f}")
    print(f"threshold {threshold:.4f}")
    print(STARTER if options.install else options.out / "starter")


def peaks_of(checkpoint: Checkpoint, features: Path) -> tuple[FloatArray, BoolArray]:
    """The log-odds of the peaks of a folder's videos, and whether their folders are anomalous."""
    pooling = checkpoint.config.recipe.features
    bags = load_labelled_features(features, [], [SCORED], pooling).bags
    answers = answer(checkpoint.model, bags, torch.from_numpy(bags.features))
    peaks = np.clip(answers.peaks, EPSILON, 1 - EPSILON)
    return logit(peaks), bags.class_indices > 0


def platt_scale(peaks: FloatArray, is_anomalous: BoolArray) -> tuple[float, float]:
    """The line that turns log-odds (N,) into those of a video being anomalous, at even odds before.

    Without it nearly all scores of unknown scenes are 0 or 1, and all useful thresholds above 0.99.
    Source: Platt, Probabilistic outputs for support vector machines, 1999.
    """
    fitted = LogisticRegression(C=np.inf, class_weight="balanced").fit(peaks[:, None], is_anomalous)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def rescaled(
    checkpoint: Checkpoint, slope: float, intercept: float
) -> tuple[CheckpointConfig, Detector]:
    """The same model with other log-odds of its segments: slope x log-odds + intercept."""
    config, model = checkpoint.config, checkpoint.model
    assert isinstance(model, JointPlus)
    with torch.no_grad():
        model.detection.weight.mul_(slope)
        model.detection.bias.mul_(slope).add_(intercept)
    settings = replace(model.config, naming_share=slope * model.config.naming_share)
    recipe = replace(config.recipe, model=settings)
    return replace(config, recipe=recipe), model


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, prog="python -m bench.starter"))
    except UserError as error:
        sys.exit(f"error: {error}")

"""`python -m bench.starter CCTV OUT`: make the starter that ships with vigil (docs/starter.md).

CCTV holds two parts with no source in both, `train` and `dev`, each with a folder per class. The
starter is trained on both. Its threshold is chosen on videos of sources that a model does not know:
a model of each part scores the other one.
"""

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import tyro
from tyro.conf import Positional

import vigil
from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import KINETICS
from vigil.pipeline.checkpoint import Checkpoint, save_checkpoint
from vigil.pipeline.scores.metrics import FloatArray
from vigil.pipeline.starter import STARTER
from vigil.pipeline.training.training_data import load_labelled_features
from vigil.pipeline.training.validation import answer, choose_threshold

BoolArray = npt.NDArray[np.bool_]

PARTS = ("train", "dev")
CONFIG, ENDPOINTS = "starter", "Mixed_4d,Mixed_5c"
RULE = "chosen like that of a training, but on videos of sources that a model was not trained on"


@dataclass(frozen=True)
class Options:
    """Make the starter."""

    cctv: Positional[Path]
    """Folder with the parts train and dev, each with a folder of videos per class."""
    out: Positional[Path]
    """Folder for the features, runs and the starter; extraction continues if it is interrupted."""
    seed: int = 0
    """Seed of all trainings."""
    install: bool = False
    """Put the starter into this source tree."""


def main(options: Options) -> None:
    """Extract, train on each part and on both, choose the threshold, and write the starter."""
    features, starter = options.out / "features", options.out / "starter"
    vigil.extract(options.cctv, features, weights=KINETICS, endpoint=ENDPOINTS, keep_clips=True)

    def train(folder: Path, name: str) -> Checkpoint:
        out = options.out / "runs" / name
        return vigil.train(folder, None, out, config=CONFIG, seed=options.seed, overwrite=True)

    scored = [
        peaks_of(train(features / known, known), features / other)
        for known, other in (PARTS, PARTS[::-1])
    ]
    peaks, is_anomalous = map(np.concatenate, zip(*scored, strict=True))
    threshold, _ = choose_threshold(peaks, is_anomalous)
    model, config = (trained := train(features, "both")).model, trained.config
    config = replace(config, weights_name=KINETICS, threshold=threshold, threshold_rule=RULE)
    save_checkpoint(starter, config, model)
    if options.install:
        shutil.copytree(starter, STARTER, dirs_exist_ok=True)
    for kind, share in (
        ("anomalous videos found", (peaks[is_anomalous] >= threshold).mean()),
        ("normal videos left alone", (peaks[~is_anomalous] < threshold).mean()),
    ):
        print(f"{kind}, of sources unknown to the model: {share:.3f}")
    print(f"threshold {threshold:.4f}")
    print(STARTER if options.install else starter)


def peaks_of(checkpoint: Checkpoint, features: Path) -> tuple[FloatArray, BoolArray]:
    """The peak scores of the videos of a folder, and whether they are anomalous by their folder."""
    pooling = checkpoint.config.recipe.features
    bags = load_labelled_features(features, [], checkpoint.config.views, pooling).bags
    answers = answer(checkpoint.model, bags, torch.from_numpy(bags.features))
    return answers.peaks, bags.class_indices > 0


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, prog="python -m bench.starter"))
    except UserError as error:
        sys.exit(f"error: {error}")

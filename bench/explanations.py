"""What is left of an explanation with fresh weights: `python -m bench.explanations RESULTS`.

The check of Adebayo et al. (Sanity Checks for Saliency Maps, NeurIPS 2018), for the detector's
layers: what looks the same with any model explains none. RESULTS is the folder of a `vigil score`
with the starter, whose events are explained.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import tyro
from scipy.stats import spearmanr
from tyro.conf import Positional

from vigil.extract.engine.cutting import cut_view
from vigil.extract.networks.class_activation import Activations
from vigil.extract.networks.combinations import load_networks
from vigil.extract.source import SourceVideo
from vigil.extract.store import feature_path, read_features
from vigil.model.detector import Detector
from vigil.pipeline.checkpoint import Checkpoint, load_checkpoint
from vigil.pipeline.explaining.attribution import attribute
from vigil.pipeline.explaining.moment import bag_around, find_moment
from vigil.pipeline.explaining.places import clips_around, clips_of
from vigil.pipeline.scoring.results import VideoResult, read_results
from vigil.pipeline.starter import STARTER

SEEDS = (0, 1, 2)
VIEW = "center"

FloatArray = npt.NDArray[np.float64]


def fresh_model(checkpoint: Checkpoint, seed: int) -> Detector:
    """A model with fresh weights behind the checkpoint's own front end."""
    torch.manual_seed(seed)
    model = checkpoint.config.recipe.build(checkpoint.config.shape)
    model.front.load_state_dict(checkpoint.model.front.state_dict())
    return model


def explanations(
    checkpoint: Checkpoint, store: Path, result: VideoResult, activations: Activations
) -> list[tuple[FloatArray, FloatArray]]:
    """Places of the weightiest clip, and evidence, by the model and then by each fresh one."""
    features = read_features(feature_path(store, result.video))
    moment = find_moment(result, None).segment
    bag = bag_around(features, result.span_frames, moment.start_frame, moment.stop_frame)
    models = [checkpoint.model, *(fresh_model(checkpoint, seed) for seed in SEEDS)]
    pooling = checkpoint.config.recipe.features
    found = [attribute(model, bag, [VIEW], pooling, None) for model in models]
    clip = max(clips_around(bag, found[0]), key=lambda one: found[0].evidence[one].sum())
    number = bag.first_clip + clip
    video = SourceVideo(Path(str(result.source)), result.video)
    view = cut_view(torch.from_numpy(clips_of(video, features, {number})[number]), VIEW)
    return [
        (np.maximum(activations.of(view, one.gradient[clip, 0]).places, 0), one.evidence)
        for one in found
    ]


def main(results: Positional[Path]) -> None:
    """Print the rank correlations with the explanation by the trained model.

    Args:
        results: folder of a vigil score with the starter.
    """
    checkpoint = load_checkpoint(STARTER)
    spec = checkpoint.config.spec
    (network,) = load_networks(spec.backbone, spec.endpoint, checkpoint.config.weights_name)
    activations = Activations(network, spec.time_pool, torch.device("cpu"))
    rows = []
    for result in read_results(results).by_name:
        if not result.events:
            continue
        own, *others = explanations(checkpoint, results / "features", result, activations)
        places, evidence = (
            [spearmanr(own[kind].ravel(), one[kind].ravel()).statistic for one in others]
            for kind in (0, 1)
        )
        rows.append((np.mean(places), np.mean(evidence)))
        print(f"{result.video} places {rows[-1][0]:.3f} evidence {rows[-1][1]:.3f}", flush=True)
    places, evidence = np.mean(rows, axis=0)
    print(f"mean of {len(rows)} videos: places {places:.3f} evidence {evidence:.3f}")


if __name__ == "__main__":
    tyro.cli(main)

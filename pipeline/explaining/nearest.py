"""The training videos that resemble a moment most, as the model sees them.

Legend: V views, S segments, F features that enter the layers of a model.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vigil.data.pooling import PoolingConfig, segment_features
from vigil.data.spans import cut, training_spans
from vigil.extract.errors import UserError
from vigil.extract.spec import difference
from vigil.extract.store import VideoFeatures, list_features, read_features
from vigil.model.detector import Detector
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.explaining.moment import Bag
from vigil.pipeline.run_folder import SPLITS_NAME
from vigil.pipeline.scores.spans import seconds_at
from vigil.pipeline.text_files import read_json

MAX_NEAREST = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Neighbour:
    """The most similar segment of a training video."""

    video: str
    class_name: str
    """Its class in training; empty if the run does not tell."""
    similarity: float
    """Cosine of the angle between the features, -1..1."""
    start_seconds: float
    stop_seconds: float


def find_nearest(
    checkpoint: Checkpoint, bag: Bag, views: list[str], folder: Path
) -> list[Neighbour]:
    """The training videos with the segments most similar to the bag's, the most similar first.

    Segments are compared by the input of the model's first layer: standardized if the model does
    so, and without the share of the scene. Of a run that lists its training videos only those
    count, otherwise all in the folder.

    Args:
        checkpoint: with its model on the CPU.
        bag: that was explained.
        views: averaged over, those of them that a training video's features hold.
        folder: of features of the training videos.

    Raises:
        UserError: the features are of another kind, or none is of a training video.
    """
    classes = training_classes(checkpoint.folder)
    found = []
    for video, path in list_features(folder).items():
        if classes is not None and video not in classes:
            continue
        features = read_features(path)
        if features.video.digest == bag.features.video.digest:
            continue
        trained = replace(checkpoint.config.spec, static=features.spec.static)
        if differences := difference(features.spec, trained):
            raise UserError(
                f"{path} does not hold features as the model was trained on "
                f"({'; '.join(differences)}): give --features the folder of the training"
            )
        name = "" if classes is None else classes[video]
        found.append(_most_similar(checkpoint, bag, features, views, video, name))
    if not found:
        raise UserError(
            f"{folder} holds features of no other training video of {checkpoint.folder}: give "
            "--features the folder that vigil train read"
        )
    return sorted(found, key=lambda one: -one.similarity)[:MAX_NEAREST]


def training_classes(checkpoint: Path) -> dict[str, str] | None:
    """Training video -> its class; None if the run of a checkpoint does not list them."""
    for folder in (checkpoint, checkpoint.parent):
        if (folder / SPLITS_NAME).is_file():
            splits = read_json(folder / SPLITS_NAME)
            return {**splits["train"], **splits["validation"]}
    return None


def _most_similar(
    checkpoint: Checkpoint,
    bag: Bag,
    features: VideoFeatures,
    views: list[str],
    video: str,
    class_name: str,
) -> Neighbour:
    pooling = checkpoint.config.recipe.features
    shared = [view for view in views if view in features.views]
    if not shared:
        raise UserError(
            f"{video}: its features hold the views {', '.join(features.views)}, none of which is "
            f"explained: use --views {features.views[0]}"
        )
    own = _inputs(checkpoint.model, bag.features, shared, pooling)[bag.segment]
    best, place = -np.inf, (0, 0)
    for start, part in _bags(features, pooling):
        inputs = _inputs(checkpoint.model, part, shared, pooling)
        lengths = np.linalg.norm(inputs, axis=1) * np.linalg.norm(own)
        similarities = (inputs @ own) / np.maximum(lengths, np.finfo(np.float64).tiny)
        held = np.diff(part.segment_frames)[:, 0] > 0
        similarities = np.where(held | ~held.any(), similarities, -np.inf)
        segment = int(similarities.argmax())
        if similarities[segment] > best:
            best = float(similarities[segment])
            place = tuple((start + part.segment_frames[segment]).tolist())
    start_seconds, stop_seconds = seconds_at(features, np.array(place)).tolist()
    return Neighbour(video, class_name, best, start_seconds, stop_seconds)


def _bags(features: VideoFeatures, pooling: PoolingConfig) -> Iterator[tuple[int, VideoFeatures]]:
    """Yield the bags that a training makes of a video, and where each begins."""
    if not pooling.span_frames:
        yield 0, features
        return
    spans = training_spans(features, pooling.span_frames)
    for start, stop in spans:
        yield start, features if len(spans) == 1 else cut(features, start, stop)


def _inputs(
    model: Detector, features: VideoFeatures, views: list[str], pooling: PoolingConfig
) -> npt.NDArray[np.float64]:
    """(S, F), the mean over the views."""
    values = torch.from_numpy(segment_features(features, views, pooling).values)
    with torch.inference_mode():
        return np.asarray(model.eval().front(values).double().mean(dim=0).numpy())

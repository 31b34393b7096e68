"""Feature files -> bags. Legend: N videos, V views, S segments, D features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vigil.data.annotations import Annotation
from vigil.data.classes import class_index
from vigil.data.pooling import PoolingConfig, segment_features
from vigil.data.storage import Storage
from vigil.extract.errors import UserError
from vigil.extract.spec import FeatureSpec, difference
from vigil.extract.store import VideoFeatures, read_features

STORED = PoolingConfig()


class BagError(UserError):
    """Feature files that cannot be used together."""


@dataclass(frozen=True, eq=False)
class BagSet:
    """The bags of many videos: their features, with one label per video."""

    features: npt.NDArray[np.floating]
    """(N, V, S, D) float16, or float32 if any file holds float32; an `np.memmap` if it does not
    fit in memory."""
    segment_frames: npt.NDArray[np.int64]
    """(N, S, 2) half-open; a segment may be empty."""
    class_indices: npt.NDArray[np.int64]
    """(N,), 0 = normal."""
    num_frames: npt.NDArray[np.int64]
    """(N,) `VideoFeatures.num_frames_seen` of each video."""
    fps: npt.NDArray[np.float64]
    """(N,) rate of these frames."""
    videos: tuple[str, ...]
    """Names, sorted."""
    views: tuple[str, ...]
    spec: FeatureSpec
    time_positions: int
    channels: int
    """time_positions * channels = D, time-major."""
    weights_name: str
    weights_trained: bool
    """Whether the backbone's weights were trained ones in all files."""
    precision: str
    """Precision of the backbone; several are joined by a plus sign."""
    storage: Storage = field(default_factory=Storage)
    """Where copies of the features are allocated."""

    def __len__(self) -> int:
        """Number of bags."""
        return len(self.videos)


def load_bags(
    files: Mapping[str, Path],
    annotations: Mapping[str, Annotation],
    class_names: Sequence[str],
    views: Sequence[str],
    pooling: PoolingConfig = STORED,
    storage: Storage | None = None,
) -> BagSet:
    """Load the bags of all annotated videos; only the class of an annotation is used.

    Args:
        files: video -> feature file, as `extract.store.list_features` returns it.
        annotations: video -> annotation, as `data.matching.match_videos` returns it; each has a
            file.
        class_names: names in the order of their indices, normal first.
        views: names of the views to read, in the order of the result.
        pooling: how the features of a segment are pooled.
        storage: where the features are allocated; None: in memory, or if they do not fit, in a
            file in the system's folder for temporary files.

    Raises:
        BagError: there are no videos, or specs or shapes differ.
        FeatureFileError: a file is damaged, lacks a view, or holds values that are not finite.
        UnknownClassError: a video's class is not among the names.
    """
    videos = tuple(sorted(annotations))
    if not videos:
        raise BagError("no video has both features and an annotation: check the names of both")
    indices = [class_index(class_names, annotations[v].class_name, v) for v in videos]
    storage = storage or Storage()
    first = read_features(files[videos[0]])
    kind = segment_features(first, views, pooling)
    features = storage.empty((len(videos), *kind.values.shape), kind.values.dtype)
    segment_frames = np.empty((len(videos), *first.segment_frames.shape), np.int64)
    num_frames, fps = np.empty(len(videos), np.int64), np.empty(len(videos))
    precisions, weights_trained = set(), True
    for row, video in enumerate(videos):
        content = read_features(files[video]) if row else first
        _check_same_kind(first, content)
        bag = segment_features(content, views, pooling).values
        features = storage.widened(features, row, bag.dtype)
        features[row] = bag
        segment_frames[row] = content.segment_frames
        num_frames[row] = content.num_frames_seen
        fps[row] = content.spec.frame_rate or content.fps
        precisions.add(content.precision)
        weights_trained &= content.weights_trained
    return BagSet(
        features=features,
        segment_frames=segment_frames,
        class_indices=np.array(indices, dtype=np.int64),
        num_frames=num_frames,
        fps=fps,
        videos=videos,
        views=tuple(views),
        spec=first.spec,
        time_positions=kind.time_positions,
        channels=kind.channels,
        weights_name=first.weights_name,
        weights_trained=weights_trained,
        precision="+".join(sorted(precisions)),
        storage=storage,
    )


def _check_same_kind(first: VideoFeatures, other: VideoFeatures) -> None:
    differences = difference(first.spec, other.spec)
    differences += difference(first, other, ("time_positions", "channels"))
    if differences:
        raise BagError(
            f"features of {first.video.path} and {other.video.path} have different settings "
            f"({'; '.join(differences)}): extract both with the same settings"
        )

"""Feature files -> bags, one of each video, or one of each span of it.

Legend: N videos, R bags, V views, S segments, D features.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vigil.data.annotations import Annotation
from vigil.data.classes import class_index
from vigil.data.pooling import PoolingConfig, segment_features
from vigil.data.spans import cut, training_spans
from vigil.data.storage import Storage
from vigil.extract.errors import UserError
from vigil.extract.spec import FeatureSpec, difference
from vigil.extract.store import VideoFeatures, read_features, read_identity

STORED = PoolingConfig()


class BagError(UserError):
    """Feature files that cannot be used together."""


@dataclass(frozen=True, eq=False)
class BagSet:
    """The bags of many videos: their features, with one label per video."""

    features: npt.NDArray[np.floating]
    """(R, V, S, D) float16, or float32 if any file holds float32; an `np.memmap` if it does not
    fit in memory. Only the rows in ``held``, if that is not None."""
    segment_frames: npt.NDArray[np.int64]
    """(R, S, 2) half-open ranges of the video's frames; a segment may be empty."""
    class_indices: npt.NDArray[np.int64]
    """(N,), 0 = normal."""
    num_frames: npt.NDArray[np.int64]
    """(R,) `VideoFeatures.num_frames_seen` of each bag."""
    fps: npt.NDArray[np.float64]
    """(R,) rate of these frames."""
    videos: tuple[str, ...]
    """Names, sorted."""
    num_spans: npt.NDArray[np.int64]
    """(N,) number of bags of each video, which follow each other; 1 if it is not cut."""
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
    held: npt.NDArray[np.int64] | None = None
    """(R,) row of ``features`` of each bag, -1 if another process has it; None: all are here."""

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.videos)

    @property
    def bounds(self) -> npt.NDArray[np.int64]:
        """(N + 1,); the bags of video i are those from bounds[i] up to bounds[i + 1]."""
        return np.concatenate([[0], np.cumsum(self.num_spans)])

    def places(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The rows of ``features`` of some bags; -1 for those that another process has."""
        return rows if self.held is None else self.held[rows]


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
        pooling: how the features of a segment are pooled, and long videos cut.
        storage: where the features are allocated; None: in memory, or if they do not fit, in a
            file in the system's folder for temporary files.

    Raises:
        BagError: there are no videos, or specs or shapes differ.
        FeatureFileError: a file is damaged, lacks a view, or holds values that are not finite.
        UnknownClassError: a video's class is not among the names.
        UserError: a video cannot be cut into spans.
    """
    videos = tuple(sorted(annotations))
    if not videos:
        raise BagError("no video has both features and an annotation: check the names of both")
    indices = [class_index(class_names, annotations[v].class_name, v) for v in videos]
    storage = storage or Storage()
    first = read_features(files[videos[0]])
    kind = segment_features(first, views, pooling)
    spans = [_spans_of(files[video], pooling.span_frames) for video in videos]
    num_bags = sum(map(len, spans))
    features = storage.empty((num_bags, *kind.values.shape), kind.values.dtype)
    segment_frames = np.empty((num_bags, *first.segment_frames.shape), np.int64)
    num_frames, fps = np.empty(num_bags, np.int64), np.empty(num_bags)
    precisions, weights_trained = set(), True
    contents = chain([first], (read_features(files[video]) for video in videos[1:]))
    for row, (start, content) in enumerate(_pieces(contents, spans)):
        check_same_kind(first, content, first.video.path, content.video.path)
        bag = segment_features(content, views, pooling).values
        features = storage.widened(features, row, bag.dtype)
        features[row] = bag
        segment_frames[row] = start + content.segment_frames
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
        num_spans=np.array([len(one) for one in spans]),
        views=tuple(views),
        spec=first.spec,
        time_positions=kind.time_positions,
        channels=kind.channels,
        weights_name=first.weights_name,
        weights_trained=weights_trained,
        precision="+".join(sorted(precisions)),
        storage=storage,
    )


def _spans_of(path: Path, span_frames: int) -> list[tuple[int, int]]:
    """The ranges of frames of a video's bags; one without an end if videos stay whole."""
    return training_spans(read_identity(path), span_frames) if span_frames else [(0, 0)]


def _pieces(
    contents: Iterable[VideoFeatures], spans: Sequence[Sequence[tuple[int, int]]]
) -> Iterator[tuple[int, VideoFeatures]]:
    """Yield the first frame of each bag, and its features as those of a video of its own."""
    for content, ranges in zip(contents, spans, strict=True):
        for start, stop in ranges:
            yield start, content if len(ranges) == 1 else cut(content, start, stop)


def check_same_kind(
    first: VideoFeatures | BagSet, other: VideoFeatures | BagSet, name: str, other_name: str
) -> None:
    """Reject features of two videos that cannot be used together.

    Raises:
        BagError: they were extracted with different settings; names both.
    """
    differences = difference(first.spec, other.spec)
    differences += difference(first, other, ("time_positions", "channels"))
    if differences:
        raise BagError(
            f"features of {name} and {other_name} have different settings "
            f"({'; '.join(differences)}): extract both with the same settings"
        )

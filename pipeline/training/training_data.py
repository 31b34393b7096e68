"""Turn feature files and annotations into training and held-out bags, and report mismatches."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vigil.data.annotations import (
    Annotation,
    class_names_of,
    labels_from_folders,
    load_annotations,
    merge_anomalous,
)
from vigil.data.bags import STORED, BagSet, load_bags
from vigil.data.classes import class_index
from vigil.data.matching import match_videos
from vigil.data.pooling import PoolingConfig
from vigil.data.shares import deal, join_shares, without_features
from vigil.data.spans import WHOLE_SPANS
from vigil.data.splits import Split, deal_folds, hold_out
from vigil.data.storage import Storage
from vigil.extract.errors import UserError, counted
from vigil.extract.store import list_features
from vigil.pipeline.checkpoint import MAX_FACTOR
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.training.ranks import ALONE, Ranks, SharedError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """The labelled videos of a feature folder."""

    bags: BagSet
    annotations: dict[str, Annotation]
    """Of the bags' videos, without intervals: training is weakly supervised, so nothing after
    this point knows where in a video the anomaly is."""
    missing: tuple[str, ...] = ()
    """Videos that have a label but no features."""
    extra: tuple[str, ...] = ()
    """Videos that have features but no label."""

    def only(self, videos: Sequence[str]) -> "LabelledFeatures":
        """The same data, restricted to some of the videos."""
        kept = {video: self.annotations[video] for video in videos}
        return replace(self, bags=select(self.bags, videos), annotations=kept)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All the data that a training uses."""

    train: BagSet
    validation: BagSet
    """Held out to choose the epoch and the threshold; disjoint from ``train``. Empty with folds."""
    folds: tuple[tuple[str, ...], ...]
    """Used instead of ``validation``: groups of videos in ``train``, each evaluated by a model
    trained without it."""
    class_names: tuple[str, ...]
    source: LabelledFeatures

    def without(self, fold: Sequence[str]) -> tuple[BagSet, BagSet]:
        """Return the training bags without the videos of a fold, and the bags of the fold."""
        own = set(fold)
        others = [video for video in self.train.videos if video not in own]
        return select(self.train, others), select(self.train, fold)


def load_labelled_features(
    features: Path,
    annotations: Sequence[Path],
    views: Sequence[str],
    pooling: PoolingConfig = STORED,
    storage: Storage | None = None,
    ranks: Ranks = ALONE,
) -> LabelledFeatures:
    """Load the labelled videos of a feature folder.

    Args:
        features: folder of feature files.
        annotations: label files; without any, the name of a video's folder is its class.
        views: names of the views to read.
        pooling: how a segment's feature is computed, and long videos cut.
        storage: where the features are kept, as for `load_bags`.
        ranks: each loads its own share of the features.

    Raises:
        UserError: features or labels are damaged or do not match; names them.
    """
    files = list_features(features)
    labels = load_annotations(annotations) if annotations else labels_from_folders(files)
    matching = match_videos([replace(label, intervals=None) for label in labels], files)
    for problem in matching.problems:
        logger.warning("%s", problem)
    class_names = class_names_of(matching.annotations.values())
    _require_same_videos(matching.annotations, ranks)
    mine = deal(matching.annotations, ranks.index, ranks.number)
    own: list[BagSet] = []

    def load() -> BagSet:
        own.append(load_bags(files, mine, class_names, views, pooling, storage))
        return own[0] if ranks.is_alone else without_features(own[0])

    known = ranks.of_all(load)
    bags = own[0] if ranks.is_alone else join_shares(known, ranks.index, own[0])
    _warn_of_features(bags)
    _tell_lengths(bags, pooling.span_frames)
    return LabelledFeatures(
        bags=bags,
        annotations=matching.annotations,
        missing=matching.missing,
        extra=matching.extra,
    )


def split_training(source: LabelledFeatures, recipe: Recipe, seed: int) -> TrainingData:
    """Split labelled videos into training and held-out bags, or folds.

    All methods with the same settings get the same split.

    Args:
        source: the videos to train on.
        recipe: determines how much is held out, and whether classes of anomaly are distinguished.
        seed: determines which videos are held out.

    Raises:
        UserError: there are too few videos of a kind; names the kind.
    """
    annotations = source.annotations
    training = recipe.training
    folds: tuple[tuple[str, ...], ...] = ()
    if training.validation_folds:
        split = Split(train=source.bags.videos, validation=())
        folds = deal_folds(annotations.values(), training.validation_folds, seed)
    else:
        split = hold_out(annotations.values(), training.validation_fraction, seed)
    if not recipe.classifies:
        annotations = {video: merge_anomalous(one) for video, one in annotations.items()}
    class_names = class_names_of(annotations.values())
    indices = [class_index(class_names, annotations[v].class_name, v) for v in source.bags.videos]
    bags = replace(source.bags, class_indices=np.array(indices, np.int64))
    data = TrainingData(
        train=select(bags, split.train),
        validation=select(bags, split.validation),
        folds=folds,
        class_names=class_names,
        source=source,
    )
    _require_both_kinds(data)
    return data


def splits_of(data: TrainingData) -> dict[str, Any]:
    """The content of `splits.json`: video -> class for each part, then the unused names."""

    def classes_of(bags: BagSet) -> dict[str, str]:
        names = [data.class_names[index] for index in bags.class_indices]
        return dict(zip(bags.videos, names, strict=True))

    return {
        "train": classes_of(data.train),
        "validation": classes_of(data.validation),
        "folds": data.folds,
        "without_features": list(data.source.missing),
        "without_label": list(data.source.extra),
    }


def _require_same_videos(annotations: Mapping[str, Annotation], ranks: Ranks) -> None:
    """Refuse ranks that see different folders or labels, and more ranks than videos."""
    classes = sorted((video, one.class_name) for video, one in annotations.items())
    of_ranks = ranks.of_all(lambda: classes)
    for rank, other in enumerate(of_ranks):
        if differing := sorted(set(other) ^ set(of_ranks[0])):
            raise SharedError(
                f"rank {rank} sees other labelled videos than rank 0, such as {differing[0][0]}: "
                "all machines need the same features and labels, for example in a shared folder"
            )
    if len(classes) < ranks.number:
        raise SharedError(
            f"{ranks.number} processes cannot share {counted(len(classes), 'video')}: start at "
            f"most {len(classes)}"
        )


def select(bags: BagSet, videos: Sequence[str]) -> BagSet:
    """The bags of some of the videos."""
    if tuple(videos) == bags.videos:
        return bags
    index_of = {video: index for index, video in enumerate(bags.videos)}
    indices = [index_of[video] for video in videos]
    bounds = bags.bounds.tolist()
    rows = [row for index in indices for row in range(bounds[index], bounds[index + 1])]
    places = bags.places(np.array(rows, np.int64))
    is_here = places >= 0
    return replace(
        bags,
        features=bags.storage.take(bags.features, places[is_here].tolist()),
        held=None if bags.held is None else np.where(is_here, is_here.cumsum() - 1, -1),
        segment_frames=bags.segment_frames[rows],
        class_indices=bags.class_indices[indices],
        num_frames=bags.num_frames[rows],
        fps=bags.fps[rows],
        videos=tuple(videos),
        num_spans=bags.num_spans[indices],
    )


def _require_both_kinds(data: TrainingData) -> None:
    known, held_out = data.train.class_indices, data.validation.class_indices
    if data.folds:
        held_out = known[np.isin(data.train.videos, [v for fold in data.folds for v in fold])]
    for classes, part in ((known, "training"), (held_out, "held-out")):
        is_anomalous = classes > 0
        for present, kind in ((is_anomalous, "anomalous"), (~is_anomalous, "normal")):
            if not present.any():
                raise UserError(
                    f"there is no {kind} video among the {len(classes)} {part} videos: training "
                    "needs at least two normal videos and two of the same anomaly class"
                )


def _warn_of_features(bags: BagSet) -> None:
    if "+" in bags.precision:
        logger.warning(
            "the features were computed in different precisions (%s), which may affect the scores",
            bags.precision.replace("+", ", "),
        )
    if not bags.weights_trained:
        logger.warning(
            "the features were computed with untrained weights and carry little information"
        )


def _tell_lengths(bags: BagSet, span_frames: int) -> None:
    if num_cut := int((bags.num_spans > 1).sum()):
        message = "%d of %d videos are cut into spans, %d in all"
        logger.info(message, num_cut, len(bags), bags.num_spans[bags.num_spans > 1].sum())
        return
    if span_frames:
        logger.warning(
            "span_frames = %d changes nothing: no video is longer than %g such spans",
            span_frames,
            WHOLE_SPANS,
        )
    median = float(np.median(bags.num_frames))
    num_long = int((bags.num_frames > MAX_FACTOR * median).sum())
    if median and num_long:
        logger.warning(
            "%s more than %d times as long as the median of %.0f frames: an anomaly is harder to "
            "find in them, because every video has %d segments; --span-frames trains on spans",
            "1 video is" if num_long == 1 else f"{num_long} videos are",
            MAX_FACTOR,
            median,
            bags.spec.num_segments,
        )

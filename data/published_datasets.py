"""Published datasets: a table of their official splits, and the assignment of videos to subsets.

A dataset identifies its videos in one of three ways: by lists of names (UCF-Crime, ShanghaiTech,
UBnormal); by numbers within the folders of the subsets (Avenue, UCSD), where ``Test001``, ``01``
and ``1`` are the same video; or only by the classes in their names (XD-Violence). The folders of a
subset start with its name: train, training_videos, Test.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from vigil.data.annotations import Annotation, load_annotations
from vigil.data.classes import ANOMALY, NORMAL, classes_in_name
from vigil.data.matching import Matching, NoMatchError, match_videos
from vigil.extract.errors import UserError


@dataclass(frozen=True)
class Subset:
    """What an official split calls train, validation or test."""

    name: str
    num_normal: int
    """Published number of normal videos."""
    num_anomalous: int
    lists: tuple[str, ...] = ()
    """Patterns of the files that list its videos."""
    truths: tuple[str, ...] = ()
    """Patterns of files and folders that annotate anomalous frames; one of them is enough."""


@dataclass(frozen=True)
class PublishedDataset:
    """A dataset with its official split."""

    title: str
    home: str
    """URL of its home page."""
    subsets: tuple[Subset, ...]
    is_numbered: bool = False
    """Whether its videos are numbered within the folders of the subsets."""
    metric: str = "frame_auc"
    """Our name of the metric that its papers report."""


@dataclass(frozen=True)
class PlacedVideo:
    """A video with its subset and annotation."""

    video: str
    subset: Subset
    annotation: Annotation


@dataclass
class Placement:
    """The subset of each video, and what could not be placed."""

    placed: list[PlacedVideo] = field(default_factory=list)
    missing: list[tuple[Subset, str]] = field(default_factory=list)
    """Names that a subset should contain, without a video."""
    unlabelled: list[tuple[Subset, str]] = field(default_factory=list)
    """Videos of a subset without any information on whether they are normal."""
    extra: list[str] = field(default_factory=list)
    """Videos that are in no subset."""

    def videos(self, subset: Subset, is_anomalous: bool) -> list[str]:
        """The normal or the anomalous videos of a subset."""
        return [
            one.video
            for one in self.placed
            if one.subset == subset and one.annotation.is_anomalous == is_anomalous
        ]


def _ucf_actions(number: int) -> PublishedDataset:
    return PublishedDataset(
        f"UCF-Crime, action recognition, split {number}",
        "https://www.crcv.ucf.edu/projects/real-world/",
        (
            Subset("train", 38, 494, (f"train_{number:03}.txt",)),
            Subset("test", 12, 156, (f"test_{number:03}.txt",)),
        ),
        metric="maa",
    )


def _ucsd(number: int, num_train: int, num_test: int) -> PublishedDataset:
    truths = (f"UCSDped{number}.m", f"ped{number}*.mat", "test_intervals.txt")
    return PublishedDataset(
        f"UCSD Ped{number}",
        "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm",
        (Subset("train", num_train, 0), Subset("test", 0, num_test, truths=truths)),
        is_numbered=True,
    )


DATASETS: dict[str, PublishedDataset] = {
    # Sultani et al., CVPR 2018
    "ucf_crime": PublishedDataset(
        "UCF-Crime",
        "https://www.crcv.ucf.edu/projects/real-world/",
        (
            Subset("train", 800, 810, ("Anomaly_Train.txt",)),
            Subset("test", 150, 140, ("Anomaly_Test.txt",), ("Temporal_Anomaly_Annotation*.txt",)),
        ),
    ),
    **{f"ucf_crime_actions_{number}": _ucf_actions(number) for number in range(1, 5)},
    # The split for weak labels: Zhong et al., CVPR 2019
    "shanghaitech": PublishedDataset(
        "ShanghaiTech Campus, weakly supervised",
        "https://github.com/jx-zhong-for-academic-purpose/GCN-Anomaly-Detection",
        (
            Subset("train", 175, 63, ("SH_Train.txt",)),
            Subset("test", 155, 44, ("SH_Test.txt",), ("test_frame_mask",)),
        ),
    ),
    # Lu et al., ICCV 2013
    "avenue": PublishedDataset(
        "CUHK Avenue",
        "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html",
        (
            Subset("train", 16, 0),
            Subset("test", 0, 21, truths=("testing_label_mask", "avenue*.npz")),
        ),
        is_numbered=True,
    ),
    # Mahadevan et al., CVPR 2010
    "ucsd_ped1": _ucsd(1, 34, 36),
    "ucsd_ped2": _ucsd(2, 16, 12),
    # Wu et al., ECCV 2020
    "xd_violence": PublishedDataset(
        "XD-Violence",
        "https://roc-ng.github.io/XD-Violence/",
        (Subset("test", 300, 500, truths=("annotations.txt",)), Subset("train", 2049, 1905)),
        metric="frame_pr_auc",
    ),
    # Acsintoae et al., CVPR 2022
    "ubnormal": PublishedDataset(
        "UBnormal",
        "https://github.com/lilygeorgescu/UBnormal",
        tuple(
            Subset(
                name,
                num_normal,
                num_anomalous,
                (f"normal_{word}_video_names.txt", f"abnormal_{word}_video_names.txt"),
                ("*_tracks.txt",),
            )
            for name, word, num_normal, num_anomalous in (
                ("train", "training", 186, 82),
                ("validation", "validation", 26, 38),
                ("test", "test", 53, 158),
            )
        ),
    ),
}


def find_dataset(name: str) -> PublishedDataset:
    """The dataset with this name.

    Raises:
        UserError: the name is unknown; lists the known ones.
    """
    if name not in DATASETS:
        raise UserError(f"no dataset {name!r}: use one of {', '.join(DATASETS)}")
    return DATASETS[name]


def place_videos(
    dataset: PublishedDataset, videos: Iterable[str], files: Mapping[str, Sequence[Path]]
) -> Placement:
    """Find the subset and the annotation of each video.

    Args:
        dataset: the dataset and its split.
        videos: names as `vigil extract` stores them.
        files: pattern of the dataset -> the annotation files found.

    Raises:
        AnnotationError: a file cannot be used, several videos match one name, or lists name all
            videos and none matches.
    """
    place = _place_numbered if dataset.is_numbered else _place_named
    return place(dataset.subsets, sorted(videos), files)


def _place_named(
    subsets: Sequence[Subset], videos: Sequence[str], files: Mapping[str, Sequence[Path]]
) -> Placement:
    lists = {
        str(path): subset for subset in subsets for name in subset.lists for path in files[name]
    }
    truths = {path for subset in subsets for name in subset.truths for path in files[name]}
    # The lists come first, so that they stay the source of annotations to which truth is added.
    annotations = load_annotations([*map(Path, lists), *sorted(truths)])
    unlisted = [subset for subset in subsets if not subset.lists]
    owners = {
        one.source: lists.get(one.source.rpartition(":")[0], next(iter(unlisted), None))
        for one in annotations
    }
    try:
        matching = match_videos(annotations, videos)
    except NoMatchError:
        if annotations and not unlisted:
            raise
        matching = Matching({}, tuple(one.video for one in annotations), tuple(videos))
    placement = Placement(extra=[] if unlisted else list(matching.extra))
    for video, annotation in matching.annotations.items():
        if subset := owners[annotation.source]:
            placement.placed.append(PlacedVideo(video, subset, annotation))
    for annotation in annotations:
        if annotation.video in matching.missing and (subset := owners[annotation.source]):
            placement.missing.append((subset, annotation.video))
    for video in matching.extra if unlisted else ():
        subset = _subset_by_folder(unlisted, video) or unlisted[-1]
        if classes := classes_in_name(video):
            intervals = () if classes == (NORMAL,) else None
            annotation = Annotation(video, classes[0], intervals, video, classes[1:])
            placement.placed.append(PlacedVideo(video, subset, annotation))
        else:
            placement.unlabelled.append((subset, video))
    return placement


def _place_numbered(
    subsets: Sequence[Subset], videos: Sequence[str], files: Mapping[str, Sequence[Path]]
) -> Placement:
    placement = Placement()
    found: dict[tuple[str, int | None], str] = {}
    # Archives contain some videos twice, the copies in deeper folders.
    for video in sorted(videos, key=lambda video: (video.count("/"), video)):
        subset, number = _subset_by_folder(subsets, video), _number(video)
        if subset is None or number is None or (subset.name, number) in found:
            placement.extra.append(video)
        else:
            found[subset.name, number] = video
    for subset in subsets:
        paths = [path for pattern in subset.truths for path in files[pattern]]
        truth = {_number(one.video): one for one in load_annotations(paths)}
        default = (
            Annotation("", ANOMALY, None) if subset.num_anomalous else Annotation("", NORMAL, ())
        )
        for number in range(1, subset.num_normal + subset.num_anomalous + 1):
            if name := found.get((subset.name, number)):
                annotation = replace(truth.get(number, default), video=name)
                placement.placed.append(PlacedVideo(name, subset, annotation))
            else:
                placement.missing.append((subset, f"{number:02}"))
    return placement


def _subset_by_folder(subsets: Iterable[Subset], video: str) -> Subset | None:
    """The subset whose name starts that of a folder (train, testing_videos, ...), inner first."""
    for folder in reversed(PurePosixPath(video).parent.parts):
        for subset in subsets:
            if folder.lower().startswith(subset.name):
                return subset
    return None


def _number(video: str) -> int | None:
    match = re.search(r"(\d{1,9})$", PurePosixPath(video).stem)
    return int(match[1]) if match else None

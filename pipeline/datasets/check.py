"""`vigil dataset`: check that a dataset is complete before spending a day on it."""

import logging
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from vigil.data.published_datasets import (
    DATASETS,
    Placement,
    PublishedDataset,
    find_dataset,
    place_videos,
)
from vigil.extract.decode.frame_counts import count_frames
from vigil.extract.decode.videos import FoundVideos, find_videos
from vigil.extract.errors import UserError
from vigil.extract.sealed import FeatureFileError
from vigil.extract.source import SourceVideo
from vigil.extract.store import list_features, read_identity
from vigil.pipeline.datasets.problems import (
    Checked,
    check_annotations,
    check_files,
    check_placement,
    describe,
)
from vigil.pipeline.logs import print_lines, print_table
from vigil.pipeline.options import DatasetCheckOptions, DatasetListOptions
from vigil.pipeline.text_files import write_csv

HEADER = ("part", "videos", "published", "found", "missing", "without frames", "wrong", "frames")
PROBLEMS_NAME = "problems.csv"
INCOMPLETE = 3
"""Exit code if a dataset has problems."""

log = logging.getLogger(__name__)


def run_list_datasets(_options: DatasetListOptions) -> int:
    """Print the known datasets with their subsets and metrics."""
    rows = (
        (
            name,
            dataset.title,
            ", ".join(f"{p.name} {p.num_normal}+{p.num_anomalous}" for p in dataset.subsets),
            dataset.metric,
            dataset.home,
        )
        for name, dataset in DATASETS.items()
    )
    print_table(("name", "dataset", "normal+anomalous videos", "metric", "home"), rows)
    return 0


def run_check(options: DatasetCheckOptions) -> int:
    """Print a table and the problems found, and write our label files if requested.

    Returns:
        The exit code: 0, or 3 if there is a problem.

    Raises:
        UserError: the dataset is unknown, has no videos, or its annotations cannot be used.
    """
    dataset = find_dataset(options.name)
    if options.features:
        found = _find_features(options.root)
    else:
        found = find_videos(
            [str(options.root)], options.extensions, options.follow_links, picture_fps=25.0
        )
    files = annotation_files(dataset, options.root, options.annotations)
    videos = {video.name: video for video in found.videos}
    placement = place_videos(dataset, videos, files)
    checked = Checked()
    check_annotations(dataset, files, placement, checked)
    check_placement(dataset, placement, checked)
    placed = [videos[one.video] for one in placement.placed]
    counts = _stored_frames(placed) if options.features else count_frames(placed)
    check_files(found, counts, placement, checked)
    print(f"dataset {dataset.title}")
    print_table(HEADER, _rows(dataset, placement, checked))
    if placement.extra:
        print_lines([f"in no part {len(placement.extra)}: {', '.join(placement.extra[:3])}"])
    print_lines(describe(checked.problems))
    print(f"problems {len(checked.problems)}")
    if options.write is not None:
        _write(options.write, placement, checked)
    return INCOMPLETE if checked.problems else 0


def annotation_files(
    dataset: PublishedDataset, root: Path, given: Sequence[Path]
) -> dict[str, list[Path]]:
    """Pattern of the dataset -> the annotation files and folders whose names match it.

    Given paths take precedence over those below the folder.

    Raises:
        UserError: a given path does not exist or matches no pattern.
    """
    patterns = [name for subset in dataset.subsets for name in (*subset.lists, *subset.truths)]
    for path in given:
        if not path.exists():
            raise UserError(f"{path} does not exist: check --annotations")
        if not any(fnmatch(path.name.lower(), pattern.lower()) for pattern in patterns):
            raise UserError(
                f"{path.name} is not an annotation file of {dataset.title}: those are "
                f"{', '.join(dict.fromkeys(patterns)) or 'none'}; rename it if it is one of them"
            )
    below = [
        Path(parent, name)
        for parent, folders, names in os.walk(root)
        for name in sorted([*folders, *names])
        if not name.startswith(".")
    ]
    files = {}
    for pattern in patterns:
        for paths in (given, below):
            files[pattern] = [p for p in paths if fnmatch(p.name.lower(), pattern.lower())]
            if files[pattern]:
                break
    return files


def _find_features(root: Path) -> FoundVideos:
    """The videos that have features in a folder."""
    files = list_features(root).items()
    return FoundVideos(tuple(SourceVideo(path, video) for video, path in files), 0)


def _stored_frames(videos: Sequence[SourceVideo]) -> Iterator[tuple[SourceVideo, int | str]]:
    """Yield each video with its number of frames from its features, or why they are unreadable."""
    for video in videos:
        try:
            yield video, read_identity(video.path).num_frames_decoded
        except FeatureFileError as error:
            yield video, str(error)


def _rows(
    dataset: PublishedDataset, placement: Placement, checked: Checked
) -> Iterator[tuple[str, ...]]:
    wrong, without_truth = checked.videos("length", "unreadable"), checked.videos("truth")
    for subset in dataset.subsets:
        for is_anomalous, published in ((False, subset.num_normal), (True, subset.num_anomalous)):
            found = placement.videos(subset, is_anomalous)
            if not (published or found):
                continue
            num_missing = max(published - len(found), 0)
            yield (
                subset.name,
                "anomalous" if is_anomalous else "normal",
                str(published),
                str(len(found)),
                str(num_missing),
                str(len(without_truth.intersection(found))),
                str(len(wrong.intersection(found))),
                str(sum(checked.num_frames.get(video, 0) for video in found)),
            )


def _write(folder: Path, placement: Placement, checked: Checked) -> None:
    """Write the labels of each subset as our CSV, and all problems."""
    by_subset: dict[str, list[list[object]]] = {}
    for one in sorted(placement.placed, key=lambda one: one.video):
        annotation = one.annotation
        frames = [n for i in annotation.intervals or () for n in (i.start, i.stop)]
        row = [one.video, "+".join(annotation.class_names), *frames]
        by_subset.setdefault(one.subset.name, []).append(row)
    for name, rows in by_subset.items():
        write_csv(folder / f"{name}.csv", "video class start_frame end_frame", rows)
    problems = [[p.kind, p.subset, p.video, p.what] for p in checked.problems]
    write_csv(folder / PROBLEMS_NAME, "problem part video what", problems)
    log.info("wrote the label files of each part to %s", folder)

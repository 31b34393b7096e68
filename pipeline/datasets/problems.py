"""The problems that a dataset can have, and how to solve them.

Each problem has a kind, and each kind a remedy.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vigil.data.annotations import Annotation
from vigil.data.published_datasets import Placement, PublishedDataset
from vigil.extract.decode.videos import FoundVideos
from vigil.extract.source import SourceVideo
from vigil.pipeline.scores.frame_warnings import MAX_FRAME_MISMATCH

MAX_SHOWN = 8
"""Problems of a kind that are printed; --write writes all of them."""

REMEDIES = {
    "annotations": "name them with --annotations, or put them below the folder",
    "count": "compare your archives with those on the dataset's home page",
    "missing": "unpack the archives again, or name the folder above all videos",
    "unlabelled": "give these videos the names that they have in the archives",
    "length": "unpack these again, because their frames do not match the truth",
    "unreadable": "unpack or download these again",
    "truth": "use these for training only, or annotate their anomalous frames",
}


@dataclass(frozen=True)
class Problem:
    """One problem of a dataset."""

    kind: str
    subset: str
    video: str
    what: str


@dataclass
class Checked:
    """The results of a check."""

    problems: list[Problem] = field(default_factory=list)
    num_frames: dict[str, int] = field(default_factory=dict)
    """Video -> its number of frames."""

    def add(self, kind: str, subset: str, video: str, what: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(kind, subset, video, what))

    def videos(self, *kinds: str) -> set[str]:
        """The videos with problems of these kinds."""
        return {problem.video for problem in self.problems if problem.kind in kinds}


def check_annotations(
    dataset: PublishedDataset,
    files: Mapping[str, Sequence[Path]],
    placement: Placement,
    checked: Checked,
) -> None:
    """Add missing annotation files, and videos whose label is not known."""
    for subset in dataset.subsets:
        absent = [pattern for pattern in subset.lists if not files[pattern]]
        if subset.truths and not any(files[pattern] for pattern in subset.truths):
            absent.append(" or ".join(subset.truths))
        for pattern in absent:
            checked.add("annotations", subset.name, "", f"no {pattern} (from {dataset.home})")
    for subset, video in placement.unlabelled:
        checked.add("unlabelled", subset.name, video, "no annotation states whether it is normal")


def check_placement(dataset: PublishedDataset, placement: Placement, checked: Checked) -> None:
    """Add missing videos, and anomalous videos whose anomalous frames are not annotated."""
    for subset, name in placement.missing:
        checked.add("missing", subset.name, name, "no such video")
    for one in placement.placed:
        annotation = one.annotation
        if one.subset.truths and annotation.is_anomalous and annotation.intervals is None:
            checked.add(
                "truth", one.subset.name, one.video, "its anomalous frames are not annotated"
            )
    for subset in dataset.subsets:
        num_found = [len(placement.videos(subset, is_anomalous)) for is_anomalous in (False, True)]
        num_missing = sum(owner == subset for owner, _ in placement.missing)
        published = subset.num_normal, subset.num_anomalous
        if num_missing and sum(num_found) + num_missing == sum(published):
            continue  # every missing video is already listed
        for kind, found, total in zip(("normal", "anomalous"), num_found, published, strict=True):
            if found != total:
                checked.add("count", subset.name, "", f"{found} of {total} {kind} videos")


def check_files(
    found: FoundVideos,
    counts: Iterable[tuple[SourceVideo, int | str]],
    placement: Placement,
    checked: Checked,
) -> None:
    """Note each video's length, and add unreadable files and lengths that contradict the truth.

    Args:
        found: the files.
        counts: each video with its number of frames, or why these cannot be counted.
        placement: of the videos that are counted.
        checked: receives the results.
    """
    for failed in found.failures:
        checked.add("unreadable", "", failed.video, failed.reason)
    placed = {one.video: one for one in placement.placed}
    for source, count in counts:
        one = placed[source.name]
        if isinstance(count, str):
            checked.add("unreadable", one.subset.name, one.video, count)
            continue
        checked.num_frames[one.video] = count
        if what := _wrong_length(one.annotation, count, source.path.is_dir()):
            checked.add("length", one.subset.name, one.video, what)


def _wrong_length(annotation: Annotation, num_frames: int, is_folder: bool) -> str | None:
    """How annotation and frames differ; a few frames are allowed in containers, none in folders."""
    allowed = 0 if is_folder else MAX_FRAME_MISMATCH
    annotated, needed = annotation.num_frames, annotation.num_frames_needed
    if annotated is not None and abs(annotated - num_frames) > allowed:
        return f"annotated with {annotated} frames, has {num_frames}"
    if needed > num_frames + allowed:
        return f"annotated up to frame {needed}, has {num_frames}"
    return None


def describe(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield lines about the problems: the first ones of each kind, then the remedy."""
    for kind, remedy in REMEDIES.items():
        of_kind = [problem for problem in problems if problem.kind == kind]
        for problem in of_kind[:MAX_SHOWN]:
            where = " ".join(filter(None, (problem.subset, problem.video)))
            yield f"{kind} {where}: {problem.what}"
        if len(of_kind) > MAX_SHOWN:
            yield f"{kind} and {len(of_kind) - MAX_SHOWN} more"
        if of_kind:
            yield f"  -> {remedy}"

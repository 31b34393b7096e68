"""What is not as it should be in a dataset, and what to do about it.

A problem has a kind, and each kind a remedy.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.annotations import Annotation
from data.published import Placement, PublishedDataset
from extract.source import SourceVideo
from pipeline.damage import MAX_FRAME_MISMATCH
from pipeline.videos import FoundVideos

MAX_SHOWN = 8
"""Problems of a kind that are printed; --write has them all."""

REMEDIES = {
    "annotations": "name them with --annotations, or put them below the folder",
    "count": "compare the archives you have with those of the dataset's home",
    "missing": "unpack the archives again, or name the folder above all videos",
    "unlabelled": "give these videos the names that they have in the archives",
    "length": "unpack these again; frames and truth would not be of one time",
    "unreadable": "unpack or download these again",
    "truth": "without frames these can be trained on, but not evaluated",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be."""

    kind: str
    part: str
    video: str
    what: str


@dataclass
class Checked:
    """What a check found."""

    problems: list[Problem] = field(default_factory=list)
    num_frames: dict[str, int] = field(default_factory=dict)
    """Video -> frames that it promises."""

    def add(self, kind: str, part: str, video: str, what: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, part, video, what))

    def videos(self, *kinds: str) -> set[str]:
        """The videos with such problems."""
        return {problem.video for problem in self.problems if problem.kind in kinds}


def check_annotations(
    dataset: PublishedDataset,
    files: Mapping[str, Sequence[Path]],
    placement: Placement,
    checked: Checked,
) -> None:
    """Note the annotation files that are missing, and the videos of which nothing says a label."""
    for part in dataset.parts:
        wanted = [pattern for pattern in part.lists if not files[pattern]]
        if part.truths and not any(files[pattern] for pattern in part.truths):
            wanted.append(" or ".join(part.truths))
        for pattern in wanted:
            checked.add("annotations", part.name, "", f"no {pattern} (from {dataset.home})")
    for part, video in placement.unlabelled:
        checked.add("unlabelled", part.name, video, "nothing says whether it is normal")


def check_placement(dataset: PublishedDataset, placement: Placement, checked: Checked) -> None:
    """Note the videos that are missing, and those whose anomalous frames are not annotated."""
    for part, name in placement.missing:
        checked.add("missing", part.name, name, "no such video")
    for one in placement.placed:
        annotation = one.annotation
        if one.part.truths and annotation.is_anomalous and annotation.intervals is None:
            checked.add("truth", one.part.name, one.video, "its anomalous frames are not annotated")
    for part in dataset.parts:
        num_found = [len(placement.videos(part, is_anomalous)) for is_anomalous in (False, True)]
        num_missing = sum(owner == part for owner, _ in placement.missing)
        published = part.num_normal, part.num_anomalous
        if num_missing and sum(num_found) + num_missing == sum(published):
            continue  # all that is missing has been named
        for kind, found, wanted in zip(("normal", "anomalous"), num_found, published, strict=True):
            if found != wanted:
                checked.add("count", part.name, "", f"{found} of {wanted} {kind} videos")


def check_files(
    found: FoundVideos,
    counts: Iterable[tuple[SourceVideo, int | str]],
    placement: Placement,
    checked: Checked,
) -> None:
    """Note the frames of each video, what cannot be read, and what has not the length of its truth.

    Args:
        found: the files.
        counts: each video with its frames, or why these cannot be counted.
        placement: of the videos that are counted.
        checked: what is added to.
    """
    for failed in found.failures:
        checked.add("unreadable", "", failed.video, failed.reason)
    placed = {one.video: one for one in placement.placed}
    for source, count in counts:
        one = placed[source.name]
        if isinstance(count, str):
            checked.add("unreadable", one.part.name, one.video, count)
            continue
        checked.num_frames[one.video] = count
        if what := _wrong_length(one.annotation, count, source.path.is_dir()):
            checked.add("length", one.part.name, one.video, what)


def _wrong_length(annotation: Annotation, num_frames: int, is_folder: bool) -> str | None:
    """How truth and frames differ; containers may be off by a little, folders may not."""
    allowed = 0 if is_folder else MAX_FRAME_MISMATCH
    told, needed = annotation.num_frames, annotation.num_frames_needed
    if told is not None and abs(told - num_frames) > allowed:
        return f"annotated with {told} frames, has {num_frames}"
    if needed > num_frames + allowed:
        return f"annotated up to frame {needed}, has {num_frames}"
    return None


def describe(problems: Sequence[Problem]) -> Iterator[str]:
    """Lines about the problems: of each kind the first ones, then what to do."""
    for kind, remedy in REMEDIES.items():
        of_kind = [problem for problem in problems if problem.kind == kind]
        for problem in of_kind[:MAX_SHOWN]:
            where = " ".join(filter(None, (problem.part, problem.video)))
            yield f"{kind} {where}: {problem.what}"
        if len(of_kind) > MAX_SHOWN:
            yield f"{kind} and {len(of_kind) - MAX_SHOWN} more"
        if of_kind:
            yield f"  -> {remedy}"

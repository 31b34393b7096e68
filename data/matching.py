"""Which annotation belongs to which video."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile
from pathlib import PurePosixPath

from vigil.data.annotation_rows import AnnotationError
from vigil.data.annotations import Annotation, merge
from vigil.data.classes import ANOMALY, NORMAL, canonical_class
from vigil.extract.errors import counted


class NoMatchError(AnnotationError):
    """No annotation belongs to any of the videos."""


@dataclass(frozen=True)
class Matching:
    """Which annotation belongs to which video, and what is left over."""

    annotations: dict[str, Annotation]
    """Video -> its annotation, renamed to that video; sorted."""
    missing: tuple[str, ...]
    """Annotated, but there is no such video."""
    extra: tuple[str, ...]
    """There is such a video, but no annotation."""

    @property
    def problems(self) -> list[str]:
        """A sentence for each kind of video that is left out, with the first names."""
        kinds = (
            ("annotated, but without features", self.missing),
            ("with features, but without annotation", self.extra),
        )
        return [
            f"left out: {counted(len(names), 'video')} {kind}: {_some(names, 3)}"
            for kind, names in kinds
            if names
        ]


def match_videos(annotations: Iterable[Annotation], videos: Iterable[str]) -> Matching:
    """Which annotation belongs to which video: by relative path, else by unique base name.

    Base names agree with or without extension. Of several videos with one base name, those that
    share most of the annotation's last folders count; a video in the folder of another class
    never fits. An annotation without folder adds to one with the video's path, and of several
    videos that it fits it means the one that another annotation names by path.

    Raises:
        NoMatchError: nothing fits at all.
        AnnotationError: several videos fit one annotation, or contradictory annotations fit one
            video.
    """
    annotations, videos = list(annotations), sorted(set(videos))
    claims, missing = _claims(annotations, videos)
    matched: dict[str, Annotation] = {}
    for video in sorted(claims):
        closest = _closest(video, [claim.video for claim in claims[video]])
        accepted = [c for c in claims[video] if c.video in closest or "/" not in c.video]
        matched[video] = replace(reduce(merge, accepted), video=video)
        missing += [claim.video for claim in claims[video] if claim not in accepted]
    if not matched:
        raise NoMatchError(
            f"none of the annotated videos ({_some(missing)}) is among the videos given "
            f"({_some(videos)}): names agree by relative path or by base name; check that these "
            "annotations belong to these videos"
        )
    extra = tuple(video for video in videos if video not in matched)
    return Matching(matched, tuple(sorted(missing)), extra)


def _claims(
    annotations: Sequence[Annotation], videos: Sequence[str]
) -> tuple[dict[str, list[Annotation]], list[str]]:
    """Video -> the annotations that fit it, and the names of those that fit none."""
    by_name = _by_name(videos)
    classes = {annotation.class_name for annotation in annotations} | {NORMAL}
    claims: dict[str, list[Annotation]] = defaultdict(list)
    missing: list[str] = []
    undecided: list[tuple[Annotation, list[str]]] = []
    for annotation in annotations:
        names = [name for name in _names(annotation.video) if name in by_name]
        fitting = [
            video
            for video in (by_name[names[0]] if names else [])
            if video == annotation.video
            or _folder_class(video) not in _other_classes(annotation, classes)
        ]
        closest = _closest(annotation.video, fitting)
        if len(closest) > 1:
            undecided.append((annotation, closest))
        elif closest:
            claims[closest[0]].append(annotation)
        else:
            missing.append(annotation.video)
    by_path = {v for v, claiming in claims.items() if any("/" in c.video for c in claiming)}
    ambiguous = []
    for annotation, closest in undecided:
        named = [video for video in closest if video in by_path]
        if len(named) == 1 and "/" not in annotation.video:
            claims[named[0]].append(annotation)
        else:
            ambiguous.append(f"{annotation.video} fits {_some(closest)}")
    if ambiguous:
        raise AnnotationError(
            f"several videos fit one annotation: {_some(ambiguous)}: annotate them by their "
            "paths, here or in another file, or remove the duplicates"
        )
    return claims, missing


def _by_name(videos: Iterable[str]) -> dict[str, list[str]]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for video in videos:
        for name in set(_names(video)):
            by_name[name].append(video)
    return by_name


def _names(video: str) -> tuple[str, str, str]:
    """The path, the base name, and that without its extension."""
    path = PurePosixPath(video)
    # What is longer is no extension: XD-Violence's names begin like City.of.God.2002__#01-24-10.
    return video, path.name, path.stem if len(path.suffix) <= 5 else path.name


def _other_classes(annotation: Annotation, classes: set[str]) -> set[str]:
    """Those of the classes that an annotated video cannot have; Anomaly may be any but normal."""
    if annotation.class_name == ANOMALY:
        return {NORMAL}
    own = {ANOMALY} if annotation.is_anomalous else set()
    return classes - own - {annotation.class_name}


def _folder_class(video: str) -> str:
    return canonical_class(PurePosixPath(video).parent.name)


def _closest(path: str, others: Sequence[str]) -> list[str]:
    """Those of the other paths that share most last folders with this one; all of the best."""
    shared = [_num_shared_folders(path, other) for other in others]
    return [other for other, number in zip(others, shared, strict=True) if number == max(shared)]


def _num_shared_folders(left: str, right: str) -> float:
    if left == right:
        return math.inf
    folders = zip(
        reversed(PurePosixPath(left).parent.parts),
        reversed(PurePosixPath(right).parent.parts),
        strict=False,
    )
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], folders))


def _some(names: Sequence[str], limit: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

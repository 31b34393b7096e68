"""The matching of annotations and videos by name."""

import math
import sys
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
from vigil.extract.source import composed


class NoMatchError(AnnotationError):
    """No annotation belongs to any of the videos."""


@dataclass(frozen=True)
class Matching:
    """Which annotation belongs to which video, and what remains unmatched."""

    annotations: dict[str, Annotation]
    """Video -> its annotation, renamed to that video; sorted."""
    missing: tuple[str, ...]
    """Annotated names without a video."""
    extra: tuple[str, ...]
    """Videos without an annotation."""

    @property
    def problems(self) -> list[str]:
        """A message for each kind of skipped video, with the first few names."""
        kinds = (
            ("with an annotation but without features", self.missing),
            ("with features but without an annotation", self.extra),
        )
        return [
            f"skipped {counted(len(names), 'video')} {kind}: {_some(names, 3)}"
            for kind, names in kinds
            if names
        ]


def match_videos(annotations: Iterable[Annotation], videos: Iterable[str]) -> Matching:
    """Match annotations to videos by relative path, or else by unique base name.

    Names are compared in Unicode's normal form NFC; videos keep theirs.
    Base names match with or without extension. If several videos have the same base name, the ones
    that share the most trailing folders with the annotation are chosen; a video in the folder of
    another class never matches. An annotation without a folder is merged with one that has the
    video's path, and if it matches several videos, the one that another annotation names by path is
    chosen.

    Raises:
        NoMatchError: no annotation matches any video.
        AnnotationError: several videos match one annotation, or contradictory annotations match
            one video.
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
            f"none of the annotated videos ({_some(missing)}) is among the given videos "
            f"({_some(videos)}): names are matched by relative path or by base name; check that "
            "these annotations belong to these videos"
        )
    extra = tuple(video for video in videos if video not in matched)
    return Matching(matched, tuple(sorted(missing)), extra)


def _claims(
    annotations: Sequence[Annotation], videos: Sequence[str]
) -> tuple[dict[str, list[Annotation]], list[str]]:
    """Video -> the annotations that match it, and the names of those that match no video."""
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
            if composed(video) == composed(annotation.video)
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
            ambiguous.append(f"{annotation.video} matches {_some(closest)}")
    if ambiguous:
        raise AnnotationError(
            f"several videos match one annotation ({_some(ambiguous)}): annotate them by their "
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
    """The path, the base name, and the base name without its extension, all composed."""
    video = composed(video)
    path = PurePosixPath(video)
    # A longer suffix is not an extension: XD-Violence has names like City.of.God.2002__#01-24-10.
    return video, path.name, path.stem if len(path.suffix) <= 5 else path.name


def _other_classes(annotation: Annotation, classes: set[str]) -> set[str]:
    """The classes that an annotated video cannot have; Anomaly excludes only normal."""
    if annotation.class_name == ANOMALY:
        return {NORMAL}
    own = {ANOMALY} if annotation.is_anomalous else set()
    return classes - own - {annotation.class_name}


def _folder_class(video: str) -> str:
    return canonical_class(PurePosixPath(video).parent.name)


def _closest(path: str, others: Sequence[str]) -> list[str]:
    """The other paths that share the most trailing folders with this one, several if they tie."""
    shared = [_num_shared_folders(path, other) for other in others]
    return [other for other, number in zip(others, shared, strict=True) if number == max(shared)]


def _num_shared_folders(left: str, right: str) -> float:
    if left == right:
        return math.inf
    left, right = composed(left), composed(right)
    if left == right:
        return sys.maxsize  # a name that is the same to the byte comes first
    folders = zip(
        reversed(PurePosixPath(left).parent.parts),
        reversed(PurePosixPath(right).parent.parts),
        strict=False,
    )
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], folders))


def _some(names: Sequence[str], limit: int = 4) -> str:
    """The first names, and the number of further ones."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

"""Splits of annotated videos: the validation hold-out, and folds."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from vigil.data.annotations import Annotation
from vigil.extract.errors import UserError


@dataclass(frozen=True)
class Split:
    """Two disjoint parts of the videos, each sorted by name."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def hold_out(annotations: Iterable[Annotation], fraction: float, seed: int) -> Split:
    """Split the videos, with the given share of each class held out for validation.

    A class with two or more videos is in both parts; a single video stays in train. A video's part
    depends only on its name, the seed and the other videos of its class, so the order of the list
    does not matter, and videos added later hardly do.

    Raises:
        UserError: the fraction is not between 0 and 1, or a video is annotated twice.
    """
    if not 0 < fraction < 1:
        raise UserError(f"validation fraction {fraction} must lie between 0 and 1: 0.1 is usual")
    all_videos: set[str] = set()
    validation: set[str] = set()
    for members in _ranked_by_class(annotations, seed):
        number = min(max(round(fraction * len(members)), 1), len(members) - 1)
        all_videos.update(members)
        validation.update(members[:number])
    return Split(train=tuple(sorted(all_videos - validation)), validation=tuple(sorted(validation)))


def deal_folds(
    annotations: Iterable[Annotation], number: int, seed: int
) -> tuple[tuple[str, ...], ...]:
    """Divide the videos into disjoint folds, each with its share of every class, sorted by name.

    The only video of a class is in no fold, so that a model trained without a fold still sees every
    class. With few videos there are fewer folds; none is empty.

    Raises:
        UserError: fewer than two folds are requested, or a video is annotated twice.
    """
    if number < 2:
        raise UserError(f"{number} validation folds are not allowed: it must be at least 2")
    folds: list[list[str]] = [[] for _ in range(number)]
    dealt = 0  # each class continues where the last one stopped, so small ones spread out
    for members in _ranked_by_class(annotations, seed):
        for video in members if len(members) > 1 else ():
            folds[dealt % number].append(video)
            dealt += 1
    return tuple(tuple(sorted(fold)) for fold in folds if fold)


def _ranked_by_class(annotations: Iterable[Annotation], seed: int) -> list[list[str]]:
    """The videos of each class, sorted by rank; the classes are sorted by name.

    Raises:
        UserError: a video is annotated twice.
    """
    by_class: dict[str, list[str]] = defaultdict(list)
    for annotation in annotations:
        by_class[annotation.class_name].append(annotation.video)
    counts = Counter(video for members in by_class.values() for video in members)
    if twice := sorted(video for video, count in counts.items() if count > 1):
        raise UserError(f"{', '.join(twice)} annotated more than once: keep one annotation of each")
    return [
        sorted(by_class[name], key=lambda video: _rank(seed, video)) for name in sorted(by_class)
    ]


def _rank(seed: int, video: str) -> str:
    """A pseudo-random rank that does not depend on the other videos."""
    return hashlib.sha256(f"{seed} {video}".encode(errors="surrogateescape")).hexdigest()

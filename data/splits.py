"""Splits of a list of annotated videos: the validation hold-out."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from data.annotations import Annotation
from extract.errors import UserError


@dataclass(frozen=True)
class Split:
    """Two disjoint parts of the videos, each sorted by name."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def hold_out(annotations: Iterable[Annotation], fraction: float, seed: int) -> Split:
    """The videos, with the given share of each class held out for validation.

    Whoever has two or more videos of a class has it in both parts; a single one stays in train.
    A video's place depends on its name, the seed and the other videos of its class only: not on
    the order of the list, and hardly on videos added later.

    Raises:
        UserError: the fraction is not between 0 and 1, or a video is named twice.
    """
    if not 0 < fraction < 1:
        raise UserError(f"validation fraction {fraction} must lie between 0 and 1: 0.1 is usual")
    by_class: dict[str, list[str]] = defaultdict(list)
    for annotation in annotations:
        by_class[annotation.class_name].append(annotation.video)
    counts = Counter(video for members in by_class.values() for video in members)
    if twice := sorted(video for video, count in counts.items() if count > 1):
        raise UserError(f"{', '.join(twice)} named more than once: leave one annotation of each")
    validation: set[str] = set()
    for members in by_class.values():
        number = min(max(round(fraction * len(members)), 1), len(members) - 1)
        validation.update(sorted(members, key=lambda video: _rank(seed, video))[:number])
    return Split(
        train=tuple(sorted(set(counts) - validation)), validation=tuple(sorted(validation))
    )


def _rank(seed: int, video: str) -> str:
    """A pseudo-random rank that no other video influences."""
    return hashlib.sha256(f"{seed} {video}".encode(errors="surrogateescape")).hexdigest()

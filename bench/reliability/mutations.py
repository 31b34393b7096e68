"""Mutations of bytes: the kinds of damage that files suffer, and that attackers try."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from random import Random

HEADER_BYTES = 4096
LOG_MAX_FLIPS = 6
MAX_BLOCKS = 32
MORE_SHARE = 0.3
WHOLE_SHARE = 0.5

Mutation = Callable[[bytes, bytes, Random], bytes]
"""(content, content of another file, random numbers) -> mutated content."""


def truncate(content: bytes, _other: bytes, random: Random) -> bytes:
    """Keep only the beginning."""
    return content[: random.randrange(len(content))]


def flip_header(content: bytes, _other: bytes, random: Random) -> bytes:
    """Flip bits of the first bytes, few or many."""
    return _flip(content, random, 0, min(HEADER_BYTES, len(content)))


def flip_end(content: bytes, _other: bytes, random: Random) -> bytes:
    """Flip bits of the last bytes, where containers keep tables, too."""
    return _flip(content, random, max(0, len(content) - HEADER_BYTES), len(content))


def flip_body(content: bytes, _other: bytes, random: Random) -> bytes:
    """Flip bits anywhere."""
    return _flip(content, random, 0, len(content))


def _flip(content: bytes, random: Random, start: int, stop: int) -> bytes:
    mutated = bytearray(content)
    for _ in range(2 ** random.randint(0, LOG_MAX_FLIPS)):
        mutated[random.randrange(start, stop)] ^= 1 << random.randrange(8)
    return bytes(mutated)


def splice(content: bytes, other: bytes, random: Random) -> bytes:
    """Join the beginning and the end of another file."""
    return content[: random.randrange(len(content))] + other[random.randrange(len(other)) :]


def zero(content: bytes, _other: bytes, random: Random) -> bytes:
    """Zero a stretch, as happens on a disk that loses power."""
    start, stop = _stretch(content, random)
    return content[:start] + bytes(stop - start) + content[stop:]


def reorder(content: bytes, _other: bytes, random: Random) -> bytes:
    """Shuffle blocks."""
    places = random.sample(range(1, len(content)), min(MAX_BLOCKS, len(content) - 1))
    blocks = [content[start:stop] for start, stop in pairwise([0, *sorted(places), len(content)])]
    random.shuffle(blocks)
    return b"".join(blocks)


def repeat_header(content: bytes, _other: bytes, random: Random) -> bytes:
    """Insert a copy of the first bytes anywhere."""
    place = random.randrange(len(content))
    return content[:place] + content[:HEADER_BYTES] + content[place:]


def repeat_stretch(content: bytes, _other: bytes, random: Random) -> bytes:
    """Repeat a stretch."""
    start, stop = _stretch(content, random)
    return content[:stop] + content[start:]


def extreme_number(content: bytes, _other: bytes, random: Random) -> bytes:
    """Set four or eight of the first or last bytes to -1 or to the largest signed number."""
    length = random.choice((4, 8))
    value = random.choice((b"\xff" * length, b"\x7f" + b"\xff" * (length - 1)))
    reach = max(1, min(HEADER_BYTES, len(content) - length))
    place = random.randrange(reach)
    if random.random() < 0.5:
        place = max(0, len(content) - length - place)
    return content[:place] + value + content[place + length :]


def _stretch(content: bytes, random: Random) -> tuple[int, int]:
    start, stop = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return start, stop


MUTATIONS: tuple[Mutation, ...] = (
    truncate,
    flip_header,
    flip_end,
    flip_body,
    splice,
    zero,
    reorder,
    repeat_header,
    repeat_stretch,
    extreme_number,
)


@dataclass(frozen=True)
class Mutant:
    """A damaged file."""

    kind: str
    """Its first mutation."""
    content: bytes


def mutate(content: bytes, other: bytes, number: int, random: Random) -> Mutant:
    """Damage a file that is not empty: number k gets mutation k, and often others."""
    first = MUTATIONS[number % len(MUTATIONS)]
    mutated = _anywhere(first, content, other, random)
    while mutated and random.random() < MORE_SHARE:
        mutated = _anywhere(random.choice(MUTATIONS), mutated, other, random)
    return Mutant(first.__name__, mutated)


def _anywhere(mutation: Mutation, content: bytes, other: bytes, random: Random) -> bytes:
    """Mutate all of a file, or a stretch of it without moving what follows.

    Without the latter most containers would lose their tables, and no decoder would see the damage.
    """
    start, stop = _stretch(content, random)
    if start == stop or random.random() < WHOLE_SHARE:
        return mutation(content, other, random)
    length = stop - start
    mutated = mutation(content[start:stop], other, random)[:length].ljust(length, b"\0")
    return content[:start] + mutated + content[stop:]

"""Which weights a word means: ``auto``, the name of published weights, or a path."""

import logging
from collections.abc import Sequence
from pathlib import Path

from vigil.extract.networks.download import (
    Progress,
    UnreachableWeightsError,
    WeightsError,
    WeightsSource,
    cached_weights,
    fetch_weights,
)

AUTO = "auto"

log = logging.getLogger(__name__)


def find_weights(
    text: str, sources: Sequence[WeightsSource], progress: Progress | None = None
) -> Path:
    """The path of the weights that a word means, fetched if necessary.

    Args:
        text: ``auto`` for the best weights within reach, a name among the sources, or a path. A
            word without a folder and an extension is a name, even if a file is called so; write
            ``./kinetics400`` for the file.
        sources: of the backbone, the best first.
        progress: called as a download advances.

    Raises:
        WeightsError: there are no weights of that name, or all their sources are out of reach.
    """
    named = named_sources(text, sources)
    return _reach(named, progress) if named else Path(text)


def named_sources(text: str, sources: Sequence[WeightsSource]) -> list[WeightsSource]:
    """The sources of the weights that a word means, the best first; none if it is a path.

    Raises:
        WeightsError: there are no weights of that name.
    """
    named = [source for source in sources if text in (AUTO, source.name)]
    if named or "/" in text or Path(text).suffix or Path(text).is_file():
        return named
    names = ", ".join(dict.fromkeys(source.name for source in sources))
    raise WeightsError(
        f"there are no weights {text!r}: use auto, random, one of {names}, or the path of a file"
    )


def is_random(weights: str) -> bool:
    """Whether a word means untrained weights."""
    return weights == "random" or weights.startswith("random:")


def require_file(path: Path) -> None:
    """Refuse a weights file that is none.

    Raises:
        WeightsError: it does not exist.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path} does not exist: give another file, or get the official weights with vigil "
            "weights fetch"
        )


def _reach(sources: Sequence[WeightsSource], progress: Progress | None) -> Path:
    """The file of the first source that is cached, else of the first that can be reached."""
    failures: list[tuple[WeightsSource, object]] = []
    # Cached weights come first, so that a run continues with those that an earlier one took.
    for source in cached_first(sources):
        try:
            path = fetch_weights(source, progress)
        except UnreachableWeightsError as error:
            failures += error.failures
            continue
        _report(source, path, sources, failures)
        return path
    raise UnreachableWeightsError(*failures)


def cached_first(sources: Sequence[WeightsSource]) -> list[WeightsSource]:
    """The sources in their order, but those in the cache before the others."""
    return sorted(sources, key=lambda source: not cached_weights(source).is_file())


def _report(
    taken: WeightsSource,
    path: Path,
    sources: Sequence[WeightsSource],
    failures: Sequence[tuple[WeightsSource, object]],
) -> None:
    """Log which weights were taken, and why no better ones."""
    better = [source.name for source in sources[: sources.index(taken)]]
    if taken.name in better or not better:
        log.info("weights %s: %s", taken.name, path)
    elif failures:
        reasons = "; ".join(str(reason) for _, reason in failures)
        log.warning(
            "weights %s: %s, because %s could not be downloaded (%s)",
            *(taken.name, path, ", ".join(better), reasons),
        )
    else:
        log.warning(
            "weights %s: %s, because they are in the cache and %s are not",
            *(taken.name, path, ", ".join(better)),
        )

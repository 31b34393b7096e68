"""Find the weights again that existing features were made with, by their digest."""

import logging
from itertools import product
from pathlib import Path

from vigil.extract.networks.backbones import Backbone
from vigil.extract.networks.choice import find_backbones, split_weights
from vigil.extract.networks.combinations import Network, joint_weights, load_networks
from vigil.extract.networks.download import (
    Progress,
    UnreachableWeightsError,
    WeightsError,
    WeightsSource,
)
from vigil.extract.networks.named_weights import AUTO, cached_first, is_random
from vigil.extract.networks.weights import Weights

log = logging.getLogger(__name__)


def load_same_networks(
    backbone: str, endpoint: str, used: Weights, weights: str | None, progress: Progress | None
) -> tuple[Network, ...]:
    """Build the networks of a combination with the weights that were used before.

    Args:
        backbone: names joined by plus signs.
        endpoint: of each network, joined by plus signs.
        used: the earlier weights.
        weights: where to find them; None or ``auto``: at their old paths, and in place of a file
            that no longer exists among the backbone's published weights.
        progress: called as a download advances.

    Raises:
        WeightsError: the weights cannot be obtained, or are others.
    """
    others: list[str] = []
    failures: list[tuple[WeightsSource, object]] = []
    for text in _candidates(backbone, used.name) if weights in (None, AUTO) else [weights]:
        try:
            networks = load_networks(backbone, endpoint, text, progress)
        except UnreachableWeightsError as error:
            failures += error.failures
            continue
        found = joint_weights(networks)
        if found.digest == used.digest:
            return networks
        others.append(found.name)
    if not others:
        raise UnreachableWeightsError(*failures)
    unreached = "".join(f"; {source.name} are out of reach" for source, _ in failures)
    raise WeightsError(
        f"weights {' and '.join(others)} are not those that the features were made with "
        f"({used.name}, digest {used.digest[:12]}{unreached}): give that file with --weights"
    )


def _candidates(backbone: str, used: str) -> list[str]:
    """All weights that can be those used, the likeliest first."""
    backbones = find_backbones(backbone)
    names = split_weights(used, len(backbones))
    choices = [_places(one, name) for one, name in zip(backbones, names, strict=True)]
    return [",".join(choice) for choice in product(*choices)]


def _places(backbone: Backbone, used: str) -> list[str]:
    """The weights used; if they are not a file that exists, the names of the published ones."""
    if is_random(used) or Path(used).is_file():
        return [used]
    sources = cached_first(backbone.sources)
    if used in (names := [source.name for source in sources]):
        return [used, *(name for name in names if name != used)]
    log.warning("weights file %s does not exist: looking for its weights elsewhere", used)
    sources.sort(key=lambda source: source.file_name != Path(used).name)
    return list(dict.fromkeys(source.name for source in sources))

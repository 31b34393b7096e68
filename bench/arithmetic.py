"""The arithmetic and memory traffic of I3D, layer by layer: `python -m bench.arithmetic`.

The layers run on meta tensors, so the counts are exact and take no time.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vigil.extract.networks.backbones import Backbone, find_backbone


@dataclass(frozen=True)
class Work:
    """The work of one layer for one clip-view."""

    layer: str
    flop: int
    """Multiplications and additions of its convolutions."""
    num_bytes: int
    """Read and written at 16 bits, if every operator reads its input and writes its output."""


def layers(backbone: Backbone, endpoint: str) -> list[Work]:
    """The work of each of the network's outermost layers, in order."""
    with torch.device("meta"):
        network, clip = backbone.build(endpoint).eval(), torch.empty(backbone.input_shape)
    moved: dict[str, int] = defaultdict(int)

    def count(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = [*inputs, output, *module.parameters()]
        moved[name.split(".")[0]] += 2 * sum(prod(value.shape) for value in values)

    for name, module in network.named_modules():
        is_folded_away = isinstance(module, nn.BatchNorm3d)
        if not is_folded_away and not list(module.children()):
            module.register_forward_hook(partial(count, name))
    with FlopCounterMode(display=False) as counter:
        network(clip)
    flop = {
        name.partition(".")[2]: sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
    }
    return [Work(name, flop.get(name, 0), moved[name]) for name, _ in network.named_children()]


def main() -> None:
    """Print I3D's layers: share of the arithmetic, and FLOP per byte moved."""
    backbone = find_backbone("i3d")
    works = layers(backbone, backbone.endpoint(None))
    total = sum(work.flop for work in works)
    print("| layer | GFLOP | share | MB | FLOP/byte |\n|---|---|---|---|---|")
    for work in [*works, Work("all", total, sum(work.num_bytes for work in works))]:
        print(
            f"| {work.layer} | {work.flop / 1e9:.1f} | {work.flop / total:.1%} "
            f"| {work.num_bytes / 1e6:.0f} | {work.flop / work.num_bytes:.0f} |"
        )


if __name__ == "__main__":
    main()

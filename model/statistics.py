"""Statistics of segments, and the differences of their densities in normal and anomalous bags.

Legend: N training bags, B bags of a batch, S segments, F features of a segment, P statistics of a
segment, G points of the grid of a density.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vigil.model.densities import (
    BLUR,
    GRID,
    GRID_LIMIT,
    GRID_SIZE,
    Candidate,
    Values,
    choose,
    describe,
    scale_of,
)
from vigil.model.detector import DensityPair, FitReport

KINDS = ("normal", "anomalous")

# One in this many bags of each kind is held out to choose among the families.
HOLD_OUT_EVERY = 4


class Choice(NamedTuple):
    """The chosen density of a statistic in one kind of bags, and all candidates."""

    kept: Candidate
    compared: list[Candidate]
    """The best first, as fitted without the held-out bags."""


class SegmentStatistics(nn.Module):
    """Statistics of each segment on the standard scale, to which densities are fitted.

    They are the segment's features along the principal directions of the training segments, which
    are hardly correlated, so that differences of log densities may be summed; the magnitude of the
    features; and their distance from those of the neighbours. Each direction points towards its
    longer tail, as the one-sided families require.
    """

    basis: Tensor
    centre: Tensor
    unit: Tensor

    def __init__(self, num_features: int, num_directions: int, num_neighbours: int) -> None:
        """Set everything to zero until `fit` is called or a checkpoint is loaded."""
        super().__init__()
        self.num_neighbours = num_neighbours
        num_directions = min(num_directions, num_features)
        self.names = [f"direction {number}" for number in range(1, num_directions + 1)]
        self.names += ["magnitude", "distance to neighbours"]
        self.register_buffer("basis", torch.zeros(num_features, num_directions))
        self.register_buffer("centre", torch.zeros(len(self.names)))
        self.register_buffer("unit", torch.zeros(len(self.names)))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Find directions and scales from bags (N, S, F)."""
        segments = features.flatten(0, 1)
        centred = segments - segments.mean(dim=0)
        num_found = min(self.basis.shape[1], *centred.shape)
        _, _, directions = torch.svd_lowrank(centred, num_found, niter=4)  # (F, found)
        skewness = (centred @ directions).pow(3).mean(dim=0)
        self.basis[:, :num_found] = torch.where(skewness < 0, -directions, directions)
        measured = _as_columns(self._measure(features))  # (P, N * S)
        scales = torch.tensor([scale_of(values) for values in measured])  # (P, 2)
        self.centre.copy_(scales[:, 0])
        self.unit.copy_(scales[:, 1])

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, F) float32 -> (B, S, P); 0 if a statistic was constant in training."""
        varies = self.unit > 0
        unit = torch.where(varies, self.unit, 1)
        return torch.where(varies, (self._measure(features) - self.centre) / unit, 0)

    def _measure(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            projections = features @ self.basis
        magnitude = features.norm(dim=-1, keepdim=True)
        distance = neighbour_distance(features, self.num_neighbours).unsqueeze(-1)
        return torch.cat([projections, magnitude, distance], dim=-1)


class DistributionDifference(nn.Module):
    """Log density of a statistic among anomalous segments minus that among normal ones.

    Differences of logarithms have no unit, so those of several statistics can be compared and
    summed. For independent statistics the sum is the most powerful test (Neyman and Pearson).
    """

    density: Tensor

    def __init__(self, num_statistics: int) -> None:
        """Make both densities constant until `fit` is called or a checkpoint is loaded."""
        super().__init__()
        self.register_buffer("density", torch.ones(len(KINDS), num_statistics, GRID_SIZE))

    @torch.no_grad()
    def fit(self, normal: Tensor, anomalous: Tensor) -> list[Mapping[str, Choice]]:
        """Choose and keep a density for each statistic of bags (N, S, P) of either kind.

        Returns:
            For each statistic, the choice by kind; empty if the statistic is constant.
        """
        seed = int(torch.randint(2**31, ()))
        varies = (normal != 0).any(dim=(0, 1)) | (anomalous != 0).any(dim=(0, 1))  # (P,)
        splits = [_split(bags) for bags in (normal, anomalous)]
        choices: list[Mapping[str, Choice]] = []
        for index, fits in enumerate(varies.tolist()):
            chosen = {}
            for kind, (fitting, held_out) in enumerate(splits if fits else ()):
                best, compared = choose(fitting[index], held_out[index], seed)
                self.density[kind, index] = torch.from_numpy(best.table)
                chosen[KINDS[kind]] = Choice(best, compared)
            choices.append(chosen)
        return choices

    def forward(self, statistics: Tensor) -> Tensor:
        """(B, S, P) -> (B, S, P); densities are interpolated linearly on their grid."""
        place = (statistics.asinh() / GRID_LIMIT + 1) * ((GRID_SIZE - 1) / 2)
        place = place.clamp(0, GRID_SIZE - 1)
        below = place.floor().clamp(max=GRID_SIZE - 2)
        columns = torch.arange(self.density.shape[1], device=statistics.device)
        index = below.long() + columns * GRID_SIZE  # (B, S, P)
        flat = self.density.flatten(1)  # (2, P * G)
        normal, anomalous = torch.lerp(flat[:, index], flat[:, index + 1], place - below)
        difference: Tensor = anomalous.log() - normal.log()
        return difference


def neighbour_distance(values: Tensor, num_neighbours: int) -> Tensor:
    """Distance (B, S) of the values (B, S, F) of a segment from those of nearby segments.

    It is the mean absolute difference over values and up to ``num_neighbours`` on either side.
    """
    num_segments = values.shape[1]
    total, count = values.new_zeros(values.shape[:2]), values.new_zeros(num_segments)
    for step in range(1, min(num_neighbours, num_segments - 1) + 1):
        apart = (values[:, step:] - values[:, :-step]).abs().mean(dim=-1)  # (B, S - step)
        before, after = (0, step), (step, 0)  # the earlier one of a pair, and the later
        for side in (before, after):
            total = total + nn.functional.pad(apart, side)
            count = count + nn.functional.pad(torch.ones_like(count[step:]), side)
    return total / count.clamp(min=1)


def report_of(
    statistics: SegmentStatistics,
    difference: DistributionDifference,
    choices: Sequence[Mapping[str, Choice]],
) -> FitReport:
    """Report the fit: every candidate of every statistic, and the chosen densities for plots."""
    entries: list[dict[str, Any]] = []
    pairs: list[DensityPair] = []
    densities = difference.density.double().cpu().numpy()  # (2, P, G)
    scales = zip(statistics.centre.tolist(), statistics.unit.tolist(), strict=True)
    for index, (name, (centre, unit), chosen) in enumerate(
        zip(statistics.names, scales, choices, strict=True)
    ):
        normal, anomalous = densities[:, index]
        apart = float(np.trapezoid(np.abs(normal - anomalous), GRID) / 2) if chosen else 0.0
        entries.append({"name": name, "centre": centre, "unit": unit, "total_variation": apart})
        for kind, choice in chosen.items():
            entries[-1][kind] = {
                "chosen": describe(choice.kept),
                "candidates": [describe(candidate) for candidate in choice.compared],
            }
        if chosen:
            families = ", ".join(choice.kept.family for choice in chosen.values())
            title = f"{name}: {families}"
            pairs.append(DensityPair(title, centre + unit * GRID, normal / unit, anomalous / unit))
    return FitReport({"statistics": entries}, pairs)


def _split(bags: Tensor) -> tuple[Values, Values]:
    """Split bags (N, S, P), slightly blurred, into values (P, M) to fit and (P, M) held out.

    Whole bags are held out, because segments of one bag are similar; of a single bag, segments are.
    """
    if len(bags) == 1:
        bags = bags.transpose(0, 1)
    blurred = bags + BLUR * torch.randn(bags.shape).to(bags.device)
    blurred = blurred[torch.randperm(len(bags)).to(bags.device)]
    num_held_out = max(1, len(bags) // HOLD_OUT_EVERY)
    fitting = blurred[num_held_out:] if len(bags) > 1 else blurred
    return _as_columns(fitting), _as_columns(blurred[:num_held_out])


def _as_columns(values: Tensor) -> Values:
    """(N, S, P) -> (P, N * S) float64."""
    columns: Values = values.flatten(0, 1).T.double().cpu().numpy()
    return columns

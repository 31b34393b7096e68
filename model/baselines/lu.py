"""Combinations of a few atoms: what none of them can represent is anomalous.

Source: Lu, Shi and Jia, "Abnormal Event Detection at 150 FPS in MATLAB", ICCV 2013. Each training
feature should be close to the span of one of several small sets of atoms, the combinations. They
are found one after another, each for all remaining features that it can represent with an error
below a bound. The error of a feature is the least over all combinations. The authors published only
their test program; it and the training of github.com/gongruya/abnormality-detection are the source
of the settings: features of length 1, reduced to 100 axes, combinations of 20 atoms. Their bound,
0.24, is for gradients and too high for features of a network, which all point in similar
directions, so that a single combination would represent them.
Departures: a combination is fitted by eigenvectors, the exact minimum, instead of gradient descent,
and starts from all remaining features instead of from clusters. There are at most
`num_combinations`, and each represents at least as many features as it has atoms, so that training
ends. Gradients of pixels are replaced by whatever the feature files hold. Labels are only used to
select normal videos.

Legend: N training bags, B bags, S segments, D stored features of a segment, F features of a segment
that enter, P axes that they are reduced to, M combinations, A atoms of one, X points to represent.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vigil.model.detector import Detector, Output
from vigil.model.front import StoredBags, chosen_bags
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, NoLoss, require

# A combination and the points it represents are updated in turn until neither changes. Each turn
# lowers the common objective, and more turns than this gain almost nothing.
MAX_TURNS = 50


@dataclass(frozen=True)
class LuConfig(FrontConfig):
    """The combinations."""

    num_axes: int = 100
    """Principal axes that features are reduced to; at most the number of features."""
    num_atoms: int = 20
    """Atoms of a combination, fewer than the axes."""
    num_combinations: int = 64
    """Maximum number of combinations."""
    error_bound: float = 0.01
    """Squared error, 0..1, up to which a combination represents a feature."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        limit = f"below num_axes = {self.num_axes}"
        require(self.num_atoms < self.num_axes, "num_atoms", self.num_atoms, limit)
        require(self.error_bound < 1, "error_bound", self.error_bound, "at least 0 and below 1")


class Lu(Detector):
    """The axes, and for each combination the projection onto what it cannot represent."""

    has_epochs = False
    axes: Tensor
    residuals: Tensor
    filled: Tensor

    def __init__(self, config: LuConfig, loss: NoLoss, shape: InputShape) -> None:
        """Hold no combinations until `fit` is called or a checkpoint is loaded."""
        super().__init__(config, loss, shape)
        num_axes = min(config.num_axes, self.front.size)
        self.register_buffer("axes", torch.zeros(num_axes, self.front.size))
        self.register_buffer("residuals", torch.zeros(config.num_combinations, num_axes, num_axes))
        self.register_buffer("filled", torch.zeros(config.num_combinations, dtype=torch.bool))

    @torch.no_grad()
    def fit(self, stored: StoredBags, class_indices: Tensor) -> None:
        """Find the axes and combinations of normal bags."""
        from sklearn.decomposition import PCA

        normal = class_indices == 0
        self.front.fit(stored, normal)
        batches = [self._directions(bags.to(self.device)) for bags in chosen_bags(stored, normal)]
        segments = torch.cat(batches).flatten(0, 1)  # (X, F)
        rank = min(len(self.axes), len(segments))
        seed = int(torch.randint(2**31, ()))
        found = PCA(rank, random_state=seed).fit(segments.cpu().numpy()).components_
        self.axes[:rank] = torch.from_numpy(found)
        points = (segments @ self.axes.T).double()
        combinations = find_combinations(points, self.config.num_atoms, self.config.error_bound)
        for place, residual in zip(range(len(self.filled)), combinations, strict=False):
            self.residuals[place] = residual
            self.filled[place] = True

    def forward(self, stored: Tensor) -> Output:
        """Scores of (B, S, D): the least share of a segment left over by any combination."""
        with torch.autocast(stored.device.type, enabled=False):
            points = self._directions(stored) @ self.axes.T  # (B, S, P)
            left = torch.einsum("mij,bsj->bsmi", self.residuals, points)
            errors = left.square().sum(dim=-1).masked_fill(~self.filled, 1)  # (B, S, M)
        return Output(scores=errors.amin(dim=-1).clamp(max=1))

    def _directions(self, stored: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, F) of length 1."""
        return functional.normalize(self.front(stored), dim=-1)


def find_combinations(points: Tensor, num_atoms: int, error_bound: float) -> Iterator[Tensor]:
    """Yield I - U U' (P, P) per combination, until all points (X, P) are represented.

    The columns of U are an orthonormal basis of the span of the A atoms.
    """
    identity = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
    while len(points):
        chosen = torch.ones(len(points), dtype=torch.bool, device=points.device)
        for _ in range(MAX_TURNS):
            selected = points[chosen]
            basis = torch.linalg.eigh(selected.T @ selected).eigenvectors[:, -num_atoms:]  # (P, A)
            residual = identity - basis @ basis.T
            errors = (points @ residual).square().sum(dim=1)
            least = errors.kthvalue(min(num_atoms, len(points))).values
            before, chosen = chosen, errors <= least.clamp(min=error_bound)
            if torch.equal(before, chosen):
                break
        yield residual
        points = points[~chosen]


METHOD = Method(LuConfig, NoLoss, Lu)

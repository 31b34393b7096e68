"""A batch whose bags lie in several processes, trained on as if one process had all of them.

Each rank computes the outputs of its own bags and then gets those of all, because losses pair,
rank and average over all bags of a batch. So the total loss L is the same number in all W ranks.
Whatever a rank tells the others, it tells by a sum over ranks, through which the gradients of all W
equal totals come back: a bag's is W times that of L. The gradient of a rank's weights is then W
times what its own bags contribute, and DistributedDataParallel takes the mean over ranks, which is
that of a single process. A penalty on the weights themselves passes no sum; it is the same in all
ranks, and so is its mean.

Legend: N training bags, B bags of a batch, O those of this rank, S segments, D features.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vigil.model.detector import Output
from vigil.pipeline.training.ranks import Ranks


class GlobalBatch(TorchFunctionMode):
    """Computes this rank's bags within the block as a single process would, among all of a batch.

    Dropout and noise are drawn for the whole batch, by generators that are equal in all ranks, and
    each rank uses the rows of its own bags. Batch normalization measures the whole batch.
    """

    def __init__(self, ranks: Ranks, places: Tensor, num_bags: int) -> None:
        """Describe the batch.

        Args:
            ranks: those that share it.
            places: (O,) int64 places of this rank's bags in it, on the device.
            num_bags: of all ranks, B.
        """
        super().__init__()
        self.ranks = ranks
        self.places = places
        self.num_bags = num_bags
        self._replaced: dict[Callable[..., Any], Callable[..., Any]] = {
            functional.dropout: self._dropout,
            functional.batch_norm: self._batch_norm,
            torch.rand_like: lambda like: self._drawn(torch.rand, like),
            torch.randn_like: lambda like: self._drawn(torch.randn, like),
        }

    def output(self, forward: Callable[[Tensor], Output], features: Tensor) -> Output:
        """The output for all bags of the batch; gradients flow to this rank's alone.

        Args:
            forward: of the model.
            features: (O, S, D) of this rank's bags.
        """
        with self:
            own = forward(features)
        tensors = {field.name: getattr(own, field.name) for field in fields(own)}
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        columns = [tensor.unsqueeze(1).flatten(1) for tensor in tensors.values()]
        rows = torch.cat(columns, dim=1)  # (O, X)
        among_zeros = rows.new_zeros(self.num_bags, rows.shape[1]).index_copy(0, self.places, rows)
        whole = self._sum(among_zeros)  # (B, X)
        parts = torch.split(whole, [column.shape[1] for column in columns], dim=1)
        return replace(
            own,
            **{
                name: part.reshape(self.num_bags, *tensor.shape[1:])
                for part, (name, tensor) in zip(parts, tensors.items(), strict=True)
            },
        )

    def __torch_function__(
        self, function: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace what depends on the whole batch."""
        return self._replaced.get(function, function)(*args, **(kwargs or {}))

    def _drawn(self, draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        """Random values for this rank's bags, of those that are drawn for all."""
        shape = self.num_bags, *like.shape[1:]
        return draw(shape, dtype=like.dtype, device=like.device)[self.places]

    def _dropout(self, features: Tensor, p: float, training: bool, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return features
        kept = features.new_ones(self.num_bags, *features.shape[1:])
        return features * functional.dropout(kept, p)[self.places]

    def _batch_norm(
        self,
        features: Tensor,
        running_mean: Tensor,
        running_variance: Tensor,
        weight: Tensor,
        bias: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Like PyTorch's function for features (O, C, ...) or (O * S, C)."""
        if not training:
            return functional.batch_norm(
                features, running_mean, running_variance, weight, bias, eps=eps
            )
        others = [dimension for dimension in range(features.dim()) if dimension != 1]
        shape = [1, -1] + [1] * (features.dim() - 2)
        count = torch.tensor(features.numel() // features.shape[1], device=features.device)
        count = self.ranks.add(count)
        values = features.float()
        mean = self._sum(values.sum(others)) / count  # (C,)
        centred = values - mean.view(shape)
        variance = self._sum(centred.square().sum(others)) / count
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_variance.lerp_(variance * count / (count - 1), momentum)
        scale = weight * (variance + eps).rsqrt()
        normalized: Tensor = centred * scale.view(shape) + bias.view(shape)
        return normalized.to(features.dtype)

    def _sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, with gradients."""
        total: Tensor = _Sum.apply(values, self.ranks)
        return total


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is that of all ranks' totals together."""

    @staticmethod
    def forward(context: Any, values: Tensor, ranks: Ranks) -> Tensor:
        context.ranks = ranks
        return ranks.add(values.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ranks: Ranks = context.ranks
        return ranks.add(gradient.clone(memory_format=torch.contiguous_format)), None


class BagsOfAllRanks:
    """Training bags (N, S, D) that lie in several processes; implements `StoredBags`.

    Reading some is a joint step: all ranks read the same ones at the same time, and get them all.
    """

    def __init__(self, features: Tensor, held: Tensor, ranks: Ranks) -> None:
        """Describe the bags.

        Args:
            features: this rank's.
            held: (N,) int64 row of ``features`` of each bag, -1 if another rank has it.
            ranks: those that share them.
        """
        self._features = features
        self._held = held.to(features.device)
        self._ranks = ranks

    @property
    def device(self) -> torch.device:
        """Where the features of this rank are."""
        return self._features.device

    def __len__(self) -> int:
        """The number of bags of all ranks."""
        return len(self._held)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read bags; each is the sum of its features in one rank and zeros in the others."""
        places = self._held[rows]
        is_own = places >= 0
        bags = self._features.new_zeros(len(rows), *self._features.shape[1:])
        bags[is_own] = self._features[places[is_own]]
        return self._ranks.add(bags)

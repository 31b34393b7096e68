"""The state that training changes: the model, its optimizer and the gradient scaler.

Legend: N bags, J batches, B bags of a batch, S segments, D features of a segment.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vigil.data.bags import BagSet
from vigil.data.batches import balanced_batches
from vigil.extract.errors import UserError
from vigil.model.detector import Detector, Output
from vigil.model.front import StoredBags
from vigil.model.losses import class_weights_of
from vigil.model.settings import InputShape
from vigil.pipeline.checkpoint import CheckpointError, ResumeState
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.training.feeding import fetch, gather
from vigil.pipeline.training.global_batch import BagsOfAllRanks, GlobalBatch
from vigil.pipeline.training.ranks import ALONE, Ranks
from vigil.pipeline.training.refusals import require_compiler, require_ranks, require_span_choice
from vigil.pipeline.training.span_choice import choose_spans

log = logging.getLogger(__name__)


class Bags(NamedTuple):
    """The training split as tensors: one bag for each view of each video, or of each span."""

    features: Tensor
    """(N, S, D), on the model's device if they fit there, else in memory or in a file. Only the
    rows in ``held``, if that is not None."""
    class_indices: Tensor
    """(N,) int64, on the model's device."""
    is_resident: bool = True
    """Whether the features are in the device's own memory, not backed by a file. Otherwise
    batches are fetched ahead of time."""
    bounds: npt.NDArray[np.int64] | None = None
    """(M + 1,); the spans of video m are those from bounds[m] up to bounds[m + 1]; None: no video
    is cut."""
    num_views: int = 1
    """Bags of each span."""
    held: Tensor | None = None
    """(N,) int64 row of ``features`` of each bag, -1 if another rank has it; None: all are here."""

    def stored(self, ranks: Ranks) -> StoredBags:
        """The features of all bags."""
        if self.held is None:
            return self.features
        return BagsOfAllRanks(self.features, self.held, ranks)

    def own(self, rows: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Of batches (J, B) of bags: the rows of ``features`` here, and their places in the batch.

        Returns:
            Two sequences of J tensors, each as long as the batch has bags here.
        """
        places = rows if self.held is None else self.held[rows]
        is_here = places >= 0
        return (
            [batch[here] for batch, here in zip(places, is_here, strict=True)],
            [here.nonzero().squeeze(1) for here in is_here],
        )


class DivergedError(UserError):
    """Training produced numbers that are not finite."""

    def __init__(self, what: str) -> None:
        """Report what is not finite, and the remedy."""
        super().__init__(
            f"training diverged: {what}; "
            "set a lower learning_rate, a gradient_clip, or standardize = true"
        )


class Learner(NamedTuple):
    """A model in training."""

    model: Detector
    optimizer: torch.optim.Adam | None
    """None for a method without parameters, which is not trained by epochs."""
    scaler: torch.amp.GradScaler
    """Keeps small half-precision gradients from vanishing; disabled without half precision."""
    forward: Callable[[Tensor], Output]
    """The model as trained: compiled if the settings request it; with several ranks, one that
    averages gradients over them."""
    ranks: Ranks = ALONE

    def num_epochs(self, training: TrainingConfig) -> int:
        """The number of epochs to train; a method without parameters needs only one."""
        return training.epochs if self.optimizer else 1


def bags_on_device(bags: BagSet, device: torch.device) -> Bags:
    """The bags of all views, on the device if they fit there."""
    features = where_it_fits(bags.features, device)
    num_views = features.shape[1]
    of_spans = bags.class_indices.repeat(bags.num_spans)
    classes = torch.from_numpy(of_spans.repeat(num_views)).to(device)
    in_file = isinstance(bags.features, np.memmap)
    is_resident = features.device == classes.device and (features.is_cuda or not in_file)
    bounds = bags.bounds if (bags.num_spans > 1).any() else None
    held = None
    if bags.held is not None:
        spans = torch.from_numpy(bags.held).unsqueeze(1)
        of_views = spans * num_views + torch.arange(num_views)
        held = torch.where(spans < 0, -1, of_views).flatten()
    return Bags(features.flatten(0, 1), classes, is_resident, bounds, num_views, held)


def where_it_fits(features: npt.NDArray[np.floating], device: torch.device) -> Tensor:
    """The features, on the GPU if they use at most half of its free memory."""
    tensor = torch.from_numpy(features)
    if device.type == "cpu" or tensor.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return tensor
    return tensor.to(device)


def new_learner(
    recipe: Recipe, shape: InputShape, seed: int, device: torch.device, ranks: Ranks = ALONE
) -> Learner:
    """A learner with fresh weights, which depend only on the seed.

    Raises:
        UserError: compilation is requested but does not work on this machine, the recipe cuts
            videos into spans but the method cannot choose among them, or several ranks cannot
            train it.
    """
    require_span_choice(recipe)
    require_ranks(recipe, ranks)
    _seed_torch(np.random.default_rng([seed, 0]))
    model = recipe.build(shape).to(device)
    parameters = list(model.parameters())
    training = recipe.training
    optimizer = (
        torch.optim.Adam(
            parameters, training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        if parameters
        else None
    )
    half_precision = training.amp and device.type == "cuda"
    if training.amp and not half_precision:
        log.warning("amp needs CUDA: training in float32 on %s", device)
    scaler = torch.amp.GradScaler(device.type, enabled=half_precision)
    if not ranks.is_alone:
        return Learner(model, optimizer, scaler, DistributedDataParallel(model), ranks)
    if optimizer is None or not training.compile:
        return Learner(model, optimizer, scaler, model)
    require_compiler(device)
    return Learner(model, optimizer, scaler, torch.compile(model, dynamic=False))


def train_epoch(
    learner: Learner, bags: Bags, recipe: Recipe, seed: int, epoch: int
) -> dict[str, float]:
    """Train on every video at least once, and return the mean of each loss over its batches.

    A video that is cut takes part with one span, chosen anew by `choose_spans` in every epoch.
    All random numbers derive from the seed and the epoch number, so training can resume after any
    epoch without stored generator states. The device is synchronised only once, at the end. A
    method without parameters has no losses.

    Raises:
        DivergedError: a loss is not finite, or a weight is not finite at the end.
    """
    model, optimizer, scaler, forward, ranks = learner
    if optimizer is None:
        return {}
    device, training = model.device, recipe.training
    generator = np.random.default_rng([seed, epoch])
    _seed_torch(generator)
    used = _used_bags(model, bags, np.random.default_rng([seed, epoch, 1]), ranks)  # (U,)
    known = bags.class_indices[used.to(device)]  # (U,)
    sampled = balanced_batches(
        known.cpu().numpy(), training.num_anomalous, training.num_normal, generator
    )
    class_weights = class_weights_of(known, model.shape.num_classes)
    rows = used[torch.from_numpy(sampled)]  # (J, B)
    classes = bags.class_indices[rows.to(device)]  # (J, B)
    model.begin_epoch(epoch, bags.stored(ranks), bags.class_indices)
    ranks.align(model)
    model.train()
    losses: list[Tensor] = []
    names: tuple[str, ...] = ()
    own_rows, places = bags.own(rows)
    resident = bags.is_resident
    batches = (
        gather(bags.features, own_rows) if resident else fetch(bags.features, own_rows, device)
    )
    with closing(batches):
        for features, own, class_indices in zip(batches, places, classes, strict=True):
            with torch.autocast(device.type, torch.float16, enabled=scaler.is_enabled()):
                if ranks.is_alone:
                    output = forward(features)
                else:
                    batch = GlobalBatch(ranks, own.to(device), len(class_indices))
                    output = batch.output(forward, features)
            parts = model.losses(output, class_indices, class_weights)
            optimizer.zero_grad()
            scaler.scale(parts["total"]).backward()  # type: ignore[no-untyped-call]
            if training.gradient_clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            losses.append(torch.stack([part.detach() for part in parts.values()]))
            names = tuple(parts)
    is_finite = torch.stack([weights.isfinite().all() for weights in model.parameters()]).all()
    means = torch.stack(losses).double().mean(dim=0)
    *of_names, finite = torch.cat([means, is_finite.double().reshape(1)]).tolist()
    ranks.of_all(lambda: _require_finite(of_names, finite, epoch))
    return dict(zip(names, of_names, strict=True))


def _require_finite(losses: Sequence[float], weights_are_finite: float, epoch: int) -> None:
    if not np.isfinite(losses).all():
        raise DivergedError(f"the loss of epoch {epoch} is {losses[0]}")
    if not weights_are_finite:
        raise DivergedError(f"the weights after epoch {epoch} are not finite")


def _used_bags(model: Detector, bags: Bags, generator: np.random.Generator, ranks: Ranks) -> Tensor:
    """(U,) int64 bags that an epoch uses: all, or all views of one span of each video."""
    if bags.bounds is None:
        return torch.arange(len(bags.class_indices))
    views = torch.arange(bags.num_views)
    num_spans = len(bags.features) // bags.num_views
    spans = bags.features.reshape(num_spans, bags.num_views, *bags.features.shape[1:])
    held = None if bags.held is None else bags.held[:: bags.num_views].numpy() // bags.num_views
    chosen = choose_spans(model, spans, bags.bounds, generator, held)
    of_all = np.max(ranks.of_all(lambda: chosen), axis=0)
    return (torch.from_numpy(of_all).unsqueeze(1) * bags.num_views + views).flatten()


def resume_state(learner: Learner) -> ResumeState:
    """The state that must be saved with the weights to resume training later."""
    names = [name for name, _ in learner.model.named_parameters()]
    by_index = learner.optimizer.state_dict()["state"] if learner.optimizer else {}
    tensors = {
        f"{names[index]}.{key}": value
        for index, state in by_index.items()
        for key, value in state.items()
    }
    return ResumeState(tensors, learner.scaler.state_dict())


def restore(learner: Learner, model: Detector, state: ResumeState) -> None:
    """Restore a fresh learner from a saved model and state.

    Values are copied into memory that PyTorch allocates, because sums can depend on its alignment.
    The optimizer's state is empty if the scaler skipped every step, the scaler's if it was
    disabled.

    Raises:
        CheckpointError: the state lacks a part, or a part has the wrong shape.
    """
    learner.model.load_state_dict(model.state_dict())
    if learner.optimizer is None:
        return
    parameters = learner.model.named_parameters() if state.optimizer else ()
    states: dict[int, dict[str, torch.Tensor]] = {}
    try:
        for index, (name, parameter) in enumerate(parameters):
            shapes = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            parts = {key: state.optimizer[f"{name}.{key}"].clone() for key in shapes}
            if any(part.shape != shapes[key] for key, part in parts.items()):
                raise ValueError(f"the optimizer's state of {name} has the wrong shape")
            states[index] = parts
        groups = learner.optimizer.state_dict()["param_groups"]
        learner.optimizer.load_state_dict({"state": states, "param_groups": groups})
        if state.scaler:
            learner.scaler.load_state_dict(state.scaler)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"the optimizer lacks {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"the last checkpoint is damaged ({reason}): train with --overwrite"
        ) from error


def _seed_torch(generator: np.random.Generator) -> None:
    torch.manual_seed(int(generator.integers(2**63)))

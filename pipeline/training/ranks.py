"""The processes of one training, which torchrun starts, and what they tell each other.

All of them run the same program on the same settings, each with a share of the features. Whatever
decides how training goes on is computed from what all of them know, so that they stay in step; a
step that one takes and another does not would block both.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from vigil.extract.errors import UserError, counted
from vigil.extract.networks.hardware import select_device
from vigil.pipeline.logs import show_errors_only

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process in its environment."""
PATIENCE = timedelta(hours=1)
"""How long one rank waits for another, which may still be loading its features. One that ends is
noticed at once."""
SECONDS_TO_SPEAK = 1.0
"""How long the other ranks wait after an error of all. torchrun ends all once the first has ended,
and the first rank is the one that reports the error."""

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class SharedError(UserError):
    """What went wrong in one rank, raised in all."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training."""

    index: int = 0
    """Its rank, from 0; the first one writes the run and reports."""
    number: int = 1
    local_index: int = 0
    """Its number on its machine."""
    local_number: int = 1
    """Processes on its machine."""

    @property
    def is_alone(self) -> bool:
        """Whether the training has one process."""
        return self.number == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes the run and reports."""
        return self.index == 0

    def device(self, name: str) -> torch.device:
        """The device of this process: with GPUs, the one with its number on the machine.

        Raises:
            UserError: there are fewer GPUs than processes, or one of them was named.
        """
        if self.is_alone or name == "cpu":
            return select_device(name)
        if name not in ("auto", "cuda"):
            raise UserError(
                f"--device {name} is one GPU, but {self.number} processes train: leave it out, "
                "and each takes a GPU of its own, or use --device cpu"
            )
        device = select_device(name)
        if device.type == "cpu":
            return device
        if self.local_number > (num_gpus := torch.cuda.device_count()):
            raise UserError(
                f"torchrun started {self.local_number} processes on a machine with "
                f"{counted(num_gpus, 'GPU')}: start one for each GPU, or use --device cpu"
            )
        return torch.device("cuda", self.local_index)

    def of_all(self, compute: Callable[[], Result]) -> list[Result]:
        """The results of a function in every rank, in their order.

        Raises:
            SharedError: the function raised a UserError in at least one rank.
        """
        if self.is_alone:
            return [compute()]
        outcomes: list[Any] = [None] * self.number
        distributed.all_gather_object(outcomes, _outcome(compute))
        return [_unpack(outcome) for outcome in outcomes]

    def of_first(self, compute: Callable[[], Result]) -> Result:
        """The result of a function in the first rank; the others do not call it.

        Raises:
            SharedError: the function raised a UserError.
        """
        if self.is_alone:
            return compute()
        outcome = [_outcome(compute) if self.is_first else None]
        distributed.broadcast_object_list(outcome, src=0)
        result: Result = _unpack(outcome[0])
        return result

    def add(self, tensor: Tensor) -> Tensor:
        """Replace the values of a tensor by their sums over all ranks, and return it."""
        distributed.all_reduce(tensor)
        return tensor

    def align(self, model: nn.Module) -> None:
        """Copy the first rank's weights and buffers to all, since unlike machines round unlike."""
        if not self.is_alone:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, src=0)


ALONE = Ranks()


def _outcome(compute: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """A function's result, and the message if it raised a UserError."""
    try:
        return compute(), None
    except UserError as error:
        return None, str(error)


def _unpack(outcome: Any) -> Any:
    result, message = outcome
    if message is not None:
        raise SharedError(message)
    return result


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """This process among those that torchrun started; alone without torchrun.

    Raises:
        UserError: the environment names several processes, but lacks a part of what torchrun sets.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return ALONE
    try:
        rank, number, local_rank, local_number = (int(environment[name]) for name in VARIABLES[:4])
        _ = [environment[name] for name in VARIABLES[4:]]
    except (KeyError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE={environment['WORLD_SIZE']} asks for a training in several processes, but "
            f"{' '.join(VARIABLES)} are not all set ({error}): start it with torchrun, or unset "
            "WORLD_SIZE to train in one process"
        ) from error
    return Ranks(rank, number, local_rank, local_number)


@contextmanager
def connected(ranks: Ranks, device: torch.device, out: Path) -> Iterator[None]:
    """Connect the processes of a training while the block runs.

    Args:
        ranks: of `find_ranks`.
        device: of this process; gloo connects CPUs, NCCL connects GPUs.
        out: the run folder, for messages.

    Raises:
        UserError: another process ended or cannot be reached.
        SystemExit: something went wrong that the first rank reports, and this is another one.
    """
    if ranks.is_alone:
        yield
        return
    if not ranks.is_first:
        show_errors_only()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
        yield
        ranks.of_all(lambda: None)  # the run is written when any of the processes goes on
        distributed.destroy_process_group()
    except RuntimeError as error:
        if not _is_of_connection(error):
            raise
        log.debug("%s", error)
        raise UserError(
            f"rank {ranks.index} lost its connection to another one of the {ranks.number} "
            "processes, which ended or is cut off: see the messages of that one, then start the "
            f"same command with --resume to continue from the last checkpoint in {out}"
        ) from error
    except SharedError:
        if ranks.is_first:
            raise
        time.sleep(SECONDS_TO_SPEAK)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if ranks.is_first:
            raise
        raise SystemExit(130) from None


def _is_of_connection(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error)

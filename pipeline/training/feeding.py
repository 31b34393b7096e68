"""Bring batches of features to the device.

Legend: N bags, J batches, B bags of a batch (in a training of several processes, those that this
one has, so their number varies), S segments, D features of a segment.
"""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def gather(features: Tensor, rows: Tensor | Sequence[Tensor]) -> Generator[Tensor, None, None]:
    """Yield batches (B, S, D) of features on the device; each is valid until the next is requested.

    Args:
        features: (N, S, D).
        rows: (J, B), or J times (B,), int64 bags of the batches, on any device.
    """
    shape = (max(map(len, rows)), *features.shape[1:])
    # Reused: mapping a new one into memory page by page would take longer than the copy.
    batch = torch.empty(shape, dtype=features.dtype, device=features.device)
    for rows_of_batch in [rows_of_batch.to(features.device) for rows_of_batch in rows]:
        out = batch[: len(rows_of_batch)]
        yield torch.index_select(features, 0, rows_of_batch, out=out)


def fetch(
    features: Tensor, rows: Tensor | Sequence[Tensor], device: torch.device
) -> Generator[Tensor, None, None]:
    """Like `gather`, but copy each batch to the device while the previous one is processed.

    A thread does the copying. It ends with the generator, so close the generator if it is not
    exhausted.

    Args:
        features: (N, S, D) in memory, possibly mapped from a file.
        rows: (J, B), or J times (B,), int64 bags of the batches, in memory.
        device: the device to copy batches to.
    """
    shape = (max(map(len, rows)), *features.shape[1:])
    on_gpu = device.type == "cuda"
    buffers = [] if on_gpu else [torch.empty(shape, dtype=features.dtype) for _ in range(2)]
    source = features.numpy()

    def copy_batch(batch: int) -> Tensor:
        if on_gpu:  # pinned memory, which PyTorch reuses after the copy
            buffer = torch.empty(shape, dtype=features.dtype, pin_memory=True)
        else:
            buffer = buffers[batch % 2]
        buffer = buffer[: len(rows[batch])]
        target = buffer.numpy()
        # With NumPy: a second thread in PyTorch's own loops would take cores from the model.
        for place, row in enumerate(rows[batch].tolist()):
            target[place] = source[row]
        return buffer.to(device, non_blocking=True)

    with ThreadPoolExecutor(1, "fetch") as thread:
        pending = thread.submit(copy_batch, 0)
        for batch in range(len(rows)):
            ready = pending.result()
            if batch + 1 < len(rows):
                pending = thread.submit(copy_batch, batch + 1)
            yield ready

"""Batches of features on their way to the device.

Legend: N bags, J batches, B bags of a batch, S segments, D features of a segment.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def gather(features: Tensor, rows: Tensor) -> Generator[Tensor, None, None]:
    """The batches (B, S, D) of features on the device; each is valid until the next is asked for.

    Args:
        features: (N, S, D).
        rows: (J, B) int64 bags of the batches, on any device.
    """
    shape = (rows.shape[1], *features.shape[1:])
    # Reused: a new one would be mapped into memory page by page, which takes longer than the copy.
    batch = torch.empty(shape, dtype=features.dtype, device=features.device)
    for rows_of_batch in rows.to(features.device):
        yield torch.index_select(features, 0, rows_of_batch, out=batch)


def fetch(features: Tensor, rows: Tensor, device: torch.device) -> Generator[Tensor, None, None]:
    """As `gather`, each batch brought to the device while the one before it is worked on.

    A thread does it, and ends with the generator: close that where it is not used up.

    Args:
        features: (N, S, D) in memory, where a file may be behind them.
        rows: (J, B) int64 bags of the batches, in memory.
        device: where batches are wanted.
    """
    shape = (rows.shape[1], *features.shape[1:])
    on_gpu = device.type == "cuda"
    buffers = [] if on_gpu else [torch.empty(shape, dtype=features.dtype) for _ in range(2)]
    source = features.numpy()

    def bring(batch: int) -> Tensor:
        if on_gpu:  # locked memory, which PyTorch reuses when it has been copied
            buffer = torch.empty(shape, dtype=features.dtype, pin_memory=True)
        else:
            buffer = buffers[batch % 2]
        target = buffer.numpy()
        # By NumPy: a second thread in PyTorch's own loops takes cores from the model's.
        for place, row in enumerate(rows[batch].tolist()):
            target[place] = source[row]
        return buffer.to(device, non_blocking=True)

    with ThreadPoolExecutor(1, "fetch") as thread:
        coming = thread.submit(bring, 0)
        for batch in range(len(rows)):
            brought = coming.result()
            if batch + 1 < len(rows):
                coming = thread.submit(bring, batch + 1)
            yield brought

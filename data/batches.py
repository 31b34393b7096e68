"""Balanced batches: fixed numbers of anomalous and normal bags, every bag at least once an epoch.

Legend: N bags, J batches of an epoch, M bags of a batch.
"""

from math import ceil

import numpy as np
import numpy.typing as npt

from vigil.extract.errors import UserError

IntArray = npt.NDArray[np.int64]


def balanced_batches(
    class_indices: IntArray, num_anomalous: int, num_normal: int, generator: np.random.Generator
) -> IntArray:
    """Bag indices (J, M) int64 of an epoch: in each batch the anomalous bags, then the normal ones.

    There are as many batches as the larger side needs; the other side, and the end of the last
    batch, are filled from new shuffles. Every bag is therefore used at least once, and never twice
    in one batch. A side with fewer bags than a batch requests is in every batch completely.

    Args:
        class_indices: (N,) class of each bag, 0 = normal.
        num_anomalous: anomalous bags per batch.
        num_normal: normal bags per batch.
        generator: source of the shuffles; equal generators give equal epochs.

    Raises:
        UserError: there is no anomalous or no normal bag.
    """
    anomalous = np.flatnonzero(class_indices > 0)
    normal = np.flatnonzero(class_indices == 0)
    for side, name in ((anomalous, "anomalous"), (normal, "normal")):
        if len(side) == 0:
            raise UserError(
                f"there is no {name} video to train on: training needs videos of both kinds; "
                "check the annotations and the names of the feature files"
            )
    num_anomalous = min(num_anomalous, len(anomalous))
    num_normal = min(num_normal, len(normal))
    num_batches = max(ceil(len(anomalous) / num_anomalous), ceil(len(normal) / num_normal))
    sides = (
        _draw(anomalous, num_batches, num_anomalous, generator),
        _draw(normal, num_batches, num_normal, generator),
    )
    return np.concatenate(sides, axis=1)


def _draw(
    bags: IntArray, num_batches: int, batch_size: int, generator: np.random.Generator
) -> IntArray:
    """(num_batches, batch_size) of the bags from successive shuffles, no bag twice in a batch."""
    batches = np.empty((num_batches, batch_size), dtype=np.int64)
    queue = bags[:0]
    for batch in batches:
        if len(queue) < batch_size:
            shuffled = generator.permutation(bags)
            queued = np.isin(shuffled, queue)
            queue = np.concatenate([queue, shuffled[~queued], shuffled[queued]])
        batch[:] = queue[:batch_size]
        queue = queue[batch_size:]
    return batches

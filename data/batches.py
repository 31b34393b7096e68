"""Balanced batches: so many anomalous and so many normal bags, and every bag once an epoch.

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
    """(J, M) int64 bag indices of an epoch: in each batch the anomalous bags, then the normal ones.

    There are as many batches as the longer side needs; the other side, and the end of the last
    batch, are filled from fresh shuffles. So every bag is drawn at least once, and none twice in
    one batch. A side that has fewer bags than a batch asks for gives all it has to every batch.

    Args:
        class_indices: (N,) class of each bag, 0 = normal.
        num_anomalous: anomalous bags a batch.
        num_normal: normal bags a batch.
        generator: decides the draw; equal generators give equal epochs.

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
    """(num_batches, batch_size) of the bags, shuffle after shuffle, no bag twice in a row."""
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

"""Independent jobs as tasks of a Ray cluster.

Ray gives the jobs of a lost node to others, and ends all of them when the command ends, even if it
is killed. What they compute they write to files; only a few words come back.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from vigil.extract.errors import UserError

MAX_RETRIES = 3
"""So often a job is given to another node when its own is lost."""

Key = TypeVar("Key")
Result = TypeVar("Result")


class LostJobError(Exception):
    """A job has no result, because every process or node that had it was lost."""


def has_gpus(ray: Any) -> bool:
    """Whether any node of the cluster has one."""
    return bool(ray.cluster_resources().get("GPU"))


def num_cores_of_nodes(ray: Any) -> int:
    """The cores of the node that has most of them."""
    return max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])


def require_cores(ray: Any, num_cores: int) -> None:
    """Refuse jobs that no node has room for, which would wait forever.

    Raises:
        UserError: names the cores needed and those there are.
    """
    if num_cores > (most := num_cores_of_nodes(ray)):
        raise UserError(
            f"each job computes with {num_cores} threads, as torch does here, but no node of the "
            f"cluster has more than {most} cores: set OMP_NUM_THREADS={most}"
        )


def finished_jobs(
    ray: Any, jobs: Mapping[Key, Callable[[], Result]], num_cores: int, on_gpu: bool
) -> Iterator[tuple[Key, Result | LostJobError]]:
    """Yield the key and the result of each job, in the order in which they finish.

    Args:
        ray: of `joined`.
        jobs: key -> a function that can be pickled.
        num_cores: that a job needs.
        on_gpu: whether it needs a GPU, too.
    """
    task = ray.remote(num_cpus=num_cores, num_gpus=int(on_gpu), max_retries=MAX_RETRIES)(_call)
    waiting = {task.remote(job): key for key, job in jobs.items()}
    try:
        while waiting:
            (done, *_), _ = ray.wait(list(waiting))
            key = waiting.pop(done)
            try:
                yield key, ray.get(done)
            except ray.exceptions.RayTaskError:
                raise  # the job's own error
            except ray.exceptions.RayError as error:
                yield key, LostJobError(" ".join(str(error).split()))
    finally:
        for one in waiting:
            with suppress(ray.exceptions.RayError):
                ray.cancel(one, force=True)


def _call(job: Callable[[], Result]) -> Result:
    return job()
